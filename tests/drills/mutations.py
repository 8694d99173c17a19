"""Put 20 faults into copies of the source, one at a time, and see that a test of that module finds each.

    python tests/drills/mutations.py                 # about three minutes
    python tests/drills/mutations.py --only arms     # those of one file

Each fault is a line that somebody could have written. It counts as found if the test named for it fails with it and
passes without it.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("golden", "train", "eval", "tests", "app.py", "pyproject.toml")
LINKED = ("assets", "README.md", "CONTRIBUTING.md")
WARM = (
    "golden.library",
    "golden.judges.registry",
    "golden.shapes",
    "eval.benchmark",
    "train.pairs",
    "pytest",
    "hypothesis",
)
"""Modules that are imported once, for the libraries that they bring; the project's own are then forgotten again."""
OWN = ("golden", "train", "eval", "tests")
CONTEXT = multiprocessing.get_context("fork")


class Mutation(NamedTuple):
    """`old`, which stands once in `file`, becomes `new`; `test` is what must notice."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS = [
    # arms
    Mutation(
        "golden/arms.py",
        "return source + strength * (noise - source)",
        "return source + strength * noise",
        "test_arms.py::test_strength_is_a_straight_line",
    ),
    Mutation(
        "golden/arms.py",
        "prompts[j % len(prompts)] != p)",
        "prompts[j % len(prompts)] == p)",
        "test_arms.py::test_a_mismatched_prompt_is_never_the_rows_own",
    ),
    Mutation(
        "golden/arms.py",
        "source.std((1, 2, 3), keepdim=True) / golden.std((1, 2, 3), keepdim=True)",
        "golden.std((1, 2, 3), keepdim=True) / source.std((1, 2, 3), keepdim=True)",
        "test_arms.py::test_unit_std_has_the_sources_mean_and_spread",
    ),
    Mutation(
        "golden/arms.py",
        "return at_norm_of(source, npnet(",
        "return at_norm_of(npnet(",
        "test_arms.py::test_norm_takes_npnets_norm_and_the_sources_direction",
    ),
    # noise
    Mutation(
        "golden/noise.py",
        "manual_seed(seed)) for seed",
        "manual_seed(checked[0])) for seed",
        "test_noise.py::test_source_noise_depends_on_its_seed_alone",
    ),
    Mutation(
        "golden/noise.py",
        "(1 - kept).sqrt() * fresh",
        "(1 - kept) * fresh",
        "test_noise.py::test_repaint_keeps_white_noise_white",
    ),
    Mutation(
        "golden/noise.py",
        "distance = (other - source).flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)",
        "distance = (other - source).flatten(1).norm(dim=1) / direction.norm()",
        "test_noise.py::test_random_change_is_as_large_and_points_elsewhere",
    ),
    Mutation(
        "golden/noise.py",
        'upwards[1:] if evaluate_at == "t" else upwards[:-1]',
        'upwards[:-1] if evaluate_at == "t" else upwards[1:]',
        "test_noise.py::test_several_steps_down_are_taken_back_one_by_one",
    ),
    # npnet
    Mutation(
        "golden/npnet/network.py",
        "(2 * torch.sigmoid(self.alpha) - 1)",
        "self.alpha",
        "test_npnet.py::test_golden_is_the_weighted_sum_of_its_branches",
    ),
    Mutation(
        "golden/npnet/branches/singular.py",
        "u.pow(3).sum(dim=-2) < 0",
        "u.pow(2).sum(dim=-2) < 0",
        "test_npnet.py::test_canonical_signs_make_the_answer_independent_of_the_library",
    ),
    Mutation(
        "golden/npnet/branches/text.py",
        "eps=1e-6) * (1 + scale) + shift",
        "eps=1e-6) * scale + shift",
        "test_npnet.py::test_equals_reference",
    ),
    Mutation(
        "golden/npnet/branches/singular.py",
        "self.mlp4(rows.mean(dim=1)) + s",
        "self.mlp4(rows.mean(dim=1))",
        "test_npnet.py::test_equals_reference",
    ),
    # statistics
    Mutation(
        "golden/statistics.py",
        "Wins(int((array > 0)",
        "Wins(int((array >= 0)",
        "test_statistics.py::test_ties_are_counted_and_are_no_wins",
    ),
    Mutation(
        "golden/statistics.py",
        "num_resamples, seed)\n    tail = _expanded_tail(len(counts), level)",
        "num_resamples, seed)\n    tail = (1 - level) / 2",
        "test_statistics.py::test_interval_covers_the_true_effect",
    ),
    Mutation(
        "golden/statistics.py",
        "means = sums.sum(0) / counts.sum()",
        "means = (sums.T / counts).mean(1)",
        "test_statistics.py::test_interval_weighs_clusters_by_their_size",
    ),
    # checkers
    Mutation(
        "golden/shapes/checker.py",
        'return "above" if dy > 0',
        'return "above" if dy < 0',
        "test_shapes.py::test_the_checker_is_right_on_rendered_scenes",
    ),
    Mutation(
        "golden/shapes/checker.py",
        "count_right = len(found) ==",
        "count_right = len(found) >=",
        "test_shapes.py::test_faults",
    ),
    Mutation(
        "golden/geneval/verdicts.py",
        "before if offset[axis] < 0",
        "before if offset[axis] > 0",
        "test_geneval.py::test_boxes_by_hand",
    ),
    # pairs
    Mutation(
        "train/pairs.py",
        "if hashes == _hash_lines(folder, index, *parts)",
        "if hashes",
        "test_pairs.py::test_one_flipped_byte_is_noticed",
    ),
    Mutation(
        "train/pairs.py",
        "if there.get(name, value) != value:",
        "if name not in there:",
        "test_pairs.py::test_one_data_set_has_one_set_of_settings",
    ),
]


class Failures:
    """A plugin of pytest that notes which tests failed, and that it was the copy that was tested."""

    def __init__(self, root: Path) -> None:
        self.root, self.failed = root, []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        import golden

        assert Path(golden.__file__).is_relative_to(self.root), f"tested {golden.__file__}"


def run_tests(root: Path, *selected: str) -> tuple[int, list[str]]:
    """(pytest's exit code, failed tests) in a process of its own, which ends with the first failure."""
    answer = root / "answer.json"

    def run() -> None:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(root)
        sys.path.insert(0, str(root))
        import pytest

        failures = Failures(root)
        # The libraries are there already, plugins of pytest among them.
        quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = pytest.main(["-x", *quiet, *selected], plugins=[failures])
        answer.write_text(json.dumps([int(code), failures.failed]))

    answer.unlink(missing_ok=True)
    process = CONTEXT.Process(target=run)
    process.start()
    process.join()
    return tuple(json.loads(answer.read_text())) if answer.exists() else (process.exitcode or 99, [])


def warm_up() -> None:
    """Import every library, and nothing of the project, so that each fork only imports what may be spoilt."""
    for name in WARM:
        __import__(name)
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]


