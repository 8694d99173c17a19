"""Render and check images of the shapes world.

python -m golden.shapes render "a red circle left of a blue square" out.png --seed 3
python -m golden.shapes check "a red circle left of a blue square" out.png
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ArgumentParser, InvalidInput, run_command
from ..files import atomic_path, open_image
from . import check_image, parse_caption, render, sample_scene


def main(argv: Sequence[str] | None = None, prog: str = "python -m golden.shapes") -> int:
    description = "Render and check images of the shapes world."
    parser = ArgumentParser(prog=prog, description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("render", help="draw a random scene for which a caption is true")
    draw.add_argument("caption")
    draw.add_argument("image", type=Path, help="PNG file to write")
    draw.add_argument("--seed", type=int, default=0, help="which of the many such scenes, 0 or more")
    says = "say whether an image shows what a caption asks for (exit 0 right, 1 wrong)"
    check = commands.add_parser("check", help=says)
    check.add_argument("caption")
    check.add_argument("image", type=Path)
    arguments = parser.parse_args(argv)
    request = parse_caption(arguments.caption)
    if arguments.command == "check":
        verdict = check_image(request, open_image(arguments.image))
        print(verdict)
        return 0 if verdict.correct else 1
    if arguments.seed < 0:
        raise InvalidInput(f"The seed must be 0 or more, got {arguments.seed}.")
    if arguments.image.suffix.lower() != ".png":
        raise InvalidInput(f"The image is written as PNG: give a name ending in .png, not {arguments.image.name!r}.")
    try:
        with atomic_path(arguments.image) as temporary:
            render(sample_scene(request, np.random.default_rng(arguments.seed))).save(temporary, format="PNG")
    except OSError as error:
        raise InvalidInput(f"{arguments.image} cannot be written: {error.strerror or error}.") from error
    return 0


if __name__ == "__main__":
    run_command(main)
