"""NPNetConfig: the shapes that an NPNet is built for and one small config a branch; as JSON, old forms included."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from ..errors import InvalidInput
from .branches import BRANCHES, DenoiserConfig, LayoutConfig, ResidualConfig, SingularConfig, TextConfig, check_integers

VERSION = 2  # of the JSON; version 1 was flat and bore no number


MAX_GAIN = 10_000


@dataclass(frozen=True)
class NPNetConfig:
    """Shapes and branches of an NPNet; the defaults are the published one for SDXL (Hunyuan-DiT: embedding_dim 1024).

    channels, height, width: of the latents. num_tokens, embedding_dim: of the prompt embeddings.
    singular, residual, text, layout, denoiser: the config of each branch, None to leave its term out of the sum
        (without `singular` the source noise passes unchanged).
    keep_norm: golden noise is scaled to the norm of its source noise, row by row.
        Differs from the paper: a smaller norm alone changes images, so that for our own weights no gain is the norm's.
    change_gain: golden noise is source noise + change_gain x (what the branches make of it - source noise). What is
        learnt from single examples of a change is their mean, which is right where it points and too short.
    """

    channels: int = 4
    height: int = 128
    width: int = 128
    num_tokens: int = 77
    embedding_dim: int = 2048
    singular: SingularConfig | None = field(default_factory=SingularConfig)
    residual: ResidualConfig | None = field(default_factory=ResidualConfig)
    text: TextConfig | None = field(default_factory=TextConfig)
    layout: LayoutConfig | None = None
    denoiser: DenoiserConfig | None = None
    keep_norm: bool = False
    change_gain: float = 1.0

    def __post_init__(self) -> None:
        limits = {"channels": 128, "height": 1024, "width": 1024, "num_tokens": 4096, "embedding_dim": 16384}
        check_integers(self, limits)
        for name, branch in BRANCHES.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, branch.config_class):
                raise InvalidInput(f"NPNetConfig.{name} must be a {branch.config_class.__name__} or None.")
        if not isinstance(self.keep_norm, bool):
            raise InvalidInput(f"keep_norm must be true or false, got {self.keep_norm!r}.")
        if type(self.change_gain) not in (int, float) or not 0 < self.change_gain <= MAX_GAIN:
            raise InvalidInput(f"change_gain must be above 0 and at most {MAX_GAIN}, got {self.change_gain!r}.")
        if all(getattr(self, name) is None for name in BRANCHES):
            raise InvalidInput(f"An NPNet needs at least one of its branches: {', '.join(BRANCHES)}.")


def change_config(config: NPNetConfig, changes: Mapping[str, Any]) -> NPNetConfig:
    """A config with some fields changed.

    A branch is changed by None (left out), by its whole config, or by a mapping of some of its fields:
    `{"residual": None, "singular": {"attention": False}}`. A field of a single branch may stand alone:
    `{"attention": False}`.

    Raises: InvalidInput for what is no field, or for a value that is not allowed.
    """
    for name, value in changes.items():
        if name in BRANCHES and isinstance(value, Mapping):
            config = _change_branch(config, name, value)
        elif name in {entry.name for entry in fields(NPNetConfig)}:
            config = replace(config, **{name: value})
        else:
            config = _change_branch(config, _owner_of(name), {name: value})
    return config


def _owner_of(field_name: str) -> str:
    """The one branch that has a field of this name."""
    owners = [
        name for name, branch in BRANCHES.items() if field_name in {entry.name for entry in fields(branch.config_class)}
    ]
    if len(owners) > 1:
        raise InvalidInput(f"{', '.join(owners)} each have a field {field_name!r}: give {owners[0]}={{...}}.")
    if not owners:
        known = ", ".join(entry.name for entry in fields(NPNetConfig))
        raise InvalidInput(f"NPNetConfig has no field {field_name!r}; its fields are {known}.")
    return owners[0]


def _change_branch(config: NPNetConfig, name: str, changes: Mapping[str, Any]) -> NPNetConfig:
    config_class = BRANCHES[name].config_class
    known = [entry.name for entry in fields(config_class)]
    for key in changes:
        if key not in known:
            raise InvalidInput(f"{config_class.__name__} has no field {key!r}; its fields are {', '.join(known)}.")
    return replace(config, **{name: replace(getattr(config, name) or config_class(), **changes)})


# --- JSON -------------------------------------------------------------------------------------------------------------


def config_to_json(config: NPNetConfig) -> str:
    """The config as a weight file keeps it."""
    return json.dumps({"version": VERSION} | asdict(config))


def config_from_json(text: str) -> NPNetConfig:
    """The config in a weight file, of this version or of the flat form before it.

    Raises: InvalidInput, ValueError, TypeError, AttributeError or RecursionError for text that describes none.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise InvalidInput(f"its config is a {type(values).__name__}.")
    version = values.pop("version", 1)
    if version not in (1, VERSION):
        raise InvalidInput(f"its config is of version {str(version)[:20]!r}, and versions 1 to {VERSION} are known.")
    if version == 1:
        values = _nest(values)
    if values.pop("change_rms", None) is not None:
        raise InvalidInput("it gives every change one length (change_rms), which only golden 0.5.0 did.")
    for name, branch in BRANCHES.items():
        if values.get(name) is not None:
            values[name] = _from_dict(branch.config_class, values[name])
    return NPNetConfig(**values)


def _from_dict(config_class: type, values: Any) -> Any:
    """A config of one branch; JSON knows no tuples and no dataclasses."""
    if not isinstance(values, dict):
        raise InvalidInput(f"its {config_class.__name__} is a {type(values).__name__}.")
    hints = get_type_hints(config_class)
    read = {}
    for key, value in values.items():
        kind = hints.get(key)
        if isinstance(kind, type) and is_dataclass(kind):
            read[key] = _from_dict(kind, value)
        else:
            read[key] = tuple(value) if isinstance(value, list) else value
    return config_class(**read)


# Version 1: its name of a field -> (branch, field), and its switches.
_FLAT_FIELDS = {
    "attention": ("singular", "attention"),
    "canonical_signs": ("singular", "canonical_signs"),
    "svd_hidden": ("singular", "hidden"),
    "svd_output_hidden": ("singular", "output_hidden"),
    "side_by_side": ("residual", "side_by_side"),
    "image_channels": ("residual", "image_channels"),
    "swin": ("residual", "swin"),
    "text_map_size": ("text", "map_size"),
    "layout_rank": ("layout", "rank"),
    "layout_hidden": ("layout", "hidden"),
}
_FLAT_SWITCHES = {"use_singular": "singular", "use_residual": "residual", "use_text": "text"}


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The values of version 1 in the form of version 2; a layout of rank 0 was none."""
    nested = {name: value for name, value in flat.items() if name not in _FLAT_FIELDS and name not in _FLAT_SWITCHES}
    parts: dict[str, dict[str, Any]] = {name: {} for name in ("singular", "residual", "text", "layout")}
    for name, (branch, own_name) in _FLAT_FIELDS.items():
        if name in flat:
            parts[branch][own_name] = flat[name]
    on = {branch: flat.get(switch, True) for switch, branch in _FLAT_SWITCHES.items()}
    if not all(isinstance(value, bool) for value in on.values()):
        raise InvalidInput(f"{', '.join(_FLAT_SWITCHES)} must be true or false.")
    on["layout"] = flat.get("layout_rank", 0) != 0
    return nested | {branch: values if on[branch] else None for branch, values in parts.items()}
