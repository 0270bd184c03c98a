"""Which method and classifier `fit` ships, and why: by validation accuracy, never by test rows.

With `task.data.folds` every row is a test row of one data seed, and the mean accuracy over the data
seeds, the cross-validated accuracy, takes the place of validation accuracy.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import StoppedShort, UserError, shorten
from ..layout import Cell, TrialKey, variant_name
from ..records import Trial, read_records
from ..settings import Experiment, TrainableSettings
from .runner import Grid


@dataclass(frozen=True)
class Candidate:
    """A method and a classifier that were tried.

    Attributes:
        experiment: the variant of the experiment.
        method: name of the method.
        classifier: settings of the classifier.
        score: mean accuracy of its trials on the rows that choose, as a fraction.
        scores: (data seed, trial) -> the accuracy of a trial on these rows.
        weight: of its synthetic rows, where validation chose it; None elsewhere.
    """

    experiment: Experiment
    method: str
    classifier: TrainableSettings
    score: float
    scores: Mapping[tuple[int, int], float]
    weight: float | None

    @property
    def variant(self) -> dict[str, Any]:
        """The swept settings; empty without a sweep."""
        return self.experiment.variant

    @property
    def uses_synthetic_rows(self) -> bool:
        """Whether its model is trained on synthetic rows."""
        return self.method != "none" and self.weight != 0

    def __str__(self) -> str:
        return _name(self.experiment, self.method, self.classifier)


def _name(experiment: Experiment, method: str, classifier: TrainableSettings) -> str:
    variant = f" ({variant_name(experiment.variant)})" if experiment.variant else ""
    return f"{classifier.name} with {method}{variant}"


def find_candidates(
    grid: Grid, cells: Sequence[Cell], finished: Collection[Path]
) -> list[Candidate]:
    """Return the candidates whose trials have all succeeded, best first.

    Of equal ones `none` is before other methods, and else the first of the config.

    Args:
        grid: the grid.
        cells: of one level.
        finished: trials files that are complete.

    Raises:
        StoppedShort: if there are none.
    """
    candidates = []
    for experiment, method, classifier in _combinations(grid):
        paths = _trials_paths(grid, cells, experiment, method, classifier)
        if paths and all(path in finished for path in paths):
            trials = [row for path in paths for row in read_records(path, Trial)]
            candidates.append(_candidate(experiment, method, classifier, trials))
    if not candidates:
        raise StoppedShort(
            "no method and classifier has finished its trials, so there is nothing to choose from",
            "fix the cause of the warnings above and run again",
        )
    return sorted(candidates, key=lambda item: (-item.score, item.method != "none"))


def describe_unfinished(
    grid: Grid, cells: Sequence[Cell], finished: Collection[Path], stopped: Sequence[UserError]
) -> list[str]:
    """Return each combination that is no candidate, and why, such as `svm with eda (...)`.

    Args:
        grid: the grid.
        cells: of one level.
        finished: trials files that are complete.
        stopped: why steps stopped short; those of trials begin with the path of their file.
    """
    names = []
    for experiment, method, classifier in _combinations(grid):
        paths = _trials_paths(grid, cells, experiment, method, classifier)
        missing = tuple(f"{path}: " for path in paths if path not in finished)
        if missing:
            reasons = [error.message for error in stopped if error.message.startswith(missing)]
            reason = reasons[0].split(": ", 1)[1] if reasons else "see the warnings"
            # The verdict is published with the model: folders of this machine say nothing there.
            reason = shorten(re.sub(r"(?<![\w.:/])/\S*/", "", reason), 200)
            names.append(f"{_name(experiment, method, classifier)} ({reason})")
    return names


def _combinations(grid: Grid) -> Iterator[tuple[Experiment, str, TrainableSettings]]:
    for experiment in grid.experiments:
        for method in experiment.methods:
            for classifier in experiment.classifiers:
                if not classifier.uses_lm and experiment.accepts(method, classifier):
                    yield experiment, method, classifier


def _trials_paths(
    grid: Grid,
    cells: Sequence[Cell],
    experiment: Experiment,
    method: str,
    classifier: TrainableSettings,
) -> list[Path]:
    return [
        grid.layout.trials_path(TrialKey(cell, method, classifier.name))
        for cell in cells
        if cell.task == experiment.task.name
        and cell.variant == experiment.variant
        and experiment.trials_for(classifier, cell.data_seed)
    ]


def _candidate(
    experiment: Experiment, method: str, classifier: TrainableSettings, trials: Sequence[Trial]
) -> Candidate:
    column = "accuracy" if experiment.task.folds else "valid_accuracy"
    scores = {(row.data_seed, row.trial): getattr(row, column) or 0.0 for row in trials}
    by_seed: dict[int, list[float]] = {}
    for (data_seed, _), score in scores.items():
        by_seed.setdefault(data_seed, []).append(score)
    weights = Counter(row.synthetic_weight for row in trials if row.synthetic_weight is not None)
    weight = min(weights, key=lambda value: (-weights[value], value), default=None)
    mean = fmean(map(fmean, by_seed.values()))
    return Candidate(experiment, method, classifier, round(mean, 9), scores, weight)


# The reasons ---------------------------------------------------------------------------------


def explain_choice(candidates: Sequence[Candidate], num_rows: int) -> list[str]:
    """Return why the first candidate is chosen, as sentences.

    Args:
        candidates: best first.
        num_rows: the number of rows that choose: of validation, or with folds all of them.
    """
    best, folds = candidates[0], candidates[0].experiment.task.folds
    number = f"{len(best.scores)} trial{'s' * (len(best.scores) > 1)}"
    score = f"validation accuracy {best.score:.1%} (mean of {number} on {num_rows} rows)"
    if folds:
        score = f"cross-validated accuracy {best.score:.1%} ({folds} folds, {number})"
    rank = "the only combination tried"
    if len(candidates) > 1:
        rank = f"the best of {len(candidates)} combinations"
        if equal := sum(item.score == best.score for item in candidates[1:]):
            rank += f" ({equal} {'are' if equal > 1 else 'is'} as good; real rows only come first)"
    sentences = [f"Chosen: {best}, {score}, {rank}.", _explain_method(candidates)]
    if len(candidates) > 1:
        sentences.append(
            "As a maximum over several combinations this accuracy is slightly optimistic."
        )
    kind = "row" if folds else "validation row"
    sentences.append(
        f"One {kind} is {100 / num_rows:.1f} points: differences of a few rows may be chance."
    )
    if not folds:
        sentences.append("Test rows were not used for the choice.")
    return sentences


def _explain_method(candidates: Sequence[Candidate]) -> str:
    best, name = candidates[0], candidates[0].classifier.name
    same = [
        item
        for item in candidates
        if item.classifier.name == name and item.variant == best.variant and item is not best
    ]
    if best.method != "none":
        plain = next((item for item in same if item.method == "none"), None)
        if plain is None:
            return f"{name} has no finished trials without augmentation to compare with."
        pairs = best.scores.keys() & plain.scores.keys()
        ahead = sum(best.scores[pair] > plain.scores[pair] for pair in pairs)
        equal = sum(best.scores[pair] == plain.scores[pair] for pair in pairs)
        text = (
            f"{best.method} is {_points(best.score - plain.score)} above real rows only with "
            f"{name}: ahead in {ahead} and equal in {equal} of {len(pairs)} trials."
        )
        if not best.uses_synthetic_rows:
            text += " Validation gave its synthetic rows the weight 0: they are left out."
        return text
    others = [item for item in same if item.method != "none"]
    if not others:
        return f"No augmentation method was tried with {name}."
    gap = best.score - others[0].score
    distance = f"{_points(gap)} below" if gap else "no better than"
    return (
        f"Augmentation did not help {name}: the best method, {others[0].method}, is {distance} "
        "real rows only. The model is trained on real rows only."
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"
