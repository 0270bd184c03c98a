"""What may go wrong for a user, and how a stage reports progress and warnings.

    UserError           exit code 2: the input is wrong (usage, config, data, a missing package)
    └── StoppedShort    exit code 3: not all work is done; a new run continues where it stopped

`cli` turns these into one message and an exit code. Any other exception is a bug.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


def shorten(value: object, length: int = 80) -> str:
    """Return a value as text, cut to a length: a message must fit a screen."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."


def join_some(values: Iterable[object], count: int = 20) -> str:
    """Return values with commas between them; after the first `count` only how many more."""
    texts = [shorten(value) for value in values]
    more = [f"{len(texts) - count:,} more"] if len(texts) > count else []
    return ", ".join(texts[:count] + more)
