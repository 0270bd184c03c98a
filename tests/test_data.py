"""A task's splits from files, from the hub (a local folder) and from the demo sentences."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from gpt3mix_cli.data import SplitChoice, Splits, group_by_class, load_splits, split_evenly
from gpt3mix_cli.duplicates import copy_key
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import LinearSettings, Task
from gpt3mix_cli.subsample import DrawOptions, draw_rows
from gpt3mix_cli.train.linear import LinearClassifier

TRICKY = [
    'she said "no", twice',
    "two\nlines",
    "two\r\nlines and\n\na blank one",
    "NA",
    "null",
    "1.50",
    "true",
    "a\ttab, and a comma",
    " spaces around ",
    "ünïcode 😀 \u2028 line separator",
    "'single' and ''doubled''",
    "=SUM(A1)",
    "\ufeffmark",
    "back\\slash \\n",
]
ROWS = [
    {"id": f"r{number}", "text": text, "label": "np"[number % 2]}
    for number, text in enumerate(TRICKY)
]
GOOD = '{"text": "good", "label": "p"}\n{"text": "bad", "label": "n"}\n'


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(rows: Sequence[dict[str, Any]], delimiter: str = ",") -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


MakeTask = Callable[..., Task]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """Return a task of files with these contents; no validation rows are taken from train."""

    def task(
        train: bytes | str = GOOD,
        name: str = "train.jsonl",
        test: bytes | str = GOOD,
        validation: bytes | str | None = GOOD,
        **data: Any,
    ) -> Task:
        files = {
            "train": (name, train),
            "test": ("test.jsonl", test),
            "validation": ("validation.jsonl", validation),
        }
        for split, (file, content) in files.items():
            if content is not None:
                (tmp_path / file).write_bytes(
                    content.encode() if isinstance(content, str) else content
                )
                data[split] = tmp_path / file
        labels = data.pop("labels", ["p", "n"])
        return Task.model_validate(
            {"name": "t", "data": {"kind": "files", **data}, "labels": labels}
        )

    return task


def refused(task: Task) -> UserError:
    with pytest.raises(UserError) as error:
        load_splits(task, 0)
    assert error.value.exit_code == 2
    assert error.value.hint
    return error.value


def collect_warnings() -> tuple[list[str], Callbacks]:
    warnings: list[str] = []
    return warnings, Callbacks(warn=warnings.append)


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", jsonl(ROWS)),
        ("train.ndjson", jsonl(ROWS)),
        ("train.json", jsonl(ROWS)),
        ("train.JSONL", jsonl(ROWS)),
        ("train.csv", separated(ROWS)),
        ("train.csv", separated(ROWS).replace(b"\r\nr", b"\nr")),
        ("train.CSV", "\ufeff".encode() + separated(ROWS)),
        ("train.tsv", separated(ROWS, "\t")),
        ("train.parquet", parquet(ROWS)),
    ],
)
def test_every_format_gives_the_same_rows(make_task: MakeTask, name: str, content: bytes) -> None:
    """Texts stay as they are: quotes, line ends, spaces, words that look like null or a number."""
    splits = load_splits(make_task(content, name), 0)
    assert splits.train == [Example(**row) for row in ROWS]
    assert splits.sha["train"] == load_splits(make_task(jsonl(ROWS)), 0).sha["train"]


@example_settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
            str.strip
        ),
        min_size=2,
        max_size=6,
    )
)
def test_any_text_is_read_unchanged_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [{"text": text, "label": "pn"[number % 2]} for number, text in enumerate(texts)]
    results = []
    for name, content in (
        ("a.jsonl", jsonl(rows)),
        ("a.csv", separated(rows)),
        ("a.tsv", separated(rows, "\t")),
        ("a.parquet", parquet(rows)),
    ):
        (folder / name).write_bytes(content)
        data = {
            "kind": "files",
            "train": folder / name,
            "validation": folder / name,
            "test": folder / name,
        }
        results.append(
            [
                row.text
                for row in load_splits(
                    Task.model_validate({"name": "t", "data": data, "labels": ["p", "n"]}), 0
                ).train
            ]
        )
    assert results == [texts] * 4


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        ([1, 0], {"1": "p", "0": "n"}),
        ([1.0, 0.0], {"1": "p", "0": "n"}),
        ([True, False], {"true": "p", "false": "n"}),
        (["1", "0"], {"1": "p", "0": "n"}),
        (["p", 0], {"0": "n"}),
        ([0.5, -1], {"0.5": "p", "-1": "n"}),
        ([None, "n"], {"null": "p"}),
    ],
)
def test_raw_values_are_mapped_as_they_are_written(
    make_task: MakeTask, raw: list[Any], values: dict[str, str]
) -> None:
    rows = [{"text": f"t{value}", "label": value} for value in raw]
    contents = [("train.jsonl", jsonl(rows))]
    if len({type(value) for value in raw}) == 1:
        contents.append(("train.parquet", parquet(rows)))
    for name, content in contents:
        task = make_task(content, name, validation=jsonl(rows), test=jsonl(rows), values=values)
        assert [row.label for row in load_splits(task, 0).train] == ["p", "n"]


def test_integer_labels_of_a_parquet_column_with_a_null_keep_their_spelling(
    make_task: MakeTask,
) -> None:
    """pandas stores integers as floats if a value is missing; that row is an error."""
    content = parquet(
        [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}, {"text": "c", "label": None}]
    )
    task = make_task(content, "train.parquet", values={"1": "p", "0": "n"})
    assert refused(task).message.startswith(
        f"{task.data.train}, row 2: the label (column 'label') is null"
    )


def test_columns_can_have_any_name(make_task: MakeTask) -> None:
    rows = [{"key": "a", "review": "good", "score": 5}, {"key": "b", "review": "bad", "score": 1}]
    task = make_task(
        jsonl(rows),
        test=jsonl(rows),
        validation=jsonl(rows),
        text="review",
        label="score",
        id="key",
        values={"5": "p", "1": "n"},
    )
    assert load_splits(task, 0).train == [
        Example(id="a", text="good", label="p"),
        Example(id="b", text="bad", label="n"),
    ]


def test_rows_without_ids_are_numbered(make_task: MakeTask) -> None:
    rows = [
        {"text": "a", "label": "p"},
        {"id": "", "text": "b", "label": "n"},
        {"id": None, "text": "c", "label": "n"},
        {"id": 0, "text": "d", "label": "p"},
    ]
    splits = load_splits(make_task(jsonl(rows)), 0)
    assert [row.id for row in splits.train] == [
        "t-train-00000",
        "t-train-00001",
        "t-train-00002",
        "0",
    ]
    assert [row.id for row in splits.test] == ["t-test-00000", "t-test-00001"]


def test_an_id_may_occur_in_two_splits(make_task: MakeTask) -> None:
    rows = jsonl([{"id": 1, "text": "a", "label": "p"}, {"id": 2, "text": "b", "label": "n"}])
    splits = load_splits(make_task(rows, test=rows, validation=rows), 0)
    assert [row.id for row in splits.train] == [row.id for row in splits.test] == ["1", "2"]


ID = '{"id": %s, "text": "x", "label": "p"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n', "{0}, line 1: no column 'label'"),
        ("a.csv", "id,txt,label\n1,x,p\n", "{0}, line 1: no column 'text'"),
        ("a.tsv", "good film\tp\n", "{0}, line 1: no column 'text'"),
        ("a.parquet", parquet([{"label": "p"}]), "{0}: no column 'text'"),
        (
            "a.jsonl",
            GOOD + '{"text": null, "label": "p"}\n',
            "{0}, line 3: the text (column 'text') is null",
        ),
        (
            "a.jsonl",
            '{"text": "  ", "label": "p"}\n',
            "{0}, line 1: the text (column 'text') is empty",
        ),
        (
            "a.jsonl",
            '{"text": 7, "label": "p"}\n',
            "{0}, line 1: the text (column 'text') is 7, not text",
        ),
        ("a.csv", "text,label\ngood,p\n,n\n", "{0}, line 3: the text (column 'text') is empty"),
        (
            "a.parquet",
            parquet([{"text": "x", "label": "p"}, {"text": None, "label": "n"}]),
            "{0}, row 1: the text (column 'text') is null",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": "pp"}\n',
            "{0}, line 1: label 'pp' is not one of the task's classes ('p', 'n'); "
            "did you mean 'p'?",
        ),
        (
            "a.csv",
            'text,label\n"two\nlines",p\nx,3\n',
            "{0}, line 4: label '3' is not one of the task's classes ('p', 'n')",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": ["p"]}\n',
            "{0}, line 1: label '[\"p\"]' is not one of the task's classes ('p', 'n')",
        ),
        (
            "a.jsonl",
            ID % 1 + "\n" + ID % '"1"',
            "{0}, line 3: the id '1' is already used at {0}, line 1",
        ),
        (
            "a.csv",
            "id,text,label\nx,a,p\ny,b,n\nx,c,p\n",
            "{0}, line 4: the id 'x' is already used at {0}, line 2",
        ),
        (
            "a.csv",
            "text,label\ngood,p\nbad,n,more\n",
            "{0}, line 3: 3 fields where the header has 2",
        ),
        ("a.csv", "text,label\ngood\n", "{0}, line 2: 1 fields where the header has 2"),
        (
            "a.csv",
            'text,label\ngood,p\n"bad,n\nworse,n\n',
            "{0}, line 3: not valid CSV: unexpected end of data",
        ),
        (
            "a.csv",
            'text,label\n"so "bad"",n\n',
            "{0}, line 2: not valid CSV: ',' expected after '\"'",
        ),
        (
            "a.csv",
            "text,label\rgood,p\r",
            "{0}, line 1: a carriage return that does not end the line",
        ),
        ("a.csv", "text,label,text\nx,p,y\n", "{0}, line 1: duplicate column 'text'"),
        ("a.csv", b"text,label\nok,p\ncaf\xe9,n\n", "{0}, line 3: not UTF-8 ("),
        ("a.jsonl", GOOD + "{", "{0}, line 3: not valid JSON: "),
        ("a.json", '[{"text": "x", "label": "p"}]', "{0}, line 1: a JSON list, not an object"),
        ("a.parquet", b"", "{0}: cannot be read as Parquet: "),
        ("a.parquet", b"PAR1 and no more", "{0}: cannot be read as Parquet: "),
        ("a.parquet", parquet(ROWS)[:-30], "{0}: cannot be read as Parquet: "),
        ("a.jsonl", "", "{0}: the train split has no rows"),
        ("a.jsonl", "\n\n", "{0}: the train split has no rows"),
        ("a.csv", "", "{0}: the train split has no rows"),
        ("a.csv", "text,label\n", "{0}: the train split has no rows"),
        ("a.txt", "x", "{0}: the suffix '.txt' is not known"),
        ("a", "x", "{0}: the suffix '' is not known"),
        (
            "a.jsonl",
            '{"text": "x", "label": "p"}\n',
            "task 't': the training rows have one class only: p",
        ),
    ],
)
def test_an_invalid_row_is_reported_with_its_file_and_line(
    make_task: MakeTask, name: str, content: bytes | str, message: str
) -> None:
    task = make_task(content, name)
    expected = message.format(task.data.train)
    actual = refused(task).message
    assert actual.startswith(expected)
    assert actual == expected or message.endswith((" ", "("))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"review": "x", "stars": 5}\n'),
        ("a.csv", "review,stars\nx,5\n"),
        ("a.parquet", parquet([{"review": "x", "stars": 5}])),
    ],
)
def test_a_missing_column_lists_the_columns(
    make_task: MakeTask, name: str, content: bytes | str
) -> None:
    names = "columns are review, stars; name the right one with task.data."
    assert refused(make_task(content, name)).hint.startswith(f"{names}text")
    assert refused(make_task(content, name, text="review")).hint.startswith(f"{names}label")


def test_an_error_in_any_split_is_reported(make_task: MakeTask, tmp_path: Path) -> None:
    for split in ("test", "validation"):
        task = make_task(**{split: '{"text": "x", "label": "q"}\n'})
        assert refused(task).message.startswith(f"{getattr(task.data, split)}, line 1: label 'q'")
        assert (
            refused(make_task(**{split: ""})).message
            == f"{tmp_path / split}.jsonl: the {split} split has no rows"
        )


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_missing_file_is_named(make_task: MakeTask, tmp_path: Path, ending: str) -> None:
    task = make_task()
    gone = task.model_copy(
        update={"data": task.data.model_copy(update={"train": tmp_path / f"gone.{ending}"})}
    )
    assert refused(gone).message.startswith(f"{tmp_path / f'gone.{ending}'}: cannot be read")


def test_blank_lines_of_a_csv_are_ignored(make_task: MakeTask) -> None:
    assert [
        row.text
        for row in load_splits(make_task("text,label\n\ngood,p\n\nbad,n\n\n", "a.csv"), 0).train
    ] == ["good", "bad"]


def test_a_long_field_of_a_csv_is_read(make_task: MakeTask) -> None:
    """The csv module's default limit is 131,072 characters."""
    assert (
        len(
            load_splits(make_task(f"text,label\n{'x' * 200_000},p\nbad,n\n", "a.csv"), 0)
            .train[0]
            .text
        )
        == 200_000
    )


