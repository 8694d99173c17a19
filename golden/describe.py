"""`golden npnet --describe FILE`: what a weight file of an NPNet holds, its config, its parameters, how it was trained.

Heavy modules are imported where they are used, so that `--help` answers at once.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .errors import ArgumentParser
from .flags import add_flags, flag, read_flags

if TYPE_CHECKING:
    from .npnet import NPNet


@dataclass(frozen=True)
class NPNetOptions:
    describe: str = flag(help="a weight file, or the name of published weights", metavar="FILE")


def describe_npnet(network: "NPNet") -> Iterator[str]:
    """Lines on an NPNet: its config, the parameters of its branches, and what its file records of its training."""
    yield "config:"
    yield from _indent(asdict(network.config))
    yield "parameters:"
    counts = {
        name: sum(weight.numel() for weight in module.parameters()) for name, module in network.branch_modules.items()
    }
    for name, count in counts.items():
        yield f"  {name}: {count:,}"
    yield f"  all: {sum(weight.numel() for weight in network.parameters()):,}"
    yield f"  alpha: {network.alpha.item():.4g}, beta: {network.beta.item():.4g}"
    yield from _describe_training(network.metadata)


def _describe_training(metadata: dict[str, str]) -> Iterator[str]:
    """What the file says about itself: anybody may have written it, so that it is shown and never trusted."""
    if "training" not in metadata:
        yield "training: the file records nothing"
    for name, text in metadata.items():
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = text
        if isinstance(values, dict):
            yield f"{name}:"
            yield from _indent(values)
        else:
            yield f"{name}: {_shown(values)}"


def _indent(values: dict[str, Any], depth: int = 1) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value and depth < 8:
            yield f"{'  ' * depth}{_shown(name)}:"
            yield from _indent(value, depth + 1)
        else:
            yield f"{'  ' * depth}{_shown(name)}: {_shown(value)}"


def _shown(value: Any) -> str:
    """In one line, without characters that would move the cursor of a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def main(argv: Sequence[str] | None = None, prog: str = "golden npnet") -> None:
    parser = ArgumentParser(prog=prog, description="Describe a weight file: config, parameters and training record.")
    add_flags(parser, NPNetOptions)
    options = read_flags(NPNetOptions, parser.parse_args(argv))
    from .files import sha256
    from .npnet import find_npnet, load_npnet

    path = find_npnet(options.describe)
    network = load_npnet(path)
    print(f"{path}\nsha256: {sha256(path)}")
    print("\n".join(describe_npnet(network)))
