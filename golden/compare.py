"""One comparison: a request in, events out as they happen, a Comparison at the end.

The app, the command line and the API all come through here, and so does their validation.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from .arms import Conditions, find_arm, mix
from .errors import Cancelled, InvalidInput, MissingWeights
from .models import ModelSpec, find_model
from .noise import MAX_SEED, source_noise
from .npnet import NPNet, load_npnet
from .pipelines import (
    add_control,
    decode,
    denoise,
    encode_prompts,
    is_spared,
    latent_shape,
    load_pipeline,
    repeat_embeddings,
)
from .samplers import MAX_STEPS_OF, SAMPLERS
from .shapes import Verdict, check_image, parse_caption

if TYPE_CHECKING:  # judges bring libraries that whoever compares without them need not wait for
    from .judges import JudgeSet

MAX_STEPS = 200
MIN_GUIDANCE = 1.0  # below it the pipelines of diffusers switch guidance off, which is what 1 means
MAX_GUIDANCE = 30.0
MAX_STRENGTH = 3.0
MAX_PROMPT_CHARS = 2000
MAX_SIDE = 4096  # pixels
MAX_ENLARGED = 2  # times the model's own height and width; the time of a picture grows with its area, and faster
PREVIEWS_PER_SECOND = 4


@dataclass
class Model:
    """A loaded model: its pipeline, its NPNet if it has one, and the lock that gives one run at a time the pipeline."""

    spec: ModelSpec
    pipeline: Any
    npnet: NPNet | None
    lock: threading.Lock = field(default_factory=threading.Lock)


def load_model(
    name: str = "shapes",
    *,
    npnet: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    memory: str = "high",
) -> Model:
    """Load a model of MODELS (or a diffusers folder) with its NPNet, or with `npnet`, a file or a name of NPNETS.

    A model whose own NPNet cannot be had loads without: comparing other arms needs none. `memory` is one of
    pipelines.MEMORY_MODES; where it is low NPNet stays on the CPU, which takes it a tenth of a second.

    Raises: InvalidInput for an unknown name, or a device that torch does not have here; MissingWeights or BadWeights if
    weights are missing or unfit.
    """
    spec = find_model(name)
    _check_device(device)
    weights = npnet or spec.npnet
    try:
        network = load_npnet(weights) if weights else None
    except MissingWeights:
        if npnet:
            raise
        network = None
    pipeline = load_pipeline(spec, device, dtype, memory)
    if network and not is_spared(pipeline):
        network.to(device)
    return Model(spec, pipeline, network)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        reason = str(error).splitlines()[0][:200]
        raise InvalidInput(f"The model cannot run on {device!r}: {reason}") from None


@dataclass(frozen=True)
class CompareRequest:
    """What to compare. `arms` are names of ARMS; `strength` scales the change that each makes to the source noise.

    `control` is the picture that a ControlNet is shown, of any size; other models take none. `height` and `width` are
    of the pictures, in pixels, the model's own where they are None; pictures of another size are not checked, since
    captions are of the model's own.
    """

    prompt: str
    seed: int = 0
    num_inference_steps: int = 20
    guidance_scale: float = 5.5
    sampler: str = "ddim"
    strength: float = 1.0
    arms: tuple[str, ...] = ("standard", "npnet")
    control: Image.Image | None = field(default=None, compare=False)
    height: int | None = None
    width: int | None = None


def validate(request: CompareRequest, spec: ModelSpec) -> CompareRequest:
    """The request with exact types (5.0 steps become 5), once every value is allowed; `check_control` is apart.

    Raises: InvalidInput in one sentence with what was got and what is allowed.
    """
    prompt = request.prompt
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInput("The prompt is empty: say what the picture should show.")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidInput(f"The prompt has {len(prompt)} characters: at most {MAX_PROMPT_CHARS} are allowed.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InvalidInput("The prompt holds half a character (a lone surrogate): write it again.")
    if spec.is_shapes:
        parse_caption(prompt)
    if not isinstance(request.sampler, str) or request.sampler not in SAMPLERS:
        raise InvalidInput(f"Unknown sampler {_shown(request.sampler)}: choose one of {', '.join(SAMPLERS)}.")
    if not isinstance(request.arms, tuple | list) or not request.arms:
        raise InvalidInput(f"The arms must be a list of names, got {_shown(request.arms)}.")
    for arm in request.arms:
        find_arm(arm)
    if len(set(request.arms)) < len(request.arms):
        raise InvalidInput(f"Each arm goes once into a comparison, got {', '.join(request.arms)}.")
    steps = check_whole("number of steps", request.num_inference_steps, 1, MAX_STEPS)
    if request.sampler in MAX_STEPS_OF and steps > MAX_STEPS_OF[request.sampler]:
        limit = MAX_STEPS_OF[request.sampler]
        raise InvalidInput(f"The sampler {request.sampler} takes at most {limit} steps, got {steps}.")
    return CompareRequest(
        " ".join(prompt.split()),
        check_whole("seed", request.seed, 0, MAX_SEED),
        steps,
        check_number("guidance scale", request.guidance_scale, MIN_GUIDANCE, MAX_GUIDANCE),
        request.sampler,
        check_number("strength", request.strength, 0.0, MAX_STRENGTH),
        tuple(request.arms),
        request.control,
        check_side("height", request.height),
        check_side("width", request.width),
    )


def check_control(control: Image.Image | None, spec: ModelSpec) -> None:
    """Raises: InvalidInput if a ControlNet has no control picture, or another model has one."""
    if spec.is_steered and control is None:
        raise InvalidInput(f"{spec.title or spec.name} is steered by a control picture beside the prompt: give one.")
    if control is not None and not spec.is_steered:
        raise InvalidInput(f"A control picture steers a ControlNet, and {spec.title or spec.name} has none.")


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number in [low, high] as a float; booleans, text and null are refused."""
    # NaN and the infinities fail the comparison, too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"The {name} must be a number from {low:g} to {high:g}, got {_shown(value)}.")
    return float(value)


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high] as an int; 5.0 counts as whole, 5.5, booleans, text and null are refused."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise InvalidInput(f"The {name} must be a whole number from {low} to {high}, got {_shown(value)}.")
    return int(value)