def test_a_duplicate_parquet_column_is_refused(make_task: MakeTask) -> None:
    table = pyarrow.table(
        [pyarrow.array(["a", "b"]), pyarrow.array(["x", "y"]), pyarrow.array(["p", "n"])],
        names=["text", "text", "label"],
    )
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    assert "duplicate column 'text'" in refused(make_task(stream.getvalue(), "a.parquet")).message


def test_a_decimal_label_is_a_number(make_task: MakeTask) -> None:
    table = pyarrow.table(
        {"text": ["good", "bad"], "label": pyarrow.array([1, 0]).cast(pyarrow.decimal128(20, 0))}
    )
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    plain = jsonl([{"text": "fine", "label": 1}, {"text": "poor", "label": 0}])
    task = make_task(
        stream.getvalue(), "a.parquet", validation=plain, test=plain, values={"1": "p", "0": "n"}
    )
    assert [row.label for row in load_splits(task, 0).train] == ["p", "n"]


@pytest.mark.parametrize(
    ("labels", "values", "raw"),
    [
        (["1", "0"], {}, ["1.0", "0.00"]),
        (["1.0", "0"], {}, [1, 0]),
        (["p", "n"], {"1": "p", "0": "n"}, ["1.0", 0.0]),
        (["caf\u00e9", "the"], {}, ["cafe\u0301", "the"]),
        (["cafe\u0301", "the"], {}, ["caf\u00e9", "the"]),
        (["1", "0"], {}, ["\u0661", "\uff10"]),
        (["p", "n"], {}, [" p ", "\ufeffn\u00a0"]),
        (["p", "n"], {"true": "p", "false": "n"}, ["True", "FALSE"]),
        (["True", "False"], {}, [True, False]),
        (["null", "n"], {}, ["null", "n"]),
        (["null", "n"], {"null": "null"}, [None, "n"]),
        (["1.0", "1"], {}, ["1.0", 1]),  # exact values come first
    ],
)
def test_a_label_is_the_same_in_each_of_its_spellings(
    make_task: MakeTask, labels: list[str], values: dict[str, str], raw: list[Any]
) -> None:
    rows = jsonl([{"text": f"text {value}", "label": value} for value in raw])
    task = make_task(rows, test=rows, validation=rows, labels=labels, values=values)
    splits = load_splits(task, 0)
    assert [row.label for row in splits.train] == labels
    assert [row.text for row in splits.train] == [f"text {value}" for value in raw]


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (None, "the label (column 'label') is null"),
        ("", "the label (column 'label') is empty"),
        ("1.00", "label '1.00' is not one of the task's classes ('null', '1', '1.0')"),
        ("1.5", "label '1.5' is not one of the task's classes ('null', '1', '1.0')"),
        ("x" * 1000, f"label '{'x' * 80}...' is not one of the task's classes"),
    ],
)
def test_a_label_without_a_class_of_its_own_is_refused(
    make_task: MakeTask, label: Any, problem: str
) -> None:
    """A missing label is not the class `null`, and what could be two classes is neither."""
    rows = jsonl([{"text": "a", "label": label}])
    task = make_task(rows, labels=["null", "1", "1.0"])
    assert refused(task).message.startswith(f"{task.data.train}, line 1: {problem}")


