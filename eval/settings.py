"""What a benchmark measures: every field is an option of eval/run_benchmark.py."""

from dataclasses import dataclass
from pathlib import Path

from golden.flags import flag
from golden.judges.names import JUDGE_NAMES
from golden.plan import GPU_HELP

COSTLY = ("ascent", "select_64")
"""Arms that take at least ten times as long as standard at 20 steps."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured; None leaves a choice to the suite, the model or the prompt file."""

    suite: str = flag("main", "which suite to run; without any option they are listed")
    model: str = flag("shapes", "a registered model, a diffusers folder or a hub id, +LORA.safetensors, +CONTROLNET")
    npnet: str | None = flag(None, "NPNet weights: a file or the name of published ones (default: the model's own)")
    verifier: str | None = flag(None, "verifier weights: a file (default: the model's own)", metavar="FILE")
    best_norm: float | None = flag(None, "norm of the arm best_norm, times the source noise's (default: the model's)")
    npnets: tuple[str, ...] = flag((), "further NPNets to compare, for the suite golden-noise", metavar="NAME=FILE")
    prompt_set: tuple[str, ...] | None = flag(
        None,
        "embedded sets of the shapes world, or pick-a-pic, drawbench, hpd, geneval, t2i-compbench or own with "
        "--prompts; several are measured one after the other (default: the model's own, or own with --prompts)",
        metavar="NAME",
    )
    prompts: Path | None = flag(
        None, "a .csv, .jsonl or .txt file of prompts; for t2i-compbench its folder", metavar="FILE"
    )
    limit: int | None = flag(None, "number of prompts, spread evenly over the set (default: all)")
    limit_costly: int | None = flag(
        None, f"the same for the arms {' and '.join(COSTLY)}, which take long (default: as for the others)"
    )
    num_seeds: int | None = flag(None, "noises per prompt, in each range of the suite (default: the suite's)")
    first_seed: int = flag(0, "seed of the first prompt's first noise; no two prompts share a noise")
    arms: tuple[str, ...] | None = flag(
        None, "names of the noises to compare, standard among them (default: the suite's)", metavar="ARM"
    )
    num_inference_steps: int | None = flag(None, "number of denoising steps (default: the model's)")
    guidance_scale: float | None = flag(None, "classifier-free guidance, from 1 (none) (default: the model's)")
    sampler: str | None = flag(None, "name of a sampler (default: the model's)", metavar="NAME")
    checker: str | None = flag(
        None,
        "what decides whether an image is right: shapes, geneval (a detector), or geneval:FILE for the questions of a "
        "file of GenEval or GenEval 2 (default: the model's own)",
        metavar="NAME",
    )
    judges: tuple[str, ...] | None = flag(
        None,
        f"all, none, or any of {', '.join(JUDGE_NAMES)} (default: all in the shapes world, none for other models)",
        metavar="JUDGE",
    )
    judge_weights: str = flag("embedded", "which weights the judges load", choices=("embedded", "published"))
    pairs: Path | None = flag(None, "judged pairs: for suites that train, and to compare judges", metavar="FOLDER")
    num_epochs: int = flag(10, "training epochs of networks that a suite trains")
    real: Path | None = flag(
        None, "folder of real images to measure distances to (default: the shapes world's own)", metavar="FOLDER"
    )
    control: Path | None = flag(None, "control image for a ControlNet, used with every prompt", metavar="IMAGE")
    batch_size: int = flag(32, "images denoised at a time")
    bf16: bool = flag(False, "render in bfloat16 (autocast): twice as fast on some CPUs")
    memory: str = flag("auto", "high, low (for cards of 8 to 12 GB), or auto: high if it fits", metavar="MODE")


@dataclass(frozen=True)
class BenchmarkCommand:
    """Options that do not decide what is measured."""

    device: str = flag("auto", "where the model runs: auto, cpu, cuda, cuda:1, mps")
    keep_images: bool = flag(False, "keep every image as PNG")
    plan: bool = flag(False, "render a batch and estimate time, disk, memory and money of the whole run")
    gpu: str | None = flag(None, GPU_HELP, metavar="NAME")
    out: Path | None = flag(None, "folder of the run (default: runs/SUITE)", metavar="FOLDER")
