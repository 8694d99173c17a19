"""One comparison: a request in, events out as they happen, a Comparison at the end.

The app, the command line and the API all come through here, and so does their validation.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor, cat

from .arms import Conditions, make_noises
from .checkers import Verdict
from .drawing import shrink
from .errors import Cancelled
from .families import find_family
from .model import Model
from .noise import source_noise
from .pipelines import (
    add_control,
    decode,
    encode_prompts,
    is_spared,
    latent_shape,
    repeat_embeddings,
    sample_images,
)
from .request import CompareRequest, check_control, validate
from .sizes import check_size

if TYPE_CHECKING:  # judges bring libraries that comparisons without them need not wait for
    from .judges import JudgeSet

PREVIEWS_PER_SECOND = 4  # at most
PREVIEW_SHARE = 0.1  # of a run's time, at most
KEPT_STEPS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of all steps: after these a comparison keeps what its images look like
KEPT_SIDE = 96  # pixels of what is kept


def find_shape(request: CompareRequest, model: Model) -> tuple[int, int, int]:
    """The shape (C, h, w) of the latents of a request's images.

    Raises: InvalidInput for a size that the model cannot draw.
    """
    shape = latent_shape(model.pipeline, request.height, request.width)
    cell = find_family(model.pipeline).cell_size(model.pipeline)
    check_size(shape[1] * cell, shape[2] * cell, model.spec, model.pipeline)
    return shape


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
    """All images are there; nothing is judged yet."""

    images: dict[str, Image.Image]


@dataclass(frozen=True)
class Comparison:
    """The outcome: by arm its image, its noise (C, h, w) on the CPU and, if the model has a checker, its verdict.

    `scores` holds the raw scores by judge and arm, `unavailable` one sentence for each judge that has none; both stay
    empty without judges. `scoring_seconds` is not part of `total_seconds`, which is what the images took. `steps` holds
    small images of all arms on their way, by the share of the steps taken in percent; none where memory is low.
    `noise_seconds` is what the noises of all arms took, NPNet's among them.
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
    steps: dict[int, tuple[Image.Image, ...]] = field(default_factory=dict)
    noise_seconds: float = 0.0

    @property
    def overhead(self) -> float:
        """NPNet's time as a fraction of that of one image from standard noise."""
        return self.npnet_seconds / max(1e-9, (self.total_seconds - self.noise_seconds) / len(self.images))


@dataclass(frozen=True)
class Checked:
    """All but the images of the steps and the judges' scores is there; emitted only if there are judges."""

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
    shape = find_shape(request, model)
    events: queue.Queue[Event | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    def run() -> None:
        try:
            with ExitStack() as turn:
                turn.enter_context(_turn(model, stopped, lambda: events.put(Progress(0, request.num_inference_steps))))
                comparison, estimates = _run(request, model, shape, events.put, stopped)
                if judges is not None:
                    events.put(Checked(comparison))
                comparison = replace(comparison, steps=_draw_steps(model.pipeline, estimates))
                if not is_spared(model.pipeline):
                    turn.close()
                if judges is not None:
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
) -> tuple[Comparison, dict[int, Tensor]]:
    """The comparison of images whose latents have `shape`, and by the percentage of the steps taken what its images
    were expected to become (B, C, h, w)."""
    started = time.perf_counter()
    pipeline, arms = model.pipeline, request.arms
    _stop_if(stopped)
    embeddings = encode_prompts(pipeline, [request.prompt])
    if request.control is not None:
        embeddings = add_control(pipeline, embeddings, request.control, shape)
    source = source_noise([request.seed], shape)
    conditions = Conditions(model, model.npnet, embeddings, [request.seed])
    noises, seconds = make_noises(arms, source, conditions, request.strength)

    estimates: dict[int, Tensor] = {}
    next_preview = time.perf_counter() + 1 / PREVIEWS_PER_SECOND

    def on_step(step: int, num_steps: int, clean_estimate: Tensor) -> None:
        nonlocal next_preview
        _stop_if(stopped)
        previews: tuple[Image.Image, ...] = ()
        # Where memory is low the VAE would take the denoising network's place on the device.
        if step < num_steps and not is_spared(pipeline):
            if step in {math.ceil(share * num_steps) for share in KEPT_STEPS}:
                estimates[round(100 * step / num_steps)] = clean_estimate.clone()
            if (began := time.perf_counter()) >= next_preview:
                previews = tuple(decode(pipeline, clean_estimate))
                ended = time.perf_counter()
                next_preview = ended + max(1 / PREVIEWS_PER_SECOND, (1 / PREVIEW_SHARE - 1) * (ended - began))
        emit(Progress(step, num_steps, previews))

    rows = cat([noises[arm] for arm in arms])
    seeds = [request.seed] * len(arms)
    outcome = sample_images(
        model, rows, repeat_embeddings(embeddings, len(arms)), seeds, request.sampling, on_step=on_step
    )
    images = dict(zip(arms, outcome, strict=True))
    total = time.perf_counter() - started
    emit(Rendered(images))
    _stop_if(stopped)
    checker = model.checker if shape == latent_shape(pipeline) else None
    verdicts = {arm: checker.check(request.prompt, image) for arm, image in images.items()} if checker else {}
    kept = {arm: noise[0].float().cpu() for arm, noise in noises.items()}
    npnet_seconds, noise_seconds = seconds.get("npnet", 0.0), sum(seconds.values())
    return Comparison(request, images, kept, verdicts, npnet_seconds, total, noise_seconds=noise_seconds), estimates


def _draw_steps(pipeline: Any, estimates: dict[int, Tensor]) -> dict[int, tuple[Image.Image, ...]]:
    """Small images of what was expected after some steps; step by step, as more at once need more memory."""
    return {
        percent: tuple(shrink(image, KEPT_SIDE) for image in decode(pipeline, estimate))
        for percent, estimate in estimates.items()
    }


def _score(comparison: Comparison, judges: "JudgeSet", emit: Any, stopped: threading.Event) -> Comparison:
    """The comparison with every judge's scores, or why it has none."""
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


def _stop_if(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Cancelled("The comparison was stopped.")
