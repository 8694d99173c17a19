"""What a network in training makes of prompts that it does not learn: images, verdicts, judges' scores."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from golden.drawing import side_by_side
from golden.errors import InvalidInput
from golden.judges import JudgeSet, load_judges
from golden.model import Model, load_model
from golden.noise import source_noise
from golden.npnet import NPNet
from golden.pipelines import encode_anew, latent_shape
from golden.sizes import predict_golden
from train.make_shard import SampledShard, measure_images, sample_noises
from train.pairs import read_manifest
from train.stream import held_out_prompts

NUM_SAMPLES = 16
IMAGE_SIZE = 128
"""Pixels along a side of each image on a sheet."""


class SampleSheet:
    """Samples the same prompts from the same source noises at every call, standard above golden."""

    def __init__(
        self, model: Model, prompts: Sequence[str], judges: JudgeSet | None, *, num_inference_steps: int
    ) -> None:
        """Prompt i is sampled from seed i."""
        self.model, self.judges, self.num_inference_steps = model, judges, num_inference_steps
        self.rows = pd.DataFrame({"index": range(len(prompts)), "prompt": prompts, "seed": range(len(prompts))})
        self.embeddings = encode_anew(model.pipeline, prompts)
        self.source = source_noise(self.rows["seed"].tolist(), latent_shape(model.pipeline))

    @torch.inference_mode()
    def __call__(self, network: NPNet) -> tuple[dict[str, float], Image.Image]:
        """Means over the prompts of every figure of source and golden images, and a sheet with source above golden.

        Raises: GoldenError with the message of a judge that fails.
        """
        device = next(network.parameters()).device
        embeds = self.model.family.npnet_embeds(self.embeddings)
        golden = predict_golden(network, self.source.to(device), embeds.to(device)).cpu()
        noises, seeds = {"source": self.source, "golden": golden}, self.rows["seed"].tolist()
        images = sample_noises(self.model, noises, self.embeddings, seeds, self.num_inference_steps)
        figures = measure_images(SampledShard(self.rows, noises, images), self.model.checker, self.judges)
        means = {
            f"{side}_{name}": float(column.mean())
            for side, table in figures.items()
            for name, column in table.items()
            if pd.api.types.is_numeric_dtype(column)
        }
        rows = [
            side_by_side(images[: len(self.rows)], IMAGE_SIZE),
            side_by_side(images[len(self.rows) :], IMAGE_SIZE),
        ]
        sheet = Image.new("RGB", (rows[0].width, 2 * rows[0].height + 2))
        for index, row in enumerate(rows):
            sheet.paste(row, (0, index * (row.height + 2)))
        return means, sheet


def make_sheet(folder: Path, weights: str, device: str | torch.device) -> SampleSheet:
    """A sheet of validation prompts of a data set, with its model and sampling steps.

    Raises: InvalidInput if it has no validation prompts.
    """
    settings = read_manifest(folder)["settings"]
    prompts = held_out_prompts(folder, NUM_SAMPLES)
    if not prompts:
        raise InvalidInput(f"{folder} has no validation prompts to sample: collect more, or leave out --sample-every.")
    model = load_model(settings["model"], device=str(device))
    judges = load_judges(None, weights, device=device)
    return SampleSheet(model, prompts, judges, num_inference_steps=settings["num_inference_steps"])
