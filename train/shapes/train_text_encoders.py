"""Make the embedded model's tokenizer and its two CLIP text encoders.

SDXL takes over text encoders that already know the world. Ours learn it here: from a caption they predict, through
heads that are thrown away, what is in each of 8x8 cells of an image of it, once from the token states by cross
attention (as the UNet will read them) and once from the pooled embedding.

    python train/shapes/train_text_encoders.py
"""

import json
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden.errors import ArgumentParser, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.shapes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    SHAPES,
    VOCABULARY,
    Scene,
    parse_caption,
    sample_caption,
    sample_scene,
)
from train.shapes.training import MODEL_FOLDER, TrainingPlan, rng_for, train

NUM_TOKENS = 24  # the longest caption has 21 words and a comma or full stop
GRID = 8
# Relations are the hardest to read, so more than half of the captions have one; in the order of CATEGORIES.
CATEGORY_SHARES = (0.04, 0.06, 0.08, 0.04, 0.2, 0.1, 0.1, 0.15, 0.08, 0.15)
NUM_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1)
"""What a cell may show, the last of each being background."""


@dataclass(frozen=True)
class TextEncoderOptions:
    """How long to train."""

    num_steps: int = flag(5000, "training steps")
    batch_size: int = flag(64, "captions per step")
    seed: int = flag(2, "seed of the weights and of every batch")


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for which every word of the vocabulary is one token, and any other text its letters."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = Whitespace()
    letters = list("abcdefghijklmnopqrstuvwxyz,.")
    trainer = BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator([*VOCABULARY, *letters], trainer)
    saved = json.loads(bpe.to_str())["model"]
    vocabulary = dict(saved["vocab"])
    for token in [letter + "</w>" for letter in letters] + [start, end]:
        vocabulary.setdefault(token, len(vocabulary))
    folder = MODEL_FOLDER / "tokenizer"
    (folder / "tokenizer.json").unlink(missing_ok=True)  # or a former one would be loaded instead of these files
    merges = "".join(f"{' '.join(pair)}\n" for pair in saved["merges"])
    write_bytes(folder / "vocab.json", json.dumps(vocabulary).encode())
    write_bytes(folder / "merges.txt", ("#version: 0.2\n" + merges).encode())
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=NUM_TOKENS, pad_token=end)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer.save_pretrained(MODEL_FOLDER / name)
    return tokenizer


def make_config(tokenizer: CLIPTokenizer, width: int, num_layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 32,
        max_position_embeddings=NUM_TOKENS,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class LayoutReader(nn.Module):
    """Both text encoders and the heads that predict an image's layout from what the UNet will be given."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(make_config(tokenizer, 96, 3))
        self.text_encoder_2 = CLIPTextModelWithProjection(make_config(tokenizer, 160, 5))
        width, num_classes = 256, sum(NUM_CLASSES)
        self.cells = nn.Parameter(torch.randn(GRID * GRID, width) * 0.1)
        self.attention = nn.MultiheadAttention(width, 8, batch_first=True)
        self.from_tokens = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, num_classes)
        )
        self.from_pooled = nn.Sequential(nn.Linear(160, 512), nn.GELU(), nn.Linear(512, GRID * GRID * num_classes))
        self.background = nn.Linear(160, len(BACKGROUNDS))

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, NUM_TOKENS) ids to logits: two of (B, 64, classes) for the cells and one of (B, 4) for the background."""
        first = self.text_encoder(token_ids, output_hidden_states=True)
        second = self.text_encoder_2(token_ids, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        queries = self.cells.expand(len(token_ids), -1, -1)
        read = queries + self.attention(queries, states, states, need_weights=False)[0]
        pooled = second.text_embeds
        return self.from_tokens(read), self.from_pooled(pooled).unflatten(1, (GRID * GRID, -1)), self.background(pooled)


def layout_of(scene: Scene) -> np.ndarray:
    """(64, 2) indices of shape and colour in each cell; the last index is background."""
    layout = np.tile([len(SHAPES), len(COLOURS)], (GRID, GRID, 1))
    centres = (np.arange(GRID) + 0.5) / GRID
    for item in scene.objects:
        inside = (abs(centres[:, None] - item.y) < item.radius) & (abs(centres[None] - item.x) < item.radius)
        layout[inside] = [SHAPES.index(item.shape), list(COLOURS).index(item.colour)]
    return layout.reshape(-1, 2)


def layout_loss(cells: Tensor, scenes: list[Scene]) -> Tensor:
    """Cross entropy of what each cell shows, from logits (B, 64, sum(NUM_CLASSES)); the sum over shape and colour."""
    layouts = torch.from_numpy(np.stack([layout_of(scene) for scene in scenes]))
    parts = zip(cells.split(NUM_CLASSES, -1), layouts.unbind(-1), strict=True)
    return torch.stack([nn.functional.cross_entropy(part.transpose(1, 2), target) for part, target in parts]).sum()


def background_loss(logits: Tensor, scenes: list[Scene]) -> Tensor:
    """Cross entropy of the background's colour, from logits (B, 4)."""
    wanted = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    return nn.functional.cross_entropy(logits, wanted)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Make the embedded model's tokenizer and train its two CLIP text encoders.")
    add_flags(parser, TextEncoderOptions)
    options = read_flags(TextEncoderOptions, parser.parse_args(argv))
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer()
    reader = LayoutReader(tokenizer)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(options.seed, step)
        categories = rng.choice(CATEGORIES, options.batch_size, p=CATEGORY_SHARES)
        captions = [sample_caption(rng, str(category), held_out=False) for category in categories]
        scenes = [sample_scene(parse_caption(caption), rng) for caption in captions]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            from_tokens, from_pooled, background = (part.float() for part in reader(tokens))
        return background_loss(background, scenes) + layout_loss(from_tokens, scenes) + layout_loss(from_pooled, scenes)

    plan = TrainingPlan(options.num_steps, learning_rate=1e-3, ema_decay=0.995)
    ema: nn.Module = train("text", reader, compute_loss, plan)
    for name in ("text_encoder", "text_encoder_2"):
        getattr(ema, name).half().save_pretrained(MODEL_FOLDER / name)


if __name__ == "__main__":
    run_command(main)
