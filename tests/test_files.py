"""Files appear whole or not at all; weights are checked, and never run."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from golden import files
from golden.errors import BadWeights, MissingWeights
from golden.files import atomic_path, hash_path, load_weights, save_weights, sha256, write_bytes

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.float16)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_bytes(path, b"data")
    assert path.read_bytes() == b"data"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["file.bin"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def crash_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            assert temporary.parent == path.parent
            assert temporary.suffix == path.suffix
            assert path.read_bytes() == b"old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash_half_way()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_bytes(tmp_path / "folder", b"data")
    assert names(tmp_path) == ["folder"]


def test_weights_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, TENSORS | {"c": TENSORS["a"].t()}, {"config": "{}"})
    tensors, metadata = load_weights(path)
    assert metadata == {"config": "{}"}
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert torch.equal(tensors["c"], TENSORS["a"].t())
    assert tensors["b"].dtype == torch.float16
    assert names(tmp_path) == ["net.safetensors", "net.safetensors.sha256"]
    assert hash_path(path).read_text() == f"{sha256(path)}  net.safetensors\n"


def test_one_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, TENSORS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadWeights, match="SHA-256"):
        load_weights(path)
    hash_path(path).unlink()
    load_weights(path)  # without a hash nobody can know


def test_a_hash_file_of_rubbish_is_no_crash(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, TENSORS)
    hash_path(path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadWeights, match="SHA-256"):
        load_weights(path)


def test_a_crash_between_weights_and_hash_leaves_a_file_that_loads(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_weights(path, TENSORS)

    def write_all_but_the_hash(target, data):
        if Path(target) == hash_path(path):
            raise KeyboardInterrupt
        write_bytes(target, data)

    monkeypatch.setattr(files, "write_bytes", write_all_but_the_hash)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, {"a": torch.zeros(3)})
    assert torch.equal(load_weights(path)[0]["a"], torch.zeros(3))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_torch_files_of_tensors_load_nested_as_they_are(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    torch.save({"unet_svd": TENSORS, "alpha": torch.ones(1)}, path)
    tensors, metadata = load_weights(path)
    assert torch.equal(tensors["unet_svd"]["a"], TENSORS["a"])
    assert metadata == {}


class Malicious:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class MaliciousExec:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def torch_zip(path: Path, marker: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Malicious(marker)}, path)


def torch_legacy(path: Path, marker: Path) -> None:
    torch.save({"a": torch.ones(1), "b": MaliciousExec(marker)}, path, _use_new_zipfile_serialization=False)


def raw_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"a": MaliciousExec(marker)}))


def system_call(path: Path, marker: Path) -> None:
    path.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())


def whole_module(path: Path, marker: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def bare_tensor(path: Path, marker: Path) -> None:
    torch.save(torch.ones(3), path)


def nothing(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def text(path: Path, marker: Path) -> None:
    path.write_text("<html>404: not found</html>")


def half_of_it(path: Path, marker: Path) -> None:
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:300])


def deep_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")


def zip_bomb(path: Path, marker: Path) -> None:
    """Tensors and nothing else, in a hundredth of their size."""
    whole = path.with_name("whole.pth")
    torch.save({"a": torch.zeros(2**18)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size * 100 < whole.stat().st_size


FORGED = [
    zip_bomb,
    torch_zip,
    torch_legacy,
    raw_pickle,
    system_call,
    whole_module,
    bare_tensor,
    nothing,
    text,
    half_of_it,
    deep_pickle,
]


@pytest.mark.parametrize("forge", FORGED)
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_a_torch_file_of_anything_else_is_refused_and_runs_nothing(tmp_path, forge, suffix):
    path, marker = tmp_path / f"net{suffix}", tmp_path / "marker"
    forge(path, marker)
    with pytest.raises(BadWeights) as caught:
        load_weights(path)
    assert not marker.exists()
    assert str(caught.value).startswith("net")
    assert "\n" not in str(caught.value)


def header(claimed: int, text: bytes = b"{}") -> bytes:
    return struct.pack("<Q", claimed) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        header(2**63),
        header(10**9),
        header(4, b"null"),
        header(9, b"not json!"),
        header(60, b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'[:60]),
        header(65, b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 99999]}}'),
        pickle.dumps({"a": 1}),
    ],
)
def test_a_safetensors_file_of_anything_else_is_refused(tmp_path, data):
    path = tmp_path / "net.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadWeights, match=r"^net.safetensors is not a readable safetensors file"):
        load_weights(path)


def test_a_safetensors_file_of_nothing_is_a_valid_one(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(header(2))
    assert load_weights(path) == ({}, {})


@pytest.mark.parametrize("name", ["net.ckpt", "net.pkl", "net", "net.txt", "net.npz"])
def test_other_kinds_of_file_are_never_opened(tmp_path, name):
    path, marker = tmp_path / name, tmp_path / "marker"
    raw_pickle(path, marker)
    with pytest.raises(BadWeights, match=r"only \.safetensors, \.pth"):
        load_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["absent.safetensors", ".", "absent/net.pth"])
def test_no_file(tmp_path, name):
    with pytest.raises(MissingWeights, match="give the path of"):
        load_weights(tmp_path / name)
