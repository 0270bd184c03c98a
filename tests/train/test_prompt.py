"""The classifier that prompts: which examples it shows, what it asks, what it makes of the answers,
what that costs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from endpoint_lm import engine, truth
from endpoint_server import Server, serving

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.grid import Grid, SubsampleStep, TrainStep, select_trainings, with_files
from gpt3mix_cli.grid.steps import cell_steps
from gpt3mix_cli.layout import TrialKey
from gpt3mix_cli.lm import LM, Completion, JournaledLM, Request, Scores, open_lm
from gpt3mix_cli.method.labels import CONTENT_FREE, soft_label
from gpt3mix_cli.method.prompt import label_choices, render_label_prompt, render_prompt
from gpt3mix_cli.records import Augmented, Example, StageOptions, Trial, read_records
from gpt3mix_cli.settings import LocalLMSettings, PromptSettings, Task, generator
from gpt3mix_cli.train import open_prompt_classifier
from gpt3mix_cli.train.prompt import PromptClassifier, interleave_classes
from gpt3mix_cli.train.targets import to_one_hot

CLASSES = ["pos", "neg"]
ROWS = [
    to_one_hot(
        Example(id=f"r{i}", text=f"a film of number {i}", label=CLASSES[i % 3 == 0]), CLASSES
    )
    for i in range(12)
]
TEXTS = [
    "A quiet\nlittle wonder.",
    "Dull.",
    "It is long, and it is loud, and nothing in it is worth the time.",
]


class Watched:
    """A real LM that remembers what it was asked, with another context where that is wanted."""

    def __init__(self, lm: LM, context: int | None = None) -> None:
        self._lm, self.asked, self.calls = lm, list[str](), list[int]()
        self.info = replace(lm.info, context_length=context or lm.info.context_length)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        raise AssertionError("a classifier writes nothing")

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        self.asked += prompts
        self.calls.append(len(prompts))
        return self._lm.score(prompts, choices)


@pytest.fixture(scope="module")
def lm() -> LM:
    return open_lm(LocalLMSettings(kind="local", model="bundled", batch_size=4))


def prompting(task: Task, lm: LM, **options: object) -> PromptClassifier:
    classifier = open_prompt_classifier(PromptSettings(kind="prompt", **options), task, lm)
    assert isinstance(classifier, PromptClassifier)
    return classifier


def lines(text: str) -> list[str]:
    """The examples of a prompt."""
    return text.splitlines()[2:-1]


def test_probabilities_are_equation_1_of_the_lms_own_scores_in_the_papers_prompt(
    task: Task, lm: LM
) -> None:
    classifier = prompting(task, lm, examples=3)
    assert classifier.fit(ROWS, [], 7).valid_accuracy is None
    found = classifier.predict_proba(TEXTS)
    shown = interleave_classes(ROWS, generator(7, "prompt examples"))[:3]
    for row, text in zip(found, TEXTS, strict=True):
        asked = f"{render_prompt(task, shown)} {text.replace(chr(10), ' ')} (Sentiment:"
        probs, _ = soft_label(CLASSES, lm.score([asked], [" Positive", " Negative"])[0].logprobs)
        assert row.tolist() == pytest.approx(list(probs.values()), abs=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_examples_take_the_classes_in_turn_and_are_those_of_the_seed(task: Task, lm: LM) -> None:
    """Also where a class has fewer rows; every order of two classes comes last in turn (64 seeds:
    once in 1e18 not)."""
    drawn = interleave_classes(ROWS, generator(3, "x"))
    assert sorted(row.id for row in drawn) == sorted(row.id for row in ROWS)
    assert all({drawn[i].label, drawn[i + 1].label} == set(CLASSES) for i in (0, 2, 4, 6))
    assert {row.label for row in drawn[8:]} == {"pos"}
    assert {interleave_classes(ROWS, generator(seed, "x"))[1].label for seed in range(64)} == set(
        CLASSES
    )
    asked = []
    for seed in (1, 1, 2):
        watched = Watched(lm)
        classifier = prompting(task, watched, examples=4)
        classifier.fit(ROWS, [], seed)
        classifier.predict_proba(TEXTS)
        asked.append(watched.asked)
        assert all(
            Counter(line.rpartition(": ")[2] for line in lines(text))
            == {"Positive)": 2, "Negative)": 2}
            for text in watched.asked
        )
    assert asked[0] == asked[1] != asked[2]


def test_fit_shows_as_many_as_the_context_holds_and_keeps_the_last_ones(task: Task, lm: LM) -> None:
    """One example more would not fit, and a longer text leaves room for fewer."""
    room = lm.info.count_tokens(render_label_prompt(task, ROWS[:5], TEXTS[1])) + 8
    watched = Watched(lm, room)
    classifier = prompting(task, watched)
    classifier.fit(ROWS, [], 7)
    classifier.predict_proba(TEXTS)
    order = interleave_classes(ROWS, generator(7, "prompt examples"))
    limit = room - max(map(lm.info.count_tokens, label_choices(task)))
    numbers = {}
    for asked in watched.asked:
        text = next(text for text in TEXTS if text.split()[-1] in asked.splitlines()[-1])
        numbers[text] = len(lines(asked))
        assert asked == render_label_prompt(task, order[len(order) - numbers[text] :], text)
        assert lm.info.count_tokens(asked) <= limit
        assert (
            lm.info.count_tokens(
                render_label_prompt(task, order[len(order) - numbers[text] - 1 :], text)
            )
            > limit - 4
        )
    assert 4 <= numbers[TEXTS[1]] <= 6
    assert numbers[TEXTS[2]] < numbers[TEXTS[1]]


def num_examples_of_version_1(
    task: Task, lm: LM, examples: Sequence[Example], text: str, context: int
) -> int:
    """The rule of the first version: parts are counted alone, then the whole prompt."""
    count = lm.info.count_tokens
    limit = context - max(map(count, label_choices(task))) - 2
    empty = count(render_label_prompt(task, (), ""))
    left, number = limit - empty - count(text), 0
    for row in reversed(examples):
        left -= count(render_label_prompt(task, (row,), "")) - empty
        if left < 0:
            break
        number += 1
    while number and count(render_label_prompt(task, examples[-number:], text)) > limit:
        number -= 1
    return number


def test_a_nearly_full_context_holds_as_many_examples_as_in_version_1(task: Task, lm: LM) -> None:
    """With every remainder of the context, also where one example more would just fit."""
    count, one_more_fits = lm.info.count_tokens, 0
    order = interleave_classes(ROWS, generator(7, "prompt examples"))
    start = count(render_label_prompt(task, ROWS[:3], TEXTS[1]))
    for context in range(start, start + 40):
        classifier = prompting(task, Watched(lm, context))
        classifier.fit(ROWS, [], 7)
        limit = context - max(map(count, label_choices(task))) - 2
        for text, tokens in zip(TEXTS, classifier.count_prompt_tokens(TEXTS), strict=True):
            number = num_examples_of_version_1(task, lm, order, text, context)
            shown, longer = order[len(order) - number :], order[len(order) - number - 1 :]
            assert tokens == count(render_label_prompt(task, shown, text))
            one_more_fits += count(render_label_prompt(task, longer, text)) <= limit
    assert one_more_fits > 0


def test_a_text_longer_than_the_context_is_cut_and_reported(task: Task, lm: LM) -> None:
    watched = Watched(lm, 200)
    classifier = prompting(task, watched, examples=2)
    classifier.fit(ROWS, [], 0)
    classifier.predict_proba(["Dull.", " ".join(["very long"] * 300)])
    assert classifier.notes[:2] == [
        "1 of 2 texts do not fit the LM's context and are cut",
        "1 of 2 prompts hold fewer than 2 examples: there are too few rows, or the LM's context is "
        "too short",
    ]
    assert all(lm.info.count_tokens(asked) <= 200 for asked in watched.asked)
    assert watched.asked[-1].startswith(render_prompt(task, ()) + " very long very long very long")


def test_tokens_are_those_of_the_prompts_and_begin_anew_with_each_fit(task: Task, lm: LM) -> None:
    watched = Watched(lm)
    classifier = prompting(task, watched, examples=2)
    for _ in range(2):
        classifier.fit(ROWS, [], 0)
        watched.asked.clear()
        classifier.predict_proba(TEXTS * 3)
        assert classifier.tokens == sum(map(lm.info.count_tokens, watched.asked)) > 100
    assert (
        watched.calls == [4, 4, 1] * 2
    )  # block by block, so that the journal keeps what was answered


def test_calibration_divides_by_what_the_labels_have_without_content(task: Task, lm: LM) -> None:
    watched = Watched(lm)
    classifier = prompting(task, watched, examples=2, contextual_calibration=True)
    classifier.fit(ROWS, [], 0)
    found = classifier.predict_proba(TEXTS)
    shown = interleave_classes(ROWS, generator(0, "prompt examples"))[:2]
    usual = [
        scores.logprobs
        for scores in lm.score(
            [render_label_prompt(task, shown, text) for text in CONTENT_FREE], label_choices(task)
        )
    ]
    for row, text in zip(found, TEXTS, strict=True):
        probs, _ = soft_label(
            CLASSES,
            lm.score([render_label_prompt(task, shown, text)], label_choices(task))[0].logprobs,
            content_free_logprobs=usual,
        )
        assert row.tolist() == pytest.approx(list(probs.values()), abs=1e-4)
    assert len(watched.asked) == len(TEXTS) + len(CONTENT_FREE)  # once for all texts
    assert classifier.tokens == sum(map(lm.info.count_tokens, watched.asked))


def test_a_random_lm_that_does_not_follow_the_prompt_is_reported(task: Task, tiny_lm: Path) -> None:
    classifier = prompting(
        task, open_lm(LocalLMSettings(kind="local", model=str(tiny_lm))), examples=2
    )
    classifier.fit(ROWS, [], 0)
    classifier.predict_proba(TEXTS)
    assert "so its labels mean little" in classifier.notes[0]


# In an experiment ---------------------------------------------------------------------------------

EXPERIMENT = """\
name: icl
task:
  data: {kind: files, train: train.jsonl, validation: train.jsonl, test: test.jsonl}
  labels: {pos: positive, neg: negative}
  text_type: movie review
