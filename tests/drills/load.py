"""The app under load, on the embedded model, each figure measured from outside the server's process.

python -m tests.drills.load                    # about half an hour on one core
python -m tests.drills.load --only crowd memory
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from statistics import median

import httpx
import numpy as np
import psutil

from golden.checkers import find_checker
from golden.compare import run_comparison
from golden.errors import ArgumentParser, GoldenError, run_command
from golden.flags import add_flags, flag, read_flags
from golden.model import Model, load_model
from golden.request import CompareRequest
from golden.ui.fields import SETTINGS
from tests.drills.serving import ANSWER_SECONDS, ask, fetch_pixels, report, run_app, send

NUM_CLIENTS, NUM_JOBS = 50, 4
NUM_LEAVERS = 20
NUM_MEMORY_JOBS, NUM_WARM_UP = 500, 50
LONG = 200  # steps of a job that is not meant to end


def make_requests(number: int, steps: int) -> list[CompareRequest]:
    """So many different requests, the same at every start."""
    checker = find_checker("shapes")
    assert checker is not None
    prompts = checker.sample_prompts(np.random.default_rng(0))
    return [CompareRequest(prompt=next(prompts), seed=seed, num_inference_steps=steps) for seed in range(number)]


def as_data(request: CompareRequest) -> tuple:
    """The values that the endpoint takes, in its order."""
    return tuple(getattr(request, name) for name in SETTINGS)


LONG_DATA = as_data(CompareRequest(prompt="three yellow stars", num_inference_steps=LONG))


def is_as_expected(client: httpx.Client, answer: list, request: CompareRequest, model: Model) -> bool:
    """Whether both images are, bit for bit, those that this process renders from the same request."""
    expected = run_comparison(request, model).images
    pixels = [fetch_pixels(client, image) for image in answer[:2]]
    return all(np.array_equal(a, np.asarray(b)) for a, b in zip(pixels, expected.values(), strict=True))


def drill_crowd(
    url: str, model: Model, num_clients: int = NUM_CLIENTS, num_jobs: int = NUM_JOBS, steps: int = 2
) -> None:
    """Many clients at once, each with one job after the other: all are answered, and nobody gets another's images."""
    requests = make_requests(num_clients * num_jobs, steps)

    def work(index: int) -> list[tuple[str, list, float]]:
        answers = []
        with httpx.Client(timeout=60) as client:
            for request in requests[index::num_clients]:
                started = time.monotonic()
                kind, answer = ask(client, url, *as_data(request))
                answers.append((kind, answer, time.monotonic() - started))
        return answers

    started = time.monotonic()
    with ThreadPoolExecutor(num_clients) as pool:
        by_client = list(pool.map(work, range(num_clients)))
    took = time.monotonic() - started
    pairs = [(requests[i + j * num_clients], by_client[i][j]) for i in range(num_clients) for j in range(num_jobs)]
    complete = [(request, answer) for request, (kind, answer, _) in pairs if kind == "complete"]
    with httpx.Client(timeout=60) as client:
        right = sum(is_as_expected(client, answer, request, model) for request, answer in complete)
    report(f"{num_clients} clients x {num_jobs} jobs: answered", f"{len(complete)} of {len(requests)}")
    report("  both images bit for bit those of their prompt and seed", f"{right} of {len(requests)}")
    report("  seconds in all, median wait", f"{took:.0f}, {median(wait for _, (_, _, wait) in pairs):.1f}")
    require(len(complete) == right == len(requests))


def drill_leavers(url: str, model: Model, num_leavers: int = NUM_LEAVERS) -> None:
    """A client leaves mid-run; the next one gets its own images, and need not wait for the rest of that run."""
    requests, waits, right = make_requests(num_leavers, 2), [], 0
    with httpx.Client(timeout=60) as client:
        for request in requests:
            leave_mid_run(url)
            started = time.monotonic()
            kind, answer = ask(client, url, *as_data(request))
            waits.append(time.monotonic() - started)
            right += kind == "complete" and is_as_expected(client, answer, request, model)
    report(f"a client leaves mid-run {num_leavers} times: next one's images right", f"{right} of {num_leavers}")
    report("  the next one's seconds, median and longest", f"{median(waits):.1f}, {max(waits):.1f}")
    require(right == num_leavers)


def leave_mid_run(url: str) -> None:
    """Start a long comparison, and hang up once it is under way."""
    with httpx.Client(timeout=ANSWER_SECONDS) as client:
        event_id = send(client, url, list(LONG_DATA)).json()["event_id"]
        with client.stream("GET", f"{url}gradio_api/call/compare/{event_id}") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: ") and json.loads(line.removeprefix("data: "))[-1].get("step", 0) >= 3:
                    return
    raise GoldenError("The long comparison ended before its client could leave.")


def drill_full_queue(url: str) -> None:
    """More waiting clients than the queue takes: the one too many is refused at once."""
    with httpx.Client(timeout=60) as client:
        for accepted in count():
            started = time.monotonic()
            answer = send(client, url, list(LONG_DATA))
            kind, words = ("refused", answer.text) if answer.status_code != 200 else ("waits", "")
            took = time.monotonic() - started
            if kind == "refused" or accepted > 500:
                break
    report("full queue: clients that wait before one is refused", accepted)
    report("  seconds until it is refused", f"{took:.3f}")
    report("  words", words)
    require(kind == "refused" and took < 1 and "full" in words.lower())


def drill_memory(
    url: str, process: psutil.Process, num_jobs: int = NUM_MEMORY_JOBS, num_warm_up: int = NUM_WARM_UP
) -> None:
    """Resident memory of the server, after a few jobs and after many more."""
    requests = make_requests(num_warm_up + num_jobs, 1)
    sizes = []
    with httpx.Client(timeout=60) as client:
        for request in requests:
            kind, _ = ask(client, url, *as_data(request))
            require(kind == "complete")
            sizes.append(process.memory_info().rss)
    before, after = median(sizes[num_warm_up - 10 : num_warm_up]), median(sizes[-10:])
    growth = after / before - 1
    report(f"memory after {num_warm_up} jobs, and after {num_jobs} more", f"{before / 1e6:.0f}, {after / 1e6:.0f} MB")
    report("  growth", f"{100 * growth:+.2f} %")
    require(growth < 0.05)


def require(holds: bool) -> None:
    if not holds:
        raise GoldenError("The drill failed: see the last figures.")


DRILLS = ("crowd", "leavers", "full", "memory")


@dataclass(frozen=True)
class LoadOptions:
    only: tuple[str, ...] = flag(DRILLS, "drills to run", choices=DRILLS)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, LoadOptions)
    chosen = read_flags(LoadOptions, parser.parse_args()).only
    model = load_model("shapes")
    if "crowd" in chosen:
        with run_app() as (url, _):
            drill_crowd(url, model)
    if "leavers" in chosen:
        with run_app() as (url, _):
            drill_leavers(url, model)
    if "full" in chosen:
        with run_app("--judges", "none") as (url, _):
            drill_full_queue(url)
    if "memory" in chosen:
        with run_app() as (url, process):
            drill_memory(url, process)


if __name__ == "__main__":
    run_command(main)
