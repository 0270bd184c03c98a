"""The journal: one SQLite file per output, which stores answers before they are used.

What is committed survives a kill and a power cut. A run that was killed repeats only the requests
that were in flight. The file also sums up what the answers cost, and lists batches at a provider.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..errors import NO_CALLBACKS, OutputError, UserError
from ..files import PRIVATE, write_errors

AnswerRow = tuple[str, int | None, str, str]  # key, number, request, answer
SpendingRow = tuple[str, int, int, int, float | None]  # key, then as in `Spending`
Answer = TypeVar("Answer")
IN_MEMORY = Path(":memory:")  # a journal that reads its siblings and writes no file
MAX_PLAIN_CHARS = 4096  # longer answers, with every token's log-probability, are compressed
MAX_ANSWER_BYTES = 64 * 2**20  # of an answer, uncompressed: far more than any server sends
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
SCHEMA = """
    CREATE TABLE IF NOT EXISTS answers
        (key TEXT PRIMARY KEY, number INTEGER, request TEXT, answer TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS spent
        (key TEXT PRIMARY KEY, requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
        usd REAL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS batches
        (file TEXT PRIMARY KEY, batch TEXT, keys TEXT, ended INTEGER) WITHOUT ROWID;
"""
SELECT_ANSWERS = (
    "SELECT key, number, request, answer FROM answers WHERE key IN (SELECT value FROM json_each(?))"
)
INSERT_SPENDING = "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?)"
# Under other keys they stay in the file, and what they cost still counts.
SET_ASIDE = (
    "UPDATE {table} SET key = key || ':unreadable-' || hex(randomblob(4))"
    " WHERE key IN (SELECT value FROM json_each(?))"
)
SUM_SPENDING = (
    "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(prompt_tokens), 0),"
    " COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(usd), 0) FROM spent"
)


class Spending(NamedTuple):
    """What answers cost, in all.

    Attributes:
        requests: sent.
        prompt_tokens: read.
        completion_tokens: generated.
        usd: dollars, as far as prices are known.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float

    @property
    def tokens(self) -> int:
        """Read and generated."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Batch:
    """Calls that were sent to a provider in one file.

    Attributes:
        file: the provider's id of the file.
        batch: the provider's id of the batch that runs the file; empty until it is known.
        keys: of the calls.
        ended: whether the answers are in the journal.
    """

    file: str
    batch: str
    keys: tuple[str, ...]
    ended: bool = False


class Journal:
    """Answers by key, in one file. Any number of threads may use it, one process may write.

    The file is opened with the first question or answer. Methods raise UserError if it cannot be
    written or is not a journal.

    Args:
        path: of the file, which may not exist yet; `IN_MEMORY` writes none.
        siblings: journals of the same experiment that are searched too, so that a sweep sends each
            request once.
        warn: receives a warning, once, about answers that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        siblings: Sequence[Path] = (),
        warn: Callable[[str], None] = NO_CALLBACKS.warn,
    ) -> None:
        self.path, self._siblings = path, siblings
        self._warn, self._warned = warn, False
        # Reading has a connection of its own, so that a lookup does not wait for a commit's fsync.
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        self._open_lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        self._readers: dict[Path, sqlite3.Connection] = {}

    def lookup(self, keys: Sequence[str], all_or_none: bool = False) -> dict[str, str]:
        """Return the stored answers to these keys, from this journal or its siblings.

        Args:
            keys: of the answers.
            all_or_none: only if one journal holds all of them.
        """
        count = len(set(keys))
        copied: list[AnswerRow] = []
        with self._read_lock:
            with _sqlite_errors(self.path):
                answers = {
                    key: answer for key, _, _, answer in _select(self._reader(self.path), keys)
                }
            for path in self._siblings:
                if len(answers) == count:
                    break
                with suppress(sqlite3.Error):
                    rows = _select(
                        self._reader(path),
                        [key for key in keys if all_or_none or key not in answers],
                    )
                    if len(rows) == count or not all_or_none:
                        copied += rows
                        answers |= {key: answer for key, _, _, answer in rows}
        if self.path != IN_MEMORY:
            self.store(copied)
        return answers if len(answers) == count or not all_or_none else {}

    def store(self, rows: Sequence[AnswerRow], spent: Sequence[SpendingRow] = ()) -> None:
        """Commit answers, all or none; they are on disk when this returns.

        Args:
            rows: (key, number, request, answer); they replace rows with the same keys.
            spent: what the answers cost: (key, requests, prompt tokens, completion tokens, dollars
                or None).
        """
        if not rows:
            return
        packed = [
            (*row, zlib.compress(answer.encode(), 1) if len(answer) > MAX_PLAIN_CHARS else answer)
            for *row, answer in rows
        ]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", packed)
            database.executemany(INSERT_SPENDING, spent)

    def read(
        self, keys: Sequence[str], parse: Callable[[str], Answer], all_or_none: bool = False
    ) -> dict[str, Answer]:
        """Return what `parse` makes of the stored answers to these keys; see `lookup`.

        An answer that cannot be read is reported, and set aside: it stays in the file, but not
        under its key, so that its request is sent again.
        """
        answers: dict[str, Answer] = {}
        unreadable: dict[str, Exception] = {}
        for key, text in self.lookup(keys, all_or_none).items():
            try:
                answers[key] = parse(text)
            except UNREADABLE as error:
                unreadable[key] = error
        if unreadable:
            self._set_aside(unreadable)
        return {} if all_or_none and unreadable else answers

    def _set_aside(self, unreadable: Mapping[str, Exception]) -> None:
        with self._transaction() as database:
            for table in ("answers", "spent"):
                database.execute(SET_ASIDE.format(table=table), [json.dumps(list(unreadable))])
        if not self._warned:
            self._warned = True
            reason = str(next(iter(unreadable.values())))[:200]
            self._warn(
                f"{self.path}: a stored answer cannot be read ({reason}); it is kept, but not "
                "used: its request is sent again (so is that of every other such answer)"
            )

    def close(self) -> None:
        """Close the file."""
        with self._read_lock, self._write_lock:
            # The writer comes last: it merges the log into the file, which no reader may hold open.
            for database in (*self._readers.values(), self._opened):
                if database:
                    database.close()

    # Batches -------------------------------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """Return the batches of this journal."""
        with self._read_lock, _sqlite_errors(self.path):
            return _select_batches(self._reader(self.path))

    def sibling_batches(self) -> list[Batch]:
        """Return the batches of the siblings."""
        batches: list[Batch] = []
        for path in self._siblings:
            with self._read_lock, suppress(sqlite3.Error):
                batches += _select_batches(self._reader(path))
        return batches

    def store_batch(self, batch: Batch, max_spending: SpendingRow | None = None) -> None:
        """Commit the state of a batch; it is on disk when this returns.

        Args:
            batch: replaces the one with the same file.
            max_spending: the most that it can cost, with the file as key. It counts as spent until
                the batch has ended.
        """
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)",
                (batch.file, batch.batch, " ".join(batch.keys), batch.ended),
            )
            if batch.ended:
                database.execute("DELETE FROM spent WHERE key = ?", (batch.file,))
            elif max_spending:
                database.execute(INSERT_SPENDING, max_spending)

    def delete_batch(self, batch: Batch) -> None:
        """Delete a batch that will give no answers and costs nothing; its calls are free again."""
        with self._transaction() as database:
            database.execute("DELETE FROM batches WHERE file = ?", (batch.file,))
            database.execute("DELETE FROM spent WHERE key = ?", (batch.file,))

    # Connections ---------------------------------------------------------------------------------

    @property
    def _writer(self) -> sqlite3.Connection:
        # Opened with the first question, before anything is sent. An output that is up to date asks
        # none: it may be on a disk that cannot be written.
        with self._open_lock:
            if self._opened is None:
                with write_errors(self.path), _sqlite_errors(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._opened = _open_writer(self.path)
            return self._opened

    def _reader(self, path: Path) -> sqlite3.Connection:
        if path == self.path:
            writer = self._writer
            if path == IN_MEMORY:
                return writer
        if path not in self._readers:
            self._readers[path] = open_reader(path, short_lived=self.path == IN_MEMORY)
        return self._readers[path]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # The connection's own context commits, or rolls back after an error.
        with self._write_lock, _sqlite_errors(self.path), self._writer as database:
            database.execute("BEGIN IMMEDIATE")
            yield database


def total_spent(*paths: Path) -> Spending:
    """Return what the answers of these journals cost; a file that does not exist cost nothing.

    Raises:
        UserError: if a journal is damaged.
    """
    sums = [_spent(path) for path in paths if path.exists()]
    return Spending(*(sum(column) for column in zip(Spending(0, 0, 0, 0.0), *sums, strict=True)))


def _spent(path: Path) -> Spending:
    try:
        with closing(open_reader(path, short_lived=True)) as database:
            return Spending(*database.execute(SUM_SPENDING).fetchone())
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):  # written by a version without endpoints
            return Spending(0, 0, 0, 0.0)
        raise _damaged(path, error) from None  # an unreadable file must not count as nothing spent


