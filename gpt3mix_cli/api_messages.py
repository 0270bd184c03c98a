"""Errors and warnings for a Python caller: arguments in place of files and flags."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

PACKAGE = str(Path(__file__).parent) + os.sep
# What messages of the command line are in Python.
PYTHON_TERMS = {
    r"(?:write to another file|choose another path|choose another folder) with "
    r"(?:-o or --out|-o|--out|--save-model)": "choose another folder (out=, or that of fit)",
    r"(?:in|give) another file with -i": "give other rows",
    r"-i and -a\b": "rows and synthetic",
    r"--set ([\w.]+=[\w.]+)": r"load(..., overrides=['\1'])",
    r"--force\b": "load(..., force=True)",
    r"(?:with )?--jobs\b": "jobs",
    r"--(text|level|seed|method|classifier)\b": r"\1=",
    r"`gpt3mix fit` or `gpt3mix train --save-model`": "`Project.fit`",
    r"gpt3mix baseline CONFIG": "Project.augment",
    r"gpt3mix (subsample|augment|train|run|report|fit) CONFIG": r"Project.\1",
}


class Messages:
    """Errors and warnings of one project, in which arguments replace the files of its rows."""

    def __init__(self) -> None:
        self._arguments: dict[str, str] = {}

    def name_file(self, path: Path, argument: str) -> None:
        """Let messages name an argument in place of a file, and its rows from 0."""
        self._arguments |= {str(path): argument, str(path.resolve()): argument}

    def translate(self, text: str) -> str:
        """Return a message of the command line as Python's."""
        for path in sorted(self._arguments, key=len, reverse=True):
            first, *rest = text.split(path)
            # Lines of files count from 1.
            rest = [re.sub(r"^, (?:line|row) (\d+)", _row, part) for part in rest]
            text = self._arguments[path].join([first, *rest])
        for term, python in PYTHON_TERMS.items():
            text = re.sub(term, python, text)
        return text

    def warn(self, message: str) -> None:
        """Warn, with the line that has called the package."""
        warnings.warn(self.translate(message), stacklevel=_caller_level())

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of a block."""
        try:
            yield
        except UserError as error:
            error.message, error.hint = self.translate(error.message), self.translate(error.hint)
            raise


def _row(found: re.Match[str]) -> str:
    return f", row {int(found[1]) - 1}"


def _caller_level() -> int:
    """Return the stack level of the package's caller, for a warning by the function that asks."""
    own = (PACKAGE, contextlib.__file__)
    frame, level = sys._getframe(1).f_back, 2
    while frame and frame.f_back and frame.f_code.co_filename.startswith(own):
        frame, level = frame.f_back, level + 1
    return level
