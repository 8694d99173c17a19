"""Train an NPNet on collected pairs: source noise and prompt in, target noise out.

    python train/train_npnet.py runs/pairs --out runs/npnet
    python train/train_npnet.py runs/pairs --out runs/npnet --filter improved --num-epochs 60 --sample-every 500
    python train/train_npnet.py runs/pairs --out runs/tuned --from sdxl --learning-rate 1e-5    # a published NPNet
    torchrun --standalone --nproc-per-node 2 train/train_npnet.py runs/pairs --out runs/npnet

Writes npnet.safetensors (the exponential moving average), log.jsonl and a checkpoint to --out; killed and started
again, it goes on from the checkpoint, and ends with the weights of an unbroken run. Validation is on pairs of prompts
that training does not see, beside the identity baseline (golden noise = source noise).

A batch is the same pairs however many workers share it and however few of it are computed at once.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.compare import load_model
from golden.errors import ArgumentParser, InvalidInput, MissingWeights, run_command
from golden.files import atomic_path, hash_path, load_weights, sha256, write_bytes
from golden.judges import WEIGHT_SETS, load_judges
from golden.npnet import NPNETS, NPNet, NPNetConfig, SwinConfig, load_npnet, save_npnet
from golden.shapes import CATEGORIES
from train.filters import FILTERS
from train.pairs import read_manifest
from train.sampling import Sampler
from train.stream import Batch, PairStream, Rows, choose_rows, held_out_prompts, keep_embeds, shuffle

VALIDATED_AT_ONCE = 256
NUM_SAMPLES = 16


@dataclass(frozen=True)
class Settings:
    """What decides the weights, beside pairs and architecture; `start` is the NPNet that is fine-tuned.

    Source: the paper trains with AdamW, 1e-4, batch 64, 30 epochs, on pairs that HPSv2 prefers by more than 0.
    """

    filter: str = "right"
    margin: float = 0.0
    targets: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    start: str | None = None
    num_epochs: int = 30
    batch_size: int = 64
    micro_batch_size: int | None = None
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 0.0
    ema_decay: float = 0.998
    one_prompt_per_batch: bool = False
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Architecture:
    """What is trained from nothing; see NPNetConfig. A branch that is switched off is an ablation."""

    attention: bool = True
    singular: bool = True
    residual: bool = True
    text: bool = True
    text_map_size: int = 8
    side_by_side: bool = True
    image_channels: int = 16
    layout_rank: int = 256
    swin_width: int = 48
    swin_depth: int = 2
    drop_path_rate: float = 0.1


# name -> the learning rate's way through a training of so many steps
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, float, int], LRScheduler]] = {
    "cosine": lambda optimizer, rate, num_steps: OneCycleLR(
        optimizer, rate, total_steps=num_steps + 1, pct_start=0.05, cycle_momentum=False
    ),
    "constant": lambda optimizer, rate, num_steps: LambdaLR(optimizer, lambda step: 1.0),
}


# --- the network ------------------------------------------------------------------------------------------------------


def make_npnet(architecture: Architecture, example: Batch) -> NPNet:
    """An untrained NPNet for the example's latents and embeddings: published architecture at 128x128, small below."""
    _, channels, height, width = example.source.shape
    _, num_tokens, embedding_dim = example.prompt_embeds.shape
    small = SwinConfig(
        image_size=height,
        patch_size=1,
        embed_dim=architecture.swin_width,
        depths=(architecture.swin_depth,),
        num_heads=(architecture.swin_width // 16,),
        window_size=8,
        drop_path_rate=architecture.drop_path_rate,
        misread_features=False,
    )
    config = NPNetConfig(
        channels=channels,
        height=height,
        width=width,
        num_tokens=num_tokens,
        embedding_dim=embedding_dim,
        use_singular=architecture.singular,
        use_residual=architecture.residual,
        use_text=architecture.text,
        attention=architecture.attention,
        canonical_signs=True,
        text_map_size=architecture.text_map_size,
        side_by_side=architecture.side_by_side,
        image_channels=architecture.image_channels,
        layout_rank=architecture.layout_rank,
        swin=small if height < 64 else SwinConfig(),
        svd_output_hidden=1024 if height >= 64 else 128,
    )
    return NPNet(config)


def start_from(name: str) -> NPNet:
    """An NPNet to fine-tune, of our own or a published one, with gradients for what a new one would learn."""
    network = load_npnet(name)
    for parameter, new in zip(network.parameters(), NPNet(network.config).parameters(), strict=True):
        parameter.requires_grad_(new.requires_grad)
    return network.train()


def compute_in_bf16(network: NPNet) -> None:
    """Let the branches made of large products compute in bfloat16: text, residual and layout.

    The singular branch does not hold in it, and stays in fp32 with the sum of all branches and the loss.
    """
    for branch in (network.text_embedding, network.unet_embedding, network.layout):
        if branch is not None:
            device = next(branch.parameters()).device.type
            branch.forward = torch.autocast(device, torch.bfloat16)(branch.forward)  # type: ignore[method-assign]


# --- training ---------------------------------------------------------------------------------------------------------


class Training:
    """A network on its way: `step` steps are behind it.

    Order, dropped paths and all else that is random are functions of (seed, step, worker): that is the state of the
    sampler and of the generators, and a checkpoint needs no other.
    """

    PARTS = ("network", "ema", "optimizer", "schedule")

    def __init__(
        self, settings: Settings, network: NPNet, pairs: PairStream, rows: Rows, accelerator: Accelerator | None = None
    ) -> None:
        self.settings, self.pairs, self.rows = settings, pairs, rows
        self.accelerator = accelerator or Accelerator()
        self.batch_size = min(settings.batch_size, len(rows))
        if self.batch_size < self.accelerator.num_processes:
            raise InvalidInput(f"A batch of {self.batch_size} pairs cannot be shared by more workers than that.")
        self.steps_per_epoch = len(rows) // self.batch_size
        self.num_steps = settings.num_epochs * self.steps_per_epoch
        self.step = 0
        network.to(self.accelerator.device)
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        if settings.bf16:
            compute_in_bf16(network)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = SCHEDULES[settings.schedule](self.optimizer, settings.learning_rate, self.num_steps)
        self.network = network
        self.shared = self.accelerator.prepare(network)

    @property
    def averaged(self) -> NPNet:
        """The moving average of the network, in eval mode."""
        averaged = self.ema.module.eval()
        assert isinstance(averaged, NPNet)
        return averaged

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.step = state["step"]
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])

    def batches(self) -> Iterator[Batch]:
        """The batches that are left, of all epochs. Of an epoch, the pairs beyond its last whole batch are left out."""
        for epoch in range(self.step // self.steps_per_epoch, self.settings.num_epochs):
            order = shuffle(self.rows, self.settings.seed, epoch)[slice(self.steps_per_epoch * self.batch_size)]
            yield from self.pairs.batches(order, self.batch_size, start=self.step % self.steps_per_epoch)

    def advance(self, batch: Batch) -> float:
        """Take one step. Returns the batch's mean squared error before it."""
        accelerator = self.accelerator
        worker, num_workers = accelerator.process_index, accelerator.num_processes
        random = np.random.SeedSequence((self.settings.seed, self.step, worker)).generate_state(1, np.uint64)
        torch.manual_seed(int(random[0]))
        if self.settings.one_prompt_per_batch:
            # Source: the released trainer encodes the first prompt of a batch, and conditions all of it on that.
            batch = batch._replace(prompt_embeds=batch.prompt_embeds[:1].expand_as(batch.prompt_embeds))
        num_values = batch.target.numel()
        own = [part[worker::num_workers].to(accelerator.device) for part in batch]
        pieces = [*zip(*(part.split(self.settings.micro_batch_size or len(part)) for part in own), strict=True)]
        self.shared.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=accelerator.device)
        for number, (source, embeds, target) in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else accelerator.no_sync(self.shared):
                error = nn.functional.mse_loss(self.shared(source, embeds), target, reduction="sum") / num_values
                # Gradients are averaged over workers, and are to be summed.
                accelerator.backward(error * num_workers)
            loss += error.detach()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return float(accelerator.reduce(loss, "sum"))

    def validate(self, predict: Callable[[Tensor, Tensor], Tensor], rows: Rows) -> float:
        """Mean squared error against the target noise over some rows; NaN if there are none."""
        return mean_squared_error(predict, self.pairs, rows, self.accelerator)


