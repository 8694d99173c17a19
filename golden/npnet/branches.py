"""The branches of an NPNet: what each adds to the golden noise, one config and one module a branch, and BRANCHES.

A new branch is its config, its module and its line of BRANCHES here, and its field in NPNetConfig.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from ..errors import InvalidInput
from .pooling import TokenPool

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


# --- the singular branch ----------------------------------------------------------------------------------------------


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


# --- the text branch --------------------------------------------------------------------------------------------------


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


# --- the residual branch ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SwinConfig:
    """The Swin transformer of the residual branch; the defaults are Swin-T at 224, as published.

    Latents are resized (nearest) to image_size x image_size, cut into patches of patch_size, and each stage after the
    first halves the grid. With `misread_features` the last feature map (grid, grid, channels) is read as if its first
    axis were the channels.
    Source: the published weights were trained with that reading, so it is kept for them.
    Differs from the paper: False reads the map properly, with one feature vector per grid cell; for our own weights.
    """

    image_size: int = 224
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    drop_path_rate: float = 0.1  # in training mode only
    misread_features: bool = True

    def __post_init__(self) -> None:
        check_integers(self, {"image_size": 1024, "patch_size": 64, "embed_dim": 1024, "window_size": 64})
        check_bools(self)
        for name, stages in (("depths", self.depths), ("num_heads", self.num_heads)):
            if not 1 <= len(stages) <= 8 or not all(type(n) is int and 1 <= n <= 64 for n in stages):
                raise InvalidInput(f"swin.{name} must be 1 to 8 whole numbers from 1 to 64, got {stages}.")
        if sum(self.depths) > 64:
            raise InvalidInput(f"swin.depths must sum to at most 64 blocks, got {sum(self.depths)}.")
        if len(self.depths) != len(self.num_heads):
            raise InvalidInput(f"swin.depths {self.depths} and swin.num_heads {self.num_heads} differ in length.")
        if any((self.embed_dim << stage) % heads for stage, heads in enumerate(self.num_heads)):
            raise InvalidInput(f"swin.num_heads {self.num_heads} must divide {self.embed_dim}, doubled at each stage.")
        if self.image_size % self.patch_size:
            raise InvalidInput(f"swin.image_size {self.image_size} is no multiple of patch_size {self.patch_size}.")
        if not isinstance(self.drop_path_rate, int | float) or not 0 <= self.drop_path_rate < 1:
            raise InvalidInput(f"swin.drop_path_rate must be at least 0 and below 1, got {self.drop_path_rate}.")

    @property
    def feature_channels(self) -> int:
        """How many channels the last feature map has, in the chosen reading."""
        if not self.misread_features:
            return self.embed_dim << (len(self.depths) - 1)
        grid = self.image_size // self.patch_size
        for _ in self.depths[1:]:
            grid = (grid + 1) // 2
        return grid


@dataclass(frozen=True)
class ResidualConfig:
    """side_by_side: the Swin sees the noise and its restyled form as separate channels, not as their sum.

    Differs from the paper: in the sum, a text map that is large enough to be read drowns the noise, and the network
    learns one change per prompt, the same for every noise.
    image_channels: how many channels the Swin's image has; 3 in the published networks.
    """

    side_by_side: bool = False
    image_channels: int = 3
    swin: SwinConfig = field(default_factory=SwinConfig)

    def __post_init__(self) -> None:
        check_integers(self, {"image_channels": 128})
        check_bools(self)


class ResidualBranch(nn.Module):
    """A Swin transformer between two 1x1 convolutions: noise and restyled noise, both (B, C, H, W), -> (B, C, H, W).

    Source: arXiv 2411.09502, section 3.3, residual prediction; sizes, resizing and reading as published.
    """

    def __init__(self, shapes: Shapes, config: ResidualConfig) -> None:
        super().__init__()
        swin = config.swin
        self.misread_features = swin.misread_features
        self.image_size = (swin.image_size, swin.image_size)
        self.latent_size = (shapes.height, shapes.width)
        self.side_by_side = config.side_by_side
        self.downconv = nn.Conv2d(shapes.channels * (1 + self.side_by_side), config.image_channels, kernel_size=1)
        self.swin = SwinTransformer(
            img_size=swin.image_size,
            patch_size=swin.patch_size,
            in_chans=config.image_channels,
            embed_dim=swin.embed_dim,
            depths=swin.depths,
            num_heads=swin.num_heads,
            window_size=swin.window_size,
            drop_path_rate=swin.drop_path_rate,
            num_classes=0,
        )
        self.upconv = nn.Conv2d(swin.feature_channels, shapes.channels, kernel_size=1)

    def forward(self, inputs: BranchInput) -> Noise:
        noise, text = inputs.noise, inputs.text
        # r = upconv(swin(downconv(x + e)))
        seen = torch.cat([noise, text], dim=1) if self.side_by_side else noise + text
        # A 1x1 convolution and nearest resizing commute; the published code resizes first, which only costs more.
        image = _resize(self.downconv(seen), self.image_size)
        features = self.swin.forward_features(image)  # (B, grid, grid, channels)
        if not self.misread_features:
            features = features.permute(0, 3, 1, 2)
        return _resize(self.upconv(features), self.latent_size)


def _resize(image: Noise, size: tuple[int, int]) -> Float[Tensor, "batch channels new_height new_width"]:
    return image if image.shape[-2:] == size else F.interpolate(image, size, mode="nearest")


# --- the layout branch ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayoutConfig:
    """rank: how many directions the branch has. hidden: width of its text network."""

    rank: int = 256
    hidden: int = 256

    def __post_init__(self) -> None:
        check_integers(self, {"rank": 8192, "hidden": 8192})


class LayoutBranch(nn.Module):
    """A dense map of low rank over the whole noise, whose directions the prompt weighs, and a mean for each prompt.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W); outputs zero at initialisation.
    Differs from the paper: it has no such branch. An image's layout is decided globally, and so is the change that
    re-denoise sampling makes: on the embedded model a dense linear map explains a third of how it depends on the noise,
    and a convolution, which is all that windows without a sense of place amount to, next to nothing.
    """

    def __init__(self, shapes: Shapes, config: LayoutConfig) -> None:
        super().__init__()
        size, hidden = shapes.channels * shapes.height * shapes.width, config.hidden
        tokens = nn.Linear(shapes.num_tokens * shapes.embedding_dim, hidden)
        self.text = nn.Sequential(tokens, nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.weights = nn.Linear(hidden, config.rank)
        self.down = nn.Linear(size, config.rank)
        self.up = nn.Linear(config.rank, size, bias=False)
        self.mean = nn.Linear(hidden, size)
        for layer in (self.up, self.mean):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mean.bias)

    def forward(self, inputs: BranchInput) -> Noise:
        noise, text = inputs.noise, self.text(inputs.prompt_embeds.flatten(1))
        return (self.mean(text) + self.up(self.down(noise.flatten(1)) * self.weights(text))).view_as(noise)


# --- all of them ------------------------------------------------------------------------------------------------------


class Branch(NamedTuple):
    """One kind of branch.

    config_class(...) holds its settings; module_class(shapes, config) maps BranchInput to (B, C, H, W). `key` is the
    name of its module in NPNet, and so the prefix of its keys in weight files; `output` its name in NPNet.branches.
    """

    config_class: type
    module_class: type[nn.Module]
    key: str
    output: str


# By the name of its field in NPNetConfig, in the order in which modules are made, on which the random weights depend.
BRANCHES: dict[str, Branch] = {
    "singular": Branch(SingularConfig, SingularBranch, "unet_svd", "singular"),
    "residual": Branch(ResidualConfig, ResidualBranch, "unet_embedding", "residual"),
    "text": Branch(TextConfig, TextBranch, "text_embedding", "text_embedding"),
    "layout": Branch(LayoutConfig, LayoutBranch, "layout", "layout"),
}
