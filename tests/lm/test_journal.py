"""The journal: each answer is computed once, and is on disk before it is used."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm import Completion, JournaledLM, LMInfo, Request, Scores
from gpt3mix_cli.lm.journal import Journal, total_spent

BLOCK = 3


class Counting:
    """An LM that answers with the request's number and records the requests."""

    def __init__(self, fingerprint: str = "weights-1", scores: Scores | None = None) -> None:
        self.asked: list[list[int]] = []
        self.scored = 0
        self.scores = scores or Scores((-0.1, -2.3))
        self.info = LMInfo("counting", fingerprint, 1000, BLOCK, len, "")

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.asked.append([request.number for request in requests])
        return (
            Completion(
                request.number,
                f"{request.prompt} {request.number}",
                "label_prefix",
                self.scores,
                7,
                3,
            )
            for request in requests
        )

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        self.scored += 1
        return [
            Scores(tuple(-float(len(prompt + choice)) for choice in choices)) for prompt in prompts
        ]


def requests(first: int, last: int, **options: Any) -> list[Request]:
    return [
        Request(
            **{
                "number": n,
                "prompt": "Text:",
                "seed": n,
                "max_tokens": 5,
                "label_prefix": " (",
                "choices": (" a", " b"),
                **options,
            }
        )
        for n in range(first, last)
    ]


def answers(lm: Any, asked: Sequence[Request]) -> list[Completion]:
    return list(lm.complete(asked))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "er" / "answers.journal.sqlite"


def test_an_answer_is_computed_once(path: Path) -> None:
    """In the same journal, and after it was opened again."""
    lm = Counting()
    journal = JournaledLM(lm, path)
    first = answers(journal, requests(0, 8))
    assert first == answers(Counting(), requests(0, 8))
    assert lm.asked == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert answers(journal, requests(0, 8)) == first
    journal.close()
    again = JournaledLM(lm, path)
    assert answers(again, requests(0, 8)) == first
    again.close()
    assert len(lm.asked) == 3


def test_a_block_with_an_answer_missing_is_computed_whole(path: Path) -> None:
    """The last digits of a local LM depend on the block, so a part would not be the same."""
    lm = Counting()
    journal = JournaledLM(lm, path)
    answers(journal, requests(0, 2))
    lm.asked.clear()
    assert [answer.number for answer in answers(journal, requests(0, 6))] == list(range(6))
    assert lm.asked == [[0, 1, 2], [3, 4, 5]]
    lm.asked.clear()
    answers(journal, [*requests(0, 3), *requests(6, 9), *requests(3, 6)])
    assert lm.asked == [[6, 7, 8]]
    journal.close()


def test_a_block_is_computed_when_it_is_read(path: Path) -> None:
    """A caller that stops reading causes no more requests."""
    lm = Counting()
    journal = JournaledLM(lm, path)
    stream = journal.complete(requests(0, 9))
    assert lm.asked == []
    next(stream)
    assert lm.asked == [[0, 1, 2]]
    journal.close()


def test_a_block_is_on_disk_before_its_first_answer_is_returned(path: Path) -> None:
    """Another connection sees all three as soon as the first is returned."""
    journal = JournaledLM(Counting(), path)
    next(journal.complete(requests(0, 6)))
    other = sqlite3.connect(path)
    assert [
        number for (number,) in other.execute("SELECT number FROM answers ORDER BY number")
    ] == [0, 1, 2]
    other.close()
    journal.close()


@pytest.mark.parametrize(
    "change",
    [{"prompt": "Text: "}, {"seed": 77}, {"max_tokens": 6}, {"temperature": 0.9}, {"top_p": 0.9},
     {"min_p": 0.1}, {"frequency_penalty": 0.01}, {"label_prefix": " ["},
     {"choices": (" b", " a")}, {"number": 99}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_changed_request_is_computed_again(path: Path, change: dict[str, Any]) -> None:
    lm = Counting()
    journal = JournaledLM(lm, path)
    (request,) = requests(0, 1)
    answers(journal, [request])
    answers(journal, [replace(request, **change)])
    assert len(lm.asked) == 2
    answers(journal, [request])
    assert len(lm.asked) == 2, "the old answer is still there"
    journal.close()


def test_the_key_of_a_request_without_min_p_does_not_change(path: Path) -> None:
    """Computed by the version before `min_p`."""
    request = Request(
        number=7, prompt="Movie review:", seed=11, max_tokens=60, temperature=0.9, top_p=0.8,
        frequency_penalty=0.01, label_prefix=" (Sentiment:", choices=(" Positive", " Negative"),
    )  # fmt: skip
    journal = JournaledLM(Counting(), path)
    answers(journal, [request])
    journal.close()
    with closing(sqlite3.connect(path)) as stored:
        keys = stored.execute("SELECT key FROM answers").fetchall()
    assert keys == [("b67ba3b8f6751b93e2360928bdf9b53f",)]


def test_another_model_is_asked_again(path: Path) -> None:
    for fingerprint, times in (("weights-1", 1), ("weights-2", 1), ("weights-1", 0)):
        lm = Counting(fingerprint)
        journal = JournaledLM(lm, path)
        answers(journal, requests(0, 3))
        journal.close()
        assert len(lm.asked) == times


floats = st.floats(max_value=0, allow_nan=False)
completions = st.builds(
    Completion,
    number=st.just(0),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    finish=st.sampled_from(["label_prefix", "line", "length", "too_long"]),
    scores=st.none()
    | st.lists(floats, min_size=1, max_size=4).map(lambda values: Scores(tuple(values))),
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**6),
)


@settings(max_examples=40, deadline=None)
@given(completions)
def test_an_answer_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, completion: Completion
) -> None:
    """Every float to the last bit, every text to the last character."""

    class One(Counting):
        def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
            super().complete(requests)
            return iter([completion])

    lm, scores = One(), completion.scores
    journal = JournaledLM(lm, tmp_path_factory.mktemp("journal") / "j.sqlite")
    choices = tuple(f" {number}" for number in range(len(scores.logprobs))) if scores else ()
    asked = requests(0, 1, choices=choices)
    first, second = answers(journal, asked), answers(journal, asked)
    journal.close()
    assert first == second == [completion]
    assert len(lm.asked) == 1


