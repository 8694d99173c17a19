"""What a whole collection will take, from a short measured run."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats

from golden.judges.scoring import watch_memory
from golden.pipelines import encode_anew
from golden.plan import Measured, check_gpu, describe_plan
from golden.provenance import machine
from golden.timing import measure
from train.filters import default_filter
from train.make_shard import Collection, collect_shard, load_collection_judges, load_collection_model
from train.pairs import Shard, is_intact, shard_paths, write_shard
from train.settings import CollectionSettings

NUM_MEASURED = 2
"""Shards, after a first one to warm up."""


def plan_collection(collection: Collection, gpu: str | None = None) -> list[str]:
    """Lines with the time, disk space, memory and money that a collection will take, and how many pairs will be kept.

    This makes the first three shards, which stay in the data set. `gpu` is a name of plan.GPUS, None for this device.
    Raises: InvalidInput as `describe_plan`.
    """
    name = machine(collection.device)["device"]
    check_gpu(gpu, name)
    settings, folder = collection.settings, collection.folder
    model = load_collection_model(settings, collection.device)
    judges = load_collection_judges(settings, collection.device)
    shards: list[Shard] = []

    def make_next() -> None:
        shards.append(collect_shard(model, settings, len(shards), collection.prompts, judges))

    with watch_memory(collection.device) as memory:
        seconds = measure(make_next, NUM_MEASURED)
    for index, shard in enumerate(shards):
        if not is_intact(folder, index):
            write_shard(folder, index, shard)
    rows = pd.concat([shard.rows for shard in shards], ignore_index=True)
    embeds = model.family.npnet_embeds(encode_anew(model.pipeline, [rows["prompt"][0]]))
    num_sources = collection.num_shards * settings.shard_size
    shard_bytes = np.mean([sum(path.stat().st_size for path in shard_paths(folder, i)) for i in range(len(shards))])
    seconds_per_source = float(np.mean(seconds)) / settings.shard_size
    costs = describe_plan(Measured("sources", seconds_per_source, name, memory.bytes), num_sources, gpu)
    return [
        f"{num_sources} sources in {collection.num_shards} shards, targets {' '.join(settings.targets)}; measured on "
        f"{collection.device}: shards of {settings.shard_size} took {', '.join(f'{each:.1f} s' for each in seconds)}",
        _describe_time(collection, seconds_per_source),
        f"disk  {shard_bytes * collection.num_shards / 1e9:.2f} GB of shards, and in training "
        f"{embeds.nbytes * num_sources / 1e9:.2f} GB of prompt embeddings",
        # Time on another GPU, memory and money; time here and disk are said above in more detail.
        *[line for line in costs if not line.startswith("disk") and (gpu or not line.startswith("time"))],
        describe_kept(rows, num_sources),
        *describe_filter(settings, list(rows.columns)),
    ]


def _describe_time(collection: Collection, seconds_per_source: float) -> str:
    settings = collection.settings
    cuda = torch.device(collection.device).type == "cuda"
    unit = "GPU-hours" if cuda else f"CPU-hours of {settings.num_threads} thread(s)"
    hours = seconds_per_source * collection.num_shards * settings.shard_size / 3600
    return f"time  {hours:.2f} {unit}, {1 / seconds_per_source:.2f} sources per second and worker"


def describe_filter(settings: CollectionSettings, columns: Sequence[str]) -> list[str]:
    """Which filter keeps pairs: training's own, or another, which training then has to be told."""
    own = default_filter(columns)
    if own is None or settings.filter is None:
        return []
    if (settings.filter, settings.margin) == (own, 0.0):
        return [f"      by the filter {own}, which training uses unless told otherwise"]
    told = f"--filter {settings.filter}" + (f" --margin {settings.margin:g}" if settings.margin else "")
    return [f"      by this collection's own filter: train with {told} for the same, as {own} is training's default"]


def describe_kept(rows: pd.DataFrame, num_sources: int) -> str:
    """The share of pairs that the filter keeps with its 95 % interval (Wilson), and the number expected of all sources.

    It is the filter that training uses unless told otherwise, or the collection's own: see `describe_filter`.

    Targets of one source are not independent trials: the interval is as wide as if each source had one target.
    """
    if "kept" not in rows:
        return "kept  unknown: the pairs are not judged"
    share, measured = rows["kept"].mean(), rows["index"].nunique()
    interval = stats.binomtest(round(share * measured), measured).proportion_ci(method="wilson")
    pairs_per_source = len(rows) / measured
    low, middle, high = (round(each * num_sources * pairs_per_source) for each in (interval.low, share, interval.high))
    return (
        f"kept  {share:.1%} [{interval.low:.1%}, {interval.high:.1%}] of {len(rows)} pairs: "
        f"expect {middle} [{low}, {high}] of {round(num_sources * pairs_per_source)}"
    )
