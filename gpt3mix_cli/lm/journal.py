"""Makes what an LM answers durable before anyone parses it: one SQLite file an output, one commit a block.

A run that was killed asks again for the block in flight only. The key of an answer is a hash of the LM's fingerprint
and the whole request (prompt, parameters, seed, attempt number), so changed settings never meet old answers.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import UserError
from ..files import write_errors
from ..settings import fingerprint
from .port import LM, About, Completion, Hypothesis, JournalAware, Request, Scores, blocks

Row = tuple[str, int | None, str, str]
Spent = tuple[str, int, int, int, float | None]
Answer = TypeVar("Answer")
IN_MEMORY = Path(
    ":memory:"
)  # a journal that only reads its siblings, and leaves no trace beside them
VARIABLES = 500  # in one query: older SQLites take 999
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, number INTEGER, request TEXT, answer TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS spent"
    " (key TEXT PRIMARY KEY, requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, usd REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS batches (file TEXT PRIMARY KEY, batch TEXT, keys TEXT, ended INTEGER) WITHOUT ROWID",
)
LONG = 4096  # characters above which an answer is kept compressed: log-probabilities of every token take far more than the text


@dataclass(frozen=True)
class Batch:
    """Calls that went to a provider in one file.

    Attributes:
        file: the provider's name of the file.
        batch: the provider's name of the batch that was made of it; empty until that is known.
        keys: of the calls.
        ended: whether its answers are among the others.
    """

    file: str
    batch: str
    keys: tuple[str, ...]
    ended: bool = False


class Journal:
    """The file: answers by their keys. Several threads may use it, one process may write."""

    def __init__(self, path: Path, siblings: Sequence[Path] = ()) -> None:
        """Open or make it.

        Args:
            path: of the journal; `IN_MEMORY` makes no file.
            siblings: journals of the same experiment that are looked up too, so that a sweep asks once.

        Raises:
            UserError: if the file cannot be written or is no journal.
        """
        self.path = path
        self._siblings = siblings
        self._opened: dict[Path, sqlite3.Connection] = {}
        # Of its own for reading, so that looking an answer up does not wait for a commit's way to the disk.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._sqlite():
            self._database = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
            try:
                # FULL: an answer that was paid for survives a power cut, not only a kill.
                self._database.execute("PRAGMA synchronous = FULL")
                # A log needs one write to the disk a commit, but memory shared between processes, which not every file system has.
                with suppress(sqlite3.OperationalError):
                    self._database.execute("PRAGMA journal_mode = WAL")
                for table in SCHEMA:
                    self._database.execute(table)
            except sqlite3.Error:
                self._database.close()
                raise
        if path == IN_MEMORY:
            self._opened[path] = self._database

    def found(self, keys: Sequence[str], whole: bool = False) -> dict[str, str]:
        """Return the answers to these keys, from this journal or the siblings'; `whole`: from one of them, all or none."""
        taken: list[Row] = []
        with self._reading:
            with self._sqlite():
                found = {row[0]: row[3] for row in self._rows(self._reader(self.path), keys)}
            for path in self._siblings:
                if len(found) == len(set(keys)):
                    break
                with suppress(sqlite3.Error):
                    rows = self._rows(
                        self._reader(path), [key for key in keys if whole or key not in found]
                    )
                    if not whole or len(rows) == len(set(keys)):
                        taken += rows
                        found |= {row[0]: row[3] for row in rows}
        self.keep(() if self.path == IN_MEMORY else taken)
        return found if len(found) == len(set(keys)) or not whole else {}

    def keep(self, rows: Sequence[Row], spent: Sequence[Spent] = ()) -> None:
        """Commit rows of (key, number, request, answer), all or none; they are on the disk when this returns.

        Args:
            rows: replace what their keys had.
            spent: what was paid for the answers, as (key, requests, prompt tokens, completion tokens, dollars or None).
        """
        if not rows:
            return
        packed = [
            (*row[:3], zlib.compress(row[3].encode(), 1) if len(row[3]) > LONG else row[3])
            for row in rows
        ]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", packed)
            database.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?)", spent)

    def batches(self) -> list[Batch]:
        """Return the batches of this journal."""
        with self._reading, self._sqlite():
            return _batches(self._reader(self.path))

    def batches_elsewhere(self) -> list[Batch]:
        """Return the batches of the siblings."""
        found: list[Batch] = []
        for path in self._siblings:
            with self._reading, suppress(sqlite3.Error):
                found += _batches(self._reader(path))
        return found

    def keep_batch(self, batch: Batch, most: Spent | None = None) -> None:
        """Commit what is known of a batch; it is on the disk when this returns.

        Args:
            batch: replaces what its file had.
            most: what it can cost, which counts as spent until it has ended; its key is the file.
        """
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)",
                (batch.file, batch.batch, " ".join(batch.keys), batch.ended),
            )
            if batch.ended:
                database.execute("DELETE FROM spent WHERE key = ?", (batch.file,))
            elif most:
                database.execute("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?)", most)

    def forget_batch(self, batch: Batch) -> None:
        """Forget a batch of which nothing will come and that costs nothing: its calls may go into another."""
        with self._transaction() as database:
            database.execute("DELETE FROM batches WHERE file = ?", (batch.file,))
            database.execute("DELETE FROM spent WHERE key = ?", (batch.file,))

    def parsed(self, parse: Callable[[str], Answer], answer: str) -> Answer:
        """Return what `parse` makes of an answer.

        Raises:
            UserError: if it is not what was once kept.
        """
        try:
            return parse(answer)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self.path, error) from None

    def close(self) -> None:
        """Close the file."""
        with self._reading, self._writing:
            # The writer last: it folds the log into the file, which no reader may then hold open.
            for database in (*self._opened.values(), self._database):
                database.close()

    def _reader(self, path: Path) -> sqlite3.Connection:
        if path not in self._opened:
            self._opened[path] = _reader_of(path, still=self.path == IN_MEMORY)
        return self._opened[path]

    @staticmethod
    def _rows(database: sqlite3.Connection, keys: Sequence[str]) -> list[Row]:
        found: list[Row] = []
        for start in range(0, len(keys), VARIABLES):
            part = keys[start : start + VARIABLES]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, number, request, answer FROM answers WHERE key IN ({marks})"  # noqa: S608 - only marks
            rows = database.execute(query, list(part)).fetchall()
            found += [
                (
                    *row[:3],
                    zlib.decompress(row[3]).decode() if isinstance(row[3], bytes) else row[3],
                )
                for row in rows
            ]
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._sqlite():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _sqlite(self) -> "_Translated":
        return _Translated(self.path)


