"""The verdict of a report: ahead, harms, nothing shown, too few data seeds; where it is shown."""

import io
import json
from pathlib import Path

import pytest
from rich.text import Text
from rows import inputs, report_on, seeds

from gpt3mix_cli.console import Display, _Stdout
from gpt3mix_cli.errors import NO_CALLBACKS
from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report.build import analyze
from gpt3mix_cli.report.comparisons import compare_results
from gpt3mix_cli.report.load_trials import load_trials
from gpt3mix_cli.report.model import Result
from gpt3mix_cli.report.verdict import Verdict, judge_methods

pytestmark = pytest.mark.usefixtures("without_plots")

BASE = [0.60, 0.62, 0.61, 0.65, 0.58, 0.63, 0.60, 0.64, 0.59, 0.61]
NOISE = [0.002, -0.003, 0.001, -0.002, 0.003, 0.0, 0.001, -0.001, 0.002, -0.003]
GAIN = [0.03 + noise for noise in NOISE]


def trials(count: int = 10, **methods: list[float]) -> list[Trial]:
    """Return trials without augmentation, and of methods with these gains, a trial a data seed."""
    rows = seeds(BASE[:count])
    for method, gains in methods.items():
        values = [base + gain for base, gain in zip(BASE[:count], gains, strict=False)]
        rows += seeds(values, method=method)
    return rows


def judge(tmp_path: Path, rows: list[Trial]) -> tuple[list[str], list[Verdict]]:
    """Return what a report says of these trials, without its files."""
    results = read(tmp_path, rows)
    return judge_methods(results, *compare_results(results))


def read(tmp_path: Path, rows: list[Trial]) -> list[Result]:
    write_records(tmp_path / "trials" / "all.jsonl", rows)
    return analyze(load_trials(inputs(tmp_path), NO_CALLBACKS)[0], [])[1]


def moved(rows: list[Trial], **fields: object) -> list[Trial]:
    return [row.model_copy(update=fields) for row in rows]


# One row --------------------------------------------------------------------------------------


def test_the_largest_gain_is_named_first_then_what_harms_then_the_rest(tmp_path: Path) -> None:
    harm = [-value for value in GAIN]
    more = [value + 0.02 for value in GAIN]
    rows = trials(eda=NOISE, mlm=harm, aeda=GAIN, gpt3mix=more)
    sentences, verdicts = judge(tmp_path, rows)
    assert sentences == [
        "linear, sst2 1%: gpt3mix is ahead of no augmentation by 5.0 points (95 % interval 4.9 to "
        "5.2, corrected p = 0.02 with 10 data seeds); aeda is ahead by 3.0 (2.9 to 3.2, corrected "
        "p = 0.02); mlm harms: -3.0 (-3.2 to -2.9, corrected p = 0.02); no difference shown: eda "
        "+0.0 (-0.2 to 0.2)."
    ]
    assert {row.method: row.word for row in verdicts} == {
        "eda": "no difference shown", "mlm": "harms", "aeda": "ahead", "gpt3mix": "ahead",
    }  # fmt: skip


def test_one_data_seed_shows_nothing_whatever_the_difference(tmp_path: Path) -> None:
    sentences, verdicts = judge(tmp_path, trials(1, gpt3mix=[0.3], eda=[-0.1]))
    assert sentences == [
        "linear, sst2 1%: one data seed shows nothing, whatever the difference: gpt3mix +30.0 "
        "points against no augmentation, eda -10.0."
    ]
    assert {row.outcome for row in verdicts} == {"one data seed"}


def test_five_data_seeds_cannot_make_sure_of_a_gain(tmp_path: Path) -> None:
    (sentence,), _ = judge(tmp_path, trials(5, gpt3mix=GAIN))
    assert sentence == (
        "linear, sst2 1%: gpt3mix seems ahead of no augmentation by 3.0 points (95 % interval 2.7 "
        "to 3.3 with 5 data seeds); too few seeds: 5 data seeds cannot reach p < 0.05 (6 can)."
    )
    (sentence,), _ = judge(tmp_path, trials(6, gpt3mix=GAIN))
    assert "gpt3mix is ahead" in sentence
    assert "cannot" not in sentence


@pytest.mark.parametrize(("test_rows", "word"), [(1_821, "ahead"), (74, "seems ahead")])
def test_a_gain_of_a_few_test_rows_is_not_sure(tmp_path: Path, test_rows: int, word: str) -> None:
    """McNemar's exact test needs six test rows that change in one direction."""
    sentences, (verdict,) = judge(tmp_path, moved(trials(gpt3mix=GAIN), n_test=test_rows))
    assert (verdict.word, verdict.test_rows) == (word, test_rows)
    expected = "; a difference of fewer than 6 of 74 test rows (8.1 points) may be a chance of "
    assert (expected in sentences[0]) is (test_rows == 74)


def test_a_correction_that_six_data_seeds_cannot_pass_is_named(tmp_path: Path) -> None:
    (sentence,), _ = judge(tmp_path, trials(6, gpt3mix=GAIN, eda=NOISE))
    assert "gpt3mix seems ahead of no augmentation by 3.0 points" in sentence
    assert sentence.endswith(
        "; too few seeds: 6 data seeds cannot reach p < 0.05 after correction for 3 comparisons "
        "(7 can)."
    )


