"""Makes what an LM answers durable before anyone parses it: one SQLite file an output, one commit a block.

A run that was killed asks again for the block in flight only. The key of an answer is a hash of the LM's fingerprint
and the whole request (prompt, parameters, seed, attempt number), so changed settings never meet old answers.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError
from ..files import disk
from ..settings import fingerprint
from . import LM, About, Completion, Hypothesis, Request, Scores, blocks

SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, number INTEGER, request TEXT, answer TEXT) WITHOUT ROWID"


class Journaled:
    """An LM whose answers are looked up in a journal first and committed to it before they are given out."""

    def __init__(self, lm: LM, path: Path, siblings: Sequence[Path] = ()) -> None:
        """Open or make the journal.

        Args:
            lm: is asked for what no journal holds.
            path: of the journal.
            siblings: journals of the same experiment that are looked up too, so that a sweep asks once.

        Raises:
            UserError: if the file cannot be written or is no journal.
        """
        self._lm = lm
        self._path, self._siblings = path, siblings
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._sqlite():
            self._database = sqlite3.connect(path, isolation_level=None, timeout=10)
            try:
                # FULL: an answer that was paid for survives a power cut, not only a kill.
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute(SCHEMA)
            except sqlite3.Error:
                self._database.close()
                raise

    @property
    def about(self) -> About:
        """What is known of the LM inside."""
        return self._lm.about

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield the answers, asking only for blocks that are not wholly in the journal."""
        for block in blocks(requests, self.about.block):
            keys = [fingerprint([self.about.fingerprint, asdict(request)], 32) for request in block]
            answers = self._find(keys) or self._borrowed(keys)
            if len(answers) < len(keys):
                found = list(self._lm.complete(block))
                self._keep(keys, block, found)
                yield from found
            else:
                yield from (answers[key] for key in keys)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Pass the question on: scores of fixed texts can be had again at any time."""
        return self._lm.score(prompts, choices)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _find(self, keys: Sequence[str]) -> dict[str, Completion]:
        marks = ",".join("?" * len(keys))
        with self._sqlite():
            rows = self._database.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", keys).fetchall()  # noqa: S608 - only marks
        try:
            return {key: _completion(answer) for key, answer in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self._path, error) from None

    def _borrowed(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Copy the answers of a block from the first sibling that has all of them."""
        marks = ",".join("?" * len(keys))
        for path in self._siblings:
            with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as sibling:
                rows = sibling.execute(f"SELECT key, number, request, answer FROM answers WHERE key IN ({marks})", keys).fetchall()  # noqa: S608
                if len(rows) == len(set(keys)):
                    self._insert(rows)
                    return self._find(keys)
        return {}

    def _keep(self, keys: Sequence[str], requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        rows = [
            (key, request.number, json.dumps(asdict(request), ensure_ascii=False), json.dumps(asdict(completion), ensure_ascii=False))
            for key, request, completion in zip(keys, requests, completions, strict=True)
        ]
        self._insert(rows)

    def _insert(self, rows: Sequence[tuple[str, int, str, str]]) -> None:
        with self._sqlite():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _sqlite(self) -> "_Translated":
        return _Translated(self._path)


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


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: the journal is damaged: {error}", "move the file away; its answers will be asked for again")


def _completion(answer: str) -> Completion:
    value = json.loads(answer)
    scores = value["scores"]
    if scores is not None:
        value["scores"] = Scores(tuple(scores["logprobs"]), scores["source"])
    value["hypotheses"] = tuple(Hypothesis(**one) for one in value.get("hypotheses", ()))
    return Completion(**value)
