"""The experiment-wide `preset: paper`: what the paper and its reference code do in every stage."""

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
        for key, value in values.items():
            if key in own and own[key] != value:
                raise ValueError(
                    f"preset paper has {section}.{key}: {_to_yaml(value)} (sections 3 and 4.1), "
                    f"not {own[key]}; remove one of the two"
                )
        result[section] = {**own, **values}
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
