"""Lists the requests and answers of a journal, also while another process writes it."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import UserError
from .journal import open_reader, unpack

SELECT = (
    "SELECT answers.key, number, request, answer, prompt_tokens, completion_tokens, usd, requests"
    " FROM answers LEFT JOIN spent USING (key)"
    " ORDER BY number IS NULL, number, answers.key LIMIT ?"
)
# Journals of versions without endpoints have no table of costs.
SELECT_WITHOUT_COST = (
    "SELECT key, number, request, answer, NULL, NULL, NULL, NULL FROM answers"
    " ORDER BY number IS NULL, number, key LIMIT ?"
)
PROMPTS = (
    "prompt",
    "messages",
    "text",
    "input",
)  # names of what was asked, the first that is there


def list_answers(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield each request of a journal with its answer, in the order of the attempts.

    Requests without an attempt, such as labels and translations, come last. Each object has:

    - `number`: of the attempt; None without one.
    - `prompt`: the text, or the messages of a chat.
    - `texts`: what was generated or translated; empty if only labels were scored.
    - `prompt_tokens`, `completion_tokens`, `usd`: of the answer; None if unknown.
    - `request`, `answer`: the rest of the request, and the raw answer. Neither holds a key.

    Args:
        path: of the journal.
        limit: at most this many; None: all.

    Raises:
        UserError: if the file is no journal.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such journal", "only methods that ask a model have one")
    try:
        with closing(open_reader(path, short_lived=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if "answers" not in tables:
                raise UserError(f"{path}: is no journal of gpt3mix", "give a .journal.sqlite file")
            select = SELECT if "spent" in tables else SELECT_WITHOUT_COST
            for row in database.execute(select, [-1 if limit is None else limit]):
                yield _describe(*row)
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: cannot be read as a journal: {error}", "give a .journal.sqlite file"
        ) from None


def _describe(
    key: str, number: int | None, request: str, answer: object, *spent: float | None
) -> dict[str, Any]:
    asked, given = _parse(request), _parse(unpack(answer))
    fields = dict(asked) if isinstance(asked, dict) else {"request": asked}
    prompt = next((fields.pop(name) for name in PROMPTS if name in fields), None)
    own = given if isinstance(given, dict) else {}  # a local LM's answer has its counts
    prompt_tokens, completion_tokens, usd, requests = spent
    return {
        "number": number,
        "prompt": prompt,
        "texts": _texts(given),
        "prompt_tokens": own.get("prompt_tokens") if prompt_tokens is None else prompt_tokens,
        "completion_tokens": own.get("completion_tokens")
        if completion_tokens is None
        else completion_tokens,
        "usd": usd,
        "requests": requests,
        "key": key,
        "request": fields,
        "answer": given,
    }


def _parse(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return text  # damaged; it is shown as it is


def _texts(answer: Any) -> list[str]:
    if isinstance(answer, list):  # translations
        return [text for text in answer if isinstance(text, str)]
    if not isinstance(answer, Mapping):
        return []
    texts = [answer.get("text")]  # of a local LM
    if hypotheses := answer.get("hypotheses"):
        texts = [line.get("text") for line in hypotheses if isinstance(line, Mapping)]
    for choice in answer.get("choices") or ():  # of an endpoint
        if isinstance(choice, Mapping):
            message = choice.get("message")
            texts.append(message.get("content") if isinstance(message, Mapping) else None)
            texts.append(choice.get("text"))
    return [text for text in texts if isinstance(text, str)]