@torch.inference_mode()
def mean_squared_error(
    predict: Callable[[Tensor, Tensor], Tensor], pairs: PairStream, rows: Rows, accelerator: Accelerator
) -> float:
    """Mean squared error against the target noise over some rows, shared by all workers; NaN if there are none."""
    if not len(rows):
        return math.nan
    total, device = torch.zeros((), dtype=torch.float64), accelerator.device
    for number, batch in enumerate(pairs.batches(rows, VALIDATED_AT_ONCE)):
        if number % accelerator.num_processes == accelerator.process_index:
            source, embeds, target = (part.to(device) for part in batch)
            total += (predict(source, embeds) - target).square().mean().cpu() * len(target)
    return float(accelerator.reduce(total.float().to(device), "sum")) / len(rows)


def train(
    training: Training,
    validation_rows: Rows,
    out: Path,
    identity: dict[str, Any],
    *,
    checkpoint_every: int | None = None,
    sample_every: int | None = None,
    sampler: Sampler | None = None,
    writer: Any = None,
) -> NPNet:
    """Take the steps that are left. Returns the moving average, in eval mode.

    Every `checkpoint_every` steps (an epoch, unless told) there is a validation, a row in out/log.jsonl, and a
    checkpoint. Before the first step and every `sample_every` steps `sampler` paints: its figures are a row of the log,
    its sheet a picture in out/samples. `writer`, a SummaryWriter of TensorBoard, gets the same. `identity` is kept with
    the checkpoint.
    """
    is_first = training.accelerator.is_main_process
    baseline = training.validate(lambda source, _: source, validation_rows)
    bar = tqdm(
        training.batches(), "steps", training.num_steps, initial=training.step, mininterval=1, disable=not is_first
    )
    checkpoint_every = checkpoint_every or training.steps_per_epoch
    losses = []
    if is_first and sampler and training.step == 0:  # whatever a judge lacks is said before the first step
        sample(training, sampler, out, writer)
    for batch in bar:
        rate = training.schedule.get_last_lr()[0]
        losses.append(training.advance(batch))
        step = training.step
        if is_first and sampler and sample_every and (step % sample_every == 0 or step == training.num_steps):
            sample(training, sampler, out, writer)
        if step % checkpoint_every == 0 or step == training.num_steps:
            validation = training.validate(training.averaged, validation_rows)
            epoch = round(step / training.steps_per_epoch, 3)
            row = {"step": step, "epoch": epoch, "train": float(np.mean(losses)), "validation": validation}
            losses = []
            if is_first:
                log(out, row | {"identity": baseline, "learning_rate": rate}, writer)
                save_checkpoint(out / "checkpoint.pt", training.state() | {"identity": identity})
            bar.set_postfix(validation=f"{validation:.5f}", identity=f"{baseline:.5f}", refresh=False)
            training.accelerator.wait_for_everyone()
    return training.averaged


