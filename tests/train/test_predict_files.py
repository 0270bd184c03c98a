"""The files of `predict`: every form comes back as it was, with the predictions added."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli import text_tables
from gpt3mix_cli.cli import main
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.records import Augmented, Example, StageOptions, read_manifest
from gpt3mix_cli.settings import LinearSettings, TableFormat
from gpt3mix_cli.train import open_classifier
from gpt3mix_cli.train import predict as predict_module
from gpt3mix_cli.train.predict import PredictOptions, predict
from gpt3mix_cli.train.saved_models import MODEL_FILE

CLASSES = ["bug", "bill, or refund"]
TEXTS = {"bug": ["crash", "a crash again"], "bill, or refund": ["refund", "a refund please"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear classifier whose texts were in the column `body`."""
    folder = tmp_path_factory.mktemp("model")
    settings = LinearSettings(kind="linear")
    classifier = open_classifier(settings, CLASSES)
    rows = [
        Augmented(id=text, text=text, label=name, probs={c: float(c == name) for c in CLASSES})
        for name, texts in TEXTS.items()
        for text in texts
    ]
    classifier.fit(rows, [Example(id="v", text="crash", label="bug")], 0)
    classifier.save(folder)
    about = {"classifier": {"kind": "linear"}, "classes": CLASSES, "text_column": "body"}
    (folder / MODEL_FILE).write_text(json.dumps(about))
    return folder


def labelled(model: Path, source: Path, content: bytes, target: str = "", **options: Any) -> bytes:
    """Write a file, label it, and return what was written."""
    source.write_bytes(content)
    output = source.with_name(target or f"out{source.suffix}")
    predict(model, source, output, predict_options=PredictOptions(**options))
    return output.read_bytes()


def without_numbers(table: bytes, delimiter: str = ",") -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(table.decode("utf-8-sig"), newline=""), delimiter=delimiter))
    return [row[:-1] for row in rows]


# Forms -------------------------------------------------------------------------------------------

MESSY = (
    '\ufeffnr;body;"Über, alles"\r\n'
    '007;"a ""crash""\nin two lines";=1+1\r\n'
    "2;;empty\r\n3;  ;blank\r\n 4 ;refund please;1,000.50"
).encode()


def test_a_csv_file_keeps_every_byte_and_gets_two_columns(model: Path, tmp_path: Path) -> None:
    table = labelled(model, tmp_path / "in.csv", MESSY)
    kept = table.replace(b";predicted;prob\r\n", b"\r\n")
    assert kept.startswith(MESSY[: MESSY.index(b"\r\n") + 2])
    ends = [b";predicted;prob\r\n", b";bug;0.", b";empty;;\r\n", b";blank;;\r\n"]
    assert all(end in table for end in ends)
    assert table.endswith(b"\n")
    rows = without_numbers(table, ";")
    source = list(csv.reader(io.StringIO(MESSY.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [row[:3] for row in rows] == source
    assert [row[3] for row in rows] == ["predicted", "bug", "", "", "bill, or refund"]


def test_an_empty_label_is_none_to_agree_with(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("body,label\ncrash,bug\ncrash,\nrefund,bug\n")  # as earlier models expect
    counts = predict(model, source, tmp_path / "out.csv").manifest.counts
    assert (counts["labelled"], counts["right"]) == (2, 1)


def test_predictions_are_compared_with_the_label_column_of_the_training_data(
    model: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "model"
    shutil.copytree(model, trained)
    about = json.loads((trained / MODEL_FILE).read_text())
    about |= {"label_column": "queue", "label_values": {"1": "bug"}}
    (trained / MODEL_FILE).write_text(json.dumps(about))
    source = tmp_path / "in.csv"
    source.write_text("body,queue,label\ncrash, 1,x\ncrash,BUG,x\nrefund,bug,x\n,1,x\nrefund,3,x\n")
    warnings: list[str] = []
    options = StageOptions(callbacks=Callbacks(warn=warnings.append))
    counts = predict(trained, source, tmp_path / "out.csv", options).manifest.counts
    assert [counts[name] for name in ("labelled", "scored", "right")] == [4, 3, 2]
    assert counts["macro_f1"] == pytest.approx((2 * 2 / (2 * 2 + 1) + 0) / 2, abs=1e-6)
    assert counts["unknown_labels"] == 1
    assert warnings == [
        "column 'queue': 1 labels are no class of the model and are not compared, such as '3'"
    ]


def test_values_are_quoted_where_the_file_needs_it(model: Path, tmp_path: Path) -> None:
    table = labelled(model, tmp_path / "in.csv", b"body\nrefund\n", probs=True)
    header, row = table.splitlines()
    assert header == b'body,predicted,prob,prob_bug,"prob_bill, or refund"'
    assert row.startswith(b'refund,"bill, or refund",0.')
    with pytest.raises(UserError, match="cannot be written without quotes"):
        labelled(
            model, tmp_path / "in.csv", b"body\nrefund\n", "x.csv",
            format=TableFormat(quoting="none"),
        )  # fmt: skip


def test_a_file_without_a_header_gets_none(model: Path, tmp_path: Path) -> None:
    written = TableFormat(columns=["id", "body"])
    table = labelled(model, tmp_path / "in.tsv", b"1\tcrash\n2\trefund\n", format=written)
    assert without_numbers(table, "\t") == [
        ["1", "crash", "bug"],
        ["2", "refund", "bill, or refund"],
    ]


def test_a_json_line_keeps_every_byte(model: Path, tmp_path: Path) -> None:
    line = b'{ "x": 1.50e1, "u": "\\u00e9", "body": "crash" }'
    out = labelled(model, tmp_path / "in.jsonl", b"\n" + line + b' \r\n{"body":null}', probs=True)
    first, second = out.splitlines()
    assert first.startswith(line[:-2] + b', "predicted": "bug", "prob": 0.')
    assert list(json.loads(first)["probs"]) == CLASSES
    assert json.loads(second) == {"body": None, "predicted": None, "prob": None, "probs": None}


def test_plain_texts_get_their_label_after_a_tab(model: Path, tmp_path: Path) -> None:
    out = labelled(model, tmp_path / "in.txt", "crash; ü\n\nrefund".encode())
    lines = [line.split("\t")[:2] for line in out.decode().splitlines()]
    assert lines == [["crash; ü", "bug"], ["", ""], ["refund", "bill, or refund"]]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_plain_texts_become_a_column_where_the_output_has_columns(
    model: Path, tmp_path: Path, suffix: str
) -> None:
    out = labelled(model, tmp_path / "in.txt", b'a "crash", yes\n\nrefund\n', f"out.{suffix}")
    if suffix == "jsonl":
        rows = [[*json.loads(line).values()][:2] for line in out.splitlines()]
        none: str | None = None
    else:
        none, delimiter = "", "," if suffix == "csv" else "\t"
        header, *rows = without_numbers(out, delimiter)
        assert header == ["body", "predicted"]
    assert rows == [['a "crash", yes', "bug"], ["", none], ["refund", "bill, or refund"]]


def test_parquet_keeps_its_types_and_its_metadata(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(text_tables, "ROW_GROUP_ROWS", 3)
    texts = pyarrow.array(["crash", None, "refund", " ", "crash"]).dictionary_encode()
    columns = {"n": pyarrow.array([1, 2, None, 4, 5], pyarrow.int16()), "body": texts}
    source = pyarrow.table(columns | {"when": [[1], [], None, [2, 3], [4]]})
    source = source.replace_schema_metadata({"mine": "kept"})
    parquet.write_table(source, tmp_path / "in.parquet")
    predict(model, tmp_path / "in.parquet", tmp_path / "out.parquet")
    copy = parquet.read_table(tmp_path / "out.parquet")
    assert copy.select(source.column_names).equals(source)
    assert copy.schema.metadata[b"mine"] == b"kept"
    bug, bill = CLASSES
    assert copy["predicted"].to_pylist() == [bug, None, bill, None, bug]
    assert [p is None for p in copy["prob"].to_pylist()] == [False, True, False, True, False]


def test_an_excel_file_keeps_its_sheets_formulas_and_formats(model: Path, tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append([])
    for row in (["n", " body ", "label"], [1, "crash", "BUG"], [None, None, None], ["=B4", 12, 7]):
        sheet.append(row)
    sheet["E3"] = "a note without a header"
    sheet["A3"].number_format = "0.00"
    book.create_sheet("more")["A1"] = "kept"
    book.save(tmp_path / "in.xlsx")
    result = predict(model, tmp_path / "in.xlsx", tmp_path / "out.xlsx")
    copy = openpyxl.load_workbook(tmp_path / "out.xlsx")
    rows = list(copy.worksheets[0].iter_rows(min_row=2, values_only=True))
    assert rows[0][-2:] == ("predicted", "prob")
    assert rows[1][:6] == (1, "crash", "BUG", None, "a note without a header", "bug")
    assert rows[2] == (None,) * 7
    assert rows[3][:3] == ("=B4", 12, 7)
    assert rows[3][5] in CLASSES
    assert copy.worksheets[0]["A3"].number_format == "0.00"
    assert copy["more"]["A1"].value == "kept"
    counts = result.manifest.counts
    assert (counts["rows"], counts["right"], counts["unknown_labels"]) == (2, 1, 1)


def label_workbook(
    model: Path, book: Any, source: Path, warn: Callable[[str], object] = lambda message: None
) -> Any:
    """Label an Excel file; return the sheet of the copy."""
    import openpyxl

    book.save(source)
    output = source.with_name(f"out{source.suffix}")
    predict(model, source, output, StageOptions(callbacks=Callbacks(warn=warn)))
    return openpyxl.load_workbook(output).worksheets[0]


def headings(*merged: str) -> Any:
    """Return a workbook with a section heading, and cells that are merged."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["body", "label"], ["crash", "bug"], ["Section"], ["refund", None]):
        book.active.append(row)
    for cells in merged:
        book.active.merge_cells(cells)
    return book


def test_new_columns_of_an_excel_file_are_beyond_merged_cells(model: Path, tmp_path: Path) -> None:
    sheet = label_workbook(model, headings("A3:D3"), tmp_path / "in.xlsx")
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("body", "label", None, None, "predicted", "prob")
    assert [row[4] for row in rows[1::2]] == CLASSES
    assert [str(cells) for cells in sheet.merged_cells.ranges] == ["A3:D3"]


def test_an_excel_file_without_free_columns_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no free columns for predicted, prob"):
        label_workbook(model, headings("A3:XFC3"), tmp_path / "in.xlsx")
    assert not (tmp_path / "out.xlsx").exists()


def test_formulas_that_lose_their_results_are_reported(model: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    book = headings()
    label_workbook(model, book, tmp_path / "in.xlsx", warnings.append)
    assert not warnings
    book.create_sheet("more")["A1"] = "=6*7"
    label_workbook(model, book, tmp_path / "in.xlsx", warnings.append)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{tmp_path / 'in.xlsx'}: the copy has formulas without their")


def test_an_excel_file_with_macros_keeps_its_kind(model: Path, tmp_path: Path) -> None:
    label_workbook(model, headings(), tmp_path / "in.XLSM")
    with zipfile.ZipFile(tmp_path / "out.XLSM") as archive:
        assert b"macroEnabled" in archive.read("[Content_Types].xml")


def test_a_table_without_rows_gets_the_columns_and_a_warning(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("body,x\n")
    warnings: list[str] = []
    options = StageOptions(callbacks=Callbacks(warn=warnings.append))
    predict(model, tmp_path / "in.csv", tmp_path / "out.csv", options)
    assert (tmp_path / "out.csv").read_text() == "body,x,predicted,prob\n"
    assert warnings == [f"{tmp_path / 'in.csv'}: has no rows"]


def test_no_label_is_given_below_the_least_probability(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("body\ncrash\nneither\n")
    probs = [0.5, 0.99]
    for least, expected in zip(probs, (["bug", "bug"], ["", ""]), strict=True):
        output = tmp_path / f"{least}.csv"
        result = predict(model, source, output, predict_options=PredictOptions(min_prob=least))
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
        assert next(row["predicted"] for row in rows) == expected[0]
        assert all(row["prob"] for row in rows)
        assert result.manifest.counts["abstained"] == sum(not row["predicted"] for row in rows)


# Which form --------------------------------------------------------------------------------------


def test_pipes_are_labelled_in_the_form_that_they_have(model: Path, tmp_path: Path) -> None:
    """`-i <(zcat ...)`, `-i -` and `-i /dev/stdin`, in one process: Python starts slowly."""
    code = """
import os, sys
from gpt3mix_cli.cli import main
model, *cases = sys.argv[1:]
for number, case in enumerate(cases):
    name, _, text = case.partition("|")
    reader, writer = os.pipe()
    os.write(writer, text.encode()); os.close(writer)
    os.dup2(reader, 0)
    path = f"/dev/fd/{reader}" if name == "fd" else name
    code = main(["predict", model, "-i", path, "-o", f"{number}.out", "-q"])
    assert code == (0 if text else 2)
"""
    cases = ["fd|body,x\ncrash,1\n", '-|{"body": "crash"}\n', "/dev/stdin|x\tbody\n1\tcrash\n",
             "-|\n\njust a crash\n", "fd|"]  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", code, str(model), *cases],
        cwd=tmp_path, check=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    outputs = [(tmp_path / f"{number}.out").read_text() for number in range(len(cases) - 1)]
    assert outputs[0].startswith("body,x,predicted,prob\ncrash,1,bug,0.")
    assert json.loads(outputs[1])["predicted"] == "bug"
    assert outputs[2].startswith("x\tbody\tpredicted\tprob\n1\tcrash\tbug\t0.")
    assert outputs[3].startswith("\t\t\n\t\t\njust a crash\tbug\t0.")
    assert not (tmp_path / "4.out").exists()


REFUSED = {
    "no column": ("in.csv", b"text\ncrash\n", "out.csv", "no column 'body'"),
    "another form": ("in.csv", b"body\ncrash\n", "out.jsonl", "has the form of the input, csv"),
    "unknown suffix": ("in.dat", b"body\ncrash\n", "out.dat", "suffix '.dat' is not known"),
    "a taken name": ("in.csv", b"body,prob\ncrash,1\n", "out.csv", "a column 'prob' already"),
    "a form that nothing else has": ("in.csv", b"body\ncrash\n", "out.xlsx", "input, csv"),
    "an empty file": ("in.csv", b"", "out.csv", "in.csv: is empty"),
    "only a byte order mark": ("in.jsonl", b"\xef\xbb\xbf", "out.jsonl", "in.jsonl: is empty"),
    "damaged Excel": ("in.xlsx", b"PK", "out.xlsx", "cannot be read as an Excel file"),
    "damaged": ("in.parquet", b"PAR1", "out.parquet", "cannot be read as Parquet"),
    "a short row": ("in.csv", b"body,x\ncrash\n", "out.csv", "line 2: 1 fields"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_input_is_refused_before_the_model_is_loaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(predict_module, "load_saved_model")
    source, content, target, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        labelled(model, tmp_path / source, content, target)
    assert [path.name for path in tmp_path.iterdir()] == [source]


def test_another_column_can_be_named(model: Path, tmp_path: Path) -> None:
    table = labelled(model, tmp_path / "in.csv", b"body,t\nrefund,crash\n", text="t")
    assert without_numbers(table)[1][-1] == "bug"


# Long files --------------------------------------------------------------------------------------


def test_rows_before_a_bad_row_are_kept_and_the_next_run_replaces_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 2)
    good = b"body,x\n" + b"crash,1\n" * 3
    with pytest.raises(UserError, match=r"line 5: 1 fields.*the 3 rows before it are in .*out.csv"):
        labelled(model, tmp_path / "in.csv", good + b"oops\n" + b"crash,1\n")
    output = tmp_path / "out.csv"
    manifest = read_manifest(output)
    assert manifest
    assert not manifest.complete
    assert [row[0] for row in without_numbers(output.read_bytes())] == ["body"] + ["crash"] * 3
    assert labelled(model, tmp_path / "in.csv", good).count(b"\n") == 4


def test_the_progress_knows_how_many_rows_there_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 10)
    calls: list[tuple[int, int | None]] = []
    options = StageOptions(
        callbacks=Callbacks(lambda name, done, total=None, detail="": calls.append((done, total)))
    )
    (tmp_path / "in.csv").write_text("body\n" + "crash\n" * 100)
    predict(model, tmp_path / "in.csv", tmp_path / "out.csv", options)
    assert [done for done, _ in calls] == [*range(10, 101, 10)]
    assert all(total and abs(total - 100) <= 10 for _, total in calls)
    assert calls[-1][1]
    assert calls[-1][1] <= 101


# Earlier outputs ---------------------------------------------------------------------------------


def command(model: Path, folder: Path, *more: str) -> Sequence[str]:
    return ["predict", str(model), "-i", str(folder / "in.csv"), "-o", str(folder / "out.csv"),
            "-q", *more]  # fmt: skip


def test_labels_that_a_person_has_corrected_are_not_overwritten(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(model, tmp_path / "in.csv", b"body\ncrash\n")
    output = tmp_path / "out.csv"
    corrected = output.read_bytes().replace(b"bug", b"BUG")
    output.write_bytes(corrected)
    assert main([*command(model, tmp_path)]) == 2
    assert output.read_bytes() == corrected
    err = capsys.readouterr().err
    assert "out.csv: was changed after it was written" in err
    assert "-o" in err
    assert "--force" in err
    assert main([*command(model, tmp_path, "--force")]) == 0
    assert b",bug," in output.read_bytes()
    assert (tmp_path / "out.csv.bak").read_bytes() == corrected
    output.write_bytes(corrected + b"and more\n")
    assert main([*command(model, tmp_path, "--force")]) == 0
    assert (tmp_path / "out.csv.bak").read_bytes() == corrected
    assert (tmp_path / "out.csv.bak2").read_bytes() == corrected + b"and more\n"


def test_predictions_for_other_texts_are_replaced_as_a_daily_job_does(
    model: Path, tmp_path: Path
) -> None:
    for text in (b"crash", b"refund"):
        labelled(model, tmp_path / "in.csv", b"body\n" + text + b"\n")
    assert b"refund" in (tmp_path / "out.csv").read_bytes()
    assert not list(tmp_path.glob("*.bak*"))
