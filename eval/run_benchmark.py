"""Measure arms against each other: prompts x seeds x arms to rows, rows to tables with confidence intervals.

    python eval/run_benchmark.py --model shapes --suite main --seeds 4 --out runs/main
    torchrun --standalone --nproc-per-node 2 eval/run_benchmark.py --model sdxl --judges all --out runs/sdxl

Rows are written batch by batch. Killed and started again with the same settings, a run goes on where it was, and its
rows are those of an uninterrupted one.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # In place of this file's own folder, whose statistics.py would be taken for Python's `statistics`.
    sys.path[0] = str(ROOT)

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from eval.prompt_sets import NAMES, SHAPES, PromptSet, describe_dropped, load_prompt_set
from eval.rendering import Renderer, Unit, Variant, check_variant, plan_batches
from eval.runs import RunFolder, describe_machine, find_worker, hash_model, said_plainly, wait_for_parts
from eval.suites import SUITES, Options, find_suite
from eval.summary import RIGHT, Effect, compare_all, find_categories
from eval.tables import format_report
from golden.arms import ARMS
from golden.compare import MAX_SEED, check_whole, load_model
from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.files import atomic_path, sha256
from golden.judges import JUDGES, WEIGHT_SETS, JudgeSet, find_judge, load_judges
from golden.models import MODELS, find_model
from golden.npnet import NPNETS, find_npnet

MAX_SEEDS = 1024
MAX_BATCH_SIZE = 4096


@dataclass(frozen=True)
class Settings:
    """What is measured; None leaves a choice to the suite, the model or the prompt file."""

    model: str = "shapes"
    suite: str = "main"
    prompt_set: str | None = None
    prompts: Path | None = None
    limit: int | None = None
    seeds: int = 2
    first_seed: int = 0
    arms: tuple[str, ...] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    npnet: str | None = None
    judges: tuple[str, ...] = ()
    judge_weights: str = "embedded"
    batch_size: int = 32
    bf16: bool = False


@dataclass(frozen=True)
class Run:
    """A benchmark that is ready to start: everything was found and checked."""

    settings: Settings
    prompts: PromptSet
    seeds: list[int]
    variants: list[Variant]
    renderer: Renderer
    judge_names: tuple[str, ...]

    @property
    def plan(self) -> list[list[Unit]]:
        return plan_batches(self.prompts.prompts, self.seeds, self.variants, self.settings.batch_size)


def prepare(settings: Settings, device: str = "cpu") -> Run:
    """Find and check everything that a run needs, before the first picture.

    Raises: GoldenError in one sentence for whatever is unknown, missing or unfit.
    """
    spec = find_model(settings.model)
    check_whole("number of seeds", settings.seeds, 1, MAX_SEEDS)
    check_whole("first seed", settings.first_seed, 0, MAX_SEED - settings.seeds)
    check_whole("batch size", settings.batch_size, 1, MAX_BATCH_SIZE)
    prompts = load_prompt_set(_prompt_set_name(settings), settings.prompts, spec).limit(settings.limit)
    options = Options(settings.arms, settings.num_inference_steps, settings.guidance_scale, settings.sampler)
    variants = find_suite(settings.suite).make_variants(spec, options)
    variants = [check_variant(variant, spec, prompts.prompts[0].text) for variant in variants]
    judges = open_judges(settings, device)
    if not spec.is_shapes and judges is None:
        raise InvalidInput(f"Nothing can measure pictures of {spec.name!r}: choose judges with --judges.")
    model = load_model(settings.model, npnet=settings.npnet, device=device)
    renderer = Renderer(model, judges=judges, bf16=settings.bf16)
    renderer.check(variants, prompts.prompts[0])
    seeds = list(range(settings.first_seed, settings.first_seed + settings.seeds))
    return Run(settings, prompts, seeds, variants, renderer, judges.names if judges else ())


def _prompt_set_name(settings: Settings) -> str:
    return settings.prompt_set or ("own" if settings.prompts else SHAPES)


def open_judges(settings: Settings, device: str) -> JudgeSet | None:
    """The judges that were asked for, each tried on a grey picture. Of "all", those without weights are left out.

    Raises: GoldenError with the sentence of a judge that was asked for by name and cannot be had.
    """
    if not settings.judges:
        return None
    asked_for_all = settings.judges == ("all",)
    names = tuple(JUDGES) if asked_for_all else settings.judges
    for name in names:
        find_judge(name)
    judges = load_judges(names, settings.judge_weights, device=device)
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    failed = {name: result for name, result in judges.stream([grey], ["a circle"]) if isinstance(result, str)}
    if failed and (not asked_for_all or len(failed) == len(names)):
        raise GoldenError(next(iter(failed.values())))
    for sentence in failed.values():
        print(f"left out: {sentence}", file=sys.stderr)
    kept = [name for name in names if name not in failed]
    return load_judges(kept, settings.judge_weights, device=device) if failed else judges


def identify(run: Run) -> dict:
    """What decides the rows of a run."""
    settings, model = run.settings, run.renderer.model
    npnet = settings.npnet or model.spec.npnet
    return {
        "model": model.spec.name,
        "suite": settings.suite,
        "prompts": {"name": run.prompts.name, "num": len(run.prompts.prompts), "sha256": run.prompts.sha256},
        "seeds": {"first": settings.first_seed, "num": settings.seeds},
        "variants": [asdict(variant) for variant in run.variants],
        "batch_size": settings.batch_size,
        "bf16": settings.bf16,
        "judges": list(run.judge_names),
        "judge_weights": settings.judge_weights if run.judge_names else None,
        "weights": hash_model(model.spec),
        "npnet": sha256(find_npnet(npnet)) if model.npnet is not None and npnet else None,
    }


def render_parts(run: Run, folder: RunFolder, *, keep_pictures: bool = False) -> None:
    """Render what is missing of this worker's batches."""
    rank, num_workers = find_worker()
    plan = run.plan
    bar = tqdm(range(rank, len(plan), num_workers), run.settings.suite, unit="batch", mininterval=1, disable=rank > 0)
    tally: dict[str, list[float]] = {}
    for index in bar:
        if folder.has_part(index, run.variants, plan[index]):
            continue
        rows, pictures, timings = run.renderer.measure_batch(run.variants, plan[index])
        if keep_pictures:
            save_pictures(folder.folder / "pictures", plan[index], pictures)
        folder.write_part(index, rows, asdict(timings), rank)
        if RIGHT in rows:
            for name, group in rows.groupby("variant", sort=False):
                tally.setdefault(str(name), []).extend(group[RIGHT].astype(float))
            bar.set_postfix({name: f"{100 * sum(values) / len(values):.1f}%" for name, values in tally.items()})