def copy_source(root: Path) -> None:
    """The source and its tests, to be spoilt; what is only read is linked."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)


def try_mutation(root: Path, mutation: Mutation) -> str:
    """What became of a fault: "found by TEST", or why not."""
    path = root / mutation.file
    whole = path.read_text()
    assert whole.count(mutation.old) == 1, (
        f"{mutation.old!r} stands {whole.count(mutation.old)} times in {mutation.file}"
    )
    path.write_text(whole.replace(mutation.old, mutation.new))
    code, failed = run_tests(root, f"tests/{mutation.test}")
    path.write_text(whole)
    if code == 0:
        return "NOT FOUND"
    if not failed:
        return f"NOT TESTED: pytest ended with {code}"
    code, _ = run_tests(root, failed[0])
    return f"found by {failed[0].removeprefix('tests/')}" if code == 0 else f"NOT TESTED: {failed[0]} fails without it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's name")
    arguments = parser.parse_args()
    warm_up()
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.file]
    num_found, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy_source(Path(folder))
        for mutation in chosen:
            outcome = try_mutation(Path(folder), mutation)
            num_found += outcome.startswith("found")
            print(f"{mutation.file}: {mutation.new}\n    {outcome}", flush=True)
    print(f"{num_found} of {len(chosen)} faults found, {(time.perf_counter() - started) / 60:.0f} minutes")
    assert num_found == len(chosen)


if __name__ == "__main__":
    main()
