"""The recipes for many GPUs: scripts that are read by stand-ins of torchrun, SLURM and Ray, and what they start."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from golden import cli
from golden.errors import InvalidInput
from train import on_ray
from train.collection_plan import describe_filter
from train.on_ray import RayOptions, describe_workers
from train.settings import CollectionSettings

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "train" / "recipes"
SCRIPTS = ("torchrun.sh", "slurm.sbatch", "ray.sh", "settings.sh")
BATCH_OPTIONS = {
    "--job-name": r"[\w-]+",
    "--nodes": r"\d+",
    "--ntasks-per-node": r"1",  # torchrun starts the workers of a node
    "--gpus-per-node": r"\d+",
    "--cpus-per-task": r"\d+",
    "--time": r"(\d+-)?\d+:\d\d:\d\d",
    "--requeue": "",
    "--output": r"[\w-]+%j\.log",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_can_read_it(name):
    subprocess.run(["bash", "-n", str(RECIPES / name)], check=True)


def test_the_batch_options_are_slurms():
    lines = (RECIPES / "slurm.sbatch").read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    read = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    # sbatch stops reading options at the first command.
    first_command = next(number for number, line in enumerate(lines) if line and line[0] != "#")
    assert all(number < first_command for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    options = dict(line.partition("=")[::2] for line in read)
    assert options.keys() == BATCH_OPTIONS.keys()
    for name, value in options.items():
        assert re.fullmatch(BATCH_OPTIONS[name], value), f"{name}={value}"


STAND_INS = {
    # Notes what it is called with; `test` is what SLURM's script asks of every node.
    "torchrun": 'echo "torchrun $*" >> "$LOG"',
    "python": 'echo "python $*" >> "$LOG"',
    "srun": 'echo "srun $1" >> "$LOG"; [ "$1" = test ] && { [ -z "$APART" ] || exit 1; exec "$@"; }; shift; exec "$@"',
    "scontrol": 'echo "node1"; echo "node2"',
}


def run_recipe(name: str, folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run a script with stand-ins for what a cluster has; the lines that these were called with."""
    programs = folder / "bin"
    programs.mkdir()
    for program, body in STAND_INS.items():
        (programs / program).write_text(f"#!/bin/bash\n{body}\n")
        (programs / program).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(folder / "log"), "APART": ""}
    environment |= {"RUNS": str(folder / "runs"), "PROMPTS": "my prompts.txt", "TEST_PROMPTS": "test.txt", **variables}
    done = subprocess.run(
        ["bash", str(RECIPES / name)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    log = folder / "log"
    return done, log.read_text().splitlines() if log.is_file() else []


SLURM = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "77"}
SLURM |= {"SLURM_SUBMIT_DIR": str(ROOT)}


def check_commands(commands: Sequence[str], capsys: pytest.CaptureFixture) -> None:
    """Each line calls commands of golden with options that they have."""
    called = [re.split(r" (?:-m golden|--) ", line)[-1].split() for line in commands]
    assert [words[0] for words in called] == ["collect", "train", "bench"]
    for name, *words in called:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert f"{option} " in shown or f"{option}\n" in shown or f"{option}," in shown, (name, option)


def test_one_machine_runs_the_three_commands_under_torchrun(tmp_path, capsys):
    done, log = run_recipe("torchrun.sh", tmp_path, NUM_GPUS="4", EXTRA_COLLECT="--bf16 --shard-size 32")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("torchrun --standalone --nproc-per-node 4 -m golden ") for line in log)
    assert log[0].endswith("--prompts my prompts.txt --bf16 --shard-size 32")
    assert "--prompts test.txt --out" in log[2]
    check_commands(log, capsys)


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch", "ray.sh"])
@pytest.mark.parametrize("missing", ["PROMPTS", "TEST_PROMPTS"])
def test_a_model_without_prompts_of_its_own_needs_them(tmp_path, name, missing):
    done, log = run_recipe(name, tmp_path, **SLURM, **{missing: ""})
    assert done.returncode == 2
    assert done.stderr.startswith("MODEL=sdxl has no prompts of its own: ")
    assert log == []


def test_an_embedded_model_has_its_own(tmp_path, capsys):
    done, log = run_recipe("torchrun.sh", tmp_path, MODEL="shapes", PROMPTS="", TEST_PROMPTS="")
    assert done.returncode == 0, done.stderr
    assert not any("--prompts" in line for line in log)
    check_commands(log, capsys)


