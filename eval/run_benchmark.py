"""Measure arms against each other: prompts x seeds x arms to rows, rows to tables with confidence intervals.

    python eval/run_benchmark.py --model shapes --suite main --seeds 4 --out runs/main
    torchrun --standalone --nproc-per-node 2 eval/run_benchmark.py --model sdxl --judges all --out runs/sdxl

Rows are written batch by batch. Killed and started again with the same settings, a run goes on where it was, and its
rows are those of an uninterrupted one.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # In place of this file's own folder, whose statistics.py would be taken for Python's `statistics`.
    sys.path[0] = str(ROOT)

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from eval.distances import frechet_by_variant, render_real, singular_similarity
from eval.prompt_sets import NAMES, SHAPES, PromptSet, describe_dropped, load_prompt_set
from eval.rendering import Renderer, Timings, Unit, Variant, check_variant, plan_batches, see
from eval.report import Results, write_report
from eval.runs import RunFolder, describe_machine, find_worker, hash_model, said_plainly, wait_for_parts
from eval.suites import SUITES, Options, Plan, Suite, expected_seconds, find_suite
from eval.summary import RIGHT, compare_all, find_categories
from eval.training import PairsFolder, check_networks, describe_training, open_pairs, train_networks
from golden.arms import ARMS
from golden.compare import MAX_SEED, check_control, check_whole, load_model
from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.files import atomic_path, sha256
from golden.judges import JUDGES, WEIGHT_SETS, JudgeSet, find_judge, load_judge, load_judges
from golden.judges.base import ClipJudge
from golden.models import MODELS, ModelSpec, find_model
from golden.noise import source_noise
from golden.npnet import NPNETS, find_npnet
from golden.pipelines import MEMORY_MODES, latent_shape, load_pipeline
from golden.settings import read_control, read_file
from golden.shapes import open_image
from train.pairs import read_rows

MAX_SEEDS = 1024
MAX_BATCH_SIZE = 4096
MAX_EPOCHS = 10_000
EYES = "CLIPScore"  # the judge whose embeddings tell how far pictures are from each other
NUM_NOISES = 64  # of which singular vectors are compared
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class Settings:
    """What is measured; None leaves a choice to the suite, the model or the prompt file."""

    model: str = "shapes"
    suite: str = "main"
    prompt_set: str | None = None
    prompts: Path | None = None
    limit: int | None = None
    seeds: int | None = None
    first_seed: int = 0
    arms: tuple[str, ...] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    npnet: str | None = None
    judges: tuple[str, ...] | None = None
    judge_weights: str = "embedded"
    pairs: Path | None = None
    num_epochs: int = Options.num_epochs
    real: Path | None = None
    batch_size: int = 32
    bf16: bool = False
    memory: str = "auto"
    control: Path | None = None


@dataclass(frozen=True)
class Run:
    """A benchmark that is ready to start: everything was found and checked."""

    settings: Settings
    suite: Suite
    prompts: PromptSet
    seeds: list[int]
    plan: Plan
    pairs: PairsFolder | None
    renderer: Renderer
    judge_names: tuple[str, ...]
    real: list[Image.Image] = field(default_factory=list)

    @property
    def variants(self) -> list[Variant]:
        return self.plan.variants

    @property
    def batches(self) -> list[list[Unit]]:
        return plan_batches(self.prompts.prompts, self.seeds, self.variants, self.settings.batch_size)


def prepare(settings: Settings, device: str = "cpu") -> Run:
    """Find and check everything that a run needs, before the first picture.

    Raises: GoldenError in one sentence for whatever is unknown, missing or unfit.
    """
    spec, suite = find_model(settings.model), find_suite(settings.suite)
    seeds_asked = suite.num_seeds if settings.seeds is None else settings.seeds
    num_seeds = check_whole("number of seeds", seeds_asked, 1, MAX_SEEDS)
    check_whole("first seed", settings.first_seed, 0, MAX_SEED - num_seeds - max(suite.seed_starts))
    check_whole("batch size", settings.batch_size, 1, MAX_BATCH_SIZE)
    check_whole("number of epochs", settings.num_epochs, 1, MAX_EPOCHS)
    prompts = load_prompt_set(_prompt_set_name(settings), settings.prompts, spec).limit(settings.limit)
    pairs = open_pairs(settings.pairs, spec) if settings.pairs else None
    plan = suite.make_plan(spec, make_options(settings, pairs))
    variants = [check_variant(variant, spec, prompts.prompts[0].text) for variant in plan.variants]
    plan = replace(plan, variants=variants)
    check_networks(plan.networks, pairs, spec)
    control = read_control(read_file(settings.control)) if settings.control else None
    check_control(control, spec)
    real = open_real_pictures(settings.real, spec, prompts) if suite.measures == "frechet" else []
    judges = open_judges(settings, spec, device)
    if not spec.is_shapes and judges is None:
        raise InvalidInput(f"Nothing can measure pictures of {spec.name!r}: choose judges with --judges.")
    eyes = open_eyes(settings, device) if (judges and EYES in judges.names) or real else None
    model = load_model(settings.model, npnet=settings.npnet, device=device, memory=settings.memory)
    unets = {
        variant.unet: load_pipeline(replace(spec, unet=variant.unet), device).unet
        for variant in variants
        if variant.unet
    }
    renderer = Renderer(model, judges=judges, bf16=settings.bf16, eyes=eyes, unets=unets, control=control)
    renderer.check(variants, prompts.prompts[0])
    first = settings.first_seed
    seeds = [first + start + index for start in suite.seed_starts for index in range(num_seeds)]
    return Run(settings, suite, prompts, seeds, plan, pairs, renderer, judges.names if judges else (), real)


def make_options(settings: Settings, pairs: PairsFolder | None) -> Options:
    """What the suite is told; without pairs, of none."""
    return Options(
        arms=settings.arms,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        num_epochs=settings.num_epochs,
        targets=pairs.targets if pairs else (),
        num_pairs=pairs.num_sources if pairs else 0,
    )


def open_real_pictures(folder: Path | None, spec: ModelSpec, prompts: PromptSet) -> list[Image.Image]:
    """The pictures of a folder; of the shapes world, without one, rendered scenes of the prompts.

    Raises: InvalidInput if there is no folder, or not two pictures in it.
    """
    if folder is None:
        if not spec.is_shapes:
            raise InvalidInput("The distance to real pictures needs some: give a folder of them with --real.")
        return render_real([prompt.text for prompt in prompts.prompts])
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if len(paths) < 2:
        raise InvalidInput(f"{folder} must hold at least 2 pictures ({', '.join(sorted(PICTURES))}), got {len(paths)}.")
    return [open_image(path) for path in paths]


def open_eyes(settings: Settings, device: str) -> ClipJudge:
    """The CLIP model that looks at pictures. Raises: GoldenError if its weights cannot be had."""
    judge = load_judge(EYES, settings.judge_weights, device=device)  # type: ignore[arg-type]
    assert isinstance(judge, ClipJudge)
    return judge


def _prompt_set_name(settings: Settings) -> str:
    return settings.prompt_set or ("own" if settings.prompts else SHAPES)


def open_judges(settings: Settings, spec: ModelSpec, device: str) -> JudgeSet | None:
    """The judges that were asked for, each tried on a grey picture. Of "all", those without weights are left out.

    Where none were named, the shapes world has all, which are embedded.
    Raises: GoldenError with the sentence of a judge that was asked for by name and cannot be had.
    """
    chosen = settings.judges if settings.judges is not None else (("all",) if spec.is_shapes else ())
    if not chosen or chosen == ("none",):
        return None
    asked_for_all = chosen == ("all",)
    names = tuple(JUDGES) if asked_for_all else chosen
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
        "suite": run.suite.name,
        "prompts": {"name": run.prompts.name, "num": len(run.prompts.prompts), "sha256": run.prompts.sha256},
        "seeds": {"first": settings.first_seed, "num": len(run.seeds)},
        "variants": [asdict(variant) for variant in run.variants],
        "batch_size": settings.batch_size,
        "bf16": settings.bf16,
        "judges": list(run.judge_names),
        "judge_weights": settings.judge_weights if run.judge_names else None,
        "weights": hash_model(model.spec),
        "control": sha256(settings.control) if settings.control else None,
        "networks": describe_training(run.plan.networks, run.pairs),
        "npnet": sha256(find_npnet(npnet)) if model.npnet is not None and npnet else None,
    }


def render_parts(run: Run, folder: RunFolder, *, keep_pictures: bool = False) -> None:
    """Render what is missing of this worker's batches."""
    rank, num_workers = find_worker()
    plan = run.batches
    bar = tqdm(range(rank, len(plan), num_workers), run.suite.name, unit="batch", mininterval=1, disable=rank > 0)
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


