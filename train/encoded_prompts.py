"""Prompts of a training, encoded once: to encode them anew at every step costs more than a small network's step.

They are kept in parts, each a function of the prompts alone, so that a resumed training sees the same embeddings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden.families import Embeddings
from golden.pipelines import encode_anew
from train.workers import make_files

ENCODED_AT_ONCE = 64


class EncodedPrompts:
    """Embeddings of any of `prompts`, encoded by a pipeline into `folder` unless they are there.

    They stay on disk, of which the system keeps in memory what is used. Under torchrun each worker encodes its share.
    """

    def __init__(self, pipeline: Any, prompts: Sequence[str], folder: Path) -> None:
        self.device = pipeline._execution_device
        self.places = {prompt: divmod(index, ENCODED_AT_ONCE) for index, prompt in enumerate(prompts)}
        paths = {start: folder / f"{start:07d}.pt" for start in range(0, len(prompts), ENCODED_AT_ONCE)}

        def encode_part(start: int) -> dict[str, Tensor]:
            encoded = encode_anew(pipeline, prompts[start : start + ENCODED_AT_ONCE])
            return {name: _without_copies(value.cpu()) for name, value in encoded.items()}

        make_files(paths, encode_part, "prompts")
        self.parts = [torch.load(path, weights_only=True, mmap=True) for path in paths.values()]

    def __call__(self, prompts: Sequence[str]) -> Embeddings:
        """Embeddings with a row per prompt, on the pipeline's device. Raises: KeyError for one that was not given."""
        places = [self.places[prompt] for prompt in prompts]
        return {
            name: torch.stack([_row(self.parts[part][name], row) for part, row in places]).to(self.device)
            for name in self.parts[0]
        }


def _without_copies(value: Tensor) -> Tensor:
    """One row in place of rows that are all the same, as those of the empty negative prompt are."""
    return value[:1].clone() if torch.equal(value, value[:1].expand_as(value)) else value


def _row(value: Tensor, row: int) -> Tensor:
    return value[row if len(value) > 1 else 0]
