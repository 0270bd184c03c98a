"""`gpt3mix fit`: the best method and classifier of an experiment, trained on all labelled rows.

1. The trials that are missing are run, at the largest level: it is nearest to all rows.
2. Validation accuracy chooses method and classifier (`choice`); test rows play no part.
3. A development model is trained on all training rows and stopped by the validation rows. They also
   fit the temperature of its probabilities.
4. The final model is trained on training and validation rows, for as many epochs as the development
   model. Synthetic rows are those of the training rows: they are made once.
5. Test rows, which no step has used, score the final model. With cross-validation there are none:
   all rows train it, and the score is the cross-validated accuracy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoppedShort, UserError, in_progress
from ..layout import Cell, TrialKey, variant_name
from ..records import Example, IncompleteOutput, Trial
from ..settings import Experiment, TrainableSettings
from ..stopping import stop_if_requested
from ..subsample import rows_per_class
from ..train import SyntheticSet, TrialData, TrialJob, TrialRunner, open_classifier, training_seed
from ..train.calibration import apply_temperature, fit_temperature
from ..train.metrics import score
from ..train.model_card import describe_model, render_card
from ..train.saved_models import check_save_folder, saved_columns, shown_trial, write_model
from ..train.targets import assign_targets
from .choice import Candidate, describe_unfinished, explain_choice, find_candidates
from .executors.processes import count_fitting_workers
from .row_reader import RowReader
from .runner import Grid
from .steps import StepResult, TrainStep, cell_steps

MAX_THREADS = 4  # of the last trainings; more hardly help with short texts
FOLDER_HINT = "choose another folder with -o"
CARD = """
## Why this model

{verdict}

| classifier | method | {score_name} |
| --- | --- | --- |
{candidates}

## Data and method

- {n_real} labelled rows of task {task} (column `{text_column}`): {rows}.
- Method `{method}`: {synthetic}.
- Settings: `{settings}`{epochs}.
- {held_out}

## Calibration

Temperature {temperature:g}, fitted on {n_validation} validation rows with a model that was not
trained on them. `gpt3mix predict` divides logits by it; other tools give probabilities without it.
Expected calibration error on {ece_rows}: {ece_before:.3f} before, {ece_after:.3f} after.

## Scores on {score_rows}

| score | value |
| --- | --- |
{scores}