def run_benchmark(run: Run, out: Path, device: str = "cpu", *, keep_pictures: bool = False) -> Results | None:
    """Train what the suite trains, render, merge and compare; None in all workers but the first."""
    rank, num_workers = find_worker()
    folder = RunFolder(out)
    record = describe_machine(device) | {"workers": num_workers}
    folder.open(identify(run), record, write=rank == 0)
    started = time.perf_counter()
    renderer, spec = run.renderer, run.renderer.model.spec
    networks = train_networks(run.plan.networks, run.pairs, spec, out / "networks")
    renderer.npnets |= {name: network.to(device) for name, network in networks.items()}
    render_parts(run, folder, keep_pictures=keep_pictures)
    if rank > 0:
        return None
    wait_for_parts(folder, run.batches, run.variants)
    return summarise(run, folder, seconds_of_last_start=round(time.perf_counter() - started, 1))


def summarise(run: Run, folder: RunFolder, **facts: object) -> Results:
    """Merge a finished run's parts, compare its variants, and note the effects and `facts` in its manifest."""
    num_parts, variants = len(run.batches), run.variants
    rows = folder.merge(num_parts, variants)
    effects = compare_all(rows, variants)
    grouped = group_rows(rows, run)
    by_category = [effect for name in find_categories(grouped) for effect in compare_all(grouped, variants, name)]
    timings, extras = folder.read_timings(), folder.read_extras(num_parts, variants)
    folder.note(
        dropped_prompts=[asdict(row) for row in run.prompts.dropped],
        seconds=sum_seconds(timings),
        results=[asdict(effect) for effect in effects],
        **facts,
    )
    return Results(
        suite=run.suite,
        model=run.renderer.model.spec.name,
        prompts=run.prompts.name,
        variants=variants,
        rows=grouped,
        effects=effects,
        by_category=by_category,
        timings=timings,
        manifest=folder.read_manifest() or {},
        extras=extras,
        left_out=run.plan.left_out,
        singular=compare_singular_vectors(run) if run.suite.measures == "singular" else {},
        frechet=compare_with_real(run, extras) if run.real else {},
        pairs=read_rows(run.pairs.folder) if run.pairs else None,
    )


