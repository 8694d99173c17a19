"""What happens in the training of a verifier: batches, steps, validation, checkpoints."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from golden.attention import plain_attention
from golden.errors import InvalidInput
from golden.families import Embeddings
from golden.files import atomic_path, load_weights, sha256
from golden.model import AnyVerifier, Model, build_verifier, load_model
from golden.noise import add_noise
from golden.provenance import hash_model
from golden.verifier import BorrowedVerifier, save_verifier
from train.encoded_prompts import EncodedPrompts
from train.pairs import hash_json, read_manifest
from train.settings import VerifierOptions
from train.trajectories import (
    FINISHED_TIMESTEP,
    Trajectories,
    draw_examples,
    read_parts,
    read_trajectories,
    split_held_out,
)
from train.workers import average_gradients, device_of_worker, join_workers, own_share

NUM_VALIDATED = 512
WARMUP_STEPS = 100
SHARD = 1000  # scenes that are drawn and stored together
NUM_BLIND = 2  # timesteps, from the noise on, at which a scene under noise shows nothing that could be judged


class VerifierTrainer:
    """A verifier being trained: `step` steps are behind it. Batches are functions of (seed, step).

    `encode` makes embeddings of prompts. Raises: InvalidInput without data.
    """

    def __init__(
        self,
        model: Model,
        data: Trajectories,
        scenes: Trajectories | None,
        encode: Callable[[Sequence[str]], Embeddings],
        options: VerifierOptions,
    ) -> None:
        if not len(data):
            raise InvalidInput(f"{options.pairs} has no prompts to train on: collect more.")
        torch.manual_seed(options.seed)
        self.model, self.data, self.scenes, self.encode, self.options = model, data, scenes, encode, options
        verifier = build_verifier(model.spec, model.pipeline, options.start).to(model.pipeline._execution_device)
        self.verifier = verifier.requires_grad_(True).train()
        self.ema = AveragedModel(self.verifier, multi_avg_fn=get_ema_multi_avg_fn(0.998))
        self.optimizer = torch.optim.AdamW(
            self.verifier.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.schedule = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=WARMUP_STEPS, num_training_steps=options.num_steps
        )
        self.step = 0

    PARTS = ("verifier", "ema", "optimizer", "schedule")

    def state(self) -> dict[str, Any]:
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])

    def batch(self) -> tuple[Tensor, int, list[str], Tensor]:
        """Latents at one timestep, that timestep, prompts and labels: this worker's share of a batch."""
        rng = np.random.default_rng((self.options.seed, self.step))
        from_scenes = self.scenes is not None and rng.random() < self.options.scene_share
        source = self.scenes if from_scenes and self.scenes is not None else self.data
        rows = rng.integers(0, len(source), self.options.batch_size)
        share = own_share(len(rows))
        chosen = torch.from_numpy(rows[share])
        prompts, labels = [source.prompts[row] for row in rows[share]], source.labels[chosen]
        if not from_scenes:
            place = int(rng.integers(len(source.timesteps)))
            return source.latents[chosen, place].float(), source.timesteps[place], prompts, labels
        clean = source.latents[chosen, 0].float()
        timestep = int(rng.choice(self.data.timesteps[NUM_BLIND:]))
        if timestep == FINISHED_TIMESTEP:
            return clean, timestep, prompts, labels
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(len(rows), *clean.shape[1:], generator=generator)[share]
        return add_noise(self.model.pipeline, clean, noise, timestep), timestep, prompts, labels

    def advance(self) -> float:
        """Take one step. Returns the loss before it."""
        torch.manual_seed(self.step)
        latents, timestep, prompts, labels = self.batch()
        logits = self.predict(self.verifier, latents, timestep, prompts)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.to(logits.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.verifier.parameters())
        torch.nn.utils.clip_grad_norm_(self.verifier.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.verifier)
        self.step += 1
        return loss.item()

    def predict(self, verifier: Any, latents: Tensor, timestep: int, prompts: list[str]) -> Tensor:
        """Logits (B,) of latents at a timestep."""
        device = self.model.pipeline._execution_device
        embeddings = self.encode(prompts)
        latents = latents.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bf16), plain_attention(latents):
            return verifier(self.model.pipeline, latents, timestep, embeddings)

    @torch.no_grad()
    def validate(self, held_out: Trajectories) -> dict[str, float]:
        """Area under the ROC curve at each timestep, by the moving average; nothing where no prompt is held out."""
        if not len(held_out):
            return {}
        rows = np.arange(min(len(held_out), NUM_VALIDATED))
        chosen = held_out.select(rows)
        averaged = self.ema.module.eval()
        figures = {}
        for place, timestep in enumerate(chosen.timesteps):
            parts = [
                self.predict(averaged, chosen.latents[start : start + 64, place].float(), timestep, prompts)
                for start in range(0, len(rows), 64)
                if (prompts := list(chosen.prompts[start : start + 64]))
            ]
            figures[f"auc_{timestep}"] = round(area_under_curve(torch.cat(parts).float().cpu(), chosen.labels), 4)
        return figures


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Share of pairs of a right (label above 0.5) and a wrong row of which the right one scores higher; NaN without."""
    right = labels.numpy() > 0.5
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        return float("nan")
    ranks = rankdata(scores.numpy())
    return float((ranks[right].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def load_scenes(model: Model, options: VerifierOptions, cache: Path) -> Trajectories | None:
    """The drawn scenes, from `cache` as far as they were drawn before; None if the checker draws none."""
    if not options.num_scenes or model.checker is None:
        return None
    sizes = [min(SHARD, options.num_scenes - start) for start in range(0, options.num_scenes, SHARD)]
    folder = cache / f"scenes-{options.seed}"
    paths = {index: folder / f"{index:05d}-{size}.pt" for index, size in enumerate(sizes)}
    scenes = read_parts(paths, lambda index: draw_examples(model, sizes[index], (options.seed, index)), "scenes")
    return scenes if len(scenes) else None


def run(trainer: VerifierTrainer, held_out: Trajectories, out: Path) -> Iterator[dict[str, Any]]:
    """Take the steps that are left; yields the rows of the log, each after its checkpoint was written.

    Only the first of several workers validates and writes.
    """
    options, losses = trainer.options, []
    rank = join_workers()
    bar = tqdm(total=options.num_steps, initial=trainer.step, desc="steps", mininterval=1, disable=rank > 0)
    while trainer.step < options.num_steps:
        losses.append(trainer.advance())
        bar.update()
        if rank > 0:
            continue
        if trainer.step % options.checkpoint_every == 0 or trainer.step == options.num_steps:
            row = {"step": trainer.step, "loss": round(float(np.mean(losses)), 4), **trainer.validate(held_out)}
            losses = []
            with atomic_path(out / "checkpoint.pt") as temporary:
                torch.save(trainer.state() | {"identity": identify(options)}, temporary)
            with open(out / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            yield row


def identify(options: VerifierOptions) -> dict[str, Any]:
    """What decides the weights."""
    left_out = ("out", "device", "checkpoint_every")
    named = {name: str(value) for name, value in asdict(options).items() if name not in left_out}
    return named | ({"start_sha256": sha256(options.start)} if options.start else {})


def resume(trainer: VerifierTrainer, out: Path) -> None:
    """Continue from a checkpoint, if there is one. Raises: InvalidInput if it is of other settings."""
    path = out / "checkpoint.pt"
    if not path.is_file():
        return
    saved, _ = load_weights(path)
    for name, value in identify(trainer.options).items():
        if (there := saved["identity"].get(name)) != value:
            raise InvalidInput(
                f"{out} holds a training with {name}={there!r}, not {value!r}: use the same settings to continue it, "
                "or another folder with --out."
            )
    trainer.load_state(saved)


def encode_all(prompts: Sequence[str], model: Model, cache: Path) -> EncodedPrompts:
    """All prompts, encoded into a folder of `cache` that belongs to this list of them."""
    different = sorted(set(prompts))
    digest = hashlib.sha256("\n".join(different).encode()).hexdigest()
    return EncodedPrompts(model.pipeline, different, cache / f"prompts-{digest[:16]}")


def train_verifier(options: VerifierOptions) -> None:
    """Train a verifier, or what is left of it, and save it."""
    torch.set_num_threads(options.num_threads)
    rank = join_workers()
    device = device_of_worker(options.device)
    model = load_model(read_manifest(options.pairs)["settings"]["model"], device=device)
    # Latents, scenes and embeddings of other weights must not be taken for this model's.
    cache = options.out / "cache" / hash_json(hash_model(model.spec))
    data = read_trajectories(options.pairs, model, options.label, cache, options.bf16)
    trained, held_out = split_held_out(data)
    scenes = load_scenes(model, options, cache)
    encode = encode_all([*data.prompts, *(scenes.prompts if scenes else ())], model, cache)
    trainer = VerifierTrainer(model, trained, scenes, encode, options)
    resume(trainer, options.out)
    print(f"{len(trained)} images to train on, {len(held_out)} to validate on, {float(data.labels.mean()):.1%} right")
    row: dict[str, Any] = {}
    for row in run(trainer, held_out, options.out):
        tqdm.write(json.dumps(row))
    if rank > 0:
        return
    averaged = cast(AnyVerifier, trainer.ema.module).eval()
    own = averaged.verifier if isinstance(averaged, BorrowedVerifier) else averaged
    about = {"settings": identify(options), "figures": row, "num_images": len(trained)}
    save_verifier(options.out / "verifier.safetensors", own, {"training": json.dumps(about)})
