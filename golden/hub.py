"""The Hugging Face Hub: every file that is fetched from it, at a known revision and with its SHA-256 checked.

Revision and hash come from the caller, from PINS, or from the record of the first download, so that a file that changes
upstream never changes results unnoticed. Nothing that is fetched is ever run as code.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import huggingface_hub
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from .errors import BadWeights, InvalidInput, MissingWeights
from .files import sha256 as hash_file
from .files import write_bytes

Answer = TypeVar("Answer")

# After a failed connection the Hub is not asked again for a while: its client retries for about 20 seconds a file, and
# six judges would otherwise wait that long one after another.
RETRY_SECONDS = 120
LOCK_SECONDS = 30  # a record takes far less; without one the file is hashed again
_unreachable_until = 0.0


class HubFile(NamedTuple):
    """One file of a repository on the Hub."""

    repo: str
    file: str

    @property
    def key(self) -> str:
        return f"{self.repo}/{self.file}"


@dataclass(frozen=True)
class Pin:
    """What is known of a repository: the commit to use (None for the newest) and the SHA-256 of files, by file name."""

    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


# By repository id in lower case: the Hub ignores case in ids, and model cards spell them differently.
PINS: dict[str, Pin] = {
    "stabilityai/stable-diffusion-xl-base-1.0": Pin("462165984030d82259a11f4367a4eed129e94a7b"),
    "stabilityai/sdxl-turbo": Pin("71153311d3dbb46851df1931d3ca6e939de83304"),
    "bytedance/sdxl-lightning": Pin("c9a24f48e1c025556787b0c58dd67a091ece2e44"),
    "lucipherdev/golden-noise-npnets": Pin(
        sha256={"Old_pth/dreamshaper.pth": "5bb268ce36e851549831ad7933b26a7597b325c19f761738fbd95d58f57cc41d"}
    ),
    "yuvalkirstain/pickscore_v1": Pin("a4e4367c6dfa7288a00c550414478f865b875800"),
    "xswu/hpsv2": Pin(
        "697403c78157020a1ae59d23f111aa58ced35b0a",
        {"HPS_v2.1_compressed.pt": "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837"},
    ),
    "thudm/imagereward": Pin("5736be03b2652728fb87788c9797b0570450ab72"),
    "openai/clip-vit-large-patch14": Pin("32bd64288804d66eefd0ccbe215aa642df71cc41"),
    "openai/clip-vit-base-patch32": Pin("3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"),
    "google-bert/bert-base-uncased": Pin(
        "86b5e0934494bd15c9632b12f734a8a67f723594",
        {"vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
    ),
}


def same_repo(a: str, b: str) -> bool:
    """Whether two ids name the same repository: the Hub ignores case in ids."""
    return a.lower() == b.lower()


def find_pin(repo: str, revision: str | None = None) -> Pin:
    """What PINS knows of a repository at `revision` (None for the pinned one); an empty pin for all others."""
    pin = PINS.get(repo.lower(), Pin())
    return (
        Pin(revision)
        if revision and pin.revision not in (None, revision)
        else Pin(revision or pin.revision, pin.sha256)
    )


# --- fetching ---------------------------------------------------------------------------------------------------------


def find_file(name: str) -> Path:
    """A local file, or `OWNER/REPOSITORY/FILE` on the Hub, which is downloaded if need be.

    Raises: InvalidInput for a URL; MissingWeights if it is neither on this machine nor can be downloaded.
    """
    refuse_url(name)
    if Path(name).is_file():
        return Path(name)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file) or owner in (".", ".."):
        raise MissingWeights(f"No file {name}: give a local file, or OWNER/REPOSITORY/FILE on the Hugging Face Hub.")
    return fetch_file(f"{owner}/{repository}", file)


def fetch_file(repo: str, file: str, revision: str | None = None, sha256: str | None = None, **client: Any) -> Path:
    """The path of a file of a local folder, or of a repository, from which it is downloaded into the Hub's cache.

    `revision` (a commit, branch or tag) and `sha256` default to those in PINS, then to those of the first download.
    `client` are arguments of the Hub's client, such as `token`.

    Raises: MissingWeights, which says what to download and where to put it; BadWeights if the hash is another one;
    InvalidInput for a name that leads out of the repository.
    """
    if Path(repo).is_dir():
        path = Path(repo) / file
        if sha256:
            check_file(path, repo, file, sha256=sha256)
        return path
    if ".." in Path(file).parts:
        raise InvalidInput(f"{file[:80]!r} is not the name of a file in a repository.")
    repo = _cached_spelling(repo)
    commit = find_pin(repo, revision).revision or _read_records().get(_key(repo, file), {}).get("revision") or None
    path = _ask_hub(repo, file, partial(_download, repo, file, commit, **client))
    check_file(path, repo, file, revision, sha256)
    return path


def list_files(repo: str, revision: str | None = None) -> list[str]:
    """The files of a repository; offline, those of them that the cache on this machine has.

    Raises: MissingWeights if there are none.
    """
    folder = cached_folder(repo, revision)
    if folder is not None and constants.HF_HUB_OFFLINE:
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    commit = find_pin(repo, revision).revision
    return _ask_hub(repo, "The list of files", lambda: huggingface_hub.list_repo_files(repo, revision=commit))


def cached_folder(repo: str, revision: str | None = None) -> Path | None:
    """The folder in which the cache on this machine keeps what was fetched of a repository, or None."""
    repo, commit = _cached_spelling(repo), find_pin(repo, revision).revision
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, local_files_only=True))
    except (OSError, ValueError):
        return None


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository's, `OWNER/REPOSITORY`, rather than a path into a folder that is here."""
    owner = name.partition("/")[0]
    return bool(HUB_ID.fullmatch(name)) and owner not in (".", "..") and not Path(owner).is_dir()


