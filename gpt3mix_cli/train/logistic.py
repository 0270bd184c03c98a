"""A logistic regression as a safetensors file, and its probabilities of all classes."""

from pathlib import Path
from typing import Any

LOGISTIC_WEIGHTS = ("coef", "intercept", "classes")


def save_logistic(path: Path, model: Any, **extra: Any) -> None:
    """Write the weights of a fitted LogisticRegression, and further arrays by name."""
    from safetensors.numpy import save_file

    save_file({**extra, **{name: getattr(model, f"{name}_") for name in LOGISTIC_WEIGHTS}}, path)


def load_logistic(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the LogisticRegression that `save_logistic` wrote, and all arrays of the file."""
    from safetensors.numpy import load_file
    from sklearn.linear_model import LogisticRegression

    weights, model = load_file(path), LogisticRegression()
    for name in LOGISTIC_WEIGHTS:
        setattr(model, f"{name}_", weights[name])
    return model, weights


def all_class_probabilities(model: Any, features: Any, count: int) -> Any:
    """Return the class probabilities, (rows, count); 0 for a class that no training row had."""
    import numpy as np

    probabilities = np.zeros((features.shape[0], count))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities
