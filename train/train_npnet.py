"""Train an NPNet on collected pairs: source noise and prompt in, target noise out.

    python train/train_npnet.py runs/pairs --out runs/npnet
    python train/train_npnet.py runs/pairs --out runs/npnet --filter improved --num-epochs 60 --sample-every 500
    python train/train_npnet.py runs/pairs --out runs/tuned --from sdxl --learning-rate 1e-5    # a published NPNet
    torchrun --standalone --nproc-per-node 2 train/train_npnet.py runs/pairs --out runs/npnet

Writes npnet.safetensors (the exponential moving average), log.jsonl and a checkpoint to --out. A killed training
continues from the checkpoint, and ends with the weights of an uninterrupted run. Validation is on pairs of prompts that
are not trained on, next to the identity baseline (golden noise = source noise). If the loss becomes NaN, training stops
with exit code 1 and keeps the last good checkpoint.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.flags import add_flags, flag, read_flags
from golden.plan import GPU_HELP
from train.settings import Architecture, TrainingSettings, check_positive

if TYPE_CHECKING:
    from golden.npnet import NPNet
    from train.checkpoints import TrainingFolder
    from train.objectives import Objective
    from train.trainer import Trainer

NUM_EXAMPLES = 256
"""Prompts whose mean takes the place of what a copied denoiser is not told."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs; none of this changes the weights, but for the device's rounding."""

    data: Path = flag(help="folder made by train/collect_pairs.py", positional=True)
    out: Path = flag(Path("runs/npnet"), "folder for weights, log and checkpoint")
    checkpoint_every: int | None = flag(None, "steps between checkpoints and validations (default: an epoch)")
    sample_every: int | None = flag(None, "steps between samples of images with judges' scores (default: never)")
    judge_weights: str = flag("embedded", "weights of those judges", choices=("embedded", "published"))
    tensorboard: bool = flag(False, "also log to OUT/tensorboard")
    plan: bool = flag(False, "take a few steps and estimate time, disk, memory and money of the whole training")
    gpu: str | None = flag(None, GPU_HELP, metavar="NAME")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps, ...")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    for options_class in (TrainingOptions, TrainingSettings, Architecture):
        add_flags(parser, options_class)
    arguments = parser.parse_args(argv)
    options, settings = read_flags(TrainingOptions, arguments), read_flags(TrainingSettings, arguments)
    architecture = read_flags(Architecture, arguments)
    check_positive(
        num_epochs=settings.num_epochs,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        checkpoint_every=options.checkpoint_every,
        sample_every=options.sample_every,
    )
    if settings.start and replace(architecture, change_rms=None) != Architecture():
        raise InvalidInput("--from brings its own architecture: leave out the options that choose another.")
    from train.trainer import TrainingDiverged  # here, since it takes seconds to import and `--help` does not need it

    try:
        run_training(options, settings, architecture)
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run_training(options: TrainingOptions, settings: TrainingSettings, architecture: Architecture) -> None:
    """Train a network, or what is left of it, and save it."""
    import torch

    from golden.files import sha256
    from golden.npnet import find_npnet
    from golden.npnet.config import MAX_GAIN
    from train.checkpoints import TrainingFolder
    from train.network import resolve_architecture, start_from
    from train.objectives import find_objective
    from train.sampling import make_sheet
    from train.trainer import Trainer, make_accelerator, train
    from train.training_plan import plan_training

    accelerator = make_accelerator(options.device)
    objective = find_objective(settings.objective).open(options.data, settings, accelerator)
    torch.manual_seed(settings.seed)
    network = (
        start_from(settings.start) if settings.start else make_new(options, architecture, objective, accelerator.device)
    )
    if architecture.change_rms:  # what is scaled afterwards is learnt without a gain
        network.config = replace(network.config, change_gain=1.0)
    trainer = Trainer(settings, network, objective, accelerator)
    if options.plan:
        print("\n".join(plan_training(trainer, options.checkpoint_every, options.gpu)))
        return
    if settings.start:
        built: dict[str, Any] = {"start_sha256": sha256(find_npnet(settings.start))}
        if architecture.change_rms:
            built["change_rms"] = architecture.change_rms
    else:
        built = asdict(resolve_architecture(architecture, objective.sizes))
    folder = TrainingFolder(options.out, asdict(settings) | built | objective.identity())
    trainer.resume(folder)
    sheet = None
    if accelerator.is_main_process:
        numbers = f"{objective.num_rows} rows to train on, {objective.num_validation_rows} to validate on"
        print(f"{numbers}; figure: {objective.figure_name}")
        if options.sample_every:
            sheet = make_sheet(options.data, options.judge_weights, accelerator.device)
        if options.tensorboard:
            folder.open_tensorboard(trainer.step)
    train(
        trainer,
        folder,
        checkpoint_every=options.checkpoint_every,
        sample_every=options.sample_every,
        sheet=sheet,
    )
    if accelerator.is_main_process:
        folder.close()
        if architecture.change_rms:
            # A network that changes nothing has nothing to scale.
            gain = min(architecture.change_rms / (trainer.measure_change() or 1), MAX_GAIN)
            trainer.averaged.config = replace(trainer.averaged.config, change_gain=gain)
        save_result(trainer, folder)


def make_new(options: TrainingOptions, architecture: Architecture, objective: "Objective", device: Any) -> "NPNet":
    """An untrained network; what it copies of a model is that of the model with which the data was made."""
    from golden.model import load_model
    from train.network import make_npnet
    from train.pairs import read_manifest, read_rows

    if not architecture.denoiser:
        return make_npnet(architecture, objective.sizes)
    pipeline = load_model(read_manifest(options.data)["settings"]["model"], device=str(device)).pipeline
    prompts = read_rows(options.data)["prompt"][:NUM_EXAMPLES].tolist()
    return make_npnet(architecture, objective.sizes, pipeline, prompts)


def save_result(trainer: "Trainer", folder: "TrainingFolder") -> None:
    """Write the moving average with its settings, figures and data; print the last figures."""
    from golden.cards import read_record
    from golden.files import write_bytes
    from golden.npnet import save_npnet
    from golden.provenance import describe_run

    last = [row for row in folder.read_log() if "validation" in row][-1]
    about: dict[str, Any] = {"settings": folder.identity, "figures": last, **trainer.objective.describe()}
    if before := read_record(trainer.averaged.metadata, "training"):
        about["before"] = before
    save_npnet(folder.path / "npnet.safetensors", trainer.averaged, {"training": json.dumps(about)})
    run = {"run": describe_run(trainer.accelerator.device)}
    write_bytes(folder.path / "settings.json", json.dumps(about | run, indent=2).encode())
    print(json.dumps(last))


if __name__ == "__main__":
    run_command(main)
