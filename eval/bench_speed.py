"""What things cost: each against the straightforward form of the same work, side by side in one run, as JSON.

    python eval/bench_speed.py --out runs/speed.json
    python eval/bench_speed.py --only npnet collection --repeats 5

Both forms run in turns, so that whatever else the machine does falls on both. A ratio is the median of the
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
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # In place of this file's own folder, whose statistics.py would be taken for Python's `statistics`.
    sys.path[0] = str(ROOT)

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from eval.rendering import score_all
from eval.runs import describe_machine, said_plainly
from golden.arms import Conditions, npnet
from golden.compare import CompareRequest, check_whole, load_model, run_comparison
from golden.errors import ArgumentParser, GoldenError, run_command
from golden.files import write_bytes
from golden.judges import JUDGES, load_judges
from golden.noise import redenoise, source_noise
from golden.npnet import NPNet
from golden.pipelines import decode, denoise, encode_anew, encode_prompts, latent_shape
from golden.shapes import check_image, load_test_prompts
from train.make_shard import Settings as Collecting
from train.make_shard import collect_shard, shard_inputs

MAX_REPEATS = 1000


class Bench:
    """The model, the judges and the inputs that the entries work on; the same prompts and seeds for both forms."""

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
        return self.paint(self.source, self.prompts, range(self.batch_size))

    def paint(self, noise: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Pictures of noises (B, C, h, w) under the model's settings."""
        pipeline, spec = self.model.pipeline, self.model.spec
        latents = denoise(
            pipeline,
            noise,
            encode_prompts(pipeline, prompts),
            list(seeds),
            sampler=spec.sampler,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
        )
        return decode(pipeline, latents)


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
    def rows(start: int, stop: int) -> Conditions:
        embeddings = {name: value[start:stop] for name, value in bench.embeddings.items()}
        return Conditions(bench.model.spec, bench.model.pipeline, bench.model.npnet, embeddings, range(start, stop))

    def one_by_one() -> None:
        for index in range(bench.batch_size):
            npnet(bench.source[index : index + 1], rows(index, index + 1))

    whole = rows(0, bench.batch_size)
    what = "golden noise of a batch, against one at a time"
    return Entry(what, "noise", lambda: npnet(bench.source, whole), bench.batch_size, one_by_one, bench.batch_size)


def bench_npnet_share(bench: Bench) -> Entry:
    """What NPNet adds to a picture: the straightforward form is the standard picture itself."""
    whole = Conditions(
        bench.model.spec, bench.model.pipeline, bench.model.npnet, bench.embeddings, range(bench.batch_size)
    )
    paint = bench.num_alone

    def standard() -> None:
        bench.paint(bench.source[:paint], bench.prompts[:paint], range(paint))

    what = "golden noise, against the standard picture that it is added to"
    return Entry(what, "picture", lambda: npnet(bench.source, whole), bench.batch_size, standard, paint)


def bench_pair(bench: Bench) -> Entry:
    """Without the app's previews, of which a slow machine draws more."""
    prompt, source = bench.prompts[0], bench.source[:1]
    embeddings = {name: value[:1] for name, value in bench.embeddings.items()}
    conditions = Conditions(bench.model.spec, bench.model.pipeline, bench.model.npnet, embeddings, [0])

    def together() -> None:
        bench.paint(torch.cat([source, npnet(source, conditions)]), [prompt] * 2, [0, 0])

    def apart() -> None:
        for noise in (source, npnet(source, conditions)):
            bench.paint(noise, [prompt], [0])

    return Entry("standard and golden picture in one batch, against one after the other", "pair", together, 1, apart, 1)


def bench_judges(bench: Bench) -> Entry:
    def one_by_one() -> None:
        for image, prompt in zip(bench.images[: bench.num_alone], bench.prompts, strict=False):
            for name in JUDGES:
                score_all(alone[name], [image], [prompt])

    alone = {name: load_judges([name], device=bench.device) for name in JUDGES}
    what = "six scores of a batch, against one judge and one picture at a time"
    return Entry(
        what,
        "picture",
        lambda: score_all(bench.judges, bench.images, bench.prompts),
        bench.batch_size,
        one_by_one,
        bench.num_alone,
    )


def bench_collection(bench: Bench, bf16: bool = False) -> Entry:
    """A shard as the collector makes it, against each prompt on its own: two whole renders, every picture alone.

    The straightforward form is in full precision, also where the collector is told to use half.
    """
    spec = bench.model.spec
    steps, steps_down = spec.redenoise_schedule
    settings = Collecting(shard_size=bench.shard_size, targets=(f"{steps}x{steps_down}",), judges=tuple(JUDGES))
    settings = replace(settings, bf16=bf16)
    prompts, seeds = shard_inputs(settings, 0, None)

    def one_by_one() -> None:
        for prompt, seed in zip(prompts[: bench.num_alone], seeds, strict=False):
            embeddings = encode_anew(bench.model.pipeline, [prompt])
            source = source_noise([seed], latent_shape(bench.model.pipeline))
            target = redenoise(
                bench.model.pipeline,
                source,
                embeddings,
                guidance_scale=spec.redenoise_guidance_scale,
                num_inference_steps=steps,
                num_steps_down=steps_down,
                solver=spec.redenoise_solver,
            )
            for noise in (source, target):
                (image,) = bench.paint(noise, [prompt], [seed])
                check_image(prompt, image)
                score_all(bench.judges, [image], [prompt])

    what = f"pairs of a shard of {bench.shard_size}, painted and judged by six, against one prompt at a time"
    return Entry(
        what,
        "pair",
        lambda: collect_shard(bench.model, settings, 0, judges=bench.judges),
        bench.shard_size,
        one_by_one,
        bench.num_alone,
    )