class Journaled:
    """An LM whose answers are looked up in a journal first and committed to it before they are given out."""

    def __init__(self, lm: LM, path: Path, siblings: Sequence[Path] = ()) -> None:
        """Open or make the journal at `path`; `lm` is asked for what neither it nor its siblings hold.

        Raises:
            UserError: if the file cannot be written or is no journal.
        """
        self._journal = Journal(path, siblings)
        # What an endpoint answers is kept as it came, so that reading it in another way asks nothing.
        self._raw = lm.over(self._journal) if isinstance(lm, JournalAware) else None
        self._lm = self._raw or lm

    @property
    def about(self) -> About:
        """What is known of the LM inside."""
        return self._lm.about

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, asking only for what is not in the journal: of an engine that answers in blocks, whole blocks."""
        journal = self._journal
        if self._raw:
            yield from self._raw.complete(requests)
            return
        for block in blocks(requests, self.about.block):
            keys = [fingerprint([self.about.fingerprint, asdict(request)], 32) for request in block]
            answers = journal.found(keys, whole=True)
            if len(answers) < len(keys):
                found = list(self._lm.complete(block))
                journal.keep(
                    [
                        _row(key, one.number, request, one)
                        for key, request, one in zip(keys, block, found, strict=True)
                    ]
                )
                yield from found
            else:
                yield from (journal.parsed(_completion, answers[key]) for key in keys)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores, asking only for prompts that are not in the journal: relabelling asks nothing."""
        if self._raw:
            return self._raw.score(prompts, choices)
        journal = self._journal
        asked = [{"prompt": prompt, "choices": list(choices)} for prompt in prompts]
        keys = [fingerprint([self.about.fingerprint, "score", one], 32) for one in asked]
        answers = journal.found(keys)
        missing = {key: one for key, one in zip(keys, asked, strict=True) if key not in answers}
        found = (
            dict(
                zip(
                    missing,
                    self._lm.score([str(one["prompt"]) for one in missing.values()], choices),
                    strict=True,
                )
            )
            if missing
            else {}
        )
        journal.keep([_row(key, None, missing[key], scores) for key, scores in found.items()])
        return [
            found[key] if key in found else journal.parsed(_scores, answers[key]) for key in keys
        ]

    def describe(self) -> str:
        """Return what the LM inside is found to offer."""
        return self._lm.describe()

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


