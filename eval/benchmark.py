"""A benchmark from settings to results: prepare, train what the suite trains, render batch by batch, summarise."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from eval.choices import find_spec, limit_costly, list_seeds, list_sets, name_npnets
from eval.distances import frechet_by_variant, render_real, singular_similarity
from eval.golden_noise import compare_noises
from eval.networks import PairsFolder, check_networks, describe_networks, open_pairs, prepare_networks
from eval.prompt_sets import PromptSet, load_prompt_set
from eval.rendering import (
    BatchPlan,
    Renderer,
    Timings,
    Unit,
    Variant,
    check_variant,
    encode_images,
    first_sampling,
    list_units,
    plan_run,
)
from eval.results import Results
from eval.runs import RunFolder, explain_write_errors, wait_for_parts
from eval.settings import BenchmarkSettings
from eval.suites import Suite, SuitePlan, SuiteSettings, find_suite
from eval.summary import CLUSTER, RIGHT, add_clusters, cluster_prompts, compare_all, find_categories
from golden.arms import WITH_VERIFIER
from golden.checkers import find_checker, identify_checker
from golden.checks import check_whole
from golden.errors import GoldenError, InvalidInput
from golden.files import atomic_path, open_image, sha256
from golden.judges import ALL_JUDGES, JudgeSet, find_judge, load_judge, load_judges
from golden.judges.base import ClipJudge
from golden.model import load_model
from golden.models import ModelSpec
from golden.npnet import find_npnet
from golden.pipelines import load_pipeline
from golden.provenance import describe_run, find_worker, hash_model
from golden.request import check_control
from golden.settings import read_control, read_file
from train.pairs import read_rows

MAX_BATCH_SIZE = 4096
MAX_EPOCHS = 10_000
MAX_TALLIED = 8  # variants, in the line of the progress bar
IMAGE_ENCODER = "CLIPScore"
"""The judge whose image embeddings measure how far images are from each other."""
NUM_NOISES = 64  # of which singular vectors are compared
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class Run:
    """A benchmark that is ready to start: everything was found and checked."""

    settings: BenchmarkSettings
    suite: Suite
    prompts: PromptSet
    seeds: list[int]
    plan: SuitePlan
    pairs: PairsFolder | None
    renderer: Renderer
    judge_names: tuple[str, ...]
    real: list[Image.Image] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        return self.renderer.model.spec

    @property
    def variants(self) -> list[Variant]:
        return self.plan.variants

    @property
    def batches(self) -> list[BatchPlan]:
        apart = self.suite.seeds_apart(self.seeds)
        return plan_run(self.prompts.prompts, self.seeds, self.variants, self.settings.batch_size, apart)


# --- before the first image ------------------------------------------------------------------------------------------


def prepare(settings: BenchmarkSettings, device: str = "cpu") -> Run:
    """Find and check everything that a run needs, before the first image.

    Raises: GoldenError in one sentence for whatever is unknown, missing or unfit.
    """
    spec, suite = find_spec(settings), find_suite(settings.suite)
    seeds = list_seeds(settings, suite)
    check_whole("batch size", settings.batch_size, 1, MAX_BATCH_SIZE)
    check_whole("number of epochs", settings.num_epochs, 1, MAX_EPOCHS)
    prompts = load_prompt_set(list_sets(settings)[0], settings.prompts, spec).limit(settings.limit)
    pairs = open_pairs(settings.pairs, spec) if settings.pairs else None
    plan = make_plan(settings, suite, spec, pairs)
    variants = [check_variant(variant, spec, prompts.prompts[0].text) for variant in plan.variants]
    variants, limited = limit_costly(variants, settings.limit_costly, len(prompts.prompts))
    plan = replace(plan, variants=variants, left_out=" ".join(filter(None, [plan.left_out, limited])))
    check_networks(plan.networks, pairs, spec)
    control = read_control(read_file(settings.control)) if settings.control else None
    check_control(control, spec)
    real = open_real_images(settings.real, spec, prompts) if suite.measures == "frechet" else []
    judges = open_judges(settings, spec, device)
    if not spec.checker and judges is None:
        raise InvalidInput(f"Nothing can measure images of {spec.name!r}: choose judges with --judges.")
    needs_encoder = real or (judges and IMAGE_ENCODER in judges.names)
    image_encoder = open_image_encoder(settings, device) if needs_encoder else None
    model = load_model(
        settings.model, npnet=settings.npnet, verifier=settings.verifier, device=device, memory=settings.memory
    )
    model.spec = spec
    if settings.checker:
        try_checker(settings.checker, prompts)
    renderer = Renderer(
        model,
        unets=load_unets(plan.variants, spec, device),
        judges=judges,
        image_encoder=image_encoder,
        control=control,
        bf16=settings.bf16,
    )
    renderer.check(plan.variants, prompts.prompts[0])
    return Run(settings, suite, prompts, seeds, plan, pairs, renderer, judges.names if judges else (), real)


def try_checker(name: str, prompts: PromptSet) -> None:
    """Check a grey image against one prompt of each category. Raises: GoldenError if the checker lacks its weights."""
    checker = find_checker(name)
    for prompt in {prompt.category: prompt.text for prompt in prompts.prompts}.values():
        checker.check(prompt, Image.new("RGB", (128, 128), (128, 128, 128)))  # type: ignore[union-attr]


def make_plan(settings: BenchmarkSettings, suite: Suite, spec: ModelSpec, pairs: PairsFolder | None) -> SuitePlan:
    """The suite's plan for a model. Raises: InvalidInput for arms that the suite does not take."""
    plan = suite.make_plan(
        spec,
        SuiteSettings(
            arms=settings.arms,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
            num_epochs=settings.num_epochs,
            targets=pairs.targets if pairs else (),
            num_pairs=pairs.num_sources if pairs else 0,
            npnet=settings.npnet,
            npnets=name_npnets(settings.npnets),
        ),
    )
    further = dict(name_npnets(settings.npnets))
    if not set(further) <= set(plan.networks):
        raise InvalidInput(f"The suite {suite.name!r} compares NPNets of its own: leave out --npnets.")
    if settings.arms and {v.arm for v in plan.variants if v.npnet not in further} != set(settings.arms):
        raise InvalidInput(f"The suite {suite.name!r} compares arms of its own: leave out --arms.")
    return plan