def bench_training_step(bench: Bench) -> Entry:
    """A step of the trainer, which keeps prompt embeddings, against one that encodes its prompts anew."""
    assert bench.model.npnet is not None, "the shapes world has an NPNet"
    network = NPNet(bench.model.npnet.config).to(bench.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    source = bench.source.to(bench.device)

    def step(prompt_embeds: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(network(source, prompt_embeds.clone()), 0.9 * source).backward()
        optimizer.step()

    what = f"a step on {bench.batch_size} pairs with embeddings kept, against encoding the prompts in every step"
    kept = bench.embeddings["prompt_embeds"].to(bench.device)
    return Entry(
        what,
        "step",
        lambda: step(kept),
        1,
        lambda: step(encode_anew(bench.model.pipeline, bench.prompts)["prompt_embeds"]),
        1,
    )


FIRST_PAIR = """
from golden.compare import CompareRequest, load_model, run_comparison
run_comparison(CompareRequest("a red circle left of a blue square"), load_model("shapes"))
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
    """From starting Python to a finished comparison, against two pictures by a plain diffusers script."""

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

    what = "from starting Python to the first comparison, against two pictures by a plain diffusers script"
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
    """Seconds of the processor that this program and those that it waited for took, whatever else the machine does."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(entry: Entry, num_repeats: int, clock: Callable[[], float]) -> dict:
    """Seconds per unit of both forms, in turns after a first call that does not count, and their ratio."""
    forms = ((entry.ours, entry.num_ours), (entry.straightforward, entry.num_straightforward))
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(num_repeats + 1):
        for (work, num_units), taken in zip(forms, seconds, strict=True):
            started = clock()
            work()
            if repeat:
                taken.append((clock() - started) / num_units)
    ours, plain = seconds
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
    """Megabytes (2^20 bytes) of weights, and on a GPU the peak while a picture is made without and with NPNet."""

    def weights(part: torch.nn.Module) -> float:
        return sum(parameter.nbytes for parameter in part.parameters()) / 2**20

    pipeline, network = bench.model.pipeline, bench.model.npnet
    assert network is not None, "the shapes world has an NPNet"
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    figures = {"pipeline_mb": sum(map(weights, parts)), "npnet_mb": weights(network)}
    if torch.device(bench.device).type == "cuda":
        for arms in (("standard",), ("npnet",)):
            torch.cuda.reset_peak_memory_stats(bench.device)
            run_comparison(CompareRequest(bench.prompts[0], arms=arms), bench.model)
            figures[f"peak_{arms[0]}_mb"] = torch.cuda.max_memory_allocated(bench.device) / 2**20
    return figures


def describe(name: str, result: dict) -> str:
    """A line for the terminal."""
    spread = f"[{result['ratio_low']:.2f}, {result['ratio_high']:.2f}]"
    seconds = f"{result['seconds']:.4f} s a {result['unit']}, straightforward {result['straightforward_seconds']:.4f} s"
    return f"{name:17} {result['ratio']:6.2f}x {spread:16} {seconds}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*ENTRIES], default=[*ENTRIES], metavar="ENTRY")
    parser.add_argument("--repeats", type=int, default=3, help="of each form, after one that does not count")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=64, help="pairs of the collection entry")
    parser.add_argument("--num-alone", type=int, default=4, help="units of the straightforward forms that go singly")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "speed.json")
    arguments = parser.parse_args(argv)
    check_whole("number of repeats", arguments.repeats, 1, MAX_REPEATS)
    check_whole("number of threads", arguments.threads, 1, 1024)
    check_whole("batch size", arguments.batch_size, 2, 553)
    check_whole("shard size", arguments.shard_size, 1, 4096)
    check_whole("number of units alone", arguments.num_alone, 1, min(arguments.batch_size, arguments.shard_size))
    torch.set_num_threads(arguments.threads)
    with said_plainly(arguments.out.parent):  # now, and not after all the work
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=arguments.out.parent).close()
    on_gpu = torch.device(arguments.device).type == "cuda"
    clock = time.perf_counter if on_gpu else processor_seconds
    bench = Bench(arguments.batch_size, arguments.shard_size, arguments.num_alone, arguments.device)
    results: dict[str, dict] = {}
    for name in tqdm(arguments.only, "entries"):
        results[name] = measure(ENTRIES[name](bench), arguments.repeats, clock)
        tqdm.write(describe(name, results[name]))
    report = {
        "machine": describe_machine(arguments.device),
        "clock": "wall" if on_gpu else "processor seconds",
        "settings": {name: getattr(arguments, name) for name in ("repeats", "batch_size", "shard_size", "num_alone")},
        "memory": measure_memory(bench),
        "results": results,
    }
    with said_plainly(arguments.out.parent):
        write_bytes(arguments.out, json.dumps(report, indent=2).encode())
    return 0


if __name__ == "__main__":
    run_command(main)
