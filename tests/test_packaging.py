"""What is installed: a wheel that carries the embedded models and works from any folder, and metadata that is whole."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import golden
from golden.files import ASSETS

ROOT = Path(__file__).resolve().parents[1]
MAX_WHEEL_BYTES = 60 * 10**6
LEFT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "runs", "outputs", "build", "dist", "*.egg-info", "__pycache__")
EMBEDDED = ("aes", "clipscore", "hpsv2", "imagereward", "mps", "pickscore")


def read_requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] not in "#-"]


# --- without building -------------------------------------------------------------------------------------------------


def test_core_and_extras_together_are_what_make_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["all"] == ["golden[app,train,eval]"]
    installed = {*project["dependencies"], *extras["app"], *extras["train"], *extras["eval"]}
    assert installed - {"huggingface_hub"} == set(read_requirements("requirements.txt"))  # which diffusers brings
    heavy = ("gradio", "pandas", "matplotlib", "statsmodels", "pyarrow", "ray")
    assert [line for line in project["dependencies"] if line.startswith(heavy)] == []


def test_public_names_are_listed_and_can_be_had():
    assert set(golden.__all__) <= set(dir(golden))
    for name in golden.__all__:
        assert getattr(golden, name) is not None
    assert golden.__version__ == "0.2.0"


def test_importing_golden_loads_nothing_heavy():
    code = (
        "import sys, time; before = time.perf_counter(); import golden; seconds = time.perf_counter() - before\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'gradio', 'pandas', 'matplotlib', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules]); assert seconds < 0.5, seconds"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "assets/README.md")


def test_changelog_and_citation_are_of_this_version():
    assert f"\n## {golden.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {golden.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_files_that_exist(name):
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or ((ROOT / name).parent / link).exists(), link
    for path in re.findall(r"`((?:golden|train|eval|tests|assets)/[\w./-]+\.\w+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path


def test_every_embedded_weight_has_its_card():
    cards = (ASSETS / "README.md").read_text()
    for path in ASSETS.glob("*/*.safetensors"):
        assert f"`{path.stem}`" in cards or f"`{path.relative_to(ASSETS).as_posix()}`" in cards, path.name


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip makes of the source distribution, as an index would hand both out."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "clone", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    build = "import setuptools.build_meta as build; print(build.build_sdist('../sdist'))"
    (folder / "sdist").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=folder / "clone", check=True, capture_output=True)
    (sdist,) = (folder / "sdist").glob("golden-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(sdist)], check=True, cwd=folder)
    (built,) = folder.glob("golden-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder for PYTHONPATH that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in `folder` with the installed package and nothing of the clone."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_wheel_carries_every_module_and_all_embedded_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("golden", "train", "eval")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".html", ".css") or path.name == "py.typed"
    }
    assert modules - names == set()
    parts = [path for folder in ("app", "judges", "shapes") for path in (ASSETS / folder).rglob("*") if path.is_file()]
    packed = {f"golden/assets/{path.relative_to(ASSETS).as_posix()}" for path in parts}
    assert packed - names == set()
    assert {f"golden/assets/judges/{name}.safetensors" for name in EMBEDDED} <= names
    assert {"golden/assets/shapes/npnet.safetensors", "golden/assets/README.md"} <= names
    strangers = {name.split("/")[0] for name in names} - {"golden", "train", "eval"}
    assert [name for name in strangers if not name.startswith("golden-")] == []
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(names)} files")
    assert size < MAX_WHEEL_BYTES


@pytest.mark.slow
def test_the_metadata_is_whole(installed):
    (info,) = installed.glob("golden-*.dist-info")
    metadata = HeaderParser().parsestr((info / "METADATA").read_text())
    assert (metadata["Name"], metadata["Version"]) == ("golden", golden.__version__)
    assert (metadata["Author"], metadata["License-Expression"]) == ("The golden authors", "Apache-2.0")
    assert metadata["Keywords"]
    assert metadata["Summary"]
    assert len(metadata.get_all("Classifier")) > 5
    assert {"app", "train", "eval", "all"} <= set(metadata.get_all("Provides-Extra"))
    assert "# golden" in metadata.get_payload()


@pytest.mark.slow
def test_the_installed_library_works_from_an_empty_folder(installed, tmp_path):
    code = """
import golden
from golden.files import ASSETS
print(golden.__file__)
print(ASSETS)
from diffusers import StableDiffusionXLPipeline
from golden import GoldenNoise, load_judges, load_model
model = load_model(device="cpu")
pipe = StableDiffusionXLPipeline.from_pretrained(ASSETS / "shapes" / "model", add_watermarker=False)
pipe.set_progress_bar_config(disable=True)
noise = GoldenNoise.for_pipeline(pipe)
images = pipe("a red circle", latents=noise("a red circle", seed=7), num_inference_steps=2).images
scores = load_judges().score_all(images, ["a red circle"])
print(sorted(scores))
from golden.shapes import load_test_prompts
assert len(load_test_prompts()) == 553
"""
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    package, assets, names = done.stdout.strip().splitlines()
    assert Path(package) == installed / "golden" / "__init__.py"
    assert Path(assets) == installed / "golden" / "assets"
    assert names == "['AES', 'CLIPScore', 'HPSv2', 'ImageReward', 'MPS', 'PickScore']"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_installed_command_renders_from_an_empty_folder(installed, tmp_path):
    arguments = ("--prompt", "a red circle", "--num-inference-steps", "2", "--device", "cpu", "--out", "images")
    done = run(installed, tmp_path, "-m", "golden", "render", *arguments)
    assert done.returncode == 0, done.stderr
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["images/golden.png", "images/side_by_side.png", "images/standard.png"]


@pytest.mark.slow
def test_the_installed_commands_collect_train_and_measure_in_an_empty_folder(installed, tmp_path):
    commands = (
        "collect pairs --num-pairs 64 --no-judged --bf16",
        "train pairs --out net --filter all --num-epochs 1",
        "bench --limit 8 --num-seeds 1 --num-inference-steps 2 --bf16 --judges none --arms standard npnet",
        "judge --prompt star --judges AES -- golden.png",
    )
    shutil.copy(ASSETS / "images" / "best_of_n_right.png", tmp_path / "golden.png")
    for command in commands:
        name, *arguments = command.split()
        done = run(installed, tmp_path, "-m", "golden", name, "--device", "cpu", *arguments)
        assert done.returncode == 0, (command, done.stderr)
    for written in ("pairs/manifest.json", "net/npnet.safetensors", "runs/main/report.html"):
        assert (tmp_path / written).is_file()
    done = run(installed, tmp_path, "-m", "golden", "npnet", "--describe", "net/npnet.safetensors")
    assert "num_epochs: 1" in done.stdout
