"""The NPNet that is trained: a new one from an Architecture, or an existing one to fine-tune."""

import torch

from golden.npnet import (
    LayoutConfig,
    NPNet,
    NPNetConfig,
    ResidualConfig,
    SingularConfig,
    SwinConfig,
    TextConfig,
    load_npnet,
)
from train.objectives import Sizes
from train.settings import Architecture

SMALL = 64
"""Latents with fewer rows get a small Swin and a narrow predictor of singular values; others have them as published."""
LINEAR_TOKENS = 77
"""Prompts of more tokens are pooled unless asked otherwise: one Linear over all, as published, would be large."""
LAYOUT_TOKENS, LAYOUT_NOISE = 77 * 2048, 4 * 128 * 128
"""How many numbers prompt embeddings and noise have for SDXL: beyond either, a layout branch must be asked for."""
QUERIES, RANK = 8, 256


def make_npnet(architecture: Architecture, sizes: Sizes) -> NPNet:
    """An untrained NPNet for latents and prompt embeddings of some sizes."""
    small = sizes.height < SMALL
    singular = SingularConfig(architecture.attention, canonical_signs=True, output_hidden=128 if small else 1024)
    swin = _small_swin(architecture, sizes.height) if small else SwinConfig()
    residual = ResidualConfig(architecture.side_by_side, architecture.image_channels, swin)
    queries, rank = choose_sizes(architecture, sizes)
    config = NPNetConfig(
        *sizes,
        singular=singular if architecture.singular else None,
        residual=residual if architecture.residual else None,
        text=TextConfig(architecture.text_map_size, queries) if architecture.text else None,
        layout=LayoutConfig(rank) if rank else None,
        keep_norm=architecture.keep_norm,
    )
    return NPNet(config)


def choose_sizes(architecture: Architecture, sizes: Sizes) -> tuple[int, int]:
    """The text branch's queries and the layout branch's rank: as asked for, or what keeps the network small."""
    queries = QUERIES if sizes.num_tokens > LINEAR_TOKENS else 0
    tokens, noise = sizes.num_tokens * sizes.embedding_dim, sizes.channels * sizes.height * sizes.width
    rank = 0 if tokens > LAYOUT_TOKENS or noise > LAYOUT_NOISE else RANK
    asked = architecture.text_queries, architecture.layout_rank
    return asked[0] if asked[0] is not None else queries, asked[1] if asked[1] is not None else rank


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