# Hub data, from a local folder --------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Return a task of a folder of JSONL files, which `datasets` loads like a repository."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def task(files: Sequence[str] = ("train", "validation", "test"), **data: Any) -> Task:
        folder = tmp_path / "repository"
        folder.mkdir(exist_ok=True)
        for split in files:
            rows = [
                {"text": f"{split} {number}", "label": number % 2, "label_text": "np"[number % 2]}
                for number in range(8)
            ]
            (folder / f"{split}.jsonl").write_bytes(jsonl(rows))
        return Task.model_validate(
            {
                "name": "t",
                "data": {"kind": "hub", "path": str(folder), **data},
                "labels": ["p", "n"],
            }
        )

    return task


def test_a_folder_is_loaded_like_a_hub_repository(hub: MakeTask) -> None:
    splits = load_splits(hub(label="label_text"), 0)
    for name in ("train", "validation", "test"):
        rows = getattr(splits, name)
        assert rows == [
            Example(id=f"t-{name}-{number:05d}", text=f"{name} {number}", label="np"[number % 2])
            for number in range(8)
        ]
    assert load_splits(hub(values={"1": "p", "0": "n"}), 0) == splits


def test_splits_can_be_renamed(hub: MakeTask) -> None:
    """If the hub's validation split is the test set, early stopping does not use it."""
    splits = load_splits(
        hub(("train", "validation"), label="label_text", splits={"test": "validation"}), 0
    )
    assert [row.text for row in splits.test] == [f"validation {number}" for number in range(8)]
    assert (len(splits.validation), len(splits.train)) == (2, 6)
    assert {row.text for row in splits.validation + splits.train} == {
        f"train {number}" for number in range(8)
    }
    both = load_splits(
        hub(
            ("train", "validation"),
            label="label_text",
            splits={"test": "validation", "validation": "validation"},
        ),
        0,
    )
    assert both.validation == [
        row.model_copy(update={"id": row.id.replace("test", "validation")}) for row in both.test
    ]


