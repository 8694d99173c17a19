"""The timing loop: what it counts, in which order it calls, and when it waits."""

import pytest
import torch

from golden.timing import measure, measure_in_turns, peak_memory, synchroniser


class FakeClock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float):
        left = list(seconds)

        def call() -> None:
            self.events.append(name)
            self.now += left.pop(0)

        return call


def test_warmup_calls_are_not_counted():
    clock = FakeClock()
    assert measure(clock.work("a", 100, 3, 5), 2, clock=clock) == [3, 5]
    assert measure(clock.work("a", 9, 9, 1), 1, warmup=2, clock=clock) == [1]
    assert measure(clock.work("a", 7), 1, warmup=0, clock=clock) == [7]


def test_functions_take_turns_and_each_has_its_own_seconds():
    clock = FakeClock()
    seconds = measure_in_turns([clock.work("a", 1, 2, 3), clock.work("b", 10, 20, 30)], 2, clock=clock)
    assert seconds == [[2, 3], [20, 30]]
    assert clock.events == ["a", "b"] * 3


def test_queued_work_is_waited_for_within_the_measured_time():
    clock = FakeClock()
    queued = [0.0]

    def wait() -> None:
        clock.now += queued[0]
        queued[0] = 0.0

    def work() -> None:
        queued[0] += 4.0

    queued[0] = 1000.0  # of whatever came before
    assert measure(work, 3, synchronise=wait, clock=clock) == [4, 4, 4]


def test_a_cpu_needs_no_synchronising_and_has_no_peak():
    assert synchroniser("cpu") is None
    with peak_memory("cpu") as peak:
        pass
    assert peak.bytes is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_waited_for_and_its_peak_counted():
    synchronise = synchroniser("cuda")
    assert synchronise is not None
    synchronise()
    with peak_memory("cuda") as peak:
        torch.zeros(2**20, device="cuda")
    assert peak.bytes is not None
    assert peak.bytes >= 2**22
