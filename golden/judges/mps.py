"""MPS, the multi-dimensional preference score: the image attends to the words that a condition is about."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..hub import HubFile
from .base import ClipJudge, Config, Scores, Tensors, cosine, parameters_of, unit
from .inputs import Ids, Pixels, Tokens
from .pickscore import VIT_H_14

OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)


ImageTokens = Float[Tensor, "batch tokens width"]
Words = Float[Tensor, "batch length width"]
Kept = Bool[Tensor, "batch length"]


class LayerNorm(nn.Module):
    """Layer norm with a learned scale; its bias is a constant 0 that checkpoints nevertheless hold."""

    bias: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class SwiGLU(nn.Module):
    """(..., 2 D) to (..., D): the second half, through SiLU, gates the first."""

    def forward(self, x: Tensor) -> Tensor:
        values, gate = x.chunk(2, dim=-1)
        return F.silu(gate) * values


class Residual(nn.Module):
    """x + fn(x, ...)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        return x + self.fn(x, *args)


def multi_query_attention(
    q: Float[Tensor, "batch heads tokens size"],
    k: Float[Tensor, "batch keys size"],
    v: Float[Tensor, "batch keys size"],
    mask: Bool[Tensor, "batch 1 1 keys"] | None = None,
) -> Float[Tensor, "batch tokens heads*size"]:
    """Attention of many query heads (B, H, I, d) to one head of keys and values (B, J, d); returns (B, I, H d)."""
    heads = q.shape[1]
    k, v = (t.unsqueeze(1).expand(-1, heads, -1, -1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def split_heads(q: Float[Tensor, "batch tokens width"], heads: int) -> Float[Tensor, "batch {heads} tokens size"]:
    """(B, I, H d) to (B, H, I, d)."""
    return q.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotate(x: Float[Tensor, "*batch length size"]) -> Float[Tensor, "*batch length size"]:
    """Rotary position embedding of (..., L, d), the two halves of d paired. Source: https://arxiv.org/abs/2104.09864"""
    length, size = x.shape[-2:]
    frequencies = 10000.0 ** -(torch.arange(0, size, 2, device=x.device) / size)
    angles = torch.arange(length, device=x.device)[:, None] * frequencies.repeat(2)
    first, second = x.chunk(2, dim=-1)
    return (x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()).to(x.dtype)


class CrossAttention(nn.Module):
    """Image tokens attend to prompt tokens; a feed-forward runs in parallel and is added."""

    def __init__(self, width: int, heads: int, head_width: int, ff_mult: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * ff_mult * width, bias=False), SwiGLU(), nn.Linear(ff_mult * width, width, bias=False)
        )

    def forward(self, x: ImageTokens, context: Words, keep: Kept) -> ImageTokens:
        x = self.norm(x)
        k, v = self.to_kv(context).chunk(2, dim=-1)
        attended = multi_query_attention(split_heads(self.to_q(x), self.heads), k, v, keep[:, None, None])
        return self.to_out(attended) + self.ff(x)


class SelfAttention(nn.Module):
    """Image tokens attend to each other with rotary positions; one projection feeds attention and feed-forward."""

    def __init__(self, width: int, heads: int, head_width: int, ff_mult: int) -> None:
        super().__init__()
        self.heads = heads
        self.widths = [heads * head_width, head_width, head_width, 2 * ff_mult * width]
        self.norm = LayerNorm(width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.attn_out = nn.Linear(heads * head_width, width, bias=False)
        self.ff_out = nn.Sequential(SwiGLU(), nn.Linear(ff_mult * width, width, bias=False))

    def forward(self, x: ImageTokens) -> ImageTokens:
        q, k, v, ff = self.fused_attn_ff_proj(self.norm(x)).split(self.widths, dim=-1)
        attended = multi_query_attention(rotate(split_heads(q, self.heads)), rotate(k), v)
        return self.attn_out(attended) + self.ff_out(ff)


class CrossModel(nn.Module):
    """Layers of cross and self attention from image tokens (B, I, D) to prompt tokens (B, J, D) where `keep` (B, J)."""

    def __init__(self, width: int, layers: int, heads: int, head_width: int, ff_mult: int) -> None:
        super().__init__()
        shape = (width, heads, head_width, ff_mult)
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(CrossAttention(*shape)), Residual(SelfAttention(*shape))]) for _ in range(layers)
        )

    def forward(self, x: ImageTokens, context: Words, keep: Kept) -> ImageTokens:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            x = layer[1](layer[0](x, context, keep))
        return x


