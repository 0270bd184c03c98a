"""The review of synthetic rows in a spreadsheet: the table, and what it changes."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt3mix_cli.cli import main
from gpt3mix_cli.grid.review import guard_cell, restore_cell
from gpt3mix_cli.layout import manifest_path
from gpt3mix_cli.records import read_manifest

CONFIG = """\
name: reviewed
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [3/class], seeds: 1, validation: 40}
baselines: [{kind: aeda}]
classifiers: [{kind: linear}]
trials: 1
"""
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder with an experiment that has finished."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG)

    def run(command: str, *arguments: str) -> int:
        return main([command, "mine.yaml", "-q", *arguments])

    for command in (["subsample"], ["baseline", "--method", "aeda"], ["train"]):
        assert run(*command) == 0
    return run


TABLE = Path("results/reviewed/review.csv")
CELL = Path("results/reviewed/3-per-class/seed-0")
SET, TRIALS = CELL / "aeda.jsonl", CELL / "trials/aeda.linear.jsonl"


def synthetic() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SET.read_text("utf-8").splitlines()]


def change(edit: Callable[[list[dict[str, str]]], object], delimiter: str = ",") -> None:
    """Edit the table and save it as a spreadsheet does: it may use another delimiter."""
    text = TABLE.read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    edit(rows)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    TABLE.write_bytes(buffer.getvalue().encode("utf-8-sig"))


def test_a_table_comes_back_with_rows_dropped_and_corrected(run: Run) -> None:
    before = synthetic()
    assert run("review") == 0
    assert TABLE.read_bytes().startswith("\ufeffkeep,label,text,".encode())

    def edit(rows: list[dict[str, str]]) -> None:
        rows[0]["keep"] = "NO"
        rows[1]["text"] = "Ein völlig anderer Satz;\nmit zwei Zeilen"
        rows[2]["label"] = "neg" if rows[2]["label"] == "pos" else "pos"
        del rows[3]

    change(edit, delimiter=";")
    trials, whole = TRIALS.read_bytes(), SET.read_bytes()
    assert run("review", "--apply") == 0
    after = synthetic()
    assert after[2:] == before[4:]
    assert after[0]["text"] == "Ein völlig anderer Satz;\nmit zwei Zeilen"
    assert after[0]["probs"] == before[1]["probs"]
    assert after[1]["label"] != before[2]["label"]
    assert after[1]["probs"][after[1]["label"]] == 1
    assert [row.get("edited", False) for row in after] == [True, True] + [False] * 2
    manifest = read_manifest(SET)
    assert manifest
    counts = {name: manifest.counts[name] for name in ("kept", "edited", "dropped")}
    assert counts == {"kept": 4, "edited": 2, "dropped": 2}
    assert Path(f"{SET}.bak").read_bytes() == whole
    assert Path(f"{TRIALS}.bak").read_bytes() == trials
    assert not TRIALS.exists()


def test_a_run_goes_on_with_the_reviewed_rows_and_does_not_replace_them(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("review")
    change(lambda rows: rows[0].update(text="quite another text"))
    assert run("review", "--apply") == 0
    reviewed = SET.read_bytes()
    assert run("baseline", "--method", "aeda") == 0
    assert run("train") == 0
    assert SET.read_bytes() == reviewed
    assert TRIALS.exists()
    assert run("report") == 0
    line = "reviewed aeda: a person has edited 1 and removed 0 of the synthetic rows"
    page = Path("results/reviewed/report/report.html").read_text("utf-8")
    assert line in page
    assert run("train", "--method", "aeda", "--save-model", "model") == 0
    assert "a person has edited 1 and removed 0" in Path("model/README.md").read_text("utf-8")
    for path in TRIALS.parent.iterdir():  # finished trials stop it in any case
        path.unlink()
    assert run("baseline", "--method", "aeda", "--ratio", "2") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "has rows that a person has reviewed; different now: augment.ratio 1.0 -> 2.0" in error
    assert "then --apply" not in error
    assert SET.read_bytes() == reviewed


def test_changes_are_taken_once_and_a_table_without_changes_may_be_replaced(run: Run) -> None:
    run("review")
    change(lambda rows: rows[0].update(keep="no"))
    assert run("review") == 2  # the change would be lost
    assert run("review", "--apply") == 0
    after = SET.read_bytes()
    assert run("review", "--apply") == 0
    assert SET.read_bytes() == after
    assert run("review") == 0
    assert len(TABLE.read_bytes().splitlines()) == 6


def test_rows_that_were_edited_in_the_file_itself_are_accepted(run: Run) -> None:
    SET.write_text(SET.read_text("utf-8").replace(synthetic()[0]["text"], "by hand"), "utf-8")
    assert run("baseline", "--method", "aeda") == 2
    assert run("review") == run("review", "--apply") == 0
    assert run("baseline", "--method", "aeda") == 0
    manifest = read_manifest(SET)
    assert manifest
    assert manifest.counts["changed_by_hand"]
    assert synthetic()[0]["text"] == "by hand"


def test_an_old_table_does_not_change_rows_that_were_made_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("review")
    change(lambda rows: rows[0].update(text="the old text"))
    assert run("review", "--apply") == 0
    change(lambda rows: rows[1].update(text="another old text"))
    assert run("review", "--apply") == 0  # a review may go on
    assert [row.get("edited", False) for row in synthetic()[:3]] == [True, True, False]
    assert run("baseline", "--method", "aeda", "--ratio", "2", "--force") == 0
    before = SET.read_bytes()
    assert run("review", "--apply") == 2
    assert "were made again after this table was written" in capsys.readouterr().err
    assert SET.read_bytes() == before
    assert run("review", "--force") == run("review", "--apply") == 0


def test_the_table_is_csv_or_tsv_and_next_names_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("review", "--table", "t.xlsx") == 2
    assert "t.xlsx: the table is written as CSV or TSV" in capsys.readouterr().err
    assert not Path("t.xlsx").exists()
    assert main(["review", "mine.yaml", "--table", "my t.tsv", "--set", "trials=1"]) == 0
    line = "gpt3mix review mine.yaml --table 'my t.tsv' --set trials=1 --apply"
    assert line in " ".join(capsys.readouterr().err.split())
    assert Path("my t.tsv").read_text("utf-8-sig").startswith("keep\tlabel\ttext")
    Path("my t.tsv").write_text(Path("my t.tsv").read_text("utf-8-sig").replace("yes", "no", 1))
    count = len(synthetic())
    assert run("review", "--table", "my t.tsv", "--apply") == 0
    assert len(synthetic()) == count - 1


def test_a_set_without_a_manifest_stops_before_any_other_is_changed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(CONFIG.replace("{kind: aeda}", "{kind: aeda}, {kind: eda}"))
    assert run("baseline", "--method", "eda") == 0
    manifest_path(CELL / "eda.jsonl").unlink()
    run("review")
    change(lambda rows: [row.update(keep="no") for row in rows if row["id"].endswith("0")])
    before = SET.read_bytes()
    assert run("review", "--apply") == 2
    assert "eda.jsonl: has no manifest" in capsys.readouterr().err
    assert SET.read_bytes() == before


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "keep": ({"keep": "perhaps"}, "line 2: keep is 'perhaps'"),
    "label": ({"label": "positive"}, "line 2: label 'positive' is not one of"),
    "text": ({"text": " "}, "line 2: the text is empty"),
    "id": ({"id": "none"}, "has no row 'none'"),
    "file": ({"file": "../train.jsonl"}, "is no synthetic set of this experiment"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_changes_nothing(
    run: Run, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run("review")
    values, message = WRONG[name]
    change(lambda rows: (rows[0].update(values), rows[1].update(keep="no")))
    before = SET.read_bytes()
    assert run("review", "--apply") == 2
    assert message in capsys.readouterr().err
    assert SET.read_bytes() == before


def test_all_wrong_rows_are_listed_and_none_is_changed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("review")

    def edit(rows: list[dict[str, str]]) -> None:
        rows[0]["keep"] = "no"
        for row, values in zip(rows[1:], ({"keep": "perhaps"}, {"label": "+"}, {"text": ""}, {}),
                               strict=False):  # fmt: skip
            row.update(values)
        rows[5]["id"] = rows[4]["id"]

    change(edit)
    TABLE.write_bytes(TABLE.read_bytes() + b"yes,too short\r\n")
    before = SET.read_bytes()
    assert run("review", "--apply") == 2
    error = capsys.readouterr().err
    for problem in ("5 problems", "line 3: keep is", "line 4: label '+'", "line 5: the text is",
                    "line 7: the id", "line 8: 2 fields"):  # fmt: skip
        assert problem in error
    assert "task.data.values" not in error
    assert SET.read_bytes() == before


def test_labels_may_be_spelled_as_in_the_data(run: Run) -> None:
    run("review")
    before = synthetic()
    others = {"pos": " NEG", "neg": "Pos "}
    change(lambda rows: [row.update(label=others[row["label"]]) for row in rows[:2]])
    change(lambda rows: rows[2].update(label=rows[2]["label"].upper()))
    assert run("review", "--apply") == 0
    after = synthetic()
    assert [row["label"] for row in after[:2]] == [
        "neg" if row["label"] == "pos" else "pos" for row in before[:2]
    ]
    assert after[2] == before[2]


@given(st.text(st.sampled_from("'=+-@\t\r a1(), ü")))
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    cell = guard_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert restore_cell(cell) == text
