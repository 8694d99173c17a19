"""Measure arms against each other: prompts x seeds x arms to rows, rows to tables with confidence intervals.

    python eval/run_benchmark.py                            # list the suites
    python eval/run_benchmark.py --suite main --num-seeds 4 --out runs/main
    python eval/run_benchmark.py --suite golden-noise --limit-costly 100 --npnets pairs=runs/npnet/npnet.safetensors
    torchrun --standalone --nproc-per-node 2 eval/run_benchmark.py --model sdxl --judges all --out runs/sdxl

Rows are written batch by batch. A run that is killed and started again with the same settings resumes, and ends with
the rows of an uninterrupted one.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.settings import BenchmarkCommand, BenchmarkSettings
from golden.errors import ArgumentParser, GoldenError, run_command
from golden.flags import add_flags, read_flags

if TYPE_CHECKING:  # the help of a command does without torch and diffusers
    from eval.benchmark import Run
    from eval.results import Results

RUNS = Path("runs")


def make_parser(prog: str | None = None) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    add_flags(parser, BenchmarkSettings)
    add_flags(parser, BenchmarkCommand)
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser(prog).parse_args(argv)
    if not argv:
        print("\n".join(list_suites()))
        return 0
    settings, command = read_flags(BenchmarkSettings, arguments), read_flags(BenchmarkCommand, arguments)
    return measure_and_report(settings, command)


def measure_and_report(settings: BenchmarkSettings, command: BenchmarkCommand) -> int:
    """Run a benchmark and write its report; several prompt sets are runs of their own, with a joint report above."""
    from eval.choices import find_spec, list_sets
    from eval.prompt_sets import load_prompt_set
    from eval.report import write_joint_report
    from train.workers import device_of_worker

    device, out = device_of_worker(command.device), command.out or RUNS / settings.suite
    sets = list_sets(settings)
    if len(sets) == 1:
        measure_set(settings, out, device, command)
        return 0
    for name in sets:  # all are looked at before the first image
        load_prompt_set(name, settings.prompts, find_spec(settings))
    finished = []
    for name in sets:
        own = replace(settings, prompt_set=(name,))
        finished.append(measure_set(own, out / name, device, command))
    if results := [each for each in finished if each]:
        write_joint_report(results, out)
        print(f"\nreport on all sets: {out / 'report.html'}")
    return 0


def measure_set(settings: BenchmarkSettings, folder: Path, device: str, command: BenchmarkCommand) -> "Results | None":
    """Measure one prompt set and write its report; None in all workers but the first, and if it is only planned."""
    from eval.benchmark import prepare, run_benchmark
    from eval.report import write_report
    from golden.provenance import find_worker

    run = prepare(settings, device)
    if find_worker()[0] == 0:
        print("\n".join(describe(run)))
    if command.plan:
        from eval.benchmark_plan import plan_benchmark

        print("\n".join(plan_benchmark(run, device, command.gpu)))
        return None
    results = run_benchmark(run, folder, device, keep_images=command.keep_images)
    if results:
        text = write_report(results, folder)
        print(f"\n{text}\n\nrows: {folder / 'rows.parquet'}\nreport: {folder / 'report.html'}")
    return results


def list_suites() -> list[str]:
    """A line per suite: name, place in the paper, what it shows, and about how long its images take."""
    from eval.prompt_sets import default_sets, load_prompt_set
    from eval.suites import SUITES, SuiteSettings, expected_seconds
    from golden.models import MODELS

    spec = MODELS["shapes"]
    num_prompts = len(load_prompt_set(default_sets(spec)[0], None, spec).prompts)
    lines = [f"{'suite':15} {'in the paper':25} {'minutes':>8}  what it shows"]
    for suite in SUITES.values():
        try:
            plan = suite.make_plan(spec, SuiteSettings(num_pairs=600))
            num_seeds = suite.num_seeds * len(suite.seed_starts)
            minutes = f"{expected_seconds(plan, num_prompts, num_seeds) / 60:.0f}"
        except GoldenError:
            minutes = "-"
        trains = ", and trains (--pairs)" if suite.trains else ""
        lines.append(f"{suite.name:15} {suite.source:25} {minutes:>8}  {suite.title}{trains}")
    return [
        *lines,
        f"Minutes: all {num_prompts} prompts of the shapes world on one CPU core with --bf16; see --limit.",
        "Run one with --suite NAME; see --help.",
    ]


def describe(run: "Run") -> list[str]:
    """What is about to be measured, in a line or two."""
    from eval.prompt_sets import describe_dropped

    num_prompts, num_seeds, num_variants = len(run.prompts.prompts), len(run.seeds), len(run.variants)
    first = run.variants[0]
    num_images = sum(len(batch.units) * len(batch.variants) for batch in run.batches)
    size = f"{num_prompts} prompts x {num_seeds} seeds x {num_variants} variants = {num_images} images"
    sampling = f"{first.sampler} {first.num_inference_steps} steps, guidance {first.guidance_scale:g}"
    line = f"{run.suite.name} on {run.spec.name}: {size}, {sampling}; {describe_dropped(run.prompts.dropped)}"
    return [line, *filter(None, [run.plan.left_out])]


if __name__ == "__main__":
    run_command(main)