subsample: {levels: [2/class], seeds: 1}
lm: {kind: local, model: TINY, batch_size: 4}
augment: {ratio: 1, synthetic_sets: per-trial}
baselines: [{kind: aeda}]
classifiers: [{kind: linear}, {kind: prompt, examples: 2}]
trials: 2
"""


@pytest.fixture
def grid(tmp_path: Path, tiny_lm: Path) -> tuple[Grid, list[str]]:
    """An experiment, and its warnings."""
    for name, number in (("train", 12), ("test", 5)):
        rows = (
            f'{{"id": "{name}{i}", "text": "a film of number {i}", "label": "{CLASSES[i % 2]}"}}\n'
            for i in range(number)
        )
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    (tmp_path / "icl.yaml").write_text(EXPERIMENT.replace("TINY", str(tiny_lm)))
    warnings: list[str] = []
    return Grid(
        load_experiments(tmp_path / "icl.yaml"),
        tmp_path / "results",
        StageOptions(callbacks=Callbacks(warn=warnings.append)),
    ), warnings


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_experiment_prompts_with_real_rows_only_and_says_what_it_costs(
    grid: tuple[Grid, list[str]], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Next to other trials, which run in processes of their own; no synthetic set is made for it; a
    second run asks nothing."""
    grid_, _ = grid
    grid_.jobs = jobs
    cell = next(grid_.cells())
    # The filter rejects all rows of a random LM, so the method gpt3mix is left out.
    steps = [
        step
        for step in cell_steps(grid_.experiment(cell), cell)
        if isinstance(step, SubsampleStep) or step.method != "gpt3mix"
    ]
    results = list(grid_.run_steps(steps, "run steps"))
    assert all(not isinstance(result, Exception) for result in results)
    folder = grid_.layout.folder(cell) / "trials"
    assert sorted(path.name for path in folder.glob("*.jsonl") if "history" not in path.name) == [
        "aeda.linear.jsonl",
        "none.linear.jsonl",
        "none.prompt.jsonl",
    ]
    rows = list(read_records(folder / "none.prompt.jsonl", Trial))
    assert [row.trial for row in rows] == [0, 1]
    for row in rows:
        assert row.tokens_per_prediction == row.tokens / 5 > 50
        assert (row.n_synthetic, row.valid_accuracy, row.n_test) == (0, None, 5)
    assert {
        row.tokens_per_prediction for row in read_records(folder / "none.linear.jsonl", Trial)
    } == {None}
    assert any("prompt: each prediction costs" in remark for remark in grid_.report().remarks)
    journal = (folder / "none.prompt.journal.sqlite").stat().st_size
    assert journal > 0
    again = Grid(grid_.experiments, grid_.out, StageOptions(force=True), jobs=1)
    monkeypatch.setattr(
        "gpt3mix_cli.lm.local.engine.LocalLM.score", lambda *_: pytest.fail("asked again")
    )
    assert [
        item.manifest.counts["ok"]
        for item in again.run_steps(
            [step for step in steps if isinstance(step, TrainStep)], "train steps"
        )
    ] == [2, 2, 2]
    assert list(read_records(folder / "none.prompt.jsonl", Trial))[1].accuracy == rows[1].accuracy