def test_slurm_runs_them_on_all_nodes(tmp_path, capsys):
    done, log = run_recipe("slurm.sbatch", tmp_path, **SLURM)
    assert done.returncode == 0, done.stderr
    assert log[0] == "srun test"
    started = [line for line in log if line.startswith("torchrun")]
    assert all("--nnodes 2 --nproc-per-node 8 --rdzv-id 77" in line for line in started)
    assert all("--rdzv-endpoint node1:29500 " in line for line in started)
    check_commands(started, capsys)
    assert not [*(tmp_path / "runs").glob(".shared*")]


def test_slurm_starts_nothing_where_the_nodes_share_no_folder(tmp_path):
    done, log = run_recipe("slurm.sbatch", tmp_path, **SLURM, APART="1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not on a file system that all nodes share" in done.stderr
    assert log == ["srun test"]


def test_a_command_that_fails_ends_the_recipe(tmp_path):
    programs = {"torchrun": 'echo "torchrun $*" >> "$LOG"; exit 3'}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.STAND_INS", STAND_INS | programs)
        done, log = run_recipe("torchrun.sh", tmp_path)
    assert (done.returncode, len(log)) == (3, 1)


def test_ray_collects_with_its_own_engine_and_runs_the_others_as_torchrun_would(tmp_path, capsys):
    done, log = run_recipe("ray.sh", tmp_path, NUM_GPUS="16")
    assert done.returncode == 0, done.stderr
    assert "--prompts my prompts.txt --engine ray --num-workers 16 --num-judge-workers 16" in log[0]
    assert all(line.startswith("python -m train.on_ray --num-workers 16 -- ") for line in log[1:])
    check_commands(log, capsys)


# --- Ray --------------------------------------------------------------------------------------------------------------


def test_workers_are_told_what_torchrun_would_tell_them():
    first, second = describe_workers(2, "10.0.0.1", 4321)
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first | {"RANK": "1"} == second
    assert second["WORLD_SIZE"] == "2"
    assert (second["MASTER_ADDR"], second["MASTER_PORT"], second["LOCAL_RANK"]) == ("10.0.0.1", "4321", "0")


def test_the_command_comes_after_two_dashes(monkeypatch):
    asked: list[RayOptions] = []
    monkeypatch.setattr(on_ray, "run_on_ray", lambda options: asked.append(options) or 0)
    assert on_ray.main(["--num-workers", "3", "--", "train", "runs/pairs", "--out", "x"]) == 0
    assert asked == [RayOptions(("train", "runs/pairs", "--out", "x"), 3)]
    with pytest.raises(SystemExit):
        on_ray.main(["--num-workers", "3"])
    with pytest.raises(InvalidInput, match="--num-workers must be 1 or more"):
        on_ray.main(["--num-workers", "0", "--", "train"])


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("command", "status"), [("--version", 0), ("nope", 2)])
def test_a_command_on_ray_ends_as_its_workers_do(command, status, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its workers would wait for every other process of the machine
    assert on_ray.main(["--num-workers", "2", "--device", "cpu", "--", command]) == status


@needs_ray
def test_a_cluster_without_gpus_is_told_so_in_a_sentence():
    with pytest.raises(InvalidInput, match="2 workers need as many GPUs, but the cluster has 0"):
        on_ray.run_on_ray(RayOptions(("bench",), 2))


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_plan_says_whose_filter_keeps_pairs():
    columns = ["target_score", "target_HPSv2", "kept"]
    same = describe_filter(CollectionSettings(filter="right"), columns)
    assert same == ["      by the filter right, which training uses unless told otherwise"]
    (other,) = describe_filter(CollectionSettings(filter="HPSv2", margin=0.1), columns)
    assert "train with --filter HPSv2 --margin 0.1 for the same, as right is training's default" in other
    assert describe_filter(CollectionSettings(judged=False), ["prompt"]) == []


def test_no_recipe_is_left_out():
    listed = (RECIPES / "README.md").read_text()
    for path in RECIPES.iterdir():
        assert path.name == "README.md" or path.name == "settings.sh" or f"({path.name})" in listed
    assert shutil.which("bash")
