"""Tokens of any number pooled by attention, where one Linear over all of them would be too large."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class TokenPool(nn.Module):
    """What each of some learned queries finds among the tokens of a prompt: (B, T, D) -> (B, num_queries * width).

    The size of the module does not depend on the number of tokens. Tokens of zeros only are not seen: they stand for
    what lies beyond the prompt, or for a text encoder that a pipeline does without.
    """

    def __init__(self, embedding_dim: int, num_queries: int, width: int) -> None:
        super().__init__()
        self.num_outputs = num_queries * width
        self.norm = nn.LayerNorm(embedding_dim)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.key = nn.Linear(embedding_dim, width, bias=False)
        self.value = nn.Linear(embedding_dim, width)

    def forward(self, tokens: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch outputs"]:
        empty = (tokens == 0).all(-1)
        seen = ~empty | empty.all(1, keepdim=True)  # of zeros throughout all are seen, or there would be no mean
        tokens = self.norm(tokens)
        queries = self.queries.expand(len(tokens), -1, -1)
        found = F.scaled_dot_product_attention(
            queries, self.key(tokens), self.value(tokens), attn_mask=seen.unsqueeze(1).expand(-1, len(self.queries), -1)
        )
        return found.flatten(1)
