"""Several models on one page: those the app was started with, one of them in memory at a time.

Choosing another closes the app and opens it again with that model, for everybody; meanwhile the waiting page answers.
"""

import gc
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..checks import check_name
from ..errors import InvalidInput
from ..models import find_model

if TYPE_CHECKING:
    from ..model import Model

ANSWER_SECONDS = 1.0  # until the page that asked has its answer


class Switch:
    """Which model is loaded, and which is wanted.

    Attributes:
        titles: of the models, by name.
        chosen: the name of the model that is loaded, or to be loaded next.
        problem: why the last choice could not be loaded, "" if it could.
        loaded: the model in memory.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """The first of `names` is loaded first. Raises: InvalidInput for an unknown model, or one named twice."""
        specs = {name: find_model(name) for name in names}
        if len(specs) < len(names):
            raise InvalidInput(f"Each model can be named only once, got {', '.join(names)}.")
        self.titles = {name: spec.title or spec.name for name, spec in specs.items()}
        self.chosen = names[0]
        self.problem = ""
        self.loaded: Model | None = None
        self._previous: str | None = None
        self._asked = threading.Event()
        self._lock = threading.Lock()

    def choose(self, name: Any) -> None:
        """Ask for a model. Raises: InvalidInput for one that the app was not started with."""
        check_name("model", name, self.titles)
        with self._lock:
            if name == self.chosen:
                return
            if not self._asked.is_set():  # or else the chosen one is not loaded: there is no way back to it
                self._previous = self.chosen
            self.chosen, self.problem = name, ""
            self._asked.set()

    def wait(self) -> None:
        """Return when another model is asked for; until `take`, others may still be chosen in its place."""
        self._asked.wait()
        time.sleep(ANSWER_SECONDS)

    def take(self) -> str:
        """The name of the model to load now: whatever is chosen from here on is asked for anew."""
        with self._lock:
            self._asked.clear()
            return self.chosen

    def go_back(self, problem: str) -> bool:
        """Whether there is a model to return to if the chosen one cannot be loaded; it is then the chosen one."""
        if self._previous is None:
            return False
        self.chosen, self._previous = self._previous, None
        self.problem = f"{self.titles[self.chosen]} is back: {problem}"
        return True

    def unload(self) -> None:
        """Let go of the model in memory, whoever still holds the object that it was in, and of one that half loaded."""
        model, self.loaded = self.loaded, None
        if model is not None:
            with model.lock:  # a comparison that is being stopped ends first
                model.pipeline = model.npnet = model.verifier = None
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
