"""The classifier that prompts: which examples it shows, what it asks, what it makes of the answers, what that costs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from endpoint_lm import engine, truth
from endpoint_server import Server, serving

from gpt3mix_cli.cli_options import trainings_of
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.lm import LM, Completion, JournaledLM, Request, Scores, open_lm
from gpt3mix_cli.method.labels import CONTENT_FREE, soft_label
from gpt3mix_cli.method.prompt import choices, prompt, to_label
from gpt3mix_cli.records import Augmented, Example, Trial, read_records
from gpt3mix_cli.settings import LocalLMSettings, PromptSettings, Task, generator
from gpt3mix_cli.train import open_prompt_classifier
from gpt3mix_cli.train.prompt import PromptClassifier, in_turn
from gpt3mix_cli.train.targets import one_hot

CLASSES = ["pos", "neg"]
ROWS = [
    one_hot(Example(id=f"r{i}", text=f"a film of number {i}", label=CLASSES[i % 3 == 0]), CLASSES)
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
    shown = in_turn(ROWS, generator(7, "prompt examples"))[:3]
    for row, text in zip(found, TEXTS, strict=True):
        asked = f"{prompt(task, shown)} {text.replace(chr(10), ' ')} (Sentiment:"
        probs, _ = soft_label(CLASSES, lm.score([asked], [" Positive", " Negative"])[0].logprobs)
        assert row.tolist() == pytest.approx(list(probs.values()), abs=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_examples_take_the_classes_in_turn_and_are_those_of_the_seed(task: Task, lm: LM) -> None:
    """Also where a class has fewer rows; every order of two classes comes last in turn (64 seeds: once in 1e18 not)."""
    drawn = in_turn(ROWS, generator(3, "x"))
    assert sorted(row.id for row in drawn) == sorted(row.id for row in ROWS)
    assert all({drawn[i].label, drawn[i + 1].label} == set(CLASSES) for i in (0, 2, 4, 6))
    assert {row.label for row in drawn[8:]} == {"pos"}
    assert {in_turn(ROWS, generator(seed, "x"))[1].label for seed in range(64)} == set(CLASSES)
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
    room = lm.info.count_tokens(to_label(task, ROWS[:5], TEXTS[1])) + 8
    watched = Watched(lm, room)
    classifier = prompting(task, watched)
    classifier.fit(ROWS, [], 7)
    classifier.predict_proba(TEXTS)
    order = in_turn(ROWS, generator(7, "prompt examples"))
    limit = room - max(map(lm.info.count_tokens, choices(task)))
    numbers = {}
    for asked in watched.asked:
        text = next(text for text in TEXTS if text.split()[-1] in asked.splitlines()[-1])
        numbers[text] = len(lines(asked))
        assert asked == to_label(task, order[len(order) - numbers[text] :], text)
        assert lm.info.count_tokens(asked) <= limit
        assert (
            lm.info.count_tokens(to_label(task, order[len(order) - numbers[text] - 1 :], text))
            > limit - 4
        )
    assert 4 <= numbers[TEXTS[1]] <= 6
    assert numbers[TEXTS[2]] < numbers[TEXTS[1]]


def test_a_text_longer_than_the_context_is_cut_and_told(task: Task, lm: LM) -> None:
    watched = Watched(lm, 200)
    classifier = prompting(task, watched, examples=2)
    classifier.fit(ROWS, [], 0)
    classifier.predict_proba(["Dull.", " ".join(["very long"] * 300)])
    assert classifier.notes[:2] == [
        "1 of 2 texts do not fit the LM's context and are cut",
        "1 of 2 prompts hold fewer than 2 examples, for want of rows or of room in the context",
    ]
    assert all(lm.info.count_tokens(asked) <= 200 for asked in watched.asked)
    assert watched.asked[-1].startswith(prompt(task, ()) + " very long very long very long")


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
    shown = in_turn(ROWS, generator(0, "prompt examples"))[:2]
    usual = [
        scores.logprobs
        for scores in lm.score(
            [to_label(task, shown, text) for text in CONTENT_FREE], choices(task)
        )
    ]
    for row, text in zip(found, TEXTS, strict=True):
        probs, _ = soft_label(
            CLASSES,
            lm.score([to_label(task, shown, text)], choices(task))[0].logprobs,
            without_content=usual,
        )
        assert row.tolist() == pytest.approx(list(probs.values()), abs=1e-4)
    assert len(watched.asked) == len(TEXTS) + len(CONTENT_FREE)  # once for all texts
    assert classifier.tokens == sum(map(lm.info.count_tokens, watched.asked))


def test_a_random_lm_that_does_not_follow_the_prompt_is_told_of(task: Task, tiny_lm: Path) -> None:
    classifier = prompting(
        task, open_lm(LocalLMSettings(kind="local", model=str(tiny_lm))), examples=2
    )
    classifier.fit(ROWS, [], 0)
    classifier.predict_proba(TEXTS)
    assert "so its labels mean little" in classifier.notes[0]


# In an experiment ----------------------------------------------------------------------------------------------------

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
    """An experiment, and what it tells."""
    for name, number in (("train", 12), ("test", 5)):
        rows = (
            f'{{"id": "{name}{i}", "text": "a film of number {i}", "label": "{CLASSES[i % 2]}"}}\n'
            for i in range(number)
        )
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    (tmp_path / "icl.yaml").write_text(EXPERIMENT.replace("TINY", str(tiny_lm)))
    told: list[str] = []
    return Grid(
        load_experiments(tmp_path / "icl.yaml"),
        tmp_path / "results",
        callbacks=Callbacks(warn=told.append),
    ), told


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_experiment_prompts_with_real_rows_only_and_says_what_it_costs(
    grid: tuple[Grid, list[str]], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other trials, which run in processes of their own; no synthetic set is made for it; a second run asks nothing."""
    grid_, _ = grid
    grid_.jobs = jobs
    spot = next(grid_.spots())
    # No row of a random LM passes the gate; what its rows would be trained on is not the matter here.
    steps = [
        (stage, rest)
        for stage, rest in grid_._steps(spot)
        if "gpt3mix" not in rest and getattr(rest[-1], "method", "") != "gpt3mix"
    ]
    items = list(grid_._all(steps, "cells"))
    assert all(not isinstance(item, Exception) for item in items)
    folder = spot.folder / "trials"
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
    again = Grid(grid_.experiments, grid_.out, force=True, jobs=1)
    monkeypatch.setattr(
        "gpt3mix_cli.lm.local.engine.Local.score", lambda *_: pytest.fail("asked again")
    )
    assert [
        item.manifest.counts["ok"]
        for item in again.trainings(
            [arguments[0] for stage, arguments in steps if stage == "train"]
        )
    ] == [2, 2, 2]
    assert list(read_records(folder / "none.prompt.jsonl", Trial))[1].accuracy == rows[1].accuracy


