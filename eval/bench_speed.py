"""Speed of each kind of work against its straightforward form, side by side in one run, as JSON.

    python eval/bench_speed.py --out runs/speed.json
    python eval/bench_speed.py --only npnet collection --repeats 5

The two forms take turns, so that whatever else the machine does affects both. A ratio is the median of the
straightforward form's seconds over the median of ours; above 1 ours is faster.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from eval.runs import explain_write_errors
from golden.arms import Conditions, npnet
from golden.checks import check_name, check_whole
from golden.compare import CompareRequest, run_comparison
from golden.errors import ArgumentParser, GoldenError, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.judges import ALL_JUDGES, load_judges
from golden.model import load_model, pick_device
from golden.noise import redenoise, source_noise
from golden.npnet import NPNet
from golden.pipelines import encode_anew, encode_prompts, latent_shape, sample_images
from golden.provenance import describe_run
from golden.shapes import check_image, load_test_prompts
from golden.timing import measure_in_turns, peak_memory, synchroniser
from train.make_shard import collect_shard, shard_inputs
from train.settings import CollectionSettings

ROOT = Path(__file__).resolve().parents[1]
MAX_REPEATS = 1000


class Bench:
    """The model, the judges and the inputs that the entries use; the same prompts and seeds for both forms."""

    def __init__(self, batch_size: int = 32, shard_size: int = 64, num_alone: int = 4, device: str = "cpu") -> None:
        self.batch_size, self.shard_size, self.num_alone, self.device = batch_size, shard_size, num_alone, device
        self.model = load_model("shapes", device=device)
        self.prompts = [row["prompt"] for row in load_test_prompts()[:: 553 // batch_size][:batch_size]]
        self.source = source_noise(range(batch_size), latent_shape(self.model.pipeline))
        self.embeddings = encode_prompts(self.model.pipeline, self.prompts)

    @cached_property
    def judges(self):
        return load_judges(device=self.device)

    @cached_property
    def images(self) -> list[Image.Image]:
        return self.sample(self.source, self.prompts, range(self.batch_size))

    def sample(self, noise: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Images from noise (B, C, h, w) under the model's own settings."""
        embeddings = encode_prompts(self.model.pipeline, prompts)
        return sample_images(self.model, noise, embeddings, list(seeds), self.model.spec.sampling)

    def conditions(self, start: int, stop: int) -> Conditions:
        """What an arm sees with some of the rows."""
        embeddings = {name: value[start:stop] for name, value in self.embeddings.items()}
        return Conditions(self.model, self.model.npnet, embeddings, range(start, stop))


@dataclass(frozen=True)
class Entry:
    """One kind of work in two forms, and how many units each of them does."""

    what: str
    unit: str
    ours: Callable[[], object]
    num_ours: int
    straightforward: Callable[[], object]
    num_straightforward: int


# --- entries ----------------------------------------------------------------------------------------------------------


def bench_npnet(bench: Bench) -> Entry:
    def one_by_one() -> None:
        for index in range(bench.batch_size):
            npnet(bench.source[index : index + 1], bench.conditions(index, index + 1))

    whole = bench.conditions(0, bench.batch_size)
    what = "golden noise of a batch, against one at a time"
    return Entry(what, "noise", lambda: npnet(bench.source, whole), bench.batch_size, one_by_one, bench.batch_size)


def bench_npnet_share(bench: Bench) -> Entry:
    """What NPNet adds to an image: the straightforward form is the standard image itself."""
    whole, num = bench.conditions(0, bench.batch_size), bench.num_alone

    def standard() -> None:
        bench.sample(bench.source[:num], bench.prompts[:num], range(num))

    what = "golden noise, against the standard image that it is added to"
    return Entry(what, "image", lambda: npnet(bench.source, whole), bench.batch_size, standard, num)


def bench_pair(bench: Bench) -> Entry:
    """Without the app's previews, of which a slow machine shows more."""
    prompt, source, conditions = bench.prompts[0], bench.source[:1], bench.conditions(0, 1)

    def together() -> None:
        bench.sample(torch.cat([source, npnet(source, conditions)]), [prompt] * 2, [0, 0])

    def apart() -> None:
        for noise in (source, npnet(source, conditions)):
            bench.sample(noise, [prompt], [0])

    return Entry("standard and golden image in one batch, against one after the other", "pair", together, 1, apart, 1)