def test_without_no_augmentation_there_is_nothing_to_compare(tmp_path: Path) -> None:
    rows = trials(3, gpt3mix=GAIN)
    for chosen, sentence in (
        (rows[3:], "linear: nothing to compare, no augmentation (the method none) has no trials."),
        (rows[:3], "linear: nothing to compare, only no augmentation has trials."),
        (
            [*rows[:3], *moved(rows[3:], test_sha="b")],
            "linear: nothing to compare, no method has the test rows and a data seed of no "
            "augmentation.",
        ),
    ):
        assert judge(tmp_path, chosen) == ([sentence], [])


def test_settings_that_split_no_augmentation_are_compared_with_each(tmp_path: Path) -> None:
    rows = trials(3, gpt3mix=GAIN)
    (sentence,), _ = judge(tmp_path, [*rows, *moved(rows[:3], settings="b" * 16)])
    for settings in ("aaaaaa", "bbbbbb"):
        assert f"gpt3mix against none [settings {settings}] seems ahead" in sentence


# Several rows ---------------------------------------------------------------------------------


def test_tasks_and_levels_are_pooled_for_each_classifier(tmp_path: Path) -> None:
    rows = []
    for task in ("cr", "subj"):
        for level in ("1%", "2%"):
            rows += moved(trials(4, gpt3mix=GAIN), task=task, level=level)
    rows += moved(trials(4, gpt3mix=[-value for value in GAIN]), classifier="encoder")
    sentences, verdicts = judge(tmp_path, rows)
    assert sentences == [
        "linear, 4 rows of 2 tasks: gpt3mix is ahead of no augmentation by 3.0 points (95 % "
        "interval 2.8 to 3.1, p = 0.0078 with 8 data seeds).",
        "encoder, sst2 1%: gpt3mix seems to harm: -3.0 points against no augmentation (95 % "
        "interval -3.2 to -2.7 with 4 data seeds); too few seeds: 4 data seeds cannot reach p < "
        "0.05 after correction for 5 comparisons (8 can).",
    ]
    assert [(row.task, row.level, row.word) for row in verdicts] == [
        ("cr", "1%", "seems ahead"), ("cr", "2%", "seems ahead"),
        ("sst2", "1%", "seems to harm"),
        ("subj", "1%", "seems ahead"), ("subj", "2%", "seems ahead"),
    ]  # fmt: skip


def test_a_method_that_is_not_everywhere_has_a_sentence_of_its_own(tmp_path: Path) -> None:
    rows = trials(6, gpt3mix=GAIN, eda=NOISE)
    rows += moved(trials(6, gpt3mix=GAIN), level="2%")
    (first, second), _ = judge(tmp_path, rows)
    assert first.startswith("linear, 2 levels of sst2: gpt3mix is ahead")
    assert second.startswith("linear, sst2 1%: no difference from no augmentation shown: eda")


def test_a_method_that_is_ahead_on_one_task_and_harms_on_another_is_named(tmp_path: Path) -> None:
    rows = moved(trials(gpt3mix=GAIN), task="cr")
    rows += moved(trials(gpt3mix=[-gain for gain in GAIN]), task="subj")
    rows += moved(trials(gpt3mix=NOISE), task="sst2")
    (sentence,), _ = judge(tmp_path, rows)
    assert sentence.startswith(
        "linear, 3 tasks: no difference from no augmentation shown: gpt3mix +0.0 points (95 % "
    )
    assert sentence.endswith(" with 30 data seeds; is ahead in 1 and harms in 1 of 3 rows).")


def test_the_pooled_interval_is_the_mean_over_rows_though_data_seeds_differ(tmp_path: Path) -> None:
    """The same gain everywhere has no width, although a unit of cr weighs more than one of subj."""
    rows = moved(trials(2, gpt3mix=[0.03] * 2), task="cr")
    rows += moved(trials(6, gpt3mix=[0.03] * 6), task="subj")
    (pooled,) = compare_results(read(tmp_path, rows))[1].itertuples()
    assert pooled.ci == (pytest.approx(0.03), pytest.approx(0.03))


def test_the_pooled_interval_draws_data_seeds_with_all_their_levels(tmp_path: Path) -> None:
    gains = [0.01, 0.02, 0.06, 0.03]
    rows = trials(4, eda=gains)
    (single,) = compare_results(read(tmp_path, rows))[0].itertuples()
    rows += moved(trials(4, eda=gains), level="2%")
    (pooled,) = compare_results(read(tmp_path, rows))[1].itertuples()
    assert pooled.ci == pytest.approx(single.ci)  # two equal levels are no more evidence than one