def check_side(name: str, value: Any) -> int | None:
    """A picture's height or width in pixels, or None for the model's own."""
    return None if value is None else check_whole(name, value, 8, MAX_SIDE)


def find_shape(request: CompareRequest, pipeline: Any) -> tuple[int, int, int]:
    """The shape (C, h, w) of the latents of a request's pictures.

    Raises: InvalidInput for a size that the model cannot paint, or that is more than MAX_ENLARGED times its own.
    """
    shape = latent_shape(pipeline, request.height, request.width)
    for name, side, own in zip(("height", "width"), shape[1:], latent_shape(pipeline)[1:], strict=True):
        if side > MAX_ENLARGED * own:
            most, got = (cells * pipeline.vae_scale_factor for cells in (MAX_ENLARGED * own, side))
            raise InvalidInput(f"The {name} must be at most {most} pixels, twice the model's own, got {got}.")
    return shape


def _shown(value: Any) -> str:
    """A value in an error message: short, in one line, and never an error of its own."""
    try:
        text = " ".join(ascii(value).split())
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a very long number"
    return text if len(text) <= 40 else f"{text[:40]}..."


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """After a step: `step` of `num_steps`, and now and then a preview per arm. Step 0 is to wait for another run.

    Where memory is low the steps of all arms are counted, and there are no previews.
    """

    step: int
    num_steps: int
    previews: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Rendered:
    """All pictures are there; nothing is judged yet."""

    images: dict[str, Image.Image]


@dataclass(frozen=True)
class Comparison:
    """The outcome: by arm its picture, its noise (C, h, w) on the CPU and, in the shapes world, its verdict.

    `scores` holds by judge and arm the raw scores, `unavailable` by judge one sentence on why it has none; both stay
    empty where no judges are asked. `scoring_seconds` is apart from `total_seconds`, which is what the pictures took.
    """

    request: CompareRequest
    images: dict[str, Image.Image]
    noises: dict[str, Tensor]
    verdicts: dict[str, Verdict]
    npnet_seconds: float
    total_seconds: float
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    scoring_seconds: float = 0.0

    @property
    def overhead(self) -> float:
        """NPNet's share of the time of one standard picture, as a fraction."""
        return self.npnet_seconds / max(1e-9, (self.total_seconds - self.npnet_seconds) / len(self.images))


@dataclass(frozen=True)
class Checked:
    """All but the judges' scores is there; comes only where judges are asked."""

    comparison: Comparison


@dataclass(frozen=True)
class Scored:
    """A judge has finished: the comparison holds its scores, or its sentence, and those of the judges before it."""

    judge: str
    comparison: Comparison


Event = Progress | Rendered | Checked | Scored | Comparison


