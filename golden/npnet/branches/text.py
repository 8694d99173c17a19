"""The text branch: the noise, normalised and then scaled and shifted as the prompt demands."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from ..pooling import TokenPool
from .base import BranchInput, Noise, Shapes, check_integers


@dataclass(frozen=True)
class TextConfig:
    """map_size: the prompt shifts each channel of the noise by an m x m map, enlarged to the latents.

    1 is the single number per channel of the published networks.
    Differs from the paper: m > 1 lets a prompt say where in the image something is.
    num_queries, query_width: learned queries that pool the tokens by attention, and the width of what each finds. 0
    queries is the one Linear over all tokens of the published networks.
    Differs from the paper: over the 333 tokens of SD3 or the 512 of FLUX that Linear would have 44 million weights and
    more, and 16 x 16 maps 5 billion.
    """

    map_size: int = 1
    num_queries: int = 0
    query_width: int = 256

    def __post_init__(self) -> None:
        check_integers(self, {"map_size": 128, "query_width": 1024})
        if type(self.num_queries) is not int or self.num_queries != 0:
            check_integers(self, {"num_queries": 64})


class TextBranch(nn.Module):
    """Normalises the noise over all channels, then scales and shifts each channel as the prompt demands.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W).
    Source: arXiv 2411.09502, section 3.3, text embedding by adaptive group normalisation with one group, eps 1e-6.
    """

    def __init__(self, shapes: Shapes, config: TextConfig) -> None:
        super().__init__()
        self.channels = shapes.channels
        self.map_size = config.map_size
        outputs = shapes.channels * (1 + config.map_size**2)  # a scale and a map of shifts per channel
        num_inputs, self.pool = shapes.num_tokens * shapes.embedding_dim, None
        if config.num_queries:
            self.pool = TokenPool(shapes.embedding_dim, config.num_queries, config.query_width)
            num_inputs = self.pool.num_outputs
        self.linear = nn.Linear(num_inputs, outputs)

    def forward(self, inputs: BranchInput) -> Noise:
        embeds = inputs.prompt_embeds
        style = self.linear(embeds.flatten(1) if self.pool is None else self.pool(embeds))
        scale = style[:, : self.channels, None, None]
        shift = style[:, self.channels :].unflatten(1, (self.channels, self.map_size, self.map_size))
        if self.map_size > 1:
            shift = F.interpolate(shift, inputs.noise.shape[-2:], mode="bilinear", align_corners=False)
        # e = norm(x) * (1 + scale(c)) + shift(c)
        return F.group_norm(inputs.noise, num_groups=1, eps=1e-6) * (1 + scale) + shift
