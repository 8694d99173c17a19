"""What towers learn before they judge: vision towers what is where in an image, CLIP's text tower where words put it.

Without this no judge learns positions. A vision tower that only names what is in each patch forgets where the patch
is, and the pooled output of the embedded model's text encoder says nothing of relations: from it, "left of" is told
from "right of" in 50 % of captions, and from its word states in 100 %. See train/shapes/README.md.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.shapes import BACKGROUNDS, COLOURS, SHAPES, Scene, sample_scene
from train.shapes.judges.captions import draw, draw_caption
from train.shapes.judges.configs import VISION
from train.shapes.judges.distortions import distort, pick_distortion
from train.shapes.judges.pairs import to_pixels
from train.shapes.train_text_encoders import GRID, NUM_CLASSES, background_loss, layout_loss

KINDS = (*SHAPES, *COLOURS)
SIDES = ("absent", "low", "middle", "high")
"""Where objects of a kind are along x or y, as seen from the middle of all objects."""
MIDDLE = 0.06
"""How near to the middle of all objects, in images, the middle is."""
POSITION_SHARE = 0.5
"""Share of captions that ask for a position, while towers learn; among captions drawn at random it is 0.3."""


def sides_of(scene: Scene) -> np.ndarray:
    """(len(KINDS), 2) indices into SIDES, along x and y, of the mean centre of each kind's objects."""
    middle = np.mean([(item.x, item.y) for item in scene.objects], axis=0)
    sides = np.zeros((len(KINDS), 2), np.int64)
    for index, kind in enumerate(KINDS):
        centres = [(item.x, item.y) for item in scene.objects if kind in (item.shape, item.colour)]
        if centres:
            offset = np.mean(centres, axis=0) - middle
            sides[index] = np.where(abs(offset) < MIDDLE, 2, np.where(offset < 0, 1, 3))
    return sides


class SidesHead(nn.Module):
    """(B, width) embeddings to logits (B, len(KINDS), 2, len(SIDES)), thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, len(KINDS) * 2 * len(SIDES)))

    def forward(self, embeds: Tensor) -> Tensor:
        return self.layers(embeds).unflatten(-1, (len(KINDS), 2, len(SIDES))).float()

    def loss(self, embeds: Tensor, scenes: list[Scene]) -> Tensor:
        """Cross entropy of where each kind is; scenes are of the rows of `embeds`."""
        wanted = torch.from_numpy(np.stack([sides_of(scene) for scene in scenes]))
        return F.cross_entropy(self(embeds).flatten(0, 2), wanted.flatten())


class VisionReader(nn.Module):
    """A vision tower, and heads that say what each patch shows and where it is, and what is where in the image."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        width = VISION["hidden_size"]
        self.tower = tower
        self.cells = nn.Linear(width, sum(NUM_CLASSES))
        self.places = nn.Linear(width, 2 * GRID)
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.sides = SidesHead(width)

    def loss(self, pixels: Tensor, scenes: list[Scene]) -> Tensor:
        output = self.tower(pixel_values=pixels)
        patches, whole = output.last_hidden_state[:, 1:], output.pooler_output
        loss = background_loss(self.background(whole).float(), scenes) + layout_loss(
            self.cells(patches).float(), scenes
        )
        return loss + place_loss(self.places(patches).float()) + 2 * self.sides.loss(whole, scenes)


def place_loss(logits: Tensor) -> Tensor:
    """Cross entropy of each patch's own row and column, from logits (B, 64, 2 * GRID)."""
    patch = torch.arange(GRID * GRID).expand(len(logits), -1)
    rows, columns = logits.transpose(1, 2).chunk(2, dim=1)
    return F.cross_entropy(rows, patch // GRID) + F.cross_entropy(columns, patch % GRID)


class TextReader(nn.Module):
    """CLIP's text tower with its projection, and a head that says of a caption what is where in a scene of it."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.sides = SidesHead(width)

    def loss(self, ids: Tensor, scenes: list[Scene]) -> Tensor:
        return self.sides.loss(self.tower(input_ids=ids).text_embeds, scenes)


def draw_scenes(rng: np.random.Generator, number: int) -> tuple[list[str], list[Scene]]:
    """Training captions, at least POSITION_SHARE of which ask for a position, and a scene of each."""
    wanted = ["position" if rng.random() < POSITION_SHARE else None for _ in range(number)]
    drawn = [draw_caption(rng, dimension=dimension) for dimension in wanted]
    return [caption for caption, _ in drawn], [sample_scene(request, rng) for _, request in drawn]


def vision_loss(reader: VisionReader, rng: np.random.Generator, num_images: int) -> Tensor:
    """The loss of a batch of rendered scenes, 3 of 10 of them distorted."""
    _, scenes = draw_scenes(rng, num_images)
    batch = [draw(scene) for scene in scenes]
    batch = [distort(p, pick_distortion(rng), 0.5 * rng.random(), rng) if rng.random() < 0.3 else p for p in batch]
    return reader.loss(to_pixels(batch), scenes)