def test_a_hub_task_without_validation_gets_one_from_train(hub: MakeTask) -> None:
    splits = load_splits(hub(("train", "test"), label="label_text"), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 2, 8)


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (("train", "validation"), {}, "no split 'test'"),
        (("train", "test"), {"validation": "dev"}, "no split 'dev'"),
        (("train", "test"), {"train": "training"}, "no split 'training'"),
    ],
)
def test_a_missing_split_lists_the_splits(
    hub: MakeTask, files: tuple[str, ...], names: dict[str, str], message: str
) -> None:
    task = hub(files, label="label_text", splits=names)
    error = refused(task)
    assert error.message == f"{task.data.path}: {message}"
    assert error.hint == f"splits are {', '.join(files)}; name them with task.data.splits"


def test_an_invalid_hub_row_is_reported_with_its_split_and_number(hub: MakeTask) -> None:
    task = hub(values={"1": "p"})
    first = refused(task).message.splitlines()[0]
    problem = "label '0' is not one of the task's classes ('p', 'n')"
    assert first == f"{task.data.path}, train row 0: {problem}"
    assert (
        refused(hub(label="stars")).hint
        == "columns are text, label, label_text; name the right one with task.data.label"
    )


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({}, ["n", "p"]),
        ({"n": "bad", "p": "good"}, ["bad", "good"]),
        ({"0": "zero", "1": "one"}, ["zero", "one"]),
        ({}, ["0", "1"]),
    ],
)
def test_a_column_of_class_labels_is_read_by_name_or_number(
    hub: MakeTask, tmp_path: Path, values: dict[str, str], labels: list[str]
) -> None:
    import datasets

    folder = tmp_path / "typed"
    folder.mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    files = {}
    for split in ("train", "validation", "test"):
        files[split] = str(folder / f"{split}-00000-of-00001.parquet")
        rows.to_parquet(files[split])
    for data in ({"kind": "hub", "path": str(folder)}, {"kind": "files", **files}):
        task = Task.model_validate(
            {"name": "t", "data": {**data, "values": values}, "labels": labels}
        )
        assert [(row.text, row.label) for row in load_splits(task, 0).train] == [
            ("a", labels[0]),
            ("b", labels[1]),
        ]


