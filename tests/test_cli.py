"""The command `golden`: every subcommand answers `--help` at once, and says what is missing."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import golden
from eval import readme_images
from golden import cli, model
from golden.describe import describe_npnet
from golden.errors import InvalidInput, MissingPackage
from golden.judges import JUDGES, MODES, WEIGHT_SETS
from golden.judges import command as judge_command
from golden.models import MODELS
from golden.npnet import load_npnet, save_npnet
from golden.pipelines import MEMORY_MODES
from golden.ui import app

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "scipy.stats", "pandas", "matplotlib", "gradio", "open_clip")
MAX_SECONDS = 3  # of processor time; 1.5 and less on a quiet core


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys, time; from golden.cli import main\n"
        f"try: main([*{command!r}, '--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    *shown, last = done.stdout.splitlines()
    assert shown[0].startswith(f"usage: golden {' '.join(command)}".rstrip() + " ")
    loaded, seconds = last.rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < MAX_SECONDS


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"\n    {name} " in shown
        assert command.help.split(";")[0][:30] in " ".join(shown.split())


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"golden {golden.__version__}\n"


def test_python_m_golden_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "golden", "nope"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "app" in done.stderr


def test_bench_without_options_lists_the_suites(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 0
    assert "main" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(monkeypatch):
    def fail(name: str):
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

    monkeypatch.setattr(cli, "import_module", fail)
    with pytest.raises(MissingPackage, match=r"golden bench needs the package pandas: .*pip install 'golden\[eval\]'"):
        cli.main(["bench"])


def test_names_that_help_shows_are_those_of_the_registries():
    """They are written down twice, since the registries take seconds to import."""
    assert tuple(JUDGES) == judge_command.JUDGE_NAMES
    assert judge_command.MODES == MODES
    assert judge_command.WEIGHT_SETS == WEIGHT_SETS
    assert app.MEMORY_MODES == MEMORY_MODES


def test_a_used_port_is_refused_before_anything_is_loaded():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        before = time.monotonic()
        with pytest.raises(InvalidInput, match=rf"Port {port} is in use: choose another with --port"):
            cli.main(["app", "--port", str(port)])
        assert time.monotonic() - before < 5


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "a" * 70])
def test_an_address_that_is_not_this_machines_gets_one_sentence(host):
    with pytest.raises(InvalidInput, match=r"The app cannot be served on .*:7861: ") as caught:
        cli.main(["app", "--host", host, "--port", "7861"])
    assert "\n" not in str(caught.value)
    assert "GRADIO" not in str(caught.value)


def test_help_of_the_readmes_images_renders_none(monkeypatch):
    monkeypatch.setattr(readme_images, "find_differences", lambda *numbers: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        readme_images.main(["--help"])
    assert ended.value.code == 0


def test_an_npnet_of_another_family_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(model, "load_npnet", lambda *arguments: pytest.fail("it was loaded"))
    with pytest.raises(InvalidInput, match=r"'hunyuan-dit' is not for .* XL, .*: give .* sdxl, dreamshaper"):
        model.load_model("sdxl", npnet="hunyuan-dit", device="cpu")
    for name, spec in MODELS.items():
        model.check_npnet_name(spec, spec.npnet)
        assert name == spec.name


def test_a_weight_file_is_described(tmp_path, tiny_npnet_file, capsys):
    assert cli.main(["npnet", "--describe", str(tiny_npnet_file)]) == 0
    shown = capsys.readouterr().out
    network = load_npnet(tiny_npnet_file)
    total = sum(weight.numel() for weight in network.parameters())
    for words in (
        str(tiny_npnet_file),
        "sha256: ",
        "  embedding_dim: 32",
        f"  all: {total:,}",
        "alpha: 0.7, beta: 0.3",
    ):
        assert words in shown
    assert "training: the file records nothing" in shown
    odd = {"training": '{"figures": {"validation": 0.5}, "settings": {"seed": 3}}', "note": "a\x1b[2Jb"}
    save_npnet(tmp_path / "own.safetensors", network, odd)
    lines = list(describe_npnet(load_npnet(tmp_path / "own.safetensors")))
    assert "    validation: 0.5" in lines
    assert "note: a\ufffd[2Jb" in lines
