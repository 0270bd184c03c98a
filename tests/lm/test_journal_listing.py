"""`gpt3mix journal`: prompts, raw answers, tokens and cost, as they were stored."""

import json
import sqlite3
from pathlib import Path

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm import Journal, list_answers

CHAT = {
    "path": "chat/completions",
    "number": "1",
    "messages": [{"role": "user", "content": "Write."}],
    "max_tokens": 5,
}
ANSWER = {
    "choices": [{"message": {"content": "A film."}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3},
}
LOCAL = {"number": 0, "text": " Fine", "prompt_tokens": 4, "completion_tokens": 2, "usd": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gpt3mix.journal.sqlite"
    journal = Journal(path)
    journal.store(
        [
            ("zz", None, json.dumps({"prompt": "Film:", "choices": [" A"]}), '{"logprobs": [-1]}'),
            ("b", 1, json.dumps(CHAT), json.dumps(ANSWER)),
            ("c", 0, json.dumps({"prompt": "Film:", "number": 0}), json.dumps(LOCAL)),
            ("yy", None, json.dumps({"model": "de", "text": "So"}), '["Also", "So"]'),
            ("xx", None, "{", "no JSON"),
        ],
        [("b", 2, 9, 3, 0.25)],
    )
    journal.close()
    return path


def test_each_request_is_listed_with_what_was_answered(path: Path) -> None:
    listed = list(list_answers(path))
    assert [(item["number"], item["prompt"], item["texts"]) for item in listed] == [
        (0, "Film:", [" Fine"]),
        (1, CHAT["messages"], ["A film."]),
        (None, None, []),
        (None, "So", ["Also", "So"]),
        (None, "Film:", []),
    ]
    costs = [(i["prompt_tokens"], i["completion_tokens"], i["usd"], i["requests"]) for i in listed]
    assert costs == [(4, 2, None, None), (9, 3, 0.25, 2), *[(None, None, None, None)] * 3]
    assert listed[1]["answer"] == ANSWER
    assert listed[1]["request"] == {"path": "chat/completions", "number": "1", "max_tokens": 5}
    assert listed[2]["answer"] == "no JSON"  # damaged: shown as it is


def test_a_long_answer_is_unpacked(path: Path) -> None:
    journal = Journal(path)
    journal.store([("long", 7, "{}", json.dumps({"text": "word " * 9000}))])
    # The other process still has the file open.
    assert list(list_answers(path))[2]["texts"] == ["word " * 9000]
    journal.close()


def test_the_command_takes_the_rows_and_a_limit(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", str(path.with_name("gpt3mix.jsonl")), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1]
    assert main(["journal", str(path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such journal"):
        list(list_answers(tmp_path / "gone.journal.sqlite"))
    (text := tmp_path / "text.sqlite").write_text("no database at all, but long enough to be read")
    with pytest.raises(UserError, match="cannot be read as a journal"):
        list(list_answers(text))
    database = sqlite3.connect(tmp_path / "other.sqlite")
    database.execute("CREATE TABLE answers_of_others (x)")
    database.close()
    with pytest.raises(UserError, match="is no journal of gpt3mix"):
        list(list_answers(tmp_path / "other.sqlite"))