def bench_judges(bench: Bench) -> Entry:
    def one_by_one() -> None:
        for image, prompt in zip(bench.images[: bench.num_alone], bench.prompts, strict=False):
            for judge in alone:
                judge.score_all([image], [prompt])

    def in_a_batch() -> None:
        bench.judges.score_all(bench.images, bench.prompts)

    alone = [load_judges([name], device=bench.device) for name in ALL_JUDGES]
    what = "six scores of a batch, against one judge and one image at a time"
    return Entry(what, "image", in_a_batch, bench.batch_size, one_by_one, bench.num_alone)


def bench_collection(bench: Bench, bf16: bool = False) -> Entry:
    """A shard as the collector makes it, against each prompt by itself: two whole renders, every image alone.

    The straightforward form is in full precision, even if the collector uses half.
    """
    spec = bench.model.spec.redenoise
    target = f"{spec.num_inference_steps}x{spec.num_steps_down}"
    settings = CollectionSettings(shard_size=bench.shard_size, targets=(target,), judges=ALL_JUDGES, bf16=bf16)
    prompts, seeds = shard_inputs(settings, 0, None)

    def one_by_one() -> None:
        for prompt, seed in zip(prompts[: bench.num_alone], seeds, strict=False):
            collect_one(bench, prompt, seed)

    def in_a_batch() -> None:
        collect_shard(bench.model, settings, 0, judges=bench.judges)

    what = f"pairs of a shard of {bench.shard_size}, rendered and scored by six judges, against one prompt at a time"
    return Entry(what, "pair", in_a_batch, bench.shard_size, one_by_one, bench.num_alone)


def collect_one(bench: Bench, prompt: str, seed: int) -> None:
    """One pair in the straightforward way."""
    pipeline, spec = bench.model.pipeline, bench.model.spec.redenoise
    embeddings = encode_anew(pipeline, [prompt])
    source = source_noise([seed], latent_shape(pipeline))
    target = redenoise(pipeline, source, embeddings, replace(spec, norm=1.0))
    for noise in (source, target):
        (image,) = bench.sample(noise, [prompt], [seed])
        check_image(prompt, image)
        bench.judges.score_all([image], [prompt])


