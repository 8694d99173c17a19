"""The example notebook: it runs with smaller settings, and what it stores is what its cells show."""

import base64
import importlib.util
import io
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from golden.files import ASSETS
from golden.npnet import load_npnet

RUNNER = Path(__file__).parents[1] / "assets" / "run_notebook.py"
NOTEBOOK = ASSETS / "golden_noise_in_ten_minutes.ipynb"
MAX_BYTES = 10**6
QUICK = {"NUM_INFERENCE_STEPS": 2, "NUM_PAIRS": 64, "NUM_EPOCHS": 1, "NUM_PROMPTS": 8}


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebook", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def notebook() -> dict:
    return json.loads(NOTEBOOK.read_text())


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_what_is_stored_was_run_from_first_to_last(notebook):
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 2
    for data in images:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size > (64, 64)
    printed = "".join("".join(output.get("text", ())) for output in outputs)
    for words in ("standard", "validation", "identity", "[", "norm of the source noise"):
        assert words in printed
    assert "/tmp" not in NOTEBOOK.read_text()


def test_the_text_quotes_no_figure_that_a_new_npnet_would_change(notebook):
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    figures = {figure.strip() for figure in re.findall(r"[-+]?\d+(?:\.\d+)? ?%|\d+\.\d+", text)}
    assert figures <= {"95 %", "2411.09502"}  # the level of intervals, and the paper's number
    for part in ("See it", "Use it", "Train it", "Measure it"):
        assert f". {part}" in text


@pytest.mark.slow
def test_it_runs_with_smaller_settings(runner, notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner.set_parameters(notebook, QUICK)
    runner.run_cells(notebook)
    shown = json.dumps(notebook)
    assert "validation" in shown
    folder = tmp_path / "golden-in-ten-minutes"
    assert load_npnet(folder / "npnet").metadata
    assert (folder / "bench" / "report.html").is_file()


def test_parameters_are_replaced_by_name_and_no_others(runner, notebook):
    runner.set_parameters(notebook, {"NUM_PAIRS": 7})
    cell = next(cell for cell in code_cells(notebook) if cell["metadata"].get("tags") == ["parameters"])
    assert "NUM_PAIRS = 7\n" in cell["source"]
    with pytest.raises(KeyError, match="NUM_PEARS"):
        runner.set_parameters(notebook, {"NUM_PEARS": 7})


def test_outputs_are_what_a_cell_prints_and_its_last_value(runner):
    image = {"cell_type": "code", "metadata": {}, "source": ["from PIL import Image\n", "Image.new('RGB', (2, 2))"]}
    text = {"cell_type": "code", "metadata": {}, "source": ["x = 3\n", "print('a')\n", "x + 1"]}
    quiet = {"cell_type": "code", "metadata": {}, "source": ["y = x"]}
    runner.run_cells({"cells": [text, image, quiet]})
    assert [output["output_type"] for output in text["outputs"]] == ["stream", "execute_result"]
    assert text["outputs"][0]["text"] == ["a\n"]
    assert text["outputs"][1]["data"] == {"text/plain": ["4"]}
    assert Image.open(io.BytesIO(base64.b64decode(image["outputs"][0]["data"]["image/png"]))).size == (2, 2)
    assert (quiet["outputs"], quiet["execution_count"]) == ([], 3)
    with pytest.raises(ZeroDivisionError):
        runner.run_cells({"cells": [text | {"source": ["1 / 0"]}]})