def test_other_methods_are_left_out_and_that_is_said(grid: tuple[Grid, list[str]]) -> None:
    grid_, told = grid
    spots = list(grid_.spots())
    wanted = [
        (one.method, one.classifier.name)
        for one in trainings_of(grid_, Path("c"), spots, None, None, None, (), None, None)
    ]
    assert wanted == [
        ("none", "linear"),
        ("none", "prompt"),
        ("gpt3mix", "linear"),
        ("aeda", "linear"),
    ]
    assert len(told) == 1
    assert "classifier 'prompt' asks the LM below real rows alone" in told[0]
    with pytest.raises(UserError, match="nothing to do: classifier 'prompt'"):
        trainings_of(grid_, Path("c"), spots, ["aeda"], ["prompt"], None, (), None, None)
    only = spots[0].experiment.model_copy(
        update={"classifiers": spots[0].experiment.classifiers[1:]}
    )
    assert [stage for stage, _ in grid_._steps(replace(spots[0], experiment=only))] == [
        "subsample",
        "train",
    ]  # no rows that nobody reads


def test_no_model_can_be_saved(grid: tuple[Grid, list[str]], tmp_path: Path) -> None:
    grid_, _ = grid
    spots = list(grid_.spots())
    grid_.subsample(spots[0])
    (training,) = trainings_of(
        grid_, Path("c"), spots, ["none"], ["prompt"], None, (), None, tmp_path / "model"
    )
    with pytest.raises(UserError, match="no model to save"):
        grid_.train(training)
    assert not list(spots[0].folder.glob("trials/*"))


def test_rows_of_a_class_that_has_none_left_do_not_end_the_turns() -> None:
    rows = [
        Augmented(id=str(i), text=str(i), label="a", probs={"a": 1.0, "b": 0.0}) for i in range(3)
    ]
    assert sorted(row.id for row in in_turn(rows, generator(0, "x"))) == ["0", "1", "2"]


# At an endpoint ------------------------------------------------------------------------------------------------------

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
    shown = in_turn(ROWS, generator(7, "prompt examples"))[:2]
    for row, text in zip(probabilities, TEXTS * 4, strict=True):
        probs, _ = soft_label(CLASSES, truth(server.model, to_label(task, shown, text), LABELS))
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
    """The trial is not failed: it is run when there is more to spend, and pays for nothing twice."""
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
    (spot,) = one.spots()
    assert [row.status for row in read_records(spot.trials("none", "prompt"), Trial)] == [
        "ok",
        "ok",
    ]
    assert server.twice() == []
