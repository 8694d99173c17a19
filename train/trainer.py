"""The trainer: steps, gradients over micro-batches and workers, a moving average, validation, checkpoints.

A batch has the same rows however many workers share it and however few of them are computed at once.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from golden.errors import GoldenError, InvalidInput
from golden.model import pick_device
from golden.npnet import NPNet
from train.checkpoints import TrainingFolder
from train.network import compute_in_bf16
from train.objectives import Network, Objective
from train.settings import TrainingSettings

WARMUP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0

Sheet = Callable[[NPNet], tuple[dict[str, float], Any]]
"""Samples images with a network: (figures, an image of all of them)."""


class TrainingDiverged(GoldenError):
    """A loss, a gradient or a validation figure is not finite."""


def make_accelerator(device: str) -> Accelerator:
    """accelerate's view of this process: its device, and the workers it shares batches with.

    Raises: InvalidInput for a device that torch lacks here.
    """
    device = pick_device(device)
    if ":" in device:
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    return Accelerator(cpu=device.startswith("cpu"))


def make_schedule(name: str, optimizer: torch.optim.Optimizer, learning_rate: float, num_steps: int) -> LRScheduler:
    """The learning rate's schedule over a training.

    "cosine" is torch's one-cycle policy without its momentum cycle, as in all trainings so far: up from 1/25 of the
    learning rate in the first 5 % of steps, then down to nearly 0. The other names are those of diffusers.
    """
    if name == "cosine":
        share = WARMUP_SHARE
        if share * (num_steps + 1) == 1:  # the way up would end at the step 0 where it begins: torch divides by zero
            share *= 1.001
        return OneCycleLR(optimizer, learning_rate, total_steps=num_steps + 1, pct_start=share, cycle_momentum=False)
    warmup = round(WARMUP_SHARE * num_steps)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


class Trainer:
    """A network in training; `step` steps are done.

    Order, dropped paths and everything else that is random are functions of (seed, step, worker), so that a checkpoint
    needs no state of generators.
    """

    PARTS = ("network", "ema", "optimizer", "schedule")

    def __init__(
        self, settings: TrainingSettings, network: NPNet, objective: Objective, accelerator: Accelerator | None = None
    ) -> None:
        self.settings, self.objective = settings, objective
        objective.num_tokens = network.config.num_tokens  # an NPNet of another model may read fewer than there are
        self.accelerator = accelerator or Accelerator()
        self.batch_size = min(settings.batch_size, objective.num_rows)
        if self.batch_size < self.accelerator.num_processes:
            raise InvalidInput(
                f"A batch of {self.batch_size} cannot be shared by {self.accelerator.num_processes} workers."
            )
        self.steps_per_epoch = objective.num_rows // self.batch_size
        self.num_steps = settings.num_epochs * self.steps_per_epoch
        self.step = 0
        network.to(self.accelerator.device)
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        if settings.bf16:
            compute_in_bf16(network)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = make_schedule(settings.schedule, self.optimizer, settings.learning_rate, self.num_steps)
        self.network = network
        self.shared = self.accelerator.prepare(network)

    @property
    def averaged(self) -> NPNet:
        """The moving average of the network, in eval mode."""
        averaged = self.ema.module.eval()
        assert isinstance(averaged, NPNet)
        return averaged

    def state(self) -> dict[str, Any]:
        """What a checkpoint saves."""
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step = state["step"]
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])

    def resume(self, folder: TrainingFolder) -> None:
        """Continue from the folder's checkpoint, if there is one. Raises: as `TrainingFolder.load_checkpoint`."""
        saved = folder.load_checkpoint()
        if saved is not None:
            self.load_state(saved)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder.begin(self.step)

    def batches(self) -> Iterator[Any]:
        """The remaining batches of all epochs. Rows beyond an epoch's last whole batch are left out."""
        for epoch in range(self.step // self.steps_per_epoch, self.settings.num_epochs):
            yield from self.objective.batches(epoch, self.batch_size, start=self.step % self.steps_per_epoch)

    def advance(self, batch: Any) -> float:
        """Take one step. Returns the batch's loss before it.

        Raises: TrainingDiverged, leaving the network as it was, if the loss or its gradient is not finite.
        """
        accelerator = self.accelerator
        worker, num_workers = accelerator.process_index, accelerator.num_processes
        random = np.random.SeedSequence((self.settings.seed, self.step, worker)).generate_state(1, np.uint64)
        torch.manual_seed(int(random[0]))
        num_rows = len(batch[0])
        pieces = self._split(batch)
        self.shared.train()
        self.optimizer.zero_grad(set_to_none=True)
        summed = torch.zeros((), device=accelerator.device)
        for number, piece in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else accelerator.no_sync(self.shared):
                share = self.objective.loss(self.shared, piece) * (len(piece[0]) / num_rows)
                # Gradients are averaged over workers, but should be summed.
                accelerator.backward(share * num_workers)
            summed += share.detach()
        loss = float(accelerator.reduce(summed, "sum"))
        norm = float(nn.utils.clip_grad_norm_(self.trained, MAX_GRADIENT_NORM))
        self._check_finite("loss", loss)
        self._check_finite("gradient's norm", norm)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return loss

    def _split(self, batch: Any) -> list[Any]:
        """This worker's rows of a batch, in pieces of the micro-batch size, on its device."""
        worker, num_workers = self.accelerator.process_index, self.accelerator.num_processes
        own = [part[worker::num_workers].to(self.accelerator.device) for part in batch]
        size = self.settings.micro_batch_size or len(own[0])
        return [batch._make(parts) for parts in zip(*(part.split(size) for part in own), strict=True)]

    @torch.inference_mode()
    def validate(self, network: Network) -> float:
        """The mean of the objective's figure over its validation data, shared by all workers; NaN without data."""
        accelerator, num_rows = self.accelerator, self.objective.num_validation_rows
        if not num_rows:
            return math.nan
        total = torch.zeros((), dtype=torch.float64)
        for number, batch in enumerate(self.objective.validation_batches()):
            if number % accelerator.num_processes == accelerator.process_index:
                batch = batch._make(part.to(accelerator.device) for part in batch)
                total += self.objective.figure(network, batch).cpu() * len(batch[0])
        return float(accelerator.reduce(total.float().to(accelerator.device), "sum")) / num_rows

    @torch.inference_mode()
    def measure_change(self) -> float:
        """How far the moving average's golden noise lies from its source noise, root mean square, by this worker alone.

        Over the validation data; over an epoch without any.
        """
        objective, squares = self.objective, []

        def keep_change(source: Tensor, prompt_embeds: Tensor) -> Tensor:
            golden = self.averaged(source, prompt_embeds)
            squares.append((golden - source).square().flatten(1).mean(1))
            return golden

        has_data = objective.num_validation_rows > 0
        batches = objective.validation_batches() if has_data else objective.batches(0, self.batch_size)
        for batch in batches:
            objective.figure(keep_change, batch._make(part.to(self.accelerator.device) for part in batch))
        return float(torch.cat(squares).mean().sqrt())

    def validate_average(self) -> float:
        """`validate` of the moving average. Raises: TrainingDiverged if it is not finite, though there is data."""
        figure = self.validate(self.averaged)
        if self.objective.num_validation_rows:
            self._check_finite("validation figure", figure)
        return figure

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"Training diverged at step {self.step + 1}: the {what} is {value}. The last checkpoint is kept; "
                f"start again in another folder with a lower --learning-rate than {self.settings.learning_rate:g}."
            )


