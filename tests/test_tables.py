"""Rows of CSV, TSV, JSONL and Parquet files, and what may be wrong with them."""

import datetime
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from gpt3mix_cli import jsonl, tables
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.jsonl import read_objects
from gpt3mix_cli.settings import TableFormat
from gpt3mix_cli.tables import class_names, read_rows

NEEDED = {"text": "task.data.text", "label": "task.data.label"}
GOOD = [{"text": "good", "label": "p"}, {"text": "bad", "label": "n"}]


def read(
    path: Path, content: bytes | str, needed: dict[str, str] = NEEDED, **keys: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a file with this content, and the warnings."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    warnings: list[str] = []
    rows = read_rows(path, needed, ["id"], TableFormat(**keys), warnings.append)
    return [row for _, row in rows], warnings


def refused(path: Path, content: bytes | str, **keys: Any) -> UserError:
    with pytest.raises(UserError) as error:
        read(path, content, **keys)
    assert len(str(error.value)) < 1500
    return error.value


# CSV and TSV --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "line", "count"),
    [
        ("a.tsv", 'text\tlabel\nfine\tp\n"a warm film\tp\na dull film\tn\nthe end"\tp\n', 3, 3),
        ("a.tsv", 'id\ttext\t\tlabel\n1\t"warm\t\tp\n2\tdull"\t\tn\n', 2, 2),
        ("a.csv", 'text,label\n"a warm film,p\r\nso so,n\r\nthe end",n\r\n', 2, 3),
        ("a.csv", 'label,text\np,"a warm film\nn,so ""bad""\nn,the end"\n', 2, 3),
    ],
)
def test_a_quote_that_swallows_rows_is_refused(
    tmp_path: Path, name: str, content: str, line: int, count: int
) -> None:
    path = tmp_path / name
    error = refused(path, content)
    problem = f"a quoted field runs over {count} lines, each of which looks like a row"
    assert error.message == f"{path}, line {line}: {problem}"
    assert "`quoting: none`" in error.hint
    rows, _ = read(path, content, quoting="none")
    lines = [line for line in content.splitlines()[1:] if line]
    assert len(rows) == len(lines)
    assert any(row["text"].startswith('"') for row in rows)
    assert len(read(path, content, quoting="csv")[0]) == len(lines) - count + 1


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", 'text,label\n"Dear team,\nplease help",p\n', "Dear team,\nplease help"),
        ("a.csv", 'label,text\np,"One, two\nthree, four"\n', "One, two\nthree, four"),
        ("a.csv", 'text,label\n"It costs\n1,000",p\n', "It costs\n1,000"),
        ("a.tsv", 'text\tlabel\n"a\n\nb\nc"\tp\n', "a\n\nb\nc"),
        ("a.tsv", 'label\ttext\np\t"a\tb\nc"\n', "a\tb\nc"),
    ],
)
def test_a_field_of_several_lines_is_read(
    tmp_path: Path, name: str, content: str, text: str
) -> None:
    assert read(tmp_path / name, content)[0] == [{"text": text, "label": "p"}]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.csv", "|")]
)
def test_the_delimiter_is_guessed_and_reported(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    content = f'"text"{delimiter} label\ngood{delimiter}p\n"bad"{delimiter}n\n'
    rows, warnings = read(path, content)
    assert rows == GOOD
    usual = "," if name == "a.csv" else "\t"
    assert warnings == [f"{path}: read with the delimiter {delimiter!r}, not {usual!r}"]
    assert read(path, content, delimiter=delimiter) == (GOOD, [])
    body = content.split("\n", 1)[1]
    assert read(path, body, columns=["text", "label"])[0] == GOOD


def test_a_missing_header_is_reported_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    error = refused(path, "word " * 20_000 + ",p\nbad,n\n")
    assert error.message == f"{path}, line 1: no column 'text'"
    assert "if this line is a row, name the columns of the file: `columns: [...]`" in error.hint
    assert len(error.hint) < 300
    wide = refused(path, ",".join(map(str, range(10_000))))
    assert "19, and 9,980 more; name the right one with task.data.text" in wide.hint
    body = "good,p\nbad,n\n"
    assert read(path, body, columns=["text", "label"])[0] == GOOD
    assert read(path, "text,label\n" + body, columns=["text", "label"])[0] == GOOD
    wrong = refused(path, body, columns=["review", "label"])
    assert wrong.message == f"{path}: no column 'text'"


def test_blank_lines_and_empty_columns_of_a_spreadsheet_are_ignored(tmp_path: Path) -> None:
    content = "\n\ntext,label,,\ngood,p,,\n\nbad,n,,\n"
    rows, _ = read(tmp_path / "a.csv", content)
    assert [{key: row[key] for key in NEEDED} for row in rows] == GOOD
    assert refused(tmp_path / "a.csv", content + "x\n").message.endswith(
        "line 7: 1 fields where the header has 4"
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_without_needed_columns_all_are_read(tmp_path: Path, suffix: str) -> None:
    contents = {
        "csv": "text,more\na,b\n",
        "tsv": "text\tmore\na\tb\n",
        "jsonl": '{"text": "a", "more": "b"}',
        "parquet": parquet({"text": ["a"], "more": ["b"]}),
    }
    rows, _ = read(tmp_path / f"a.{suffix}", contents[suffix], {})
    assert rows == [{"text": "a", "more": "b"}]


def test_rows_before_a_broken_line_are_read_and_the_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "good,p\n" * 40_000 + "bad\n" + "good,p\n" * 10)
    rows = read_rows(path, NEEDED)
    assert sum(1 for _, (where, row) in zip(range(40_000), rows, strict=False) if row) == 40_000
    with pytest.raises(UserError, match=r"line 40002: 1 fields where the header has 2"):
        next(rows)


# What is not text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        (gzip.compress(b"text,label\n", mtime=0), "line 1: not UTF-8", "compressed with gzip"),
        (b"PK\x03\x04\x14\x00\x06\x00", "line 1: not text", "Excel"),
        (b"PAR1\x15\x04\n", "line 1: not text", ".parquet"),
        ("text,label\n".encode("utf-16"), "line 1: not UTF-8", "UTF-16"),
        ("text,label\n".encode("utf-16-le"), "line 1: not text (NUL bytes)", "UTF-8"),
        (b"text,label\xff\n", "line 1: not UTF-8", "UTF-8"),
    ],
)
def test_what_is_not_text_is_refused_with_its_kind(
    tmp_path: Path, suffix: str, content: bytes, problem: str, remedy: str
) -> None:
    error = refused(tmp_path / f"a.{suffix}", content)
    assert error.message.startswith(f"{tmp_path}/a.{suffix}, {problem}")
    assert remedy in error.hint


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_is_refused(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"a.{suffix}"
    folder.mkdir()
    with pytest.raises(UserError, match=r"a folder without a folder of texts for each class"):
        list(read_rows(folder, NEEDED))


def test_a_device_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 10_000)
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"a.{suffix}"
        path.symlink_to("/dev/zero")
        with pytest.raises(UserError, match=r"line 1: longer than"):
            list(read_rows(path, NEEDED))
    with pytest.raises(UserError, match=r"line 1: longer than 10,000 bytes"):
        read(tmp_path / "b.csv", "x" * 10_001)


