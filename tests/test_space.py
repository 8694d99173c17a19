"""The folder of a Hugging Face Space: what is in it, its front matter, and that its entry serves the app."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golden.errors import InvalidInput
from golden.models import MODELS
from tests.test_app import find_free_port

BUILD = Path(__file__).parents[1] / "assets" / "space" / "build.py"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_space", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_front_matter(folder: Path) -> dict:
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_the_entry_starts_the_app(build, tmp_path):
    """Run in the folder, it imports what is in the folder and nothing of the clone."""
    build.build_space(tmp_path / "space", MODELS["shapes"])
    front = read_front_matter(tmp_path / "space")
    assert front["sdk"] == "gradio"
    assert front["suggested_hardware"] == "cpu-basic"
    assert "preload_from_hub" not in front
    assert (tmp_path / "space" / front["app_file"]).is_file()
    port = find_free_port()
    server = subprocess.Popen(
        [sys.executable, front["app_file"], "--port", str(port), "--judges", "none"], cwd=tmp_path / "space"
    )
    try:
        client = build.wait_for_client(f"http://127.0.0.1:{port}", server)
        *_, result = client.predict("a red circle", num_inference_steps=1, api_name="/compare")
        assert result["settings"]["model"] == "shapes"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS[name].is_embedded])
def test_a_model_of_the_hub_is_preloaded_onto_zerogpu(build, tmp_path, name):
    build.build_space(tmp_path / "space", MODELS[name])
    front = read_front_matter(tmp_path / "space")
    assert front["suggested_hardware"] == "zero-a10g"
    assert front["models"] == [MODELS[name].repo]
    assert front["preload_from_hub"][0].split()[0] == MODELS[name].repo
    for line in front["preload_from_hub"]:
        assert len(line.split()) <= 2
        assert "*" not in line
    entry = (tmp_path / "space" / "space.py").read_text()
    assert f"'--model', '{name}'" in entry
    assert "'cuda'" in entry


def test_every_file_is_small_enough_for_the_hub(build, tmp_path, monkeypatch):
    build.build_space(tmp_path / "space", MODELS["shapes"])
    assert not list((tmp_path / "space").rglob("__pycache__"))
    monkeypatch.setattr(build, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InvalidInput, match="at most 1,000"):
        build.build_space(tmp_path / "space", MODELS["shapes"])


def test_other_folders_are_left_alone(build, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="contains other files"):
        build.build_space(tmp_path, MODELS["shapes"])
    assert (tmp_path / "thesis.txt").read_text() == "mine"
