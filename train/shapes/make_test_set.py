"""Write the frozen test set of the shapes world: 553 different captions in GenEval's proportions.

python train/shapes/make_test_set.py
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golden.files import ASSETS, write_bytes
from golden.shapes import sample_caption

NUM_PROMPTS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
SEED = 553


def main() -> None:
    rng = np.random.default_rng(SEED)
    rows = []
    for category, num_prompts in NUM_PROMPTS.items():
        prompts: dict[str, None] = {}  # a set that keeps its order
        while len(prompts) < num_prompts:
            prompts[sample_caption(rng, category)] = None
        rows += [{"prompt": prompt, "category": category} for prompt in prompts]
    write_bytes(ASSETS / "shapes" / "prompts_553.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
