"""The NPNet that is trained: a new one from an Architecture, or an existing one to fine-tune."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from golden.errors import InvalidInput
from golden.noise import first_timestep
from golden.npnet import (
    NETWORKS,
    DenoiserConfig,
    LayoutConfig,
    NPNet,
    NPNetConfig,
    ResidualConfig,
    SingularConfig,
    SwinConfig,
    TextConfig,
    load_npnet,
)
from golden.pipelines import encode_anew, latent_shape, network_of
from golden.verifier import capture_network_inputs
from train.objectives import Sizes
from train.settings import Architecture

SMALL = 64
"""Latents with fewer rows get a small Swin and a narrow predictor of singular values; others have them as published."""
LINEAR_TOKENS = 77
"""Prompts of more tokens are pooled unless asked otherwise: one Linear over all, as published, would be large."""
LAYOUT_TOKENS, LAYOUT_NOISE = 77 * 2048, 4 * 128 * 128
"""How many numbers prompt embeddings and noise have for SDXL: beyond either, a layout branch must be asked for."""
QUERIES, RANK = 8, 256


def make_npnet(architecture: Architecture, sizes: Sizes, pipeline: Any = None, prompts: Sequence[str] = ("",)) -> NPNet:
    """An untrained NPNet for latents and prompt embeddings of some sizes.

    The denoiser branch starts as a copy of the pipeline's network; `prompts` are examples of what it will read.

    Raises: InvalidInput if such a branch is asked for and the pipeline's network cannot be copied.
    """
    architecture = resolve_architecture(architecture, sizes)
    queries, rank = architecture.text_queries or 0, architecture.layout_rank
    small = sizes.height < SMALL
    singular = SingularConfig(architecture.attention, canonical_signs=True, output_hidden=128 if small else 1024)
    swin = _small_swin(architecture, sizes.height) if small else SwinConfig()
    residual = ResidualConfig(architecture.side_by_side, architecture.image_channels, swin)
    config = NPNetConfig(
        *sizes,
        singular=singular if architecture.singular else None,
        residual=residual if architecture.residual else None,
        text=TextConfig(architecture.text_map_size, queries) if architecture.text else None,
        layout=LayoutConfig(rank) if rank else None,
        denoiser=describe_denoiser(pipeline) if architecture.denoiser else None,
        keep_norm=architecture.keep_norm,
    )
    network = NPNet(config)
    if architecture.denoiser:
        network.get_submodule("denoiser.network").load_state_dict(copy_denoiser(pipeline, prompts))
    return network


def resolve_architecture(architecture: Architecture, sizes: Sizes) -> Architecture:
    """The architecture with numbers for what was left open, chosen so that the network stays small."""
    queries = QUERIES if sizes.num_tokens > LINEAR_TOKENS else 0
    tokens, noise = sizes.num_tokens * sizes.embedding_dim, sizes.channels * sizes.height * sizes.width
    rank = 0 if tokens > LAYOUT_TOKENS or noise > LAYOUT_NOISE else RANK
    return replace(
        architecture,
        text_queries=queries if architecture.text_queries is None else architecture.text_queries,
        layout_rank=rank if architecture.layout_rank is None else architecture.layout_rank,
    )


def _small_swin(architecture: Architecture, image_size: int) -> SwinConfig:
    return SwinConfig(
        image_size=image_size,
        patch_size=1,
        embed_dim=architecture.swin_width,
        depths=(architecture.swin_depth,),
        num_heads=(architecture.swin_width // 16,),
        window_size=8,
        drop_path_rate=architecture.drop_path_rate,
        misread_features=False,
    )


# --- the copy of a denoising network ----------------------------------------------------------------------------------


def describe_denoiser(pipeline: Any) -> DenoiserConfig:
    """The config of a copy of a pipeline's network. Raises: InvalidInput for a network that NPNet cannot hold."""
    network = network_of(pipeline)
    name = type(network).__name__
    if name not in NETWORKS:
        raise InvalidInput(f"--denoiser copies a {' or a '.join(NETWORKS)}, and this model has a {name}.")
    settings = {key: value for key, value in network.config.items() if not key.startswith("_")}
    return DenoiserConfig(name, {**settings, **NETWORKS[name].settings}, first_timestep(pipeline))


@torch.no_grad()
def copy_denoiser(pipeline: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a pipeline's network for a denoiser branch, in fp32, its last layer zero: it says no change yet.

    What pooled embeddings and sizes add to the embedding of the timestep is replaced by its mean over `prompts`.
    """
    network = network_of(pipeline)
    known = NETWORKS[type(network).__name__]
    noise = torch.zeros(len(prompts), *latent_shape(pipeline), device=network.device, dtype=network.dtype)
    embeddings = encode_anew(pipeline, list(prompts))
    _, inputs = capture_network_inputs(pipeline, noise, first_timestep(pipeline), embeddings)
    pooled = known.pooled(network, noise, inputs)
    weights = {
        name: value.float().clone()
        for name, value in network.state_dict().items()
        if not name.startswith(known.dropped)
    }
    if pooled is not None:
        weights[known.time_bias] += pooled.float().mean(0)
    for name in (f"{known.last}.weight", f"{known.last}.bias"):
        weights[name].zero_()
    return weights


def start_from(name: str) -> NPNet:
    """An NPNet to fine-tune, one of our own or a published one; the parameters that a new one learns get gradients."""
    network = load_npnet(name)
    for parameter, new in zip(network.parameters(), NPNet(network.config).parameters(), strict=True):
        parameter.requires_grad_(new.requires_grad)
    return network.train()


def compute_in_bf16(network: NPNet) -> None:
    """Let all branches but the singular one compute in bfloat16.

    The singular value decomposition needs fp32; the sum of all branches and the loss stay in fp32, too.
    """
    for name, branch in network.branch_modules.items():
        if name != "singular":
            device = next(branch.parameters()).device.type
            branch.forward = torch.autocast(device, torch.bfloat16)(branch.forward)  # type: ignore[method-assign]
