"""The Python API: a project whose stages take and give rows, without printing.

`load` returns a `Project`, whose methods are the commands: `subsample`, `augment`, `train`, `run`,
`report` and `fit`. `predict` labels texts with a saved model. Rows are a pandas DataFrame or a list
of records (mappings with the same keys); what is returned has the form of what was given, and is a
DataFrame where nothing was. Errors are those of the command line (`UserError`, `StoppedShort`), and
its warnings are Python warnings. Files are those of the command line too, below the folder of
results, so that finished work is not done again.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .api_messages import Messages
from .api_rows import (
    Records,
    Rows,
    as_given,
    as_plain,
    as_records,
    is_missing,
    task_of_rows,
    to_frame,
)
from .config import experiments_of, load_experiments
from .errors import Callbacks, UserError, shown_value
from .grid import Grid, TrainStep
from .grid.fit import ChosenModel
from .grid.fit import fit as run_fit
from .grid.row_reader import check_method_name
from .layout import Cell
from .records import (
    Augmented,
    Example,
    IncompleteOutput,
    Record,
    StageOptions,
    Trial,
    hash_rows,
    read_records,
    write_records,
)
from .settings import ClassifierSettings, Experiment, parse_level
from .train.saved_models import SavedModel, load_saved_model

if TYPE_CHECKING:
    from pandas import DataFrame

    from .report import Report

Row = TypeVar("Row", bound=Record)
Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def load(
    config: str | Path | Mapping[str, Any],
    *,
    train: "DataFrame | Records | None" = None,
    test: "DataFrame | Records | None" = None,
    overrides: Sequence[str] = (),
    out: str | Path = "results",
    jobs: int | None = 1,
    force: bool = False,
) -> "Project":
    """Return the project of a config.

    Args:
        config: path of a YAML file, or its keys as a mapping.
        train: labelled rows in place of `task.data`'s files; its `text` and `label` still name the
            columns.
        test: test rows, with `train`; None for a fifth of each class of `train`.
        overrides: `key=value`, as the flag `--set` takes them.
        out: the folder of all results.
        jobs: number of trials at the same time; None for as many as the machine holds. In a script
            more than one needs `if __name__ == "__main__":`.
        force: redo what is up to date, and replace what would be lost (a copy stays).

    Raises:
        UserError: with every problem of the config.
    """
    out, messages = Path(out), Messages()
    raw: dict[str, Any] = copy.deepcopy(dict(config)) if isinstance(config, Mapping) else {}
    if isinstance(raw.get("task"), Mapping):
        raw["task"] = task_of_rows(raw, train, test, out, messages)
    elif train is not None or test is not None:
        raise UserError(
            "train and test rows need the config and its task as mappings, not as paths",
            "write the task's keys into the mapping, or name the files in task.data",
        )
    with messages.errors():
        if isinstance(config, Mapping):
            experiments = experiments_of(raw, Path("config"), overrides)
        else:
            experiments = load_experiments(Path(config), overrides)
    return Project(experiments, out, jobs, force, messages)


def _python_errors(
    method: Callable[Concatenate["Project", Given], Returned],
) -> Callable[Concatenate["Project", Given], Returned]:
    """Let the errors of a method name Python's arguments."""

    @functools.wraps(method)
    def with_python_errors(
        project: "Project", /, *arguments: Given.args, **options: Given.kwargs
    ) -> Returned:
        with project.messages.errors():
            return method(project, *arguments, **options)

    return with_python_errors


