"""The paper's own values, their contradictions, and ours next to them."""

from pathlib import Path
from typing import Any

import pytest
from rows import inputs, seeds

from gpt3mix_cli.records import write_records
from gpt3mix_cli.report import ExpectedTrials, ReportOptions, paper, report

pytestmark = pytest.mark.usefixtures("without_plots")


def test_all_printed_values_are_present() -> None:
    rows = list(paper.load_paper().itertuples())
    counts = {table: sum(row.table == table for row in rows) for table in (0, 1, 2, 3, 5, 6)}
    assert counts == {0: 4, 1: 8 * (6 * 3 + 3), 2: 12, 3: 12, 5: 9, 6: 18}
    assert {(row.table, row.page) for row in rows} == {
        (0, 6), (1, 5), (2, 6), (3, 6), (5, 7), (6, 8),
    }  # fmt: skip
    # Of each line of Table 1 one figure is bold, and of its averages too.
    assert sum(row.best for row in rows if row.table == 1) == 2 * 21


def test_the_ablations_repeat_distilberts_values_without_augmentation() -> None:
    rows = list(paper.load_paper().itertuples())
    plain = [
        row for row in rows if (row.table, row.classifier, row.column) == (1, "distilbert", "none")
    ]
    table1 = {(row.task, row.level): (row.printed, row.printed_std) for row in plain}
    for row in rows:
        if row.table in (5, 6) and row.column == "none":
            assert table1[row.task, row.level] == (row.printed, row.printed_std)


def test_recomputed_averages_agree_with_the_printed_ones_except_for_two() -> None:
    """The EDA averages at 0.3 % are not the means of their rows; the other 22 are, to rounding."""
    averages = [row for row in paper.load_paper().itertuples() if row.task == "average"]
    wrong = {
        (row.level, row.classifier, row.column): round(100 * (row.recomputed or 0), 2)
        for row in averages
        if row.mark
    }
    assert len(averages) == 24
    assert wrong == {("0.3%", "distilbert", "eda"): 66.45, ("0.3%", "bert", "eda"): 66.70}
    assert all(
        abs(row.printed - (row.recomputed or 0)) < 0.0006 for row in averages if not row.mark
    )


def test_contradictions_in_the_paper_are_marked() -> None:
    rows = list(paper.load_paper().itertuples())
    marks = {(row.table, row.task, row.level, row.column): row.mark for row in rows if row.mark}
    assert "24.3" in marks[1, "sst2", "0.1%", "none"]
    assert "11.5" in marks[1, "sst2", "0.1%", "none"]
    for level, shown, curie in (
        ("0.1%", 0.712, "65.9"),
        ("0.3%", 0.8, "74.6"),
        ("1.0%", 0.843, "83.4"),
    ):
        same = {
            row.table: row
            for row in rows
            if (row.task, row.level) == ("sst2", level) and row.column in ("k=2", "soft", "optimal")
        }
        assert {(row.printed, row.ratio) for row in same.values()} == {
            (shown, 10),
            (shown, 5),
            (shown, 3),
        }
        assert all(row.mark for row in same.values())
        assert f"Table 3 has {curie} for curie at ratio 5" in same[5].mark
        assert f"{100 * shown:.1f} for curie at ratio 5" in marks[3, "sst2", level, "curie"]
    assert not any(row.printed == 0.688 for row in rows if row.table == 1 and row.task == "cola")
    said = paper.find_contradictions(paper.load_paper())
    assert any("68.80" in line for line in said)
    assert len(said) == len(set(said))


def test_our_value_is_next_to_the_printed_one(tmp_path: Path) -> None:
    rows = [
        *seeds([0.6, 0.62], classifier="bert-base-uncased", task="SST-2"),
        *seeds([0.7, 0.72], classifier="bert-base-uncased", method="gpt3mix", task="SST-2"),
    ]
    write_records(tmp_path / "trials.jsonl", rows)
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    ours = {
        (row.task, row.level, row.column): row
        for row in result.paper.itertuples()
        if row.ours is not None and row.table == 1
    }
    assert set(ours) == {("sst2", "1.0%", "none"), ("sst2", "1.0%", "gpt3mix")}
    assert {row.classifier for row in ours.values()} == {"bert"}
    assert ours["sst2", "1.0%", "gpt3mix"].difference == pytest.approx(0.71 - 0.82)
    page = (tmp_path / "report.md").read_text("utf-8")
    assert "82.0 ± 2.7 / 71.0 ± 1.4 (2): -11.0" in page
    assert "Appendix B gives 68.80" in page


@pytest.mark.parametrize(
    ("variant", "table", "column"),
    [
        ({"augment.k": 4}, 2, "k=4"),
        ({"augment.labels": "hard"}, 5, "hard"),
        ({"task.text_type": "text", "task.label_type": "label"}, 6, "generic"),
        ({"task": "../tasks/sst2.yaml"}, 6, "optimal"),
        ({"task": "../tasks/sst2-generic.yaml"}, 6, "generic"),
    ],
)
def test_variants_are_in_the_columns_of_the_ablations(
    tmp_path: Path, variant: dict[str, Any], table: int, column: str
) -> None:
    write_records(
        tmp_path / "trials.jsonl",
        seeds([0.6, 0.62], classifier="distilbert", method="gpt3mix", variant=variant),
    )
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    assert [
        (row.table, row.column, row.level)
        for row in result.paper.itertuples()
        if row.ours is not None
    ] == [(table, column, "1.0%")]


