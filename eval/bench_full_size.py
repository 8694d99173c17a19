"""The cost of golden noise at full size: seconds, memory and the routes of the SVD, with random weights.

python eval/bench_full_size.py --model sdxl --device cuda

Nothing is downloaded, see full_size_models.py. Prompt embeddings are random, too; text encoders take up their memory,
but are not run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eval.full_size_models import BUILDERS, make_embeddings, make_npnet
from eval.svd_routes import NUM_CALLS, WARM_UPS, summarise, time_routes
from eval.tables import Table, format_markdown
from golden.checks import check_whole
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.model import pick_device
from golden.models import MODELS
from golden.noise import source_noise
from golden.npnet import NPNet
from golden.pipelines import Embeddings, decode, denoise, latent_shape, spare_memory
from golden.provenance import describe_run
from golden.sizes import predict_golden
from golden.timing import measure, measure_in_turns, peak_memory, synchroniser


@dataclass(frozen=True)
class FullSizeSettings:
    """What is measured, and where."""

    model: str = flag("sdxl", "model whose sizes are used", choices=tuple(BUILDERS))
    num_inference_steps: int = flag(50, "number of denoising steps")
    size: int = flag(1024, "height and width of the images in pixels")
    device: str = flag("auto", "where the model runs: auto, cpu, cuda, cuda:1")
    repeats: int = flag(3, "pairs in each mode")
    tiny: bool = flag(False, "tiny models of the same classes, for a trial")
    out: Path = flag(Path("runs/full_size.json"), "JSON file to write")

    def check(self) -> "FullSizeSettings":
        """The settings with the device by name. Raises: InvalidInput for the first value that is not allowed."""
        check_whole("number of steps", self.num_inference_steps, 1, 200)
        check_whole("number of repeats", self.repeats, 1, 1000)
        check_whole("size", self.size, 64, 4096)
        if self.size % 16:
            raise InvalidInput(f"The size must be a multiple of 16 pixels, got {self.size}.")
        return replace(self, device=pick_device(self.device))


# --- measuring --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def time_npnet(npnet: NPNet, shape: tuple[int, int, int], embeddings: Embeddings) -> dict[str, float]:
    """Seconds of golden noise for one image, from source noise on the CPU to golden noise on the CPU."""
    device = next(npnet.parameters()).device
    source, prompt_embeds = source_noise([0], shape), embeddings["prompt_embeds"][:1].to(device)

    def predict() -> None:
        predict_golden(npnet, source.to(device), prompt_embeds).cpu()

    return summarise(measure(predict, NUM_CALLS, WARM_UPS, synchroniser(device)))


def time_pairs(pipeline: Any, embeddings: Embeddings, settings: FullSizeSettings, batched: bool) -> dict[str, Any]:
    """Seconds and peak memory of a pair of images, its denoising and its decoding, after a warm-up of two steps.

    The pair is denoised in one batch, or one image after the other; it is decoded in one batch.
    """
    noise = source_noise([0, 0], latent_shape(pipeline, settings.size, settings.size))
    given = {
        name: value.to(pipeline._execution_device, pipeline.dtype if value.is_floating_point() else None)
        for name, value in embeddings.items()
    }
    parts = [slice(0, 2)] if batched else [slice(0, 1), slice(1, 2)]
    latents: list[Tensor] = []

    def denoise_pair(num_steps: int) -> None:
        sampling = replace(MODELS[settings.model].sampling, sampler="ddim", num_inference_steps=num_steps)
        latents[:] = [
            denoise(pipeline, noise[rows], {name: value[rows] for name, value in given.items()}, [0, 0][rows], sampling)
            for rows in parts
        ]

    def decode_pair() -> None:
        decode(pipeline, torch.cat(latents))

    denoise_pair(min(2, settings.num_inference_steps))
    decode_pair()
    steps = [lambda: denoise_pair(settings.num_inference_steps), decode_pair]
    with peak_memory(settings.device) as peak:
        denoising, decoding = measure_in_turns(steps, settings.repeats, 0, synchroniser(settings.device))
    return {
        "pair": summarise([sum(each) for each in zip(denoising, decoding, strict=True)]),
        "denoising": summarise(denoising),
        "decoding": summarise(decoding),
        "peak_bytes": peak.bytes,
    }


def run(settings: FullSizeSettings) -> dict[str, Any]:
    """Every figure of one model on one device, ready for JSON."""
    device = torch.device(settings.device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    with tqdm(total=6, unit="stage", disable=None, leave=False) as bar:

        def begin(stage: str) -> None:
            bar.set_description(stage)
            bar.update()

        begin("building")
        # Tiny: the size asked for becomes the native one, so that NPNet needs no windows.
        sample_size = settings.size // 8 if settings.tiny else 128
        pipeline = BUILDERS[settings.model](dtype, settings.tiny, sample_size)
        pipeline.set_progress_bar_config(disable=True)
        embeddings, npnet = make_embeddings(pipeline), make_npnet(pipeline, settings.tiny)
        shape = latent_shape(pipeline, settings.size, settings.size)
        begin("NPNet")
        on_cpu = time_npnet(npnet, shape, embeddings)
        with peak_memory(device) as npnet_peak:
            on_device = time_npnet(npnet.to(device), shape, embeddings)
        begin("routes of the SVD")
        routes = time_routes(npnet.config, device)
        begin("pairs, batched")
        pipeline.to(device)
        pairs = {"high, batched": time_pairs(pipeline, embeddings, settings, batched=True)}
        begin("pairs, one after the other")
        pairs["high, one after the other"] = time_pairs(pipeline, embeddings, settings, batched=False)
        begin("pairs, memory low")
        npnet.to("cpu")
        spare_memory(pipeline, settings.device)
        pairs["low"] = time_pairs(pipeline, embeddings, settings, batched=True)
    image = pairs["high, batched"]["pair"]["median"] / 2
    return {
        "settings": asdict(settings) | {"out": str(settings.out)},
        "machine": describe_run(device)
        | {"cpu_threads": torch.get_num_threads(), "dtype": str(dtype).removeprefix("torch.")},
        "pairs": pairs,
        "npnet": {"seconds": on_device, "on_cpu": on_cpu, "share": on_device["median"] / image}
        | {"peak_bytes": npnet_peak.bytes},
        "svd": routes,
    }


# --- the report -------------------------------------------------------------------------------------------------------


def format_report(report: dict[str, Any]) -> str:
    """A report in Markdown."""
    settings, machine, npnet = report["settings"], report["machine"], report["npnet"]
    size = settings["size"]
    heading = (
        f"{settings['model']}{' (tiny)' if settings['tiny'] else ''}, random weights, {machine['dtype']}, "
        f"{settings['num_inference_steps']} steps, {size} x {size}, {machine['device']}, "
        f"torch {machine['versions']['torch']}"
    )
    cost = (
        f"NPNet: {show_milliseconds(npnet['seconds'])} per image ({100 * npnet['share']:.2f} % of it), "
        f"{show_milliseconds(npnet['on_cpu'])} on the CPU, peak memory {show_bytes(npnet['peak_bytes'])}."
    )
    tables = (pairs_table(report["pairs"]), routes_table(report["svd"]))
    return "\n\n".join([heading, format_markdown(tables[0]), cost, format_markdown(tables[1])])


def pairs_table(pairs: dict[str, Any]) -> Table:
    """Seconds and memory of a pair in each memory mode."""
    body = []
    for name, pair in pairs.items():
        spread = f"{pair['pair']['median']:.2f} [{pair['pair']['fastest']:.2f}, {pair['pair']['slowest']:.2f}]"
        parts = [f"{pair[part]['median']:.2f}" for part in ("denoising", "decoding")]
        body.append([name, spread, *parts, show_bytes(pair["peak_bytes"])])
    return Table("Pairs", ["memory mode", "seconds per pair", "denoising", "decoding", "peak memory"], body)


def routes_table(routes: Sequence[dict[str, Any]]) -> Table:
    """Time and errors of each route of the SVD, or why it failed."""
    body = []
    for row in routes:
        cells = [row["failed"][:100], "", "", ""] if "failed" in row else [show_milliseconds(row["seconds"])]
        if "failed" not in row:
            cells += [f"{row[name]:.1e}" for name in ("value_error", "product_error", "vector_error")]
        body.append([row["route"], str(row["matrices"]), *cells])
    header = ["route", "matrices", "time", "error of values", "error of product", "error of U's orthogonality"]
    return Table("Routes of the SVD", header, body)


def show_milliseconds(seconds: dict[str, float]) -> str:
    middle, low, high = (1000 * seconds[name] for name in ("median", "fastest", "slowest"))
    return f"{middle:.1f} ms [{low:.1f}, {high:.1f}]"


def show_bytes(num_bytes: int | None) -> str:
    return "not measured" if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"


def parse(argv: Sequence[str] | None = None) -> FullSizeSettings:
    """The settings of a command line. Raises: InvalidInput for a value that is not allowed."""
    parser = ArgumentParser(prog="bench_full_size.py", description=(__doc__ or "").splitlines()[0])
    add_flags(parser, FullSizeSettings)
    return read_flags(FullSizeSettings, parser.parse_args(argv)).check()


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(argv)
    report = run(settings)
    write_bytes(settings.out, (json.dumps(report, indent=2) + "\n").encode())
    print(format_report(report))


if __name__ == "__main__":
    run_command(main)
