"""Texts without labels are read from tables and text files; held-out rows are left out."""

from pathlib import Path

import pytest

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Example
from gpt3mix_cli.unlabelled import read_unlabelled

TEST = [Example(id="t", text="It is n't bad .", label="pos")]
TEXTS = ("A fine film.", "So dull")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "A fine film.\n\nSo dull\na fine film\n"),
        ("a.csv", "text,score\nA fine film.,1\nSo dull,2\n"),
        ("a.jsonl", '{"text": "A fine film."}\n{"text": "So dull"}\n{"text": null}\n'),
    ],
)
def test_each_text_is_there_once(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert read_unlabelled(path, "text", ()) == (TEXTS, 0)


def test_copies_of_held_out_rows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("It isn't bad!\nSo dull\n")
    assert read_unlabelled(path, "text", TEST) == (("So dull",), 1)
    path.write_text("It isn't bad!\n")
    with pytest.raises(UserError, match="every text is a copy of a validation or test row"):
        read_unlabelled(path, "text", TEST)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body\nA fine film.\n")
    with pytest.raises(UserError, match=r"augment\.unlabelled"):
        read_unlabelled(path, "text", ())
