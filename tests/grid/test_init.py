"""`gpt3mix init`: a config from a file of labelled texts, as messy as people have them."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.cli_init import _time_of_fit
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import rough_times
from gpt3mix_cli.grid.data_profile import DataOptions, DataProfile, profile_data
from gpt3mix_cli.grid.init import InitOptions, config_path, describe, write_config
from gpt3mix_cli.grid.rough_times import rough_fit_seconds
from gpt3mix_cli.settings import Experiment

NAMES = {"billing": "invoice", "Tech_Support": "crash", "shipping": "parcel"}


def good_rows(count: int = 40) -> list[list[Any]]:
    """Return so many rows of each class; the last column is the label."""
    return [
        [number, f'Größe {number}; the "{word}" of today, again', name]
        for number in range(count)
        for name, word in NAMES.items()
    ]


def to_csv(rows: list[list[Any]], delimiter: str = ";", start: str = "\ufeff") -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(rows)  # Windows line ends
    return (start + stream.getvalue()).encode()


MESSY = [
    ["ticket", "body", "queue"],
    *good_rows(),
    [900, "", "billing"],
    [901, "no queue", ""],
    [902, "alone", "legal"],
    [903, "Same text!", "billing"],
    [904, "same text", "shipping"],
    [905, "upper case", "BILLING"],
]


def profile_of(
    folder: Path, content: bytes, name: str = "tickets.csv", **flags: Any
) -> DataProfile:
    (folder / name).write_bytes(content)
    return profile_data(folder / name, DataOptions(**flags))


def config_of(folder: Path, profile: DataProfile) -> Experiment:
    write_config(profile, "tickets", folder / "tickets.yaml")
    return load_experiments(folder / "tickets.yaml")[0]


def test_a_messy_file_gives_a_config_that_loads_its_good_rows(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, to_csv(MESSY))
    assert (profile.text, profile.label, profile.delimiter) == ("body", "queue", ";")
    assert dict(profile.classes) == {"Tech_Support": 40, "billing": 41, "shipping": 40}
    assert [(row.where.partition(", ")[2], row.kind) for row in profile.bad_rows] == [
        ("line 122", "empty text"),
        ("line 123", "empty label"),
        ("line 124", "a label that is not in task.labels"),
        ("line 125", "two labels"),
        ("line 126", "two labels"),
    ]
    experiment = config_of(tmp_path, profile)
    assert experiment.task.labels == {
        "Tech_Support": "tech support",
        "billing": "billing",
        "shipping": "shipping",
    }
    assert (experiment.task.text_type, experiment.task.label_type) == ("support ticket", "queue")
    splits = load_splits(experiment.task, 0)
    rows = [*splits.train, *splits.validation, *splits.test]
    assert len(rows) == 121
    assert len(splits.bad_rows) == len(profile.bad_rows)


def test_lines_with_too_few_or_too_many_fields_are_left_out(tmp_path: Path) -> None:
    content = to_csv(MESSY) + b"906;short\r\n907;one;two;billing\r\n"
    profile = profile_of(tmp_path, content)
    kinds = [row.kind for row in profile.bad_rows]
    assert kinds.count("too few or too many fields") == 2
    splits = load_splits(config_of(tmp_path, profile).task, 0)
    assert sorted(row.kind for row in splits.bad_rows if "fields" in row.kind) == kinds[:2]
    path = tmp_path / "tickets.yaml"
    path.write_text(path.read_text().replace("on_bad_rows: skip", "on_bad_rows: error"))
    with pytest.raises(UserError, match=r"(?s)line 128: 2 fields.*\n.*line 129: 4 fields") as error:
        load_splits(load_experiments(path)[0].task, 0)
    assert "on_bad_rows: skip" in error.value.hint


def test_a_typing_error_is_near_to_its_class_in_the_list_and_in_the_config(tmp_path: Path) -> None:
    rows = [["id", "text", "label"], *good_rows(9), [90, "odd", "biling"], [91, "odder", "x"]]
    profile = profile_of(tmp_path, to_csv(rows, ","))
    config = write_config(profile, "tickets", tmp_path / "tickets.yaml")
    listed = "\n".join(describe(config))
    assert "('biling'; fewer than 3 different texts; 'billing'?)" in listed
    assert "('x'; fewer than 3 different texts)" in listed
    text = (tmp_path / "tickets.yaml").read_text()
    assert "#   biling: billing    # a typing error?\n" in text
    corrected = text.replace("# values:", "values:").replace("#   biling:", "  biling:")
    (tmp_path / "tickets.yaml").write_text(corrected)
    task = load_experiments(tmp_path / "tickets.yaml")[0].task
    assert [row.label for row in load_splits(task, 0).bad_rows] == ["x"]


def test_a_text_with_two_labels_names_the_other_line(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, to_csv(MESSY))
    two = [row for row in profile.bad_rows if row.kind == "two labels"]
    assert [row.detail for row in two] == [
        f"'{two[1].label}' in line 126",
        f"'{two[0].label}' in line 125",
    ]


def test_a_file_of_ragged_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: 3 fields where the header has 2"):
        profile_of(tmp_path, b"text,label\na long text, with a comma,x\nb,c,y\nd,z\n")


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--columns: duplicate column 'a'"):
        profile_of(tmp_path, to_csv(good_rows(9), ",", ""), columns=["a", "a", "b"])


def test_copies_do_not_make_a_class(tmp_path: Path) -> None:
    copies = [[900 + number, "Again" + "!" * number, "legal"] for number in range(5)]
    rows = [["id", "text", "label"], *good_rows(9), *copies]
    profile = profile_of(tmp_path, to_csv(rows, ","))
    assert "legal" not in profile.classes
    assert len(profile.bad_rows) == 5


def test_control_characters_in_labels_stay(tmp_path: Path) -> None:
    odd = {f"{n}{char}b" for n, char in enumerate("\x85\x9f\x7f\u2028\u200b\U000e0001")}
    rows = [
        ["some text", "label"],
        *([f"text {n} of {x!a}", x] for x in odd for n in range(4)),
    ]
    experiment = config_of(tmp_path, profile_of(tmp_path, to_csv(rows, ",")))
    assert set(experiment.task.labels) == odd


def test_objects_without_the_label_key_are_left_out(tmp_path: Path) -> None:
    rows = [{"queue": name, "body": text} for _, text, name in good_rows(9)]
    objects = [{"body": "the first has no queue"}, *rows, {"queue": "billing"}]
    content = "\n".join(map(json.dumps, objects)).encode()
    profile = profile_of(tmp_path, content, "tickets.jsonl")
    assert [row.kind for row in profile.bad_rows] == ["empty label", "empty text"]
    splits = load_splits(config_of(tmp_path, profile).task, 0)
    assert [row.kind for row in splits.bad_rows] == ["empty label", "empty text"]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 27


def test_few_rows_are_cross_validated(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, to_csv([["id", "text", "label"], *good_rows(9)], ","))
    experiment = config_of(tmp_path, profile)
    assert experiment.subsample.seeds == [0, 1, 2, 3, 4]
    assert experiment.trials == 5
    assert experiment.task.label_type == "category"


def test_ids_that_repeat_number_the_rows(tmp_path: Path) -> None:
    rows = [["id", "text", "label"], *([7, text, label] for _, text, label in good_rows(9))]
    experiment = config_of(tmp_path, profile_of(tmp_path, to_csv(rows, ",")))
    assert len({row.id for row in load_splits(experiment.task, 0).train}) > 1


def test_numbers_and_odd_words_as_labels_and_columns(tmp_path: Path) -> None:
    words = ["yes", "null", "a: b", "#5", "10"]
    rows = [["the text", "my label: x"]]
    rows += [[f"some longer text {n} {word}", word] for n in range(9) for word in words]
    profile = profile_of(tmp_path, to_csv(rows, ","))
    experiment = config_of(tmp_path, profile)
    assert set(experiment.task.labels) == set(words)
    assert experiment.task.label_type == "my label x"
    assert len(load_splits(experiment.task, 0).bad_rows) == 0


def test_a_file_without_a_header(tmp_path: Path) -> None:
    content = to_csv(good_rows(9), ",", start="")
    profile = profile_of(tmp_path, content, columns=["number", "body", "queue"])
    assert profile.num_rows == 27
    splits = load_splits(config_of(tmp_path, profile).task, 0)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 27


def test_a_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for label in ("pos", "neg"):
            (tmp_path / "films" / split / label).mkdir(parents=True)
            for number in range(count):
                path = tmp_path / "films" / split / label / f"{number}.txt"
                path.write_text(f"{split} {label} {number}")
    profile = profile_data(tmp_path / "films", DataOptions())
    write_config(profile, "films", tmp_path / "films.yaml")
    task = load_experiments(tmp_path / "films.yaml")[0].task
    splits = load_splits(task, 0)
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (8, 4)
    assert task.label_type == "sentiment"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".xlsx"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    import pandas

    frame = pandas.DataFrame(good_rows(9), columns=["ticket", "body", "queue"])
    path = tmp_path / f"tickets{suffix}"
    if suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        pytest.importorskip("openpyxl")
        frame.to_excel(path, index=False)
    profile = profile_data(path, DataOptions())
    assert (profile.text, profile.label) == ("body", "queue")
    assert sum(profile.classes.values()) == 27
    assert len(load_splits(config_of(tmp_path, profile).task, 0).bad_rows) == 0


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        ({"text": "bodi"}, "no column 'bodi'; did you mean 'body'?", "--text"),
        ({"label": "ticket"}, "has no class", "--label"),
        ({"text": "queue", "label": "queue"}, "cannot be text and label", "--label"),
    ],
)
def test_a_wrong_column_is_refused(
    tmp_path: Path, flags: dict[str, str], message: str, hint: str
) -> None:
    rows = [["ticket", "body", "queue"], *good_rows(3)]
    rows = [[number, *row[1:]] if number else row for number, row in enumerate(rows)]
    with pytest.raises(UserError) as error:
        config_of(tmp_path, profile_of(tmp_path, to_csv(rows), **flags))
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_config_is_not_overwritten(tmp_path: Path) -> None:
    assert config_path(Path("my tickets.csv"), InitOptions()) == (
        "my-tickets",
        Path("my-tickets.yaml"),
    )
    Path("a.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"a.yaml: exists"):
        config_path(Path("a.csv"), InitOptions())
    assert config_path(Path("a.csv"), InitOptions(force=True))[1] == Path("a.yaml")
    assert config_path(Path("a.csv"), InitOptions(Path("b.yaml"), "c")) == ("c", Path("b.yaml"))


def test_a_config_that_is_replaced_stays_as_bak(tmp_path: Path) -> None:
    path = tmp_path / "tickets.yaml"
    path.write_text("mine")
    profile = profile_of(tmp_path, to_csv(MESSY))
    assert any("tickets.yaml.bak" in note for note in write_config(profile, "t", path).notes)
    assert path.with_name("tickets.yaml.bak").read_text() == "mine"
    assert not any(".bak" in note for note in write_config(profile, "t", path).notes)


def test_the_person_at_the_terminal_names_the_task(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, to_csv(MESSY))
    asked: list[tuple[str, str]] = []

    def ask(question: str, default: str) -> str:
        asked.append((question, default))
        return f"my {default}"

    write_config(profile, "tickets", tmp_path / "tickets.yaml", ask)
    assert [default for _, default in asked] == ["support ticket", "queue"]
    task = load_experiments(tmp_path / "tickets.yaml")[0].task
    assert (task.text_type, task.label_type) == ("my support ticket", "my queue")


def test_the_command_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tickets.csv").write_bytes(to_csv(MESSY))
    assert main(["init", "tickets.csv", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["config"] == "tickets.yaml"
    assert summary["classes"] == {"Tech_Support": 40, "billing": 41, "shipping": 40}
    assert len(summary["bad_rows"]) == 5
    assert main(["init", "tickets.csv", "--quiet"]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("cores", [1, 2])
def test_a_rough_time_of_fit_needs_no_model(
    tmp_path: Path, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 tickets of ten words took about four minutes on two cores."""
    monkeypatch.setattr(rough_times, "count_fitting_workers", lambda threads: cores)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    profile = profile_of(tmp_path, to_csv([["ticket", "text", "label"], *good_rows(64)]))
    experiment = config_of(tmp_path, profile)
    assert experiment.trials == 2
    seconds = rough_fit_seconds(experiment, profile) or 0
    assert 120 < seconds < 300 if cores == 2 else 300 < seconds < 500
    classes = {name: 10 * count for name, count in profile.classes.items()}
    many = rough_fit_seconds(experiment, replace(profile, classes=classes)) or 0
    assert 8 < many / seconds < 10
    (line,) = _time_of_fit(tmp_path / "tickets.yaml", profile)
    assert re.fullmatch(r"fit: roughly \d min without a GPU \(gpt3mix plan \S+ measures.*\)", line)
    other = experiment.model_copy(
        update={"lm": experiment.lm.model_copy(update={"model": "some-lm"})}
    )
    assert rough_fit_seconds(other, profile) is None


def test_commands_in_the_config_quote_its_path(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, to_csv([["ticket", "text", "label"], *good_rows()]))
    write_config(profile, "my", Path("my data.yaml"))
    assert "#   gpt3mix check 'my data.yaml'    is" in Path("my data.yaml").read_text()
