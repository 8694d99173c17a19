"""Which worker makes which shard: any number of them, started in any way, share a folder without making one twice."""

import os
import platform
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from golden.errors import InvalidInput
from golden.files import write_bytes
from train.pairs import is_intact, quarantine, shard_paths

OBJECT_STORES = (
    "s3fs",
    "mount-s3",
    "mountpoint-s3",
    "goofys",
    "gcsfuse",
    "blobfuse",
    "rclone",
    "geesefs",
    "juicefs-s3",
)
"""What mounts an object store as a folder. Its locks hold on one machine only, and renaming is copying."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class Claims:
    """A file lock per shard, in FOLDER/claims. The system releases the locks of a killed process at once.

    Lock files stay: deleting one would let two workers lock different files of the same name. Workers on several
    machines need a shared file system on which locking is enabled, as on NFS by default.

    Raises: InvalidInput for a folder whose file system has no locks, such as an object store.

    Attributes:
        busy: shards that another worker held during the last `take_missing`.
    """

    def __init__(self, folder: Path) -> None:
        refuse_object_store(folder)
        self.folder = folder
        self.busy: list[int] = []
        self._locks: dict[int, FileLock] = {}
        (folder / "claims").mkdir(parents=True, exist_ok=True)
        _try_lock(folder)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for index in [*self._locks]:
            self.release(index)

    def take(self, index: int, *, wait: bool = False) -> bool:
        """Try to claim a shard; with `wait`, block until its holder releases it. Returns whether it is ours now."""
        lock = FileLock(self.folder / "claims" / f"shard-{index:05d}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        self._locks[index] = lock
        return True

    def release(self, index: int) -> None:
        """Give a claimed shard up."""
        self._locks.pop(index).release()

    def take_missing(self, indices: Iterable[int], *, wait: bool = False) -> Iterator[int]:
        """Claim missing or damaged shards one by one, as they are asked for; the caller releases each."""
        self.busy = []
        for index in indices:
            if self._is_whole(index):  # no lock file for what is finished
                continue
            if not self.take(index, wait=wait):
                self.busy.append(index)
            elif self._is_whole(index):  # finished by another worker in the meantime
                self.release(index)
            else:
                quarantine(self.folder, index)
                yield index

    def _is_whole(self, index: int) -> bool:
        """Whether a shard is intact. It is read once, by one worker, and again only if it was written since.

        Otherwise each of many workers would read the whole data set, and again whenever it is started.
        """
        note = self.folder / "claims" / f"shard-{index:05d}.checked"
        stamp = _stamp(shard_paths(self.folder, index))
        if stamp is None:
            return False
        try:
            if note.read_text() == stamp:
                return True
        except OSError:
            pass
        if not is_intact(self.folder, index):
            return False
        write_bytes(note, stamp.encode())
        return True


def _stamp(paths: Iterable[Path]) -> str | None:
    """Sizes and times of files as text, None if one is missing."""
    try:
        found = [path.stat() for path in paths]
    except FileNotFoundError:
        return None
    return " ".join(f"{each.st_size}:{each.st_mtime_ns}" for each in found)


def refuse_object_store(folder: Path) -> None:
    """Raises: InvalidInput for an address (s3://...) and for a folder that is an object store's."""
    if _ADDRESS.match(str(folder)):
        raise InvalidInput(
            f"{str(folder)[:80]!r} is an address, and shards are claimed by file locks, which an object store does not "
            "have: collect into a folder of a disk or of NFS, and copy it when it is finished."
        )
    there = folder.absolute()
    mounts = [each for each in psutil.disk_partitions(all=True) if there.is_relative_to(each.mountpoint)]
    kind = max(mounts, key=lambda each: len(each.mountpoint)).fstype.lower() if mounts else ""
    if any(name in kind for name in OBJECT_STORES):
        raise InvalidInput(
            f"{folder} is on an object store ({kind}), whose file locks do not reach other machines: collect into a "
            "folder of a disk or of NFS, and copy it when it is finished."
        )


def _try_lock(folder: Path) -> None:
    """Raises: InvalidInput if a lock cannot be taken, or taken twice: then two workers would make the same shard."""
    # Machines that share the folder may have processes of the same number, and each would find the other's lock.
    path = folder / "claims" / f"probe-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}.lock"
    first, second = FileLock(path), FileLock(path)
    try:
        first.acquire(timeout=0)
        try:
            second.acquire(timeout=0)
            excludes = False
        except Timeout:
            excludes = True
    except (OSError, NotImplementedError) as error:
        raise InvalidInput(
            f"{folder} is on a file system without file locks ({error}): collect into a folder of a disk or of NFS."
        ) from None
    finally:
        second.release()
        first.release()
        path.unlink(missing_ok=True)
    if not excludes:
        raise InvalidInput(
            f"{folder} is on a file system that gives the same lock to two at once: collect into a folder of a disk or "
            "of NFS."
        )