Confusion (rows: true {classes}; columns: predicted): `{confusion}`
"""


@dataclass(frozen=True)
class ChosenModel:
    """What `fit` has saved.

    Attributes:
        folder: the model.
        candidates: the combinations of method and classifier, the chosen one first.
        verdict: why it is chosen, as sentences.
        about: rows, scores and calibration, as in `gpt3mix.json`; `unfinished` are combinations
            whose trials did not all succeed, with the reasons.
    """

    folder: Path
    candidates: Sequence[Candidate]
    verdict: Sequence[str]
    about: dict[str, Any]


def fit(
    grid: Grid, folder: Path, on_result: Callable[[StepResult], object] = lambda result: None
) -> ChosenModel:
    """Run what is missing, choose, train on all labelled rows, and save the model.

    Args:
        grid: the experiment.
        folder: where to write the model; an earlier model there is replaced.
        on_result: is called with the result of each stage.

    Raises:
        UserError: if the experiment has no classifier to save, or the folder holds something else.
        StoppedShort: if no combination has finished its trials.
    """
    check_save_folder(folder, FOLDER_HINT)
    _check_experiments(grid)
    cells = list(grid.cells(largest_level(grid)))
    finished, stopped = _run_trials(grid, cells, on_result)
    stop_if_requested()
    candidates = find_candidates(grid, cells, finished)
    best = candidates[0]
    seed = best.experiment.subsample.seeds[0]
    cell = grid.cell(best.experiment, "full", seed)
    runner = _development_runner(grid, best, cell)
    data = runner.data
    num_rows = len(data.validation)
    if best.experiment.task.folds:
        num_rows += len(data.real) + len(data.test)
    verdict = explain_choice(candidates, num_rows)
    unfinished = describe_unfinished(grid, cells, finished, stopped)
    if unfinished:
        verdict.append(f"Not finished: {'; '.join(unfinished)}.")
    reasons = {"verdict": verdict, "unfinished": unfinished}
    return _train_and_save(runner, candidates, reasons, folder, grid)


def largest_level(grid: Grid) -> str:
    """Return the level of the config with the most rows; `full` before one that is as large."""
    experiment = grid.experiments[0]
    splits, num_classes = grid.resources.splits(experiment), len(experiment.task.classes)
    num_rows = len(splits.train) + splits.taken_rows

    def size(level: str) -> tuple[int, bool]:
        if level == "full":
            return len(splits.train), True
        wanted = rows_per_class(level, num_rows, num_classes) * num_classes
        return min(wanted, len(splits.train)), False

    return max(experiment.subsample.levels, key=size)


def _check_experiments(grid: Grid) -> None:
    first = grid.experiments[0]
    lm_only = [item.name for item in first.classifiers if item.uses_lm]
    if len(lm_only) == len(first.classifiers):
        raise UserError(
            "fit needs a classifier whose weights can be saved",
            "add for example classifiers: [{kind: linear}]",
        )
    for name in lm_only:
        grid.callbacks.warn(f"classifier '{name}' trains no weights, so fit leaves it out")
    for other in grid.experiments[1:]:
        same_rows = (other.task.name, other.task.data, other.task.classes) == (
            first.task.name,
            first.task.data,
            first.task.classes,
        )
        if not same_rows:
            problem, choice = "the sweep changes the task's rows or classes", "task=FILE"
            if first.tasks:
                problem, choice = "the config has several tasks", f"tasks=[{first.task.name}]"
            raise UserError(
                f"{problem}, and fit makes one model",
                f"choose one with --set, such as --set {choice}",
            )


def _run_trials(
    grid: Grid, cells: Sequence[Cell], on_result: Callable[[StepResult], object]
) -> tuple[set[Path], list[UserError]]:
    steps = [
        step
        for cell in cells
        for step in cell_steps(grid.experiment(cell), cell)
        if not (isinstance(step, TrainStep) and step.classifier.uses_lm)
    ]
    finished, stopped = set(), []
    for result in grid.run_steps(steps, "fit steps"):
        on_result(result)
        if isinstance(result, UserError):
            stopped.append(result)
        else:
            finished.add(result.output)
    return finished, stopped


# Development and final model -----------------------------------------------------------------


def _development_runner(grid: Grid, best: Candidate, cell: Cell) -> TrialRunner:
    """Return the runner of a trial on all training rows, drawn and augmented where missing."""
    grid.subsample(cell)
    real, reader = grid.real_rows(cell), RowReader(grid.callbacks)
    splits = grid.resources.splits(best.experiment, cell.data_seed)
    task, sets = best.experiment.task, dict[int, SyntheticSet]()
    classes = task.classes
    # The final model is trained on a fold's test rows too, also on those that no trial uses.
    tested = splits.all_test if task.folds else splits.test
    if best.uses_synthetic_rows:
        try:
            path = grid.augment(cell, best.method, 0).output
        except IncompleteOutput as error:
            path = error.result.output  # the reader warns
        sets[0] = reader.synthetic([path], classes, real)
    settings = _use_idle_cores(best.classifier, grid.jobs)
    runner = TrialRunner(
        grid.resources.classifier(best.experiment, settings),
        TrialKey(cell, best.method, best.classifier.name),
        classes,
        TrialData(real, splits.validation, tested, sets),
        best.experiment.subsample.master_seed,
        best.classifier.targets,
    )
    runner.weight = best.weight
    return runner


def _train_and_save(
    runner: TrialRunner,
    candidates: Sequence[Candidate],
    reasons: dict[str, list[str]],
    folder: Path,
    grid: Grid,
) -> ChosenModel:
    best, classes, data = candidates[0], list(runner.classes), runner.data
    trial = runner.run(TrialJob(0), grid.callbacks).row
    if trial.status == "failed":
        raise StoppedShort(
            f"{best}: training on all rows failed: {trial.error}", "fix the cause and run again"
        )
    held_out = [row.label for row in data.validation]
    temperature = fit_temperature(_predict(runner, data.validation), held_out, classes)
    folds = best.experiment.task.folds
    # With folds the final model is trained on the test rows too, so the development model scores.
    test_probabilities = _predict(runner, data.test) if folds else None
    real = [*data.real, *data.validation, *(data.test if folds else ())]
    settings = _fixed_epochs(best.classifier, trial)
    runner.classifier = open_classifier(_use_idle_cores(settings, grid.jobs), classes)
    synthetic_set = data.synthetic.get(0, SyntheticSet())
    synthetic = synthetic_set.rows
    rows = assign_targets(runner.targets, real, synthetic, classes)
    with in_progress(grid.callbacks, f"training on all rows: {best}"):
        runner.classifier.fit(rows, (), training_seed(runner.master_seed, 0))
    if not folds:
        test_probabilities = _predict(runner, data.test)
    labels = [row.label for row in data.test]
    before = score(test_probabilities, labels, classes)
    after = score(apply_temperature(test_probabilities, temperature), labels, classes)
    about = {
        "experiment": best.experiment.name,
        **saved_columns(best.experiment.task.columns),
        "temperature": temperature,
        "ece": {"before": before["ece"], "after": after["ece"], "rows": len(labels)},
        "rows": {
            "train": len(data.real),
            "validation": len(data.validation),
            "test": len(data.test),
            "synthetic": len(synthetic),
            "edited": synthetic_set.edited,
            "removed": synthetic_set.dropped,
        },
        "scores": before | {"ece": after["ece"]},
        "cross_validated_accuracy": best.score if folds else None,
        **reasons,
        "candidates": [candidate_row(item) for item in candidates],
        "trial": shown_trial(trial),
    }
    model = describe_model(runner.classifier, classes, settings, best.experiment, best.method)
    card = render_card(CARD, model, _card_values(best.experiment, trial, about, synthetic_set))
    write_model(folder, model, card, about, grid.callbacks, FOLDER_HINT)
    return ChosenModel(folder, candidates, reasons["verdict"], about)


def _predict(runner: TrialRunner, rows: Sequence[Example]) -> Any:
    return runner.classifier.predict_proba([row.text for row in rows])


def _fixed_epochs(settings: TrainableSettings, trial: Trial) -> TrainableSettings:
    """Return settings that train for as many epochs as the best weights of a trial."""
    if trial.best_epoch is None:
        return settings
    return settings.model_copy(update={"max_epochs": trial.best_epoch, "preset": None})


def _use_idle_cores(settings: TrainableSettings, jobs: int | None) -> TrainableSettings:
    """Return settings with the threads of all workers, for when no other trial runs."""
    threads = getattr(settings, "threads", None)
    if threads is None:
        return settings
    idle = min(jobs or count_fitting_workers(1), MAX_THREADS)
    return settings.model_copy(update={"threads": max(threads, idle)})


def candidate_row(item: Candidate) -> dict[str, Any]:
    """Return a candidate as an object: classifier, method, variant, accuracy and trials."""
    return {
        "classifier": item.classifier.name,
        "method": item.method,
        "variant": {key: Path(str(value)).name for key, value in item.variant.items()},
        "accuracy": item.score,
        "trials": len(item.scores),
    }


def _card_values(
    experiment: Experiment, trial: Trial, about: dict[str, Any], synthetic: SyntheticSet
) -> dict[str, Any]:
    rows, folds = about["rows"], experiment.task.folds
    parts = f"{rows['train']} training and {rows['validation']} validation rows"
    held_out = f"{rows['test']} test rows were not used for the choice, training or calibration."
    score_rows = ece_rows = f"{rows['test']} test rows"
    if folds:
        parts = "all rows, after the choice by cross-validation"
        held_out = "No row was held out from the final model."
        score_rows = f"one of {folds} folds, by a model of the others"
        ece_rows = f"{rows['test']} rows of one fold, by a model of the others"
    candidates = [
        f"| {item['classifier']} | {item['method']}{_variant(item)} | {item['accuracy']:.4f} |"
        for item in about["candidates"]
    ]
    return {
        **about["scores"],
        "task": experiment.task.name,
        "text_column": about["text_column"],
        "verdict": "\n".join(f"- {sentence}" for sentence in about["verdict"]),
        "score_name": "cross-validated accuracy" if folds else "validation accuracy",
        "candidates": "\n".join(candidates),
        "n_real": rows["train"] + rows["validation"] + (rows["test"] if folds else 0),
        "rows": parts,
        "method": trial.method,
        "synthetic": f"{rows['synthetic']} synthetic rows, made from the training rows"
        + synthetic.review_note
        if rows["synthetic"]
        else "no synthetic rows",
        "epochs": f"; {trial.best_epoch} epochs" if trial.best_epoch else "",
        "held_out": held_out,
        "temperature": about["temperature"],
        "n_validation": rows["validation"],
        "ece_before": about["ece"]["before"],
        "ece_after": about["ece"]["after"],
        "ece_rows": ece_rows,
        "score_rows": score_rows,
    }


def _variant(item: dict[str, Any]) -> str:
    return f" ({variant_name(item['variant'])})" if item["variant"] else ""