def test_score_returns_the_lms_scores(path: Path) -> None:
    lm = Counting()
    journal = JournaledLM(lm, path)
    assert journal.score(["x", "yy"], ["a"]) == lm.score(["x", "yy"], ["a"])
    assert journal.info is lm.info
    journal.close()


def test_the_journal_stores_readable_requests(path: Path) -> None:
    journal = JournaledLM(Counting(), path)
    answers(journal, requests(4, 5, prompt="Film: Café"))
    journal.close()
    with sqlite3.connect(path) as database:
        ((number, request, answer),) = database.execute(
            "SELECT number, request, answer FROM answers"
        )
    database.close()
    assert number == 4
    assert "Film: Café" in request
    assert '"finish": "label_prefix"' in answer


KILLED = """
import os, signal, sys
from pathlib import Path
from gpt3mix_cli.lm import Completion, JournaledLM, LMInfo, Request, Scores
from gpt3mix_cli.lm.journal import Journal, total_spent

class Dying:
    info = LMInfo("counting", "weights-1", 1000, 3, len, "")
    def complete(self, requests):
        for request in requests:
            if request.number == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            text, scores = f"{request.prompt} {request.number}", Scores((-0.1, -2.3))
            yield Completion(request.number, text, "label_prefix", scores, 7, 3)
    def score(self, prompts, choices):
        return []

options = dict(prompt="Text:", max_tokens=5, label_prefix=" (", choices=(" a", " b"))
asked = [Request(number=n, seed=n, **options) for n in range(9)]
for completion in JournaledLM(Dying(), Path(sys.argv[1])).complete(asked):
    pass
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_answers_survive_a_kill(path: Path) -> None:
    """Killed in the second block: the first is stored, the second is computed again as a whole."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    lm = Counting()
    journal = JournaledLM(lm, path)
    assert answers(journal, requests(0, 9)) == answers(Counting(), requests(0, 9))
    journal.close()
    assert lm.asked == [[3, 4, 5], [6, 7, 8]]


def test_a_block_in_which_the_lm_fails_is_not_stored(path: Path) -> None:
    class Failing(Counting):
        def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
            for completion in super().complete(requests):
                if completion.number == 4:
                    raise RuntimeError("no more")
                yield completion

    journal = JournaledLM(Failing(), path)
    with pytest.raises(RuntimeError, match="no more"):
        answers(journal, requests(0, 6))
    journal.close()
    lm = Counting()
    journal = JournaledLM(lm, path)
    answers(journal, requests(0, 6))
    journal.close()
    assert lm.asked == [[3, 4, 5]]


