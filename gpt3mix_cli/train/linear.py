"""Tf-idf and logistic regression on soft labels: a row counts for each class with the weight of its probability.

Deterministic and without epochs, so the training seed changes nothing: trials differ by their data only.
"""

from collections.abc import Sequence
from typing import Any

from ..records import Augmented, Example
from ..settings import Linear
from . import Fit

FORMAT = 1  # raised when the same settings would give other numbers


class LinearClassifier:
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: Linear, classes: Sequence[str]) -> None:
        """Keep the settings."""
        self._settings, self._classes = settings, list(classes)
        self.about = {**settings.model_dump(exclude={"name", "trials"}), "format": FORMAT}

    def fit(self, train: Sequence[Augmented], validation: Sequence[Example], seed: int) -> Fit:
        """Fit the vocabulary and the weights on the training rows."""
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        probs = np.array([[row.probs[name] for name in self._classes] for row in train])
        rows, labels = np.nonzero(probs)
        # One-letter words and signs count too: `!` and `?` carry sentiment.
        words = r"\w+|[^\w\s]"
        self._vectorizer = TfidfVectorizer(ngram_range=(1, self._settings.ngrams), sublinear_tf=True, token_pattern=words)
        features = self._vectorizer.fit_transform([row.text for row in train])
        self._model = LogisticRegression(C=self._settings.C, max_iter=1000)
        self._model.fit(features[rows], labels, sample_weight=probs[rows, labels])
        right = self.predict_proba([row.text for row in validation]).argmax(1) == [self._classes.index(row.label) for row in validation]
        return Fit(valid_accuracy=float(right.mean()))

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); a class that no row had gets 0."""
        import numpy as np

        probabilities = np.zeros((len(texts), len(self._classes)))
        probabilities[:, self._model.classes_] = self._model.predict_proba(self._vectorizer.transform(texts))
        return probabilities

    def probe(self) -> None:
        """Load the library."""
        import sklearn  # noqa: F401 - an ImportError would be the finding
