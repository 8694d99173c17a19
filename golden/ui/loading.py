"""What a model that is being loaded has done so far, gigabytes downloaded and in memory; why it could not be loaded."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GoldenError
from ..models import ModelSpec

GB = 1e9
SECONDS = 0.5  # between two reports
_PAGE_BYTES = 4096
_OUT_OF_MEMORY = ("out of memory", "allocate memory")  # as CUDA and MPS, and as the CPU's allocator say it


@contextmanager
def follow_loading(spec: ModelSpec, device: str, memory: str, say: Callable[[str], None]) -> Iterator[None]:
    """While the block loads a model, `say` how far it is."""
    done, before = threading.Event(), (size_of_download(spec), bytes_in_memory(device))

    def follow() -> None:
        while not done.wait(SECONDS):
            downloaded, held = size_of_download(spec) - before[0], bytes_in_memory(device) - before[1]
            say(describe_loading(device, memory, downloaded, held))

    say(describe_loading(device, memory, 0, 0))
    thread = threading.Thread(target=follow, name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def explain_failure(spec: ModelSpec, device: str) -> Iterator[None]:
    """Raises: GoldenError, one sentence, where the block's loading fails with an error of torch or without memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        title, reason = spec.title or spec.name, (str(error).strip() or "no reason given").splitlines()[0][:200]
        if isinstance(error, MemoryError) or any(words in reason for words in _OUT_OF_MEMORY):
            raise GoldenError(
                f"{title} does not fit in the memory of {device}: free some, start the app with --memory low, or "
                "choose a smaller model."
            ) from error
        raise GoldenError(f"{title} could not be loaded on {device}: {type(error).__name__}: {reason}") from error


def describe_loading(device: str, memory: str, downloaded: int, held: int) -> str:
    """The device, the memory mode, and what was downloaded and put in memory, in bytes; too little is left out."""
    parts = [f"loading the model on {device}, memory mode {memory}"]
    counts = ((downloaded, "downloaded"), (held, "in memory"))
    return ", ".join(parts + [f"{number / GB:.1f} GB {done}" for number, done in counts if number >= GB / 20])


def size_of_download(spec: ModelSpec) -> int:
    """The bytes that the Hub's cache on this machine has of a model, unfinished files included."""
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / f"models--{spec.repo.replace('/', '--')}" / "blobs"
    return 0 if Path(spec.repo).is_absolute() else sum(_size(path) for path in blobs.glob("*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed since it was listed
        return 0


def bytes_in_memory(device: str) -> int:
    """The bytes that this process holds on a CUDA device, or else in main memory; 0 where that is not told."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
