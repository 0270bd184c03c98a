"""Files that appear whole or not at all, with one writer at a time, and hashes of their content.

`-` is stdin or stdout. Errors of the file system become messages for the user.
"""

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from .errors import UserError

STDIO = Path("-")
MODEL_FILES = ("*.safetensors", "*.bin", "*.model", "*.spm", "*.json", "vocab*", "merges*")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# Errors of file systems without locks, such as some network mounts: the work goes on without.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


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
            "check the path; has the stage before this one been run?",
        ) from None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears only if the block ends well: it is written aside, synced and renamed.

    The file aside always has the same name, so the next run replaces what a killed run left.

    Raises:
        UserError: if the file cannot be written, or another process is writing it.
    """
    if path == STDIO:
        if sys.stdout is None:
            raise UserError("stdout is closed", "give a file with -o")
        with write_errors(Path("stdout")):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    path = resolve_output(path)
    partial = path.with_name(f".{path.name}.partial")
    with _lock(partial, path):
        with write_errors(path):
            stream = partial.open("wb")
        try:
            with _disk_errors(path):
                yield stream
            with write_errors(path):
                stream.flush()
                os.fsync(stream.fileno())
                partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        finally:
            stream.close()
    _sync_folder(path.parent)


def append(path: Path, text: str) -> None:
    """Append whole lines durably, with one system call: lines of two processes never mix."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            stream.write(text.encode())
            os.fsync(stream.fileno())


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Keep all other processes from working on an output until the block ends.

    Raises:
        UserError: if another process is working on it.
    """
    if path == STDIO:
        yield
        return
    path = resolve_output(path)
    with _lock(path.with_name(f".{path.name}"), path):
        yield


def resolve_output(path: Path) -> Path:
    """Return the absolute path of an output, with links followed, and create its folder.

    Raises:
        UserError: if the path is not a plain file, or the folder cannot be created.
    """
    with write_errors(path):
        path = path.resolve()
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path}: is not a plain file", "name a file, or write to stdout with -o -"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def _lock(path: Path, output: Path) -> Iterator[None]:
    """Hold `<path>.lock` until the block ends; the system frees the lock of a dead process."""
    lock_path = path.with_name(f"{path.name}.lock")
    lock = FileLock(lock_path, blocking=False, thread_local=False, fallback_to_soft=False)
    with write_errors(output):
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{output}: another process is writing it", "wait for that run, or end it"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    try:
        yield
    finally:
        # Deleted while it is held: a process that waits then notices, and creates a new file.
        with contextlib.suppress(OSError):
            lock_path.unlink()
        lock.release()


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Blame an output only for errors of the disk; others, such as of a network, pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        with write_errors(path):
            raise


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into messages for the user."""
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
            else "choose another path with -o or --out"
        )
        raise UserError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}", hint
        ) from None


def _sync_folder(folder: Path) -> None:
    # Without this a power failure may undo a rename, although the file's content is safe.
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
    """Return a hash of those files of a model's folder that can change its results."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]
