"""Errors that a person is meant to read: one sentence that says what was wrong, what was got and what is allowed."""

import argparse
import errno
import sys
from collections.abc import Callable
from typing import NoReturn


class GoldenError(Exception):
    """Anything that golden refuses or cannot do, in one sentence that may be shown to the user as it is."""


class InvalidInput(GoldenError, ValueError):
    """A value given by the user is outside what is allowed."""


class MissingWeights(GoldenError, FileNotFoundError):
    """Weights that are not on this machine; the message says what to fetch and where to put it."""


class MissingPackage(GoldenError, ImportError):
    """A package that an extra of golden brings is not installed; the message names the extra."""


class BadWeights(GoldenError, ValueError):
    """A weight file that is damaged, of another model, or of a kind that is never opened."""


class Cancelled(GoldenError):
    """The user stopped the run."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, but for options whose default is to be left out: "(default: None)" tells nobody anything."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, (), [], argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one-line errors (exit code 2) and defaults in `--help`."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


_PLAIN_REASONS = {
    errno.EEXIST: "it exists, and is not a folder",
    errno.ENOTDIR: "it is not in a folder, but in a file",
    errno.EISDIR: "it is a folder, not a file",
}
"""What the system calls "File exists" and the like, where a command meant another kind of thing."""


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line's `main`: exit 2 with one line on a GoldenError or where the system refuses a file or folder,
    130 on Ctrl-C, else main's own answer."""
    try:
        sys.exit(main() or 0)
    except GoldenError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # Others, such as a closed pipe or connection, name no file and are nothing that a user could put right.
        is_about_files = error.errno is not None and error.filename is not None
        if not is_about_files and error.errno != errno.ENOSPC:
            raise
        where = f" {error.filename}" if is_about_files else ""
        reason = _PLAIN_REASONS.get(error.errno or 0, error.strerror)
        print(f"Cannot read or write{where}: {reason}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
