"""The models that golden knows: where they are, and the settings that the paper uses with them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import InvalidInput
from .files import ASSETS


@dataclass(frozen=True)
class ModelSpec:
    """A text-to-image model and its defaults.

    `repo` is a hub id or a local folder; `pipeline` the diffusers class that loads it; `npnet` a name of NPNETS, a
    local file, or None; `redenoise_*` are the settings of pair collection.
    """

    name: str
    repo: str
    pipeline: str = "StableDiffusionXLPipeline"
    revision: str | None = None
    variant: str | None = "fp16"
    num_inference_steps: int = 50
    guidance_scale: float = 5.5
    sampler: str = "ddim"
    npnet: str | None = None
    redenoise_guidance_scale: float = 5.5
    redenoise_solver: str = "ddim"
    title: str = ""

    @property
    def is_shapes(self) -> bool:
        """Whether prompts are captions of the shapes world, so that pictures can be checked exactly."""
        return self.name == "shapes"


# Source: the paper's section 5.1 and Table 10 for steps, guidance and samplers; the model cards for few-step models.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "shapes",
            str(ASSETS / "shapes" / "model"),
            variant=None,
            num_inference_steps=20,
            npnet=str(ASSETS / "shapes" / "npnet.safetensors"),
            title="Shapes (embedded)",
        ),
        ModelSpec(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            npnet="sdxl",
            title="Stable Diffusion XL",
        ),
        ModelSpec(
            "dreamshaper",
            "Lykon/dreamshaper-xl-v2-turbo",
            num_inference_steps=4,
            guidance_scale=3.5,
            sampler="dpm",
            npnet="dreamshaper",
            redenoise_guidance_scale=3.5,
            redenoise_solver="dpm",
            title="DreamShaper XL v2 turbo",
        ),
        ModelSpec(
            "hunyuan-dit",
            "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
            pipeline="HunyuanDiTPipeline",
            variant=None,
            guidance_scale=5.0,
            npnet="hunyuan-dit",
            redenoise_guidance_scale=5.0,
            title="Hunyuan-DiT v1.2",
        ),
    )
}


def find_model(name: str) -> ModelSpec:
    """The spec of a registered name, or one made for a local diffusers folder.

    Raises: InvalidInput listing the valid names.
    """
    if name in MODELS:
        return MODELS[name]
    index = Path(name) / "model_index.json"
    if index.is_file():
        family = _read_family(index)
        title = index.parent.resolve().name
        # A folder's name must not pass for a registered model, of which other things are expected.
        unique = str(name) if title in MODELS else title
        return replace(family, name=unique, repo=str(name), revision=None, npnet=None, variant=None, title=title)
    raise InvalidInput(
        f"Unknown model {name!r}: choose one of {', '.join(MODELS)}, or a folder with a model_index.json."
    )


def _read_family(index: Path) -> ModelSpec:
    """The registered model whose defaults suit a folder's pipeline class."""
    families = {spec.pipeline: spec for spec in (MODELS["sdxl"], MODELS["hunyuan-dit"])}
    try:
        class_name = str(json.loads(index.read_text())["_class_name"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InvalidInput(f"{index} is damaged: it should be a JSON object that names a pipeline class.") from None
    if class_name not in families:
        raise InvalidInput(f"{index} is of class {class_name[:80]!r}: choose a folder of {' or '.join(families)}.")
    return families[class_name]
