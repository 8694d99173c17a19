"""Write captions for collection and training to a file, one a line: the harder a kind, the more of them.

    python train/shapes/draw_captions.py runs/captions.txt --num-captions 12000

What they ask for is in no test set. A longer file begins with what a shorter one contains.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.shapes import CATEGORIES, sample_caption

SHARES = dict.fromkeys(CATEGORIES, 2) | {"single_object": 1, "colors": 1, "three_object": 3, "two_relation": 3}
"""How often a kind is drawn, relative to the others: where the model fails more, verifier and NPNet learn more."""


@dataclass(frozen=True)
class CaptionOptions:
    """Where to write, and how many different captions."""

    path: Path = flag(help="file to write", positional=True)
    num_captions: int = flag(12000, "how many captions")
    seed: int = flag(5, "decides the captions")

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise InvalidInput(f"--num-captions must be 1 or more, got {self.num_captions}.")


def draw_training_captions(num: int, seed: int) -> list[str]:
    """`num` different captions that trainings may see."""
    rng = np.random.default_rng(seed)
    shares = np.array([SHARES[category] for category in CATEGORIES]) / sum(SHARES.values())
    captions: dict[str, None] = {}
    while len(captions) < num:
        captions[sample_caption(rng, CATEGORIES[rng.choice(len(CATEGORIES), p=shares)], held_out=False)] = None
    return list(captions)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Write captions for collection and training to a file.")
    add_flags(parser, CaptionOptions)
    options = read_flags(CaptionOptions, parser.parse_args(argv))
    captions = draw_training_captions(options.num_captions, options.seed)
    write_bytes(options.path, ("\n".join(captions) + "\n").encode())


if __name__ == "__main__":
    run_command(main)
