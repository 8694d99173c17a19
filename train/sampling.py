"""What a network in training makes of prompts that it does not learn: pictures, verdicts, the judges' scores."""

from collections.abc import Sequence

import pandas as pd
import torch
from PIL import Image

from golden.compare import Model
from golden.drawing import side_by_side
from golden.judges import JudgeSet
from golden.noise import source_noise
from golden.npnet import NPNet
from golden.pipelines import encode_anew, latent_shape
from train.make_shard import Painted, measure, paint

PICTURE_SIZE = 128
"""Pixels on a side of each picture on a sheet."""


class Sampler:
    """Paints the same prompts from the same source noises whenever it is asked, standard beside golden."""

    def __init__(
        self, model: Model, prompts: Sequence[str], judges: JudgeSet | None, *, num_inference_steps: int
    ) -> None:
        """Prompt i is painted from seed i."""
        self.model, self.judges, self.num_inference_steps = model, judges, num_inference_steps
        self.rows = pd.DataFrame({"index": range(len(prompts)), "prompt": prompts, "seed": range(len(prompts))})
        self.embeddings = encode_anew(model.pipeline, prompts)
        self.source = source_noise(self.rows["seed"].tolist(), latent_shape(model.pipeline))

    @torch.inference_mode()
    def __call__(self, network: NPNet) -> tuple[dict[str, float], Image.Image]:
        """Means over the prompts of every figure of source and golden pictures, and a sheet: source above golden.

        Raises: GoldenError with the sentence of a judge that fails.
        """
        device = next(network.parameters()).device
        golden = network(self.source.to(device), self.embeddings["prompt_embeds"].to(device)).cpu()
        noises = {"source": self.source, "golden": golden}
        images = paint(self.model, self.num_inference_steps, self.rows, noises, self.embeddings)
        figures = measure(Painted(self.rows, noises, images), self.model.spec, self.judges)
        means = {
            f"{side}_{name}": float(column.mean()) for side, table in figures.items() for name, column in table.items()
        }
        rows = [
            side_by_side(images[: len(self.rows)], PICTURE_SIZE),
            side_by_side(images[len(self.rows) :], PICTURE_SIZE),
        ]
        sheet = Image.new("RGB", (rows[0].width, 2 * rows[0].height + 2))
        for index, row in enumerate(rows):
            sheet.paste(row, (0, index * (row.height + 2)))
        return means, sheet
