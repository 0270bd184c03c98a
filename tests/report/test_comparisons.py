"""Comparisons, pooled tests, averages, gains and layouts over hand-written trials."""

import json
from pathlib import Path
from typing import Any

import pytest
from rows import inputs, report_on, seeds, trial

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import Report, report

pytestmark = pytest.mark.usefixtures("without_plots")


def saved(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))


# Comparisons ----------------------------------------------------------------------------------


def test_the_data_seed_is_the_unit_and_its_trials_are_averaged_first(tmp_path: Path) -> None:
    """Ten trials on five subsamples are five pairs, so that p cannot be below 0.0625."""
    rows = [trial(n, 0.5 + n / 1000, data_seed=n % 5, train_sha=f"{n % 5}") for n in range(10)]
    rows += [
        trial(n, 0.6 + n / 1000, data_seed=n % 5, train_sha=f"{n % 5}", method="gpt3mix")
        for n in range(10)
    ]
    (only,) = report_on(tmp_path, rows).comparisons.itertuples()
    assert (only.a, only.b, only.n_pairs) == ("gpt3mix", "none", 5)
    assert only.diff == pytest.approx(0.1)
    assert only.p == only.p_wilcoxon == only.smallest_p == only.p_corrected == 0.0625
    assert only.stars == ""
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert (
        "so few data seeds cannot reach p < 0.05 in 1 comparison (6 can)".replace("<", "\\<")
        in page
    )
    assert "| too few seeds | 0.0625 |" in page
    assert "*" not in page.split("## Comparisons")[1].split("| --- |")[2]


def test_stars_need_six_pairs_and_use_the_corrected_p(tmp_path: Path) -> None:
    low, high = [0.50, 0.51, 0.52, 0.53, 0.54, 0.55], [0.60, 0.63, 0.61, 0.66, 0.62, 0.69]
    (only,) = report_on(tmp_path, seeds(low) + seeds(high, method="eda")).comparisons.itertuples()
    assert (only.p, only.stars) == (0.03125, "*")
    more = report_on(
        tmp_path,
        seeds(low)
        + seeds(high, method="eda")
        + seeds(low, level="2%")
        + seeds(high, method="eda", level="2%"),
    ).comparisons.itertuples()
    assert [(item.p_corrected, item.stars) for item in more] == [(0.0625, ""), (0.0625, "")]


def test_only_seeds_that_both_have_are_paired(tmp_path: Path) -> None:
    rows = [*seeds([0.5, 0.6, 0.7]), *seeds([0.6, 0.7], method="eda")]
    (only,) = report_on(tmp_path, rows).comparisons.itertuples()
    assert (only.n_pairs, only.diff) == (2, pytest.approx(0.1))


def test_every_method_is_compared_with_every_other_and_no_augmentation_is_always_b(
    tmp_path: Path,
) -> None:
    rows = [
        row
        for method in ("none", "eda", "gpt3mix", "backtranslate")
        for row in seeds([0.5, 0.6], method=method)
    ]
    pairs = {(item.a, item.b) for item in report_on(tmp_path, rows).comparisons.itertuples()}
    assert pairs == {
        ("gpt3mix", "none"),
        ("gpt3mix", "eda"),
        ("gpt3mix", "backtranslate"),
        ("eda", "none"),
        ("backtranslate", "none"),
        ("backtranslate", "eda"),
    }


def test_data_seeds_with_other_rows_are_refused(tmp_path: Path) -> None:
    other = seeds([0.6, 0.7, 0.8], method="eda")
    other[2] = other[2].model_copy(update={"train_sha": "another"})
    with pytest.raises(
        UserError,
        match=r"sst2 1%, data seed 2: none \+ linear and eda \+ linear started from different ",
    ):
        report_on(tmp_path, [*seeds([0.5, 0.6, 0.1]), *other])


def test_scores_on_other_test_rows_are_not_compared(tmp_path: Path) -> None:
    rows = [*seeds([0.5, 0.6], test_sha="a"), *seeds([0.6, 0.7], method="eda", test_sha="b")]
    assert report_on(tmp_path, rows).comparisons.empty