class Project:
    """An experiment and its results; see `load`. It is a context manager that closes connections.

    Attributes:
        experiments: its settings, one for each variant of a sweep.
        grid: its cells and files, for what this class does not offer.
        messages: what its errors and warnings name in place of files.
    """

    def __init__(
        self,
        experiments: Sequence[Experiment],
        out: Path,
        jobs: int | None = 1,
        force: bool = False,
        messages: Messages | None = None,
    ) -> None:
        self.experiments, self.messages = experiments, messages or Messages()
        callbacks = Callbacks(warn=self.messages.warn)
        options = StageOptions(["gpt3mix (Python)"], force, callbacks)
        self.grid = Grid(experiments, out, options, jobs=jobs)

    def __enter__(self) -> "Project":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self.grid.close()

    # Stages ----------------------------------------------------------------------------------

    @_python_errors
    def subsample(self, level: str | None = None, seed: int | None = None) -> "DataFrame":
        """Return the real rows of a level and data seed: id, text and label.

        Args:
            level: such as `1%`, `8/class` or `full`; None for the first of the config.
            seed: data seed; None for the first of the config.
        """
        cell = self._cell(level, seed)
        return to_frame(read_records(self.grid.subsample(cell).output, Example))

    @_python_errors
    def augment(
        self, rows: Rows, method: str = "gpt3mix", seed: int | None = None, draw: int = 0
    ) -> Rows:
        """Return synthetic rows with their soft labels, `probs`.

        Args:
            rows: real rows; those of `subsample`, or your own with text and label.
            method: `gpt3mix` or the name of a baseline of the config.
            seed: data seed; None for the first of the config.
            draw: number of the synthetic set; another number gives other rows.

        Raises:
            StoppedShort: if no row could be made. If some are missing, it warns.
        """
        cell, folder = self._cell(None, seed), self._write_real(rows)
        real = folder / "train.jsonl"
        output = folder / f"{method}.seed-{cell.data_seed}.draw-{draw}.jsonl"
        self.messages.name_file(output, "the result of augment()")
        try:
            self.grid.augment(cell, method, draw, input=real, output=output)
        except IncompleteOutput as error:
            self.messages.warn(str(error))
        return as_given(read_records(output, Augmented), rows)

    @_python_errors
    def train(
        self,
        rows: Rows,
        synthetic: "DataFrame | Records | None" = None,
        classifier: str | None = None,
        seed: int | None = None,
    ) -> Rows:
        """Return the trials of a classifier on real and synthetic rows, scored on the test rows.

        Args:
            rows: real rows.
            synthetic: synthetic rows, as `augment` returns them; None for none.
            classifier: its name; None for the first of the config.
            seed: data seed, which decides the trials; None for the first of the config.

        Raises:
            StoppedShort: if a trial failed.
        """
        settings, cell = self._classifier(classifier), self._cell(None, seed)
        folder = self._write_real(rows)
        augmented, method = [], "none"
        if synthetic is not None:
            made = self._records(synthetic, Augmented, "synthetic")
            method = next((row.method for row in made if row.method), "synthetic")
            check_method_name(method)
            augmented = [folder / f"{method}.{hash_rows(made)}.jsonl"]
            write_records(augmented[0], made)
            self.messages.name_file(augmented[0], "synthetic")
        name = augmented[0].stem if augmented else "none"
        output = folder / f"{name}.{settings.name}.seed-{cell.data_seed}.trials.jsonl"
        self.messages.name_file(output, "the result of train()")
        step = TrainStep(cell, method, settings, folder / "train.jsonl", augmented, output)
        self.grid.train(step)
        return as_given(read_records(output, Trial), rows)

    # The whole experiment --------------------------------------------------------------------

    @_python_errors
    def run(self) -> "DataFrame":
        """Run every stage on every cell of the config; return all trials.

        Raises:
            StoppedShort: if a stage did not do all of its work; finished work is kept.
        """
        stopped = [item for item in self.grid.run() if isinstance(item, UserError)]
        if stopped:
            raise stopped[0]
        trials = self.report().trials
        assert trials is not None
        return trials.drop(columns="result")

    @_python_errors
    def report(self) -> "Report":
        """Return the report on the trials of the config, and write its files.

        Its `verdict` has sentences; `trials` and `comparisons` are DataFrames.
        """
        return self.grid.report()

    @_python_errors
    def fit(self, folder: str | Path = "model") -> ChosenModel:
        """Save the best method and classifier, trained on all labelled rows; see `gpt3mix fit`.

        Args:
            folder: where to write; an earlier model there is replaced.
        """
        return run_fit(self.grid, Path(folder))

    # Parts -----------------------------------------------------------------------------------

    def _cell(self, level: str | None, seed: int | None) -> Cell:
        subsample = self.experiments[0].subsample
        try:
            _ = level is None or parse_level(level)
        except ValueError as error:
            raise UserError(f"level: {error}", "write 0.1%, 8/class or full") from None
        seed = subsample.seeds[0] if seed is None else seed
        return next(self.grid.cells(level or subsample.levels[0], seed))

    def _classifier(self, name: str | None) -> ClassifierSettings:
        classifiers = {item.name: item for item in self.experiments[0].classifiers}
        if not classifiers or (name is not None and name not in classifiers):
            raise UserError(
                f"the config has no classifier {name or ''}".rstrip(),
                f"its classifiers: {', '.join(classifiers) or 'none'}",
            )
        return classifiers[name] if name is not None else next(iter(classifiers.values()))

    def _write_real(self, rows: "DataFrame | Records") -> Path:
        """Return the folder of some real rows: the same rows have the same folder."""
        real = self._records(rows, Example, "rows")
        if not real:
            raise UserError("rows: there are none", "give real rows")
        folder = self.grid.layout.rows_folder(hash_rows(real))
        write_records(folder / "train.jsonl", real)
        self.messages.name_file(folder / "train.jsonl", "rows")
        return folder

    def _records(self, rows: "DataFrame | Records", kind: type[Row], argument: str) -> list[Row]:
        data = self.experiments[0].task.data
        names = {getattr(data, key, key): key for key in ("text", "label", "id")}
        result = []
        for number, row in enumerate(as_records(rows)):
            # The keys of a record win over the names of the task's columns.
            values = {names.get(str(key), key): value for key, value in row.items()} | {
                key: value for key, value in row.items() if key in ("text", "label", "id")
            }
            # Other columns may hold values that no file of records has.
            values = {key: as_plain(values[key]) for key in kind.model_fields if key in values}
            values.setdefault("id", f"row-{number:05d}")
            try:
                result.append(kind.model_validate(values))
            except ValueError:
                missing = [key for key in ("text", "label") if not isinstance(values.get(key), str)]
                raise UserError(
                    f"{argument}, row {number}: {', '.join(missing) or 'a value'} is missing or of "
                    f"a wrong type: {str(row)[:200]}",
                    "give columns text and label, or those of task.data",
                ) from None
        return result


