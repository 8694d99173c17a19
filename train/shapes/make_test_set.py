"""Write the frozen test sets of the shapes world, of what is held out from training by `is_held_out`.

python train/shapes/make_test_set.py
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from golden.errors import ArgumentParser, run_command
from golden.files import ASSETS, write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.shapes import HARD_CATEGORIES, TEST_SETS, parse_caption, request_key, sample_caption

# GenEval's proportions. Source: arXiv 2310.11513, Table 1.
GENEVAL_PROMPTS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
HARD_PROMPTS = dict.fromkeys(HARD_CATEGORIES, 100)
PLANS = {"shapes-553": (GENEVAL_PROMPTS, 553), "shapes-hard-400": (HARD_PROMPTS, 400)}
"""Test set -> (number of prompts by category, seed)."""
POOL = 20
"""As many times the captions that are wanted are drawn, so that as many different things as possible are asked."""


@dataclass(frozen=True)
class PromptSetOptions:
    """What to write, and where."""

    folder: Path = flag(ASSETS / "shapes", "folder to write the test sets to")


def make_test_set(num_prompts: dict[str, int], seed: int) -> list[dict]:
    """Rows {"prompt", "category"}: different captions, and different requests as far as there are enough of them."""
    rng = np.random.default_rng(seed)
    return [
        {"prompt": prompt, "category": category}
        for category, number in num_prompts.items()
        for prompt in sample_prompts(rng, category, number)
    ]


def sample_prompts(rng: np.random.Generator, category: str, number: int) -> list[str]:
    """Different held-out captions of a category: one for each request in turn, then another wording of each."""
    wordings: dict[str, dict[str, None]] = defaultdict(dict)  # a set of captions that keeps its order, by request
    num_drawn = 0
    while num_drawn < POOL * number or sum(map(len, wordings.values())) < number:
        caption = sample_caption(rng, category, held_out=True)
        wordings[request_key(parse_caption(caption))][caption] = None
        num_drawn += 1
    return list(islice(_in_turn(wordings), number))


def _in_turn(wordings: dict[str, dict[str, None]]) -> Iterator[str]:
    """The first caption of each request, then the second of each that has one, and so on."""
    for turn in range(max(map(len, wordings.values()))):
        yield from (list(captions)[turn] for captions in wordings.values() if len(captions) > turn)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Write the frozen test sets of the shapes world.")
    add_flags(parser, PromptSetOptions)
    options = read_flags(PromptSetOptions, parser.parse_args(argv))
    for name, (num_prompts, seed) in PLANS.items():
        path = options.folder / TEST_SETS[name].name
        rows = make_test_set(num_prompts, seed)
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        num_requests = len({request_key(parse_caption(row["prompt"])) for row in rows})
        print(f"{path}: {len(rows)} prompts that ask for {num_requests} different things")


if __name__ == "__main__":
    run_command(main)