def group_rows(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows under the categories of the report: those of the prompts, or ranges of seeds where there are several."""
    starts = [run.settings.first_seed + start for start in run.suite.seed_starts]
    if len(starts) == 1:
        return rows
    length = len(run.seeds) // len(starts)
    names = {start + index: f"seeds {start} to {start + length - 1}" for start in starts for index in range(length)}
    return rows.assign(category=rows["seed"].map(names))


def compare_singular_vectors(run: Run) -> dict[str, tuple]:
    """By arm, how much of the source noise's singular vectors its noise keeps."""
    units = [Unit(i, prompt, run.seeds[0]) for i, prompt in enumerate(run.prompts.prompts[:NUM_NOISES])]
    noises = run.renderer.make_noises(run.variants, units, Timings())
    source = source_noise([unit.seed for unit in units], latent_shape(run.renderer.model.pipeline))
    return {name: singular_similarity(source, noise) for name, noise in noises.items() if name != "standard"}


def compare_with_real(run: Run, extras: pd.DataFrame) -> dict:
    """By variant, its distance to real pictures."""
    assert run.renderer.eyes is not None
    return frechet_by_variant(extras, [variant.name for variant in run.variants], see(run.renderer.eyes, run.real))


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
    parser.add_argument(
        "--prompts", type=Path, help="a .csv, .jsonl or .txt file of prompts; for t2i-compbench its folder"
    )
    parser.add_argument("--limit", type=int, help="only so many prompts, spread evenly over the set")
    parser.add_argument("--seeds", type=int, help="seeds per prompt, of each range (default: the suite's)")
    parser.add_argument("--first-seed", type=int, default=defaults.first_seed)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"of {', '.join(ARMS)} (default: the suite's)")
    parser.add_argument("--num-inference-steps", type=int, help="(default: the model's)")
    parser.add_argument("--guidance-scale", type=float, help="(default: the model's)")
    parser.add_argument("--sampler", help="(default: the model's)")
    parser.add_argument("--judges", nargs="+", metavar="JUDGE", help=f"all, none, or of {', '.join(JUDGES)}")
    parser.add_argument("--judge-weights", choices=WEIGHT_SETS, default=defaults.judge_weights)
    parser.add_argument("--pairs", type=Path, help="judged pairs: for suites that train, and to compare judges")
    parser.add_argument("--num-epochs", type=int, default=defaults.num_epochs, help="of networks that a suite trains")
    parser.add_argument("--real", type=Path, help="folder of real pictures (default: the shapes world's own)")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="pictures denoised at a time")
    parser.add_argument("--bf16", action="store_true", help="render in bfloat16 (autocast): twice as fast on some CPUs")
    parser.add_argument("--memory", choices=MEMORY_MODES, default=defaults.memory, help="low fits cards of 8 to 12 GB")
    parser.add_argument("--control", type=Path, metavar="PICTURE", help="what a ControlNet is shown with every prompt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keep-pictures", action="store_true", help="keep every picture as PNG")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/SUITE)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.list:
        print("\n".join(list_suites()))
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
        print(f"\n{write_report(result, out)}\n\nrows: {out / 'rows.parquet'}\nreport: {out / 'report.html'}")
    return 0


