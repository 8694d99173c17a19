"""Collection on a Ray cluster: actors that sample, actors that judge, and a driver that writes their shards.

Ray restarts a dead actor and repeats its work; shards that the driver did not write are made by the next start. Every
machine of the cluster needs the project installed from a clone at the same path. Only the driver writes to the folder.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from golden.checkers import find_checker
from golden.errors import InvalidInput, MissingWeights
from golden.judges import JudgeSet
from golden.model import Model
from golden.models import find_model
from golden.provenance import ROOT
from train.claims import Claims
from train.make_shard import (
    Collection,
    SampledShard,
    judge_shard,
    load_collection_judges,
    load_collection_model,
    sample_shard,
)
from train.pairs import Shard, write_shard

LIFE = {"max_restarts": 16, "max_task_retries": 16, "num_cpus": 0}
"""Of an actor; after as many deaths something else is wrong. Cores are not counted: --num-threads limits them."""
GPU_SHARES = {"SamplingActor": 0.8, "JudgingActor": 0.2}
"""One actor of each kind fits on a GPU."""
SHARDS_AHEAD = 2
"""Shards queued for each sampling actor, so that it never waits for the driver."""


class SamplingActor:
    """Makes noises and images. The first task loads its model: Ray hides errors from before."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection

    @cached_property
    def model(self) -> Model:
        return load_collection_model(self.collection.settings, self.collection.device)

    def sample(self, index: int) -> SampledShard:
        return sample_shard(self.model, self.collection.settings, index, self.collection.prompts)


class JudgingActor:
    """Judges images."""

    def __init__(self, collection: Collection) -> None:
        self.settings, self.device = collection.settings, collection.device
        self.checker = find_checker(find_model(self.settings.model).checker)

    @cached_property
    def judges(self) -> JudgeSet | None:
        return load_collection_judges(self.settings, self.device)

    def judge(self, sampled: SampledShard) -> Shard:
        return judge_shard(sampled, self.settings, self.checker, self.judges)


def collect_on_ray(
    collection: Collection, on_shard: Callable[[Shard], None], *, num_workers: int, num_judge_workers: int
) -> None:
    """Make the shards that are missing or damaged; as `collect_here`, on the cluster at RAY_ADDRESS or on this machine.

    Raises: MissingWeights if Ray is not installed; InvalidInput if the cluster has fewer GPUs than the actors need.
    """
    try:
        import ray
    except ImportError:
        raise MissingWeights("--engine ray needs the package ray: install it with pip install ray.") from None
    # Without an address Ray starts a small cluster of its own, which ends with this process.
    ray.init(
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},  # actors import the driver's own code
    )
    try:
        samplers = _start(ray, SamplingActor, num_workers, collection)
        critics = _start(ray, JudgingActor, num_judge_workers, collection)
        with Claims(collection.folder) as claims:

            def make(indices: Sequence[int], *, wait: bool) -> None:
                for index, shard in _make(ray, samplers, critics, claims.take_missing(indices, wait=wait)):
                    write_shard(collection.folder, index, shard)
                    claims.release(index)
                    on_shard(shard)

            make(range(collection.num_shards), wait=False)
            for index in claims.busy:
                # One at a time: a worker that waits for a shard must not hold another that someone may be waiting for.
                make([index], wait=True)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        ray.shutdown()


def _start(ray: Any, kind: type, number: int, collection: Collection) -> list:
    share = GPU_SHARES[kind.__name__] if collection.device.startswith("cuda") else 0
    free = ray.available_resources().get("GPU", 0)
    if number * share > free:
        raise InvalidInput(f"{number} actors need {number * share:g} GPUs, but the cluster has {free:g} free.")
    remote = ray.remote(**LIFE, num_gpus=share)(kind)
    return [remote.remote(collection) for _ in range(number)]


def _make(ray: Any, samplers: list, critics: list, indices: Iterator[int]) -> Iterator[tuple[int, Shard]]:
    """Shards in the order in which they finish. Images pass between actors and never through the driver."""
    pending: dict[Any, tuple[int, int]] = {}
    free = [number for number in range(len(samplers)) for _ in range(SHARDS_AHEAD)]
    while True:
        while free and (index := next(indices, None)) is not None:
            number = free.pop(0)
            sampled = samplers[number].sample.remote(index)
            pending[critics[index % len(critics)].judge.remote(sampled)] = (index, number)
        if not pending:
            return
        (finished, *_), _ = ray.wait([*pending], num_returns=1)
        index, number = pending.pop(finished)
        yield index, ray.get(finished)
        free.append(number)
