"""The shard format: what is written is read, what is damaged is refused, what differs is not mixed."""

import subprocess

import pandas as pd
import pytest
import torch

from golden.errors import BadWeights, InvalidInput, run_command
from train import pairs
from train.pairs import (
    Shard,
    describe_gains,
    find_faults,
    finished_shards,
    is_intact,
    quarantine,
    read_manifest,
    read_shard,
    read_shards,
    shard_paths,
    stack_shards,
    write_manifest,
    write_shard,
)


def make_shard(first: int = 0, num: int = 3) -> Shard:
    generator = torch.Generator().manual_seed(first)
    source, target = (torch.randn(num, 4, 2, 2, generator=generator) for _ in range(2))
    rows = pd.DataFrame({"index": range(first, first + num), "prompt": "a star", "seed": 2**32 - 1})
    return Shard(source, target, rows)


def test_a_shard_comes_back(tmp_path):
    shard = make_shard()
    write_shard(tmp_path, 7, shard)
    back = read_shard(tmp_path, 7)
    assert torch.equal(back.source_noise, shard.source_noise.half())
    assert torch.equal(back.target_noise, shard.target_noise.half())
    pd.testing.assert_frame_equal(back.rows, shard.rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in shard_paths(tmp_path, 7))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_flipped_byte_is_noticed(tmp_path, part):
    write_shard(tmp_path, 0, make_shard())
    path = shard_paths(tmp_path, 0)[part]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not is_intact(tmp_path, 0)
    with pytest.raises(BadWeights, match="Run the collection again"):
        read_shard(tmp_path, 0)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_bit_and_any_cut_at_the_ends_is_noticed(tmp_path, part):
    write_shard(tmp_path, 0, make_shard())
    path = shard_paths(tmp_path, 0)[part]
    data = path.read_bytes()
    flipped = [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in (0, 64, len(data) - 1) for bit in range(8)
    ]
    for damaged in (*flipped, data[:-1], data[:1], b"", data + b"\n"):
        path.write_bytes(damaged)
        assert not is_intact(tmp_path, 0)
    path.write_bytes(data)
    assert is_intact(tmp_path, 0)


def test_the_hash_file_is_what_sha256sum_checks(tmp_path):
    write_shard(tmp_path, 0, make_shard())
    subprocess.run(["sha256sum", "--check", "--strict", "shard-00000.sha256"], cwd=tmp_path, check=True)