def test_report_json_has_the_shape_of_the_design(tmp_path: Path) -> None:
    rows = [
        *seeds([0.5, 0.6, 0.7], variant={"augment.k": 2}),
        *seeds([0.6, 0.7, 0.9], method="eda", variant={"augment.k": 2}),
    ]
    report_on(tmp_path, rows)
    first, second = saved(tmp_path)["cells"]
    assert {"task", "level", "method", "classifier", "variant", "n", "mean", "std", "ci"} <= set(
        first
    )
    assert (first["variant"], first["n"], first["mean"]) == ({"augment.k": 2}, 3, 0.6)
    assert first["ci"][0] <= first["mean"] <= first["ci"][1]
    (only,) = saved(tmp_path)["comparisons"]
    assert {"a", "b", "task", "level", "classifier", "n_pairs", "diff", "p", "p_corrected"} <= set(
        only
    )
    assert (only["a"], only["b"], only["n_pairs"]) == ("eda", "none", 3)
    assert only["diff"] == pytest.approx(second["mean"] - first["mean"])


# Over tasks and levels ------------------------------------------------------------------------


def test_pooling_flips_all_levels_of_a_data_seed_together(tmp_path: Path) -> None:
    """Levels of a data seed share rows: three seeds on two levels are three units, not six."""
    rows = [
        row
        for level in ("1%", "2%")
        for row in [
            *seeds([0.5, 0.5, 0.5], level=level),
            *seeds([0.6, 0.7, 0.8], method="eda", level=level),
        ]
    ]
    (only,) = report_on(tmp_path, rows).pooled.itertuples()
    assert (only.units, only.rows, only.tasks, only.p, only.smallest_p) == (3, 2, 1, 0.25, 0.25)
    assert only.diff == pytest.approx(0.2)


def test_pooling_takes_tasks_as_independent_and_counts_wins_ties_and_losses(tmp_path: Path) -> None:
    gains = {"cr": [0.1, 0.1, 0.1], "sst2": [0.0001, 0.0, 0.0], "subj": [-0.1, -0.1, -0.1]}
    rows = []
    for task, gain in gains.items():
        rows += [
            *seeds([0.5] * 3, task=task),
            *seeds([0.5 + value for value in gain], task=task, method="gpt3mix"),
        ]
    (only,) = report_on(tmp_path, rows).pooled.itertuples()
    assert (only.wins, only.ties, only.losses) == (1, 1, 1)  # 50.003 is shown as 50.0
    assert (only.units, only.tasks, only.rows) == (9, 3, 3)
    assert only.smallest_p == 2.0**-8
    assert only.p == pytest.approx(1, abs=0.2)


def test_a_pooled_difference_has_the_lowest_and_highest_of_its_tasks(tmp_path: Path) -> None:
    """A consistent half-point gain is significant; a larger one that reverses on a task is not."""
    rows = []
    for task, gain in (("cr", 0.10), ("sst2", 0.09), ("subj", -0.13)):
        base = [0.5 + seed / 100 for seed in range(5)]
        rows += [
            *seeds(base, task=task),
            *seeds([value + 0.005 for value in base], task=task, method="eda"),
        ]
        rows += seeds([value + gain for value in base], task=task, method="gpt3mix")
    pooled = {(item.a, item.b): item for item in report_on(tmp_path, rows).pooled.itertuples()}
    small, large = pooled["eda", "none"], pooled["gpt3mix", "none"]
    assert (small.p or 1) < 0.01 < 0.3 < (large.p or 0)
    assert (large.diff, large.min_diff, large.max_diff) == (
        pytest.approx(0.02),
        pytest.approx(-0.13),
        pytest.approx(0.10),
    )
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "| -13.0 to +10.0 | 2/0/1 | 3 | 15 |" in page
    assert "not whether they would on others" in page


