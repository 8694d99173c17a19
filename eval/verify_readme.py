"""Run the commands of README.md, RESULTS.md, train/README.md and LOG.md again, and compare their figures with the text.

    python eval/verify_readme.py            # every block that states at most 5 minutes
    python eval/verify_readme.py --quick    # those of at most 20 seconds; of all others that their options exist

The convention: below a block of shell commands may stand a comment, which nobody sees who reads the page. It states how
long the block takes, and the figures that the text quotes from its output, each with a spread.

    ```sh
    python eval/judge_agreement.py --num-pairs 400
    ```
    <!-- verify: 60 s
    PickScore = 85.0 +- 0.5
    MPS.*with a choice = 84.1 +- 0.5
    -->

A figure is the first number after the first place in the output that matches what stands before its equals sign (a
regular expression). It must be as near to the comment's as the spread says, and the comment's must also stand in the
text between the headings around the block, so that a text that changes without its comment is found, too. Outputs under
runs/ go to a temporary folder. Blocks without a comment are not run, but their options are looked up in the help.

Tables that take longer to measure come from an answer.json beside an embedded model. README.md and eval/RESULTS.md must
say what stands there.
"""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import ASSETS
from golden.flags import add_flags, flag, read_flags

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md", "eval/RESULTS.md", "train/README.md", "eval/LOG.md")
ANSWERED = {"README.md": ("standard", "npnet"), "eval/RESULTS.md": ()}
"""Documents that quote answer.json, and the arms that they must quote; all of them if none is named."""
MAX_SECONDS = 300
QUICK_SECONDS = 20
PATIENCE = 5
"""A block is stopped after so many times what it states: other machines are slower."""

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_COMMENT = re.compile(r"<!-- verify: ([\d.]+) s\s*\n?(.*?)-->", re.DOTALL)
_FIGURE = re.compile(r"(.+?) = ([-+]?[\d.,]+) \+- ([\d.]+)")
_HEADING = re.compile(r"^#+ ", re.MULTILINE)
_FENCE = re.compile(r"^```sh\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Figure:
    """A number of the text: `pattern` finds it in the output, from which `value` may differ by `spread`."""

    pattern: str
    value: str
    spread: float


@dataclass(frozen=True)
class Block:
    """A block of commands: where it stands, how long it takes (None if not stated), and what the text says of it."""

    place: str
    script: str
    seconds: float | None
    figures: tuple[Figure, ...]
    section: str


# --- reading ---------------------------------------------------------------------------------------------------------


def read_blocks(path: Path) -> list[Block]:
    """The blocks of shell commands of a Markdown file, in order.

    Raises: InvalidInput for a comment that is not as described above, by its line.
    """
    text = path.read_text(encoding="utf-8")
    headings = [0, *(match.start() for match in _HEADING.finditer(text)), len(text)]
    blocks = []
    for match in _FENCE.finditer(text):
        start = max(each for each in headings if each <= match.start())
        end = min(each for each in headings if each >= match.end())
        place = f"{path.name}:{text.count(chr(10), 0, match.start()) + 1}"
        section = _FENCE.sub("", _COMMENT.sub("", text[start:end]))
        after = text[match.end() :].lstrip("\n")
        seconds, figures = _read_comment(after, place)
        blocks.append(Block(place, match[1], seconds, figures, section))
    return blocks


def _read_comment(after: str, place: str) -> tuple[float | None, tuple[Figure, ...]]:
    if not after.startswith("<!-- verify"):
        return None, ()
    comment = _COMMENT.match(after)
    lines = [line.strip() for line in comment[2].splitlines() if line.strip()] if comment else []
    found = [_FIGURE.fullmatch(line) for line in lines]
    if not comment or not all(found):
        raise InvalidInput(f"The comment below {place} must be '<!-- verify: 20 s', lines 'NAME = 1.0 +- 0.1', '-->'.")
    return float(comment[1]), tuple(Figure(each[1], each[2], float(each[3])) for each in found if each)


def commands_of(script: str) -> Iterator[list[str]]:
    """The commands of a block as words, without comments and settings of the environment."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


# --- checks without running ------------------------------------------------------------------------------------------


def check_text(block: Block) -> list[str]:
    """The figures of a block's comment that do not stand in the text around it."""
    numbers = set(_NUMBER.findall(block.section)) | {each.lstrip("+-") for each in _NUMBER.findall(block.section)}
    return [
        f"{block.place}: {figure.pattern} = {figure.value} does not stand in the text"
        for figure in block.figures
        if figure.value not in numbers
    ]


def check_answers(text: str, arms: Sequence[str]) -> list[str]:
    """What the answer.json of an embedded model says of `arms` (or of all) and a document does not."""
    from eval.tables import format_interval  # here, so that --help answers at once
    from golden.statistics import Interval

    text, faults = _without_signs_of_zero(text), []
    for name, arm, found in (each for each in _read_answers() if not arms or each[1] in arms):
        figures = [f"{100 * found['right']:.1f} %"]
        if "difference" in found:
            figures.append(format_interval(Interval(*(100 * end for end in found["difference"])), 1, signed=True))
        missing = [figure for figure in map(_without_signs_of_zero, figures) if figure not in text]
        faults += [f"{name}: {arm} = {figure} does not stand in the text" for figure in missing]
    return faults


def _read_answers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(model and prompt set, arm, its figures) of every answer.json."""
    for path in sorted(ASSETS.glob("*/answer.json")):
        answer = json.loads(path.read_text(encoding="utf-8"))
        for part in (answer, *answer.get("others", ())):
            for arm, found in part["arms"].items():
                yield f"{part['model']} on {part['prompts']}", arm, found


def _without_signs_of_zero(text: str) -> str:
    return re.sub(r"[-+]0\.0(?!\d)", "0.0", text)


def check_options(block: Block) -> list[str]:
    """The options in a block that its commands do not have, and scripts that are not there."""
    faults = []
    for words in commands_of(block.script):
        target, rest = _find_target(words)
        if target is None:
            continue
        shown = read_help(*target)
        if shown is None:
            faults.append(f"{block.place}: there is no {' '.join(target)}")
            continue
        known = set(re.findall(r"--[\w-]+", shown))
        unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
        faults += [f"{block.place}: {' '.join(target)} has no option {word}" for word in unknown]
    return faults


def _find_target(words: Sequence[str]) -> tuple[tuple[str, ...] | None, Sequence[str]]:
    """What of this project a command starts, with `golden` its subcommand, and the words after that."""
    if words[0] == "golden":
        named = len(words) > 1 and not words[1].startswith("-")
        return (("golden", words[1]), words[2:]) if named else (("golden",), words[1:])
    for index, word in enumerate(words):
        if word.endswith(".py") and words[0] in ("python", "python3", "torchrun"):
            return (word,), words[index + 1 :]
        if word == "-m" and words[0] in ("python", "python3") and words[index + 1].split(".")[0] in ("golden", "tests"):
            return ("-m", words[index + 1]), words[index + 2 :]
    return None, ()


@cache
def read_help(*target: str) -> str | None:
    """The help of a script, a module ("-m", name) or a subcommand of golden; None if there is none of that name."""
    name = target[-1]
    if target[0] == "golden":
        from golden.cli import COMMANDS

        if len(target) > 1 and name not in COMMANDS:
            return None
    elif not (ROOT / (f"{name.replace('.', '/')}.py" if target[0] == "-m" else name)).exists():
        package = ROOT / name.replace(".", "/") / "__main__.py"
        if target[0] != "-m" or not package.exists():
            return None
    module = target[0] in ("golden", "-m")
    argv, said = [*(target[1:] if target[0] == "golden" else ()), "--help"], io.StringIO()
    before = sys.argv
    try:
        sys.argv = [name, *argv]
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            if module:
                runpy.run_module("golden" if target[0] == "golden" else name, run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
    finally:
        sys.argv = before
    return said.getvalue()


# --- running ---------------------------------------------------------------------------------------------------------


def run_block(block: Block) -> tuple[str, str]:
    """(output, what went wrong): the commands in a shell, in the clone, by this Python."""
    with tempfile.TemporaryDirectory() as folder:
        tools, runs = Path(folder) / "bin", Path(folder) / "runs"
        tools.mkdir()
        runs.mkdir()
        for name, code in (("python", '"$@"'), ("golden", '-m golden "$@"')):
            path = tools / name
            path.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {code}\n")
            path.chmod(0o755)
        script = re.sub(r"(?<![\w/])runs/", f"{runs}/", block.script)
        environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        limit = PATIENCE * (block.seconds or MAX_SECONDS)
        try:
            done = subprocess.run(
                ["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return "", f"took more than {limit:.0f} s"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return done.stdout + done.stderr, f"ended with {done.returncode}: {last}" if done.returncode else ""


def compare(block: Block, output: str) -> list[str]:
    """The figures that an output does not confirm."""
    faults = []
    for figure in block.figures:
        match = re.search(figure.pattern, output)
        number = _NUMBER.search(output, match.end()) if match else None
        if number is None:
            faults.append(f"{block.place}: {figure.pattern} is not in the output")
            continue
        got, said = (float(text.replace(",", "")) for text in (number[0], figure.value))
        if abs(got - said) > figure.spread * (1 + 1e-9):
            said_so = f"the text says {figure.value} +- {figure.spread:g}"
            faults.append(f"{block.place}: {figure.pattern} = {got:g}, {said_so}")
    return faults


def verify(files: Sequence[Path], max_seconds: float) -> list[str]:
    """All faults of some files, with a line printed for each block."""
    faults: list[str] = []
    for path in files:
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
        if name in ANSWERED:
            found = check_answers(path.read_text(encoding="utf-8"), ANSWERED[name])
            print(f"{'MISMATCH' if found else 'ok':9} {name:20} tables of the embedded models", flush=True)
            faults += [f"{name}: {fault}" for fault in found]
    for block in (block for path in files for block in read_blocks(path)):
        found = [*check_text(block), *check_options(block)]
        if block.seconds is None:
            outcome = "options only: it states no time"
        elif block.seconds > max_seconds:
            outcome = f"options only: it takes {block.seconds:g} s"
        else:
            started = time.perf_counter()
            output, problem = run_block(block)
            found += [f"{block.place}: {problem}"] if problem else compare(block, output)
            outcome = f"{len(block.figures)} figures compared, {time.perf_counter() - started:.0f} s"
        print(f"{'MISMATCH' if found else 'ok':9} {block.place:20} {outcome}", flush=True)
        faults += found
    return faults


@dataclass(frozen=True)
class ReadmeOptions:
    """What `verify_readme.py` takes."""

    files: tuple[Path, ...] = flag((), "Markdown files (default: the four)", positional=True)
    quick: bool = flag(False, f"run blocks of at most {QUICK_SECONDS} s only")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files (default: the four)")
    add_flags(parser, ReadmeOptions, skip=("files",))
    options = read_flags(ReadmeOptions, parser.parse_args(argv))
    files = options.files or tuple(ROOT / name for name in FILES)
    for path in files:
        if not path.is_file():
            raise InvalidInput(f"There is no file {path}.")
    faults = verify(files, QUICK_SECONDS if options.quick else MAX_SECONDS)
    print("\n".join(faults) if faults else "no mismatch")
    return 1 if faults else 0


if __name__ == "__main__":
    run_command(main)
