"""What earlier requests took is read from the journals' own bills."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.lm import Journal, Request, bill_attempts, bill_labels

HEAD = "A list of reviews.\n\nReview: so so (Sentiment: Negative)\n"
PROMPT = f"{HEAD}Review:"
REQUEST = Request(0, PROMPT, 0, 10, label_prefix=" (Sentiment:", choices=(" Positive",))
LABEL = f"{PROMPT} a fine film (Sentiment:"


def call(prompt: Any, number: str, **body: Any) -> str:
    body = {"path": "/completions", "model": "m", "number": number, "prompt": prompt} | body
    return json.dumps(body, sort_keys=True)


def journal(path: Path, *calls: tuple[str, str, tuple[int, int, int]]) -> Path:
    store = Journal(path)
    for key, request, spent in calls:
        store.store([(key, None, request, "{}")], [(key, *spent, None)])
    store.close()
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two attempts, of which one took two more requests for its label, and what is no attempt."""
    first = journal(
        tmp_path / "a.journal.sqlite",
        ("a", call(PROMPT, "0"), (1, 40, 10)),
        ("b", call(LABEL, "0"), (1, 50, 1)),
        ("c", call(f"{LABEL} Posi", ""), (2, 52, 1)),  # scored again, after a retry
        ("probe", call(PROMPT, "probe"), (1, 40, 9)),
        ("check", call("Other rows.\nReview: dull (Sentiment:", ""), (1, 30, 1)),
        ("other", call(PROMPT, "0", model="n"), (1, 999, 99)),
        ("draws", call(PROMPT, "1", n=4), (1, 40, 99)),
    )
    second = journal(
        tmp_path / "b.journal.sqlite",
        ("a", call(PROMPT, "0"), (1, 40, 10)),  # a copy
        ("d", call(PROMPT, "1"), (1, 40, 20)),
    )
    return [first, second, tmp_path / "none.journal.sqlite"]


def test_an_attempt_has_its_line_and_its_label(paths: list[Path]) -> None:
    bill = bill_attempts(paths, "m", REQUEST, len)
    assert bill
    assert (bill.units, bill.requests) == (2, 1 + 1 + 2 + 1)
    assert (bill.prompt_tokens, bill.completion_tokens) == (40 + 50 + 52 + 40, 10 + 1 + 1 + 20)
    assert bill.counted_tokens == 2 * len(PROMPT)
    # Four more attempts, whose prompts are half as long.
    assert bill.take(4, 2 * len(PROMPT)) == (10, pytest.approx(bill.prompt_tokens), 64)


def test_a_beam_search_is_billed_apart(paths: list[Path]) -> None:
    bill = bill_attempts(paths, "m", Request(0, PROMPT, 0, 10, beams=4), len)
    assert bill
    assert bill.units == 1


def test_a_label_may_take_several_requests(paths: list[Path]) -> None:
    bill = bill_labels(paths[:1], "m", REQUEST, len)
    assert bill
    assert (bill.units, bill.requests) == (2, 4)  # a fine film, and the row of `check`


def test_without_answers_there_is_no_bill(paths: list[Path]) -> None:
    assert bill_attempts(paths[2:], "m", REQUEST, len) is None
    assert bill_attempts(paths, "unknown", REQUEST, len) is None
    assert bill_labels(paths[1:], "m", REQUEST, len) is None