def load_unets(variants: Sequence[Variant], spec: ModelSpec, device: str) -> dict[str, torch.nn.Module]:
    """The UNets that variants name beside the model's own."""
    names = dict.fromkeys(variant.unet for variant in variants if variant.unet)
    return {name: load_pipeline(replace(spec, parts=replace(spec.parts, unet=name)), device).unet for name in names}


def open_real_images(folder: Path | None, spec: ModelSpec, prompts: PromptSet) -> list[Image.Image]:
    """The images of a folder; in the shapes world, without one, rendered scenes of the prompts.

    Raises: InvalidInput if there is no folder, or it has fewer than two images.
    """
    if folder is None:
        if spec.checker != "shapes":
            raise InvalidInput("The distance to real images needs some: give a folder of them with --real.")
        return render_real([prompt.text for prompt in prompts.prompts])
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(paths) < 2:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InvalidInput(f"{folder} must hold at least 2 images ({suffixes}), got {len(paths)}.")
    return [open_image(path) for path in paths]


def open_image_encoder(settings: BenchmarkSettings, device: str) -> ClipJudge:
    """The CLIP model that embeds images. Raises: GoldenError if its weights cannot be loaded."""
    judge = load_judge(IMAGE_ENCODER, settings.judge_weights, device=device)  # type: ignore[arg-type]
    assert isinstance(judge, ClipJudge)
    return judge


