"""The settings that decide a data set of noise pairs or a training: each field is an option on the command line.

Nothing heavy is imported here, so that `--help` is quick. Names are checked against their registries after parsing.
"""

from dataclasses import dataclass
from pathlib import Path

from golden.errors import InvalidInput
from golden.flags import flag
from golden.judges.names import JUDGE_NAMES

JUDGE_HELP = ", ".join(JUDGE_NAMES)


@dataclass(frozen=True)
class CollectionSettings:
    """What decides the bytes of a data set. `num_threads` does so on a CPU: it changes the order of sums."""

    model: str = flag("shapes", "a registered model, a diffusers folder or a hub id")
    npnet: str | None = flag(None, "NPNet weights for npnet targets (default: the model's own)")
    verifier: str | None = flag(None, "verifier weights for ascent targets: a file (default: the model's own)")
    seed: int = flag(0, "decides prompts and source noises")
    shard_size: int = flag(64, "source noises per batch and per shard")
    num_inference_steps: int = flag(20, "sampling steps of the images that are judged")
    targets: tuple[str, ...] = flag(
        (),
        "how target noise is made: source, npnet[*STRENGTH], gradient, ascent[STEPS] or STEPSxDOWN[@GUIDANCE], each "
        "with or without a :NORM (default: the model's own way)",
        metavar="TARGET",
    )
    redenoise_guidance_scale: float | None = flag(None, "guidance of the steps down (default: the model's own)")
    inversion_guidance_scale: float = flag(1.0, "guidance of the inversion steps back")
    redenoise_solver: str | None = flag(None, "ddim or dpm (default: the model's own)")
    evaluate_at: str = flag("t", "timestep at which an inversion step calls the model", choices=("t", "t-k"))
    judged: bool = flag(True, "sample and judge images; without, only noises are collected")
    judges: tuple[str, ...] = flag((), f"record their scores: all, or any of {JUDGE_HELP}", metavar="JUDGE")
    judge_weights: str = flag("embedded", "which weights the judges load", choices=("embedded", "published"))
    filter: str | None = flag(
        None, "which pairs are marked as kept (default: what training keeps: right, else HPSv2, else vote)"
    )
    margin: float = flag(0.0, "by how much a judge must prefer the target, in the judge's units")
    bf16: bool = flag(False, "sample in bfloat16 (autocast)")
    num_threads: int = flag(1, "threads per worker on a CPU")


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the weights, beside data and architecture. `start` is the NPNet to fine-tune.

    Source: the paper trains with AdamW, 1e-4, batch 64, 30 epochs, on pairs that HPSv2 prefers by more than 0.
    """

    objective: str = flag("pairs", "what is learnt: a name of OBJECTIVES in train/objectives.py")
    filter: str | None = flag(
        None,
        "which pairs are trained on: all, improved, not_worse, right, best, judges joined by +, or vote "
        "(default: right, else HPSv2, else vote)",
    )
    margin: float = flag(0.0, "by how much a judge must prefer the target, in the judge's units")
    targets: tuple[str, ...] = flag((), "train on these kinds of target only (default: all)")
    kinds: tuple[str, ...] = flag(
        (), "categories of caption whose target is learnt; for others only its norm (default: all)"
    )
    start: str | None = flag(None, "NPNet to fine-tune: a file or the name of a published one", spelling="--from")
    num_epochs: int = flag(30, "passes over the training data")
    batch_size: int = flag(64, "rows per step, over all workers")
    micro_batch_size: int | None = flag(None, "rows per forward pass of a worker (default: its whole share)")
    learning_rate: float = flag(1e-3, "peak learning rate of AdamW")
    schedule: str = flag(
        "cosine",
        "schedule of the learning rate",
        choices=("cosine", "constant", "constant_with_warmup", "linear", "polynomial", "cosine_with_restarts"),
    )
    weight_decay: float = flag(0.0, "weight decay of AdamW")
    ema_decay: float = flag(0.998, "decay of the exponential moving average that is saved")
    one_prompt_per_batch: bool = flag(False, "ablation: condition a batch on its first prompt")
    rewards: tuple[str, ...] = flag(
        ("verifier",), "objective reward: verifier or judges, each with or without a :WEIGHT", metavar="NAME"
    )
    verifier: str | None = flag(None, "objective reward: verifier weights, a file (default: the model's own)")
    reward_judges: str = flag("embedded", "objective reward: weights of the judges", choices=("embedded", "published"))
    reward_num_steps: int | None = flag(
        None, "objective reward: guided steps that are taken from the noise (default: the model's own)"
    )
    reward_num_inference_steps: int | None = flag(
        None, "objective reward: the schedule of which they are the first (default: the model's own)"
    )
    reward_rows: int = flag(8192, "objective reward: noises per epoch, each drawn anew")
    change_penalty: float = flag(0.15, "objective reward: weight of the mean squared change of the noise")
    bf16: bool = flag(False, "bfloat16 in all branches but the singular one")
    seed: int = flag(0, "decides initial weights, order and dropped paths")


@dataclass(frozen=True)
class VerifierOptions:
    """What decides a verifier, beside where it is written."""

    pairs: Path = flag(help="folder made by train/collect_pairs.py", positional=True)
    out: Path = flag(Path("runs/verifier"), "folder to write to")
    label: str = flag("right", "what is predicted: right (the checker's verdict) or a recorded judge")
    start: Path | None = flag(None, "verifier to fine-tune: a file", spelling="--from")
    num_scenes: int = flag(8000, "scenes with a known verdict to add, if the model's checker can draw them")
    scene_share: float = flag(0.33, "share of training steps on those scenes")
    num_steps: int = flag(3000, "training steps")
    batch_size: int = flag(64, "latents per step")
    learning_rate: float = flag(5e-4, "peak learning rate of AdamW")
    weight_decay: float = flag(0.02, "weight decay of AdamW")
    checkpoint_every: int = flag(250, "steps between validations and checkpoints")
    bf16: bool = flag(False, "compute in bfloat16 (autocast)")
    num_threads: int = flag(1, "threads on a CPU")
    seed: int = flag(0, "decides the order of the data and the scenes")
    device: str = flag("auto", "where it runs: auto, cpu, cuda, mps")


@dataclass(frozen=True)
class Architecture:
    """The layout of an NPNet that is trained from scratch; see NPNetConfig. Switching a branch off is an ablation."""

    attention: bool = flag(True, "self-attention in the singular branch")
    singular: bool = flag(True, "the branch on singular values")
    residual: bool = flag(True, "the Swin branch")
    text: bool = flag(True, "the branch on prompt embeddings")
    text_map_size: int = flag(8, "side of the text branch's map; 1 as published")
    text_queries: int | None = flag(
        None, "queries that pool the prompt's tokens; 0 as published. Without it 0, and 8 for prompts of over 77 tokens"
    )
    side_by_side: bool = flag(True, "Swin sees noise and text as separate channels; their sum as published")
    image_channels: int = flag(16, "channels of Swin's input; 3 as published")
    layout_rank: int | None = flag(
        None,
        "rank of the layout branch; 0 (no such branch) as published. Without it 256, and 0 where it would be large",
    )
    swin_width: int = flag(48, "small Swin (latents below 64): width, a multiple of 16")
    swin_depth: int = flag(2, "small Swin: number of layers")
    drop_path_rate: float = flag(0.1, "small Swin: share of paths dropped in training")
    denoiser: bool = flag(False, "a copy of the model's own denoising network, which starts with its weights")
    change_rms: float | None = flag(
        None,
        "how far golden noise shall lie from its source noise, root mean square over the validation data: after "
        "training, what was learnt is scaled to it; with --from, the scale of that file is dropped (default: it is "
        "left as it is)",
    )
    keep_norm: bool = flag(True, "scale golden noise to the norm of its source noise; free as published")

    def __post_init__(self) -> None:
        if self.change_rms is not None and not 0 < self.change_rms <= 2:
            raise InvalidInput(f"--change-rms must be above 0 and at most 2, got {self.change_rms:g}.")


def check_positive(**values: int | None) -> None:
    """Raises: InvalidInput for a count below 1, by its flag; None is allowed."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise InvalidInput(f"--{name.replace('_', '-')} must be 1 or more, got {value}.")
