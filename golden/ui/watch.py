"""A comparison as the page follows it: its events, no more of them than a person can see, stopped by closing."""

import threading
import time
from collections.abc import Callable, Generator, Iterator

from ..compare import Event, Progress, compare
from ..errors import GoldenError
from ..judges import JudgeSet
from ..model import Model
from ..request import CompareRequest

try:
    from spaces import GPU as on_gpu  # lends the device of Hugging Face's ZeroGPU; elsewhere it does nothing
except ImportError:

    def on_gpu(run: Callable) -> Callable:
        return run


UPDATES_PER_SECOND = 8  # of the progress bar; previews come about four times a second

Watch = Callable[[CompareRequest], Generator[Event]]


def make_watch(model: Model, judges: JudgeSet | None = None) -> Watch:
    """A function from a request to the events of its comparison, with progress at a rate that a person can follow.

    Closing the generator stops the run.
    """

    # Images, noises and scores come out of one generator because ZeroGPU lends its device to one function at a time.
    # That function runs in a process of its own, from which errors arrive only as values.
    @on_gpu
    def run(request: CompareRequest) -> Generator[Event | GoldenError]:
        try:
            yield from compare(request, model, judges)
        except GoldenError as error:
            yield error

    def watch(request: CompareRequest) -> Generator[Event]:
        events, shown = run(request), 0.0
        try:
            for event in events:
                if isinstance(event, GoldenError):
                    raise event
                plain = isinstance(event, Progress) and not event.previews and event.step
                if plain and time.monotonic() - shown < 1 / UPDATES_PER_SECOND:
                    continue
                shown = time.monotonic()
                yield event
        finally:
            close_in_background(events)

    return watch


def close_in_background(events: Iterator) -> None:
    """Stop a comparison without waiting for the step that is being computed."""
    threading.Thread(target=events.close, name="stop", daemon=True).start()  # type: ignore[attr-defined]
