"""Precision, recall, F1 and confusion matrices of classes, in the terminal, JSON and page."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from rows import report_on, trial

from gpt3mix_cli.records import Manifest, Trial, write_manifest, write_records
from gpt3mix_cli.report.classes import shown_tables
from gpt3mix_cli.report.load_trials import load_trials
from gpt3mix_cli.report.render.terminal import terminal_table

pytestmark = pytest.mark.usefixtures("without_plots")

CLASSES = ["billing", "delivery", "other"]
TRUE = [0, 0, 0, 0, 1, 1, 1, 2, 2]
PREDICTED = [[0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0, 1]]


def matrices() -> list[list[list[int]]]:
    return [
        sklearn.metrics.confusion_matrix(TRUE, predicted, labels=[0, 1, 2]).tolist()
        for predicted in PREDICTED
    ]


def rows() -> list[Trial]:
    return [trial(seed, 0.5, confusion=matrix) for seed, matrix in enumerate(matrices())]


def name_classes(tmp_path: Path, classes: list[str]) -> None:
    """Write the manifest of the trials, which names the classes."""
    manifest = Manifest(
        stage="train", output="all.jsonl", sha256="", complete=True,
        settings={"classes": classes}, inputs={}, seed=0, counts={},
    )  # fmt: skip
    write_manifest(tmp_path / "trials" / "all.jsonl", manifest)


def test_the_scores_are_those_of_scikit_learn_over_all_trials(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    name_classes(tmp_path, CLASSES)
    (scores,) = report_on(tmp_path, rows()).classes
    expected = sklearn.metrics.precision_recall_fscore_support(
        TRUE * 2, PREDICTED[0] + PREDICTED[1], labels=[0, 1, 2], zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        of_one = values / 2 if name == "support" else values
        assert getattr(scores, name) == pytest.approx(of_one), name
    assert scores.classes == CLASSES
    assert scores.mistakes(2) == [("billing", 0.75), ("delivery", 0.25)]


def test_report_json_has_the_matrix_on_one_line_and_the_page_has_its_cells(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    name_classes(tmp_path, CLASSES)
    report_on(tmp_path, rows())
    text = (tmp_path / "report" / "report.json").read_text("utf-8")
    (result,) = json.loads(text)["classes"]
    assert result["confusion"] == np.sum(matrices(), axis=0).tolist()
    assert result["classes"] == CLASSES
    assert text.count("\n") < 200
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert '"confusion":{"names":[["billing","delivery","other"]],"results":[["sst2 1%' in page
    assert "[0,0,5,0,1,3,1,0,1,1,1,5,2,0,3,2,1,1]" in page


def test_without_a_manifest_classes_have_numbers(tmp_path: Path) -> None:
    (scores,) = report_on(tmp_path, rows()).classes
    assert scores.classes == ["class 1", "class 2", "class 3"]


@pytest.mark.parametrize("confusion", [[[1, 2]], [[1, -1], [0, 0]], [[1, 2**40], [0, 0]], []])
def test_what_is_no_matrix_is_left_out(tmp_path: Path, confusion: list[list[int]]) -> None:
    assert not report_on(tmp_path, [trial(0, 0.5, confusion=confusion)]).classes


def test_matrices_of_two_sizes_are_not_added(tmp_path: Path) -> None:
    mixed = [*rows(), trial(2, 0.5, confusion=[[1, 0], [0, 1]])]
    assert not report_on(tmp_path, mixed).classes


@pytest.mark.parametrize("width", [80, 120])
def test_77_classes_fit_a_terminal_with_the_worst_first(tmp_path: Path, width: int) -> None:
    from rich.console import Console

    size = 77
    matrix = np.full((size, size), 0) + np.diag(np.arange(size))
    matrix[:, 5] += 3
    names = [f"a_long_name_of_a_class_{number}" for number in range(size)]
    (tmp_path / "trials").mkdir()
    name_classes(tmp_path, names)
    scores = report_on(tmp_path, [trial(0, 0.5, confusion=matrix.tolist())]).classes
    console = Console(width=width, record=True)
    (table,) = shown_tables(scores, width)
    with console.capture() as captured:
        console.print(terminal_table(table, width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if line.startswith("│")]) == 20  # no row is folded
    assert "57 classes with a higher F1 are in report.html" in " ".join(lines)


def test_a_small_matrix_is_printed_in_percent_of_the_true_class(tmp_path: Path) -> None:
    scores = report_on(tmp_path, rows()).classes
    _, matrix = shown_tables(scores, 80)
    assert [[cell.text for cell in row[1:]] for row in matrix.rows] == [
        ["62", "38", "0"], ["17", "83", "0"], ["75", "25", "0"],
    ]  # fmt: skip


def test_matrices_survive_the_slow_reader(tmp_path: Path) -> None:
    from rows import inputs

    from gpt3mix_cli.errors import NO_CALLBACKS

    path = tmp_path / "trials" / "all.jsonl"
    write_records(path, rows())
    path.write_text(path.read_text("utf-8") + "\n\n", "utf-8")
    frame, _ = load_trials(inputs(tmp_path), NO_CALLBACKS)
    assert [matrix.tolist() for matrix in frame["confusion"]] == matrices()
