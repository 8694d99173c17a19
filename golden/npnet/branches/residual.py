"""The residual branch: a Swin transformer that reads the noise and its restyled form."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from ...errors import InvalidInput
from .base import BranchInput, Noise, Shapes, check_bools, check_integers


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
