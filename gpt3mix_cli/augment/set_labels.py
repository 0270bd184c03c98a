"""The labels of a whole synthetic set: the LM's, the parents' or both, matched to a class mix.

The texts are the same with each kind of label, and so are the answers in the journal.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..method.labels import match_prior, normalise, soft_labels
from ..records import Augmented, Example
from ..settings import AugmentSettings


def class_mix(labels: Sequence[str], classes: Iterable[str]) -> dict[str, float]:
    """Return the fraction of each class among labels, of which there is at least one."""
    counts = Counter(labels)
    return {name: counts[name] / len(labels) for name in classes}


class SetLabels:
    """Remembers the logits of each row, so that all rows can be labelled again at the end.

    Args:
        settings: of `augment`.
        classes: of the task, in order.
    """

    def __init__(self, settings: AugmentSettings, classes: Sequence[str]) -> None:
        self._kind, self._classes = settings.labels, list(classes)
        self._logits: dict[str, Sequence[float]] = {}  # by the id of the row
        self._parents: dict[str, Mapping[str, float]] = {}

    def add(
        self, row_id: str, logits: Sequence[float], parents: Sequence[Example]
    ) -> dict[str, float]:
        """Return the probability of each class for a row, before any prior is matched.

        Args:
            row_id: of the row.
            logits: of equation (1), one for each class.
            parents: the examples in the prompt, maybe none if their labels are not used.
        """
        self._logits[row_id] = logits
        if parents:
            self._parents[row_id] = class_mix([parent.label for parent in parents], self._classes)
        return self._distribution(row_id, [0.0] * len(logits))

    def match(
        self, rows: Sequence[Augmented], prior: Mapping[str, float]
    ) -> tuple[list[Augmented], dict[str, Any]]:
        """Return the rows with labels whose mean is a class mix, and what was done.

        The LM's labels are matched; with `labels: product` they are multiplied by the parents'
        afterwards.

        Args:
            rows: that `add` was called for, at least one.
            prior: the class mix.
        """
        logits = [self._logits[row.id] for row in rows]
        offsets = match_prior(logits, [prior[name] for name in self._classes])
        unmatched = soft_labels(logits, [0.0] * len(offsets))
        means = map(fmean, zip(*unmatched, strict=True))
        relabelled = [self._relabel(row, offsets) for row in rows]
        return relabelled, {
            "label_prior": _rounded(prior),
            "label_offsets": _rounded(dict(zip(self._classes, offsets, strict=True))),
            "unmatched_mean": _rounded(dict(zip(self._classes, means, strict=True))),
        }

    def _relabel(self, row: Augmented, offsets: Sequence[float]) -> Augmented:
        probs = self._distribution(row.id, offsets)
        return row.model_copy(update={"probs": probs, "label": most_probable(probs)})

    def _distribution(self, row_id: str, offsets: Sequence[float]) -> dict[str, float]:
        parents = self._parents.get(row_id, {})
        if self._kind == "parents":
            return {name: round(value, 6) for name, value in parents.items()}
        logits = [a + b for a, b in zip(self._logits[row_id], offsets, strict=True)]
        if self._kind == "product":
            shares = [parents[name] for name in self._classes]
            logits = [
                logit + (math.log(share) if share else -math.inf)
                for logit, share in zip(logits, shares, strict=True)
            ]
            if max(logits) == -math.inf:  # the LM excludes every class of the parents
                return {name: round(value, 6) for name, value in parents.items()}
        return normalise(self._classes, logits)


def most_probable(probs: Mapping[str, float]) -> str:
    """Return the first of the most probable classes."""
    return max(probs, key=lambda name: probs[name])


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}
