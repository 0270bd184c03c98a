"""Tf-idf and logistic regression on soft labels: a row counts for each class with the weight of its probability.

Saved, it is two files: weights (safetensors) and vocabulary (JSON), nothing that runs when it is read.
Deterministic and without epochs, so the training seed changes nothing: trials differ by their data only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import Augmented, Example
from ..settings import LinearSettings
from .loop import EpochCallback, FitResult, cached_classifier, ignore_epoch

WEIGHTS, VOCABULARY = "model.safetensors", "vocabulary.json"
CACHE_VERSION = 1  # raised when the same settings would give other numbers


class LinearClassifier:
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: LinearSettings, classes: Sequence[str]) -> None:
        """Keep the settings."""
        self._settings, self._classes = settings, list(classes)
        self.threads: int | None = None
        self.tokens: int | None = None
        self.usd: float | None = None
        self.notes: list[str] = []
        self.about = {**settings.model_dump(exclude={"name", "trials"}), "format": CACHE_VERSION}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as settings."""
        return cached_classifier, (self._settings, tuple(self._classes))

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Fit the vocabulary and the weights on the training rows."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        probs = np.array([[row.probs[name] for name in self._classes] for row in train])
        rows, labels = np.nonzero(probs)
        self._vectorizer = self._blank()
        features = self._vectorizer.fit_transform([row.text for row in train])
        self._model = LogisticRegression(C=self._settings.C, max_iter=1000)
        self._model.fit(features[rows], labels, sample_weight=probs[rows, labels])
        right = self.predict_proba([row.text for row in validation]).argmax(1) == [
            self._classes.index(row.label) for row in validation
        ]
        return FitResult(valid_accuracy=float(right.mean()))

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); a class that no row had gets 0."""
        import numpy as np

        probabilities = np.zeros((len(texts), len(self._classes)))
        probabilities[:, self._model.classes_] = self._model.predict_proba(
            self._vectorizer.transform(texts)
        )
        return probabilities

    def probe(self) -> None:
        """Load the library."""
        import sklearn  # noqa: F401 - an ImportError would be the finding

    def save(self, folder: Path) -> None:
        """Write weights and vocabulary."""
        from safetensors.numpy import save_file

        model, vectorizer = self._model, self._vectorizer
        weights = {
            "idf": vectorizer.idf_,
            "coef": model.coef_,
            "intercept": model.intercept_,
            "classes": model.classes_,
        }
        save_file(weights, folder / WEIGHTS)
        vocabulary = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        (folder / VOCABULARY).write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from sklearn.linear_model import LogisticRegression

        try:
            weights = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        terms = json.loads((folder / VOCABULARY).read_text("utf-8"))
        self._vectorizer = self._blank({term: place for place, term in enumerate(terms)})
        self._vectorizer.idf_ = weights["idf"]
        self._model = LogisticRegression(C=self._settings.C)
        self._model.coef_, self._model.intercept_, self._model.classes_ = (
            weights["coef"],
            weights["intercept"],
            weights["classes"],
        )

    def _blank(self, vocabulary: dict[str, int] | None = None) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # One-letter words and signs count too: `!` and `?` carry sentiment.
        words = r"\w+|[^\w\s]"
        return TfidfVectorizer(
            ngram_range=(1, self._settings.ngrams),
            sublinear_tf=True,
            token_pattern=words,
            vocabulary=vocabulary,
        )
