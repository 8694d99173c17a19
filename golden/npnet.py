"""NPNet: the network that turns a source noise and a prompt into a golden noise; its weight files, ours and foreign."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import HfHubHTTPError
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from .errors import BadWeights, InvalidInput, MissingWeights
from .files import load_weights, save_weights
from .models import cached_folder, fetch_file, list_files, refuse_url

CONFIG_KEY = "npnet_config"  # where our own weight files keep their NPNetConfig, as JSON
MAX_BUFFER_BYTES = 2**28  # of what follows from the config alone; the published one has a megabyte

# ---------------------------------------------------------------------------------------------------------------------
# Configuration


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
        _check_integers(self, {"image_size": 1024, "patch_size": 64, "embed_dim": 1024, "window_size": 64})
        _check_bools(self)
        for name, stages in (("depths", self.depths), ("num_heads", self.num_heads)):
            if not 1 <= len(stages) <= 8 or not all(type(n) is int and 1 <= n <= 64 for n in stages):
                raise InvalidInput(f"swin.{name} must be 1 to 8 whole numbers from 1 to 64, got {stages}.")
        if sum(self.depths) > 64:
            raise InvalidInput(f"swin.depths must be 64 blocks in all at most, got {sum(self.depths)}.")
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
class NPNetConfig:
    """Sizes and switches of an NPNet; the defaults are the published one for SDXL (Hunyuan-DiT: embedding_dim 1024).

    channels, height, width: of the latents. num_tokens, embedding_dim: of the prompt embeddings.
    use_singular, use_residual, use_text: a branch switched off leaves its term out (singular: the noise passes).
    attention: self-attention inside the singular branch. The published inference code has it, the published trainer
        has not; both have its weights, so a file loads either way.
    canonical_signs: singular vectors are only defined up to a sign that differs between CPU, GPU and library, and this
        branch sees it. True fixes the sign, so that the answer does not depend on the machine. The published weights
        know no such rule: False.
    text_map_size: the prompt shifts each channel of the noise by an m x m map, m = text_map_size, enlarged to the
        latents. 1 is the published single number per channel.
        Differs from the paper: m > 1 lets a prompt say where in the picture something is.
    side_by_side: the Swin sees the noise and its restyled form as separate channels, and not as their sum.
        Differs from the paper: in the sum, a text map that is large enough to be read drowns the noise, and the network
        learns one change per prompt, the same for every noise.
    image_channels: how many channels the Swin's image has; 3 in the published one.
    layout_rank: how many directions the layout branch has; 0 leaves it out, as published.
        Differs from the paper, see `LayoutBranch`.
    layout_hidden: width of that branch's text network.
    svd_hidden, svd_output_hidden: hidden widths of the singular branch.
    """

    channels: int = 4
    height: int = 128
    width: int = 128
    num_tokens: int = 77
    embedding_dim: int = 2048
    use_singular: bool = True
    use_residual: bool = True
    use_text: bool = True
    attention: bool = True
    canonical_signs: bool = False
    text_map_size: int = 1
    side_by_side: bool = False
    image_channels: int = 3
    layout_rank: int = 0
    layout_hidden: int = 256
    svd_hidden: int = 64
    svd_output_hidden: int = 1024
    swin: SwinConfig = field(default_factory=SwinConfig)

    def __post_init__(self) -> None:
        # The upper ends only keep a hostile file from asking for all the memory there is.
        sizes = {"channels": 128, "height": 1024, "width": 1024, "num_tokens": 4096, "embedding_dim": 16384}
        sizes |= {"text_map_size": 128, "image_channels": 128, "svd_hidden": 8192, "svd_output_hidden": 8192}
        _check_integers(
            self, sizes | {"layout_hidden": 8192} | ({"layout_rank": 8192} if self.layout_rank != 0 else {})
        )
        _check_bools(self)
        if not (self.use_singular or self.use_residual or self.use_text or self.layout_rank):
            raise InvalidInput("An NPNet needs at least one of use_singular, use_residual, use_text, layout_rank.")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) of the one matrix that the channels of a noise are tiled into; 4x128x128 gives (256, 256)."""
        tile_rows, tile_columns = _tiling(self.channels)
        return tile_rows * self.height, tile_columns * self.width


