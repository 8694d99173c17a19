"""The singular branch: the golden noise's singular values, predicted from the source noise's decomposition."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InvalidInput
from .base import BranchInput, Noise, Shapes, check_bools, check_integers


@dataclass(frozen=True)
class SingularConfig:
    """The defaults are as published.

    attention: self-attention over the singular triples. The published inference code has it, the published trainer has
        not; both have its weights, so that a file loads either way.
    canonical_signs: singular vectors are only defined up to a sign that differs between CPU, GPU and library, and this
        branch sees it. True fixes the sign, so that the output does not depend on the machine. The published weights
        know no such rule: False.
    hidden, output_hidden: widths of the MLPs that read the singular vectors, and of the one that predicts the values.
    """

    attention: bool = True
    canonical_signs: bool = False
    hidden: int = 64
    output_hidden: int = 1024

    def __post_init__(self) -> None:
        check_integers(self, {"hidden": 8192, "output_hidden": 8192})
        check_bools(self)


Matrix = Float[Tensor, "batch rows columns"]


def decompose(
    matrix: Matrix, cuda_driver: str | None = None
) -> tuple[Float[Tensor, "batch rows rank"], Float[Tensor, "batch rank"], Float[Tensor, "batch rank columns"]]:
    """Thin singular value decomposition: (B, M, N) -> U (B, M, K), s (B, K), Vh (B, K, N) with K = min(M, N).

    The one place where it happens, so that it can be timed, replaced and tested. `cuda_driver` is one of cuSOLVER's
    "gesvd", "gesvdj", "gesvda" and is ignored on other devices. The signs of the vectors are the library's.

    Raises: InvalidInput if the decomposition fails.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=False, driver=cuda_driver if matrix.is_cuda else None)
    except torch.linalg.LinAlgError as error:
        raise InvalidInput("SVD failed: the noise contains NaN or Inf.") from error


def fix_signs(
    u: Float[Tensor, "batch rows rank"], vh: Float[Tensor, "batch rank columns"]
) -> tuple[Float[Tensor, "batch rows rank"], Float[Tensor, "batch rank columns"]]:
    """Flip pairs of singular vectors so that the sum of cubes of each column of `u` is >= 0; the product is unchanged.

    The sum of cubes is odd in the vector, so that it tells the two signs apart, and takes all components together, so
    that it is steadier under rounding than the sign of the largest one.
    """
    signs = torch.where(u.pow(3).sum(dim=-2) < 0, -1.0, 1.0).to(u.dtype)  # (B, K)
    return u * signs.unsqueeze(-2), vh * signs.unsqueeze(-1)


def tiling(channels: int) -> tuple[int, int]:
    """The most nearly square (rows, columns) with rows * columns == channels and rows <= columns; 4 gives (2, 2)."""
    rows = next(n for n in range(math.isqrt(channels), 0, -1) if channels % n == 0)
    return rows, channels // rows


def to_matrix(noise: Noise) -> Matrix:
    """The one matrix that is decomposed: (B, a*c, H, W) -> (B, a*H, c*W), the channels laid out as tiles."""
    return noise.unflatten(1, tiling(noise.shape[1])).transpose(2, 3).flatten(3).flatten(1, 2)


def to_noise(matrix: Matrix, channels: int) -> Noise:
    """The inverse of `to_matrix`."""
    tile_rows, tile_columns = tiling(channels)
    return matrix.unflatten(2, (tile_columns, -1)).unflatten(1, (tile_rows, -1)).transpose(2, 3).flatten(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over rows, (B, K, K) -> (B, K, K); eight heads if the width allows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = math.gcd(8, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Float[Tensor, "batch rank rank"]) -> Float[Tensor, "batch rank rank"]:
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class SingularBranch(nn.Module):
    """Predicts the singular values of the golden noise and keeps the singular vectors of the source noise.

    Its output takes the place of the noise in the sum. (B, C, H, W) -> (B, C, H, W).
    Source: arXiv 2411.09502, section 3.3, singular value prediction; widths and the mean over rows as published.
    """

    def __init__(self, shapes: Shapes, config: SingularConfig) -> None:
        super().__init__()
        tile_rows, tile_columns = tiling(shapes.channels)
        rows, columns = tile_rows * shapes.height, tile_columns * shapes.width  # 4 x 128 x 128 gives 256 x 256
        rank = min(rows, columns)
        self.use_attention = config.attention
        self.canonical_signs = config.canonical_signs
        self.mlp1 = _mlp(rows, config.hidden, rank)
        self.mlp2 = _mlp(columns, config.hidden, rank)
        self.mlp3 = nn.Sequential(nn.Linear(rank, rank))
        self.attention = Attention(rank).requires_grad_(config.attention)
        self.bn = nn.BatchNorm2d(rank).requires_grad_(False)  # never used; published files have it
        self.mlp4 = _mlp(rank, config.output_hidden, rank)

    def forward(self, inputs: BranchInput) -> Noise:
        # x = U diag(s) Vh
        u, s, vh = decompose(to_matrix(inputs.noise))
        if self.canonical_signs:
            u, vh = fix_signs(u, vh)
        # s' = f(U, s, Vh)
        rows = self.mlp1(u.mT) + self.mlp2(vh) + self.mlp3(s).unsqueeze(1)  # (B, K, K), one row a singular triple
        if self.use_attention:
            rows = self.attention(rows)
        predicted = self.mlp4(rows.mean(dim=1)) + s
        # x' = U diag(s') Vh
        return to_noise((u * predicted.unsqueeze(-2)) @ vh, inputs.noise.shape[1])


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
