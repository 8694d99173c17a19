"""Collect noise pairs: random source noise and the target noise that re-denoise sampling makes of it, both judged.

    python train/collect_pairs.py runs/pairs --num-pairs 2000
    python train/collect_pairs.py runs/pairs --num-pairs 2000 --targets source 10x1 20x3
    python train/collect_pairs.py runs/pairs --num-pairs 100000 --judges all --plan
    torchrun --standalone --nproc-per-node 2 train/collect_pairs.py runs/pairs --num-pairs 2000
    python train/collect_pairs.py runs/pairs --num-pairs 2000 --engine ray --num-workers 2

Source i is a function of (--seed, i), whoever makes it: any number of workers make the same data set, byte for byte. A
killed collection continues with the first shard that is missing or damaged. Workers may also be started one by one:
each takes shards that no other has.

A source may have several targets, of which training can take the best (--filter best). A target is named after its
schedule: 10x1 goes 1 of 10 steps down and back, as the paper does; 20x3@7.5 goes 3 of 20 at guidance 7.5. `source` is
the source noise itself, for captions where nothing is better. npnet*2 is twice the change that the NPNet in --npnet
makes. ascent12 is what 12 steps of gradient ascent make of the source noise, by the reward of the model's verifier;
ascent takes the default number, and gradient a single step, as long as the verifier's doubt. A norm may follow any of
them: 20x5:0.7 and ascent:0.85 start from the source noise times 0.7 and 0.85.

Pairs that the filter rejects are recorded as well, with the reason: another filter needs no new images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from golden.errors import ArgumentParser, run_command
from golden.flags import add_flags, flag, read_flags
from golden.plan import GPU_HELP
from train.settings import CollectionSettings, check_positive


@dataclass(frozen=True)
class CollectionOptions:
    """How a collection runs; none of this changes the bytes of the data set, but for the device's rounding."""

    folder: Path = flag(help="folder for the shards", positional=True)
    num_pairs: int = flag(2000, "number of source noises, rounded up to whole shards")
    prompts: Path | None = flag(None, "text file with one prompt per line (default: captions drawn for the model)")
    plan: bool = flag(False, "make three shards and estimate time, disk, memory, money and pairs of the collection")
    gpu: str | None = flag(None, GPU_HELP, metavar="NAME")
    engine: str = flag("local", "local, or ray for a Ray cluster (RAY_ADDRESS)", choices=("local", "ray"))
    num_workers: int = flag(1, "for --engine ray: actors that sample")
    num_judge_workers: int = flag(1, "for --engine ray: actors that judge")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps, ...")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    add_flags(parser, CollectionOptions)
    add_flags(parser, CollectionSettings)
    arguments = parser.parse_args(argv)
    options, settings = read_flags(CollectionOptions, arguments), read_flags(CollectionSettings, arguments)
    check_positive(num_workers=options.num_workers, num_judge_workers=options.num_judge_workers)
    collect(options, settings)


def collect(options: CollectionOptions, settings: CollectionSettings) -> None:
    """Make a data set, or what is missing of it, and print what its targets gain."""
    from golden.provenance import find_worker  # here and below, what takes seconds to import and `--help` does not need
    from train.collection import collect_here, open_collection, show_progress
    from train.collection_plan import plan_collection
    from train.pairs import describe_gains, read_rows
    from train.ray_engine import collect_on_ray
    from train.workers import device_of_worker

    rank, _ = find_worker()
    device = device_of_worker(options.device)
    collection = open_collection(options.folder, settings, options.prompts, options.num_pairs, device)
    if options.plan:
        print("\n".join(plan_collection(collection, options.gpu)))
        return
    with show_progress(collection, hidden=rank > 0) as on_shard:
        if options.engine == "ray":
            workers = {"num_workers": options.num_workers, "num_judge_workers": options.num_judge_workers}
            collect_on_ray(collection, on_shard, **workers)
        else:
            collect_here(collection, on_shard)
    if rank == 0:
        rows = read_rows(options.folder)
        print("\n".join(describe_gains(rows)) or f"{len(rows)} pairs, not judged")


if __name__ == "__main__":
    run_command(main)