def save_pictures(folder: Path, units: Sequence[Unit], pictures: dict[str, list[Image.Image]]) -> None:
    """Write pictures as PNG, named by prompt, seed and variant."""
    with said_plainly(folder):
        for name, images in pictures.items():
            for unit, image in zip(units, images, strict=True):
                with atomic_path(folder / f"{unit.prompt_index:04d}-{unit.seed}-{name}.png") as temporary:
                    image.save(temporary, format="PNG")


def run_benchmark(
    run: Run, out: Path, device: str = "cpu", *, keep_pictures: bool = False
) -> tuple[pd.DataFrame, list[Effect], list[Effect]] | None:
    """Render, merge and compare. Returns (rows, effects, effects by category); None in all workers but the first."""
    rank, num_workers = find_worker()
    folder = RunFolder(out)
    dropped = [asdict(row) for row in run.prompts.dropped]
    record = describe_machine(device) | {"workers": num_workers}
    folder.open(identify(run), record, write=rank == 0)
    started = time.perf_counter()
    render_parts(run, folder, keep_pictures=keep_pictures)
    if rank > 0:
        return None
    plan = run.plan
    wait_for_parts(folder, plan, run.variants)
    rows = folder.merge(len(plan), run.variants)
    effects = compare_all(rows, run.variants)
    by_category = [effect for category in find_categories(rows) for effect in compare_all(rows, run.variants, category)]
    folder.note(
        dropped_prompts=dropped,
        seconds_of_last_start=round(time.perf_counter() - started, 1),
        seconds=sum_seconds(folder.read_timings()),
        results=[asdict(effect) for effect in effects],
    )
    return rows, effects, by_category


