"""The command `golden`: one command line for everything. Each subcommand is a module, imported when it is asked for.

Modules are named by text and not by an import statement, since those of train and eval are above this one.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from . import __version__
from .errors import ArgumentParser, MissingPackage, run_command


class Command(NamedTuple):
    """A subcommand: `main(argv, prog)` of a module, and the extra of the package that brings what it imports."""

    module: str
    help: str
    extra: str | None = None


COMMANDS: dict[str, Command] = {
    "app": Command("golden.ui.app", "compare standard and golden noise in a browser", "app"),
    "render": Command("golden.render", "render prompts from standard and from golden noise"),
    "collect": Command("train.collect_pairs", "collect noise pairs to train an NPNet on", "train"),
    "train": Command("train.train_npnet", "train an NPNet on collected pairs", "train"),
    "verifier": Command("train.train_verifier", "train a verifier on collected pairs", "train"),
    "bench": Command("eval.run_benchmark", "measure arms against each other; without options, list the suites", "eval"),
    "judge": Command("golden.judges.command", "score images with the judges"),
    "shapes": Command("golden.shapes.__main__", "render and check images of the shapes world"),
    "npnet": Command("golden.describe", "describe a weight file"),
}


def make_parser() -> ArgumentParser:
    """What answers to `golden --help`, `golden --version` and wrong names; subcommands have parsers of their own."""
    parser = ArgumentParser(
        prog="golden",
        description="Golden noise for diffusion models: see it, use it, train it, measure it.",
        epilog="golden COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"golden {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Raises: MissingPackage that names the extra to install if a package is missing."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] not in COMMANDS:
        make_parser().parse_args(argv)
    name, *rest = argv
    command = COMMANDS[name]
    try:
        return import_module(command.module).main(rest, prog=f"golden {name}") or 0
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if command.extra is None or missing in ("golden", "train", "eval", ""):
            raise
        raise MissingPackage(
            f"golden {name} needs the package {missing}: install it with pip install 'golden[{command.extra}]'."
        ) from error


def run() -> None:
    """The console script."""
    run_command(main)
