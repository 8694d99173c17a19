"""Kill the collection of pairs at random moments: no finished shard is lost, and the data set ends up the same.

    python tests/drills/kill_collection.py --kills 50

Two workers collect into one folder. One of them, sometimes both, gets SIGKILL at a random moment after it took its
first shard, and is started again. The finished folder is compared, byte for byte, with that of one undisturbed worker.
"""

import argparse
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from killing import describe_differences, kill, make_rng, read_all, start

import train.collection  # noqa: F401  imported here once, and not by every worker
from train.collect_pairs import main as collect

SHARD_SIZE = 2
OPTIONS = ("--shard-size", SHARD_SIZE, "--num-inference-steps", 2, "--targets", "source", "10x1", "--judges", "all")
NUM_WORKERS = 2


def holds_a_shard(process: BaseProcess) -> bool:
    """Whether a process has a claim, according to the system's table of locks."""
    return f" {process.pid} " in Path("/proc/locks").read_text()


def run_drill(folder: Path, num_kills: int, num_shards: int, seed: int | None) -> None:
    rng = make_rng(seed)
    options = ("--num-pairs", num_shards * SHARD_SIZE, "--device", "cpu", *OPTIONS)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    started = time.perf_counter()
    reference = start(collect, undisturbed, *options)
    reference.join()
    assert reference.exitcode == 0, f"the undisturbed collection ended with {reference.exitcode}"
    expected = read_all(undisturbed, "shard-*")
    seconds = time.perf_counter() - started
    print(f"undisturbed: {num_shards} shards in {seconds:.0f} s", flush=True)

    started = time.perf_counter()
    workers = [start(collect, killed, *options) for _ in range(NUM_WORKERS)]
    kills, most_lost = 0, 0
    while kills < num_kills:
        victims = [0, 1] if rng.random() < 0.2 else [rng.randrange(NUM_WORKERS)]
        while not all(holds_a_shard(workers[victim]) for victim in victims):
            assert all(worker.exitcode is None for worker in workers), "the set was finished before the kills were"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2 * seconds / num_shards))
        before = read_all(killed, "shard-*.sha256")
        for victim in victims:
            kill(workers[victim])
        after = read_all(killed, "shard-*.sha256")
        most_lost = max(most_lost, len(before.keys() - after.keys()))
        kills += len(victims)
        for victim in victims:
            workers[victim] = start(collect, killed, *options)
        print(f"kill {kills}: {len(after)} of {num_shards} shards finished", flush=True)
    for worker in workers:
        worker.join()
    print(f"{kills} kills in {time.perf_counter() - started:.0f} s; finished shards lost: {most_lost}")
    codes = [worker.exitcode for worker in workers]
    litter = [path.name for path in killed.iterdir() if path.name.startswith(".")]
    differences = describe_differences(expected, read_all(killed, "shard-*"))
    print(
        f"files that differ from the undisturbed set: {len(differences)} of {len(expected)}; left over: {len(litter)}"
    )
    assert codes == [0] * NUM_WORKERS, f"the last workers ended with {codes}"
    assert not most_lost, "finished shards were lost"
    assert not differences, f"different: {differences[:5]}"
    assert not litter, f"left over: {litter[:5]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--shards", type=int, help="(default: three for each kill)")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_drill(Path(folder), arguments.kills, arguments.shards or 3 * arguments.kills, arguments.seed)
    print("passed")


if __name__ == "__main__":
    main()
