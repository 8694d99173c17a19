"""Errors that a person reads: one line, and an exit code that scripts can rely on."""

import errno

import pytest

from golden import errors
from golden.errors import ArgumentParser, BadWeights, Cancelled, GoldenError, InvalidInput, MissingWeights, run_command


def exit_code(main) -> int:
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_a_command_ends_with_its_own_answer(answer, code):
    assert exit_code(lambda: answer) == code


@pytest.mark.parametrize("error", [InvalidInput, MissingWeights, BadWeights, Cancelled, GoldenError])
def test_what_golden_refuses_is_one_line_and_exit_code_2(error, capsys):
    def main():
        raise error("The seed is odd.")

    assert exit_code(main) == 2
    assert capsys.readouterr().err == "The seed is odd.\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileExistsError(errno.EEXIST, "File exists", "a"), "Cannot read or write a: it exists, and is not a folder."),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "Cannot read or write a: it is a folder, not a file."),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "Cannot read or write /a: Permission denied."),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "Cannot read or write a.txt: No such file."),
        (OSError(errno.ENOSPC, "No space left on device"), "Cannot read or write: No space left on device."),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_code_2(error, line, capsys):
    def main():
        raise error

    assert exit_code(main) == 2
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("error", [OSError("odd"), BrokenPipeError(errno.EPIPE, "Broken pipe"), FileNotFoundError("x")])
def test_an_error_that_names_no_file_is_not_hidden(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run_command(main)


def test_ctrl_c_is_exit_code_130_without_a_traceback(capsys):
    def main():
        raise KeyboardInterrupt

    assert exit_code(main) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_errors_can_be_caught_as_what_python_calls_them():
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(BadWeights, ValueError)
    assert issubclass(MissingWeights, FileNotFoundError)
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, GoldenError) for kind in own)
    assert str(MissingWeights("Fetch it.")) == "Fetch it."


def test_parser_errors_are_one_line(capsys):
    parser = ArgumentParser(prog="tool")
    parser.add_argument("--steps", type=int, default=20, help="how many")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--steps", "many"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "tool: argument --steps: invalid int value: 'many'\n"


def test_help_shows_defaults(capsys):
    parser = ArgumentParser(prog="tool")
    parser.add_argument("--steps", type=int, default=20, help="how many")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    assert caught.value.code == 0
    assert "how many (default: 20)" in capsys.readouterr().out
