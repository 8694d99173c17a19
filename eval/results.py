"""What a finished run measured, and the pieces that its report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from numpy.typing import NDArray

from eval.plots import Plot
from eval.rendering import Variant, group_variants
from eval.suites import Suite
from eval.summary import RIGHT, Effect, find_metrics
from eval.tables import Table
from golden.statistics import Interval


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
    by variant the distance to real images; `pairs` the rows of the folder of pairs that networks were trained on.
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

    def seconds_per_image(self) -> dict[str, float]:
        """By variant: the seconds of its noise, and its share of the batches that it went through."""
        num_units = max(1, sum(entry["units"] for entry in self.timings))

        def total(kind: str, name: str) -> float:
            return sum(entry[kind].get(name, 0.0) for entry in self.timings)

        found = {
            variant.name: (total("noise", variant.noise_name) + total("sampling", str(group)) / len(members))
            / num_units
            for group, members in group_variants(self.variants).items()
            for variant in members
        }
        return {variant.name: found[variant.name] for variant in self.variants}
