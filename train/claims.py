"""Which worker makes which shard: any number of them, started in any way, share one folder and never one shard."""

import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from train.pairs import is_intact, quarantine


class Claims:
    """Locks on the bytes of one file, the byte of a shard being its number.

    The system takes a lock away with the process that holds it, so that the shard of a killed worker is free at once.
    Locks belong to the process: one that opens the file twice, or closes it, gives up all of them.

    Attributes:
        busy: the shards that another process had when they were last asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.busy: list[int] = []
        self._file = open(folder / "claims.lock", "wb")  # noqa: SIM115  open for as long as locks may be held

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def take(self, index: int, *, wait: bool = False) -> bool:
        """Whether the shard is now this process's to make; with `wait`, once whoever has it lets it go."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, index)
        except BlockingIOError:
            return False
        return True

    def release(self, index: int) -> None:
        """Let another process have the shard."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, index)

    def take_missing(self, indices: Iterable[int], *, wait: bool = False) -> Iterator[int]:
        """Those of some shards that are missing or damaged, each taken when it is asked for, and to be released."""
        self.busy = []
        for index in indices:
            if not self.take(index, wait=wait):
                self.busy.append(index)
            elif is_intact(self.folder, index):
                self.release(index)
            else:
                quarantine(self.folder, index)
                yield index
