"""The work behind the app's Benchmark tab: a suite that takes about a minute, and the reports of longer ones."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from eval.prompt_sets import PromptSet, default_sets, load_prompt_set
from eval.rendering import Renderer, Unit, Variant, plan_batches
from eval.result_tables import effects_table
from eval.summary import NOT_METRICS, RIGHT, Effect, add_clusters, clusters_of, compare_all
from eval.tables import Table
from eval.words import COUNTING, say_effect
from golden.checks import check_whole
from golden.errors import InvalidInput
from golden.files import ASSETS
from golden.judges import JudgeSet
from golden.model import Model
from golden.models import MODELS, ModelSpec
from golden.request import CompareRequest, validate
from golden.statistics import Interval
from golden.ui.arms import describe_arm

MIN_PROMPTS, MAX_PROMPTS = 4, 64
MAX_SEEDS = 4
MAX_ARMS = 4
UNITS_PER_BATCH = 4  # between two batches others can use the model, and a stop takes effect
REPORT = "report.html"
STORED = ASSETS / "reports"


@dataclass(frozen=True)
class ShortSuite:
    """A suite that is ready to start: every arm against standard, all under one comparison's settings."""

    checker: str
    prompts: PromptSet
    variants: list[Variant]
    batches: list[list[Unit]]


def plan_suite(base: CompareRequest, arms: Any, num_prompts: Any, num_seeds: Any, spec: ModelSpec) -> ShortSuite:
    """Prompts spread over the shapes world's test set; seeds from the base request's seed on, its other settings kept.

    Raises: InvalidInput in one sentence.
    """
    if spec.checker != "shapes":
        raise InvalidInput(f"There is no short suite for {spec.name!r}: eval/run_benchmark.py measures any model.")
    if not isinstance(arms, list) or not 1 <= len(arms) <= MAX_ARMS or "standard" in arms:
        raise InvalidInput(f"Choose 1 to {MAX_ARMS} arms; each is compared with standard.")
    prompts = load_prompt_set(default_sets(spec)[0], None, spec).limit(
        check_whole("number of prompts", num_prompts, MIN_PROMPTS, MAX_PROMPTS)
    )
    num_seeds = check_whole("number of seeds", num_seeds, 1, MAX_SEEDS)
    request = validate(replace(base, prompt=prompts.prompts[0].text, arms=("standard", *arms)), spec)
    validate(replace(request, seed=request.seed + num_seeds - 1), spec)
    variants = [
        Variant(
            describe_arm(arm).short,
            arm,
            request.num_inference_steps,
            request.guidance_scale,
            request.sampler,
            request.strength,
        )
        for arm in request.arms
    ]
    seeds = range(request.seed, request.seed + num_seeds)
    batches = plan_batches(prompts.prompts, list(seeds), variants, UNITS_PER_BATCH * len(variants))
    return ShortSuite(spec.checker, prompts, variants, batches)


def run_suite(suite: ShortSuite, model: Model, judges: JudgeSet | None = None) -> Iterator[pd.DataFrame]:
    """The rows of each batch as it is finished; the model is free between two batches.

    Raises: GoldenError in one sentence for an arm or a judge that cannot be loaded.
    """
    renderer = Renderer(model, judges=judges)
    for units in suite.batches:
        with model.lock:
            rows, _, _ = renderer.measure_batch(suite.variants, units)
        known = {*NOT_METRICS, RIGHT, *(judges.names if judges else ())}
        yield rows[[column for column in rows.columns if column in known]]


@dataclass(frozen=True)
class Gain:
    """What an arm gains over standard in right images, in percentage points; without ends for too few prompts.

    `arm` is what the page calls it.
    """

    arm: str
    points: Interval
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """How the arms compare with standard so far, in the report's words: a gain and a table for each."""

    gains: list[Gain]
    tables: list[Table]
    note: str = f"{COUNTING} With so few prompts, only large effects show."


def summarise(rows: pd.DataFrame, suite: ShortSuite) -> Outcome:
    """The outcome of the rows so far, counted by prompts as in the report of a long suite."""
    clustered = add_clusters(rows, suite.checker)
    num_clusters = clusters_of(clustered).nunique()
    by_arm: dict[str, list[Effect]] = {}
    for effect in compare_all(clustered, suite.variants):
        by_arm.setdefault(effect.variant, []).append(effect)
    gains = [
        Gain(own[0].variant, in_points(own[0].difference), say_effect(own[0], num_clusters))
        for own in by_arm.values()
        if own[0].metric == RIGHT
    ]
    return Outcome(gains, [effects_table(own) for own in by_arm.values()])


def in_points(difference: Interval) -> Interval:
    """A difference of shares in percentage points."""
    return Interval(100 * difference.value, 100 * difference.low, 100 * difference.high)


def list_reports(runs: Path) -> list[str]:
    """The folders of `runs` that hold a report, the newest first."""
    found = [path for path in runs.glob(f"*/{REPORT}") if path.is_file() and not path.parent.name.startswith(".")]
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def read_report(runs: Path | None, name: Any) -> str:
    """A report's HTML; only names on the list are ever opened. Raises: InvalidInput for any other."""
    if runs is None or name not in list_reports(runs):
        raise InvalidInput("There is no such report: choose one from the list.")
    return (runs / name / REPORT).read_text(encoding="utf-8")


def read_stored_report(spec: ModelSpec) -> str | None:
    """The HTML of the report that comes with an embedded model, None if there is none.

    `assets/reports/NAME.html` is the report.html of a run on the whole test set.
    """
    path = STORED / f"{spec.name}.html"
    return path.read_text(encoding="utf-8") if spec.name in MODELS and path.is_file() else None
