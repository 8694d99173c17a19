"""The denoiser branch: a copy of the model's denoising network, which knows what the noise is about to become."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
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


def _pooled_of_unet(network: Any, noise: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
    return network.get_aug_embed(noise, inputs["encoder_hidden_states"], inputs.get("added_cond_kwargs") or {})


def _pooled_of_sd3(network: Any, noise: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
    read, pooled = network.time_text_embed.text_embedder, inputs["pooled_projections"]
    return read(pooled) - read(torch.zeros_like(pooled))


class CopiedNetwork(NamedTuple):
    """What is known of a class of diffusers that a denoiser branch can copy, without the pooled embeddings.

    call(network, noise, timestep, prompt_embeds) runs it. `width` is the setting that says how wide prompt embeddings
    are, `last` the last layer. `settings` leave the pooled ones out, and with them weights whose names start with one
    of `dropped`. What they add to the embedding of the timestep, pooled(network, noise, inputs of the network) ->
    (B, dim) or None, goes into `time_bias` as its mean.
    """

    call: Callable[[Any, Tensor, float, Tensor], Tensor]
    pooled: Callable[[Any, Tensor, Mapping[str, Any]], Tensor | None]
    width: str
    time_bias: str
    last: str
    settings: Mapping[str, Any] = {}
    dropped: tuple[str, ...] = ()


# What diffusers raises for settings that do not go together.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

NETWORKS = {
    "UNet2DConditionModel": CopiedNetwork(
        _call_unet,
        _pooled_of_unet,
        width="cross_attention_dim",
        time_bias="time_embedding.linear_2.bias",
        last="conv_out",
        settings={"addition_embed_type": None, "projection_class_embeddings_input_dim": None},
        dropped=("add_embedding.",),
    ),
    "SD3Transformer2DModel": CopiedNetwork(
        _call_sd3,
        _pooled_of_sd3,
        width="joint_attention_dim",
        time_bias="time_text_embed.timestep_embedder.linear_2.bias",
        last="proj_out",
    ),
}
"""The networks that a denoiser branch can copy, by the name of their class in diffusers."""


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
        self.call = NETWORKS[config.network].call
        try:
            self.network = _class_of(config.network).from_config(_fit(config, shapes) | dict(config.settings))
        except _NONSENSE as error:
            raise InvalidInput(f"DenoiserConfig.settings describe no {config.network}: {error}") from error

    def forward(self, inputs: BranchInput) -> Noise:
        with plain_attention(inputs.noise):
            return self.call(self.network, inputs.noise, self.timestep, inputs.prompt_embeds)


def _fit(config: DenoiserConfig, shapes: Shapes) -> dict[str, Any]:
    """The settings that follow from the shapes of an NPNet."""
    return {
        "in_channels": shapes.channels,
        "out_channels": shapes.channels,
        "sample_size": shapes.height,
        NETWORKS[config.network].width: shapes.embedding_dim,
    }