def test_a_sweep_names_the_best_variants_and_how_many_others_there_are(tmp_path: Path) -> None:
    rows: list[Trial] = []
    for k in range(1, 7):
        gains = [gain + k / 100 for gain in NOISE]
        rows += moved(trials(gpt3mix=gains, eda=NOISE), variant={"augment.k": k})
    (sentence,), _ = judge(tmp_path, rows)
    assert sentence.startswith(
        "linear, sst2 1%: gpt3mix (augment.k=6) is ahead of no augmentation by 6.0 points"
    )
    assert "; gpt3mix (augment.k=5) is ahead by 5.0 (" in sentence
    assert "no difference shown: eda +0.0 (" in sentence  # the sweep does not change it
    assert sentence.endswith("; 4 others: ahead.")
    assert "augment.k=4" not in sentence


# Uneven classes -------------------------------------------------------------------------------


def test_trials_of_one_class_are_named_and_not_praised_if_classes_are_uneven(
    tmp_path: Path,
) -> None:
    none, eda = seeds(BASE), seeds([0.69] * 10, method="eda")
    eda[:3] = moved(eda[:3], predicted_classes=1)
    (sentence,), _ = judge(tmp_path, none + eda)
    assert "eda is ahead of no augmentation" in sentence
    assert sentence.endswith("but predicts one class in 3 of 10 trials.")
    uneven = moved(none + eda, majority=0.69)
    (sentence,), _ = judge(tmp_path, moved(uneven, macro_f1=None))
    assert "ahead" not in sentence
    assert sentence.startswith("linear, sst2 1%: eda: +7.7 points against no augmentation (")
    assert sentence.endswith(", but predicts one class in 3 of 10 trials.")


@pytest.mark.parametrize(
    ("gain", "macro_f1", "mcc", "words"),
    [
        (0.03, 0.5, 0.2, "eda is ahead of no augmentation by 3.0 points"),
        (0.03, 0.3, 0.05, ", but changes macro-F1 by -10.0 points and MCC by -0.050."),
        (0.03, 0.5, 0.05, ", but changes macro-F1 by +10.0 points and MCC by -0.050."),
        (-0.03, 0.3, 0.05, "eda harms: -3.0 points"),
        (-0.03, 0.5, 0.2, ", but changes macro-F1 by +10.0 points and MCC by +0.100."),
    ],
)
def test_macro_f1_and_mcc_must_change_as_accuracy_does_if_classes_are_uneven(
    tmp_path: Path, gain: float, macro_f1: float, mcc: float, words: str
) -> None:
    none, eda = trials()[:10], trials(eda=[gain] * 10)[10:]
    eda = moved(eda, macro_f1=macro_f1, mcc=mcc)
    (sentence,), verdicts = judge(tmp_path, moved(none + eda, majority=0.69))
    assert words in sentence
    assert (verdicts[0].outcome == "doubtful") == words.startswith(", but")


# Where it is ----------------------------------------------------------------------------------


def test_the_verdict_is_in_every_file_and_right_below_the_title(tmp_path: Path) -> None:
    result = report_on(tmp_path, moved(trials(gpt3mix=GAIN), task="<b>"), name="a run")
    (sentence,) = result.verdict
    folder = tmp_path / "report"
    title, empty, first = (folder / "report.md").read_text("utf-8").splitlines()[:3]
    assert (title, empty) == ("# a run", "")
    assert first.replace("\\", "") == sentence
    saved = json.loads((folder / "report.json").read_text("utf-8"))["verdict"]
    assert saved["overall"] == [sentence]
    (row,) = saved["rows"]
    assert (row["task"], row["method"], row["outcome"], row["sure"]) == (
        "<b>", "gpt3mix", "ahead", True,
    )  # fmt: skip
    assert (row["diff"], row["data_seeds"]) == (pytest.approx(0.03), 10)
    page = (folder / "report.html").read_text("utf-8")
    assert '<h2>Summary</h2>\n<p class="verdict">linear, &lt;b&gt; 1%: gpt3mix is ahead' in page
    assert 'data-table="verdict"' in page
    assert "Verdict" not in (folder / "table.tex").read_text("utf-8")


@pytest.mark.parametrize("quiet", [False, True])
def test_it_is_a_result_on_stdout_in_words_or_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    result = report_on(tmp_path, trials(gpt3mix=GAIN))
    with Display(quiet, as_json=True) as display:
        display.print_report(result)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"]["overall"] == result.verdict
    assert "verdict" not in captured.err
    with Display(quiet, as_json=False) as display:
        display.print_report(result)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == f"verdict: {result.verdict[0]}"
    assert "verdict" not in captured.err
    assert captured.err.startswith("report over 20 trials: ") is not quiet


def test_in_a_terminal_its_words_are_not_broken(tmp_path: Path) -> None:
    (sentence,), _ = judge(tmp_path, trials(gpt3mix=GAIN))
    display, stream = Display(quiet=False, as_json=False), io.StringIO()
    display._out = _Stdout(file=stream, width=80, soft_wrap=True, force_terminal=True)
    display._print_verdict(sentence)
    lines = [Text.from_ansi(line).plain for line in stream.getvalue().splitlines()]
    assert 1 < len(lines) == sum(len(line) <= 80 for line in lines)
    assert " ".join(lines).split() == ["verdict:", *sentence.split()]
