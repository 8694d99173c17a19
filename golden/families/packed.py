"""What pipelines have in common that take latents as tokens, each a square of 2 x 2 cells with all its channels."""

from typing import TYPE_CHECKING, Any

from .base import Family

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = 2


class PackedFamily(Family):
    """Latents (B, C, h, w) are packed to (B, h w / 4, 4 C) for the pipeline, and unpacked from what it returns."""

    noise = "16 channels, 8 pixels"
    is_flow = True
    half_precision = "bfloat16"

    def patch_size(self, pipeline: Any) -> int:
        return _SIDE

    def native_size(self, pipeline: Any) -> int:
        return int(pipeline.default_sample_size)

    def guidance_arguments(self, guidance_scale: float) -> dict[str, Any]:
        """Their `guidance_scale` is an input of the network and no guidance between two predictions."""
        return {"true_cfg_scale": guidance_scale}

    def embedding_dim(self, pipeline: Any) -> int:
        return int(self.network(pipeline).config.joint_attention_dim)

    def pack(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        cells = latents.unflatten(3, (-1, _SIDE)).unflatten(2, (-1, _SIDE))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpack(self, pipeline: Any, packed: "Tensor", height: int, width: int) -> "Tensor":
        cells = packed.unflatten(2, (-1, _SIDE, _SIDE)).unflatten(1, (height // _SIDE, width // _SIDE))
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
