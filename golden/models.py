"""The models that golden knows: where they are, and the settings that the paper uses with them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import huggingface_hub

from .errors import InvalidInput, MissingWeights
from .files import ASSETS

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ModelSpec:
    """A text-to-image model and its defaults.

    `repo` is a hub id or a local folder; `pipeline` the diffusers class that loads it; `npnet` a name of NPNETS, a
    local file, or None; `redenoise_*` are the settings of pair collection. What makes a few-step model of `repo` are
    `unet` (a hub id, a folder, or a file `OWNER/REPOSITORY/FILE.safetensors` of the hub), `loras` (such files, or
    local ones) and `timestep_spacing` (of the schedule, where it is not that of `repo`). `controlnet` (a hub id or a
    folder) is what steers it by a picture, where `repo` has none of its own.
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
    redenoise_schedule: tuple[int, int] = (10, 1)  # steps in all, and how many of them are taken down and back
    redenoise_length: float = 1.0  # what the source noise is multiplied by first
    title: str = ""
    unet: str | None = None
    loras: tuple[str, ...] = ()
    timestep_spacing: str | None = None
    controlnet: str | None = None

    @property
    def is_shapes(self) -> bool:
        """Whether prompts are captions of the shapes world, so that pictures can be checked exactly."""
        return self.name == "shapes"

    @property
    def is_steered(self) -> bool:
        """Whether a ControlNet wants a control picture beside the prompt."""
        return self.pipeline == _STEERED


_STEERED = "StableDiffusionXLControlNetPipeline"
_SDXL, _SDXL_REVISION = "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"

# Source: the paper's section 5.1 and Table 10 for steps, guidance and samplers; for few-step models the published
# code's README (4 steps of Lightning, 4 of LCM, 8 of PCM, with SDXL's NPNet) and the model cards. A guidance scale of 1
# is what the cards of Lightning and Turbo write as 0: no guidance.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "shapes",
            str(ASSETS / "shapes" / "model"),
            variant=None,
            num_inference_steps=20,
            npnet=str(ASSETS / "shapes" / "npnet.safetensors"),
            # Differs from the paper: gentle, in several small steps, from shorter noise; see train/shapes/README.md.
            redenoise_guidance_scale=2.5,
            redenoise_schedule=(20, 5),
            redenoise_length=0.7,
            title="Shapes (embedded)",
        ),
        ModelSpec(
            "sdxl",
            _SDXL,
            revision=_SDXL_REVISION,
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
        ModelSpec(
            "sdxl-lightning",
            _SDXL,
            revision=_SDXL_REVISION,
            num_inference_steps=4,
            guidance_scale=1.0,
            sampler="euler",
            npnet="sdxl",
            title="SDXL-Lightning, 4 steps",
            unet="ByteDance/SDXL-Lightning/sdxl_lightning_4step_unet.safetensors",
            timestep_spacing="trailing",
        ),
        ModelSpec(
            "lcm-sdxl",
            _SDXL,
            revision=_SDXL_REVISION,
            num_inference_steps=4,
            guidance_scale=8.0,  # an input of this UNet, so that it costs no second pass
            sampler="lcm",
            npnet="sdxl",
            title="LCM-SDXL, 4 steps",
            unet="latent-consistency/lcm-sdxl",
        ),
        ModelSpec(
            "pcm-sdxl",
            _SDXL,
            revision=_SDXL_REVISION,
            num_inference_steps=8,
            guidance_scale=7.5,
            sampler="tcd",
            npnet="sdxl",
            title="PCM-SDXL, 8 steps",
            loras=("wangfuyun/PCM_Weights/sdxl/pcm_sdxl_normalcfg_8step_converted.safetensors",),
            timestep_spacing="trailing",
        ),
        ModelSpec(
            "sdxl-turbo",
            "stabilityai/sdxl-turbo",
            revision="71153311d3dbb46851df1931d3ca6e939de83304",
            num_inference_steps=4,
            guidance_scale=1.0,
            sampler="euler_a",
            npnet=None,  # it paints 512 x 512, and no NPNet was published for that
            title="SDXL-Turbo, 4 steps",
            timestep_spacing="trailing",
        ),
    )
}