def _open_writer(path: Path) -> sqlite3.Connection:
    if path != IN_MEMORY:  # SQLite gives its other files the same permissions
        os.close(os.open(path, os.O_CREAT, PRIVATE))
    database = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    database.text_factory = _decode
    try:
        # FULL: an answer that was paid for survives a power cut, not only a kill.
        database.execute("PRAGMA synchronous = FULL")
        # A write-ahead log needs one write per commit, but also memory that processes share, which
        # not every file system has.
        with suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode = WAL")
        database.executescript(SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def open_reader(path: Path, short_lived: bool) -> sqlite3.Connection:
    """Return a connection that only reads.

    Args:
        path: of a journal that exists.
        short_lived: whether it is closed before another process may begin to write.
    """
    # SQLite creates a log's files even for readers, and leaves them there. Without such a file
    # nobody writes, and `immutable` creates none.
    in_use = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    immutable = "&immutable=1" if short_lived and not in_use else ""
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{immutable}", uri=True, check_same_thread=False
    )
    database.text_factory = _decode
    return database


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")  # a damaged answer cannot be read, but the others can


def _select(database: sqlite3.Connection, keys: Sequence[str]) -> list[AnswerRow]:
    return [
        (
            key,
            number,
            request,
            unpack(answer),
        )
        for key, number, request, answer in database.execute(
            SELECT_ANSWERS, [json.dumps(list(keys))]
        )
    ]


def unpack(answer: object) -> str:
    """Return the text of an answer; an empty one, which nothing can read, if it is damaged."""
    if isinstance(answer, str):
        return answer
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(answer, MAX_ANSWER_BYTES).decode()  # type: ignore[arg-type]
    except (zlib.error, UnicodeDecodeError, TypeError):
        return ""
    return text if unpacker.eof else ""


def _select_batches(database: sqlite3.Connection) -> list[Batch]:
    return [
        Batch(str(file), str(batch or ""), tuple(str(keys or "").split()), bool(ended))
        for file, batch, keys, ended in database.execute(
            "SELECT file, batch, keys, ended FROM batches"
        )
    ]


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into messages for the user."""
    try:
        yield
    except sqlite3.OperationalError as error:
        message = f"{path}: the journal cannot be written: {error}"
        if "locked" in str(error):
            raise UserError(message, "wait until the other run ends") from None
        raise OutputError(
            message,
            "free some disk space or choose another folder with --out; stored answers are safe",
        ) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the journal is damaged: {error}",
        "move the file away; its answers are requested again",
    )
