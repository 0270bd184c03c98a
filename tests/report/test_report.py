"""Reports over hand-written trials: averages, missing and failed trials, escaping."""

import csv
import io
import os
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from rows import inputs, report_on, trial

from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.files import append
from gpt3mix_cli.records import Trial, to_json_line, write_records
from gpt3mix_cli.report import ExpectedTrials, Report, report
from gpt3mix_cli.report.render.markdown import escape
from gpt3mix_cli.report.render.terminal import terminal_table

pytestmark = pytest.mark.usefixtures("without_plots")

# To make the golden page anew: REGENERATE=1 pytest tests/report, then read the difference.
GOLDEN = Path(__file__).parent.parent / "golden" / "report.md"
REGENERATE = bool(os.environ.get("REGENERATE"))


def report_of(tmp_path: Path, *trials: Trial, **options: Any) -> Report:
    return report_on(tmp_path, trials, "a title", **options)


def page(tmp_path: Path) -> str:
    return (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def table(tmp_path: Path) -> list[list[str]]:
    """Return the cells of the first table: the texts between bars that are not escaped."""
    lines = [line for line in page(tmp_path).split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def table_csv(tmp_path: Path) -> list[dict[str, str]]:
    return list(
        csv.DictReader(io.StringIO((tmp_path / "report" / "table.csv").read_text(encoding="utf-8")))
    )


# Figures --------------------------------------------------------------------------------------


def test_a_cell_has_mean_sample_standard_deviation_and_count(tmp_path: Path) -> None:
    accuracies = [0.5, 0.6, 0.76]
    (cell,) = report_of(tmp_path, *(trial(i, a) for i, a in enumerate(accuracies))).results
    assert cell.mean == pytest.approx(0.62)
    assert cell.std == pytest.approx(statistics.stdev(accuracies))
    assert (cell.n, cell.failed, cell.data_seeds) == (3, 0, 2)
    assert table(tmp_path)[2] == [
        "sst2",
        "1%",
        "linear",
        "50.1",
        "62.0 ± 13.1 (3)",
    ]  # the population's deviation would be 10.7


def test_one_trial_has_no_standard_deviation(tmp_path: Path) -> None:
    (cell,) = report_of(tmp_path, trial()).results
    assert cell.std is None
    assert table(tmp_path)[2][-1] == "50.0 (1)"


def test_the_best_mean_of_each_row_is_bold_and_so_are_equal_ones(tmp_path: Path) -> None:
    report_of(
        tmp_path,
        trial(0, 0.7),
        trial(0, 0.8, method="eda"),
        trial(0, 0.8001, method="gpt3mix"),
        trial(0, 0.2, level="2%"),
        trial(0, 0.1, level="2%", method="eda"),
    )
    assert table(tmp_path)[2][4:] == ["70.0 (1)", "**80.0 (1)**", "**80.0 (1)**"]
    assert table(tmp_path)[3][4:] == ["**20.0 (1)**", "-", "10.0 (1)"]


def test_a_single_cell_is_not_bold(tmp_path: Path) -> None:
    report_of(tmp_path, trial())
    assert "**" not in page(tmp_path)


def test_a_missing_cell_is_a_dash(tmp_path: Path) -> None:
    report_of(tmp_path, trial(), trial(0, level="2%", method="eda"))
    assert [line[4:] for line in table(tmp_path)] == [
        ["none", "eda"],
        ["---:", "---:"],
        ["50.0 (1)", "-"],
        ["-", "50.0 (1)"],
    ]


def test_failed_trials_are_noted_and_left_out_of_the_mean(tmp_path: Path) -> None:
    result = report_of(
        tmp_path,
        trial(0, 0.6),
        trial(1, None),
        trial(0, None, method="eda"),
        trial(1, None, method="eda"),
    )
    assert [(cell.n, cell.failed) for cell in result.results] == [(1, 1), (0, 2)]
    assert table(tmp_path)[2][4:] == ["60.0 (1)", "failed (2)"]
    assert "- sst2 1% none + linear: 1 trials failed and are left out of the mean" in page(tmp_path)
    assert "- sst2 1% eda + linear: 2 trials failed and are left out of the mean" in page(tmp_path)


def test_the_majority_fraction_has_a_column(tmp_path: Path) -> None:
    report_of(tmp_path, trial(0, 0.9, majority=0.625))
    assert table(tmp_path)[0][3] == "majority"
    assert table(tmp_path)[2][3] == "62.5"


def test_trials_with_different_settings_are_split_and_never_averaged(tmp_path: Path) -> None:
    result = report_of(tmp_path, trial(0, 0.5), trial(1, 0.7, settings="bbbbbbbbbbbbbbbb"))
    assert [(cell.mean, cell.n) for cell in result.results] == [(0.5, 1), (0.7, 1)]
    assert table(tmp_path)[0][4:] == [r"none \[settings aaaaaa\]", r"none \[settings bbbbbb\]"]
    assert sum("split by" in remark for remark in result.remarks) == 2


def test_variants_have_rows_of_their_own(tmp_path: Path) -> None:
    report_of(
        tmp_path,
        *(
            trial(i, 0.1 * i, variant={"augment.k": i, "augment.selection": "uniform"})
            for i in (1, 2)
        ),
    )
    assert [line[:3] for line in table(tmp_path)[2:]] == [
        ["sst2", "augment.k=1, augment.selection=uniform", "1%"],
        ["sst2", "augment.k=2, augment.selection=uniform", "1%"],
    ]


# Remarks --------------------------------------------------------------------------------------


def test_trials_that_predict_one_class_are_reported(tmp_path: Path) -> None:
    result = report_of(
        tmp_path, trial(0), trial(1, predicted_classes=1), trial(3, predicted_classes=1)
    )
    assert result.remarks == [
        "2 trials predict one class only, such as none + linear, data seed 1, trial 1"
    ]


def test_different_subsamples_of_one_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="started from different subsamples"):
        report_of(tmp_path, trial(0), trial(2, method="eda", train_sha="another"))
    assert not (tmp_path / "report").exists()


def test_different_seeds_and_levels_may_have_different_subsamples(tmp_path: Path) -> None:
    assert (
        report_of(tmp_path, trial(0), trial(1), trial(0, level="2%", train_sha="another")).remarks
        == []
    )


def test_unequal_numbers_of_synthetic_rows_are_reported(tmp_path: Path) -> None:
    equal = trial(0, method="eda", n_synthetic=70), trial(0, method="gpt3mix", n_synthetic=70)
    assert report_of(tmp_path, *equal).remarks == []
    result = report_of(tmp_path, equal[0], trial(0, method="gpt3mix", n_synthetic=700))
    assert result.remarks == [
        "sst2 1% eda + linear: 70 synthetic rows on data seed 0, 630 short of 700"
    ]


def expected(path: Path, trials: int, method: str = "none", level: str = "1%") -> ExpectedTrials:
    return ExpectedTrials(path, trials, "sst2", level, method, "linear", {})


def test_missing_trials_of_a_config_are_reported(tmp_path: Path) -> None:
    files = [
        expected(tmp_path / "trials" / f"{name}.jsonl", 2, name) for name in ("gpt3mix", "eda")
    ]
    write_records(files[1].path, [trial(0, method="eda")])
    result = report(inputs(tmp_path, expected=files), tmp_path / "report")
    assert table(tmp_path)[0][4:] == ["gpt3mix", "eda"]  # the config's order
    assert table(tmp_path)[2][4:] == ["- (0/2)", "50.0 (1/2)"]
    assert result.remarks == [
        "sst2 1% gpt3mix + linear: 0 of 2 trials exist",
        "sst2 1% eda + linear: 1 of 2 trials exist",
    ]


def test_with_a_config_other_files_of_the_folder_are_ignored(tmp_path: Path) -> None:
    file = expected(tmp_path / "trials" / "none.jsonl", 1)
    write_records(file.path, [trial(0)])
    write_records(tmp_path / "trials" / "old.jsonl", [trial(0, 0.9, method="old")])
    assert [
        cell.method for cell in report(inputs(expected=[file]), tmp_path / "report").results
    ] == ["none"]


# Sources --------------------------------------------------------------------------------------


def test_nothing_to_report_on_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trials found") as caught:
        report(inputs(tmp_path), tmp_path / "report")
    assert "gpt3mix train" in caught.value.hint
    assert not (tmp_path / "report").exists()


def test_folders_are_searched_and_histories_skipped(tmp_path: Path) -> None:
    for level in ("a", "b"):
        write_records(tmp_path / level / "trials" / "none.linear.jsonl", [trial(0, level=level)])
        append(
            tmp_path / level / "trials" / "none.linear.history.jsonl", '{"trial": 0, "epoch": 1}\n'
        )
    assert [cell.level for cell in report(inputs(tmp_path), tmp_path / "report").results] == [
        "a",
        "b",
    ]


def test_a_file_in_two_sources_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "none.linear.jsonl"
    write_records(path, [trial(0)])
    (cell,) = report(inputs(tmp_path, path), tmp_path / "report").results
    assert cell.n == 1


def test_a_torn_last_line_is_reported_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "none.linear.jsonl"
    write_records(path, [trial(0)])
    append(path, to_json_line(trial(1))[:30])
    warnings: list[str] = []
    (cell,) = report(
        inputs(path), tmp_path / "report", callbacks=Callbacks(warn=warnings.append)
    ).results
    assert cell.n == 1
    assert len(warnings) == 1
    assert f"{path}, line 2" in warnings[0]
    assert "torn" in warnings[0]


def test_a_broken_line_elsewhere_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "none.linear.jsonl"
    append(path, '{"task": 1\n' + to_json_line(trial(1)))
    with pytest.raises(UserError, match=re.escape(f"{path}, line 1")):
        report(inputs(path), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_rows_that_lack_the_newer_fields_are_accepted(tmp_path: Path) -> None:
    old = {
        "task": "t",
        "level": "1%",
        "method": "m",
        "classifier": "c",
        "data_seed": 0,
        "trial": 0,
        "seed": 1,
        "n_train": 1,
        "n_synthetic": 0,
    }
    report_of(tmp_path, Trial(**old, n_test=10, accuracy=0.25))
    assert table(tmp_path)[2] == ["t", "1%", "c", "", "25.0 (1)"]


# Hostile names --------------------------------------------------------------------------------

HOSTILE = "a|b `c` <script>alert(1)</script> *d* [e](http://f) \\| g\nh"


def harmless(text: str) -> bool:
    """Return whether all punctuation that means something to Markdown has its backslash."""
    return not re.search(r"(?<!\\)(?:\\\\)*[|`<>*\[\]]", text)


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    report_of(
        tmp_path,
        trial(
            task=HOSTILE,
            classifier=HOSTILE,
            level=HOSTILE,
            variant={HOSTILE: HOSTILE},
            predicted_classes=1,
        ),
    )
    lines = page(tmp_path).splitlines()
    row = next(line for line in lines if line.startswith("| a"))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 7
    assert harmless(row.replace("| ", " ").removesuffix(" |"))
    assert harmless(next(line for line in lines if line.startswith("- ")).removeprefix("- "))


def test_markdown_entities_strikes_and_formulas_are_escaped() -> None:
    assert escape("&lt;b&gt; ~~a~~ $x$") == r"\&lt;b\&gt; \~\~a\~\~ \$x\$"


def test_methods_are_escaped_in_the_headings(tmp_path: Path) -> None:
    report_of(tmp_path, trial(method="a|b <script>"))
    heading = next(line for line in page(tmp_path).splitlines() if line.startswith("| task"))
    assert "<script>" not in heading.replace("\\<", "")
    assert len(table(tmp_path)[0]) == len(table(tmp_path)[2])


def test_a_method_of_two_lines_stays_on_one(tmp_path: Path) -> None:
    report_of(tmp_path, trial(method="a\nb"))
    assert len(table(tmp_path)[0]) == len(table(tmp_path)[2]) == 5


def test_the_csv_reads_back(tmp_path: Path) -> None:
    result = report_of(
        tmp_path,
        trial(0, 0.5, task=HOSTILE, method='"x",\ny'),
        trial(1, 0.6004, task=HOSTILE, method='"x",\ny'),
        trial(0, None),
    )
    rows = table_csv(tmp_path)
    assert (rows[0]["task"], rows[0]["method"], rows[0]["n"]) == (HOSTILE, '"x",\ny', "2")
    assert float(rows[0]["mean"]) == pytest.approx(0.5502)
    assert float(rows[0]["std"]) == pytest.approx(result.results[0].std, rel=1e-5)
    assert (rows[1]["n"], rows[1]["failed"], rows[1]["mean"], rows[1]["std"]) == ("0", "1", "", "")


@pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
def test_a_name_that_looks_like_a_formula_is_quoted_in_the_csv(tmp_path: Path, sign: str) -> None:
    report_of(tmp_path, trial(task=f"{sign}cmd()", mcc=-0.25))
    (row,) = table_csv(tmp_path)
    assert row["task"] == f"'{sign}cmd()"
    assert float(row["mcc"]) == -0.25  # a figure is no name


# The page -------------------------------------------------------------------------------------


def test_the_page_is_the_golden_one(tmp_path: Path) -> None:
    folder = tmp_path / "cell" / "trials"
    files = []
    for level, base in (("0.1%", 0.5), ("1%", 0.7)):
        for place, (method, gain, synthetic) in enumerate(
            (
                ("none", 0.0, 0),
                ("gpt3mix", 0.08, 700),
                ("eda", 0.03, 70),
                ("backtranslate", 0.0, 70),
            )
        ):
            path = folder / f"{level}-{method}.jsonl"
            rows = [
                trial(
                    i,
                    base + gain + 0.01 * i * (place + 1),
                    method=method,
                    level=level,
                    n_synthetic=synthetic,
                )
                for i in range(3)
            ]
            if method == "eda":
                rows[2] = trial(2, None, method=method, level=level, n_synthetic=synthetic)
            if (level, method) == ("0.1%", "none"):
                rows[1] = trial(1, 0.500824, level=level, predicted_classes=1)
            files.append(expected(path, 4 if method == "gpt3mix" else 3, method, level))
            if method != "backtranslate":
                write_records(path, rows)
    report(inputs(name="sst2_first <draft>", expected=files), tmp_path / "report")
    if REGENERATE:
        GOLDEN.write_text(page(tmp_path), encoding="utf-8")
    assert page(tmp_path) == GOLDEN.read_text(encoding="utf-8")


def test_a_copied_run_counts_once_and_another_result_is_an_error(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.5), ("b", 0.5), ("c", 0.6)):
        write_records(
            tmp_path / name / "trials" / "none.linear.jsonl", [trial(0, accuracy), trial(1, 0.7)]
        )
    warnings: list[str] = []
    result = report(
        inputs(tmp_path / "a", tmp_path / "b"),
        tmp_path / "r",
        callbacks=Callbacks(warn=warnings.append),
    )
    assert result.results[0].n == 2
    assert warnings == ["2 trials are in two files; each counts once"]
    with pytest.raises(UserError, match="is in another file too, with another accuracy"):
        report(inputs(tmp_path / "a", tmp_path / "c"), tmp_path / "r")


def test_scores_on_different_test_sets_are_split(tmp_path: Path) -> None:
    result = report_of(tmp_path, trial(0, 0.5, test_sha="1" * 16), trial(1, 0.7, test_sha="2" * 16))
    assert [cell.n for cell in result.results] == [1, 1]


def test_only_a_last_line_can_be_torn(tmp_path: Path) -> None:
    whole = to_json_line(trial(0))
    (tmp_path / "middle.jsonl").write_text(whole + "{broken\n" + whole.rstrip())
    with pytest.raises(UserError, match="line 2"):
        report(inputs(tmp_path / "middle.jsonl"), tmp_path / "r")


def test_a_folder_of_trials_and_a_published_file_are_found(tmp_path: Path) -> None:
    write_records(tmp_path / "run" / "trials" / "none.linear.jsonl", [trial(0)])
    write_records(tmp_path / "published" / "trials.jsonl", [trial(0)])
    for folder in ("run/trials", "run", "published"):
        assert report(inputs(tmp_path / folder), tmp_path / "r").results[0].n == 1


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_name_and_no_value_is_lost_on_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    from rich.console import Console

    methods = ["none", "gpt3mix", "eda", "backtranslate"]
    rows = [trial(accuracy=0.5 + i / 10, method=name) for i, name in enumerate(methods)]
    write_records(tmp_path / "trials.jsonl", rows)
    table = report(inputs(tmp_path / "trials.jsonl"), tmp_path).tables[0]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(table, width))
    text = console.export_text()
    assert all(
        word in text for word in [*methods, "50.0", "60.0", "70.0", "80.0", "linear", "level"]
    )


