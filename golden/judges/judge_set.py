"""Several judges at once: kept in memory or loaded in turn, each failing on its own."""

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil
import torch
from PIL import Image
from torch import Tensor

from ..errors import Cancelled, GoldenError, InvalidInput
from .base import Judge
from .inputs import Inputs

MODES = ("auto", "resident", "rotating")
# Of the free memory, the share that resident judges may take: activations and the images' own model need the rest.
RESIDENT_SHARE = 0.6

Result = Tensor | str


def free_memory(device: str | torch.device) -> int:
    """Bytes free on the GPU or, for the CPU, in RAM."""
    device = torch.device(device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def choose_mode(mode: str, needed: int, device: str | torch.device = "cpu") -> str:
    """Resolve "auto": whether `needed` bytes of weights fit in memory. Raises: InvalidInput for an unknown mode."""
    if mode not in MODES:
        raise InvalidInput(f"Unknown mode {mode!r}: choose one of {', '.join(MODES)}.")
    if mode != "auto":
        return mode
    return "resident" if needed <= RESIDENT_SHARE * free_memory(device) else "rotating"


class JudgeSet:
    """Judges that score the same images.

    Args:
        loaders: name -> a function that loads the judge; called when its turn first comes.
        mode: "resident" keeps every judge in memory; "rotating" keeps one at a time, and loads it again on each call.

    Attributes:
        failed: name -> sentence, of judges that could not be loaded; they are not tried again by this set.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Judge]], mode: str = "resident") -> None:
        self.mode = choose_mode(mode, needed=0)
        self.failed: dict[str, str] = {}
        self._loaders = dict(loaders)
        self._resident: dict[str, Judge] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._loaders)

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Iterator[tuple[str, Result]]:
        """Score B images, each against its own prompt, and yield judge by judge as each finishes.

        Yields: (name, (B,) fp32 scores), or (name, one sentence) if that judge is unavailable or fails.
        Raises: InvalidInput at once if images or prompts are wrong for all of them.
        """
        return self._stream(Inputs(images, prompts))

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Result]:
        """As `stream`, all at once."""
        return dict(self.stream(images, prompts))

    def score_all(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """By judge, B scores of B images, for callers that need all of them.

        Raises: InvalidInput as `stream`; GoldenError naming the first judge that fails, with its sentence.
        """
        scores = {}
        for name, result in self.stream(images, prompts):
            if isinstance(result, str):
                raise GoldenError(f"{name} failed: {result}")
            scores[name] = result.tolist()
        return scores

    def forget_prompts(self) -> None:
        """Make every judge in memory encode its prompts again."""
        for judge in self._resident.values():
            judge.forget_prompts()

    def _stream(self, inputs: Inputs) -> Iterator[tuple[str, Result]]:
        for name in self.names:
            with self._lock:  # two callers at once would hold two rotating judges, or load a resident one twice
                result = self._score_one(name, inputs)
            yield name, result

    def _score_one(self, name: str, inputs: Inputs) -> Result:
        if name in self.failed:
            return self.failed[name]
        judge = None
        try:
            judge = self._resident.get(name) or self._load(name)
            return judge.score_inputs(inputs)
        except Cancelled:
            raise
        except Exception as error:  # one failing judge never costs the others
            sentence = sentence_for(name, error)
            if judge is None:
                self.failed[name] = sentence
            return sentence
        finally:
            if self.mode == "rotating" and judge is not None:
                del judge
                release_memory()

    def _load(self, name: str) -> Judge:
        judge = self._loaders[name]()
        if self.mode == "resident":
            self._resident[name] = judge
        return judge


def sentence_for(name: str, error: Exception) -> str:
    """What to show instead of a judge's scores."""
    if isinstance(error, GoldenError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"{name} does not fit in memory: free some, or use mode=rotating, half precision or fewer images."
    reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
    return f"{name} failed with {type(error).__name__}: {reason}"


def release_memory() -> None:
    """Free the memory of a dropped judge before the next is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