def open_judges(settings: BenchmarkSettings, spec: ModelSpec, device: str) -> JudgeSet | None:
    """The judges that were asked for, each tried on a grey image; of "all", those without weights are left out.

    If none are named, the shapes world has all, which are embedded.
    Raises: GoldenError with the sentence of a judge that was asked for by name and cannot be loaded.
    """
    chosen = settings.judges if settings.judges is not None else (("all",) if spec.checker == "shapes" else ())
    if not chosen or chosen == ("none",):
        return None
    asked_for_all = chosen == ("all",)
    names = ALL_JUDGES if asked_for_all else chosen
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
        "seeds": {"first": settings.first_seed, "num": len(run.seeds), "noise_per_prompt": True},  # not before 0.11
        "variants": [_describe_variant(variant) for variant in run.variants],
        "batch_size": settings.batch_size,
        "bf16": settings.bf16,
        "checker": identify_checker(settings.checker),
        "judges": list(run.judge_names),
        "judge_weights": settings.judge_weights if run.judge_names else None,
        "weights": hash_model(model.spec),
        "control": sha256(settings.control) if settings.control else None,
        **_describe_own(run),
        "networks": describe_networks(run.plan.networks, run.pairs),
        "npnet": sha256(find_npnet(npnet)) if model.npnet is not None and npnet else None,
    }


def _describe_variant(variant: Variant) -> dict:
    """The fields of a variant, without those that runs of earlier versions did not have, where they are not used."""
    newer = ("best_norm", "num_prompts")
    return {name: value for name, value in asdict(variant).items() if value is not None or name not in newer}


def _describe_own(run: Run) -> dict:
    """The model's own settings and weights that some arms use, where they are used."""
    arms, spec = {variant.arm for variant in run.variants}, run.spec
    uses_norm = any(
        variant.arm in ("best_norm", "npnet_best_norm") and variant.best_norm is None for variant in run.variants
    )
    uses_verifier = arms.intersection(WITH_VERIFIER) and spec.verifier
    return {
        "best_norm": spec.best_norm if uses_norm else None,
        "verifier": sha256(Path(spec.verifier or "")) if uses_verifier else None,
        "reward": asdict(spec.reward) if uses_verifier and "ascent" in arms else None,
    }


# --- the run ----------------------------------------------------------------------------------------------------------


def run_benchmark(run: Run, out: Path, device: str = "cpu", *, keep_images: bool = False) -> Results | None:
    """Train what the suite trains, render, merge and compare; None in all workers but the first."""
    rank, num_workers = find_worker()
    folder = RunFolder(out)
    folder.open(identify(run), describe_run(device) | {"workers": num_workers}, write=rank == 0)
    started = time.perf_counter()
    networks = prepare_networks(run.plan.networks, run.pairs, run.spec, out / "networks", device)
    run.renderer.npnets |= {name: network.to(device) for name, network in networks.items()}
    render_parts(run, folder, keep_images=keep_images)
    if rank > 0:
        return None
    wait_for_parts(folder, run.batches)
    return summarise(run, folder, seconds_of_last_start=round(time.perf_counter() - started, 1))


def render_parts(run: Run, folder: RunFolder, *, keep_images: bool = False) -> None:
    """Render what is missing of this worker's batches."""
    rank, num_workers = find_worker()
    plan = run.batches
    bar = tqdm(range(rank, len(plan), num_workers), run.suite.name, unit="batch", mininterval=1, disable=rank > 0)
    tally: dict[str, list[float]] = {}
    for index in bar:
        variants, units = plan[index].variants, plan[index].units
        if folder.has_part(index, variants, units):
            continue
        rows, images, timings = run.renderer.measure_batch(variants, units)
        if keep_images:
            save_images(folder.folder / "images", units, images)
        folder.write_part(index, rows, asdict(timings), rank)
        if RIGHT in rows and len(run.variants) <= MAX_TALLIED:
            for name, group in rows.groupby("variant", sort=False):
                tally.setdefault(str(name), []).extend(group[RIGHT].astype(float))
            bar.set_postfix({name: f"{100 * sum(values) / len(values):.1f}%" for name, values in tally.items()})


