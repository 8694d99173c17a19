"""Make the README's comparison: random test prompts whose standard and golden images get different verdicts.

python eval/readme_images.py
"""

from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from eval.prompt_sets import Prompt
from eval.rendering import list_units
from golden.compare import CompareRequest, Comparison, run_comparison
from golden.errors import ArgumentParser, run_command
from golden.files import ASSETS, atomic_path
from golden.model import load_model
from golden.shapes import TEST_SETS, load_test_prompts

NUM_WON, NUM_LOST = 6, 2  # the ratio of the benchmark on both test sets, 225 to 73
NUM_SEEDS = 2
TITLES = {"standard": "standard", "npnet": "golden"}


def find_differences(num_won: int, num_lost: int) -> list[Comparison]:
    """Random test prompts and noises of the benchmark, until golden has won and lost so many by the checker."""
    model = load_model("shapes", device="cpu")
    sets = [[Prompt(row["prompt"]) for row in load_test_prompts(path)] for path in TEST_SETS.values()]
    units = [unit for seed in range(NUM_SEEDS) for prompts in sets for unit in list_units(prompts, [seed])]
    rng = np.random.default_rng(0)
    found: list[Comparison] = []
    left = {True: num_won, False: num_lost}
    for index in rng.permutation(len(units)):
        if not any(left.values()):
            break
        unit = units[index]
        comparison = run_comparison(CompareRequest(prompt=unit.prompt.text, seed=unit.noise_seed), model)
        won = comparison.verdicts["npnet"].correct
        if won != comparison.verdicts["standard"].correct and left[won]:
            left[won] -= 1
            found.append(comparison)
    return found


def draw_image(axis: Axes, comparison: Comparison, arm: str) -> None:
    """An image of a comparison with its verdict below it."""
    right = comparison.verdicts[arm].correct
    axis.imshow(comparison.images[arm])
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("right" if right else "wrong", color="#1b7f3b" if right else "#b3261e", fontsize=9)


def main(argv: Sequence[str] | None = None) -> None:
    ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(argv)
    found = find_differences(NUM_WON, NUM_LOST)
    figure, axes = pyplot.subplots(2, len(found), figsize=(1.6 * len(found), 4.2), squeeze=False)
    for column, comparison in enumerate(found):
        for row, arm in enumerate(TITLES):
            draw_image(axes[row, column], comparison, arm)
        words = comparison.request.prompt.replace("background", "backgr.").split()
        lines = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
        axes[0, column].set_title("\n".join(lines), fontsize=7)
    for row, title in enumerate(TITLES.values()):
        axes[row, 0].set_ylabel(title, fontsize=10)
    figure.tight_layout()
    with atomic_path(ASSETS / "images" / "comparison.png") as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_command(main)
