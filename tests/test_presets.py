"""`preset: quick`: defaults for minutes on two cores, which other values replace."""

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
