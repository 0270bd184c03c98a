"""This process as its surroundings see it: standard streams, and signals that end it."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .stopping import is_stop_requested, request_stop, request_stop_now

_received: int | None = None  # the signal that ends this process
_finishes_work = False  # the first signal lets work in flight finish
_has_raised = False  # KeyboardInterrupt is on its way through all that is open
FINISHING = b"\ngpt3mix: finishing what is in flight; once more stops now\n"


def open_streams() -> None:
    """Make closed streams safe, and stderr a log that cannot end the work.

    A file that is opened while a stream is closed would take its number, and get what libraries
    and child processes write to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    encoding = sys.stderr.encoding if sys.stderr else None
    buffer = io.BufferedWriter(_Log(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, encoding, line_buffering=True)


class _Log(io.FileIO):
    """Stderr; a line that cannot be written, such as on a full disk, is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def flush_streams() -> None:
    """Write what is buffered; where that is impossible, nobody can read it."""
    for stream in (sys.stdout, sys.stderr):
        if stream:  # None if it was closed at the start
            try:
                stream.flush()
            except OSError:
                discard_stdout()


def discard_stdout() -> None:
    """Drop what is buffered for stdout, and what is written to it from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def handle_signals() -> None:
    """Let SIGTERM and SIGHUP end the process as Ctrl-C does, and one more signal end it at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, _on_signal)


@contextlib.contextmanager
def finishing_work_in_flight() -> Iterator[None]:
    """In the block, let a first signal only begin nothing new; the second one interrupts."""
    global _finishes_work
    _finishes_work = True
    try:
        yield
    finally:
        _finishes_work = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received, _has_raised
    _received = _received or number
    if _finishes_work and not is_stop_requested():
        request_stop()
        with contextlib.suppress(OSError):
            os.write(2, FINISHING)  # buffered streams are not safe here
        return
    if not _has_raised:
        _has_raised = True
        request_stop_now()
        raise KeyboardInterrupt
    # The way back through all that is open takes too long.
    _remove_temporary_paths()
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    os._exit(128 + number)


def _remove_temporary_paths() -> None:
    from .files import remove_temporary_paths  # `--help` does not need it

    remove_temporary_paths()


def interrupted() -> int:
    """Clean up after a signal, say so, and return the exit code."""
    _remove_temporary_paths()  # of threads that had no time
    number = _received or signal.SIGINT
    print(
        f"gpt3mix: {'interrupted' if number == signal.SIGINT else 'terminated'}; finished work is "
        "kept, and the same command resumes",
        file=sys.stderr,
    )
    return 128 + number
