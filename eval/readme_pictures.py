"""Draw the README's comparison: the first test prompts on which standard and golden pictures get different verdicts.

python eval/readme_pictures.py
"""

import sys
from pathlib import Path

import matplotlib

# Not before this folder: its statistics.py would hide Python's own.
sys.path[0] = str(Path(__file__).resolve().parents[1])


matplotlib.use("Agg")

from matplotlib import pyplot

from golden.compare import CompareRequest, Comparison, load_model, run_comparison
from golden.errors import run_command
from golden.files import ASSETS, atomic_path
from golden.shapes import load_test_prompts

NUM_COLUMNS = 8
TITLES = {"standard": "standard", "npnet": "golden"}


def first_differences(num: int) -> list[Comparison]:
    """Comparisons at seed 0, in the order of the test set taken across its categories, that the checker tells apart."""
    model = load_model("shapes")
    prompts = [row["prompt"] for row in load_test_prompts()]
    found = []
    for prompt in prompts[::23] + prompts[11::23]:
        comparison = run_comparison(CompareRequest(prompt), model)
        if comparison.verdicts["standard"].correct != comparison.verdicts["npnet"].correct:
            found.append(comparison)
        if len(found) == num:
            break
    return found


def main() -> None:
    found = first_differences(NUM_COLUMNS)
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
