"""The comparison on show when the page opens: drawn by a rule that is stated, so that nobody picked it."""

import threading
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from ..compare import Comparison
from ..errors import GoldenError
from ..model import Model
from ..request import CompareRequest
from ..settings import default_request
from .pieces import list_arms
from .watch import Watch

SEED = 0


def draw_request(model: Model, day: date) -> tuple[CompareRequest, str] | None:
    """(request, the rule in a sentence) for a day: one test prompt after another, with the model's own settings.

    None for a model without test prompts: whose images cost more, and cannot be checked.
    """
    if model.checker is None:
        return None
    prompts = model.checker.list_test_prompts()
    index = day.toordinal() % len(prompts)
    request = default_request(model.spec, prompt=prompts[index], seed=SEED, arms=list_arms(model))
    rule = (
        f"Drawn by rule, not picked: test prompt {index + 1} of {len(prompts)} for the date, {day.day} {day:%B %Y}, "
        f"and seed {SEED}."
    )
    return request, rule


@dataclass
class Opening:
    """Makes the comparison once, when it is first asked for or in the background, and keeps it.

    Attributes:
        request: what is compared; None if the page opens without a comparison.
        rule: how it was drawn, in a sentence.
    """

    model: Model
    watch: Watch
    day: date = field(default_factory=lambda: datetime.now(UTC).date())

    def __post_init__(self) -> None:
        drawn = draw_request(self.model, self.day)
        self.request: CompareRequest | None = drawn[0] if drawn else None
        self.rule = drawn[1] if drawn else ""
        self._made: Comparison | None = None
        self._lock = threading.Lock()

    def prepare(self) -> "Opening":
        """Make the comparison in the background; returns itself."""
        if self.request is not None:
            threading.Thread(target=self.get, name="opening", daemon=True).start()
        return self

    def get(self) -> Comparison | None:
        """The finished comparison, made now if need be; None if there is none to make, or it failed."""
        with self._lock:
            if self._made is None and self.request is not None:
                self._made = self._make(self.request)
            return self._made

    def _make(self, request: CompareRequest) -> Comparison | None:
        try:
            with closing(self.watch(request)) as events:
                *_, last = events
        except GoldenError:
            return None
        return last if isinstance(last, Comparison) else None