def test_folds_are_one_result_and_changed_test_rows_are_not(tmp_path: Path) -> None:
    """With `task.data.folds` each data seed has test rows, and so settings, of its own."""
    rows = []
    for method, gain in (("none", 0.0), ("eda", 0.05)):
        rows += [
            trial(
                seed, 0.7 + gain + seed / 100, data_seed=seed, train_sha=f"train {seed}",
                test_sha=f"fold {seed % 4}", settings=f"{method} {seed % 4}", n_test=50,
                method=method,
            )
            for seed in range(6)
        ]  # fmt: skip
    folds = report_on(tmp_path / "a", rows)
    assert [(row.method, row.n, row.data_seeds, row.split_by) for row in folds.results] == [
        ("none", 6, 6, None), ("eda", 6, 6, None),
    ]  # fmt: skip
    (only,) = folds.comparisons.itertuples()
    assert (only.n_pairs, only.diff) == (6, pytest.approx(0.05))
    assert "sst2: cross-validation over 4 folds: each data seed has test rows of its own" in (
        folds.remarks
    )
    low, high = folds.results[0].ci
    assert 0.04 < (high - low) / 2 < 0.08  # 200 rows in four folds, not 50
    assert folds.results[0].tested == 200
    assert "Test rows: 200." in (tmp_path / "a" / "report" / "report.md").read_text("utf-8")
    # 0.05 of 200 rows are ten, enough to be no chance of the rows; of 50 they would be too few
    (verdict,) = folds.verdicts
    assert (verdict.test_rows, verdict.few_rows_change) == (200, False)
    changed = [
        row.model_copy(update={"test_sha": "new"}) if row.method == "eda" else row for row in rows
    ]
    split = report_on(tmp_path / "b", changed).results
    assert len(split) > 2
