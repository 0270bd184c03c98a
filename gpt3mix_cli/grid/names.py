"""Checks of the method and classifier names that a user gives."""

from ..errors import UserError
from ..settings import FILE_STEM_PATTERN, BaselineSettings, Experiment

REAL_ROWS_ONLY = "uses real examples only, so it runs with method 'none'; other methods are skipped"


def baseline_of(experiment: Experiment, method: str) -> BaselineSettings:
    """Return the settings of a baseline by its name.

    Raises:
        UserError: if the config has no such baseline.
    """
    for baseline in experiment.baselines:
        if baseline.name == method:
            return baseline
    raise unknown_baseline(experiment, method)


def unknown_baseline(experiment: Experiment, method: str) -> UserError:
    """Return the error for a baseline that the config does not have."""
    names = ", ".join(baseline.name for baseline in experiment.baselines) or "none"
    return UserError(
        f"the config has no baseline '{method}'",
        f"its baselines: {names}; add one under `baselines:`",
    )


def valid_method_name(name: str) -> str:
    """Return a name that a method outside the config may have: it becomes part of a file name.

    Raises:
        UserError: if it cannot.
    """
    if not FILE_STEM_PATTERN.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(
            f"'{name}' cannot be the name of a method",
            "give another one with --method, of letters, digits, '_', '+' and '-'",
        )
    return name


def known_method(experiment: Experiment, method: str) -> str:
    """Return the method's name if the config has it.

    Raises:
        UserError: if it does not.
    """
    if method not in experiment.methods:
        raise UserError(
            f"the config has no method '{method}'", f"its methods: {', '.join(experiment.methods)}"
        )
    return method


def known_classifier(experiment: Experiment, name: str) -> str:
    """Return the classifier's name if the config has it.

    Raises:
        UserError: if it does not.
    """
    names = [classifier.name for classifier in experiment.classifiers]
    if name not in names:
        raise UserError(
            f"the config has no classifier '{name}'", f"its classifiers: {', '.join(names)}"
        )
    return name