def test_a_hub_value_that_cannot_be_read_is_reported_unless_nobody_asked_for_it(
    hub: MakeTask, tmp_path: Path
) -> None:
    hub()  # its cache
    folder = tmp_path / "dates"
    folder.mkdir()
    beyond = pyarrow.array([2**55, 2**55], pyarrow.timestamp("ms"))  # after the year 9999
    table = pyarrow.table({"text": ["a", "b"], "label": ["p", "n"], "when": beyond})
    for split in ("train", "validation", "test"):
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    task = {"name": "t", "data": {"kind": "hub", "path": str(folder)}, "labels": ["p", "n"]}
    assert len(load_splits(Task.model_validate(task), 0).train) == 2
    task["data"] = {"kind": "hub", "path": str(folder), "id": "when"}
    assert refused(Task.model_validate(task)).message.startswith(
        f"{folder}, train row 0 or a later one: a value that cannot be read: "
    )


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"path": "nobody/no-such-data-set"}, "nobody/no-such-data-set"),
        (
            {"path": "nobody/none", "name": "cfg", "revision": "abc"},
            "nobody/none, config cfg at abc",
        ),
    ],
)
def test_a_hub_id_that_cannot_be_loaded_is_a_message(
    hub: MakeTask, data: dict[str, str], where: str
) -> None:
    error = refused(
        Task.model_validate({"name": "t", "data": {"kind": "hub", **data}, "labels": ["p", "n"]})
    )
    assert error.message.startswith(f"{where}: cannot be loaded: ")
    assert "\n" not in error.message


# Validation rows ----------------------------------------------------------------------------------


def many(counts: dict[str, int]) -> bytes:
    """Return rows, the classes in turn, so that file order and class order differ."""
    left, rows = Counter(counts), []
    while left.total():
        for label in counts:
            if left[label]:
                left[label] -= 1
                rows.append(
                    {
                        "id": f"{label}{counts[label] - left[label]}",
                        "text": f"text {len(rows)}",
                        "label": label,
                    }
                )
    return jsonl(rows)


