"""Draw the README's comparison: test prompts, drawn at random, whose standard and golden pictures get other verdicts.

python eval/readme_pictures.py
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

# Not before this folder: its statistics.py would hide Python's own.
sys.path[0] = str(Path(__file__).resolve().parents[1])


matplotlib.use("Agg")

from matplotlib import pyplot

from golden.compare import CompareRequest, Comparison, load_model, run_comparison
from golden.errors import run_command
from golden.files import ASSETS, atomic_path
from golden.shapes import load_test_prompts

NUM_WON, NUM_LOST = 4, 3  # as the main benchmark on the shapes world counts them, 203 to 142
TITLES = {"standard": "standard", "npnet": "golden"}


def draw_differences(num_won: int, num_lost: int) -> list[Comparison]:
    """Test prompts and the benchmark's seeds at random, until golden has won and lost so many in the checker's eyes."""
    model = load_model("shapes")
    prompts = [row["prompt"] for row in load_test_prompts()]
    rng = np.random.default_rng(0)
    found: list[Comparison] = []
    left = {True: num_won, False: num_lost}
    while any(left.values()):
        comparison = run_comparison(CompareRequest(str(rng.choice(prompts)), seed=int(rng.integers(4))), model)
        won = comparison.verdicts["npnet"].correct
        if won != comparison.verdicts["standard"].correct and left[won]:
            left[won] -= 1
            found.append(comparison)
    return found


def main() -> None:
    found = draw_differences(NUM_WON, NUM_LOST)
    figure, axes = pyplot.subplots(2, len(found), figsize=(1.6 * len(found), 4.2), squeeze=False)
    for column, comparison in enumerate(found):
        for row, (arm, title) in enumerate(TITLES.items()):
            axis = axes[row, column]
            axis.imshow(comparison.images[arm])
            axis.set_xticks([])
            axis.set_yticks([])
            right = comparison.verdicts[arm].correct
            axis.set_xlabel("right" if right else "wrong", color="#1b7f3b" if right else "#b3261e", fontsize=9)
            if column == 0:
                axis.set_ylabel(title, fontsize=10)
        words = comparison.request.prompt.replace("background", "backgr.").split()
        lines = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
        axes[0, column].set_title("\n".join(lines), fontsize=7)
    figure.tight_layout()
    with atomic_path(ASSETS / "pictures" / "comparison.png") as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_command(main)
