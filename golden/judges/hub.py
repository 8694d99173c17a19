"""Files of the Hugging Face hub that judges need: fetched once, pinned from then on, never opened as code."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..errors import BadWeights, MissingWeights
from ..files import sha256, write_bytes

# After a failed connection the hub is not asked again for a while: its client retries for about 20 seconds a file, and
# six judges would otherwise wait that long one after another.
RETRY_SECONDS = 120
_unreachable_until = 0.0


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository.

    `revision` and `sha256` are None where nobody has yet recorded them. Then the commit and hash of the first fetch
    are written to `pins_path()` and hold from then on, so that a file that changes upstream cannot change scores
    unnoticed.
    """

    repo: str
    file: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        return f"{self.repo}/{self.file}"


def pins_path() -> Path:
    """Where the commit and SHA-256 of each first fetch are kept: beside the hub's own cache."""
    return Path(constants.HF_HUB_CACHE) / "golden_judges_pins.json"


def read_pins() -> dict[str, dict[str, str]]:
    """The recorded `{repo/file: {"revision", "sha256"}}`; empty before the first fetch."""
    try:
        return json.loads(pins_path().read_text())
    except (OSError, ValueError):
        return {}


def commit_of(path: Path) -> str | None:
    """The commit in a path of the hub's cache, `.../snapshots/<commit>/<file>`."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


def fetch(file: HubFile) -> Path:
    """Return the local path of a hub file, downloading it if need be, at its pinned commit and with its hash checked.

    Raises: MissingWeights (one sentence: what to fetch, where to put it); BadWeights if the content is another one.
    """
    global _unreachable_until
    pin = read_pins().get(file.key, {})
    revision = file.revision or pin.get("revision") or None
    local_only = constants.HF_HUB_OFFLINE or time.monotonic() < _unreachable_until
    try:
        path = Path(hf_hub_download(file.repo, file.file, revision=revision, local_files_only=local_only))
    except LocalEntryNotFoundError as error:
        if not local_only:
            _unreachable_until = time.monotonic() + RETRY_SECONDS
        raise missing(file, "the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise missing(file, (str(error).strip() or type(error).__name__).splitlines()[0][:160]) from error
    check_and_pin(file, path, pin)
    return path


def missing(file: HubFile, reason: str) -> MissingWeights:
    """The sentence that says what to fetch and where to put it."""
    return MissingWeights(
        f"{file.file} of {file.repo} is not on this machine ({reason}): download it from "
        f"https://huggingface.co/{file.repo} and give its path as weights, or run once with the hub in reach so that "
        f"it is kept in {constants.HF_HUB_CACHE}."
    )


def check_and_pin(file: HubFile, path: Path, pin: dict[str, str]) -> None:
    """Compare a fetched file with its recorded hash, or record commit and hash on the first fetch."""
    expected = file.sha256 or pin.get("sha256")
    # Hashing several gigabytes takes seconds: a file that was hashed once and has not been written since is trusted.
    stamp = f"{path.stat().st_size}:{path.stat().st_mtime_ns}"
    if expected and pin.get("stamp") == stamp and pin.get("sha256") == expected:
        return
    actual = sha256(path)
    if expected and actual != expected:
        raise BadWeights(f"{file.key} has SHA-256 {actual}, not {expected}: delete {path} and fetch it again.")
    pins = read_pins()
    pins[file.key] = {"revision": commit_of(path) or "", "sha256": actual, "stamp": stamp}
    write_bytes(pins_path(), json.dumps(pins, indent=1, sort_keys=True).encode())