def _check_integers(config: Any, limits: dict[str, int]) -> None:
    for name, high in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from 1 to {high}, got {value!r}.")


def _check_bools(config: Any) -> None:
    for entry in fields(config):
        if isinstance(entry.default, bool) and not isinstance(getattr(config, entry.name), bool):
            raise InvalidInput(f"{entry.name} must be true or false, got {getattr(config, entry.name)!r}.")


def _tiling(channels: int) -> tuple[int, int]:
    """The most nearly square (rows, columns) with rows * columns == channels and rows <= columns; 4 gives (2, 2)."""
    rows = next(n for n in range(math.isqrt(channels), 0, -1) if channels % n == 0)
    return rows, channels // rows


# ---------------------------------------------------------------------------------------------------------------------
# The singular branch


def decompose(matrix: Tensor, cuda_driver: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition: (B, M, N) -> U (B, M, K), s (B, K), Vh (B, K, N) with K = min(M, N).

    The one place where it happens, so that it can be timed, replaced and tested. `cuda_driver` is one of cuSOLVER's
    "gesvd", "gesvdj", "gesvda" and is ignored on other devices. Signs of the vector pairs are as the library has them.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=False, driver=cuda_driver if matrix.is_cuda else None)
    except torch.linalg.LinAlgError as error:
        raise InvalidInput("The source noise has no singular values: it holds NaN or infinite numbers.") from error