def sum_seconds(timings: Sequence[dict]) -> dict:
    """Seconds over all batches: of each arm's noise, of each way of sampling, of decoding and of measuring."""
    total: dict = {"noise": {}, "denoise": {}, "decode": 0.0, "measure": 0.0}
    for entry in timings:
        for kind in ("noise", "denoise"):
            for name, seconds in entry[kind].items():
                total[kind][name] = total[kind].get(name, 0.0) + seconds
        for kind in ("decode", "measure"):
            total[kind] += entry[kind]
    return total


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("--list", action="store_true", help="list the suites and stop")
    parser.add_argument("--suite", default=defaults.suite, choices=[*SUITES])
    parser.add_argument("--model", default=defaults.model, help=f"of {', '.join(MODELS)}, or a diffusers folder")
    parser.add_argument("--npnet", help=f"NPNet weights: a file, or of {', '.join(NPNETS)} (default: the model's)")
    parser.add_argument("--prompt-set", choices=NAMES, help="(default: shapes-553, or own with --prompts)")
    parser.add_argument("--prompts", type=Path, help="a .csv, .jsonl or .txt file of prompts")
    parser.add_argument("--limit", type=int, help="only so many prompts, spread evenly over the set")
    parser.add_argument("--seeds", type=int, default=defaults.seeds, help="seeds per prompt")
    parser.add_argument("--first-seed", type=int, default=defaults.first_seed)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"of {', '.join(ARMS)} (default: the suite's)")
    parser.add_argument("--num-inference-steps", type=int, help="(default: the model's)")
    parser.add_argument("--guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--sampler", help="(default: the model's)")
    parser.add_argument("--judges", nargs="+", default=[], metavar="JUDGE", help=f"all, or of {', '.join(JUDGES)}")
    parser.add_argument("--judge-weights", choices=WEIGHT_SETS, default=defaults.judge_weights)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="pictures denoised at a time")
    parser.add_argument("--bf16", action="store_true", help="render in bfloat16 (autocast): twice as fast on some CPUs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keep-pictures", action="store_true", help="keep every picture as PNG")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/SUITE)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.list:
        for suite in SUITES.values():
            print(f"{suite.name:12} {suite.source:18} {suite.title}")
        return 0
    values = {name: getattr(arguments, name) for name in asdict(Settings())}
    lists = {name: tuple(values[name]) if values[name] is not None else None for name in ("arms", "judges")}
    settings = Settings(**{**values, **lists})
    rank, _ = find_worker()
    device = f"cuda:{rank % torch.cuda.device_count()}" if arguments.device == "cuda" else arguments.device
    run = prepare(settings, device)
    if rank == 0:
        announce(run)
    out = arguments.out or ROOT / "runs" / settings.suite
    result = run_benchmark(run, out, device, keep_pictures=arguments.keep_pictures)
    if result:
        print(f"\n{format_report(*result)}\n\nrows: {out / 'rows.parquet'}")
    return 0


def announce(run: Run) -> None:
    """Say what is about to be measured."""
    first = run.variants[0]
    num_prompts, num_seeds, num_variants = len(run.prompts.prompts), len(run.seeds), len(run.variants)
    print(
        f"{run.settings.suite} on {run.renderer.model.spec.name}: {num_prompts} prompts x {num_seeds} seeds x "
        f"{num_variants} variants = {num_prompts * num_seeds * num_variants} pictures, {first.sampler} "
        f"{first.num_inference_steps} steps, guidance {first.guidance_scale:g}; {describe_dropped(run.prompts.dropped)}"
    )


if __name__ == "__main__":
    run_command(main)
