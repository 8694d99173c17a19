"""A comparison as the page follows it: its events, no more of them than a person can see, stopped by closing.

Its progress says how many runs are ahead and how long it takes, from how long others took.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from ..compare import Comparison, Event, Progress, compare
from ..errors import GoldenError
from ..judges import JudgeSet
from ..model import Model
from ..request import CompareRequest

try:
    from spaces import GPU as on_gpu  # lends the device of Hugging Face's ZeroGPU; elsewhere it does nothing
except ImportError:

    def on_gpu(run: Callable) -> Callable:
        return run


RECENT = 5  # comparisons of which the usual time is the median
UPDATES_PER_SECOND = 8  # of the progress bar; previews come about four times a second

Watch = Callable[[CompareRequest], Generator[Event]]


@dataclass(frozen=True)
class Expected(Progress):
    """Progress, and what is to be expected.

    Attributes:
        seconds_left: until the images are there or, while it waits, until its turn; None if unknown.
        num_ahead: how many runs come first.
    """

    seconds_left: float | None = None
    num_ahead: int = 0


class Pace:
    """How long the comparisons of a page take, and which of them wait for the model or hold it."""

    def __init__(self) -> None:
        self._numbers, self._inside = count(), set[int]()
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    @contextmanager
    def enter(self) -> Iterator[int]:
        """The place of a run, a number, from its start to its end."""
        with self._lock:
            number = next(self._numbers)
            self._inside.add(number)
        try:
            yield number
        finally:
            with self._lock:
                self._inside.discard(number)

    def record(self, seconds: float) -> None:
        with self._lock:
            self._seconds.append(seconds)

    @property
    def usual(self) -> float | None:
        """The median of the last comparisons, in seconds; None before the first."""
        with self._lock:
            return sorted(self._seconds)[len(self._seconds) // 2] if self._seconds else None

    def expect(self, number: int, event: Progress, seconds: float) -> Expected:
        """What is to be expected of a run that has taken `seconds` since its first step, or waits (step 0)."""
        usual, num_ahead = self.usual, 0
        left: float | None
        if event.step > 1:
            left = seconds / (event.step - 1) * (event.num_steps - event.step)
        elif event.step:
            left = usual
        else:
            with self._lock:
                num_ahead = sum(other < number for other in self._inside)
            left = usual * num_ahead if usual is not None and num_ahead else None
        return Expected(event.step, event.num_steps, event.previews, left, num_ahead)


def make_watch(model: Model, judges: JudgeSet | None = None, pace: Pace | None = None) -> Watch:
    """A function from a request to the events of its comparison, with progress at a rate that a person can follow.

    Closing the generator stops the run. `pace` is shared by all that watch the same model.
    """
    pace = pace or Pace()

    # Images, noises and scores come out of one generator because ZeroGPU lends its device to one function at a time.
    # That function runs in a process of its own, from which errors arrive only as values.
    @on_gpu
    def run(request: CompareRequest) -> Generator[Event | GoldenError]:
        try:
            yield from compare(request, model, judges)
        except GoldenError as error:
            yield error

    def watch(request: CompareRequest) -> Generator[Event]:
        events, shown, started = run(request), 0.0, 0.0
        try:
            with pace.enter() as number:
                for event in events:
                    if isinstance(event, GoldenError):
                        raise event
                    now = time.monotonic()
                    if isinstance(event, Comparison):
                        pace.record(event.total_seconds)
                    if isinstance(event, Progress):
                        started = started if started and event.step else now
                        if event.step and not event.previews and now - shown < 1 / UPDATES_PER_SECOND:
                            continue
                        event = pace.expect(number, event, now - started)
                    shown = now
                    yield event
        finally:
            close_in_background(events)

    return watch


def close_in_background(events: Iterator) -> None:
    """Stop a comparison without waiting for the step that is being computed."""
    threading.Thread(target=events.close, name="stop", daemon=True).start()  # type: ignore[attr-defined]