@pytest.mark.parametrize(
    "line", ['{"text": "a", "text": "b"}', '{"text": "a", "probs": {"p": 1, "p": 0}}']
)
def test_a_key_that_is_twice_in_an_object_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' + line)
    with pytest.raises(UserError, match=r"line 2: .*'(text|p)' is in one object twice"):
        list(read_objects(path))


# Parquet ------------------------------------------------------------------------------------------


def parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


BEYOND = pyarrow.array([2**55, 2**55], pyarrow.timestamp("ms"))  # after the year 9999


def test_parquet_columns_that_are_not_needed_stay_unread(tmp_path: Path) -> None:
    texts = {"text": ["good", "bad"], "label": ["p", "n"]}
    content = parquet({**texts, "when": BEYOND, "text.more": ["x", "y"]})
    assert read(tmp_path / "a.parquet", content)[0] == GOOD


def test_a_parquet_value_that_cannot_be_read_names_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    error = refused(path, parquet({"text": ["good", "bad"], "label": BEYOND}))
    assert error.message.startswith(
        f"{path}, column 'label', row 0 or a later one: a value that cannot be read: "
    )
    broken = pyarrow.array([b"good", b"\xed\xa0\x80"]).cast(pyarrow.string(), safe=False)
    error = refused(path, parquet({"text": broken, "label": ["p", "n"]}))
    assert "column 'text'" in error.message


def test_a_parquet_file_with_a_broken_column_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = parquet({"text": ["a"], "label": ["p"], "XQZ": [1]}).replace(b"XQZ", b"\xcb\xcb\xcb")
    assert refused(path, content).message.startswith(f"{path}: cannot be read as Parquet: ")


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_UNPACKED_BYTES", 5_000_000)
    text = pyarrow.array(["x" * 100_000]).dictionary_encode()
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 4000), text.dictionary)
    content = parquet({"text": texts, "label": ["p"] * 4000})
    assert len(content) < 50_000
    error = refused(tmp_path / "a.parquet", content)
    assert "its rows unpack to more than 5,000,000 bytes" in error.message


def test_values_of_parquet_keep_their_types(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    columns = {"text": ["a"], "label": [1], "id": pyarrow.array([day])}
    assert read(tmp_path / "a.parquet", parquet(columns))[0] == [
        {"text": "a", "label": 1, "id": day}
    ]


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        (
            '{"info": {"features": {"label": {"names": ["n", "p"], "_type": "ClassLabel"}}}}',
            ["n", "p"],
        ),
        ('{"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}', []),
        ('{"info": {"features": []}}', []),
        ("no JSON", []),
    ],
)
def test_the_names_of_class_labels_come_from_the_schema(
    tmp_path: Path, metadata: str, names: list[str]
) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["a"], "label": [1]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    assert class_names(path, "label") == names
    assert class_names(tmp_path / "none.csv", "label") == []
