"""The folder of a training: log, checkpoint and samples, found again after a kill.

log.jsonl          a row of figures per validation and per sample sheet
checkpoint.pt      the last state; written whole or not at all, with its SHA-256 beside it
samples/           sheets of images, by step
npnet.safetensors  the result, once training is finished
"""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from golden.errors import InvalidInput, MissingWeights
from golden.files import atomic_path, hash_path, load_weights, sha256, write_bytes
from train.settings import Architecture, TrainingSettings

ARCHITECTURE_BEFORE = Architecture(text_queries=0, layout_rank=256, keep_norm=False)
"""What was built where a checkpoint does not say otherwise."""


class TrainingFolder:
    """Where one training writes. `identity` is what decides its weights: a folder never mixes two trainings."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it will be when read back
        self.writer: Any = None

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state to continue from, None if there is none.

        Raises: InvalidInput if it belongs to a training of another identity; BadWeights if it is damaged.
        """
        if not self.checkpoint_path.exists():
            return None
        saved, _ = load_weights(self.checkpoint_path)
        # Settings that a checkpoint lacks are newer than it, and had their defaults' effect.
        defaults = asdict(TrainingSettings()) | asdict(ARCHITECTURE_BEFORE)
        found = defaults | saved.get("identity", {})
        for name, value in self.identity.items():
            # Hashes that an older checkpoint lacks cannot be compared.
            there = json.loads(json.dumps(found.get(name, value)))
            if there != value:
                raise InvalidInput(
                    f"{self.path} holds a training with {name}={there!r}, not {value!r}: "
                    "use the same settings to continue it, or another folder with --out."
                )
        return saved

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint and then its SHA-256."""
        path = self.checkpoint_path
        # Otherwise a kill between the two would make a whole checkpoint look damaged.
        hash_path(path).unlink(missing_ok=True)
        with atomic_path(path) as temporary:
            torch.save(state | {"identity": self.identity}, temporary)
        write_bytes(hash_path(path), f"{sha256(path)}  {path.name}\n".encode())

    def begin(self, step: int) -> None:
        """Delete what a killed process left over: temporary files, and rows of the log after the step `step`."""
        self.path.mkdir(parents=True, exist_ok=True)
        for left_over in self.path.glob(".checkpoint.pt*"):
            left_over.unlink(missing_ok=True)
        rows = [row for row in self.read_log() if self.checkpoint_path.exists() and row["step"] <= step]
        write_bytes(self.path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def read_log(self) -> list[dict[str, Any]]:
        """The rows of the log; a line that was cut off by a kill is left out."""
        path = self.path / "log.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            with suppress(ValueError):
                rows.append(json.loads(line))
        return [row for row in rows if "step" in row]

    def open_tensorboard(self, step: int) -> None:
        """Log to TensorBoard as well, hiding what was logged beyond `step` before a kill.

        Raises: MissingWeights if the package is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingWeights(
                "--tensorboard needs the package tensorboard: install it with pip install tensorboard."
            ) from None
        self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row of figures, one of which is its `step`."""
        with open(self.path / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.writer:
            for name, value in row.items():
                self.writer.add_scalar(name, value, row["step"])

    def log_sheet(self, step: int, figures: dict[str, float], sheet: Image.Image) -> None:
        """Save a sheet of sampled images, and log its figures."""
        with atomic_path(self.path / "samples" / f"step-{step:07d}.png") as temporary:
            sheet.save(temporary)
        self.log({"step": step, **figures})
        if self.writer:
            self.writer.add_image("source above golden", np.asarray(sheet), step, dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self.writer:
            self.writer.close()