def test_in_a_sweep_over_the_ratio_the_papers_ratio_is_compared(
    tmp_path: Path,
) -> None:
    rows = []
    for ratio, mean in ((1, 0.6), (10, 0.7)):
        swept = {"augment.ratio": ratio, "augment.k": 2}
        rows += seeds(
            [mean, mean],
            classifier="distilbert",
            method="gpt3mix",
            n_synthetic=70 * ratio,
            variant=swept,
        )
    write_records(tmp_path / "trials.jsonl", rows)
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    assert [
        (row.column, row.ours, row.ours_ratio, row.candidates)
        for row in result.paper.itertuples()
        if row.table == 2 and row.ours
    ] == [("k=2", 0.7, 10, 2)]
    assert "ours is the first of those nearest in their ratio" in next(
        table.notes for table in result.tables if table.name.startswith("paper-table-2")
    )


def test_a_classifier_and_task_that_the_paper_lacks_are_named(tmp_path: Path) -> None:
    write_records(
        tmp_path / "trials.jsonl",
        [*seeds([0.6, 0.62]), *seeds([0.6], task="tickets", level="8/class")],
    )
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    assert {row.classifier for row in result.paper.itertuples() if row.ours is not None} == {
        "distilbert",
        "bert",
    }
    assert any("no task tickets" in remark for remark in result.remarks)
    assert any("no level 8/class" in remark for remark in result.remarks)
    assert "Our classifier is another one (linear)." in (tmp_path / "report.md").read_text("utf-8")


def test_without_a_task_of_the_paper_there_is_one_line_and_no_table(tmp_path: Path) -> None:
    write_records(tmp_path / "trials.jsonl", seeds([0.6, 0.62], task="tickets", level="8/class"))
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    assert result.remarks[0].startswith("the paper has no task tickets; its tasks are cola, ")
    assert result.remarks[0].endswith("so none of its tables is shown")
    assert not any("no level" in remark for remark in result.remarks)
    assert not any(table.name.startswith("paper") for table in result.tables)
    assert (result.paper, result.paper_remarks) == (None, [])


def expected(path: Path, method: str, column: tuple[int, str], **swept: Any) -> ExpectedTrials:
    return ExpectedTrials(path, 2, "sst2", "1%", method, "distilbert", swept, column)


def test_the_config_names_the_column_of_the_paper(tmp_path: Path) -> None:
    """An LM's name says nothing: the config says which GPT-3 it takes the place of."""
    rows, asked = [], []
    for number, (model, column) in enumerate({"curie-tiny": "ada", "b": "davinci"}.items()):
        rows += [
            *seeds([0.5, 0.5], classifier="distilbert", variant={"lm.model": model}),
            *seeds(
                [0.6 + number / 10] * 2,
                classifier="distilbert",
                method="gpt3mix",
                variant={"lm.model": model},
            ),
        ]
        asked += [
            expected(tmp_path / "none", method, (3, column), **{"lm.model": model})
            for method in ("none", "gpt3mix")
        ]
    write_records(tmp_path / "trials.jsonl", rows)
    options = ReportOptions(with_paper=True)
    result = report(inputs(tmp_path / "trials.jsonl", expected=asked), tmp_path, options)
    ours = {
        (row.table, row.column): row.ours
        for row in result.paper.itertuples()
        if row.ours is not None and row.column != "none"
    }
    assert ours == {(3, "ada"): 0.6, (3, "davinci"): 0.7}
    without_config = report(inputs(tmp_path / "trials.jsonl"), tmp_path, options)
    table_3 = without_config.paper[without_config.paper["table"] == 3]
    assert not table_3["ours"].notna().any()
    assert any("gpt3mix report CONFIG --paper" in remark for remark in without_config.remarks)


def test_the_full_data_of_section_43_is_next_to_ours(tmp_path: Path) -> None:
    rows = [
        *seeds([0.90, 0.90], classifier="bert", level="full"),
        *seeds([0.92, 0.92], classifier="bert", level="full", method="gpt3mix", n_synthetic=70),
    ]
    write_records(tmp_path / "trials.jsonl", rows)
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    page = (tmp_path / "report.md").read_text("utf-8")
    assert "Section 4.3 (page 6): all of SST-2, ratio 1, BERT" in page
    assert "90.33 / 90.0 ± 0.0 (2): -0.3" in page
    assert "93.25 / 92.0 ± 0.0 (2): -1.2" in page
    assert not [remark for remark in result.remarks if "no level" in remark]
    # Rows of 8 per class are no full data.
    assert paper._normal_level("full") != paper._normal_level("8/class")