class MPS(ClipJudge):
    """exp(logit_scale) * cosine of the prompt and the image that attended to it; `preference` compares a pair.

    Config: `clip` (CLIPConfig's arguments), `cross` (`layers`, `heads`, `head_width`, `ff_mult`), `condition` (the
    words whose meaning decides which prompt tokens the image attends to), `threshold`, `tokenizer`, `context_length`.

    Differs from the original: its pixels are halved in precision, and the mask is scaled by the maximum over the batch;
    here nothing is halved and the maximum is each prompt's own, so that scores do not depend on the batch.

    Source: https://github.com/Kwai-Kolors/MPS, https://arxiv.org/abs/2405.14705
    """

    name = "MPS"
    unit = "scaled cosine"
    digits = 3
    reads = "the words of the prompt that its condition is about, then the image"
    misses = "where things are in the image"
    PUBLISHED: ClassVar[dict[str, Any]] = {
        "clip": VIT_H_14,
        "cross": {"layers": 4, "heads": 16, "head_width": 64, "ff_mult": 4},
        "condition": OVERALL,
        "threshold": 0.01,
        "tokenizer": "clip",
        "context_length": 77,
    }
    # The official file is a pickled module on a drive, which cannot be opened without running its code.
    SOURCES: ClassVar = ((HubFile("RE-N-Y/mpsv1", "model.safetensors"),),)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.cross_model = CrossModel(config["clip"]["projection_dim"], **config["cross"])

    def encode_prompts(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Prompt tokens (N, L, D), unit prompt embeddings (N, D), and which tokens the condition keeps (N, L)."""
        return self.encode_conditioned(tokens.ids, self.tokenize([self.config["condition"]]).ids)

    def encode_conditioned(self, ids: Ids, condition_ids: Int[Tensor, "1 length"]) -> tuple[Tensor, ...]:
        """As `encode_prompts`, for ids (N, L) of prompts and (1, L) of the condition. Padding takes part, too."""
        words, embeds = self.encode_words(ids)
        condition, _ = self.encode_words(condition_ids)
        nearness = torch.einsum("nid,jd->nij", words, condition[0]).amax(dim=-1)
        keep = nearness / nearness.amax(dim=-1, keepdim=True) > self.config["threshold"]
        return words, unit(embeds), keep

    def encode_words(self, ids: Ids) -> tuple[Float[Tensor, "prompts length width"], Float[Tensor, "prompts width"]]:
        """Projected states of all tokens (N, L, D) and of the end token (N, D)."""
        output = self.model.text_model(input_ids=ids)
        return tuple(self.model.text_projection(x) for x in (output.last_hidden_state, output.pooler_output))  # type: ignore

    def encode_patches(self, pixels: Pixels) -> Float[Tensor, "batch tokens features"]:
        """Projected states of the class token and all patches (B, 1 + P, D), without the last layer norm."""
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).last_hidden_state)

    def forward(self, pixels: Pixels, *prompt_features: Tensor) -> Scores:
        words, embeds, keep = prompt_features
        attended = self.cross_model(self.encode_patches(pixels), words, keep)[:, 0]
        return self.model.logit_scale.float().exp() * cosine(unit(attended), embeds)

    @staticmethod
    def preference(scores_a: Scores, scores_b: Scores) -> Scores:
        """(B,) probability that a is preferred to b, of their scores (B,): a softmax over the pair."""
        return torch.sigmoid(scores_a - scores_b)

    @classmethod
    def convert(cls, tensors: Mapping[str, Any]) -> Tensors:
        """`model.` and `cross_model.`, which some ports put below `mps.`."""
        return {key.removeprefix("mps."): value for key, value in parameters_of(tensors).items()}
