"""Options from dataclasses: spelling, types, defaults in the help, and nothing lost on the way."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from golden.errors import ArgumentParser
from golden.flags import add_flags, flag, read_flags


@dataclass(frozen=True)
class Options:
    folder: Path = flag(help="where", positional=True)
    num_steps: int = flag(20, "steps of the sampler")
    start: str | None = flag(None, "NPNet to fine-tune", spelling="--from")
    judges: tuple[str, ...] = flag((), "names of judges")
    attention: bool = flag(True, "self-attention")
    margin: float = flag(0.0, "in %")
    engine: str = flag("local", "what runs it", choices=("local", "ray"))


def read(*words: str) -> Options:
    parser = ArgumentParser(prog="tool")
    add_flags(parser, Options)
    return read_flags(Options, parser.parse_args(words))


def test_defaults_are_those_of_the_dataclass():
    assert read("here") == Options(Path("here"))


def test_every_kind_of_value_is_read():
    words = "here --num-steps 4 --from x --judges a b --no-attention --margin 0.5 --engine ray"
    assert read(*words.split()) == Options(Path("here"), 4, "x", ("a", "b"), False, 0.5, "ray")


@pytest.mark.parametrize("words", [[], ["here", "--num-steps", "x"], ["here", "--engine", "slurm"], ["here", "--nope"]])
def test_bad_options_end_with_one_line_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        read(*words)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_shows_true_defaults_and_no_none(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: 20)" in text
    assert "--attention, --no-attention self-attention (default: True)" in text
    assert "in % (default: 0.0)" in text
    assert "None" not in text
    assert "()" not in text
