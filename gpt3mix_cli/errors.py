"""What may go wrong for a user, and how a stage reports progress and warnings.

    UserError           exit code 2: the input is wrong (usage, config, data, a missing package)
    ├── OutputError     exit code 2: an output cannot be written, or has other settings
    ├── OutputInUse     exit code 2: another process is writing an output
    └── StoppedShort    exit code 3: not all work is done; a new run continues where it stopped

`cli` turns these into one message and an exit code. Any other exception is a bug.
"""

import contextlib
import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# What a message holds at most, so that it fits a screen.
MAX_VALUE_CHARS = 100
MAX_LIST_ITEMS = 20
MAX_LINE_CHARS = 600
MAX_LINES = MAX_LIST_ITEMS + 4
# All but tabs and line ends: a terminal would obey them.
CONTROL_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


# RuntimeErrors of Path.resolve (until Python 3.12) and Path.expanduser.
PATHLIB_ERRORS = ("Symlink loop", "Could not determine home directory")


class UserError(Exception):
    """A problem that the user can fix.

    Args:
        message: what is wrong, with the file, line or key.
        hint: the remedy, in the imperative; empty if the message says it all.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = fit_screen(message), fit_screen(hint)
        super().__init__(self.message)

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


class OutputError(UserError):
    """An output cannot be written, or is finished with other settings: as others would be."""


class OutputInUse(UserError):
    """Another process is writing an output; other steps can go on."""


def raise_failures(results: Sequence[object]) -> None:
    """Raise the errors among the results of many steps as one error; nothing if there is none.

    Raises:
        UserError: if a step failed for a reason that only the user can change.
        StoppedShort: if all that failed can be resumed.
    """
    failures = [result for result in results if isinstance(result, UserError)]
    if not failures:
        return
    first = next((error for error in failures if not isinstance(error, StoppedShort)), failures[0])
    message = first.message
    if len(failures) > 1:
        lines = [*dict.fromkeys(error.message for error in failures)]
        message = "\n  ".join([f"{len(failures)} of {len(results)} steps:", *lines])
    kind = StoppedShort if isinstance(first, StoppedShort) else UserError
    raise kind(message, first.hint)


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


@contextlib.contextmanager
def in_progress(callbacks: Callbacks, name: str) -> Iterator[None]:
    """Show that something is under way whose steps cannot be counted, such as loading a model."""
    callbacks.progress(name, 0)
    try:
        yield
    finally:
        callbacks.progress(name, 1, 1)


def path_problem(error: Exception) -> UserError | None:
    """Return the message for a path that cannot exist; None if the error is another one.

    Here and not where paths are used: even to ask whether such a path exists raises an error.
    """
    path, reason = getattr(error, "filename", None), ""
    wanted = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES)
    if path is not None and getattr(error, "errno", None) in wanted:
        reason = f"{path}: {getattr(error, 'strerror', '')}"
    elif str(error).startswith(PATHLIB_ERRORS):
        reason = str(error)
    return UserError(reason, "give another path") if reason else None


def fit_screen(message: str) -> str:
    """Return a message that fits a screen: long lines lose their middle, many lines their end.

    Control characters become escapes.
    """
    lines = message.split("\n")
    if more := len(lines[MAX_LINES:]):
        lines = [*lines[:MAX_LINES], f"  and {more:,} more lines"]
    lines = [
        f"{line[: MAX_LINE_CHARS // 2]} ... {line[-MAX_LINE_CHARS // 2 :]}"
        if len(line) > MAX_LINE_CHARS
        else line
        for line in lines
    ]
    return CONTROL_CHARS.sub(lambda match: repr(match[0])[1:-1], "\n".join(lines))


def shown_value(value: object) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return f"{text[:MAX_VALUE_CHARS]}..." if len(text) > MAX_VALUE_CHARS else text


def shown_list(items: Sequence[object], separator: str = ", ") -> str:
    """Return the first items as text, and how many more there are."""
    first = [str(item)[:MAX_VALUE_CHARS] for item in items[:MAX_LIST_ITEMS]]
    more = len(items) - len(first)
    return separator.join([*first, f"and {more:,} more"] if more else first)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar choice, or an empty string."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def clip(text: str, length: int) -> str:
    """Return a text cut to at most this many characters, for tables and plots."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shorten(value: object, length: int = 80) -> str:
    """Return a value as text, cut to a length: a message must fit a screen."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."
