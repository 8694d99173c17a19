"""Make the embedded model's tokenizer and its two CLIP text encoders.

SDXL takes over text encoders that already know the world. Ours learn it here: from a caption they predict, through
heads that are thrown away, what stands in each of 8x8 cells of a picture of it, once from the token states by cross
attention (as the UNet will read them) and once from the pooled embedding.

    python train/shapes/train_text_encoders.py
"""

import json

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from training import MODEL_FOLDER, rng_for, train
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden.errors import ArgumentParser, run_command
from golden.files import write_bytes
from golden.shapes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    VOCABULARY,
    Scene,
    parse_caption,
    sample_scene,
    training_captions,
)

NUM_TOKENS = 20  # the longest caption has 16 words
GRID = 8


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for which every word of the vocabulary is one token, and any other text its letters."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = Whitespace()
    letters = list("abcdefghijklmnopqrstuvwxyz")
    trainer = BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator([*VOCABULARY, *letters], trainer)
    saved = json.loads(bpe.to_str())["model"]
    vocabulary = dict(saved["vocab"])
    for token in [letter + "</w>" for letter in letters] + [start, end]:
        vocabulary.setdefault(token, len(vocabulary))
    folder = MODEL_FOLDER / "tokenizer"
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
    """Both text encoders and the heads that predict a picture's layout from what the UNet will be given."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(make_config(tokenizer, 96, 2))
        self.text_encoder_2 = CLIPTextModelWithProjection(make_config(tokenizer, 160, 3))
        width, num_classes = 256, len(SHAPES) + 1 + len(COLOURS) + 1
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
    """(64, 2) indices of shape and colour in each cell; the last index stands for background."""
    layout = np.tile([len(SHAPES), len(COLOURS)], (GRID, GRID, 1))
    centres = (np.arange(GRID) + 0.5) / GRID
    for item in scene.objects:
        inside = (abs(centres[:, None] - item.y) < item.radius) & (abs(centres[None] - item.x) < item.radius)
        layout[inside] = [SHAPES.index(item.shape), list(COLOURS).index(item.colour)]
    return layout.reshape(-1, 2)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = make_tokenizer()
    reader = LayoutReader(tokenizer)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(arguments.seed, step)
        captions = [caption for caption, _ in zip(training_captions(rng), range(arguments.batch_size))]  # noqa: B905
        scenes = [sample_scene(parse_caption(caption), rng) for caption in captions]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        layouts = torch.from_numpy(np.stack([layout_of(scene) for scene in scenes]))
        backgrounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
        with torch.autocast("cpu", torch.bfloat16):
            *logits, background_logits = (part.float() for part in reader(tokens))
        loss = nn.functional.cross_entropy(background_logits, backgrounds)
        for cells in logits:
            for part, target in zip(
                cells.split([len(SHAPES) + 1, len(COLOURS) + 1], -1), layouts.unbind(-1), strict=True
            ):
                loss = loss + nn.functional.cross_entropy(part.transpose(1, 2), target)
        return loss

    ema = train("text", reader, compute_loss, num_steps=arguments.num_steps, learning_rate=1e-3, ema_decay=0.995)
    ema.text_encoder.half().save_pretrained(MODEL_FOLDER / "text_encoder")
    ema.text_encoder_2.half().save_pretrained(MODEL_FOLDER / "text_encoder_2")


if __name__ == "__main__":
    run_command(main)
