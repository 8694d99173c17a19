"""The denoiser branch: a copy of the model's denoising network, which knows what the noise is about to become."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...attention import plain_attention
from ...errors import InvalidInput
from .base import BranchInput, Noise, Shapes

MAX_LAYERS, MAX_NUMBER = 64, 65536  # of a diffusers config: only to keep a hostile file from asking for ever more
_SMALL_UNET = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
}


def _call_unet(network: Any, noise: Tensor, timestep: float, prompt_embeds: Tensor) -> Tensor:
    return network(noise, timestep, encoder_hidden_states=prompt_embeds, return_dict=False)[0]


def _call_sd3(network: Any, noise: Tensor, timestep: float, prompt_embeds: Tensor) -> Tensor:
    pooled = noise.new_zeros(len(noise), network.config.pooled_projection_dim)
    return network(noise, prompt_embeds, pooled, noise.new_full((len(noise),), timestep), return_dict=False)[0]


# What diffusers raises for settings that do not go together.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# By the name of the class in diffusers: how it is called, without the pooled embeddings, which NPNet does not see.
NETWORKS: dict[str, Callable[[Any, Tensor, float, Tensor], Tensor]] = {
    "UNet2DConditionModel": _call_unet,
    "SD3Transformer2DModel": _call_sd3,
}


def _class_of(network: str) -> Any:
    import diffusers  # here, since other branches do without it

    return getattr(diffusers, network)


@dataclass(frozen=True)
class DenoiserConfig:
    """network: a class of diffusers, one of NETWORKS. settings: its config; by default those of a small UNet.

    timestep: at which the network reads the noise.
    """

    network: str = "UNet2DConditionModel"
    settings: Mapping[str, Any] = field(default_factory=lambda: dict(_SMALL_UNET))
    timestep: float = 901

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InvalidInput(
                f"DenoiserConfig.network must be one of {', '.join(NETWORKS)}, got {str(self.network)[:40]!r}."
            )
        if type(self.timestep) not in (int, float) or not 0 <= self.timestep <= 1000:
            raise InvalidInput(f"DenoiserConfig.timestep must be a number from 0 to 1000, got {self.timestep!r}.")
        known = inspect.signature(_class_of(self.network).__init__).parameters
        for name, value in self.settings.items():
            if name not in known:
                raise InvalidInput(f"DenoiserConfig.settings must be those of {self.network}, got {name[:40]!r}.")
            _check_setting(name, value)


def _check_setting(name: str, value: Any) -> None:
    """Raises: InvalidInput for a number or a list beyond what any model has."""
    if isinstance(value, list | tuple):
        if len(value) > MAX_LAYERS:
            raise InvalidInput(f"DenoiserConfig.settings must have at most {MAX_LAYERS} entries in {name}.")
        for entry in value:
            _check_setting(name, entry)
    limit = MAX_LAYERS if "layers" in name else MAX_NUMBER
    if isinstance(value, int | float) and not abs(value) <= limit:
        raise InvalidInput(f"DenoiserConfig.settings must have a number up to {limit} as {name}, got {value!r}.")


class DenoiserBranch(nn.Module):
    """What the network of a diffusers pipeline says of the noise at one timestep, retrained to say a change of it.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W).
    Differs from the paper: it has no such branch. Which change helps depends on what the model is about to draw, and
    the model's own network can tell.
    """

    def __init__(self, shapes: Shapes, config: DenoiserConfig) -> None:
        super().__init__()
        self.timestep = config.timestep
        self.call = NETWORKS[config.network]
        try:
            self.network = _class_of(config.network).from_config(_fit(config, shapes) | dict(config.settings))
        except _NONSENSE as error:
            raise InvalidInput(f"DenoiserConfig.settings describe no {config.network}: {error}") from error

    def forward(self, inputs: BranchInput) -> Noise:
        with plain_attention(inputs.noise):
            return self.call(self.network, inputs.noise, self.timestep, inputs.prompt_embeds)


def _fit(config: DenoiserConfig, shapes: Shapes) -> dict[str, Any]:
    """The settings that follow from the shapes of an NPNet."""
    width = "cross_attention_dim" if config.network == "UNet2DConditionModel" else "joint_attention_dim"
    return {
        "in_channels": shapes.channels,
        "out_channels": shapes.channels,
        "sample_size": shapes.height,
        width: shapes.embedding_dim,
    }
