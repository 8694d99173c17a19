"""Which worker makes which shard: any number of them, started in any way, share a folder without making one twice."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from train.pairs import is_intact, quarantine


class Claims:
    """A file lock per shard, in FOLDER/claims. The system releases the locks of a killed process at once.

    Lock files stay: deleting one would let two workers lock different files of the same name. Workers on several
    machines need a shared file system on which locking is enabled, as on NFS by default.

    Attributes:
        busy: shards that another worker held during the last `take_missing`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.busy: list[int] = []
        self._locks: dict[int, FileLock] = {}
        (folder / "claims").mkdir(parents=True, exist_ok=True)

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
            if is_intact(self.folder, index):  # no lock file for what is finished
                continue
            if not self.take(index, wait=wait):
                self.busy.append(index)
            elif is_intact(self.folder, index):  # finished by another worker in the meantime
                self.release(index)
            else:
                quarantine(self.folder, index)
                yield index
