"""The families of pipelines that golden noise is made for. A new one is one file here and its line in FAMILIES."""

from typing import Any

from ..errors import InvalidInput
from .base import Embeddings, Family
from .flux import Flux
from .flux2 import Flux2Klein
from .hunyuan import HunyuanDiT
from .pixart import PixArtSigma
from .qwen_image import QwenImage
from .sana import Sana
from .sd import StableDiffusion
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .z_image import ZImage

__all__ = ["FAMILIES", "Embeddings", "Family", "family_of_class", "find_family"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        StableDiffusionXL(),
        HunyuanDiT(),
        PixArtSigma(),
        StableDiffusion3(),
        Flux(),
        Flux2Klein(),
        ZImage(),
        QwenImage(),
        Sana(),
        StableDiffusion(),
    )
}


def find_family(pipeline: Any) -> Family:
    """The family of a loaded pipeline. Raises: InvalidInput listing the families."""
    return family_of_class(*(parent.__name__ for parent in type(pipeline).__mro__))


def family_of_class(*class_names: str) -> Family:
    """The family of a pipeline class, from its name or else those of its parents. Raises: InvalidInput.

    Only names of pipelines count. AnimateDiff's pipelines, whose latents have a frame axis, inherit loaders from
    StableDiffusionXL and are no pipelines of it.
    """
    for name in (name for name in class_names if name.endswith("Pipeline")):
        for family in FAMILIES.values():
            if name.startswith(family.class_prefix):
                return family
    supported = ", ".join(f"{family.title} ({family.class_prefix}...)" for family in FAMILIES.values())
    raise InvalidInput(f"Golden noise supports the pipelines of {supported}; this is a {class_names[0][:80]!r}.")