def bench_training_step(bench: Bench) -> Entry:
    """A step of the trainer, which caches prompt embeddings, against one that encodes its prompts anew."""
    assert bench.model.npnet is not None, "the shapes world has an NPNet"
    network = NPNet(bench.model.npnet.config).to(bench.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    source = bench.source.to(bench.device)

    def step(prompt_embeds: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(network(source, prompt_embeds.clone()), 0.9 * source).backward()
        optimizer.step()

    def encode_and_step() -> None:
        step(encode_anew(bench.model.pipeline, bench.prompts)["prompt_embeds"])

    what = f"a step on {bench.batch_size} pairs with cached embeddings, against encoding the prompts in every step"
    kept = bench.embeddings["prompt_embeds"].to(bench.device)
    return Entry(what, "step", lambda: step(kept), 1, encode_and_step, 1)


FIRST_PAIR = """
from golden.compare import CompareRequest, run_comparison
from golden.model import load_model
run_comparison(CompareRequest(prompt="a red circle left of a blue square"), load_model("shapes", device="cpu"))
"""
PLAIN_PAIR = """
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
pipe = StableDiffusionXLPipeline.from_pretrained("assets/shapes/model", dtype=torch.float32, add_watermarker=False)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
for seed in (0, 1):
    generator = torch.Generator().manual_seed(seed)
    pipe("a red circle left of a blue square", num_inference_steps=20, guidance_scale=5.5, generator=generator)
"""


def bench_first_comparison(bench: Bench) -> Entry:
    """From starting Python to a finished comparison, against two images by a plain diffusers script."""

    def run(script: str) -> None:
        threads = str(torch.get_num_threads())
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise GoldenError(f"The first comparison failed: {(ran.stderr.splitlines() or ['no message'])[-1]}")

    what = "from starting Python to the first comparison, against two images by a plain diffusers script"
    return Entry(what, "start", lambda: run(FIRST_PAIR), 1, lambda: run(PLAIN_PAIR), 1)


ENTRIES: dict[str, Callable[[Bench], Entry]] = {
    "npnet": bench_npnet,
    "npnet_share": bench_npnet_share,
    "pair": bench_pair,
    "judges": bench_judges,
    "collection": bench_collection,
    "collection_bf16": partial(bench_collection, bf16=True),
    "training_step": bench_training_step,
    "first_comparison": bench_first_comparison,
}


# --- measuring --------------------------------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Processor seconds of this program and of the finished ones that it started, whatever else the machine does."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure_entry(
    entry: Entry, num_repeats: int, clock: Callable[[], float], synchronise: Callable[[], Any] | None = None
) -> dict:
    """Seconds per unit of both forms, in turns after a first call that is not counted, and their ratio."""
    seconds = measure_in_turns([entry.ours, entry.straightforward], num_repeats, 1, synchronise, clock)
    ours = [value / entry.num_ours for value in seconds[0]]
    plain = [value / entry.num_straightforward for value in seconds[1]]
    return {
        "what": entry.what,
        "unit": entry.unit,
        "ratio": float(np.median(plain) / np.median(ours)),
        "ratio_low": min(plain) / max(ours),
        "ratio_high": max(plain) / min(ours),
        "seconds": float(np.median(ours)),
        "straightforward_seconds": float(np.median(plain)),
        "all_seconds": ours,
        "all_straightforward_seconds": plain,
    }


def measure_memory(bench: Bench) -> dict:
    """Megabytes (2^20 bytes) of weights, and on a GPU the peak while an image is made without and with NPNet."""

    def weights(part: torch.nn.Module) -> float:
        return sum(parameter.nbytes for parameter in part.parameters()) / 2**20

    pipeline, network = bench.model.pipeline, bench.model.npnet
    assert network is not None, "the shapes world has an NPNet"
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    figures = {"pipeline_mb": sum(map(weights, parts)), "npnet_mb": weights(network)}
    for arm in ("standard", "npnet") if torch.device(bench.device).type == "cuda" else ():
        with peak_memory(bench.device) as peak:
            run_comparison(CompareRequest(prompt=bench.prompts[0], arms=(arm,)), bench.model)
        figures[f"peak_{arm}_mb"] = (peak.bytes or 0) / 2**20
    return figures


def describe(name: str, result: dict) -> str:
    """A line for the terminal."""
    spread = f"[{result['ratio_low']:.2f}, {result['ratio_high']:.2f}]"
    seconds = (
        f"{result['seconds']:.4f} s per {result['unit']}, straightforward {result['straightforward_seconds']:.4f} s"
    )
    return f"{name:17} {result['ratio']:6.2f}x {spread:16} {seconds}"


@dataclass(frozen=True)
class SpeedSettings:
    """What is measured, and how often."""

    only: tuple[str, ...] = flag(tuple(ENTRIES), "kinds of work to measure", metavar="ENTRY")
    repeats: int = flag(3, "counted calls of each form, after one that is not counted")
    batch_size: int = flag(32, "rows of a batch")
    shard_size: int = flag(64, "pairs of the collection entries")
    num_alone: int = flag(4, "units that the straightforward forms do one by one")
    threads: int = flag(1, "threads of the CPU")
    device: str = flag("auto", "where the model runs: auto, cpu, cuda, cuda:1")
    out: Path = flag(ROOT / "runs" / "speed.json", "JSON file to write")

    def check(self) -> None:
        """Raises: InvalidInput for the first value that is not allowed."""
        for name in self.only:
            check_name("entry", name, ENTRIES)
        check_whole("number of repeats", self.repeats, 1, MAX_REPEATS)
        check_whole("number of threads", self.threads, 1, 1024)
        check_whole("batch size", self.batch_size, 2, 553)
        check_whole("shard size", self.shard_size, 1, 4096)
        check_whole("number of units alone", self.num_alone, 1, min(self.batch_size, self.shard_size))


def run(settings: SpeedSettings) -> dict:
    """Every figure that the settings ask for, ready for JSON."""
    torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    # Processor seconds ignore other programs, but do not cover a GPU's work.
    clock = processor_seconds if torch.device(device).type == "cpu" else time.perf_counter
    bench = Bench(settings.batch_size, settings.shard_size, settings.num_alone, device)
    results: dict[str, dict] = {}
    for name in tqdm(settings.only, "entries"):
        results[name] = measure_entry(ENTRIES[name](bench), settings.repeats, clock, synchroniser(device))
        tqdm.write(describe(name, results[name]))
    return {
        "machine": describe_run(device),
        "clock": "processor seconds" if clock is processor_seconds else "wall",
        "settings": asdict(replace(settings, device=device, out=str(settings.out))),  # type: ignore[arg-type]
        "memory": measure_memory(bench),
        "results": results,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, SpeedSettings)
    settings = read_flags(SpeedSettings, parser.parse_args(argv))
    settings.check()
    with explain_write_errors(settings.out.parent):  # before all the work, not after
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=settings.out.parent).close()
    report = run(settings)
    with explain_write_errors(settings.out.parent):
        write_bytes(settings.out, json.dumps(report, indent=2).encode())
    return 0


if __name__ == "__main__":
    run_command(main)
