"""Run the example notebook cell by cell, and store in it what each cell shows.

    python assets/run_notebook.py

No Jupyter is needed: cells run in one namespace, and an output is what a cell prints or the value of its last line, as
an image or as text.
"""

import ast
import base64
import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden.drawing import to_png
from golden.errors import ArgumentParser, run_command
from golden.files import write_bytes
from golden.flags import add_flags, flag, read_flags

NOTEBOOK = Path(__file__).resolve().parent / "golden_noise_in_ten_minutes.ipynb"
PARAMETERS = "parameters"
"""The tag of the cell whose values may be replaced, as papermill has it."""
MAX_TEXT = 6000  # characters of a cell's output


@dataclass(frozen=True)
class RunOptions:
    notebook: Path = flag(NOTEBOOK, "notebook to run, which is written anew with its outputs")


def set_parameters(notebook: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Replace values in the cell of parameters. Raises: KeyError for a name that it does not have."""
    (cell,) = (cell for cell in notebook["cells"] if PARAMETERS in cell["metadata"].get("tags", ()))
    source = "".join(cell["source"])
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", source, flags=re.MULTILINE)
        if not count:
            raise KeyError(name)
    cell["source"] = source.splitlines(keepends=True)


def run_cells(notebook: dict[str, Any]) -> None:
    """Run the code cells in the current folder and store their outputs. Raises: whatever a cell raises."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code_cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(code_cells, start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            value = run_code("".join(cell["source"]), names)
        cell["execution_count"] = number
        cell["outputs"] = list(describe_outputs(printed.getvalue(), value, number))


def run_code(source: str, names: dict[str, Any]) -> Any:
    """Run statements; the value of the last one if it is an expression, else None."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def describe_outputs(printed: str, value: Any, number: int) -> Iterator[dict[str, Any]]:
    """What a cell printed and its value, in the notebook's format."""
    if printed:
        text = printed if len(printed) <= MAX_TEXT else f"{printed[:MAX_TEXT]}\n...\n"
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
    if value is None:
        return
    data: dict[str, Any] = {"text/plain": [repr(value).split(" at 0x")[0]]}
    if hasattr(value, "getbbox"):  # a PIL image
        data["image/png"] = base64.b64encode(to_png(value)).decode()
    yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, RunOptions)
    path = read_flags(RunOptions, parser.parse_args(argv)).notebook.resolve()
    notebook, started = json.loads(path.read_text()), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run_cells(notebook)
    data = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
    write_bytes(path, data)
    print(f"{path.name}: {len(data) / 1e6:.2f} MB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run_command(main)