def sample(training: Training, sampler: Sampler, out: Path, writer: Any) -> None:
    """Paint with the moving average, and record pictures and figures."""
    figures, sheet = sampler(training.averaged)
    with atomic_path(out / "samples" / f"step-{training.step:07d}.png") as temporary:
        sheet.save(temporary)
    log(out, {"step": training.step, **figures}, writer)
    if writer:
        writer.add_image("source above golden", np.asarray(sheet), training.step, dataformats="HWC")


def log(out: Path, row: dict[str, Any], writer: Any) -> None:
    """Append a row of figures to the log; `writer` gets them, too."""
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    if writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["step"])


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, and then its SHA-256."""
    hash_path(path).unlink(missing_ok=True)  # or, killed between the two, a whole checkpoint would pass for damaged
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    write_bytes(hash_path(path), f"{sha256(path)}  {path.name}\n".encode())


def resume(training: Training, out: Path, identity: dict[str, Any]) -> None:
    """Go on from out/checkpoint.pt, if it is there, and forget what the log says of the steps after it.

    Raises: InvalidInput if it is of a training of another identity, which stays as it is; BadWeights if it is damaged.
    """
    path = out / "checkpoint.pt"
    if path.exists():
        saved, _ = load_weights(path)
        there = saved.get("identity", {})
        for name, value in identity.items():
            if there.get(name) != value:
                raise InvalidInput(
                    f"{out} holds a training with {name}={there.get(name)!r}, not {value!r}: "
                    "give the same settings to go on with it, or another folder with --out."
                )
        training.load_state(saved)
    training.accelerator.wait_for_everyone()
    if training.accelerator.is_main_process:
        for left_over in out.glob(".checkpoint.pt*"):  # by a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
        rows = [row for row in read_log(out) if path.exists() and row["step"] <= training.step]
        write_bytes(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_log(out: Path) -> list[dict[str, Any]]:
    """The rows of a training's log; a line that a kill tore is left out."""
    path = out / "log.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if "step" in row]


