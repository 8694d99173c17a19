"""What a whole benchmark will take, from one measured batch. Nothing is written."""

from eval.benchmark import Run
from eval.runs import to_parquet
from golden.errors import InvalidInput
from golden.judges.scoring import watch_memory
from golden.plan import Measured, check_gpu, describe_plan
from golden.provenance import machine
from golden.timing import measure, synchroniser

MARGIN = 2.5  # the parts, the merged rows and their CSV, and thumbnails in the report


def plan_benchmark(run: Run, device: str, gpu: str | None = None) -> list[str]:
    """Lines with the time, disk, memory and money that a benchmark will take, from one measured batch.

    Raises: InvalidInput as `describe_plan`, and for suites that train networks first.
    """
    if run.plan.networks:
        raise InvalidInput(f"The suite {run.suite.name!r} trains networks first: plan those with golden train --plan.")
    name = machine(device)["device"]
    check_gpu(gpu, name)
    first = max(run.batches, key=lambda batch: len(batch.variants))
    made: list[bytes] = []

    def measure_batch() -> None:
        made.append(to_parquet(run.renderer.measure_batch(first.variants, first.units)[0]))

    with watch_memory(device) as memory:
        (seconds,) = measure(measure_batch, 1, synchronise=synchroniser(device))
    num_images = len(first.units) * len(first.variants)
    total = sum(len(batch.units) * len(batch.variants) for batch in run.batches)
    measured = Measured("images", seconds / num_images, name, memory.bytes, MARGIN * len(made[-1]) / num_images)
    return describe_plan(measured, total, gpu)
