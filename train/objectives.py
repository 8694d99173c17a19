"""Objectives: what an NPNet learns, from which data, and how a batch becomes a loss.

The trainer knows none of this. It asks an objective for batches, splits them among workers and forward passes, takes
the gradient of `loss` and logs the mean of `figure` over the validation data. A new objective is a class in this file
and a name in OBJECTIVES; settings of its own are fields of TrainingSettings.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from golden.errors import InvalidInput
from golden.files import sha256
from golden.judges import load_judge
from golden.model import load_model
from golden.noise import source_noise
from golden.pipelines import encode_anew, latent_shape
from golden.reward import VERIFIER, Reward, clip_rows
from train.pairs import hash_json, hash_shards, read_manifest, read_rows
from train.settings import TrainingSettings
from train.stream import (
    Batch,
    PairStream,
    Rows,
    choose_rows,
    find_default_filter,
    is_held_out,
    keep_embeds,
    shuffle,
)

VALIDATED_AT_ONCE = 256
REWARDED_AT_ONCE = 64
UNCLIPPED = 0.8
"""The share of rows whose gradient of the reward is left as it is. The noises that fail have the large ones."""

Network = Callable[[Tensor, Tensor], Tensor]
"""(source noise (B, C, h, w), prompt embeddings (B, T, D)) -> golden noise (B, C, h, w): NPNet or a baseline."""


class Sizes(NamedTuple):
    """What an NPNet must fit: latents (channels, height, width) and prompt embeddings (num_tokens, embedding_dim)."""

    channels: int
    height: int
    width: int
    num_tokens: int
    embedding_dim: int


class Objective(ABC):
    """What is learnt from a data set. Batches are named tuples of tensors with one row per source noise.

    Attributes:
        figure_name: what `figure` measures.
        num_rows: rows of an epoch.
        num_validation_rows: rows of the validation data.
        sizes: what a network must fit.
        num_tokens: the first tokens of a prompt that the network in training reads, None for all of them.
    """

    figure_name: ClassVar[str]
    num_rows: int
    num_validation_rows: int
    sizes: Sizes
    num_tokens: int | None = None

    @classmethod
    @abstractmethod
    def open(cls, data: Path, settings: TrainingSettings, accelerator: Accelerator) -> "Objective":
        """Open the data of a training; workers may share what has to be prepared. Raises: InvalidInput."""

    @abstractmethod
    def batches(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Any]:
        """Whole batches of an epoch from number `start` on, a function of (settings.seed, epoch) and the data."""

    @abstractmethod
    def validation_batches(self) -> Iterator[Any]:
        """Batches of the validation data, none of whose prompts is trained on."""

    @abstractmethod
    def loss(self, network: Network, batch: Any) -> Tensor:
        """A scalar to minimise, the mean over the rows of a batch."""

    def figure(self, network: Network, batch: Any) -> Tensor:
        """The validation figure, the mean over the rows of a batch; the loss, unless an objective has a better one."""
        return self.loss(network, batch)

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What of the data and of resolved settings decides the weights; checkpoints of another are refused."""

    def describe(self) -> dict[str, Any]:
        """What the saved network says about its data."""
        return {}


