"""What the settings of a benchmark choose, checked: model, prompt sets, seeds, further NPNets and limits."""

import re
from collections.abc import Sequence
from dataclasses import replace

from eval.prompt_sets import default_sets
from eval.rendering import Variant
from eval.settings import COSTLY, BenchmarkSettings
from eval.suites import Suite, find_suite
from golden.arms import ARMS
from golden.checkers import find_checker
from golden.checks import MAX_SEED, check_number, check_whole
from golden.errors import InvalidInput
from golden.model import with_verifier
from golden.models import ModelSpec, find_model

MAX_SEEDS = 1024
NORM_LIMITS = (0.1, 2.0)


def find_spec(settings: BenchmarkSettings) -> ModelSpec:
    """The model's spec with what the settings replace. Raises: GoldenError for what is not there or not allowed."""
    spec = with_verifier(find_model(settings.model), settings.verifier)
    find_checker(settings.checker)
    spec = replace(spec, npnet=settings.npnet or spec.npnet, checker=settings.checker or spec.checker)
    if settings.best_norm is None:
        return spec
    return replace(spec, best_norm=check_number("best norm", settings.best_norm, *NORM_LIMITS))


def list_sets(settings: BenchmarkSettings) -> tuple[str, ...]:
    """The prompt sets to measure on, each in a run of its own: as given, or else what the suite takes of the model's.

    Raises: InvalidInput for one that is given twice.
    """
    sets = settings.prompt_set or ()
    if len(set(sets)) < len(sets):
        raise InvalidInput(f"Each prompt set may be given once, got {' '.join(sets)}.")
    if sets:
        return sets
    own = default_sets(find_model(settings.model))
    return ("own",) if settings.prompts else own if find_suite(settings.suite).every_set else own[:1]


def list_seeds(settings: BenchmarkSettings, suite: Suite) -> list[int]:
    """The seeds of every range of the suite. Raises: InvalidInput for numbers that are not allowed."""
    asked = suite.num_seeds if settings.num_seeds is None else settings.num_seeds
    num_seeds = check_whole("number of seeds", asked, 1, MAX_SEEDS)
    first = check_whole("first seed", settings.first_seed, 0, MAX_SEED - num_seeds - max(suite.seed_starts))
    return [first + start + index for start in suite.seed_starts for index in range(num_seeds)]


def name_npnets(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and files of further NPNets from NAME=FILE. Raises: InvalidInput for anything else, or a name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, _, file = text.partition("=")
        if not re.fullmatch(r"[\w+-][\w .+-]{0,39}", name) or not file or name in found or name in ARMS:
            raise InvalidInput(
                "A further NPNet is NAME=FILE, with a name of letters, digits, spaces, dots, + and - that no arm and "
                f"no other NPNet has, got {text[:80]!r}."
            )
        found[name] = file
    return tuple(found.items())


def limit_costly(variants: Sequence[Variant], num_prompts: int | None, num_all: int) -> tuple[list[Variant], str]:
    """The variants, those of costly arms limited to some prompts, and a sentence that says so if it limits anything.

    Raises: InvalidInput for fewer than 1.
    """
    if num_prompts is None:
        return [*variants], ""
    num = check_whole("number of prompts for costly arms", num_prompts, 1, 10**6)
    costly = [arm for arm in COSTLY if any(variant.arm == arm for variant in variants)]
    if num >= num_all or not costly:
        return [*variants], ""
    limited = [replace(v, num_prompts=num) if v.arm in costly else v for v in variants]
    return limited, f"Measured on {num} of the {num_all} prompts: {', '.join(costly)}."
