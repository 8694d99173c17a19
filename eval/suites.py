"""The suites: one for each table and figure of the paper. A suite says which variants are rendered and compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.rendering import Variant
from golden.errors import InvalidInput
from golden.models import ModelSpec


@dataclass(frozen=True)
class Options:
    """What the command line leaves open (None) or decides about the variants of a suite."""

    arms: tuple[str, ...] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


@dataclass(frozen=True)
class Suite:
    """A table or figure of the paper: its title, where it stands there, and its variants on a model."""

    name: str
    title: str
    source: str
    make_variants: Callable[[ModelSpec, Options], list[Variant]]


def arm_variants(arms: Sequence[str]) -> Callable[[ModelSpec, Options], list[Variant]]:
    """Variants that differ in the arm alone, under the model's own settings or those of the options."""

    def make(spec: ModelSpec, options: Options) -> list[Variant]:
        chosen = options.arms or tuple(arms)
        return [
            Variant(
                arm,
                arm,
                options.num_inference_steps or spec.num_inference_steps,
                spec.guidance_scale if options.guidance_scale is None else options.guidance_scale,
                options.sampler or spec.sampler,
            )
            for arm in dict.fromkeys(chosen)
        ]

    return make


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("main", "The main comparison", "Table 2", arm_variants(("standard", "inversion", "repaint", "npnet"))),
        Suite(
            "controls",
            "What else changes the noise as much",
            "not in the paper",
            arm_variants(("standard", "npnet", "random", "npnet_other_prompt", "npnet_unit_std", "inversion")),
        ),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name. Raises: InvalidInput listing the names."""
    if name not in SUITES:
        raise InvalidInput(f"Unknown suite {name!r}: choose one of {', '.join(SUITES)}.")
    return SUITES[name]
