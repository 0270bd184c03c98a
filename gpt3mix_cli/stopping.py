"""The wish to stop soon: what is in flight finishes, and nothing new begins.

A signal expresses it (`process`). Loops that begin pieces of work, such as a trial or a block of an
LM, look at it. It belongs to the whole process, as signals do. One more signal stops now: the main
thread gets a KeyboardInterrupt, and threads that compute look at `stop_now_if_requested`.
"""

from .errors import StoppedShort

INTERRUPTED = "interrupted"
_is_requested = False
_ends_now = False


class Interrupted(StoppedShort):
    """Work did not begin, or ended early, because a signal has asked to stop."""


def request_stop() -> None:
    """Ask all loops to begin nothing more; safe in a signal handler."""
    global _is_requested
    _is_requested = True


def is_stop_requested() -> bool:
    """Return whether nothing new should begin."""
    return _is_requested


def stop_if_requested() -> None:
    """Call this before a piece of work.

    Raises:
        Interrupted: if nothing new should begin.
    """
    if _is_requested:
        raise Interrupted(INTERRUPTED)


def request_stop_now() -> None:
    """Ask threads to drop what they do; the process ends. Safe in a signal handler."""
    global _ends_now
    _ends_now = True


def stop_now_if_requested() -> None:
    """Call this during a long piece of work outside the main thread.

    Raises:
        Interrupted: if the process ends.
    """
    if _ends_now:
        raise Interrupted(INTERRUPTED)