def test_two_runs_of_one_data_seed_are_two_subsamples(tmp_path: Path) -> None:
    """Pairs have the same rows, however many trials each method has of them, in any order."""
    sub = {name: {"data_seed": 0, "train_sha": name} for name in "ab"}
    rows = [trial(0, 0.5, **sub["a"]), trial(1, 0.5, **sub["a"]), trial(2, 0.9, **sub["b"])]
    rows += [
        trial(3, 1.0, method="eda", **sub["b"]),
        trial(4, 1.0, method="eda", **sub["b"]),
        trial(5, 0.6, method="eda", **sub["a"]),
    ]
    result = report_on(tmp_path, rows)
    (only,) = result.comparisons.itertuples()
    assert (only.n_pairs, only.diff) == (2, pytest.approx(0.1))
    assert [item.data_seeds for item in result.results] == [2, 2]


def test_averages_are_over_tasks_and_a_missing_task_is_noted(tmp_path: Path) -> None:
    rows = [
        *seeds([0.5, 0.7], task="cr"),
        *seeds([0.8], task="sst2"),
        *seeds([0.9], task="cr", method="eda"),
    ]
    averages = report_on(tmp_path, rows).averages
    assert [
        (item.column, item.tasks, item.all_tasks, item.mean) for item in averages.itertuples()
    ] == [
        ("none", 2, 2, pytest.approx(0.7)),
        ("eda", 1, 2, 0.9),
    ]
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert (
        "| average | 1% | linear | 50.1 | 70.0 | 90.0 (1/2 tasks) |" in page
    )  # and not in bold, being over another task


# Costs, uneven classes ------------------------------------------------------------------------


def test_gains_are_paired_and_divided_by_the_cost_of_a_set(tmp_path: Path) -> None:
    rows = [*seeds([0.5, 0.6, 0.9]), *seeds([0.6, 0.7], method="gpt3mix", tokens=20_000, usd=0.5)]
    gpt3mix = next(item for item in report_on(tmp_path, rows).results if item.method == "gpt3mix")
    assert gpt3mix.gain == pytest.approx(0.1)  # over the seeds that both have
    assert gpt3mix.gain_per_usd == pytest.approx(0.2)
    assert gpt3mix.gain_per_1k_tokens == pytest.approx(0.005)
    assert "| +10.0 | 20,000 | 0.5 | +20.0 | +0.500 |" in (
        tmp_path / "report" / "report.md"
    ).read_text("utf-8")


def test_uneven_classes_add_macro_f1_and_mcc(tmp_path: Path) -> None:
    even, uneven = (
        seeds([0.5, 0.6]),
        seeds([0.69, 0.69], task="cola", majority=0.689, mcc=0.0, macro_f1=0.408),
    )
    report_on(tmp_path, [*even, *uneven])
    section = (
        (tmp_path / "report" / "report.md")
        .read_text("utf-8")
        .split("## Uneven classes")[1]
        .split("\n## ")[0]
    )
    assert "| cola | 1% | linear | 68.9 | 40.8, MCC 0.000 |" in section
    assert "sst2" not in section


def test_uneven_depends_on_the_number_of_classes(tmp_path: Path) -> None:
    six = [[int(i == j) for j in range(6)] for i in range(6)]
    (trec,) = report_on(tmp_path, seeds([0.3], majority=0.276, confusion=six)).results
    assert (trec.classes, trec.uneven) == (6, True)
    (sst2,) = report_on(tmp_path, seeds([0.3], majority=0.5008, confusion=[[1, 0], [0, 1]])).results
    assert not sst2.uneven


# Sweeps and layouts ---------------------------------------------------------------------------


def swept(k: int, gain: float) -> list[Trial]:
    variant = {"augment.k": k}
    return [
        *seeds([0.5, 0.6, 0.7], variant=variant),
        *seeds([0.5 + gain, 0.6 + gain, 0.7 + gain], variant=variant, method="gpt3mix"),
    ]


