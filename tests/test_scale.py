"""The simulated collection in a short form, and the stores that it refuses."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from golden.errors import InvalidInput
from tests.drills import scale
from train import claims
from train.claims import Claims
from train.pairs import find_fault, is_intact, shard_paths, write_shard

QUICK = scale.Scale(
    num_workers=3, num_pairs=72, shard_size=8, seconds_per_pair=0.4, start_seconds=1, seconds_between_kills=3, speed=10
)


def test_a_collection_with_kills_loses_nothing(tmp_path):
    outcome = scale.run_drill(tmp_path, QUICK)
    assert outcome.faults == ()
    assert outcome.num_kills >= 2
    assert 0 < outcome.efficiency < 1


def test_the_drill_would_find_a_loss(tmp_path):
    for index in range(QUICK.num_shards):
        write_shard(tmp_path, index, scale.fake_shard(index, QUICK.shard_size))
    assert scale.check_folder(tmp_path, QUICK) == []
    shard_paths(tmp_path, 2)[1].unlink()
    shard_paths(tmp_path, 3)[0].write_bytes(b"0")
    (tmp_path / ".shard-00005.x").touch()
    faults = scale.check_folder(tmp_path, QUICK)
    assert [fault[:7] for fault in faults] == ["shard 2", "shard 3", "1 tempo"]
    write_shard(tmp_path, 2, scale.fake_shard(1, QUICK.shard_size))
    write_shard(tmp_path, 3, scale.fake_shard(3, QUICK.shard_size))
    (tmp_path / ".shard-00005.x").unlink()
    assert scale.check_folder(tmp_path, QUICK) == ["pairs are missing, or there twice"]


# --- each shard is read once -----------------------------------------------------------------------------------------


def test_a_finished_shard_is_read_by_one_worker_and_again_only_if_it_was_written(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(claims, "is_intact", lambda folder, index: read.append(index) or is_intact(folder, index))
    for index in range(3):
        write_shard(tmp_path, index, scale.fake_shard(index, 2))
    for _ in range(4):
        with Claims(tmp_path) as worker:
            assert list(worker.take_missing(range(3))) == []
    assert read == [0, 1, 2]
    data = bytearray(shard_paths(tmp_path, 1)[0].read_bytes())
    data[-1] ^= 1
    shard_paths(tmp_path, 1)[0].write_bytes(data)
    with Claims(tmp_path) as worker:
        assert list(worker.take_missing(range(3))) == [1]
    assert set(read[3:]) == {1}
    assert find_fault(tmp_path, 1).startswith("incomplete"), "the damaged one was moved aside"


# --- stores without locks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s3://bucket/pairs", "gs://bucket/pairs", "https://x.org/pairs", "s3:/bucket"])
def test_an_address_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="which an object store does not have"):
        Claims(Path(address))
    assert list(tmp_path.iterdir()) == [], "and no folder of that name is made"


@pytest.mark.parametrize("kind", ["fuse.s3fs", "fuse.gcsfuse", "fuse.mount-s3", "fuse.blobfuse2", "fuse.rclone"])
def test_a_mounted_object_store_is_refused(kind, tmp_path, monkeypatch):
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(claims.psutil, "disk_partitions", lambda all: mounts)
    with pytest.raises(InvalidInput, match=f"on an object store \\({kind}\\)"):
        Claims(tmp_path / "pairs")
    mounts.append(SimpleNamespace(mountpoint=str(tmp_path / "disk"), fstype="nfs4"))
    assert Claims(tmp_path / "disk" / "pairs").take(0)


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def fail(self, timeout):
        raise NotImplementedError("FileSystem does not appear to support flock")

    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", fail)
        with pytest.raises(InvalidInput, match="without file locks"):
            Claims(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", lambda self, timeout: None)  # every lock is given to everyone
        with pytest.raises(InvalidInput, match="the same lock to two at once"):
            Claims(tmp_path)
    assert [path.name for path in (tmp_path / "claims").iterdir()] == []
    assert Claims(tmp_path).take(0)
