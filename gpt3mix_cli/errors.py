"""What may go wrong for a user, and how a stage reports progress and warnings.

    UserError           exit code 2: the input is wrong (usage, config, data, a missing package)
    └── StoppedShort    exit code 3: not all work is done; a new run continues where it stopped

`cli` turns these into one message and an exit code. Any other exception is a bug.
"""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class UserError(Exception):
    """A problem that the user can fix.

    Args:
        message: what is wrong, with the file, line or key.
        hint: the remedy, in the imperative; empty if the message says it all.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


@contextlib.contextmanager
def content_errors(path: Path, hint: str) -> Iterator[None]:
    """Turn what nonsense in a file's content raises into a message.

    Args:
        path: a file that we wrote, and that something else has changed.
        hint: the remedy.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path}: its content makes no sense ({type(error).__name__}: {first_line(error)})",
            hint,
        ) from None


class StoppedShort(UserError):
    """The work ended early; its results are on disk, and the same command resumes it.

    Args:
        message: what is missing.
        hint: the remedy.
    """

    exit_code = 3


class StdoutClosed(Exception):
    """The reader of stdout has closed it (`gpt3mix report ... | head`): not an error."""


class Progress(Protocol):
    """Shows the progress of a named task."""

    def __call__(self, name: str, done: int, total: int | None = None, detail: str = "") -> None:
        """Show that `done` of `total` steps are finished.

        Args:
            name: of the task.
            done: finished steps.
            total: all steps; None if unknown.
            detail: the latest result, such as a loss.
        """


def _ignore(*args: object, **options: object) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Callbacks:
    """How a stage reports progress and warnings; `console` shows both.

    Attributes:
        progress: called as steps finish.
        warn: called with each warning.
        note: called with what is neither, such as that something long is done once.
    """

    progress: Progress = _ignore
    warn: Callable[[str], None] = _ignore
    note: Callable[[str], None] = _ignore


NO_CALLBACKS = Callbacks()


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar choice, or an empty string."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
