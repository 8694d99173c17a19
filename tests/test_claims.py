"""Claims: one worker per shard, and the shard of a dead worker is free."""

import multiprocessing
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from train import claims
from train.claims import Claims
from train.pairs import Shard, finished_shards, shard_paths, write_shard

# Another process, since what matters is that the system releases the locks of a killed one.
CONTEXT = multiprocessing.get_context("spawn")


def hold(folder: Path, index: int, pipe) -> None:
    with Claims(folder) as claims:
        pipe.send(claims.take(index))
        pipe.recv()
        claims.release(index)
        pipe.send("released")
        pipe.recv()


@pytest.fixture
def holder(tmp_path):
    """Another process that has shard 3, and the pipe to it."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=hold, args=(tmp_path, 3, theirs))
    process.start()
    assert ours.recv()
    yield process, ours
    process.kill()
    process.join()


def test_two_claims_in_one_process_exclude_each_other_too(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        assert one.take(3)
        assert not two.take(3)
        one.release(3)
        assert two.take(3)


def test_the_probe_of_each_worker_has_a_name_of_its_own(tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(claims, "FileLock", lambda path: probed.append(path) or FileLock(path))
    for machine in ("one", "two", "two"):  # whose processes may have the same number
        monkeypatch.setattr("platform.node", lambda machine=machine: machine)
        Claims(tmp_path)
    assert len(set(probed)) == 3
    assert "probe-one-" in str(probed[0])
    assert not [*(tmp_path / "claims").iterdir()]


def test_what_is_still_claimed_at_the_end_is_released(tmp_path):
    with Claims(tmp_path) as claims:
        assert claims.take(0)
        assert claims.take(1)
    with Claims(tmp_path) as claims:
        assert claims.take(0)
        assert claims.take(1)


def write(folder: Path, index: int) -> None:
    write_shard(folder, index, Shard(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2), pd.DataFrame({"index": [index]})))


def test_a_shard_that_another_process_has_is_not_taken(tmp_path, holder):
    _, pipe = holder
    with Claims(tmp_path) as claims:
        assert not claims.take(3)
        assert claims.take(2)
        assert claims.take(4)
        pipe.send("release")
        assert pipe.recv() == "released"
        assert claims.take(3)


def test_the_shard_of_a_killed_process_is_free(tmp_path, holder):
    process, _ = holder
    os.kill(process.pid, signal.SIGKILL)
    with Claims(tmp_path) as claims:
        assert claims.take(3, wait=True)


def test_what_is_missing_or_damaged_is_taken_and_what_another_has_is_busy(tmp_path, holder):
    for index in (0, 1):
        write(tmp_path, index)
    shard_paths(tmp_path, 1)[0].write_bytes(b"damaged")
    left_over = tmp_path / ".shard-00002.parquet.abc.parquet"
    left_over.write_bytes(b"of a killed worker")
    with Claims(tmp_path) as claims:
        taken = []
        for index in claims.take_missing(range(5)):
            write(tmp_path, index)
            claims.release(index)
            taken.append(index)
        assert taken == [1, 2, 4]
        assert claims.busy == [3]
        assert finished_shards(tmp_path) == [0, 1, 2, 4]
        assert not left_over.exists()
        assert [*claims.take_missing(range(5))] == []


def test_a_finished_shard_gets_no_lock_file(tmp_path):
    write(tmp_path, 0)
    with Claims(tmp_path) as claims:
        assert [*claims.take_missing([0])] == []
    assert not [*(tmp_path / "claims").glob("*.lock")]