@pytest.mark.parametrize(
    "content",
    [b"these are no answers, but some other file of yours" * 20, b"\x00" * 4096],
    ids=["text", "zeros"],
)
def test_a_file_that_is_not_a_journal_is_refused_and_unchanged(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.journal\.sqlite") as caught:
        answers(JournaledLM(Counting(), path), requests(0, 1))
    assert caught.value.hint
    assert path.read_bytes() == content


def test_a_damaged_journal_is_reported(path: Path) -> None:
    """All pages but the first are overwritten, as by a bad disk."""
    journal = JournaledLM(Counting(), path)
    answers(journal, requests(0, 60, prompt="long " * 200))
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xa5" * (size - 4096))

    def read_again() -> None:
        journal = JournaledLM(Counting(), path)
        try:
            answers(journal, requests(0, 60, prompt="long " * 200))
        finally:
            journal.close()

    with pytest.raises(UserError, match="damaged"):
        read_again()


@pytest.mark.parametrize(
    "spoilt",
    [
        "substr(answer, 1, 20)",
        "replace(answer, '\"exact\"', '5')",
        "replace(replace(answer, '[-0.1', '[NaN'), '[-', '[NaN, -')",
        "'[]'",
        "7",
        "NULL",
        "x'00ff'",
    ],
)
def test_an_answer_that_cannot_be_read_is_set_aside_and_asked_for_again(
    path: Path, spoilt: str
) -> None:
    """SQLite has no checksums: a row may be readable and still be damaged."""
    journal = JournaledLM(Counting(), path)
    expected = answers(journal, requests(0, 3))
    scores = journal.score(["one prompt"], (" a", " b"))
    journal.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"UPDATE answers SET answer = {spoilt}")
        assert database.total_changes
    warnings: list[str] = []
    for _ in range(2):
        lm = Counting()
        journal = JournaledLM(lm, path, warn=warnings.append)
        assert answers(journal, requests(0, 3)) == expected
        assert journal.score(["one prompt"], (" a", " b")) == scores
        journal.close()
    assert not lm.asked
    assert not lm.scored
    (warning,) = warnings
    assert warning.startswith(f"{path}: a stored answer cannot be read (")
    with closing(sqlite3.connect(path)) as database:
        kept = "SELECT COUNT(*) FROM answers WHERE key LIKE '%unreadable%'"
        assert database.execute(kept).fetchone() == (4,)


def test_what_an_unreadable_answer_cost_still_counts(path: Path) -> None:
    journal = Journal(path)
    journal.store([("a", 0, "{}", "no JSON")], [("a", 1, 30, 5, 0.5)])
    assert journal.read(["a"], json.loads) == {}
    journal.store([("a", 0, "{}", "{}")], [("a", 1, 20, 5, 0.5)])
    assert journal.read(["a"], json.loads) == {"a": {}}
    journal.close()
    assert total_spent(path) == (2, 50, 10, 1.0)


def test_an_answer_that_unpacks_to_gigabytes_is_unreadable(path: Path) -> None:
    bomb = zlib.compressobj(9)
    block = bytes(2**20)
    packed = b"".join(bomb.compress(block) for _ in range(80)) + bomb.flush()
    journal = Journal(path)
    journal.store([("a", 0, "{}", "{}")])
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE answers SET answer = ?", [packed])
    assert journal.read(["a"], str) == {"a": ""}
    journal.close()


def test_a_journal_that_is_not_asked_is_not_opened(path: Path) -> None:
    """So results that are up to date may be on a disk that is read-only."""
    JournaledLM(Counting(), path).close()
    assert not path.parent.exists()


def test_a_path_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "j.sqlite", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            answers(JournaledLM(Counting(), path), requests(0, 1))


def test_a_locked_journal_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has locked it; the timeout is 0 here."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, **{**options, "timeout": 0})
    )
    journal = JournaledLM(Counting(), path)
    answers(journal, requests(0, 1))
    other = connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked") as caught:
        answers(journal, requests(0, 3))
    other.execute("ROLLBACK")
    other.close()
    journal.close()
    assert "wait" in caught.value.hint


def test_scores_are_stored_and_only_missing_ones_are_computed(tmp_path: Path) -> None:
    asked: list[str] = []

    class Spelling(Counting):
        def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
            asked.extend(prompts)
            return [
                Scores(tuple(-float(len(prompt + choice)) for choice in choices))
                for prompt in prompts
            ]

    journal = JournaledLM(Spelling(), tmp_path / "a.sqlite")
    first = journal.score(["a film", "a mess!"], ["x", "yy"])
    again = journal.score(["a mess!", "joy", "a film"], ["x", "yy"])
    other = journal.score(["a mess!"], ["yy", "x"])
    journal.close()
    assert asked == ["a film", "a mess!", "joy", "a mess!"]
    assert again == [first[1], Scores((-4.0, -5.0)), first[0]]
    assert other == [Scores((-9.0, -8.0))]
    sibling = JournaledLM(Spelling(), tmp_path / "b.sqlite", [tmp_path / "a.sqlite"])
    assert sibling.score(["joy", "new"], ["x", "yy"]) == [again[1], Scores((-4.0, -5.0))]
    sibling.close()
    assert asked[4:] == ["new"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_only_its_owner_reads_a_journal(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "x.journal.sqlite"
    before = os.umask(umask)
    try:
        journal = Journal(path)
        journal.store([("key", 1, "a prompt", "an answer")])
        files = list(tmp_path.iterdir())
        modes = {file.name: file.stat().st_mode & 0o777 for file in files}
    finally:
        os.umask(before)
    journal.close()
    assert len(files) == 3  # the log and its index too
    assert set(modes.values()) == {0o600 & ~umask}
