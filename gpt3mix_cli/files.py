"""Files that appear whole or not at all, one writer at a time, and hashes.

`-` is stdin or stdout. Errors of the file system become messages for the user.
"""

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Protocol

from .errors import (
    NO_CALLBACKS,
    Callbacks,
    OutputError,
    OutputInUse,
    StdoutClosed,
    UserError,
    in_progress,
)
from .stopping import is_stop_requested, stop_if_requested

STDIO = Path("-")
PRIVATE = 0o600  # mode of files with what only their owner should read
HASH_BLOCK_BYTES = 1 << 18
OTHER_PATH = "choose another path with -o or --out"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# Errors of file systems without locks, such as some network mounts: the work goes on without.
NO_LOCKS = (
    errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL,
    errno.EPERM, errno.EIO,
)  # fmt: skip


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
        raise UserError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}",
            "check the path; has the stage before this one been run?",
        ) from None


class Writer(Protocol):
    """An open file or stdout."""

    def write(self, data: bytes, /) -> int:
        """Write bytes."""


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o666, wait: bool = False) -> Iterator[Writer]:
    """Open a file that appears only if the block succeeds: written aside, synced and renamed.

    The file aside always has the same name, so the next run replaces what a killed run left.

    Args:
        path: the file.
        mode: its permissions, less those that the umask takes.
        wait: wait for another process that is writing it.

    Raises:
        OutputInUse: if another process is writing it.
        UserError: if the file cannot be written.
    """
    if path == STDIO:
        if sys.stdout is None:
            raise UserError("stdout is closed", "give a file with -o")
        yield _Stdout()
        with stdout_errors():
            sys.stdout.buffer.flush()
        return
    path = resolve_output(path)
    partial = _partial(path)
    with _lock(partial, path, wait=wait), temporary_path(partial):
        with write_errors(path):
            # A new file: a link of this name is not followed.
            partial.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            stream = os.fdopen(os.open(partial, flags, mode), "wb")
        try:
            with write_errors(path, DISK_ERRORS):
                yield stream
            with write_errors(path):
                stream.flush()
                os.fsync(stream.fileno())
                partial.replace(path)
        finally:
            # Closing writes what is buffered; where the disk is full the first error is the one.
            with contextlib.suppress(OSError):
                stream.close()
    # Without this a power failure may undo the rename, although the file's content is safe.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that several processes may write at the same time, unless it has the content.

    What is unchanged is not written: finished results may be on a disk that is read-only.
    """
    if not path.is_file() or path.read_bytes() != content:
        with atomic_write(path, wait=True) as stream:
            stream.write(content)


class _Stdout:
    """Writes to stdout; errors of other files that are written meanwhile are not stdout's."""

    def write(self, data: bytes) -> int:
        with stdout_errors():
            return sys.stdout.buffer.write(data)


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
    """Turn errors of writing to stdout into a message for the user.

    Raises:
        StdoutClosed: if its reader has gone.
        UserError: for other errors, such as a full disk.
    """
    try:
        with write_errors(Path("stdout")):
            yield
    except BrokenPipeError:
        raise StdoutClosed from None


