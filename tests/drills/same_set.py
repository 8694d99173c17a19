"""The same data set to the byte, whoever makes it: one process, two under torchrun, two Ray actors one of which dies.

    python tests/drills/same_set.py

Prints how many sources per second each made, start included: workers that share a core are no faster than one.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import killing
import psutil

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SCRIPT = "train/collect_pairs.py"
ENGINES = {
    "one process": (SCRIPT,),
    "two under torchrun": (*TORCHRUN, SCRIPT),
    "two Ray actors, one killed": (SCRIPT, "--engine", "ray", "--num-workers", "2"),
}
SHARD_SIZE = 2
ENVIRONMENT = os.environ | {"RAY_worker_niceness": "0"}  # Ray's default of 15 starves its actors on a busy machine


def kill_one_sampler(process: subprocess.Popen, folder: Path) -> bool:
    """SIGKILL a sampling actor once the first shard is there; Ray restarts it."""
    while process.poll() is None:
        if next(folder.glob("shard-*.sha256"), None):
            for each in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "ray::SamplingActor" in " ".join(each.cmdline()):
                        each.kill()
                        return True
        time.sleep(0.01)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12)
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    options = ("--num-pairs", arguments.shards * SHARD_SIZE, "--shard-size", SHARD_SIZE, "--num-inference-steps", 2)
    options = (*options, "--targets", "source", "10x1", "--judges", "all", "--device", "cpu")
    sets = {}
    with tempfile.TemporaryDirectory() as name:
        for number, (engine, launcher) in enumerate(ENGINES.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            started = time.perf_counter()
            command = [sys.executable, *launcher, folder, *options]
            with open(folder / "errors.txt", "w") as errors:
                process = subprocess.Popen(
                    [*map(str, command)], cwd=root, env=ENVIRONMENT, stdout=errors, stderr=errors
                )
                killed = "killed" in engine and kill_one_sampler(process, folder)
                process.wait()
            assert process.returncode == 0, (folder / "errors.txt").read_text()
            assert killed or "killed" not in engine, "no sampling actor was seen"
            seconds = time.perf_counter() - started
            sets[engine] = killing.read_all(folder, "shard-*")
            rate = arguments.shards * SHARD_SIZE / seconds
            print(
                f"{engine}: {len(sets[engine]) // 3} shards in {seconds:.0f} s, {rate:.2f} sources a second", flush=True
            )
    first, *others = sets.values()
    assert len(first) == 3 * arguments.shards
    for engine, other in zip([*sets][1:], others, strict=True):
        differences = killing.describe_differences(first, other)
        assert not differences, f"{engine}: {differences}"
    print(f"all {len(first)} files are the same")


if __name__ == "__main__":
    main()
