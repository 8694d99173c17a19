"""The plan of the house: imports run one way, gradio stays in the interface, and files and functions stay small."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"golden": 0, "train": 1, "eval": 2, "app": 3}
"""Each may import from those below it and from its own."""
MAX_FILE_LINES = 450
MAX_APP_LINES = 150
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
FORBIDDEN = ("is_hunyuan", "is_shapes", "sys.path")
"""What a family, a checker or an installed package says better."""

FILES = [
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "app.py", *sorted(path for folder in FLOORS for path in (ROOT / folder).rglob("*.py"))]
]


@cache
def read(file: str) -> str:
    return (ROOT / file).read_text()


@cache
def parse(file: str) -> ast.Module:
    return ast.parse(read(file), file)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in FILES}


def imported_by(file: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The full names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    package = file.split("/")[: -node.level] if node.level else []
    base = ".".join([*package, *filter(None, [node.module])])
    for alias in node.names:
        name = f"{base}.{alias.name}"
        yield name if name in MODULES else base


def imports_of(file: str) -> list[str]:
    nodes = (node for node in ast.walk(parse(file)) if isinstance(node, ast.Import | ast.ImportFrom))
    return [name for node in nodes for name in imported_by(file, node)]


def imports_on_loading(file: str) -> set[str]:
    """The modules of golden that a module imports when it is imported itself: neither in functions nor for types."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.update(imported_by(file, child))
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for alternative in child.orelse:
                    visit(alternative)
            elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(child)

    visit(parse(file))
    return {name for name in found if name in MODULES and name.split(".")[0] == "golden"}


def functions_of(file: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_these_tests_see_the_product():
    assert {"app.py", "golden/compare.py", "golden/shapes/grammar.py", "golden/ui/__init__.py"} <= set(FILES)
    assert "golden.noise" in imports_of("golden/compare.py")
    assert "golden.judges" in imports_of("golden/compare.py")
    assert "golden.judges" not in imports_on_loading("golden/compare.py")
    assert "golden.pipelines" in imports_on_loading("golden/compare.py")


@pytest.mark.parametrize("file", FILES)
def test_imports_run_down_to_golden(file):
    own = FLOORS[module_of(file).split(".")[0]]
    upwards = [name for name in imports_of(file) if FLOORS.get(name.split(".")[0], 0) > own]
    assert upwards == []


@pytest.mark.parametrize("file", FILES)
def test_only_the_interface_knows_gradio(file):
    if file == "app.py" or file.startswith("golden/ui/"):
        return
    assert [name for name in imports_of(file) if name.split(".")[0] in ("gradio", "gradio_client")] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("golden/")])
def test_golden_does_without_its_interface(file):
    if not file.startswith("golden/ui/"):
        assert [name for name in imports_of(file) if name.startswith("golden.ui")] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("golden/")])
def test_modules_do_not_import_in_circles(file):
    module, seen, open_ends = module_of(file), set(), [(module_of(file),)]
    while open_ends:
        way = open_ends.pop()
        for name in imports_on_loading(MODULES[way[-1]]):
            assert name != module, f"a circle: {' -> '.join((*way, name))}"
            if name not in seen:
                seen.add(name)
                open_ends.append((*way, name))


@pytest.mark.parametrize("file", FILES)
def test_files_stay_small(file):
    assert len(read(file).splitlines()) <= (MAX_APP_LINES if file == "app.py" else MAX_FILE_LINES)


@pytest.mark.parametrize("file", FILES)
def test_functions_stay_small(file):
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions_of(file)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}
    counts = {}
    for node in functions_of(file):
        counts[node.name] = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
    assert {name: count for name, count in counts.items() if count > MAX_PARAMETERS} == {}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("word", FORBIDDEN)
def test_special_cases_and_path_hacks_are_gone(file, word):
    assert word not in read(file)


def test_no_two_classes_share_a_name():
    names = Counter(
        node.name
        for file in FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, num in names.items() if num > 1] == []