def test_a_task_without_validation_gives_balanced_rows_of_train(make_task: MakeTask) -> None:
    task = make_task(many({"p": 4500, "n": 4001}), validation=None)
    splits = load_splits(task, 7, fraction=0.5)
    assert Counter(row.label for row in splits.validation) == {"p": 2000, "n": 2000}
    assert Counter(row.label for row in splits.train) == {"p": 2500, "n": 2001}


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ({"p": 25, "n": 7}, 0.2, {"p": 5, "n": 1}),
        ({"p": 25, "n": 7}, 0.5, {"p": 12, "n": 3}),
        ({"p": 2, "n": 3}, 0.2, {"p": 1, "n": 1}),  # one at least, if another row is left
        ({"p": 4, "n": 1}, 0.2, {"p": 1}),
        ({"p": 4100, "n": 3}, 0.5, {"p": 2000, "n": 1}),  # at most 4,000 in all
        ({"p": 290, "n": 10}, 0.1, {"p": 29, "n": 1}),  # exact: 0.1 * 290 is less than 29
    ],
)
def test_validation_takes_at_most_a_fraction_of_any_class(
    make_task: MakeTask, counts: dict[str, int], fraction: float, expected: dict[str, int]
) -> None:
    splits = load_splits(make_task(many(counts), validation=None), 0, fraction=fraction)
    assert Counter(row.label for row in splits.validation) == expected
    assert splits.taken_rows == sum(expected.values())


def test_validation_rows_that_are_not_used_stay_in_train(make_task: MakeTask) -> None:
    task = make_task(many({"p": 50, "n": 40}), validation=None)
    every, few = load_splits(task, 0), load_splits(task, 0, 4)
    assert (len(every.train), len(every.validation), every.taken_rows) == (72, 18, 18)
    assert (len(few.train), len(few.validation), few.taken_rows) == (86, 4, 4)
    assert {row.id for row in few.validation} < {row.id for row in every.validation}


def test_a_level_counts_the_rows_that_were_taken_for_validation(make_task: MakeTask) -> None:
    """As many rows as the published training set gives: TREC-6 at 0.3 % has 18 of 5,452."""
    task = make_task(many({"p": 100, "n": 100}), validation=None)
    splits = load_splits(task, 0, fraction=0.5)
    drawn = draw_rows(
        splits.train, ["p", "n"], DrawOptions("10%", 0, 0), taken_rows=splits.taken_rows
    )
    assert len(drawn) == 20
    own = load_splits(make_task(many({"p": 100, "n": 100})), 0)
    assert own.taken_rows == 0