def compare(
    request: CompareRequest,
    model: Model,
    judges: "JudgeSet | None" = None,
) -> Iterator[Event]:
    """Run a comparison and yield Progress events, Rendered, with judges Checked and a Scored each, and the Comparison.

    Closing the generator stops the run within one step or one judge. All arms are denoised in one batch, from the same
    source noise, with the same step noise. The judges score while the model is free for the next run or, where memory
    is low, before it, since the device has no room for both.

    Raises: GoldenError with one sentence for the user.
    """
    request = validate(request, model.spec)
    check_control(request.control, model.spec)
    shape = find_shape(request, model.pipeline)
    events: queue.Queue[Event | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    def run() -> None:
        try:
            with ExitStack() as turn:
                turn.enter_context(_turn(model, stopped, lambda: events.put(Progress(0, request.num_inference_steps))))
                comparison = _run(request, model, shape, events.put, stopped)
                if not is_spared(model.pipeline):
                    turn.close()
                if judges is not None:
                    events.put(Checked(comparison))
                    comparison = _score(comparison, judges, events.put, stopped)
            events.put(comparison)
        except BaseException as error:
            events.put(error)
        finally:
            events.put(None)

    worker = threading.Thread(target=run, name="compare", daemon=True)
    worker.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stopped.set()
        worker.join()


def run_comparison(
    request: CompareRequest,
    model: Model,
    judges: "JudgeSet | None" = None,
) -> Comparison:
    """`compare` without the events in between."""
    *_, last = compare(request, model, judges)
    assert isinstance(last, Comparison)
    return last


@contextmanager
def _turn(model: Model, stopped: threading.Event, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the model. While another run has it, `on_wait` tells twice a second, so that a reader can stop meanwhile."""
    while not model.lock.acquire(timeout=0.5):
        _stop_if(stopped)
        on_wait()
    try:
        yield
    finally:
        model.lock.release()


def _run(
    request: CompareRequest, model: Model, shape: tuple[int, int, int], emit: Any, stopped: threading.Event
) -> Comparison:
    """The comparison of pictures whose latents have `shape`."""
    started = time.perf_counter()
    pipeline, arms = model.pipeline, request.arms
    _stop_if(stopped)
    embeddings = encode_prompts(pipeline, [request.prompt])
    if request.control is not None:
        embeddings = add_control(pipeline, embeddings, request.control, shape)
    source = source_noise([request.seed], shape)
    noises, seconds = make_noises(request, model, source, embeddings)

    last_preview = time.perf_counter()

    def on_step(step: int, num_steps: int, clean_estimate: Tensor) -> None:
        nonlocal last_preview
        _stop_if(stopped)
        previews: tuple[Image.Image, ...] = ()
        due = time.perf_counter() - last_preview > 1 / PREVIEWS_PER_SECOND and step < num_steps
        if due and not is_spared(pipeline):  # the VAE would take the denoising network's place on the device
            previews = tuple(decode(pipeline, clean_estimate))
            last_preview = time.perf_counter()
        emit(Progress(step, num_steps, previews))

    latents = denoise(
        pipeline,
        torch.cat([noises[arm] for arm in arms]),
        repeat_embeddings(embeddings, len(arms)),
        [request.seed] * len(arms),
        sampler=request.sampler,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        on_step=on_step,
    )
    images = dict(zip(arms, decode(pipeline, latents), strict=True))
    total = time.perf_counter() - started
    emit(Rendered(images))
    _stop_if(stopped)
    checked = model.spec.is_shapes and shape == latent_shape(pipeline)
    verdicts = {arm: check_image(request.prompt, image) for arm, image in images.items()} if checked else {}
    kept = {arm: noise[0].float().cpu() for arm, noise in noises.items()}
    return Comparison(request, images, kept, verdicts, seconds.get("npnet", 0.0), total)


def _score(comparison: Comparison, judges: "JudgeSet", emit: Any, stopped: threading.Event) -> Comparison:
    """The comparison with what every judge says, or why it says nothing."""
    started = time.perf_counter()
    _stop_if(stopped)
    arms, images = list(comparison.images), list(comparison.images.values())
    for judge, result in judges.stream(images, [comparison.request.prompt] * len(images)):
        _stop_if(stopped)
        if isinstance(result, str):
            comparison = replace(comparison, unavailable=comparison.unavailable | {judge: result})
        else:
            by_arm = dict(zip(arms, result.tolist(), strict=True))
            comparison = replace(comparison, scores=comparison.scores | {judge: by_arm})
        comparison = replace(comparison, scoring_seconds=time.perf_counter() - started)
        emit(Scored(judge, comparison))
    return comparison


def make_noises(
    request: CompareRequest, model: Model, source: Tensor, embeddings: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """By arm, its noise (1, C, h, w) and the seconds that it took."""
    conditions = Conditions(model.spec, model.pipeline, model.npnet, embeddings, [request.seed])
    noises, seconds = {}, {}
    for arm in request.arms:
        started = time.perf_counter()
        noises[arm] = mix(source, find_arm(arm)(source, conditions), request.strength)
        seconds[arm] = time.perf_counter() - started
    return noises, seconds


def _stop_if(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Cancelled("The comparison was stopped.")
