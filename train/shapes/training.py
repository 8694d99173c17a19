"""What the scripts that train the embedded weights share: batches by step, checkpoints, a moving average, a log.

Every batch is a function of (seed, step), so that a run that was killed and resumed sees the data of one that was not.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golden.files import ASSETS, atomic_path

MODEL_FOLDER = ASSETS / "shapes" / "model"
"""The embedded pipeline, as `diffusers` saves one."""
RUNS = Path("runs")


def rng_for(seed: int, step: int) -> np.random.Generator:
    """The generator of one training step."""
    return np.random.default_rng((seed, step))


def cosine_with_warmup(num_warmup: int, num_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear up over the warm-up, then half a cosine down to 0."""

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 0.5 + 0.5 * float(np.cos(np.pi * min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))))

    return factor


def train(
    name: str,
    model: nn.Module,
    compute_loss: Callable[[int], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    num_warmup: int = 200,
    weight_decay: float = 0.0,
    ema_decay: float = 0.999,
    save_every: int = 500,
    evaluate: Callable[[nn.Module, int], dict] | None = None,
    evaluate_every: int = 0,
) -> nn.Module:
    """Train with AdamW and a cosine schedule; resume from runs/<name>/checkpoint.pt if there is one.

    `compute_loss(step)` answers the loss of that step's batch; `evaluate(ema_model, step)` figures for the log
    runs/<name>/log.jsonl. Returns the exponential moving average of the model, in eval mode.
    """
    folder = RUNS / name
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(num_warmup, num_steps))
    state = {"model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    first_step = _resume(folder / "checkpoint.pt", state)
    losses, started = [], time.time()
    for step in _progress(name, first_step, num_steps):
        torch.manual_seed(step)  # dropout and noise, too, are functions of the step
        loss = compute_loss(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
        losses.append(loss.item())
        done = step + 1
        if done % save_every == 0 or done == num_steps:
            _save(folder / "checkpoint.pt", done, state)
            row = {"step": done, "loss": float(np.mean(losses)), "seconds": round(time.time() - started, 1)}
            losses = []
            if evaluate and (done % (evaluate_every or num_steps) == 0 or done == num_steps):
                row |= evaluate(ema.module.eval(), done)
            log(folder / "log.jsonl", row)
    return ema.module.eval()


def log(path: Path, row: dict) -> None:
    """Print a row of figures and append it to a log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tqdm.write(json.dumps(row))
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def _progress(name: str, first_step: int, num_steps: int) -> Iterator[int]:
    return iter(tqdm(range(first_step, num_steps), name, initial=first_step, total=num_steps, mininterval=5))


def _save(path: Path, step: int, state: dict) -> None:
    with atomic_path(path) as temporary:
        torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, temporary)


def _resume(path: Path, state: dict) -> int:
    """Load a checkpoint into `state` and answer its step; 0 if there is none."""
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["step"]