class _Translated:
    """Turns SQLite's errors into messages for the user."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            hint = (
                "wait for the other run to end"
                if "locked" in str(error)
                else "free some space or choose another place with --out; answers so far are kept"
            )
            raise UserError(f"{self._path}: the journal cannot be written: {error}", hint) from None
        if isinstance(error, sqlite3.DatabaseError):
            raise _damaged(self._path, error) from None


def paid(path: Path) -> tuple[int, int, int, float]:
    """Return what the answers of a journal have cost: requests, prompt tokens, completion tokens, dollars as far as they are known.

    Raises:
        UserError: if the journal is damaged.
    """
    query = "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(usd), 0) FROM spent"
    if not path.exists():
        return 0, 0, 0, 0.0
    try:
        with closing(_reader_of(path, still=True)) as database:
            requests, prompt, completion, usd = database.execute(query).fetchone()
            return requests, prompt, completion, usd
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):  # of a version that asked no endpoint
            return 0, 0, 0, 0.0
        raise _damaged(path, error) from None  # what cannot be read must not count as nothing spent


def _reader_of(path: Path, still: bool) -> sqlite3.Connection:
    """Return a connection that only reads; `still`: one that lives too short to miss what others write meanwhile."""
    # SQLite makes a log's files beside even for readers, and leaves them there. Where there are none nobody writes.
    being_written = any(
        path.with_name(f"{path.name}{beside}").exists() for beside in ("-wal", "-journal")
    )
    immutable = "&immutable=1" if still and not being_written else ""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{immutable}", uri=True, check_same_thread=False
    )


def _batches(database: sqlite3.Connection) -> list[Batch]:
    rows = database.execute("SELECT file, batch, keys, ended FROM batches").fetchall()
    return [
        Batch(file, batch, tuple(keys.split()), bool(ended)) for file, batch, keys, ended in rows
    ]


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the journal is damaged: {error}",
        "move the file away; its answers will be asked for again",
    )


def _row(key: str, number: int | None, asked: object, answer: Completion | Scores) -> Row:
    request = asdict(asked) if isinstance(asked, Request) else asked
    return (
        key,
        number,
        json.dumps(request, ensure_ascii=False),
        json.dumps(asdict(answer), ensure_ascii=False),
    )


def _scores(answer: str) -> Scores:
    value = json.loads(answer)
    return Scores(tuple(value["logprobs"]), value["source"])  # engines in blocks bound nothing


def _completion(answer: str) -> Completion:
    value = json.loads(answer)
    scores = value["scores"]
    if scores is not None:
        value["scores"] = Scores(tuple(scores["logprobs"]), scores["source"])
    value["hypotheses"] = tuple(Hypothesis(**one) for one in value.get("hypotheses", ()))
    return Completion(**value)
