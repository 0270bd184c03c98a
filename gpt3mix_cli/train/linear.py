"""Tf-idf and logistic regression on soft labels: each row counts for each class by its probability.

A saved model is two files: weights (safetensors) and vocabulary (JSON). Reading them runs no code.
The training seed has no effect, and there are no epochs: trials differ by their data only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import Augmented, Example
from ..settings import LinearSettings
from . import metrics
from .protocol import Classifier, EpochCallback, FitResult, cached_classifier, ignore_epoch
from .targets import target_rows

WEIGHTS_FILE, VOCABULARY_FILE = "model.safetensors", "vocabulary.json"
CACHE_VERSION = 1  # raised when the same settings would give other numbers
# Single characters and punctuation count too: `!` and `?` carry sentiment.
WORD_PATTERN = r"\w+|[^\w\s]"
LOGISTIC_WEIGHTS = ("coef", "intercept", "classes")  # attributes of a fitted model, without `_`


class LinearClassifier(Classifier):
    """The classifier; see `train.Classifier`."""

    summary = "tf-idf and logistic regression"

    def __init__(self, settings: LinearSettings, classes: Sequence[str]) -> None:
        self._settings, self._classes = settings, list(classes)
        self.about = {**settings.model_dump(exclude={"name", "trials"}), "format": CACHE_VERSION}

    def __reduce__(self) -> tuple[Any, ...]:
        # The settings alone: another process fits its own weights.
        return cached_classifier, (self._settings, tuple(self._classes))

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Fit the vocabulary and the weights on the training rows."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        probs = np.array(target_rows(train, self._classes))
        rows, columns = np.nonzero(probs)
        self._vectorizer = self._new_vectorizer()
        features = self._vectorizer.fit_transform([row.text for row in train])
        self._model = LogisticRegression(C=self._settings.C, max_iter=1000)
        self._model.fit(features[rows], columns, sample_weight=probs[rows, columns])
        probabilities = self.predict_proba([row.text for row in validation])
        return FitResult(metrics.accuracy(probabilities, validation, self._classes))

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); 0 for a class that no row had."""
        features = self._vectorizer.transform(texts)
        return all_class_probabilities(self._model, features, len(self._classes))

    def probe(self) -> None:
        """Import the library."""
        import sklearn  # noqa: F401 - an ImportError is what `check` looks for

    def save(self, folder: Path) -> None:
        """Write weights and vocabulary."""
        save_logistic(folder / WEIGHTS_FILE, self._model, idf=self._vectorizer.idf_)
        terms = self._vectorizer.get_feature_names_out().tolist()
        (folder / VOCABULARY_FILE).write_text(json.dumps(terms, ensure_ascii=False), "utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self._model, weights = load_logistic(folder / WEIGHTS_FILE)
        terms = json.loads((folder / VOCABULARY_FILE).read_text("utf-8"))
        self._vectorizer = self._new_vectorizer(terms)
        self._vectorizer.idf_ = weights["idf"]
        self.predict_proba(["a text"])  # fails if the files contradict each other

    def _new_vectorizer(self, vocabulary: list[str] | None = None) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            ngram_range=(1, self._settings.ngrams),
            sublinear_tf=True,
            token_pattern=WORD_PATTERN,
            vocabulary=vocabulary,
        )


# The logistic regression, also SetFit's head -----------------------------------------------------


def save_logistic(path: Path, model: Any, **extra: Any) -> None:
    """Write the weights of a fitted LogisticRegression, and further arrays by name."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {**extra, **{name: getattr(model, f"{name}_") for name in LOGISTIC_WEIGHTS}}
    # The library writes the memory as it is; that of several classes' `coef` is column by column.
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_logistic(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the LogisticRegression that `save_logistic` wrote, and all arrays of the file."""
    from safetensors.numpy import load_file
    from sklearn.linear_model import LogisticRegression

    weights, model = load_file(path), LogisticRegression()
    vars(model).update({f"{name}_": weights[name] for name in LOGISTIC_WEIGHTS})
    return model, weights


def all_class_probabilities(model: Any, features: Any, count: int) -> Any:
    """Return the class probabilities, (rows, count); 0 for a class that no training row had."""
    import numpy as np

    probabilities = np.zeros((features.shape[0], count))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities
