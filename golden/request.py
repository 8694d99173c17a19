"""What to compare: one request, from which page, links, JSON, PNG files, API and command line are made."""

from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from .checkers import find_checker
from .checks import check_name, check_number, check_seed, check_side, check_whole, shown
from .errors import InvalidInput
from .flags import flag
from .models import ModelSpec, Sampling
from .samplers import MAX_STEPS_OF, SAMPLERS, check_sampler

MAX_STEPS = 200
MIN_GUIDANCE = 1.0  # below it the pipelines of diffusers switch guidance off, which is what 1 means
MAX_GUIDANCE = 30.0
MAX_STRENGTH = 3.0
MAX_PROMPT_CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What to compare. `arms` are names of ARMS; `strength` scales the change that each makes to the source noise.

    `control` is the image for a ControlNet, of any size; other models take none. `height` and `width` are those of the
    images in pixels, None for the native size; images of another size are not checked, since the checker and its
    prompts are made for the native one.
    """

    prompt: str = flag(help="what the image should show")
    seed: int = flag(0, "seed of the source noise, from 0")
    num_inference_steps: int = flag(20, "number of denoising steps")
    guidance_scale: float = flag(5.5, "classifier-free guidance, from 1 (none)")
    sampler: str = flag("ddim", f"one of {', '.join(SAMPLERS)}", metavar="NAME")
    strength: float = flag(1.0, "strength of golden noise: 0 is the source noise, 1 the arm's own")
    height: int | None = flag(None, "height in pixels (default: the native size)")
    width: int | None = flag(None, "width in pixels (default: the native size)")
    arms: tuple[str, ...] = flag(("standard", "npnet"), "names of the noises to compare")
    control: Image.Image | None = field(default=None, compare=False)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.sampler, self.num_inference_steps, self.guidance_scale)


def validate(request: CompareRequest, spec: ModelSpec) -> CompareRequest:
    """The request with exact types (5.0 steps become 5), once every value is allowed; `check_control` is apart.

    Raises: InvalidInput in one sentence with what was got and what is allowed.
    """
    prompt = _check_prompt(request.prompt, spec)
    sampler = check_sampler(request.sampler, spec.family.samplers)
    steps = check_whole("number of steps", request.num_inference_steps, 1, MAX_STEPS)
    if steps > (limit := MAX_STEPS_OF.get(sampler, MAX_STEPS)):
        raise InvalidInput(f"The sampler {sampler} takes at most {limit} steps, got {steps}.")
    return replace(
        request,
        prompt=prompt,
        seed=check_seed(request.seed),
        num_inference_steps=steps,
        guidance_scale=check_number("guidance scale", request.guidance_scale, MIN_GUIDANCE, MAX_GUIDANCE),
        strength=check_number("strength", request.strength, 0.0, MAX_STRENGTH),
        arms=_check_arms(request.arms, spec),
        height=check_side("height", request.height),
        width=check_side("width", request.width),
    )


def _check_prompt(prompt: Any, spec: ModelSpec) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInput("The prompt is empty: describe what the image should show.")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidInput(f"The prompt has {len(prompt)} characters: at most {MAX_PROMPT_CHARS} are allowed.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InvalidInput("The prompt contains invalid Unicode (a lone surrogate): type it again.")
    if checker := find_checker(spec.checker):
        checker.validate_prompt(prompt)
    return " ".join(prompt.split())


def _check_arms(arms: Any, spec: ModelSpec) -> tuple[str, ...]:
    if not isinstance(arms, tuple | list) or not arms:
        raise InvalidInput(f"The arms must be a list of names, got {shown(arms)}.")
    from .arms import ARMS, arms_for  # brings torch and diffusers, which the help of a command does without

    # What the model lacks is told by the arm itself; here it is only left out of what there is to choose from.
    available = arms_for(spec, has_npnet=True, has_verifier=spec.has_verifier)
    for arm in arms:
        check_name("arm", arm, ARMS if isinstance(arm, str) and arm in ARMS else available)
    if len(set(arms)) < len(arms):
        raise InvalidInput(f"Each arm can be compared only once, got {', '.join(arms)}.")
    return tuple(arms)


def check_control(control: Image.Image | None, spec: ModelSpec) -> None:
    """Raises: InvalidInput if a ControlNet has no control image, or another model has one."""
    if spec.needs_control and control is None:
        raise InvalidInput(f"{spec.title or spec.name} needs a control image beside the prompt.")
    if control is not None and not spec.needs_control:
        raise InvalidInput(f"A control image is for a ControlNet, and {spec.title or spec.name} has none.")
