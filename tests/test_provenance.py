"""Provenance: what is saved beside every output names the code, the machine and the weights."""

import json
import re
import subprocess
from dataclasses import replace

import pytest

from golden import provenance
from golden.files import sha256
from golden.models import MODELS


def test_a_run_is_described_in_json():
    run = json.loads(json.dumps(provenance.describe_run()))
    assert set(run) == {"time", "device", "platform", "python", "versions", "commit"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["time"])
    assert run["device"].startswith("CPU, ")
    assert run["versions"]["torch"]


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert list(provenance.versions()) == ["numpy"]


def test_the_commit_is_that_of_the_clone_and_marked_if_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() is None  # outside a clone

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert provenance.commit() is None  # nothing committed yet
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "one")
    clean = provenance.commit()
    assert clean is not None
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (tmp_path / "file").write_text("b")
    assert provenance.commit() == f"{clean}+"
    inner = tmp_path / "site-packages"
    inner.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inner)
    assert provenance.commit() is None  # installed below a clone of something else


def test_a_local_model_is_known_by_its_weights_and_another_by_its_revision(tmp_path):
    weights = tmp_path / "unet" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    (tmp_path / "model_index.json").write_text("{}")
    local = replace(MODELS["shapes"], repo=str(tmp_path))
    assert provenance.hash_model(local) == {"unet/weights.safetensors": sha256(weights)}
    hub = replace(local, repo="owner/name", revision=None)
    assert provenance.hash_model(hub) == {"repo": "owner/name", "revision": "main"}
    assert provenance.hash_model(replace(hub, revision="abc"))["revision"] == "abc"


@pytest.mark.parametrize(("environment", "worker"), [({}, (0, 1)), ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4))])
def test_a_worker_knows_its_place(monkeypatch, environment, worker):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert provenance.find_worker() == worker