@pytest.mark.parametrize("wanted", ["full", 5])
def test_copies_of_validation_rows_do_not_stay_in_train(
    make_task: MakeTask, wanted: int | str
) -> None:
    """Without care the odds that no copy of a validation row is in train are 1 in 10^9."""
    content = jsonl(
        [{"text": f"text {n // 2}" + "!" * (n % 2), "label": "pn"[n // 2 % 2]} for n in range(120)]
    )
    splits = load_splits(make_task(content, validation=None), 0, wanted)
    keys = [{copy_key(row.text) for row in rows} for rows in (splits.train, splits.validation)]
    assert not keys[0] & keys[1]
    assert len(splits.validation) == (24 if wanted == "full" else 5)
    assert splits.taken_rows == 120 - len(splits.train)


def test_validation_rows_of_data_without_copies_are_those_of_earlier_versions(
    make_task: MakeTask,
) -> None:
    splits = load_splits(make_task(many({"p": 15, "n": 10}), validation=None), 0)
    assert [row.id for row in splits.validation] == ["p2", "p5", "n8", "n9", "p13"]


def test_validation_rows_are_removed_from_train_and_both_keep_their_order(
    make_task: MakeTask,
) -> None:
    content = many({"p": 31, "n": 20})
    splits = load_splits(make_task(content, validation=None), 0)
    order = [json.loads(line)["id"] for line in content.decode().splitlines()]
    train, validation = [row.id for row in splits.train], [row.id for row in splits.validation]
    assert not set(train) & set(validation)
    assert set(train) | set(validation) == set(order)
    assert train == sorted(train, key=order.index)
    assert validation == sorted(validation, key=order.index)


def test_validation_depends_only_on_the_master_seed(make_task: MakeTask) -> None:
    """The probability that two seeds agree is 1 in 10^11."""
    task = make_task(many({"p": 40, "n": 40}), validation=None)
    assert load_splits(task, 0).validation == load_splits(task, 0).validation
    assert load_splits(task, 0).validation != load_splits(task, 1).validation
    assert {row.id for row in load_splits(task, 0, 10).validation} < {
        row.id for row in load_splits(task, 0).validation
    }


def test_a_validation_split_of_its_own_leaves_train_whole(make_task: MakeTask) -> None:
    splits = load_splits(make_task(many({"p": 9, "n": 9}), validation=many({"p": 3, "n": 5})), 0)
    assert (len(splits.train), len(splits.validation)) == (18, 8)


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [
        ("full", {"p": 20, "n": 30}),
        (10, {"p": 5, "n": 5}),
        (7, {"p": 4, "n": 3}),
        (1, {"p": 1}),
        ("4/class", {"p": 4, "n": 4}),
        ("20/class", {"p": 20, "n": 20}),
    ],
)
def test_validation_rows_are_chosen_by_class_in_their_order(
    make_task: MakeTask, wanted: int | str, counts: dict[str, int]
) -> None:
    content = many({"p": 20, "n": 30})
    task = make_task(validation=content)
    warnings, callbacks = collect_warnings()
    rows = load_splits(task, 0, wanted, callbacks=callbacks).validation
    order = [json.loads(line)["id"] for line in content.decode().splitlines()]
    assert Counter(row.label for row in rows) == counts
    assert [row.id for row in rows] == sorted((row.id for row in rows), key=order.index)
    assert not [text for text in warnings if "validation" in text]
    assert rows == load_splits(task, 0, wanted).validation


def test_another_seed_chooses_other_validation_rows(make_task: MakeTask) -> None:
    task = make_task(validation=many({"p": 50, "n": 50}))
    assert load_splits(task, 0, 20).validation != load_splits(task, 1, 20).validation


@pytest.mark.parametrize(("wanted", "count"), [("25/class", 25), (51, 26)])
def test_too_few_validation_rows_warn_with_their_class(
    make_task: MakeTask, wanted: int | str, count: int
) -> None:
    warnings, callbacks = collect_warnings()
    rows = load_splits(
        make_task(validation=many({"p": 20, "n": 30})), 0, wanted, callbacks=callbacks
    ).validation
    assert Counter(row.label for row in rows) == {"p": 20, "n": 25}
    assert [text for text in warnings if "validation" in text] == [
        f"validation: class 'p' has 20 rows, {count} are wanted; all of them are used"
    ]


def test_one_row_per_class_leaves_no_validation_rows(make_task: MakeTask) -> None:
    """Half of one row is none, and early stopping needs validation rows."""
    assert "there is no validation split" in refused(make_task(validation=None)).message


def test_texts_in_both_train_and_test_give_one_warning(make_task: MakeTask) -> None:
    train = jsonl(
        [
            {"id": "a", "text": "same", "label": "p"},
            {"id": "b", "text": "other", "label": "n"},
            {"id": "c", "text": "twice", "label": "n"},
        ]
    )
    test = jsonl(
        [
            {"id": "x", "text": "new", "label": "p"},
            {"id": "y", "text": "twice", "label": "n"},
            {"id": "z", "text": "same", "label": "n"},
        ]
    )
    warnings, callbacks = collect_warnings()
    assert load_splits(make_task(train, test=test), 0, callbacks=callbacks).test_rows_in_train == 2
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "task 't': 2 test rows are exact copies of training rows, such as y = c ('twice'); "
    )
    near = test.replace(b"same", b"Same!").replace(b"twice", b"thrice")
    warnings, callbacks = collect_warnings()
    assert load_splits(make_task(train, test=near), 0, callbacks=callbacks).test_rows_in_train == 0
    assert warnings == [
        "task 't': 1 test row is a copy, but for case, punctuation or spacing, of a training "
        "row: z = a ('Same!'); accuracy on them says nothing about new text; "
        "subsample.decontaminate: drop leaves such rows out of train"
    ]


def test_hashes_follow_the_rows(make_task: MakeTask) -> None:
    first, second = (
        load_splits(make_task(), 0),
        load_splits(make_task(GOOD.replace("good", "gooder")), 0),
    )
    assert first.sha["train"] != second.sha["train"]
    assert (first.sha["test"], first.sha["validation"]) == (
        second.sha["test"],
        second.sha["validation"],
    )
    assert Splits([], [], []).sha.keys() == {"train", "validation", "test", "all_test"}


@example_settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 50))
def test_split_evenly_keeps_the_total_and_puts_larger_parts_first(total: int, parts: int) -> None:
    sizes = split_evenly(total, parts)
    assert len(sizes) == parts
    assert sum(sizes) == total
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


# The demo sentences ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Splits:
    """The demo data with its own validation split."""
    return load_splits(
        Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]}),
        0,
        callbacks=Callbacks(warn=lambda _: pytest.fail("nothing to warn of")),
    )


def everything(splits: Splits) -> list[Example]:
    return [*splits.train, *splits.validation, *splits.test]


