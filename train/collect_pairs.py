"""Collect noise pairs: random source noise and the target noise that re-denoise sampling makes of it, both judged.

    python train/collect_pairs.py runs/pairs --num-pairs 2000
    python train/collect_pairs.py runs/pairs --num-pairs 2000 --targets source 10x1 20x3
    python train/collect_pairs.py runs/pairs --num-pairs 100000 --judges all --plan
    torchrun --standalone --nproc-per-node 2 train/collect_pairs.py runs/pairs --num-pairs 2000
    python train/collect_pairs.py runs/pairs --num-pairs 2000 --engine ray --workers 2

Source i is a function of (--seed, i), whoever makes it, so that any number of workers make the same data set, byte for
byte. Killed and started again, it goes on with the first shard that is missing or damaged. Workers may be started one
by one, too: each takes shards that no other has.

One source may get several targets, of which training takes the best (--filter best). A target is named after its
schedule: 10x1 goes 1 of 10 steps down and back, as the paper does; 20x3@7.5 goes 3 of 20 at guidance 7.5. `source` is
the source noise itself, for where nothing is better, and npnet*2 twice the change that the NPNet in --npnet makes, to
train that network on by what became of it. A length may follow: 20x5:0.7 starts from the source noise times 0.7.

Pairs that the filter rejects are recorded with the others, and why: another filter needs no new pictures.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.runs import describe_machine, find_worker, hash_model
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import sha256
from golden.judges import JUDGES, WEIGHT_SETS, embedded_path, find_judge
from golden.models import find_model
from golden.noise import SOLVERS
from golden.npnet import find_npnet
from train.claims import Claims
from train.collection_plan import plan_collection
from train.filters import find_filter
from train.make_shard import Settings, collect_shard, default_target, load_critics, load_painter, parse_target
from train.pairs import Shard, describe_gains, finished_shards, read_rows, write_manifest, write_shard
from train.ray_engine import collect_on_ray

ENGINES = ("local", "ray")


def collect_here(
    folder: Path,
    settings: Settings,
    prompts: Sequence[str] | None,
    num_shards: int,
    device: str,
    on_shard: Callable[[Shard], None],
) -> None:
    """Make the shards that are missing or damaged, beside any number of processes that do the same.

    When it ends all shards are there: it waits for those that others make, and makes what they leave.
    """
    model, judges = load_painter(settings, device), load_critics(settings, device)
    with Claims(folder) as claims:
        for wait in (False, True):
            for index in claims.take_missing(claims.busy if wait else range(num_shards), wait=wait):
                shard = collect_shard(model, settings, index, prompts, judges)
                write_shard(folder, index, shard)
                claims.release(index)
                on_shard(shard)


@contextmanager
def show_progress(
    folder: Path, settings: Settings, num_shards: int, *, hidden: bool = False
) -> Iterator[Callable[[Shard], None]]:
    """A bar over the sources that all workers made, with rate and time left, and of one's own the share kept.

    Yields what is to be called with each shard; the bar ends with the block, so that an error has a line of its own.
    """

    def num_finished() -> int:
        return settings.shard_size * sum(index < num_shards for index in finished_shards(folder))

    total = num_shards * settings.shard_size
    kept: list[bool] = []
    with tqdm(total=total, initial=num_finished(), unit=" sources", mininterval=1, disable=hidden) as bar:

        def on_shard(shard: Shard) -> None:
            bar.update(num_finished() - bar.n)
            kept.extend(shard.rows.get("kept", ()))
            if kept:
                bar.set_postfix(kept=f"{sum(kept) / len(kept):.1%}")

        yield on_shard


def describe_sources(settings: Settings, prompts: Path | None) -> dict:
    """The files that decide a data set beside its settings, by their hashes; a hub's by its revision."""
    spec = find_model(settings.model)
    uses_npnet = any(target.startswith("npnet") for target in settings.targets)
    npnet = settings.npnet or spec.npnet
    embedded = settings.judges if settings.judge_weights == "embedded" else ()
    return {
        "model": hash_model(spec),
        "npnet": sha256(find_npnet(npnet)) if uses_npnet and npnet else None,
        "prompts": sha256(prompts) if prompts else None,
        "judges": {name: sha256(embedded_path(find_judge(name))) for name in embedded},
    }