def test_the_same_pairs_are_the_same_bytes(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_shard(folder, 0, make_shard())
    for one, two in zip(shard_paths(tmp_path / "one", 0), shard_paths(tmp_path / "two", 0), strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.fixture
def damaged(tmp_path):
    """Four shards, of which 1 is damaged, 2 has no hashes, and 5 is all that a kill left of it."""
    for index in range(4):
        write_shard(tmp_path, index, make_shard(index))
    write_manifest(tmp_path, {"settings": {}})
    shard_paths(tmp_path, 1)[1].write_bytes(b"damaged")
    shard_paths(tmp_path, 2)[2].unlink()
    shard_paths(tmp_path, 5)[0].write_bytes(b"half")
    (tmp_path / "shard-00003.parquet.bak").write_bytes(b"a person's own")
    return tmp_path


def verify(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["pairs.py", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(pairs.main)
    return ended.value.code


def test_verification_lists_what_is_damaged(damaged, monkeypatch, capsys):
    assert [index for index, fault in find_faults(damaged).items() if fault] == [1, 2, 5]
    assert verify(monkeypatch, damaged) == 1
    assert capsys.readouterr().out.splitlines() == [
        "shard 1 is damaged: its SHA-256 differs",
        "shard 2 is incomplete: shard-00002.sha256 missing",
        "shard 5 is incomplete: shard-00005.parquet and shard-00005.sha256 missing",
        "2 of 5 shards are whole",
    ]
    assert len(finished_shards(damaged)) == 3


def test_verification_moves_damage_aside_and_what_is_whole_stays(damaged, monkeypatch, capsys):
    whole = {path.name: path.read_bytes() for index in (0, 3) for path in shard_paths(damaged, index)}
    assert verify(monkeypatch, damaged, "--quarantine") == 1
    assert verify(monkeypatch, damaged) == 0
    assert {path.name: path.read_bytes() for path in damaged.glob("shard-0000?.*") if path.suffix != ".bak"} == whole
    assert len(list((damaged / "quarantine").iterdir())) == 3 + 2 + 1
    assert "2 of 2 shards are whole" in capsys.readouterr().out


def test_a_folder_without_a_manifest_is_refused(tmp_path, monkeypatch, capsys):
    assert verify(monkeypatch, tmp_path) == 2
    assert "no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_shard_without_one_of_its_files_is_not_there(tmp_path, part):
    write_shard(tmp_path, 0, make_shard())
    shard_paths(tmp_path, 0)[part].unlink()
    assert not is_intact(tmp_path, 0)


def test_quarantine_moves_what_there_is(tmp_path):
    write_shard(tmp_path, 0, make_shard())
    shard_paths(tmp_path, 0)[1].unlink()
    quarantine(tmp_path, 0)
    assert finished_shards(tmp_path) == []
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


def test_shards_are_read_in_order_and_stacked(tmp_path):
    for index in (2, 0):
        write_shard(tmp_path, index, make_shard(first=3 * index))
    assert finished_shards(tmp_path) == [0, 2]
    stacked = stack_shards(list(read_shards(tmp_path)))
    assert stacked.rows["index"].tolist() == [0, 1, 2, 6, 7, 8]
    assert stacked.source_noise.dtype == torch.float32
    assert torch.equal(stacked.source_noise[3:], make_shard(first=6).source_noise.half().float())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no pairs"):
        next(read_shards(tmp_path))
    with pytest.raises(InvalidInput, match=r"no manifest\.json"):
        read_manifest(tmp_path)


def test_a_damaged_manifest_is_refused(tmp_path):
    for text in ("{", "[]", "{}", '{"settings": []}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InvalidInput, match="is damaged"):
            read_manifest(tmp_path)


def test_one_data_set_has_one_set_of_settings(tmp_path):
    settings = {"seed": 1, "targets": ["10x1"]}
    write_manifest(tmp_path, {"settings": settings, "versions": {"torch": "2"}})
    write_manifest(tmp_path, {"settings": settings, "versions": {"torch": "3"}})  # the first one's versions stay
    assert read_manifest(tmp_path) == {"settings": settings, "versions": {"torch": "2"}}
    with pytest.raises(InvalidInput, match="seed=1, not 2"):
        write_manifest(tmp_path, {"settings": settings | {"seed": 2}})


def test_a_setting_that_an_older_data_set_does_not_know_is_no_difference(tmp_path):
    write_manifest(tmp_path, {"settings": {"targets": ("10x1",)}})
    write_manifest(tmp_path, {"settings": {"targets": ("10x1",), "filter": None}, "sources": {"model": "abc"}})
    assert read_manifest(tmp_path) == {"settings": {"targets": ["10x1"]}}


def test_one_data_set_is_of_one_model(tmp_path):
    write_manifest(tmp_path, {"settings": {}, "sources": {"model": {"unet": "abc"}}})
    with pytest.raises(InvalidInput, match="model="):
        write_manifest(tmp_path, {"settings": {}, "sources": {"model": {"unet": "abd"}}})


def test_gains_are_listed_by_target_and_figure():
    rows = pd.DataFrame(
        {
            "target": ["source"] * 2 + ["10x1"] * 2,
            "prompt": ["a star", "a heart"] * 2,
            "source_right": [True, False] * 2,
            "target_right": [True, False, True, True],
            "source_AES": [1.0, 2.0] * 2,
            "target_AES": [1.0, 2.0, 0.5, 1.5],
        }
    )
    right, aes = describe_gains(rows)
    assert right.split()[:5] == ["10x1", "right", "50.000", "->", "100.000"]
    assert "+50.000" in right
    assert aes.split()[1:5] == ["AES", "1.500", "->", "1.000"]
    assert "-0.500 [-0.500, -0.500]  2 pairs" in aes
    assert describe_gains(rows[["target", "prompt"]]) == []
