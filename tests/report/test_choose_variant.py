"""`report --by validation`: the variant is chosen by validation rows and reported on test rows."""

from pathlib import Path
from typing import Any

import pytest
from rows import inputs, report_on, seeds

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import ExpectedTrials, ReportOptions, report


def variant(k: int, test: float, validation: float | None, **fields: Any) -> list[Trial]:
    """Return two trials of GPT3Mix with `k` examples."""
    fields = {"method": "gpt3mix", **fields}
    return seeds([test] * 2, valid_accuracy=validation, variant={"augment.k": k}, **fields)


def both(validation_of_4: float) -> list[Trial]:
    """Return trials of k = 2, which is best on test rows, and of k = 4."""
    plain = [row for k in (2, 4) for row in variant(k, 0.5, 0.5, method="none")]
    return [*plain, *variant(2, 0.9, 0.7), *variant(4, 0.8, validation_of_4)]


def test_the_best_on_validation_is_reported_on_test_rows(tmp_path: Path) -> None:
    """The better test accuracy of the other variant does not count."""
    result = report_on(tmp_path, both(0.75), by_validation=True)
    assert {row.method: (row.mean, row.variant) for row in result.results} == {
        "none": (0.5, ""),
        "gpt3mix": (0.8, ""),
    }
    chosen = next(table for table in result.tables if table.name == "chosen-variants")
    assert [*chosen.data["method"]] == ["gpt3mix"]  # without augmentation nothing was chosen
    row = chosen.data.iloc[0]
    assert (row["variant"], row["validation accuracy"], row["next best"]) == (
        "augment.k=4",
        pytest.approx(75),
        pytest.approx(70),
    )
    assert any("--by validation" in remark for remark in result.remarks)
    assert "had no part in the choice" in (tmp_path / "report" / "report.md").read_text("utf-8")


def test_the_first_of_equal_variants_is_chosen_in_the_order_of_the_config(tmp_path: Path) -> None:
    write_records(path := tmp_path / "trials" / "all.jsonl", both(0.7))
    for order, mean in (((2, 4), 0.9), ((4, 2), 0.8)):
        expected = [
            ExpectedTrials(path, 2, "sst2", "1%", method, "linear", {"augment.k": k})
            for k in order
            for method in ("none", "gpt3mix")
        ]
        options = ReportOptions(by_validation=True)
        result = report(inputs(path, expected=expected), tmp_path / "report", options)
        (ours,) = [row for row in result.results if row.method == "gpt3mix"]
        assert (ours.mean, ours.expected) == (mean, 2)


def test_a_variant_with_fewer_finished_trials_is_not_chosen(tmp_path: Path) -> None:
    rows = [*variant(2, 0.9, 0.7), *variant(4, 0.8, 0.99)[:1]]
    result = report_on(tmp_path, rows, by_validation=True)
    assert [row.mean for row in result.results] == [0.9]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (variant(2, 0.9, 0.7), "nothing to choose"),
        ([*variant(2, 0.9, None), *variant(4, 0.8, None)], "no trial has a validation accuracy"),
    ],
)
def test_without_a_choice_the_report_says_so(
    tmp_path: Path, rows: list[Trial], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        report_on(tmp_path, rows, by_validation=True)
