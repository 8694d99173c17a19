"""Files that appear whole or not at all, their hashes, and weights that are read without running anybody's code."""

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from .errors import BadWeights, InvalidInput, MissingWeights

if TYPE_CHECKING:  # torch takes seconds to import, and the help of a command does without
    from torch import Tensor

_PACKAGE = Path(__file__).resolve().parent
ASSETS = _PACKAGE / "assets" if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent / "assets"
"""Embedded weights, prompts and page assets: in the package where it is installed, beside it in a clone."""


VERIFIER_KEY = "verifier_config"
"""Where the weight file of a verifier keeps its config, as JSON; golden/verifier.py writes and reads it."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    On any error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can flush folders (Windows cannot)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(path: str | Path) -> Path:
    """Where the SHA-256 of a weight file is kept: `name.safetensors.sha256` beside it."""
    return Path(f"{path}.sha256")


def save_weights(path: str | Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file and its SHA-256 beside it, each atomically."""
    from safetensors.torch import save as save_safetensors_bytes

    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    data = save_safetensors_bytes(contiguous, metadata)
    # A crash between the two files must not leave a whole new file that an old hash calls damaged.
    hash_path(path).unlink(missing_ok=True)
    write_bytes(path, data)
    write_bytes(hash_path(path), f"{sha256(path)}  {Path(path).name}\n".encode())


def load_weights(path: str | Path) -> tuple[dict, dict[str, str]]:
    """Read (tensors, metadata) from `.safetensors`, or from `.pth`, `.pt`, `.bin` with `weights_only=True`.

    A `.pth` may hold nested dictionaries of tensors; they are returned as they are, and its metadata is empty.
    Where a SHA-256 is kept beside the file, the file must agree with it.

    Raises: MissingWeights if there is no such file; BadWeights if it is damaged or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeights(f"No weight file at {path}: give the path of a .safetensors, .pth, .pt or .bin file.")
    recorded = hash_path(path)
    if recorded.is_file() and recorded.read_bytes().split()[:1] != [sha256(path).encode()]:
        raise BadWeights(f"{path.name} is damaged: its SHA-256 differs from the one recorded in {recorded.name}.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadWeights(f"{path.name} is not a readable safetensors file: {error}") from error
    if path.suffix in {".pth", ".pt", ".bin"}:
        tensors = _load_tensors_only(path)
        if not isinstance(tensors, dict):
            raise BadWeights(
                f"{path.name} holds a {type(tensors).__name__}, where a dictionary of tensors is expected."
            )
        return tensors, {}
    raise BadWeights(f"{path.name} is of kind {path.suffix or 'none'}: only .safetensors, .pth, .pt and .bin are read.")


def _load_tensors_only(path: Path) -> object:
    import torch

    try:
        compressed = _unpacks_to_more(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
            tensors = None if compressed else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives fail in some forty ways; torch's own advice is to switch safety off
        raise BadWeights(
            f"{path.name} is damaged, or holds something else than tensors, which is never opened."
        ) from error
    if compressed:
        raise BadWeights(f"{path.name} is compressed, as torch writes no file: it might unpack to any size.")
    return tensors


def _unpacks_to_more(path: Path) -> bool:
    """Whether a zip archive, which is what torch writes, holds more than its own size; torch would unpack it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size


def read_prompt_lines(path: Path) -> dict[int, str]:
    """The lines of a text file by their numbers from 1, blank ones left out.

    Raises: InvalidInput if it cannot be read, is not UTF-8 or has no other lines.
    """
    try:
        # -sig: the mark that some editors put in front is no part of the first prompt.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not valid UTF-8: give a text file with one prompt per line.") from None
    prompts = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not prompts:
        raise InvalidInput(f"There are no prompts in {path}: give a text file with one prompt per line.")
    return prompts


def open_image(path: str | Path) -> Image.Image:
    """Open an image from disk. Raises: InvalidInput if there is none or it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InvalidInput(f"There is no image at {path}.") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder: name the images in it.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow answers a broken PNG with a SyntaxError.
        raise InvalidInput(f"{path} is not an image that can be read: {error}.") from None