class PairsObjective(Objective):
    """Mean squared error against the target noise of collected pairs. Source: section 3.2 of the paper."""

    figure_name = "mean squared error against the target noise"

    def __init__(self, pairs: PairStream, rows: Rows, validation_rows: Rows, settings: TrainingSettings) -> None:
        self.pairs, self.rows, self.validation_rows, self.settings = pairs, rows, validation_rows, settings
        self.num_rows, self.num_validation_rows = len(rows), len(validation_rows)
        example = pairs.first(rows)
        self.sizes = Sizes(*example.source.shape[1:], *example.prompt_embeds.shape[1:])

    @classmethod
    def open(cls, data: Path, settings: TrainingSettings, accelerator: Accelerator) -> "PairsObjective":
        filter_name = settings.filter or find_default_filter(data)
        settings = replace(settings, filter=filter_name)
        rows, validation_rows = choose_rows(data, filter_name, settings.targets, settings.margin, settings.kinds)
        keep_embeds(data, str(accelerator.device), accelerator.process_index, accelerator.num_processes)
        accelerator.wait_for_everyone()
        return cls(PairStream(data), rows, validation_rows, settings)

    def batches(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        order = shuffle(self.rows, self.settings.seed, epoch)[slice(self.num_rows // batch_size * batch_size)]
        for batch in self.pairs.batches(order, batch_size, start=start):
            if self.settings.one_prompt_per_batch:
                # Source: the released trainer encodes the first prompt of a batch, and conditions all of it on that.
                batch = batch._replace(prompt_embeds=batch.prompt_embeds[:1].expand_as(batch.prompt_embeds))
            yield batch

    def validation_batches(self) -> Iterator[Batch]:
        return self.pairs.batches(self.validation_rows, VALIDATED_AT_ONCE)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        return F.mse_loss(network(batch.source, batch.prompt_embeds[:, : self.num_tokens]), batch.target)

    def identity(self) -> dict[str, Any]:
        parts = (self.rows.shard, self.rows.row, self.rows.norm_only)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
        return {"filter": self.settings.filter, "pairs": digest[:16], "data": self._hash_data()}

    def _hash_data(self) -> str:
        """A hash of the shards that are read and of how they were collected: other data may have equal rows."""
        shards = np.unique(np.concatenate([self.rows.shard, self.validation_rows.shard])).tolist()
        return hash_json([hash_shards(self.pairs.folder, shards), read_manifest(self.pairs.folder)["settings"]])

    def describe(self) -> dict[str, Any]:
        return {"num_pairs": self.num_rows, "pairs": read_manifest(self.pairs.folder)["settings"]}


class RewardObjective(Objective):
    """Minus the reward after a few guided steps from golden noise, plus a penalty on the change of the noise.

    The data set gives the model and the prompts; noises are drawn anew in every epoch. Source: HyperNoise (arXiv
    2508.09968), whose penalty this is; differs from it in that rewards are given before the image is finished, and in
    that the gradient of each row is clipped to what four fifths of its batch do not exceed: single rows have up to a
    hundred times the median, and a limit on the sum would leave the others nothing.
    """

    figure_name = "minus the reward"

    def __init__(
        self, reward: Reward, prompts: Sequence[str], held_out: Sequence[str], settings: TrainingSettings
    ) -> None:
        self.reward, self.prompts, self.held_out, self.settings = reward, prompts, held_out, settings
        self.texts = [*prompts, *held_out]  # what the rows of a batch count
        self.num_rows, self.num_validation_rows = settings.reward_rows, min(VALIDATED_AT_ONCE, len(held_out))
        self.pipeline = reward.model.pipeline
        embeds = reward.model.family.npnet_embeds(encode_anew(self.pipeline, prompts[:1]))
        self.sizes = Sizes(*latent_shape(self.pipeline), *embeds.shape[1:])

    @classmethod
    def open(cls, data: Path, settings: TrainingSettings, accelerator: Accelerator) -> "RewardObjective":
        name, device = read_manifest(data)["settings"]["model"], str(accelerator.device)
        model = load_model(name, verifier=settings.verifier, device=device)
        weights = tuple(_parse_reward(text) for text in settings.rewards)
        judges = {
            name: load_judge(name, settings.reward_judges, device=accelerator.device)
            for name, _ in weights
            if name != VERIFIER
        }
        given = {
            "num_inference_steps": settings.reward_num_inference_steps,
            "num_steps": settings.reward_num_steps,
        }
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        steps = replace(model.spec.reward, weights=weights, **chosen)
        prompts = [*dict.fromkeys(read_rows(data)["prompt"])]
        held_out = [prompt for prompt in prompts if is_held_out(prompt)]
        trained = [prompt for prompt in prompts if not is_held_out(prompt)]
        if not trained:
            raise InvalidInput(f"{data} has no prompts to train on: collect more.")
        return cls(Reward(model, steps, judges), trained, held_out, settings)

    def batches(self, epoch: int, batch_size: int, start: int = 0) -> Iterator[Any]:
        rng = np.random.default_rng((self.settings.seed, epoch))
        rows = rng.integers(0, len(self.prompts), self.num_rows)
        seeds = rng.integers(2**16, 2**32, self.num_rows)
        for first in range(start * batch_size, self.num_rows - batch_size + 1, batch_size):
            chosen = slice(first, first + batch_size)
            yield self._make(rows[chosen], seeds[chosen])

    def validation_batches(self) -> Iterator[Any]:
        for first in range(0, self.num_validation_rows, REWARDED_AT_ONCE):
            rows = np.arange(first, min(first + REWARDED_AT_ONCE, self.num_validation_rows))
            yield self._make(len(self.prompts) + rows, rows)

    def _make(self, rows: NDArray, seeds: NDArray) -> Any:
        """A batch of tensors: source noise, rows of the prompts, and the embeddings that conditioning needs."""
        embeddings = encode_anew(self.pipeline, [self.texts[row] for row in rows])
        source = source_noise(seeds.tolist(), self.sizes[:3])
        make_batch = cast(Any, namedtuple("RewardBatch", ("source", "row", *embeddings)))
        return make_batch(source, torch.from_numpy(rows), *embeddings.values())

    def loss(self, network: Network, batch: Any) -> Tensor:
        golden = network(batch.source, self._read(batch))
        rewarded = golden.clone()
        if rewarded.requires_grad:
            rewarded.register_hook(_clip_to_most_rows)
        change = (golden - batch.source).square().mean()
        return self.settings.change_penalty * change - self._rewards(rewarded, batch).mean()

    def figure(self, network: Network, batch: Any) -> Tensor:
        return -self._rewards(network(batch.source, self._read(batch)), batch).mean()

    def _read(self, batch: Any) -> Tensor:
        """The embeddings of a batch that NPNet reads."""
        return self.reward.model.family.npnet_embeds(batch._asdict())[:, : self.num_tokens]

    def _rewards(self, golden: Tensor, batch: Any) -> Tensor:
        embeddings = {name: getattr(batch, name) for name in batch._fields[2:]}
        with torch.autocast(golden.device.type, torch.bfloat16, enabled=self.settings.bf16):
            return self.reward(golden, embeddings, [self.texts[row] for row in batch.row.tolist()]).float()

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()
        spec = self.reward.model.spec
        uses_verifier = VERIFIER in dict(self.reward.settings.weights) and spec.has_verifier
        verifier = sha256(spec.verifier or "") if uses_verifier else None
        return {"prompts": digest[:16], "model": spec.name, "verifier_sha256": verifier}

    def describe(self) -> dict[str, Any]:
        return {"num_prompts": len(self.prompts), "model": self.reward.model.spec.name}


def _clip_to_most_rows(gradient: Tensor) -> Tensor:
    """A gradient whose rows are clipped to what UNCLIPPED of them do not exceed. A row that is not finite, which
    becomes zero, does not count: the limit would be NaN, and every row zero."""
    norms = gradient.flatten(1).norm(dim=1)
    return clip_rows(gradient, norms.masked_fill(~norms.isfinite(), torch.nan).nanquantile(UNCLIPPED))


def _parse_reward(text: str) -> tuple[str, float]:
    """A name with or without a weight: "verifier", "HPSv2:0.05". Raises: InvalidInput."""
    name, _, weight = text.partition(":")
    try:
        return name, float(weight or 1)
    except ValueError:
        raise InvalidInput(f"A reward is NAME or NAME:WEIGHT such as HPSv2:0.05, got {text[:40]!r}.") from None


OBJECTIVES: dict[str, type[Objective]] = {"pairs": PairsObjective, "reward": RewardObjective}


def find_objective(name: str) -> type[Objective]:
    """An objective by name. Raises: InvalidInput listing the names."""
    if name not in OBJECTIVES:
        raise InvalidInput(f"Unknown objective {name[:40]!r}: choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]