def refuse_url(name: str) -> None:
    """Raises: InvalidInput if a name is a URL: weights come from this machine or from a repository on the Hub."""
    if "://" in name:
        raise InvalidInput(f"{name[:80]!r} is a URL, which is never opened: download the file and give its path.")


def commit_of(path: Path) -> str | None:
    """The commit in a path of the Hub's cache, `.../snapshots/COMMIT/FILE`."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


def _download(repo: str, file: str, revision: str | None, local_files_only: bool = False, **client: Any) -> Path:
    global _unreachable_until
    local_only = local_files_only or constants.HF_HUB_OFFLINE or time.monotonic() < _unreachable_until
    try:
        path = huggingface_hub.hf_hub_download(repo, file, revision=revision, local_files_only=local_only, **client)
    except LocalEntryNotFoundError:
        if not local_only:
            _unreachable_until = time.monotonic() + RETRY_SECONDS
        raise
    return Path(path)


def _ask_hub(repo: str, what: str, ask: Callable[[], Answer]) -> Answer:
    try:
        with _without_retries_in_the_log():
            return ask()
    except Exception as error:  # no network, no such repository, a gated one, ...: the client raises dozens of kinds
        raise MissingWeights(
            f"{what} of {repo} is not on this machine and could not be downloaded ({reason_of(error)}): download it "
            f"from https://huggingface.co/{repo} and give its path, or run once with network access so that it is kept "
            f"in {constants.HF_HUB_CACHE}."
        ) from error


@contextlib.contextmanager
def _without_retries_in_the_log() -> Iterator[None]:
    """The client logs each of its tries; one sentence at the end says it all."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def reason_of(error: Exception) -> str:
    """Why the Hub did not answer, in one line."""
    if isinstance(error, LocalEntryNotFoundError):  # its own text gives advice about the client's arguments
        offline = constants.HF_HUB_OFFLINE
        return "HF_HUB_OFFLINE is set" if offline else "the Hugging Face Hub cannot be reached"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(".")


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/REPOSITORY, the id of a repository on the Hub."""


def _cached_spelling(repo: str) -> str:
    """The id as the cache on this machine spells it, whose folders know upper and lower case; else as it is."""
    cache, wanted = Path(constants.HF_HUB_CACHE), f"models--{repo.replace('/', '--')}"
    if not HUB_ID.fullmatch(repo) or (cache / wanted).is_dir():
        return repo
    names = (entry.name for entry in cache.glob("models--*"))
    found = next((name for name in names if name.lower() == wanted.lower()), wanted)
    return found.removeprefix("models--").replace("--", "/", 1)


# --- what is known of each file ---------------------------------------------------------------------------------------


def check_file(path: Path, repo: str, file: str, revision: str | None = None, sha256: str | None = None) -> None:
    """Compare a fetched file with the hash that is known of it, or record its commit and hash if this is the first.

    Raises: BadWeights if its content is another one.
    """
    key, commit = _key(repo, file), commit_of(path) or ""
    known = _known_at(commit, _read_records().get(key, {}))
    expected = sha256 or find_pin(repo, revision).sha256.get(file) or known.get("sha256")
    # Hashing several gigabytes takes seconds: a file that was hashed once and has not been written since is trusted.
    stamp = f"{path.stat().st_size}:{path.stat().st_mtime_ns}"
    if expected and known.get("stamp") == stamp and known.get("sha256") == expected:
        return
    actual = hash_file(path)
    if expected and actual != expected:
        raise BadWeights(
            f"{repo}/{file} has the SHA-256 {actual} instead of {expected} and is not used: delete {path} and download "
            "it again."
        )
    _record(key, commit, {"sha256": actual, "stamp": stamp})


def records_path() -> Path:
    """Where commits and SHA-256 of what was downloaded are kept: beside the Hub's own cache."""
    return Path(constants.HF_HUB_CACHE) / "golden_pins.json"


def _read_records() -> dict[str, dict[str, Any]]:
    """`{repo/file: {"revision", "sha256", "stamp", "others"}}`; empty before the first download.

    `revision` is the commit of the first download, which is the default. `others`, which records of earlier versions
    lack, are further commits that were asked for: `{commit: {"sha256", "stamp"}}`.
    """
    try:
        records = json.loads(records_path().read_text())
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _known_at(commit: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a file's record says of it at a commit, `{"sha256", "stamp"}`; empty if it says nothing."""
    return record if record.get("revision") == commit else record.get("others", {}).get(commit, {})


def _record(key: str, commit: str, found: dict[str, str]) -> None:
    """Keep what was found of a file at a commit; the first of its commits stays the default."""
    path = records_path()
    with contextlib.suppress(OSError, NotImplementedError):  # a cache may be shared, read-only, without locks
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS, mode=0o666):  # for all who share the cache
            records = _read_records()
            record = records.setdefault(key, {"revision": commit})
            if record["revision"] == commit:
                record.update(found)
            else:
                record.setdefault("others", {})[commit] = found
            write_bytes(path, json.dumps(records, indent=1, sort_keys=True).encode())


def _key(repo: str, file: str) -> str:
    return f"{repo.lower()}/{file}"