def identify(settings: Settings, architecture: Architecture, rows: Rows) -> dict[str, Any]:
    """What decides the weights of a training, as a checkpoint remembers it."""
    pairs = hashlib.sha256(b"".join(part.tobytes() for part in (rows.shard, rows.row, rows.length_alone))).hexdigest()
    return json.loads(json.dumps(asdict(settings) | asdict(architecture) | {"pairs": pairs[:16]}))


# --- the command ------------------------------------------------------------------------------------------------------


def make_sampler(folder: Path, weights: str, device: torch.device) -> Sampler:
    """A sampler for held-out prompts of a data set, with its model and steps. Raises: InvalidInput if it has none."""
    has = read_manifest(folder)["settings"]
    prompts = held_out_prompts(folder, NUM_SAMPLES)
    if not prompts:
        raise InvalidInput(f"No prompt in {folder} is held out, to sample: collect more, or leave out --sample-every.")
    model = load_model(has["model"], device=str(device))
    judges = load_judges(None, weights, device=device)
    return Sampler(model, prompts, judges, num_inference_steps=has["num_inference_steps"])


def make_writer(out: Path, step: int) -> Any:
    """TensorBoard's writer; what it was told beyond `step` before a kill is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingWeights(
            "--tensorboard needs the package tensorboard: install it with pip install tensorboard."
        ) from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults, form = Settings(), Architecture()
    parser.add_argument("pairs", type=Path, help="folder made by train/collect_pairs.py")
    parser.add_argument("--out", type=Path, default=Path("runs/npnet"))
    parser.add_argument(
        "--from", "--start", dest="start", help=f"NPNet to fine-tune: a file, or a published one ({', '.join(NPNETS)})"
    )
    parser.add_argument(
        "--filter", default=defaults.filter, help=f"which pairs are trained on: {', '.join(FILTERS)}, judges, or vote"
    )
    parser.add_argument("--margin", type=float, default=defaults.margin, help="by how much a judge must be for a pair")
    parser.add_argument("--targets", nargs="+", default=(), help="of a data set with several targets, these alone")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=CATEGORIES,
        default=(),
        help="change the noise's direction for these kinds of caption alone",
    )
    parser.add_argument("--num-epochs", type=int, default=defaults.num_epochs)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="pairs of a step, of all workers")
    parser.add_argument(
        "--micro-batch-size", type=int, help="pairs that a worker computes at once (default: its whole share)"
    )
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--schedule", choices=SCHEDULES, default=defaults.schedule, help="of the learning rate")
    parser.add_argument("--weight-decay", type=float, default=defaults.weight_decay)
    parser.add_argument("--ema-decay", type=float, default=defaults.ema_decay)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 where it holds: not in the singular branch")
    parser.add_argument(
        "--one-prompt-per-batch", action="store_true", help="ablation: condition a batch on its first prompt"
    )
    for branch in ("attention", "singular", "residual", "text"):
        parser.add_argument(f"--no-{branch}", dest=branch, action="store_false", help=f"ablation: without {branch}")
    parser.add_argument("--text-map-size", type=int, default=form.text_map_size, help="1 is the published form")
    parser.add_argument(
        "--summed", dest="side_by_side", action="store_false", help="the published form: Swin sees noise plus text"
    )
    parser.add_argument("--image-channels", type=int, default=form.image_channels, help="3 is the published form")
    parser.add_argument("--layout-rank", type=int, default=form.layout_rank, help="0 is the published form")
    parser.add_argument("--swin-width", type=int, default=form.swin_width, help="small Swin: a multiple of 16")
    parser.add_argument("--swin-depth", type=int, default=form.swin_depth, help="small Swin: layers")
    parser.add_argument("--drop-path-rate", type=float, default=form.drop_path_rate, help="small Swin, in training")
    parser.add_argument("--checkpoint-every", type=int, help="steps to a checkpoint and validation (default: an epoch)")
    parser.add_argument("--sample-every", type=int, help="steps to sample pictures and judges' scores (default: never)")
    parser.add_argument("--judge-weights", choices=WEIGHT_SETS, default="embedded", help="of those judges")
    parser.add_argument("--tensorboard", action="store_true", help="log to OUT/tensorboard, too")
    arguments = parser.parse_args()
    arguments.targets, arguments.kinds = tuple(arguments.targets), tuple(arguments.kinds)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(defaults)})
    architecture = Architecture(**{name: getattr(arguments, name) for name in asdict(form)})
    for name in ("num_epochs", "batch_size", "micro_batch_size", "checkpoint_every", "sample_every"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InvalidInput(f"--{name.replace('_', '-')} must be 1 or more, got {value}.")
    if settings.start and architecture != form:
        raise InvalidInput("--from brings an architecture of its own: leave out the options that choose another.")
    arguments.out.mkdir(parents=True, exist_ok=True)

    accelerator = Accelerator()
    rows, validation_rows = choose_rows(
        arguments.pairs, settings.filter, settings.targets, settings.margin, settings.kinds
    )
    keep_embeds(arguments.pairs, str(accelerator.device), accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    pairs = PairStream(arguments.pairs)
    torch.manual_seed(settings.seed)
    network = start_from(settings.start) if settings.start else make_npnet(architecture, pairs.first(rows))
    training = Training(settings, network, pairs, rows, accelerator)
    identity = identify(settings, architecture, rows)
    resume(training, arguments.out, identity)
    sampler = writer = None
    if accelerator.is_main_process:
        print(f"{len(rows)} pairs to train on, {len(validation_rows)} to validate on")
        if arguments.sample_every:
            sampler = make_sampler(arguments.pairs, arguments.judge_weights, accelerator.device)
        if arguments.tensorboard:
            writer = make_writer(arguments.out, training.step)
    network = train(
        training,
        validation_rows,
        arguments.out,
        identity,
        checkpoint_every=arguments.checkpoint_every,
        sample_every=arguments.sample_every,
        sampler=sampler,
        writer=writer,
    )
    if not accelerator.is_main_process:
        return
    if writer:
        writer.close()
    last = [row for row in read_log(arguments.out) if "validation" in row][-1]
    about = {
        "settings": asdict(settings) | asdict(architecture),
        "figures": last,
        "num_pairs": len(rows),
        "pairs": read_manifest(arguments.pairs)["settings"],
    }
    save_npnet(arguments.out / "npnet.safetensors", network, {"training": json.dumps(about)})
    write_bytes(arguments.out / "settings.json", json.dumps(about, indent=2).encode())
    print(json.dumps(last))


if __name__ == "__main__":
    run_command(main)
