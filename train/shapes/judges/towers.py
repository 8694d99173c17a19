"""What vision towers learn before they judge: what is where in an image.

Without this no judge learns positions: a tower that only names what is in each patch forgets where the patch is. CLIP's
text tower needs no lesson of its own, since the embedded model's second text encoder knows what a caption puts where.
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


def draw_scenes(rng: np.random.Generator, number: int) -> list[Scene]:
    """Scenes of training captions, at least POSITION_SHARE of which ask for a position."""
    wanted = ["position" if rng.random() < POSITION_SHARE else None for _ in range(number)]
    return [sample_scene(draw_caption(rng, dimension=dimension)[1], rng) for dimension in wanted]


def vision_loss(reader: VisionReader, rng: np.random.Generator, num_images: int) -> Tensor:
    """The loss of a batch of rendered scenes, 3 of 10 of them distorted."""
    scenes = draw_scenes(rng, num_images)
    batch = [draw(scene) for scene in scenes]
    batch = [distort(p, pick_distortion(rng), 0.5 * rng.random(), rng) if rng.random() < 0.3 else p for p in batch]
    return reader.loss(to_pixels(batch), scenes)
