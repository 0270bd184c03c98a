"""Changes of journals."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .edits import byte_edits, edit_bytes, some

COLUMNS = [
    ("answers", "key"), ("answers", "number"), ("answers", "request"), ("answers", "answer"),
    ("answers", "answer"), ("answers", "answer"), ("spent", "requests"), ("spent", "usd"),
    ("spent", "prompt_tokens"), ("spent", "completion_tokens"), ("batches", "keys"),
]  # fmt: skip
VALUES: list[Any] = [
    None, "", "x", 0, -1, 1.5, 2**62, float("inf"), b"", b"\x00\xff", b"x\x9c" * 5, "{}", "[]",
    "null",
    "1", '{"choices": []}', '{"choices": [{}]}', '{"choices": null}', '{"refused": 1}', "\x00", "{",
    '{"refused": "too long"}', '{"choices": [{"text": "a", "logprobs": {"tokens": 1}}]}', "1e400",
    '{"usage": {"prompt_tokens": 1e30}}', '{"choices": [{"text": 1}]}', '"a"', "NaN", "[" * 3000,
]  # fmt: skip
STATEMENTS = [
    "DROP TABLE answers", "DROP TABLE spent", "DROP TABLE batches", "DELETE FROM answers",
    "ALTER TABLE answers RENAME COLUMN answer TO reply", "ALTER TABLE spent DROP COLUMN usd",
    "ALTER TABLE answers ADD COLUMN more TEXT", "CREATE TABLE films (id)",
    "PRAGMA user_version = 99",
    "INSERT INTO batches VALUES ('file-1', 'batch-1', 'x y', 0)",
    "INSERT INTO batches VALUES (NULL, NULL, NULL, NULL)",
    "INSERT INTO batches VALUES ('file-1', '', 1.5, 'x')",
    "CREATE TRIGGER stop BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'no'); END",
    "DROP TABLE answers; CREATE VIEW answers AS SELECT 1 AS key, 2 AS number, 3 AS answer",
]  # fmt: skip
FOREIGN = [b"", b"SQLite format 3\x00", b"not a database at all, just text\n" * 100, b"\x00" * 8192]


@st.composite
def journal_edits(draw: Callable[..., Any], data: bytes) -> bytes | None:
    """Return the bytes of a changed journal; None for a folder in its place."""
    kind = draw(
        st.sampled_from(["value", "value", "value", "statement", "bytes", "foreign", "folder"])
    )
    match kind:
        case "value":
            table, column = draw(st.sampled_from(COLUMNS))
            value = draw(st.sampled_from(VALUES))
            statement = f"UPDATE OR REPLACE {table} SET {column} = ?"
            if draw(st.booleans()):
                statement += f" WHERE key IN (SELECT key FROM {table} LIMIT 2)"
            if table == "batches":
                statement = "INSERT INTO batches VALUES ('file-1', 'batch-1', ?, 0)"
            return _with(data, statement, (value,))
        case "statement":
            return _with(data, draw(st.sampled_from(STATEMENTS)))
        case "bytes":
            return edit_bytes(data, draw(some(byte_edits)))
        case "foreign":
            return draw(st.sampled_from(FOREIGN))
    return None


def _with(data: bytes, statement: str, values: tuple[Any, ...] = ()) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        path.write_bytes(data)
        database = sqlite3.connect(path)
        try:
            with contextlib.suppress(sqlite3.Error):  # such as a key that is null
                if values:
                    database.execute(statement, values)
                else:
                    database.executescript(statement)
            database.commit()
            database.execute("PRAGMA journal_mode = DELETE")
        finally:
            database.close()
        return path.read_bytes()