def test_an_ablation_has_a_column_per_variant_and_unchanged_methods_once(
    tmp_path: Path,
) -> None:
    result = report_on(tmp_path, [*swept(1, 0.1), *swept(2, 0.2), *swept(4, 0.15)])
    table = next(table for table in result.tables if table.name == "ablation-gpt3mix")
    assert table.title == "gpt3mix by augment.k"
    assert [heading[-1] for heading in table.headings] == [
        "task",
        "level",
        "classifier",
        "majority",
        "none",
        "1",
        "2",
        "4",
    ]
    assert [entry.text for entry in table.rows[0][4:]] == [
        "60.0 ± 10.0 (3)",
        "70.0 ± 10.0 (3)",
        "80.0 ± 10.0 (3)",
        "75.0 ± 10.0 (3)",
    ]
    assert [entry.best for entry in table.rows[0][4:]] == [False, False, True, False]


def ablation(result: Report) -> tuple[list[str], list[list[str]]]:
    table = next(table for table in result.tables if table.name == "ablation-gpt3mix")
    return [heading[-1] for heading in table.headings][4:], [
        [entry.text for entry in row[4:]] for row in table.rows
    ]


def test_variants_with_equal_headings_are_numbered(tmp_path: Path) -> None:
    rows = []
    for value, mean in (("none", 0.6), ("x" * 60, 0.7), ("x" * 61, 0.8)):
        rows += [
            *seeds([0.5, 0.5], variant={"key": value}),
            *seeds([mean, mean], method="gpt3mix", variant={"key": value}),
        ]
    names, (line,) = ablation(report_on(tmp_path, rows))
    assert names == ["none", "none (2)", "x" * 47 + "…", "x" * 47 + "… (2)"]
    assert [text[:4] for text in line] == ["50.0", "60.0", "70.0", "80.0"]


def test_variants_that_are_equal_on_one_level_only_are_kept(tmp_path: Path) -> None:
    """Variants whose trials all predict one class are equal on that level only."""
    rows = [
        row
        for k in (1, 2)
        for row in seeds([0.5, 0.5], method="gpt3mix", level="0.1%", variant={"augment.k": k})
    ]
    rows += [
        row
        for k in (1, 2)
        for row in seeds([0.6 + k / 10] * 2, method="gpt3mix", level="1%", variant={"augment.k": k})
    ]
    names, lines = ablation(report_on(tmp_path, rows))
    assert names == ["1", "2"]
    assert [[text[:4] for text in line] for line in lines] == [["50.0", "50.0"], ["70.0", "80.0"]]


def test_variants_are_compared_with_the_first_and_unchanged_methods_once(tmp_path: Path) -> None:
    result = report_on(tmp_path, [*swept(1, 0.1), *swept(2, 0.2), *swept(4, 0.15)])
    assert [(item.a, item.b, item.variant) for item in result.comparisons.itertuples()] == [
        ("gpt3mix", "none", "augment.k=1"),
        ("gpt3mix", "none", "augment.k=2"),
        ("gpt3mix", "none", "augment.k=4"),
        ("gpt3mix (augment.k=2)", "gpt3mix (augment.k=1)", ""),
        ("gpt3mix (augment.k=4)", "gpt3mix (augment.k=1)", ""),
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "headings"),
    [
        (None, None, ["task", "level", "classifier", "majority", "none", "gpt3mix"]),
        (
            "task,level",
            "classifier,method",
            ["task", "level", "majority", "linear none", "linear gpt3mix"],
        ),
        ("method", "level", ["method", "task", "classifier", "majority", "1%"]),
        (None, "level", ["task", "classifier", "method", "majority", "1%"]),
        ("level", None, ["level", "task", "classifier", "majority", "none", "gpt3mix"]),
    ],
)
def test_rows_and_columns_are_the_users_choice(
    tmp_path: Path, rows: str | None, columns: str | None, headings: list[str]
) -> None:
    result = report_on(
        tmp_path,
        [*seeds([0.5, 0.6]), *seeds([0.6, 0.7], method="gpt3mix")],
        rows=rows,
        columns=columns,
    )
    assert [
        " ".join(part for part in heading if part) for heading in result.tables[0].headings
    ] == headings


