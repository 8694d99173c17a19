"""What the scripts that train the embedded weights share: batches by step, schedules, checkpoints, a moving average.

Every batch is a function of (seed, step), so that a run that was killed and resumed sees the same data as one that was
not.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from golden.errors import InvalidInput
from golden.files import ASSETS, atomic_path
from train.workers import average_gradients, join_workers

MODEL_FOLDER = Path(os.environ.get("SHAPES_MODEL", ASSETS / "shapes" / "model"))
"""The pipeline in training, as `diffusers` saves one: the embedded one, or what SHAPES_MODEL names beside it."""
RUNS = Path("runs")


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    `schedule` is a name of SCHEDULES. "cosine" decays from the warm-up to step `num_steps`, where the run is over.
    "constant" decays over the last `decay_steps` steps alone: without any, the run can go on with a larger `num_steps`.
    `muon` trains the matrices of a transformer's blocks with Muon.
    """

    num_steps: int
    learning_rate: float
    num_warmup: int = 200
    schedule: str = "cosine"
    decay_steps: int = 0
    weight_decay: float = 0.0
    muon: bool = False
    ema_decay: float = 0.999
    save_every: int = 500
    evaluate_every: int = 0  # 0: after the last step alone

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InvalidInput(f"Unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}.")
        if self.num_steps < 1:
            raise InvalidInput(f"The number of steps must be 1 or more, got {self.num_steps}.")
        if not 0 <= self.decay_steps <= self.num_steps:
            raise InvalidInput(
                f"The number of decay steps must be from 0 to {self.num_steps}, the steps in all, got "
                f"{self.decay_steps}."
            )


def cosine_schedule(optimizer: torch.optim.Optimizer, plan: TrainingPlan) -> LambdaLR:
    """Linear warm-up, then half a cosine down to 0 at the last step."""
    return get_cosine_schedule_with_warmup(optimizer, plan.num_warmup, plan.num_steps)


def constant_schedule(optimizer: torch.optim.Optimizer, plan: TrainingPlan) -> LambdaLR:
    """Linear warm-up, then constant, and linear down to 0 over the last `decay_steps` steps."""
    schedule = get_constant_schedule_with_warmup(optimizer, plan.num_warmup)
    (warm_up,) = schedule.lr_lambdas

    def factor(step: int) -> float:
        left = max(0, plan.num_steps - step)
        return warm_up(step) * (left / plan.decay_steps if left < plan.decay_steps else 1.0)

    schedule.lr_lambdas = [factor]
    return schedule


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, TrainingPlan], LambdaLR]] = {
    "cosine": cosine_schedule,
    "constant": constant_schedule,
}


def make_optimizers(model: nn.Module, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """AdamW; before it, if the plan says so, Muon for the matrices of the model's `transformer_blocks`.

    Muon's steps are scaled so that they are about as long as AdamW's at the same learning rate. Source: arXiv
    2502.16982.
    """
    options: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {name: p for name, p in named.items() if plan.muon and p.ndim == 2 and "transformer_blocks." in name}
    others = [parameter for name, parameter in named.items() if name not in matrices]
    adamw = torch.optim.AdamW(others, **options)
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(list(matrices.values()), adjust_lr_fn="match_rms_adamw", **options), adamw]


def rng_for(seed: int, step: int) -> np.random.Generator:
    """The generator of one training step."""
    return np.random.default_rng((seed, step))


def train(
    name: str,
    model: nn.Module,
    compute_loss: Callable[[int], Tensor],
    plan: TrainingPlan,
    evaluate: Callable[[nn.Module, int], dict] | None = None,
) -> nn.Module:
    """Train, and resume from runs/<name>/checkpoint.pt if there is one.

    `compute_loss(step)` returns the loss of that step's batch. `evaluate(ema_model, step)` returns figures for the log,
    runs/<name>/log.jsonl. Under torchrun every worker computes the loss of its share of a batch (`own_share`), and the
    first one saves and evaluates. Returns the exponential moving average of the model, in eval mode.
    """
    folder = RUNS / name
    rank = join_workers()
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(plan.ema_decay)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = make_optimizers(model, plan)
    schedules = [SCHEDULES[plan.schedule](optimizer, plan) for optimizer in optimizers]
    state: dict[str, Any] = {"model": model, "ema": ema}
    state |= {f"optimizer {index}": optimizer for index, optimizer in enumerate(optimizers)}
    state |= {f"schedule {index}": schedule for index, schedule in enumerate(schedules)}
    first_step = _resume(folder / "checkpoint.pt", state, schedules)
    losses, started = [], time.time()
    for step in _progress(name, first_step, plan.num_steps):
        torch.manual_seed(step)  # dropout and noise, too, are functions of the step
        loss = compute_loss(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        ema.update_parameters(model)
        losses.append(loss.item())
        done = step + 1
        if rank > 0:
            continue
        evaluate_now = evaluate is not None and _is_due(done, plan.evaluate_every, plan.num_steps)
        if evaluate_now or _is_due(done, plan.save_every, plan.num_steps):
            _save(folder / "checkpoint.pt", done, state)
            row = {"step": done, "loss": float(np.mean(losses)), "seconds": round(time.time() - started, 1)}
            losses = []
            if evaluate and evaluate_now:
                row |= evaluate(ema.module.eval(), done)
            log(folder / "log.jsonl", row)
    return ema.module.eval()


def load_averaged(name: str, model: nn.Module) -> nn.Module:
    """The moving average of a run's last checkpoint, in eval mode. Raises: InvalidInput if there is no checkpoint."""
    path = RUNS / name / "checkpoint.pt"
    if not path.exists():
        raise InvalidInput(f"There is no checkpoint at {path}: train first.")
    averaged = torch.load(path, map_location="cpu", weights_only=True)["ema"]
    averaged.pop("n_averaged")
    model.load_state_dict({key.removeprefix("module."): value for key, value in averaged.items()})
    return model.eval()


def log(path: Path, row: dict) -> None:
    """Print a row of figures and append it to a log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tqdm.write(json.dumps(row))
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def _is_due(done: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps (0: never), and at the end, happens after step `done`."""
    return done == num_steps or (every > 0 and done % every == 0)


def _progress(name: str, first_step: int, num_steps: int) -> Iterator[int]:
    return iter(tqdm(range(first_step, num_steps), name, initial=first_step, total=num_steps, mininterval=5))


def _save(path: Path, step: int, state: dict) -> None:
    with atomic_path(path) as temporary:
        torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, temporary)


def _resume(path: Path, state: dict, schedules: Sequence[LambdaLR]) -> int:
    """Load a checkpoint into `state` and return its step; 0 if there is none."""
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    # The plan may have changed since: the learning rate is this schedule's at this step, and not the saved one.
    for schedule in schedules:
        factors = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in factors:
            group["lr"] = base * factor(schedule.last_epoch)
    return saved["step"]