def identity_baseline(source: Tensor, prompt_embeds: Tensor) -> Tensor:
    """The network that training must beat: golden noise = source noise."""
    return source


def train(
    trainer: Trainer,
    folder: TrainingFolder,
    *,
    checkpoint_every: int | None = None,
    sample_every: int | None = None,
    sheet: Sheet | None = None,
) -> NPNet:
    """Take the remaining steps. Returns the moving average, in eval mode.

    Every `checkpoint_every` steps (default: an epoch) there is a validation, a row of the log and a checkpoint. Before
    the first step and every `sample_every` steps `sheet` samples images.

    Raises: TrainingDiverged; the folder keeps the last good checkpoint.
    """
    is_first = trainer.accelerator.is_main_process
    baseline = trainer.validate(identity_baseline)
    steps = {"total": trainer.num_steps, "initial": trainer.step, "mininterval": 1, "disable": not is_first}
    checkpoint_every = checkpoint_every or trainer.steps_per_epoch
    losses = []
    if is_first and sheet and trainer.step == 0:  # a judge that fails should do so before the first step
        folder.log_sheet(0, *sheet(trainer.averaged))
    with tqdm(trainer.batches(), "steps", **steps) as bar:
        for batch in bar:
            rate = trainer.schedule.get_last_lr()[0]
            losses.append(trainer.advance(batch))
            step, is_last = trainer.step, trainer.step == trainer.num_steps
            if is_first and sheet and sample_every and (step % sample_every == 0 or is_last):
                folder.log_sheet(step, *sheet(trainer.averaged))
            if step % checkpoint_every == 0 or is_last:
                validation = trainer.validate_average()
                epoch = round(step / trainer.steps_per_epoch, 3)
                row = {"step": step, "epoch": epoch, "train": float(np.mean(losses)), "validation": validation}
                losses = []
                if is_first:
                    folder.log(row | {"identity": baseline, "learning_rate": rate})
                    folder.save_checkpoint(trainer.state())
                bar.set_postfix(validation=f"{validation:.5f}", identity=f"{baseline:.5f}", refresh=False)
                trainer.accelerator.wait_for_everyone()
    return trainer.averaged
