"""What a whole collection will take, from a short measured run."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from golden.pipelines import encode_anew
from train.make_shard import Settings, collect_shard, load_critics, load_painter
from train.pairs import is_intact, shard_paths, write_shard

NUM_MEASURED = 2
"""Shards, after a first one that warms everything up."""


def plan_collection(
    folder: Path, settings: Settings, prompts: Sequence[str] | None, num_shards: int, device: str
) -> list[str]:
    """Lines that say how long a collection will take, how much disk, and how many pairs will be kept.

    Makes the first three shards to measure it; they are kept, as the first of the data set.
    """
    model, judges = load_painter(settings, device), load_critics(settings, device)
    shards, seconds = [], []
    for index in range(NUM_MEASURED + 1):
        started = time.perf_counter()
        shards.append(collect_shard(model, settings, index, prompts, judges))
        seconds.append(time.perf_counter() - started)
        if not is_intact(folder, index):
            write_shard(folder, index, shards[-1])
    rows = pd.concat([shard.rows for shard in shards], ignore_index=True)
    embeds = encode_anew(model.pipeline, [rows["prompt"][0]])["prompt_embeds"]
    num_sources = num_shards * settings.shard_size
    shard_bytes = np.mean([sum(path.stat().st_size for path in shard_paths(folder, i)) for i in range(len(shards))])
    what = "GPU-hours" if torch.device(device).type == "cuda" else f"hours of a CPU ({settings.num_threads} thread)"
    per_source = np.mean(seconds[1:]) / settings.shard_size
    lines = [
        f"{num_sources} sources in {num_shards} shards, targets {' '.join(settings.targets)}; measured on {device}: "
        f"shards of {settings.shard_size} took {', '.join(f'{each:.1f} s' for each in seconds[1:])}",
        f"time  {per_source * num_sources / 3600:.2f} {what}, {1 / per_source:.2f} sources a second and worker",
        f"disk  {shard_bytes * num_shards / 1e9:.2f} GB of shards, and in training "
        f"{embeds.nbytes * num_sources / 1e9:.2f} GB of prompt embeddings",
    ]
    return [*lines, describe_kept(rows, num_sources)]


def describe_kept(rows: pd.DataFrame, num_sources: int) -> str:
    """The share of pairs that the filter keeps with its 95 % interval (Wilson's), and what it makes of all sources.

    Targets of one source are no independent trials: the interval is as wide as if each source had one.
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