def list_suites() -> list[str]:
    """A line per suite: name, place in the paper, what it shows, and about how long its pictures take."""
    spec = MODELS["shapes"]
    num_prompts = len(load_prompt_set(SHAPES, None, spec).prompts)
    lines = [f"{'suite':15} {'in the paper':25} {'minutes':>8}  what it shows"]
    for suite in SUITES.values():
        try:
            plan = suite.make_plan(spec, Options(num_pairs=600))
            num_seeds = suite.num_seeds * len(suite.seed_starts)
            minutes = f"{expected_seconds(plan, num_prompts, num_seeds) / 60:.0f}"
        except GoldenError:
            minutes = "-"
        trains = ", and trains (--pairs)" if suite.trains else ""
        lines.append(f"{suite.name:15} {suite.source:25} {minutes:>8}  {suite.title}{trains}")
    lines.append(f"Minutes: all {num_prompts} prompts of the shapes world on one CPU core with --bf16; see --limit.")
    return lines


def announce(run: Run) -> None:
    """Say what is about to be measured."""
    first = run.variants[0]
    num_prompts, num_seeds, num_variants = len(run.prompts.prompts), len(run.seeds), len(run.variants)
    print(
        f"{run.suite.name} on {run.renderer.model.spec.name}: {num_prompts} prompts x {num_seeds} seeds x "
        f"{num_variants} variants = {num_prompts * num_seeds * num_variants} pictures, {first.sampler} "
        f"{first.num_inference_steps} steps, guidance {first.guidance_scale:g}; {describe_dropped(run.prompts.dropped)}"
    )
    if run.plan.left_out:
        print(run.plan.left_out)


if __name__ == "__main__":
    run_command(main)