# Using a model -------------------------------------------------------------------------------


def predict(
    model: str | Path | ChosenModel | SavedModel,
    data: Rows,
    *,
    text: str | None = None,
    probs: bool = False,
) -> Rows:
    """Return a copy of some rows with `predicted` and `prob`, its calibrated probability.

    A row with an empty or missing text has None in both (in a DataFrame a missing value).

    Args:
        model: a folder that `fit` wrote, or what it returned.
        data: the rows.
        text: column of the texts; None for the one that the model was trained with.
        probs: whether to add `probs`, the probability of each class.

    Raises:
        UserError: if the folder is no model, or a row has no such column, a value in it that is
            neither text nor missing, or a column that is to be added.
    """
    if isinstance(model, str | Path | ChosenModel):
        with Messages().errors():
            folder = model.folder if isinstance(model, ChosenModel) else Path(model)
            model = load_saved_model(folder)
    column, records = text or model.columns.text, as_records(data)
    names = ["predicted", "prob", *(["probs"] if probs else [])]
    columns = {name for row in records for name in row}
    if present := [name for name in names if name in columns]:
        raise UserError(f"the rows have a column '{present[0]}' already", "rename it, or remove it")
    if text is None and any(column not in row for row in records):
        column = "text"
    if missing := [number for number, row in enumerate(records) if column not in row]:
        raise UserError(f"data, row {missing[0]}: no column '{column}'", "name it with text=")
    filled = [index for index, row in enumerate(records) if _has_text(row[column], column, index)]
    added: list[dict[str, Any]] = [{"predicted": None, "prob": None} for _ in records]
    texts = [records[index][column] for index in filled]
    for index, values in zip(filled, model.predict_proba(texts) if texts else (), strict=True):
        label = model.classes[int(values.argmax())]
        added[index] = {"predicted": label, "prob": round(float(values.max()), 6)}
        if probs:
            rounded = (round(float(value), 6) for value in values)
            added[index]["probs"] = dict(zip(model.classes, rounded, strict=True))
    if isinstance(data, list):
        return [{**row, **more} for row, more in zip(data, added, strict=True)]
    return data.assign(**{name: [row.get(name) for row in added] for name in names})


def _has_text(value: Any, column: str, row: int) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if is_missing(value):
        return False
    raise UserError(
        f"data, row {row}: column '{column}' has {shown_value(value)}, which is no text",
        "make it a string; in a DataFrame .astype('string') does so, and keeps missing values",
    )
