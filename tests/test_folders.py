"""Rows of folders and of Excel files."""

import zipfile
from pathlib import Path

import pytest

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.folders import split_folders
from gpt3mix_cli.tables import class_names, read_rows

NEEDED = {"text": "--text", "label": "--label"}


def write_class_folders(folder: Path) -> None:
    for label in ("neg", "pos"):
        (folder / label).mkdir(parents=True)
        for number in range(2):
            (folder / label / f"{number}.txt").write_text(f"{label} {number}\n")


def test_a_folder_per_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / ".git").mkdir()
    rows = list(read_rows(tmp_path, NEEDED))
    assert [(row["label"], row["text"]) for _, row in rows] == [
        ("neg", "neg 0\n"),
        ("neg", "neg 1\n"),
        ("pos", "pos 0\n"),
        ("pos", "pos 1\n"),
    ]
    assert rows[0][0] == str(tmp_path / "neg" / "0.txt")


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "neg" / "1.txt").write_bytes("Köln".encode("latin-1"))
    with pytest.raises(UserError, match=r"neg/1.txt: not UTF-8"):
        list(read_rows(tmp_path, NEEDED))


def test_folders_of_splits_are_not_classes(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "dev")
    assert split_folders(tmp_path) == {
        "train": tmp_path / "train",
        "validation": tmp_path / "dev",
    }
    with pytest.raises(UserError, match="holds the splits train, validation"):
        list(read_rows(tmp_path, NEEDED))
    (tmp_path / "billing").mkdir()  # a class called `train` among others
    assert split_folders(tmp_path) == {}


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    rows = list(read_rows(tmp_path / "saved", NEEDED))
    assert rows[1] == (f"{tmp_path}/saved, row 1", {"text": "b", "label": 1})
    assert class_names(tmp_path / "saved", "label") == ["n", "p"]
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    assert split_folders(tmp_path / "both").keys() == {"train", "test"}
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read as a data set"):
        list(read_rows(tmp_path / "saved", NEEDED))


def test_an_excel_file(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for values in (["id", "text", "label"], [1, "größer\nzwei", 3], [], [2, None, "x"]):
        book.active.append(values)
    book.save(tmp_path / "a.xlsx")
    assert list(read_rows(tmp_path / "a.xlsx", NEEDED)) == [
        (f"{tmp_path}/a.xlsx, row 2", {"id": 1, "text": "größer\nzwei", "label": 3}),
        (f"{tmp_path}/a.xlsx, row 4", {"id": 2, "text": None, "label": "x"}),
    ]
    book.active.append([3, "short"])
    book.save(tmp_path / "a.xlsx")
    rows = [row for _, row in read_rows(tmp_path / "a.xlsx", NEEDED)]
    assert rows[-1] == {"id": 3, "text": "short", "label": None}
    book.active["D1"] = "label"
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="row 1: duplicate column 'label'"):
        list(read_rows(tmp_path / "a.xlsx", NEEDED))
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UserError, match="cannot be read as an Excel file"):
        list(read_rows(tmp_path / "a.xlsx", NEEDED))


def test_a_wrong_size_in_an_excel_file_hides_no_rows(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for values in (["id", "text", "label"], [1, "fine", "p"], [], [2, "dull", "n"]):
        book.active.append(values)
    book.save(tmp_path / "right.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "right.xlsx") as right,
        zipfile.ZipFile(tmp_path / "wrong.xlsx", "w") as wrong,
    ):
        for name in right.namelist():
            content = right.read(name)
            wrong.writestr(name, content.replace(b'<dimension ref="A1:C4"', b'<dimension ref="A1"'))
            assert (wrong.read(name) != content) == (name == "xl/worksheets/sheet1.xml")
    expected = [values for _, values in read_rows(tmp_path / "right.xlsx", NEEDED)]
    assert [row["text"] for row in expected] == ["fine", "dull"]
    assert [values for _, values in read_rows(tmp_path / "wrong.xlsx", NEEDED)] == expected