def save_images(folder: Path, units: Sequence[Unit], images: dict[str, list[Image.Image]]) -> None:
    """Write images as PNG, named by prompt, the seed of its noise, and variant."""
    with explain_write_errors(folder):
        for name, made in images.items():
            for unit, image in zip(units, made, strict=True):
                with atomic_path(folder / f"{unit.prompt_index:04d}-{unit.noise_seed}-{name}.png") as temporary:
                    image.save(temporary, format="PNG")


# --- results ---------------------------------------------------------------------------------------------------------


def summarise(run: Run, folder: RunFolder, **facts: object) -> Results:
    """Merge a finished run's parts, compare its variants, and record the effects and `facts` in its manifest."""
    num_parts, variants, checker = len(run.batches), run.variants, run.spec.checker
    rows = add_clusters(folder.merge(num_parts, variants), checker)
    extras = folder.read_extras(num_parts, variants).assign(**{CLUSTER: rows[CLUSTER]})
    effects = compare_all(rows, variants)
    grouped = group_rows(rows, run)
    shown = first_sampling(variants) if run.suite.at_samplings else variants
    by_category = [effect for name in find_categories(grouped) for effect in compare_all(grouped, shown, name)]
    timings = folder.read_timings()
    folder.note(
        dropped_prompts=[asdict(row) for row in run.prompts.dropped],
        seconds=sum_seconds(timings),
        results=[asdict(effect) for effect in effects],
        **facts,
    )
    results = Results(
        suite=run.suite,
        model=run.spec.name,
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
        pairs=read_pairs(run.pairs, checker) if run.pairs else None,
    )
    return replace(results, noises=compare_noises(results)) if run.suite.at_samplings else results


def group_rows(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows under the report's categories: those of the prompts, or the ranges of seeds if there are several."""
    starts = [run.settings.first_seed + start for start in run.suite.seed_starts]
    if len(starts) == 1:
        return rows
    length = len(run.seeds) // len(starts)
    last = length * len(run.prompts.prompts) - 1
    names = {start + index: f"seeds {start} to {start + last}" for start in starts for index in range(length)}
    return rows.assign(category=rows["seed"].map(names))


def read_pairs(pairs: PairsFolder, checker: str | None) -> pd.DataFrame:
    """The rows of a folder of pairs, with their clusters."""
    rows = read_rows(pairs.folder)
    return rows.assign(**{CLUSTER: cluster_prompts(rows["prompt"], checker)})


def compare_singular_vectors(run: Run) -> dict[str, tuple]:
    """By arm, how similar the singular vectors of its noise are to those of the source noise."""
    units = list_units(run.prompts.prompts[:NUM_NOISES], run.seeds[:1])
    start = run.renderer.start(units)
    noises = run.renderer.make_noises(run.variants, start, Timings())
    return {name: singular_similarity(start.source, noise) for name, noise in noises.items() if name != "standard"}


def compare_with_real(run: Run, extras: pd.DataFrame) -> dict:
    """By variant, its distance to real images."""
    encoder = run.renderer.image_encoder
    assert encoder is not None, "prepare opens one for a run with real images"
    return frechet_by_variant(extras, [variant.name for variant in run.variants], encode_images(encoder, run.real))


def sum_seconds(timings: Sequence[dict]) -> dict:
    """Seconds over all batches: of each arm's noise, of sampling each group of variants, and of measuring."""
    total: dict = {"noise": {}, "sampling": {}, "measuring": 0.0}
    for entry in timings:
        for kind in ("noise", "sampling"):
            for name, seconds in entry[kind].items():
                total[kind][name] = total[kind].get(name, 0.0) + seconds
        total["measuring"] += entry["measuring"]
    return total