def test_other_methods_are_left_out_and_that_is_said(grid: tuple[Grid, list[str]]) -> None:
    grid_, warnings = grid
    cells = list(grid_.cells())
    steps = select_trainings(grid_, cells)
    assert [(step.method, step.classifier.name) for step in steps] == [
        ("none", "linear"),
        ("none", "prompt"),
        ("gpt3mix", "linear"),
        ("aeda", "linear"),
    ]
    assert len(warnings) == 1
    assert "classifier 'prompt' uses real examples only" in warnings[0]
    with pytest.raises(UserError, match="nothing to do: classifier 'prompt'"):
        select_trainings(grid_, cells, ["aeda"], ["prompt"])
    cell, experiment = next(grid_.cells()), grid_.experiments[0]
    prompt_only = experiment.model_copy(update={"classifiers": experiment.classifiers[1:]})
    # No synthetic rows are written that no classifier reads.
    assert list(cell_steps(prompt_only, cell)) == [
        SubsampleStep(cell),
        TrainStep(cell, "none", experiment.classifiers[1]),
    ]


def test_no_model_can_be_saved(grid: tuple[Grid, list[str]], tmp_path: Path) -> None:
    grid_, _ = grid
    cell = next(grid_.cells())
    grid_.subsample(cell)
    steps = select_trainings(grid_, [cell], ["none"], ["prompt"])
    (step,) = with_files(steps, None, None, tmp_path / "model")
    with pytest.raises(UserError, match="no model to save"):
        grid_.train(step)
    assert not list(grid_.layout.folder(cell).glob("trials/*"))