def test_a_swept_key_is_a_key_of_its_own(tmp_path: Path) -> None:
    result = report_on(
        tmp_path, [*swept(1, 0.1), *swept(2, 0.2)], rows="augment.k", columns="method"
    )
    assert [entry.text for row in result.tables[0].rows for entry in row[:2]] == [
        "1",
        "sst2",
        "2",
        "sst2",
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "word"),
    [("taks", None, "did you mean 'task'"), ("task", "task", "named twice")],
)
def test_a_wrong_key_is_named(tmp_path: Path, rows: str, columns: str | None, word: str) -> None:
    with pytest.raises(UserError, match=word):
        report_on(tmp_path, seeds([0.5]), rows=rows, columns=columns)


# Settings and versions ------------------------------------------------------------------------


def test_versions_are_split_and_named(tmp_path: Path) -> None:
    rows = [*seeds([0.5, 0.6], version="0.1.0"), *seeds([0.7, 0.8], version="0.2.0")]
    result = report_on(tmp_path, rows)
    assert [(item.split_by, item.mean) for item in result.results] == [
        ("version 0.1.0", 0.55),
        ("version 0.2.0", 0.75),
    ]
    assert any("version 0.1.0" in remark and str(tmp_path) in remark for remark in result.remarks)


def test_versions_that_begin_alike_are_two_columns(tmp_path: Path) -> None:
    result = report_on(
        tmp_path, [*seeds([0.5, 0.6], version="0.10.0a1"), *seeds([0.7, 0.8], version="0.10.0a2")]
    )
    assert [heading[-1] for heading in result.tables[0].headings][-2:] == [
        "none [version 0.10.0a1]",
        "none [version 0.10.0a2]",
    ]


def test_settings_that_differ_are_read_from_the_manifests(tmp_path: Path) -> None:
    from gpt3mix_cli.records import Manifest, manifest_path

    for name, rate, settings in (("a", 3e-5, "a" * 16), ("b", 1e-4, "b" * 16)):
        path = tmp_path / name / "trials" / "none.linear.jsonl"
        write_records(path, seeds([0.5, 0.6], settings=settings))
        manifest = Manifest(
            stage="train",
            output=path.name,
            sha256="",
            complete=True,
            settings={"classifier": {"lr": rate}},
            inputs={},
            seed=1,
            counts={},
        )
        manifest_path(path).write_text(manifest.model_dump_json())
    result = report(inputs(tmp_path / "a", tmp_path / "b"), tmp_path / "r")
    assert (
        "sst2 1% none + linear: the settings differ in classifier.lr: 3e-05, 0.0001"
        in result.remarks
    )


# Failures -------------------------------------------------------------------------------------


def test_failed_trials_are_listed_with_their_reasons(tmp_path: Path) -> None:
    result = report_on(tmp_path, [trial(0), trial(1, None, error="OutOfMemoryError: 12 GiB")])
    assert [(item.data_seed, item.trial, item.error) for item in result.failures.itertuples()] == [
        (1, 1, "OutOfMemoryError: 12 GiB")
    ]
    assert (
        "OutOfMemoryError: 12 GiB"
        in (tmp_path / "report" / "report.md").read_text("utf-8").split("## Failed trials")[1]
    )
    assert saved(tmp_path)["failures"][0]["error"] == "OutOfMemoryError: 12 GiB"


def test_a_trial_that_failed_and_succeeded_in_another_file_counts_as_succeeded(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "a" / "trials" / "none.linear.jsonl", [trial(0, None), trial(1, 0.5)])
    write_records(tmp_path / "b" / "trials" / "none.linear.jsonl", [trial(0, 0.6)])
    (only,) = report(inputs(tmp_path / "a", tmp_path / "b"), tmp_path / "r").results
    assert (only.n, only.failed) == (2, 0)
