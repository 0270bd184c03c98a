"""`synthetic_weight: auto`: the weight of the synthetic rows that validation accuracy prefers.

All trials of a file run with each weight. One weight is chosen for all of them, by their mean
validation accuracy; test rows play no part. A weight of 0 is a training without synthetic rows, so
synthetic rows that do harm are left out. Each weight has a trials file of its own, so that a killed
run continues where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from ..errors import StoppedShort
from ..existing_outputs import locked_unless_up_to_date
from ..layout import history_path, weight_path
from ..records import StageOptions, StageResult, Trial, read_records
from ..stopping import is_stop_requested
from .loop import TrialsFile, train
from .trials import Epoch, TrialExecutor, TrialJob, TrialRunner, run_serially

WEIGHTS = (0.0, 0.1, 0.3, 1.0)


def train_with_best_weight(
    runner: TrialRunner,
    trials: Sequence[TrialJob],
    output: Path,
    base: Path,
    options: StageOptions = StageOptions(),
    executor: TrialExecutor = run_serially,
) -> StageResult:
    """Run the trials with every weight, and write those of the best weight.

    Args:
        runner: runs one trial; its `weight` is the chosen one afterwards.
        trials: the trials to run.
        output: the trials file.
        base: a file next to which those of each weight are; `output`, unless that is stdout.
        options: the command line, `force` and callbacks.
        executor: where the trials run.

    Raises:
        StoppedShort: if trials failed with every weight; those of the last one are written.
    """
    file = TrialsFile(output, runner, trials, options.command)
    file.settings["weights"] = list(WEIGHTS)
    hashes = runner.data.hashes
    with locked_unless_up_to_date(output, file.settings, hashes, options) as result:
        if result:
            runner.weight = result.manifest.counts.get("synthetic_weight")
            return result
        if not options.force:
            file.load_finished_trials(options.callbacks)
        file.protect_earlier_trials(options)
        errors: dict[float, StoppedShort] = {}
        for weight in WEIGHTS:
            root = runner.tensorboard_root and runner.tensorboard_root / f"weight-{weight:g}"
            candidate = replace(runner, weight=weight, tensorboard_root=root)
            try:
                train(candidate, trials, weight_path(base, weight), options, executor)
            except StoppedShort as error:
                errors[weight] = error
        if errors and is_stop_requested():
            raise next(iter(errors.values()))  # a choice among some of the weights is none
        rows = {weight: _rows_of(base, weight) for weight in WEIGHTS}
        means = mean_valid_accuracies({w: of for w, of in rows.items() if w not in errors})
        best = min(means, key=lambda weight: (-means[weight], weight), default=WEIGHTS[-1])
        file.rows = rows[best]
        history = history_path(weight_path(base, best))
        file.epochs = list(read_records(history, Epoch)) if history.exists() else []
        if not means:
            file.save(complete=False)
            raise errors[best]
        runner.weight = best
        counts = {"synthetic_weight": best, "valid_accuracy": means}
        return StageResult(output, file.save(complete=True, **counts))


def _rows_of(base: Path, weight: float) -> list[Trial]:
    path = weight_path(base, weight)
    return list(read_records(path, Trial)) if path.exists() else []


def mean_valid_accuracies(candidates: Mapping[float, Sequence[Trial]]) -> dict[float, float]:
    """Return the mean validation accuracy of the trials with each weight.

    Args:
        candidates: weight -> its trials, the same ones with each weight.

    Raises:
        StoppedShort: if a trial has no validation accuracy.
    """
    means = {}
    for weight, rows in candidates.items():
        values = [row.valid_accuracy for row in rows if row.valid_accuracy is not None]
        if len(values) < len(rows) or not values:
            raise StoppedShort(
                "synthetic_weight auto: a trial has no validation accuracy to choose by",
                "set a weight, such as synthetic_weight: 1",
            )
        means[weight] = round(fmean(values), 9)
    return means