def test_rows_of_a_class_that_has_none_left_do_not_end_the_turns() -> None:
    rows = [
        Augmented(id=str(i), text=str(i), label="a", probs={"a": 1.0, "b": 0.0}) for i in range(3)
    ]
    assert sorted(row.id for row in interleave_classes(rows, generator(0, "x"))) == ["0", "1", "2"]


# At an endpoint -----------------------------------------------------------------------------------

LABELS = " Positive", " Negative"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(dialect="vllm", delay=0.02) as running:
        yield running


def test_an_endpoint_labels_side_by_side_and_tells_what_that_took(
    task: Task, server: Server, tmp_path: Path
) -> None:
    """The tokens are the server's own, and a journal gives answers, tokens and dollars again."""
    (tmp_path / "prices.yaml").write_text(
        "version: 2026-01\nmodels: {tiny: {prompt: 100, completion: 200}}\n"
    )
    found = []
    for _ in range(2):
        with (
            engine(server, prices=str(tmp_path / "prices.yaml")) as lm,
            closing(JournaledLM(lm, tmp_path / "journal.sqlite")) as journal,
        ):
            journal.describe()
            server.reset()
            classifier = prompting(task, journal, examples=2)
            classifier.fit(ROWS, [], 7)
            probabilities = classifier.predict_proba(TEXTS * 4)
            found.append(
                (probabilities.tolist(), classifier.tokens, classifier.usd, server.requests)
            )
    shown = interleave_classes(ROWS, generator(7, "prompt examples"))[:2]
    for row, text in zip(probabilities, TEXTS * 4, strict=True):
        probs, _ = soft_label(
            CLASSES, truth(server.model, render_label_prompt(task, shown, text), LABELS)
        )
        assert row.tolist() == pytest.approx(list(probs.values()), abs=1e-4)
    assert found[0][:3] == found[1][:3]
    assert found[1][3] == 0
    assert found[0][1] > 12 * 20
    assert found[0][2] == pytest.approx(found[0][1] * 100e-6, rel=0.2)


def test_many_labels_are_on_their_way_at_once(task: Task, server: Server) -> None:
    with engine(server, concurrency=8) as lm:
        classifier = prompting(task, lm, examples=1)
        classifier.fit(ROWS, [], 0)
        classifier.predict_proba([f"film number {number}" for number in range(24)])
    assert server.most_at_once > 2


def test_a_budget_that_is_used_up_keeps_what_was_answered(
    grid: tuple[Grid, list[str]], server: Server
) -> None:
    """The trial is not failed: it is run when there is more to spend, and pays for nothing
    twice."""
    config = grid[0].out.parent / "icl.yaml"
    over = [
        f"lm={{kind: openai, base_url: {server.base_url}, model: tiny, concurrency: 1}}",
        "classifiers=[{kind: prompt}]",
        "baselines=[]",
    ]
    for budget, ended in (("{requests: 12}", False), ("null", True)):
        one = Grid(load_experiments(config, [*over, f"budget={budget}"]), grid[0].out, jobs=1)
        items = list(one.run())
        one.close()
        assert any(isinstance(item, StoppedShort) for item in items) is not ended
    (cell,) = one.cells()
    path = one.layout.trials_path(TrialKey(cell, "none", "prompt"))
    assert [row.status for row in read_records(path, Trial)] == ["ok", "ok"]
    assert server.twice() == []
