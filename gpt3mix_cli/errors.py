"""What may go wrong for a user, and how a stage speaks while it works.

    UserError           2: the input is wrong (usage, config, data, a missing package)
    └── StoppedShort    3: not all could be done, but everything made is kept and a new run goes on from there

`cli.main` turns these into one message and an exit code; every other exception is a bug.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


class UserError(Exception):
    """A problem that the user can mend.

    Args:
        message: what is wrong, with the file, line or key.
        hint: the remedy, in the imperative; empty if the message says it all.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the two parts apart so that the door can set them apart."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint on lines of their own."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class StoppedShort(UserError):
    """The work ended early; what was made is on disk and the same command resumes it.

    Args:
        message: what is missing.
        hint: the remedy.
    """

    exit_code = 3


class StdoutClosed(Exception):
    """Whoever read stdout has gone (`gpt3mix report ... | head`): no error, but the end of the work."""


class Progress(Protocol):
    """Shows how far a named piece of work has come."""

    def __call__(self, name: str, done: int, total: int | None = None, detail: str = "") -> None:
        """Show that `done` of `total` steps are finished; `detail` is the latest result, such as a loss."""


def ignore_progress(name: str, done: int, total: int | None = None, detail: str = "") -> None:
    """Show nothing."""


def ignore_warning(message: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Callbacks:
    """How a stage speaks while it works; `console` renders both.

    Attributes:
        progress: is called as steps finish.
        warn: is called with each warning.
    """

    progress: Progress = ignore_progress
    warn: Callable[[str], None] = ignore_warning


NO_CALLBACKS = Callbacks()


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `choices`, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
