"""The drills in short: collection and training are killed, shards damaged, memory measured, engines compared."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")


@pytest.mark.drill
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("kill_collection.py", "--kills", "4"),
        ("kill_training.py", "--kills", "4"),
        ("damage_shards.py", "--num", "100"),
        ("reader_memory.py", "--pairs", "640", "6400"),
        pytest.param(("same_set.py", "--shards", "3"), marks=NO_RAY),
    ],
    ids=lambda command: command[0],
)
def test_a_drill_passes(command):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "drills" / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
