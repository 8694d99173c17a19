"""Collection on a Ray cluster: actors that paint, actors that judge, and a driver that writes their shards.

Ray starts an actor that died again and gives it its work again; what the driver has not written, the next start makes.
Every machine of the cluster needs a clone of the project at the same path; only the driver writes into the folder.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from golden.compare import Model
from golden.errors import InvalidInput, MissingWeights
from golden.judges import JudgeSet
from golden.models import find_model
from train.claims import Claims
from train.make_shard import Painted, Settings, judge_shard, load_critics, load_painter, paint_shard
from train.pairs import Shard, write_shard

ROOT = Path(__file__).resolve().parents[1]
LIFE = {"max_restarts": 16, "max_task_retries": 16, "num_cpus": 0}
"""Of an actor; after as many deaths something else is wrong. Cores are not counted: an actor computes with the threads
that the settings say."""
GPU_SHARES = {"Painter": 0.8, "Critic": 0.2}
"""A painter and a critic fit on one GPU together."""
SHARDS_AHEAD = 2
"""How many shards a painter has before it, so that it never waits for the driver."""


class Painter:
    """Makes noises and pictures. Its model is loaded by the first task: Ray hides what fails before."""

    def __init__(self, settings: Settings, device: str, prompts: Sequence[str] | None) -> None:
        self.settings, self.device, self.prompts = settings, device, prompts

    @cached_property
    def model(self) -> Model:
        return load_painter(self.settings, self.device)

    def paint(self, index: int) -> Painted:
        return paint_shard(self.model, self.settings, index, self.prompts)


class Critic:
    """Judges pictures."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings, self.device, self.spec = settings, device, find_model(settings.model)

    @cached_property
    def judges(self) -> JudgeSet | None:
        return load_critics(self.settings, self.device)

    def judge(self, painted: Painted) -> Shard:
        return judge_shard(painted, self.settings, self.spec, self.judges)


def collect_on_ray(
    folder: Path,
    settings: Settings,
    prompts: Sequence[str] | None,
    num_shards: int,
    device: str,
    on_shard: Callable[[Shard], None],
    *,
    num_painters: int,
    num_critics: int,
) -> None:
    """Make the shards that are missing or damaged; as `collect_here`, on the cluster at RAY_ADDRESS or on this machine.

    Raises: MissingWeights if Ray is not installed; InvalidInput if the cluster has fewer GPUs than actors need.
    """
    try:
        import ray
    except ImportError:
        raise MissingWeights("--engine ray needs the package ray: install it with pip install ray.") from None
    # Without an address Ray starts a small cluster of its own, and ends it with this process.
    ray.init(
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        painters = _start(ray, Painter, num_painters, device, (settings, device, prompts))
        critics = _start(ray, Critic, num_critics, device, (settings, device))
        with Claims(folder) as claims:

            def make(indices: Sequence[int], *, wait: bool) -> None:
                for index, shard in _make(ray, painters, critics, claims.take_missing(indices, wait=wait)):
                    write_shard(folder, index, shard)
                    claims.release(index)
                    on_shard(shard)

            make(range(num_shards), wait=False)
            for index in claims.busy:
                # One at a time: who waits for another's shard must hold none that the other may be waiting for.
                make([index], wait=True)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        ray.shutdown()


def _start(ray: Any, kind: type, number: int, device: str, arguments: tuple) -> list:
    share = GPU_SHARES[kind.__name__] if device.startswith("cuda") else 0
    free = ray.available_resources().get("GPU", 0)
    if number * share > free:
        raise InvalidInput(f"{number} actors need {number * share:g} GPUs, the cluster has {free:g} free.")
    remote = ray.remote(**LIFE, num_gpus=share)(kind)
    return [remote.remote(*arguments) for _ in range(number)]


def _make(ray: Any, painters: list, critics: list, indices: Iterator[int]) -> Iterator[tuple[int, Shard]]:
    """Shards as they are finished. Pictures go from actor to actor and never through the driver."""
    pending: dict[Any, tuple[int, int]] = {}
    free = [number for number in range(len(painters)) for _ in range(SHARDS_AHEAD)]
    while True:
        while free and (index := next(indices, None)) is not None:
            painter = free.pop(0)
            painted = painters[painter].paint.remote(index)
            pending[critics[index % len(critics)].judge.remote(painted)] = (index, painter)
        if not pending:
            return
        (finished, *_), _ = ray.wait([*pending], num_returns=1)
        index, painter = pending.pop(finished)
        yield index, ray.get(finished)
        free.append(painter)
