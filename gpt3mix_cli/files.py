"""Files that appear whole or not at all, one writer at a time, and hashes of what they hold.

`-` stands for stdin or stdout. What a file system refuses becomes a message for the user.
"""

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import UserError

try:
    import fcntl
except (
    ImportError
):  # Windows has no flock; there, two processes writing one output are not told apart.
    fcntl = None  # type: ignore[assignment]

STDIO = Path("-")
MODEL_FILES = ("*.safetensors", "*.bin", "*.model", "*.spm", "*.json", "vocab*", "merges*")
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def open_input(path: Path) -> IO[bytes]:
    """Open a file, or stdin for `-`, to read its bytes.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    if path == STDIO:
        if sys.stdin is None:
            raise UserError("stdin is closed", "give a file, or pipe rows in")
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read: {reason}",
            "check the path; is the stage before this one done?",
        ) from None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place only when the block ends well: written aside, synced, renamed.

    The side file has one name, so that a killed run leaves nothing that the next does not replace, and is locked, so
    that two processes cannot write the same output.
    """
    if path == STDIO:
        if sys.stdout is None:
            raise UserError("stdout is closed", "give a file with -o")
        with write_errors(Path("stdout")):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    path = resolve_output(path)
    aside = path.with_name(f".{path.name}.partial")
    stream = _locked(aside, path)
    try:
        with write_errors(path):
            stream.truncate(0)
        try:
            yield stream
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise  # the block's own business, such as a network
            with write_errors(path):
                raise
        with write_errors(path):
            stream.flush()
            os.fsync(stream.fileno())
            aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    finally:
        stream.close()
    _sync_folder(path.parent)


def append(path: Path, text: str) -> None:
    """Append whole lines durably; one write call, so that two processes' lines never mix."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            stream.write(text.encode())
            os.fsync(stream.fileno())


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Keep every other process from working on an output until the block ends.

    Raises:
        UserError: if another one does.
    """
    if path == STDIO:
        yield
        return
    path = resolve_output(path)
    mark = path.with_name(f".{path.name}.lock")
    stream = _locked(mark, path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
        stream.close()


def resolve_output(path: Path) -> Path:
    """Return where an output will stand: what a link points to; its folder is made.

    Raises:
        UserError: if there is something there that is no plain file, or the folder cannot be made.
    """
    with write_errors(path):
        path = path.resolve()
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path}: is no plain file", "name a file, or write to stdout with -o -"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _locked(aside: Path, path: Path) -> IO[bytes]:
    """Open a file beside an output and hold it for this process until it is closed."""
    while True:
        with write_errors(path):
            stream = aside.open("ab")
        _lock(stream, path)
        with contextlib.suppress(OSError):
            if os.fstat(stream.fileno()).st_ino == aside.stat().st_ino:
                return stream
        # Another writer renamed the file between our opening and locking it: it is that writer's output now.
        stream.close()


def _lock(stream: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            stream.close()
            raise UserError(
                f"{path}: another process is writing it", "wait for that run, or end it"
            ) from None
        # A file system without locks: go on, as every tool does there.


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what a file system refuses into a message for the user."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "null byte" not in str(error):
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = (
            "free some space and run the same command again"
            if full
            else "choose another place with -o or --out"
        )
        raise UserError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}", hint
        ) from None


def _sync_folder(folder: Path) -> None:
    # Without this a rename may be lost with the power, although the file's content is safe.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open_input(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def hash_model(folder: Path) -> str:
    """Return a hash of the files of a model's folder that can change what it computes."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]
