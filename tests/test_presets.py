"""`preset: quick`, `preset: paper` and `paper:`, the table of the paper that a config repeats."""

from typing import Any

import pytest

from gpt3mix_cli.settings import Experiment

TASK: dict[str, Any] = {"data": {"kind": "demo"}, "labels": ["pos", "neg"]}


def quick(**keys: Any) -> Experiment:
    return Experiment.model_validate({"name": "x", "preset": "quick", "task": TASK, **keys})


def test_quick_fills_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    experiment = quick()
    assert experiment.subsample.levels == ["full"]
    assert experiment.subsample.seeds == [0]
    assert experiment.augment.ratio == 1
    assert experiment.trials == 2
    assert [item.name for item in experiment.classifiers] == ["linear", "minilm"]
    assert experiment.classifiers[1].model_dump()["patience"] == 2


def test_without_minilm_quick_has_the_linear_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [item.name for item in quick().classifiers] == ["linear"]


def test_values_of_the_config_replace_those_of_quick() -> None:
    experiment = quick(
        subsample={"levels": ["8/class"], "seeds": 4},
        augment={"ratio": 5},
        trials=7,
        classifiers=[{"kind": "transformer", "model": "some-encoder", "patience": 9}],
    )
    assert experiment.subsample.levels == ["8/class"]
    assert experiment.subsample.seeds == [0, 1, 2, 3]
    assert (experiment.augment.ratio, experiment.trials) == (5, 7)
    (classifier,) = experiment.classifiers
    values = classifier.model_dump()
    assert (values["model"], values["patience"], values["max_epochs"]) == ("some-encoder", 9, 6)


def test_with_cross_validation_each_fold_has_one_trial() -> None:
    data = {"kind": "files", "train": "a.csv", "folds": 10}
    experiment = quick(task={**TASK, "data": data})
    assert experiment.trials == 10
    assert experiment.subsample.seeds == list(range(10))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"subsample": {"seeds": 9}}, "the 9 data seeds do not test on all 10 folds"),
        ({"subsample": {"seeds": [*range(9), 10]}}, "the 10 data seeds do not test on all"),
        ({"trials": 9}, "'linear': 9 trials do not test on all 10 folds"),
    ],
)
def test_cross_validation_tests_on_all_folds(keys: dict[str, Any], message: str) -> None:
    data = {"kind": "files", "train": "a.csv", "folds": 10}
    with pytest.raises(ValueError, match=message):
        quick(task={**TASK, "data": data}, classifiers=[{"kind": "linear"}], **keys)


# The paper ---------------------------------------------------------------------------------------


def paper(**keys: Any) -> Experiment:
    lm = {"kind": "local", "model": "some/base-1b"}
    keys = {"subsample": {"levels": ["1%"]}, "lm": lm, **keys}
    return Experiment.model_validate({"name": "x", "task": TASK, **keys})


def test_the_papers_preset_rejects_nothing_that_the_paper_keeps_unless_it_is_asked_to() -> None:
    row_filter = paper(preset="paper").augment.filter
    thresholds = row_filter.max_similarity, row_filter.max_parent_overlap, row_filter.max_repetition
    assert thresholds == (None, None, None)
    chosen = paper(preset="paper", augment={"filter": {"max_similarity": 0.9}}).augment.filter
    assert (chosen.max_similarity, chosen.max_parent_overlap) == (0.9, None)
    assert paper().augment.filter.max_similarity == 0.75


def test_hard_labels_of_the_papers_preset_are_those_of_a_beam_search() -> None:
    """Temperature 0; an endpoint, which has no beam search, may sample."""
    augment = {"labels": "hard"}
    assert paper(preset="paper", augment=augment).augment.temperature == 0
    assert paper(preset="paper", augment=augment | {"temperature": 1.0}).augment.temperature == 1
    assert paper(preset="paper").augment.temperature == 1
    with pytest.raises(ValueError, match=r"preset paper has augment.temperature: 1.0"):
        paper(preset="paper", augment={"temperature": 0})


@pytest.mark.parametrize(
    ("keys", "column"),
    [
        ({"paper": {"table": 1}}, (1, "")),
        ({"paper": {"table": 2}, "augment": {"k": 4}}, (2, "k=4")),
        ({"paper": {"table": 2}, "augment": {"k": 3}}, (2, "")),
        ({"paper": {"table": 3, "column": "curie"}}, (3, "curie")),
        ({"paper": {"table": 3, "column": {"x": "ada", "some/base-1b": "curie"}}}, (3, "curie")),
        ({"paper": {"table": 5}, "augment": {"labels": "hard"}}, (5, "hard")),
        ({"paper": {"table": 5}, "augment": {"labels": "product"}}, (5, "")),
        ({"paper": {"table": 6}}, (6, "generic")),
        ({"paper": {"table": 6}, "task": {**TASK, "text_type": "movie review"}}, (6, "optimal")),
        ({}, None),
    ],
)
def test_a_config_says_which_column_of_the_paper_it_repeats(
    keys: dict[str, Any], column: tuple[int, str] | None
) -> None:
    assert paper(**keys).paper_column == column


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"table": 3}, "Table 3 needs it: which of ada, babbage, curie, davinci"),
        ({"table": 3, "column": "gpt-4"}, "Table 3 has no 'gpt-4'; its columns are ada"),
        ({"table": 1, "column": "eda"}, "Table 1 has no 'eda'; its columns are methods"),
        ({"table": 3, "column": {"x": "ada"}}, "no column for the LM 'some/base-1b'"),
    ],
)
def test_a_column_that_the_paper_lacks_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper(paper=keys)
