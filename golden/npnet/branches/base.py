"""What every branch is given: shapes, inputs, and the checks of its config."""

from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InvalidInput

Noise = Float[Tensor, "batch channels height width"]


class Shapes(Protocol):
    """What every branch is built for, see NPNetConfig."""

    @property
    def channels(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def embedding_dim(self) -> int: ...


class BranchInput(NamedTuple):
    """What every branch sees, in fp32.

    noise (B, C, H, W); prompt_embeds (B, T, D); text (B, C, H, W): what the text branch made of both, zeros without it.
    """

    noise: Tensor
    prompt_embeds: Tensor
    text: Tensor


def check_integers(config: Any, limits: dict[str, int]) -> None:
    """Raises: InvalidInput unless each named field is a whole number from 1 to its limit.

    The limits only keep a hostile file from asking for all the memory there is.
    """
    for name, high in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= high:
            raise InvalidInput(
                f"{type(config).__name__}.{name} must be a whole number from 1 to {high}, got {value!r}."
            )


def check_bools(config: Any) -> None:
    """Raises: InvalidInput unless each field whose default is a bool is one."""
    for entry in fields(config):
        if isinstance(entry.default, bool) and not isinstance(getattr(config, entry.name), bool):
            value = getattr(config, entry.name)
            raise InvalidInput(f"{type(config).__name__}.{entry.name} must be true or false, got {value!r}.")


class Branch(NamedTuple):
    """One kind of branch.

    config_class(...) holds its settings; module_class(shapes, config) maps BranchInput to (B, C, H, W). `key` is the
    name of its module in NPNet, and so the prefix of its keys in weight files; `output` its name in NPNet.branches.
    """

    config_class: type
    module_class: type[nn.Module]
    key: str
    output: str
