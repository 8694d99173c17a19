"""What a finished run measured, and the pieces that its report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
from numpy.typing import NDArray

from eval.plots import Plot
from eval.rendering import Variant, group_variants
from eval.suites import Suite
from eval.summary import RIGHT, Effect, find_metrics
from eval.tables import Table
from golden.statistics import Interval

if TYPE_CHECKING:
    from eval.golden_noise import NoiseFigures


@dataclass(frozen=True)
class Gallery:
    """Rows of small images: the text above each row, and its (label, WebP) images."""

    kind: ClassVar[str] = "gallery"
    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, bytes]]]]
    note: str = ""


Block = Table | Plot | Gallery


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, and the tables, plots and galleries under it."""

    title: str
    text: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The address of the section within the page."""
        return self.title.lower().replace(" ", "-")

    def of_kind(self, kind: type) -> list[Any]:
        """The blocks of one kind."""
        return [block for block in self.blocks if isinstance(block, kind)]


@dataclass(frozen=True)
class Results:
    """Everything that a finished run measured.

    `extras` holds thumbnails and features of the rows; `singular` by arm the result of `singular_similarity`; `frechet`
    by variant the distance to real images; `pairs` the rows of the folder of pairs that networks were trained on;
    `noises` every kind of noise under each of a suite's samplings.
    """

    suite: Suite
    model: str
    prompts: str
    variants: Sequence[Variant]
    rows: pd.DataFrame
    effects: Sequence[Effect]
    by_category: Sequence[Effect]
    timings: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    extras: pd.DataFrame
    left_out: str = ""
    singular: Mapping[str, tuple[NDArray, NDArray]] = field(default_factory=dict)
    frechet: Mapping[str, Interval] = field(default_factory=dict)
    pairs: pd.DataFrame | None = None
    noises: Sequence["NoiseFigures"] = ()

    @property
    def metrics(self) -> list[str]:
        return find_metrics(self.rows)

    @property
    def judges(self) -> list[str]:
        """The metrics that are judges' scores."""
        return [metric for metric in self.metrics if metric != RIGHT]

    @property
    def num_seeds(self) -> int:
        return self.rows["seed"].nunique()

    @property
    def focus(self) -> Variant | None:
        """The variant that the report examines: the first with NPNet, or else the first that has a baseline."""
        names = {variant.name for variant in self.variants}
        compared = [variant for variant in self.variants if variant.baseline in names - {variant.name}]
        return next((v for v in compared if v.arm == "npnet"), compared[0] if compared else None)

    def only(self, variants: Sequence[Variant]) -> "Results":
        """The same run as if it had had these variants alone."""
        names = {variant.name for variant in variants}
        return replace(
            self,
            variants=variants,
            rows=self.rows[self.rows["variant"].isin(names)],
            effects=[effect for effect in self.effects if effect.variant in names],
            by_category=[effect for effect in self.by_category if effect.variant in names],
            extras=self.extras[self.extras["variant"].isin(names)],
        )

    def seconds_per_image(self) -> dict[str, float]:
        """By variant: the seconds of its noise, and its share of the batches that it went through."""
        seconds = dict.fromkeys((variant.name for variant in self.variants), 0.0)
        num_units = dict.fromkeys(seconds, 0)
        for entry in self.timings:
            present = [v for v in self.variants if v.name in entry.get("variants", seconds)]
            for group, members in group_variants(present).items():
                shared = entry["sampling"].get(str(group), 0.0) / len(members)
                for variant in members:
                    seconds[variant.name] += entry["noise"].get(variant.noise_name, 0.0) + shared
                    num_units[variant.name] += entry["units"]
        return {name: total / max(1, num_units[name]) for name, total in seconds.items()}