def find_model(name: str) -> ModelSpec:
    """The spec of a registered name, or one made for a local diffusers folder or a hub id, and LoRAs on top of any.

    `NAME+LORA` is the model NAME with a LoRA fused into it: a local `.safetensors` file, or one of the hub written as
    `OWNER/REPOSITORY/FILE.safetensors`. More than one can follow. `NAME+CONTROLNET`, a folder or `OWNER/REPOSITORY`, is
    NAME steered by a ControlNet.

    Raises: InvalidInput listing the valid names; MissingWeights for a hub id that is neither here nor to be fetched.
    """
    if name in MODELS:
        return MODELS[name]
    index = Path(name) / "model_index.json"
    if index.is_file():
        family = _read_family(index)
        title = index.parent.resolve().name
        # A folder's name must not pass for a registered model, of which other things are expected.
        unique = str(name) if title in MODELS else title
        return replace(family, name=unique, repo=str(name), title=title)
    if "+" in name:
        base, *parts = name.split("+")
        spec = find_model(base)
        for part in parts:
            spec = _add_part(spec, part)
        return spec
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        family = _read_family(fetch_file(name, "model_index.json"))
        return replace(family, name=name, repo=name, title=name.split("/")[1])
    raise InvalidInput(
        f"Unknown model {name!r}: choose one of {', '.join(MODELS)}, or a folder with a model_index.json."
    )


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def _add_part(spec: ModelSpec, part: str) -> ModelSpec:
    """The model with a LoRA or a ControlNet on top. Raises: InvalidInput for what is neither, or does not fit."""
    title = Path(part).name.removesuffix(".safetensors")
    named = replace(spec, name=f"{spec.name}+{part}", title=f"{spec.title} + {title}")
    if part.endswith(".safetensors"):
        return replace(named, loras=(*spec.loras, part))
    if not (Path(part) / "config.json").is_file() and not _HUB_ID.fullmatch(part):
        raise InvalidInput(
            "What follows a + is a LoRA (a .safetensors file) or a ControlNet (a folder with a config.json, or "
            f"OWNER/REPOSITORY), got {part[:80]!r}."
        )
    if spec.is_steered or "XL" not in spec.pipeline:
        raise InvalidInput(f"{part[:80]!r} does not fit: a model of SDXL's class takes one ControlNet, others none.")
    return replace(named, controlnet=part, pipeline=_STEERED)


def _read_family(index: Path) -> ModelSpec:
    """A spec with the defaults of the registered model that is of the pipeline class named in a model_index.json."""
    families = {spec.pipeline: spec for spec in (MODELS["sdxl"], MODELS["hunyuan-dit"])}
    families[_STEERED] = replace(MODELS["sdxl"], pipeline=_STEERED)
    try:
        class_name = str(json.loads(index.read_text())["_class_name"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InvalidInput(f"{index} is damaged: it should be a JSON object that names a pipeline class.") from None
    if class_name not in families:
        raise InvalidInput(f"{index} is of class {class_name[:80]!r}: choose a folder of {' or '.join(families)}.")
    return replace(families[class_name], revision=None, variant=None, npnet=None)


# --- the Hugging Face hub ---------------------------------------------------------------------------------------------


def find_file(name: str) -> Path:
    """A local file, or `OWNER/REPOSITORY/FILE` of the hub, which is fetched if need be.

    Raises: InvalidInput for a URL; MissingWeights if it is neither on this machine nor to be fetched.
    """
    refuse_url(name)
    if Path(name).is_file():
        return Path(name)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file) or owner in (".", ".."):
        raise MissingWeights(f"There is no file {name}: give a local file, or OWNER/REPOSITORY/FILE of the hub.")
    return fetch_file(f"{owner}/{repository}", file)


def fetch_file(repo: str, file: str, revision: str | None = None) -> Path:
    """The path of a file of a local folder or of a hub repository, of which it is downloaded into the hub's cache.

    Raises: MissingWeights, which says what to fetch and where to put it.
    """
    if Path(repo).is_dir():
        return Path(repo) / file

    def download() -> Path:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))

    return _ask_hub(repo, file, download)


def list_files(repo: str) -> list[str]:
    """The files of a hub repository; without the hub, those of them that its cache on this machine has.

    Raises: MissingWeights if there are none.
    """
    folder = cached_folder(repo)
    if folder is not None and huggingface_hub.constants.HF_HUB_OFFLINE:
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return _ask_hub(repo, "its files", lambda: huggingface_hub.list_repo_files(repo))


def cached_folder(repo: str) -> Path | None:
    """Where the hub's cache on this machine has what was fetched of a repository, or None."""
    try:
        return Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except (OSError, ValueError):
        return None


def _ask_hub(repo: str, what: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except Exception as error:  # no network, no such repository, a gated one, ...: its client raises dozens of kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MissingWeights(
            f"{what} of {repo} is not on this machine, and the Hugging Face hub did not give it "
            f"({lines[0][:160].rstrip('.')}): download it from https://huggingface.co/{repo} and give its path, or "
            f"run once with the hub in reach so that it is kept in {huggingface_hub.constants.HF_HUB_CACHE}."
        ) from error


def refuse_url(name: str) -> None:
    """Raises: InvalidInput if a name is a URL: what is loaded is on this machine or in a repository of the hub."""
    if "://" in name:
        raise InvalidInput(f"{name[:80]!r} is a URL, which is never opened: download the file and give its path.")
