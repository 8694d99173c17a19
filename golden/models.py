"""The models that golden knows: where they are, and the settings that the paper uses with them."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import InvalidInput
from .families import FAMILIES, Family, family_of_class
from .files import ASSETS
from .hub import HUB_ID, fetch_file


@dataclass(frozen=True)
class Sampling:
    """How noise becomes an image. `sampler` is a name of SAMPLERS or a scheduler."""

    sampler: str | Any = "ddim"
    num_inference_steps: int = 50
    guidance_scale: float = 5.5


@dataclass(frozen=True)
class Redenoise:
    """The settings of re-denoise sampling: `num_steps_down` of `num_inference_steps` steps down, and as many back.

    `solver` is a name of SOLVERS in golden/noise.py. `evaluate_at` is the timestep at which the model is called for an
    inversion step: "t" (where it leads, as in the published code and the paper's Eq. 2) or "t-k" (where the latents
    are). `norm` is what the source noise is multiplied by first.
    Flows step down from sigma 1 to `sigma_down`, in `num_steps_down` equal parts, and read neither `solver` nor
    `num_inference_steps`. By default the change is as large, for the same change of the image, as that of DDIM's first
    of ten steps with SDXL's noise levels: 1 - sigma_down is alpha (1 - sigma' alpha / (sigma alpha')) = 0.046 there.
    Differs from the paper, whose values are the defaults: several small steps, from noise of a smaller norm, suit the
    embedded model better.
    """

    guidance_scale: float = 5.5
    inversion_guidance_scale: float = 1.0
    num_inference_steps: int = 10
    num_steps_down: int = 1
    solver: str = "ddim"
    evaluate_at: str = "t"
    norm: float = 1.0
    sigma_down: float = 0.95


@dataclass(frozen=True)
class RewardSettings:
    """What a noise is rewarded for: `weights` by name, "verifier" or judges, after the first of some steps.

    `num_steps` of a schedule of `num_inference_steps` are taken. The verifier sees the latents by then, judges the
    image that is expected. Without a `guidance_scale` it is the model's own.
    """

    weights: tuple[tuple[str, float], ...] = (("verifier", 1.0),)
    num_inference_steps: int = 10
    num_steps: int = 4
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps < self.num_inference_steps:
            raise InvalidInput(
                f"A reward takes 1 to {self.num_inference_steps - 1} of {self.num_inference_steps} steps, "
                f"got {self.num_steps}."
            )


@dataclass(frozen=True)
class Parts:
    """What turns the model in a repository into another one.

    `unet` (a hub id, a folder, or a file `OWNER/REPOSITORY/FILE.safetensors` of the hub), `loras` (such files, or local
    ones) and `timestep_spacing` (of the schedule) make a few-step model; `controlnet` (a hub id or a folder) is what
    steers it by an image, if the repository has none of its own.
    """

    unet: str | None = None
    loras: tuple[str, ...] = ()
    timestep_spacing: str | None = None
    controlnet: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A text-to-image model and its defaults.

    `repo` is a hub id or a local folder; `pipeline` the diffusers class that loads it; `npnet` a name of NPNETS, a
    local file, or None; `verifier` a local file, or None, and `verifier_of` the name of the model whose network its
    encoder is, if that is another one with the same autoencoder and text encoders; `checker` a name of CHECKERS, or
    None if its images cannot be checked by rule. `best_norm` is what the source noise is best multiplied by where
    nothing else is done to it, chosen on other prompts than those of `test_sets`, which are names of TEST_SETS in
    golden/shapes. `size_limits` are the smallest and largest side that it can draw, as shares of its native one.
    """

    name: str
    repo: str
    title: str = ""
    pipeline: str = "StableDiffusionXLPipeline"
    revision: str | None = None
    variant: str | None = "fp16"
    sampling: Sampling = field(default_factory=Sampling)
    redenoise: Redenoise = field(default_factory=Redenoise)
    reward: RewardSettings = field(default_factory=RewardSettings)
    parts: Parts = field(default_factory=Parts)
    npnet: str | None = None
    verifier: str | None = None
    verifier_of: str | None = None
    checker: str | None = None
    best_norm: float = 1.0
    test_sets: tuple[str, ...] = ()
    size_limits: tuple[float, float] = (0.0, 2.0)  # an image's time grows faster than its area

    @property
    def is_embedded(self) -> bool:
        """Whether its weights are in this repository."""
        return Path(self.repo).is_relative_to(ASSETS)

    @property
    def has_verifier(self) -> bool:
        """Whether the file of a verifier is there; it is not read."""
        return bool(self.verifier) and Path(self.verifier or "").is_file()

    @property
    def family(self) -> Family:
        return family_of_class(self.pipeline)

    @property
    def has_guidance_gap(self) -> bool:
        """Whether guidance makes a difference that re-denoise sampling can find: few-step models may do without it."""
        return self.family.has_guidance_gap and self.sampling.guidance_scale > 1

    @property
    def needs_control(self) -> bool:
        """Whether a ControlNet takes a control image beside the prompt."""
        return self.pipeline == self.family.controlnet_class


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
            "Shapes (embedded)",
            variant=None,
            sampling=Sampling(num_inference_steps=20),
            # See train/shapes/README.md.
            redenoise=Redenoise(guidance_scale=2.5, num_inference_steps=20, num_steps_down=5),
            reward=RewardSettings(num_inference_steps=20, num_steps=4),
            best_norm=0.8,
            npnet=str(ASSETS / "shapes" / "npnet.safetensors"),
            verifier=str(ASSETS / "shapes" / "verifier.safetensors"),
            checker="shapes",
            test_sets=("shapes-553", "shapes-hard-400"),
            # Tried at 64 to 256 pixels: below 96 objects are cut off, and "three yellow stars" are 4 at 160, 7 at 192
            # and 12 at 256.
            size_limits=(0.75, 1.25),
        ),
        ModelSpec(
            "shapes-flow",
            str(ASSETS / "shapes-flow" / "model"),
            "Shapes, flow matching (embedded)",
            pipeline="StableDiffusion3Pipeline",
            variant=None,
            sampling=Sampling("flow_euler", 20, 4.0),
            redenoise=Redenoise(guidance_scale=4.0),
            best_norm=0.8,
            npnet=str(ASSETS / "shapes-flow" / "npnet.safetensors"),
            # It was taught by the UNet of shapes, and has its autoencoder and text encoders.
            verifier=str(ASSETS / "shapes-flow" / "verifier.safetensors"),
            verifier_of="shapes",
            checker="shapes",
            test_sets=("shapes-553", "shapes-hard-400"),
            size_limits=(0.75, 1.25),
        ),
        ModelSpec("sdxl", _SDXL, "Stable Diffusion XL", revision=_SDXL_REVISION, npnet="sdxl"),
        ModelSpec(
            "dreamshaper",
            "Lykon/dreamshaper-xl-v2-turbo",
            "DreamShaper XL v2 turbo",
            sampling=Sampling("dpm", 4, 3.5),
            redenoise=Redenoise(guidance_scale=3.5, solver="dpm"),
            npnet="dreamshaper",
        ),
        ModelSpec(
            "hunyuan-dit",
            "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
            "Hunyuan-DiT v1.2",
            pipeline="HunyuanDiTPipeline",
            variant=None,
            sampling=Sampling(guidance_scale=5.0),
            redenoise=Redenoise(guidance_scale=5.0),
            npnet="hunyuan-dit",
        ),
        ModelSpec(
            "sdxl-lightning",
            _SDXL,
            "SDXL-Lightning, 4 steps",
            revision=_SDXL_REVISION,
            sampling=Sampling("euler", 4, 1.0),
            parts=Parts("ByteDance/SDXL-Lightning/sdxl_lightning_4step_unet.safetensors", timestep_spacing="trailing"),
            npnet="sdxl",
        ),
        ModelSpec(
            "lcm-sdxl",
            _SDXL,
            "LCM-SDXL, 4 steps",
            revision=_SDXL_REVISION,
            sampling=Sampling("lcm", 4, 8.0),  # guidance is an input of this UNet, so that it costs no second pass
            parts=Parts("latent-consistency/lcm-sdxl"),
            npnet="sdxl",
        ),
        ModelSpec(
            "pcm-sdxl",
            _SDXL,
            "PCM-SDXL, 8 steps",
            revision=_SDXL_REVISION,
            sampling=Sampling("tcd", 8, 7.5),
            parts=Parts(
                loras=("wangfuyun/PCM_Weights/sdxl/pcm_sdxl_normalcfg_8step_converted.safetensors",),
                timestep_spacing="trailing",
            ),
            npnet="sdxl",
        ),
        ModelSpec(
            "sdxl-turbo",
            "stabilityai/sdxl-turbo",
            "SDXL-Turbo, 4 steps",
            revision="71153311d3dbb46851df1931d3ca6e939de83304",
            sampling=Sampling("euler_a", 4, 1.0),
            parts=Parts(timestep_spacing="trailing"),
            npnet=None,  # its images are 512 x 512, and no NPNet was published for that size
        ),
        # Steps and guidance of the families below: the model cards. No NPNet was published for them.
        ModelSpec(
            "pixart-sigma",
            "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
            "PixArt-Sigma",
            pipeline="PixArtSigmaPipeline",
            variant=None,
            # In half precision T5 takes 9.5 GB and the rest 1.5: memory "low" on cards of less than 16 GB.
            sampling=Sampling("dpm", 20, 4.5),
            redenoise=Redenoise(guidance_scale=4.5),
        ),
        ModelSpec(
            "sd3.5-medium",
            "stabilityai/stable-diffusion-3.5-medium",
            "Stable Diffusion 3.5 medium",
            pipeline="StableDiffusion3Pipeline",
            variant=None,
            # 5 GB of transformer and 11 of text encoders, T5 above all.
            sampling=Sampling("flow_euler", 40, 4.5),
            redenoise=Redenoise(guidance_scale=4.5),
        ),
        ModelSpec(
            "sd3.5-large",
            "stabilityai/stable-diffusion-3.5-large",
            "Stable Diffusion 3.5 large",
            pipeline="StableDiffusion3Pipeline",
            variant=None,
            # 16 GB of transformer and 11 of text encoders: memory "low" on cards of less than 32 GB.
            sampling=Sampling("flow_euler", 28, 3.5),
            redenoise=Redenoise(guidance_scale=3.5),
        ),
        ModelSpec(
            "flux-dev",
            "black-forest-labs/FLUX.1-dev",
            "FLUX.1-dev",
            pipeline="FluxPipeline",
            variant=None,
            # 24 GB of transformer and 10 of T5. The card's guidance of 3.5 is an input of the network and stays; this
            # one is on top of it, costs a second pass, and is mild, since the network was distilled to do without.
            sampling=Sampling("flow_euler", 50, 2.0),
            redenoise=Redenoise(guidance_scale=2.0),
        ),
        ModelSpec(
            "flux-schnell",
            "black-forest-labs/FLUX.1-schnell",
            "FLUX.1-schnell, 4 steps",
            pipeline="FluxPipeline",
            variant=None,
            sampling=Sampling("flow_euler", 4, 1.0),  # as large as FLUX.1-dev, and without guidance
        ),
        ModelSpec(
            "flux2-klein-base",
            "black-forest-labs/FLUX.2-klein-base-4B",
            "FLUX.2 [klein] base 4B",
            pipeline="Flux2KleinPipeline",
            variant=None,
            # 8 GB of transformer and 8 of text encoder.
            sampling=Sampling("flow_euler", 50, 4.0),
            redenoise=Redenoise(guidance_scale=4.0),
        ),
        ModelSpec(
            "flux2-klein",
            "black-forest-labs/FLUX.2-klein-4B",
            "FLUX.2 [klein] 4B, 4 steps",
            pipeline="Flux2KleinPipeline",
            variant=None,
            sampling=Sampling("flow_euler", 4, 1.0),  # as large as its base, and without guidance
        ),
        ModelSpec(
            "z-image",
            "Tongyi-MAI/Z-Image",
            "Z-Image",
            pipeline="ZImagePipeline",
            variant=None,
            # 12 GB of transformer and 8 of text encoder. The card's guidance of 4 is 5 as it is counted here.
            sampling=Sampling("flow_euler", 50, 5.0),
            redenoise=Redenoise(guidance_scale=5.0),
        ),
        ModelSpec(
            "z-image-turbo",
            "Tongyi-MAI/Z-Image-Turbo",
            "Z-Image-Turbo, 9 steps",
            pipeline="ZImagePipeline",
            variant=None,
            sampling=Sampling("flow_euler", 9, 1.0),  # as large as Z-Image, and without guidance
        ),
        ModelSpec(
            "qwen-image",
            "Qwen/Qwen-Image",
            "Qwen-Image",
            pipeline="QwenImagePipeline",
            variant=None,
            # 41 GB of transformer and 17 of text encoder: memory "low" on cards of less than 64 GB.
            sampling=Sampling("flow_euler", 50, 4.0),
            redenoise=Redenoise(guidance_scale=4.0),
        ),
        ModelSpec(
            "sana",
            "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
            "SANA 1.6B",
            pipeline="SanaPipeline",
            variant="bf16",
            # 3 GB of transformer, 5 of text encoder and 1 of autoencoder.
            sampling=Sampling("flow_dpm", 20, 4.5),
            redenoise=Redenoise(guidance_scale=4.5),
        ),
        ModelSpec(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "Stable Diffusion 1.5",
            pipeline="StableDiffusionPipeline",
            # 2 GB.
            sampling=Sampling(guidance_scale=7.5),
            redenoise=Redenoise(guidance_scale=7.5),
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
        title = index.parent.resolve().name
        # A folder's name must not pass for a registered model, of which other things are expected.
        unique = str(name) if title in MODELS else title
        return replace(_read_defaults(index), name=unique, repo=str(name), title=title)
    if "+" in name:
        base, *parts = name.split("+")
        spec = find_model(base)
        for part in parts:
            spec = _add_part(spec, part)
        return spec
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        defaults = _read_defaults(fetch_file(name, "model_index.json"))
        return replace(defaults, name=name, repo=name, title=name.split("/")[1])
    raise InvalidInput(
        f"Unknown model {name!r}: choose one of {', '.join(MODELS)}, a folder with a model_index.json, or "
        "OWNER/REPOSITORY on the Hugging Face Hub."
    )


def _add_part(spec: ModelSpec, part: str) -> ModelSpec:
    """The model with a LoRA or a ControlNet on top. Raises: InvalidInput for what is neither, or does not fit."""
    title = Path(part).name.removesuffix(".safetensors")
    named = replace(spec, name=f"{spec.name}+{part}", title=f"{spec.title} + {title}")
    if part.endswith(".safetensors"):
        return replace(named, parts=replace(spec.parts, loras=(*spec.parts.loras, part)))
    if not (Path(part) / "config.json").is_file() and not HUB_ID.fullmatch(part):
        raise InvalidInput(
            "What follows a + is a LoRA (a .safetensors file) or a ControlNet (a folder with a config.json, or "
            f"OWNER/REPOSITORY), got {part[:80]!r}."
        )
    steered = spec.family.controlnet_class
    if spec.needs_control or steered is None:
        raise InvalidInput(
            f"{part[:80]!r} does not fit: models of {_with_controlnet()} take one ControlNet, other models none."
        )
    return replace(named, parts=replace(spec.parts, controlnet=part), pipeline=steered)


def _with_controlnet() -> str:
    return ", ".join(family.title for family in FAMILIES.values() if family.controlnet_class)


def _read_defaults(index: Path) -> ModelSpec:
    """A spec with the settings of its family's base model, for the pipeline class named in a model_index.json."""
    try:
        class_name = str(json.loads(index.read_text())["_class_name"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InvalidInput(f"{index} is damaged: it should be a JSON object that names a pipeline class.") from None
    try:
        family = family_of_class(class_name)
    except InvalidInput as error:
        raise InvalidInput(f"{index} cannot be used. {error}") from None
    base = MODELS[family.base_model]
    if class_name not in (base.pipeline, family.controlnet_class):
        allowed = " or ".join(filter(None, (base.pipeline, family.controlnet_class)))
        raise InvalidInput(f"{index} is of class {class_name[:80]!r}: choose a folder of {allowed}.")
    return replace(base, pipeline=class_name, revision=None, variant=None, npnet=None, verifier=None)