def append(path: Path, text: str) -> None:
    """Append whole lines durably, with one system call: lines of two processes never mix."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            stream.write(text.encode())
            os.fsync(stream.fileno())


@contextlib.contextmanager
def atomic_folder(path: Path, hint: str) -> Iterator[Path | None]:
    """Yield a folder to fill, which appears as `path` only if the block succeeds.

    A process that fills the same folder is waited for. None is yielded if the folder exists. On a
    file system without locks both fill a folder of their own, and the first to finish wins.

    Args:
        path: the folder.
        hint: the remedy where it cannot be written.

    Raises:
        UserError: if the folder cannot be written.
    """
    partial = _own_partial(path)
    with write_errors(path, hint=hint):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(_partial(path), path, wait=True, hint=hint) as is_locked:
        if path.is_dir():
            yield None
            return
        with temporary_path(partial):
            with write_errors(path, hint=hint):
                for leftover in _partial_folders(path) if is_locked else ():
                    shutil.rmtree(leftover, ignore_errors=True)
                partial.mkdir()
            with write_errors(path, DISK_ERRORS):
                yield partial
            with write_errors(path, hint=hint):
                for file in partial.iterdir():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                try:
                    partial.rename(path)
                except OSError:
                    if not path.is_dir():  # otherwise another process has finished before
                        raise


def remove_folder(path: Path) -> None:
    """Remove a folder of `atomic_folder`, and what killed processes left of it.

    The folder is renamed first: if the removal is killed, no part of it is taken for the whole.

    Raises:
        UserError: if another process is filling it, or it cannot be removed.
    """
    hint = f"check the permissions of {path.parent}"
    with _lock(_partial(path), path, hint=hint), write_errors(path, hint=hint):
        if path.exists():
            path.rename(_own_partial(path))
        for partial in _partial_folders(path):
            shutil.rmtree(partial)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _own_partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _partial_folders(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*partial/")


@contextlib.contextmanager
def exclusive_writer(
    path: Path, wait: bool = False, callbacks: Callbacks = NO_CALLBACKS
) -> Iterator[None]:
    """Keep all other processes from working on an output until the block ends.

    Args:
        path: the output.
        wait: wait for another process that is working on it, as long as it lives.
        callbacks: show that it is waited for.

    Raises:
        OutputInUse: if another process is working on it, unless it is waited for.
        Interrupted: if the wait was interrupted.
    """
    if path == STDIO:
        yield
        return
    path = resolve_output(path)
    base = path.with_name(f".{path.name}")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(base, path))
        except OutputInUse:
            if not wait:
                raise
            with in_progress(callbacks, f"waiting for another process to write {path}"):
                stack.enter_context(_lock(base, path, wait=True))
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
def _lock(
    path: Path, output: Path, *, wait: bool = False, hint: str = OTHER_PATH
) -> Iterator[bool]:
    """Yield whether the lock is held, which it is except on a file system without locks."""
    from filelock import FileLock, Timeout  # what is up to date needs no lock

    lock_path = path.with_name(f"{path.name}.lock")
    lock = FileLock(lock_path, blocking=wait, thread_local=False, fallback_to_soft=False)
    with write_errors(output, hint=hint):
        try:
            lock.acquire(cancel_check=is_stop_requested)
        except Timeout:
            if wait:
                stop_if_requested()
            raise OutputInUse(
                f"{output}: another process is writing it", "wait for that run, or end it"
            ) from None
        except OSError as error:
            # Where nothing can be written no lock is needed, and what is up to date stays so.
            if error.errno not in NO_LOCKS and os.access(output.parent, os.W_OK):
                raise
    try:
        # Deleted while it is held: a process that waits then notices, and creates a new file.
        with temporary_path(lock_path):
            yield lock.is_locked
    finally:
        lock.release()


_temporary_paths: set[Path] = set()


@contextlib.contextmanager
def temporary_path(path: Path) -> Iterator[None]:
    """Remove a file or folder at the end of the block, if it is still there."""
    _temporary_paths.add(path)
    try:
        yield
    finally:
        _remove(path)
        _temporary_paths.discard(path)


def remove_temporary_paths() -> None:
    """Remove what is being written and all locks: this process ends."""
    for path in list(_temporary_paths):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def write_errors(
    path: Path, numbers: Container[int] | None = None, hint: str = OTHER_PATH
) -> Iterator[None]:
    """Turn errors of the file system into messages for the user.

    Args:
        path: the output.
        numbers: error numbers to turn; other errors, such as of a network, pass through. Default:
            all.
        hint: the remedy; for a full disk there is another one.
    """
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:  # the last of folders of folders
        number = getattr(error, "errno", None)
        is_path_error = not isinstance(error, ValueError) or "null byte" in str(error)
        is_wanted = numbers is None or number in numbers
        if isinstance(error, BrokenPipeError) or not (is_path_error and is_wanted):
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and run the same command again"
        raise OutputError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}", hint
        ) from None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    # `hashlib.file_digest` clears a buffer for each file, which takes as long as a small file.
    digest = hashlib.sha256()
    with open_input(path) as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
