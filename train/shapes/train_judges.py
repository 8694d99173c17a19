"""Train the embedded set of judges, and report what they are worth on captions that they never saw.

    python train/shapes/judge_images.py        # once: the images, in runs/judge_images
    python train/shapes/train_judges.py all    # or one name: PickScore, HPSv2, AES, ImageReward, CLIPScore, MPS
    python train/shapes/train_judges.py --report

Each judge learns from the kind of data that its original saw. All but ImageReward continue from CLIPScore's towers,
which know images and captions, as the originals continue from CLIP. Its text tower starts as the embedded model's own
second text encoder, and both kinds of vision tower, CLIP's and BLIP's, first learn what is where in an image
(train/shapes/judges/towers.py). Killed and started again, training continues from its last checkpoint in
runs/judges-<name>.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.judges import ALL_JUDGES, Judge, embedded_path, load_judge, save_judge
from golden.judges.clip_score import CLIPScore
from train.shapes.judge_images import FOLDER, read_images
from train.shapes.judges.recipes import RECIPES, JudgeRun, train_judge
from train.shapes.judges.report import report


@dataclass(frozen=True)
class JudgeOptions:
    """Which judges to train, on what and for how long, and whether to report."""

    judge: str | None = flag(None, "which one to train", choices=[*RECIPES, "all"], positional=True)
    report: bool = flag(False, "print what the embedded judges are worth")
    images: Path = flag(FOLDER, "folder made by judge_images.py")
    seed: int = flag(0, "seed of the weights and of every batch")
    longer: float = flag(1.0, "this many times every recipe's steps")
    num_steps: int | None = flag(None, "the same number of steps for everything (default: the recipe's)")
    batch_size: int | None = flag(None, "captions per step (default: the recipe's)")

    def __post_init__(self) -> None:
        if self.judge is None and not self.report:
            raise InvalidInput(f"Name a judge to train ({', '.join(RECIPES)}, all), or ask for the --report.")
        if any(count is not None and count < 1 for count in (self.num_steps, self.batch_size)):
            raise InvalidInput("--num-steps and --batch-size must be 1 or more.")
        if not 0 < self.longer <= 100:
            raise InvalidInput(f"--longer must be more than 0 and at most 100, got {self.longer:g}.")


def save(judge: Judge, run: JudgeRun) -> Path:
    """Into the embedded set, in half precision."""
    num_steps = str(run.steps(RECIPES[judge.name].num_steps))
    notes = {"trained_by": "train/shapes/train_judges.py", "num_steps": num_steps, "seed": str(run.seed)}
    return save_judge(judge, dtype=torch.float16, notes=notes)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Train the embedded set of judges, and report what they are worth.")
    add_flags(parser, JudgeOptions)
    options = read_flags(JudgeOptions, parser.parse_args(argv))
    held_out = read_images(options.images, "held_out")
    if options.judge:
        images = read_images(options.images, "train")
        run = JudgeRun(images, held_out, options.seed, options.longer, options.num_steps, options.batch_size)
        for name in RECIPES if options.judge == "all" else [options.judge]:
            print(save(train_judge(name, run), run))
    if options.report:
        text, spread = report({name: load_judge(name) for name in ALL_JUDGES}, held_out)
        write_bytes(embedded_path(CLIPScore).parent / "spread.json", json.dumps(spread, indent=2).encode() + b"\n")
        print(text)


if __name__ == "__main__":
    run_command(main)