def read_prompts(path: Path | None) -> list[str] | None:
    """One prompt a line; None stands for endless captions of the shapes world."""
    if path is None:
        return None
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    if not prompts:
        raise InvalidInput(f"There are no prompts in {path}: give a text file with one prompt a line.")
    return prompts


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("folder", type=Path, help="where the shards go")
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--npnet", help="NPNet weights for targets of that name (default: the model's)")
    parser.add_argument("--num-pairs", type=int, default=2000, help="source noises, rounded up to whole shards")
    parser.add_argument("--plan", action="store_true", help="make three shards, and say what all of them would take")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="ray: on a cluster, see RAY_ADDRESS")
    parser.add_argument("--workers", type=int, default=1, help="of --engine ray: actors that paint")
    parser.add_argument("--judge-workers", type=int, default=1, help="of --engine ray: actors that judge")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line (default: captions of the shapes world)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--shard-size", type=int, default=defaults.shard_size, help="pairs in a batch and in a shard")
    parser.add_argument(
        "--num-inference-steps", type=int, default=defaults.num_inference_steps, help="of the pictures that are judged"
    )
    parser.add_argument("--targets", nargs="+", help="how targets are made, as above (default: the model's)")
    parser.add_argument("--redenoise-guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--inversion-guidance-scale", type=float, default=defaults.inversion_guidance_scale)
    parser.add_argument("--redenoise-solver", choices=[*SOLVERS], help="(default: the model's)")
    parser.add_argument("--evaluate-at", choices=["t", "t-k"], default=defaults.evaluate_at)
    parser.add_argument("--unjudged", dest="judged", action="store_false", help="make noises alone, and no pictures")
    parser.add_argument(
        "--judges", nargs="+", default=(), metavar="JUDGE", help=f"record their scores: all, or of {', '.join(JUDGES)}"
    )
    parser.add_argument("--judge-weights", choices=WEIGHT_SETS, default=defaults.judge_weights)
    parser.add_argument("--filter", help="which pairs are marked as kept (default: by the checker, or HPSv2)")
    parser.add_argument("--margin", type=float, default=defaults.margin, help="by how much a judge must be for a pair")
    parser.add_argument("--bf16", action="store_true", help="render in bfloat16 (autocast)")
    parser.add_argument("--num-threads", type=int, default=defaults.num_threads, help="of a worker on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    spec = find_model(arguments.model)
    if spec.is_steered:
        raise InvalidInput(f"Pairs are made from prompts alone, and {spec.name!r} wants a control picture, too.")
    arguments.targets = tuple(arguments.targets or [default_target(spec)])
    arguments.judges = tuple(JUDGES) if list(arguments.judges) == ["all"] else tuple(arguments.judges)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(defaults)})
    for name in ("num_pairs", "shard_size", "num_threads", "workers", "judge_workers"):
        if getattr(arguments, name) < 1:
            raise InvalidInput(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(arguments, name)}.")
    for target in settings.targets:
        parse_target(target)
    if len(set(settings.targets)) < len(settings.targets):
        raise InvalidInput(f"Each target goes once into a data set, got {' '.join(settings.targets)}.")
    if settings.filter:
        figures = [*settings.judges, *(["score"] if spec.is_shapes else [])]
        find_filter(settings.filter, [f"target_{name}" for name in figures])
    prompts = read_prompts(arguments.prompts)
    rank, _ = find_worker()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if arguments.device == "cuda" else arguments.device
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    sources = describe_sources(settings, arguments.prompts)
    write_manifest(folder, {"settings": asdict(settings), "sources": sources, **describe_machine(device)})
    num_shards = -(-arguments.num_pairs // settings.shard_size)
    if arguments.plan:
        print("\n".join(plan_collection(folder, settings, prompts, num_shards, device)))
        return
    with show_progress(folder, settings, num_shards, hidden=rank > 0) as on_shard:
        if arguments.engine == "ray":
            workers = {"num_painters": arguments.workers, "num_critics": arguments.judge_workers}
            collect_on_ray(folder, settings, prompts, num_shards, device, on_shard, **workers)
        else:
            collect_here(folder, settings, prompts, num_shards, device, on_shard)
    if rank == 0:
        rows = read_rows(folder)
        print("\n".join(describe_gains(rows)) or f"{len(rows)} pairs, not judged")


if __name__ == "__main__":
    run_command(main)
