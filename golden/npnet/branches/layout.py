"""The layout branch: a dense map of the noise whose directions the prompt weighs."""

from dataclasses import dataclass

from torch import nn

from .base import BranchInput, Noise, Shapes, check_integers


@dataclass(frozen=True)
class LayoutConfig:
    """rank: how many directions the branch has. hidden: width of its text network."""

    rank: int = 256
    hidden: int = 256

    def __post_init__(self) -> None:
        check_integers(self, {"rank": 8192, "hidden": 8192})


class LayoutBranch(nn.Module):
    """A dense map of low rank over the whole noise, whose directions the prompt weighs, and a mean for each prompt.

    noise (B, C, H, W), prompt_embeds (B, T, D) -> (B, C, H, W); outputs zero at initialisation.
    Differs from the paper: it has no such branch. An image's layout is decided globally, and so is the change that
    re-denoise sampling makes: on the embedded model a dense linear map explains a third of how it depends on the noise,
    and a convolution, which is all that windows without a sense of place amount to, next to nothing.
    """

    def __init__(self, shapes: Shapes, config: LayoutConfig) -> None:
        super().__init__()
        size, hidden = shapes.channels * shapes.height * shapes.width, config.hidden
        tokens = nn.Linear(shapes.num_tokens * shapes.embedding_dim, hidden)
        self.text = nn.Sequential(tokens, nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.weights = nn.Linear(hidden, config.rank)
        self.down = nn.Linear(size, config.rank)
        self.up = nn.Linear(config.rank, size, bias=False)
        self.mean = nn.Linear(hidden, size)
        for layer in (self.up, self.mean):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.mean.bias)

    def forward(self, inputs: BranchInput) -> Noise:
        noise, text = inputs.noise, self.text(inputs.prompt_embeds.flatten(1))
        return (self.mean(text) + self.up(self.down(noise.flatten(1)) * self.weights(text))).view_as(noise)