def test_the_demo_has_a_thousand_unique_rows_balanced_in_every_split(demo: Splits) -> None:
    rows = everything(demo)
    assert len(rows) >= 1000
    assert len({row.id for row in rows}) == len(rows)
    assert len({row.text.casefold() for row in rows}) == len(rows)
    for split in (demo.train, demo.validation, demo.test):
        assert len(split) >= 100
        assert Counter(row.label for row in split) == {
            "pos": len(split) // 2,
            "neg": len(split) // 2,
        }
    assert all(
        row.id.startswith(f"demo-{split}-")
        for split in ("train", "validation", "test")
        for row in getattr(demo, split)
    )


def test_demo_sentences_are_sentences(demo: Splits) -> None:
    for row in everything(demo):
        assert 4 <= len(row.text.split()) <= 40, row
        assert row.text == row.text.strip(), row
        assert "\n" not in row.text, row


def test_no_two_demo_sentences_share_more_than_half_of_their_trigrams(demo: Splits) -> None:
    """Measured against the shorter text: near copies would let a classifier memorize answers."""
    grams = {}
    for row in everything(demo):
        words = "".join(
            letter if letter.isalnum() or letter == "'" else " " for letter in row.text.lower()
        ).split()
        grams[row.id] = {tuple(words[start : start + 3]) for start in range(len(words) - 2)}
    holders = defaultdict(list)
    shared: Counter[tuple[str, str]] = Counter()
    for identity, own in grams.items():
        for gram in own:
            shared.update((other, identity) for other in holders[gram])
            holders[gram].append(identity)
    assert [
        (pair, count)
        for pair, count in shared.items()
        if count > min(len(grams[row_id]) for row_id in pair) / 2
    ] == []


def accuracy(splits: Splits, rows: Sequence[Example]) -> float:
    classifier = LinearClassifier(LinearSettings(kind="linear"), ["pos", "neg"])
    known = [
        Augmented(
            **row.model_dump(), probs={label: float(label == row.label) for label in ("pos", "neg")}
        )
        for row in rows
    ]
    classifier.fit(known, splits.validation, 0)
    right = classifier.predict_proba([row.text for row in splits.test]).argmax(1) == [
        ["pos", "neg"].index(row.label) for row in splits.test
    ]
    return float(right.mean())


def test_the_demo_can_be_learned_but_not_from_few_rows(demo: Splits) -> None:
    """Accuracy is far above chance with all rows, and close to chance with eight per class."""
    assert 0.70 <= accuracy(demo, demo.train) <= 0.92
    few = [
        accuracy(demo, draw_rows(demo.train, ["pos", "neg"], DrawOptions("8/class", 42, seed)))
        for seed in range(5)
    ]
    assert 0.52 <= sum(few) / 5 <= 0.70


def test_the_demo_with_other_classes_is_refused() -> None:
    task = Task.model_validate(
        {"name": "demo", "data": {"kind": "demo"}, "labels": ["good", "bad"]}
    )
    problem = "the demo data: label 'pos' is not one of the task's classes ('good', 'bad')"
    assert refused(task).message.splitlines()[0] == problem


def test_classes_keep_the_tasks_order() -> None:
    rows = [Example(id=str(number), text="t", label=label) for number, label in enumerate("abab")]
    groups = group_by_class(rows, ["b", "c", "a"])
    assert list(groups) == ["b", "c", "a"]
    assert [[row.id for row in group] for group in groups.values()] == [["1", "3"], [], ["0", "2"]]


# A part of the test rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "counts"), [(20, (10, 10)), ("7/class", (7, 7)), (21, (11, 10))]
)
def test_a_part_of_the_test_rows_is_seeded_balanced_and_in_order(
    wanted: int | str, counts: tuple[int, int]
) -> None:
    task = Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    whole = load_splits(task, 42)
    part = load_splits(task, 42, choice=SplitChoice(test_rows=wanted))
    assert tuple(sum(row.label == name for row in part.test) for name in task.classes) == counts
    assert part.test == [row for row in whole.test if row in part.test]
    assert part.all_test == whole.test == whole.all_test
    assert part.sha["test"] != whole.sha["test"] == whole.sha["all_test"] == part.sha["all_test"]
    assert (part.train, part.validation) == (whole.train, whole.validation)
    assert part.test == load_splits(task, 42, choice=SplitChoice(test_rows=wanted)).test
    assert part.test != load_splits(task, 43, choice=SplitChoice(test_rows=wanted)).test


def test_more_test_rows_than_there_are_is_a_warning() -> None:
    task = Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    warnings: list[str] = []
    splits = load_splits(
        task, 42, callbacks=Callbacks(warn=warnings.append), choice=SplitChoice(test_rows=1_000)
    )
    assert len(splits.test) == 370
    assert any("test: class 'pos' has 185 rows, 500 are wanted" in text for text in warnings)