def fix_signs(u: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
    """Flip pairs of singular vectors so that the sum of cubes of each column of `u` is >= 0; the product stays.

    The sum of cubes is odd in the vector, so that it tells the two signs apart, and takes all components together, so
    that it is steadier under rounding than the sign of the single largest one.
    """
    signs = torch.where(u.pow(3).sum(dim=-2) < 0, -1.0, 1.0).to(u.dtype)  # (B, K)
    return u * signs.unsqueeze(-2), vh * signs.unsqueeze(-1)


class Attention(nn.Module):
    """Multi-head self-attention over rows, (B, K, K) -> (B, K, K); eight heads where the width allows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = math.gcd(8, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class SingularBranch(nn.Module):
    """Predicts the singular values of the golden noise and keeps the singular vectors of the source noise.

    (B, C, H, W) -> (B, C, H, W).
    Source: arXiv 2411.09502, singular value prediction; widths and the mean over rows as in the published weights.
    """

    def __init__(self, config: NPNetConfig) -> None:
        super().__init__()
        rows, columns = config.matrix_shape
        rank = min(rows, columns)
        self.tiling = _tiling(config.channels)
        self.use_attention = config.attention
        self.canonical_signs = config.canonical_signs
        self.mlp1 = _mlp(rows, config.svd_hidden, rank)
        self.mlp2 = _mlp(columns, config.svd_hidden, rank)
        self.mlp3 = nn.Sequential(nn.Linear(rank, rank))
        self.attention = Attention(rank).requires_grad_(config.attention)
        self.bn = nn.BatchNorm2d(rank).requires_grad_(False)  # never used; published files have it
        self.mlp4 = _mlp(rank, config.svd_output_hidden, rank)

    def forward(self, noise: Tensor) -> Tensor:
        u, s, vh = decompose(self.to_matrix(noise))
        if self.canonical_signs:
            u, vh = fix_signs(u, vh)
        rows = self.mlp1(u.mT) + self.mlp2(vh) + self.mlp3(s).unsqueeze(1)  # (B, K, K), one row a singular triple
        if self.use_attention:
            rows = self.attention(rows)
        predicted = self.mlp4(rows.mean(dim=1)) + s
        return self.to_noise((u * predicted.unsqueeze(-2)) @ vh)

    def to_matrix(self, noise: Tensor) -> Tensor:
        """(B, a*c, H, W) -> (B, a*H, c*W): the channels laid out as tiles."""
        return noise.unflatten(1, self.tiling).transpose(2, 3).flatten(3).flatten(1, 2)

    def to_noise(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`."""
        tile_rows, tile_columns = self.tiling
        return matrix.unflatten(2, (tile_columns, -1)).unflatten(1, (tile_rows, -1)).transpose(2, 3).flatten(1, 2)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


# ---------------------------------------------------------------------------------------------------------------------
# The text and the residual branch


class TextBranch(nn.Module):
    """Normalises the noise over all channels, then scales and shifts each channel by what the prompt says.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W).
    Source: arXiv 2411.09502, text embedding by adaptive group normalisation with one group, eps 1e-6.
    """

    def __init__(self, config: NPNetConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.map_size = config.text_map_size
        outputs = config.channels * (1 + self.map_size**2)  # a scale and a map of shifts per channel
        self.linear = nn.Linear(config.num_tokens * config.embedding_dim, outputs)

    def forward(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        style = self.linear(prompt_embeds.flatten(1))
        scale = style[:, : self.channels, None, None]
        shift = style[:, self.channels :].unflatten(1, (self.channels, self.map_size, self.map_size))
        if self.map_size > 1:
            shift = F.interpolate(shift, noise.shape[-2:], mode="bilinear", align_corners=False)
        return F.group_norm(noise, num_groups=1, eps=1e-6) * (1 + scale) + shift


class ResidualBranch(nn.Module):
    """A Swin transformer between two 1x1 convolutions: noise and restyled noise, both (B, C, H, W), -> (B, C, H, W).

    Source: arXiv 2411.09502, residual prediction; sizes, resizing and reading as in the published weights.
    """

    def __init__(self, config: NPNetConfig) -> None:
        super().__init__()
        swin = config.swin
        self.misread_features = swin.misread_features
        self.image_size = (swin.image_size, swin.image_size)
        self.latent_size = (config.height, config.width)
        self.side_by_side = config.side_by_side
        self.downconv = nn.Conv2d(config.channels * (1 + self.side_by_side), config.image_channels, kernel_size=1)
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
        self.upconv = nn.Conv2d(swin.feature_channels, config.channels, kernel_size=1)

    def forward(self, noise: Tensor, text: Tensor) -> Tensor:
        seen = torch.cat([noise, text], dim=1) if self.side_by_side else noise + text
        # A 1x1 convolution and nearest resizing commute; the published code resizes first, which only costs more.
        image = _resize(self.downconv(seen), self.image_size)
        features = self.swin.forward_features(image)  # (B, grid, grid, channels)
        if not self.misread_features:
            features = features.permute(0, 3, 1, 2)
        return _resize(self.upconv(features), self.latent_size)


class LayoutBranch(nn.Module):
    """A dense map of low rank over the whole noise, whose directions the prompt weighs, and a mean for each prompt.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W); says nothing before it is trained.
    Differs from the paper: it has no such branch. Where a picture's layout is decided, the change that re-denoise
    sampling makes is global: on the embedded model a dense linear map explains a third of how it depends on the noise,
    and a convolution, which is all that windows without a sense of place amount to, next to nothing.
    """

    def __init__(self, config: NPNetConfig) -> None:
        super().__init__()
        size, hidden = config.channels * config.height * config.width, config.layout_hidden
        tokens = nn.Linear(config.num_tokens * config.embedding_dim, hidden)
        self.text = nn.Sequential(tokens, nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.weights = nn.Linear(hidden, config.layout_rank)
        self.down = nn.Linear(size, config.layout_rank)
        self.up = nn.Linear(config.layout_rank, size, bias=False)
        self.mean = nn.Linear(hidden, size)
        for layer in (self.up, self.mean):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mean.bias)

    def forward(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        text = self.text(prompt_embeds.flatten(1))
        return (self.mean(text) + self.up(self.down(noise.flatten(1)) * self.weights(text))).view_as(noise)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return image if image.shape[-2:] == size else F.interpolate(image, size, mode="nearest")


# ---------------------------------------------------------------------------------------------------------------------
# The network


class NPNet(nn.Module):
    """golden = singular(x) + (2 sigmoid(alpha) - 1) e + beta residual(x + e), where e is x restyled by the prompt.

    Our own weights may add a layout branch to the sum.
    Source: arXiv 2411.09502, the noise prompt network. alpha and beta start at 0, so that only the singular branch
    speaks at first. Put it in eval mode to predict (`load_npnet` does): in training mode the Swin drops paths.
    """

    def __init__(self, config: NPNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NPNetConfig()
        self.metadata: dict[str, str] = {}  # what the weight file says about itself
        # The names of the modules are the prefixes of the keys in weight files.
        self.unet_svd = SingularBranch(config) if config.use_singular else None
        self.unet_embedding = ResidualBranch(config) if config.use_residual else None
        self.text_embedding = TextBranch(config) if config.use_text else None
        self.layout = LayoutBranch(config) if config.layout_rank else None
        self.alpha = nn.Parameter(torch.zeros(1), requires_grad=config.use_text)
        self.beta = nn.Parameter(torch.zeros(1), requires_grad=config.use_residual)

    def forward(self, source_noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predict the golden noise: (B, C, H, W) noise and (B, T, D) prompt embeddings -> (B, C, H, W), noise's dtype.

        Computed in fp32 whatever comes in, also under autocast. Any batch size; rows do not see each other.

        Raises: InvalidInput on other shapes than the config's, or on NaN and infinite noise in the singular branch.
        """
        return self.branches(source_noise, prompt_embeds)["golden"].to(source_noise.dtype)

    def branches(self, source_noise: Tensor, prompt_embeds: Tensor) -> dict[str, Tensor]:
        """What each branch says before its weight (text_embedding, residual, singular, layout) and golden, in fp32.

        Of a branch that is switched off, singular is the source noise and the others are zeros.
        """
        self._check_shapes(source_noise, prompt_embeds)
        with torch.autocast(source_noise.device.type, enabled=False):
            noise, prompt_embeds = source_noise.float(), prompt_embeds.float()
            none = torch.zeros_like(noise)
            text = none if self.text_embedding is None else self.text_embedding(noise, prompt_embeds)
            residual = none if self.unet_embedding is None else self.unet_embedding(noise, text)
            singular = noise if self.unet_svd is None else self.unet_svd(noise)
            layout = none if self.layout is None else self.layout(noise, prompt_embeds)
            golden = singular + (2 * torch.sigmoid(self.alpha) - 1) * text + self.beta * residual + layout
        return {"text_embedding": text, "residual": residual, "singular": singular, "layout": layout, "golden": golden}

    def _check_shapes(self, source_noise: Tensor, prompt_embeds: Tensor) -> None:
        config = self.config
        if source_noise.ndim != 4 or tuple(source_noise.shape[1:]) != (config.channels, config.height, config.width):
            raise InvalidInput(
                f"This NPNet takes source noise of shape (batch, {config.channels}, {config.height}, {config.width}), "
                f"got {tuple(source_noise.shape)}."
            )
        expected = (source_noise.shape[0], config.num_tokens, config.embedding_dim)
        if tuple(prompt_embeds.shape) != expected:
            raise InvalidInput(
                f"This NPNet takes prompt embeddings of shape {expected}, got {tuple(prompt_embeds.shape)}."
            )


# ---------------------------------------------------------------------------------------------------------------------
# Published weights by name


@dataclass(frozen=True)
class PublishedNPNet:
    """Where the weights of a published NPNet are, and what pipelines it fits.

    `repos` are asked in their order for a weight file whose name holds one of `words` and none of `other_words`, in
    any case: the repositories name their files each in their own way. `embedding_dim` and `latent_size` are the prompt
    embedding's width and the latents' height and width.
    """

    words: tuple[str, ...]
    other_words: tuple[str, ...] = ()
    channels: int = 4
    embedding_dim: int = 2048
    latent_size: int = 128
    repos: tuple[str, ...] = ("asagi4/NPNet", "LucipherDev/Golden-Noise-NPNets", "Klayand/GoldenNoiseModel")

    def pick(self, files: Iterable[str]) -> str | None:
        """The weight file of this NPNet among a repository's, safetensors before others, or None."""
        fitting = [
            file
            for file in files
            if file.endswith((".safetensors", ".pth", ".pt", ".bin"))
            and any(word in file.lower() for word in self.words)
            and not any(word in file.lower() for word in self.other_words)
        ]
        return min(fitting, key=lambda file: (not file.endswith(".safetensors"), len(file), file), default=None)


_SDXL, _DREAMSHAPER, _HUNYUAN = ("sdxl", "sd_xl", "sd-xl"), ("dreamshaper",), ("hunyuan", "dit")

NPNETS: dict[str, PublishedNPNet] = {
    "sdxl": PublishedNPNet(_SDXL, (*_DREAMSHAPER, *_HUNYUAN)),
    "dreamshaper": PublishedNPNet(_DREAMSHAPER),
    "hunyuan-dit": PublishedNPNet(_HUNYUAN, (*_DREAMSHAPER, *_SDXL), embedding_dim=1024),
}


def find_npnet(name: str | Path) -> Path:
    """The weight file of a name of NPNETS or, as it is, of a path; a published one is fetched from the hub if need be.

    Raises: InvalidInput for a URL; MissingWeights if the file is neither on this machine nor to be fetched.
    """
    refuse_url(str(name))
    if Path(name).is_file():
        return Path(name)
    published = NPNETS.get(str(name))
    if published is None:
        if Path(name).suffix:
            return Path(name)  # reading it will say that it is not there
        raise MissingWeights(
            f"No NPNet {str(name)[:80]!r}: give a weight file, or one of {', '.join(NPNETS)}, which are published."
        )
    for repo in published.repos:  # what was fetched once is found without the network
        folder = cached_folder(repo)
        here = [path for path in folder.rglob("*") if path.is_file()] if folder else []
        kept = published.pick(path.relative_to(folder).as_posix() for path in here) if folder else None
        if folder and kept:
            return folder / kept
    reason = "no repository has a file of that name"
    for repo in published.repos:
        try:
            file = published.pick(list_files(repo))
            if file:
                return fetch_file(repo, file)
        except MissingWeights as error:
            reason = _reason_of(error)
            if not isinstance(error.__cause__, HfHubHTTPError):  # no answer at all: the next would have none, either
                break
    raise MissingWeights(
        f"The NPNet {name!r} is not on this machine and could not be fetched ({reason}): download it from "
        f"https://huggingface.co/{published.repos[0]} and give the file's path as NPNet, or run once with the hub in "
        f"reach."
    )


def _reason_of(error: MissingWeights) -> str:
    """What the hub's client said, in short."""
    cause = str(error.__cause__ or error).strip().splitlines() or [type(error.__cause__).__name__]
    return cause[0][:160].rstrip(".")


# ---------------------------------------------------------------------------------------------------------------------
# Weight files


def save_npnet(path: str | Path, net: NPNet, metadata: dict[str, str] | None = None) -> None:
    """Write our own safetensors file: the weights, the config and `metadata` in its header, its SHA-256 beside it."""
    if Path(path).suffix != ".safetensors":
        raise InvalidInput(f"NPNet weights are saved as .safetensors, got the name {Path(path).name}.")
    save_weights(path, net.state_dict(), {**(metadata or {}), CONFIG_KEY: json.dumps(asdict(net.config))})


def load_npnet(path: str | Path, **overrides: Any) -> NPNet:
    """Read an NPNet, in eval mode, on the CPU, without gradients (`.requires_grad_(True).train()` to train it further).

    `path` is a file or a name of NPNETS. Reads our own safetensors; the published `.pth`; the two flattened safetensors
    spellings that the community made of it; each with the Swin keys of any timm version. `overrides` replace fields of
    the config, e.g. `load_npnet(path, attention=False)` for published weights the way they were trained.

    Raises: MissingWeights if there is no such file; BadWeights if it is damaged or not an NPNet, naming the keys that
    are missing, unexpected or of another shape; InvalidInput on an override that is no field of NPNetConfig.
    """
    path = find_npnet(path)
    name = path.name
    entries, metadata = load_weights(path)
    tensors = _translate(name, _flatten(name, entries))
    config = _read_config(name, metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else _published_config(tensors)
    unknown = sorted(set(overrides) - {entry.name for entry in fields(NPNetConfig)})
    if unknown:
        known = ", ".join(entry.name for entry in fields(NPNetConfig))
        raise InvalidInput(f"NPNetConfig has no field {unknown[0]!r}; its fields are {known}.")
    config = replace(config, **overrides)
    with torch.device("meta"):  # sizes without memory: what the file's config asks for may be more than there is
        plan = NPNet(config)
    tensors = {key: value for key, value in tensors.items() if not _belongs_to_absent_branch(key, plan)}
    _check_entries(name, tensors, plan)
    with torch.random.fork_rng(devices=[]):  # the first, random weights shall not move the caller's seeds
        net = NPNet(config)
    net.load_state_dict(tensors)
    net.metadata = {key: value for key, value in metadata.items() if key != CONFIG_KEY}
    return net.requires_grad_(False).eval()


def _flatten(name: str, entries: dict) -> dict[str, Tensor]:
    """{"unet_svd": {"bn.bias": t}} and {"unet_svd.bn.bias": t} both become the second; only tensors are let through."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        nested = isinstance(value, dict)
        flat.update({f"{key}.{inner}": v for inner, v in value.items()} if nested else {str(key): value})
    for key, value in flat.items():
        if not isinstance(value, Tensor):
            raise BadWeights(f"{name} is not an NPNet: its entry {key} is a {type(value).__name__}, not a tensor.")
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.is_complex():
            raise BadWeights(f"{name} is not an NPNet: its entry {key} is not a plain tensor of real numbers.")
    return flat


def _translate(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Foreign keys -> ours: the published misspelling, and what older timm versions saved for a Swin.

    timm up to 0.6 put the step between two stages at the end of the earlier one, where newer versions have it at the
    start of the later one. Before 0.9.16 tables that follow from the sizes were saved too. The classifier (`head`) is
    never used here and is dropped.
    """
    swin = "unet_embedding.swin."
    old_stages = f"{swin}layers.0.downsample.reduction.weight" in tensors
    translated: dict[str, Tensor] = {}
    for key, value in tensors.items():
        new = re.sub(r"^embeeding\.", "text_embedding.", key)
        if new.startswith(swin):
            if new.startswith(f"{swin}head.") or new.endswith((".attn_mask", ".relative_position_index")):
                continue
            if old_stages:
                new = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", new)
        if new in translated:
            raise BadWeights(f"{name} holds {new} twice, under two spellings.")
        translated[new] = value.reshape(1) if new in ("alpha", "beta") and value.numel() == 1 else value
    return translated


def _published_config(tensors: dict[str, Tensor]) -> NPNetConfig:
    """The published networks differ in the width of the text encoder alone."""
    config = NPNetConfig()
    weight = tensors.get("text_embedding.linear.weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] % config.num_tokens:
        return config  # the comparison of keys and shapes will say what is wrong
    return replace(config, embedding_dim=min(max(weight.shape[1] // config.num_tokens, 1), 16384))


def _read_config(name: str, text: str) -> NPNetConfig:
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise InvalidInput(f"its config is a {type(values).__name__}.")
        swin: dict[str, Any] = values.pop("swin", {})
        swin = {key: tuple(v) if isinstance(v, list) else v for key, v in swin.items()}  # JSON knows no tuples
        return NPNetConfig(**values, swin=SwinConfig(**swin))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # InvalidInput is a ValueError
        raise BadWeights(f"{name} describes an NPNet that cannot be built: {error}") from error


def _belongs_to_absent_branch(key: str, net: NPNet) -> bool:
    branch = key.split(".")[0]
    return branch in ("unet_svd", "unet_embedding", "text_embedding", "layout") and getattr(net, branch) is None


def _check_entries(name: str, tensors: dict[str, Tensor], net: NPNet) -> None:
    expected = net.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    num_bytes = sum(value.nbytes for value in net.buffers())  # a Swin's tables are in no file
    if num_bytes > MAX_BUFFER_BYTES:
        raise BadWeights(f"{name} describes an NPNet that cannot be built: its Swin's tables take {num_bytes} bytes.")
    faults = [_count(missing, "missing"), _count(unexpected, "unexpected"), _count(misshapen, "of another shape")]
    if any(faults):
        raise BadWeights(f"{name} is not an NPNet of this kind: {'; '.join(filter(None, faults))}.")
    broken = next((key for key, value in tensors.items() if not torch.isfinite(value.float()).all()), None)
    if broken:
        raise BadWeights(f"{name} holds NaN or infinite numbers, first in {broken}.")


def _count(keys: Iterable[str], what: str, shown: int = 3) -> str:
    """ "4 keys missing (a, b, c, ...)", or "" for none."""
    keys = list(keys)
    if not keys:
        return ""
    listed = ", ".join([key[:120] for key in keys[:shown]] + ["..."] * (len(keys) > shown))
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} ({listed})"
