"""A trained classifier as a folder: saved after its trials, and loaded again to label texts.

The folder holds the weights, a model card, and `gpt3mix.json`, which says how to read texts. The
transformers library reads a transformer's folder: `pipeline("text-classification", DIR)`.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from .. import __version__
from ..errors import (
    NO_CALLBACKS,
    Callbacks,
    StoppedShort,
    UserError,
    first_line,
    shown_list,
)
from ..files import temporary_path, write_errors
from ..jsonl import to_json
from ..records import Trial
from ..settings import Columns, Experiment, TrainableSettings
from .calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, apply_temperature
from .model_card import ModelDescription, describe_model, trial_card
from .protocol import Classifier, open_classifier
from .trials import TrialJob, TrialRunner

MODEL_FILE = "gpt3mix.json"
UNSTABLE_FIELDS = {"seconds", "version"}  # of a row; they differ when its trial is repeated
HINT = "choose another folder with --save-model"
DEFAULT_COLUMNS = Columns()
MAX_LENGTH = 512  # tokens that a model of another tool reads, if its files do not say less


def save_model(
    runner: TrialRunner,
    rows: Sequence[Trial],
    settings: TrainableSettings,
    folder: Path,
    callbacks: Callbacks = NO_CALLBACKS,
    experiment: Experiment | None = None,
) -> Trial:
    """Write the model of the trial with the best validation accuracy; return the trial's row.

    Of several best trials the first is taken; the test score is not used. If its weights are no
    longer in memory the trial is run again, which gives the same.

    Args:
        runner: the runner of the trials.
        rows: the trials' rows.
        settings: the classifier's settings.
        folder: where to write; an earlier model of the experiment and task there is replaced.
        callbacks: for progress, warnings and notes.
        experiment: the experiment.

    Raises:
        UserError: if the folder holds something else, or cannot be written.
        StoppedShort: if no trial succeeded.
    """
    finished = [row for row in rows if row.status == "ok" and row.valid_accuracy is not None]
    if not finished:
        raise StoppedShort(
            "no trial succeeded, so there is no model to save", "fix the cause and run again"
        )
    best = min(finished, key=lambda row: (-(row.valid_accuracy or 0), row.trial))
    if runner.fitted_trial != best.trial:
        best = _repeat(runner, best, folder.resolve(), callbacks)
    model = describe_model(
        runner.classifier, runner.classes, settings, experiment, runner.key.method
    )
    card = trial_card(model, best, runner.data.synthetic.get(best.draw))
    columns = experiment.task.columns if experiment else Columns()
    name = experiment.name if experiment else ""
    about = {"experiment": name, **saved_columns(columns), "trial": shown_trial(best)}
    write_model(folder, model, card, about, callbacks)
    return best


def _repeat(runner: TrialRunner, row: Trial, folder: Path, callbacks: Callbacks) -> Trial:
    # Its epochs are in TensorBoard already.
    job = TrialJob(row.trial, row.draw)
    repeated = dataclasses.replace(runner, tensorboard_root=None).run(job, callbacks).row
    if repeated.status == "failed":
        raise StoppedShort(
            f"trial {row.trial} failed when it was repeated to save its model: {repeated.error}",
            "fix the cause and run again",
        )
    if repeated.model_dump(exclude=UNSTABLE_FIELDS) != row.model_dump(exclude=UNSTABLE_FIELDS):
        callbacks.warn(
            f"{folder}: trial {row.trial} gave other results when it was repeated to save its "
            "model; the model card has the new ones"
        )
    return repeated


def shown_trial(row: Trial) -> dict[str, Any]:
    """Return a trial's row for a saved model; a swept value that is a path is cut to its name."""
    variant = {key: Path(str(value)).name for key, value in row.variant.items()}
    return row.model_dump() | {"variant": variant}


def saved_columns(columns: Columns) -> dict[str, Any]:
    """Return what `gpt3mix.json` says about the columns of the training data."""
    return {
        "text_column": columns.text,
        "label_column": columns.label,
        "label_values": columns.values,
    }


def write_model(
    folder: Path,
    model: ModelDescription,
    card: str,
    about: Mapping[str, Any],
    callbacks: Callbacks = NO_CALLBACKS,
    hint: str = HINT,
) -> None:
    """Write the folder of a model; it appears whole or not at all.

    Args:
        folder: an earlier model of the experiment and task there is replaced; any other is kept as
            `<name>.bak`.
        model: the model.
        card: the model card.
        about: what else `gpt3mix.json` says, such as the name of the experiment.
        callbacks: for the note about a model that is kept.
        hint: the remedy if the folder cannot be used.

    Raises:
        UserError: if the folder holds something else, or cannot be written.
    """
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    with write_errors(folder), temporary_path(partial):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # it follows no link
        partial.mkdir()
        model.classifier.save(partial)
        (partial / "README.md").write_text(card, "utf-8")
        content = {
            "classifier": model.settings,
            "classes": list(model.classes),
            **about,
            "version": __version__,
            "files": sorted(_files(partial)),
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (partial / MODEL_FILE).write_text(f"{text}\n", "utf-8")
        check_save_folder(folder, hint)
        if (earlier := _read_json(folder / MODEL_FILE)) and _origin(earlier) != _origin(about):
            copy = _free_backup(folder)
            folder.rename(copy)
            callbacks.note(f"{folder}: the model of another experiment or task is now {copy}")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _origin(about: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the experiment and the task of a saved model."""
    trial = about.get("trial")
    return about.get("experiment"), trial.get("task") if isinstance(trial, dict) else None


def _free_backup(folder: Path) -> Path:
    paths = (folder.with_name(f"{folder.name}.bak{number}") for number in ("", *range(2, 10**6)))
    return next(path for path in paths if not path.exists())


def _files(folder: Path) -> set[str]:
    """Return the paths of everything in a folder but folders."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def check_save_folder(folder: Path, hint: str = HINT) -> None:
    """Make sure that saving replaces nothing but an earlier model.

    Raises:
        UserError: if the folder exists and is or holds something else.
    """
    with write_errors(folder, hint=hint):
        if Path.cwd().is_relative_to(folder.resolve()):
            raise UserError(f"{folder}: the current folder cannot be replaced", hint)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        try:
            saved = _read_json(folder / MODEL_FILE)
            own_files = {MODEL_FILE, *saved.get("files", ())} if saved else set()
        except (
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # a file of this name that is not ours
            own_files = set()
        if not own_files:
            raise UserError(f"{folder}: exists and is not a saved model", f"{hint}, or remove it")
        if foreign := sorted(_files(folder) - own_files):
            raise UserError(
                f"{folder}: holds files that are not of the saved model: {shown_list(foreign)}",
                f"move them away, or {hint}",
            )


# Loading -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedModel:
    """A saved classifier, ready to label texts.

    Attributes:
        classifier: its weights are loaded.
        classes: the task's classes, in the order of the probabilities.
        columns: of its training rows: names, and the classes of raw labels.
        temperature: of the calibration; 1 leaves probabilities as they are.
    """

    classifier: Classifier
    classes: list[str]
    columns: Columns = DEFAULT_COLUMNS
    temperature: float = 1.0

    @property
    def notes(self) -> Sequence[str]:
        """Messages for the user, such as how many texts were cut."""
        return self.classifier.notes

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the calibrated class probabilities, a float array (texts, classes)."""
        probabilities = self.classifier.predict_proba(texts)
        if self.temperature == 1:
            return probabilities
        return apply_temperature(probabilities, self.temperature)


def load_saved_model(folder: Path) -> SavedModel:
    """Return a saved model.

    The folder was written by `save_model` or `fit`, or is a classifier of the transformers library.

    Raises:
        UserError: if the folder is neither.
    """
    with _model_errors(folder):
        about = _read_json(folder / MODEL_FILE) or _library_model(folder)
        classes = [str(name) for name in about["classes"]]
        classifier = open_classifier(_local_settings(about["classifier"], folder), classes)
        classifier.load(folder)
        return SavedModel(
            classifier,
            classes,
            _columns(about),
            _checked_temperature(about.get("temperature", 1.0)),
        )


def read_columns(folder: Path) -> Columns:
    """Return the columns of a saved model's training rows, without loading it.

    Raises:
        UserError: if the folder holds no model.
    """
    with _model_errors(folder):
        about = _read_json(folder / MODEL_FILE) or _library_model(folder)
        return _columns(about)


def _columns(about: Mapping[str, Any]) -> Columns:
    # Models of other tools, and those of earlier versions, do not name all of them.
    names = {"text": "text_column", "label": "label_column", "values": "label_values"}
    return Columns.model_validate(
        {key: about[name] for key, name in names.items() if name in about}
    )


@contextlib.contextmanager
def _model_errors(folder: Path) -> Iterator[None]:
    """Turn what a damaged or missing model raises into a message."""
    from safetensors import SafetensorError

    hint = "name a folder that `gpt3mix fit` or `gpt3mix train --save-model` wrote"
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {problem}", hint)
    if not any((folder / name).is_file() for name in (MODEL_FILE, "config.json")):
        inner = next(iter(sorted(folder.glob(f"*/{MODEL_FILE}"))), None)
        raise UserError(
            f"{folder}: not a saved model: {MODEL_FILE} is missing",
            f"name the folder of a model, such as {inner.parent}" if inner else hint,
        )
    try:
        yield
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{folder}: the saved model is damaged: {_describe_damage(error)}",
            "copy the whole folder again, or save the model again with `gpt3mix fit` or "
            "`gpt3mix train --save-model`",
        ) from None


def _describe_damage(error: Exception) -> str:
    """Return what is wrong with a model's files, as far as the error says."""
    match error:
        case FileNotFoundError():
            name = Path(error.filename or str(error).rpartition(": ")[2]).name
            return f"{name} is missing"
        case json.JSONDecodeError():
            return f"a JSON file is cut or edited ({first_line(error)})"
        case KeyError():
            return f"the key {error} is missing in {MODEL_FILE} or config.json"
    return f"{first_line(error)} ({type(error).__name__})"


def _checked_temperature(value: Any) -> float:
    if not MIN_TEMPERATURE <= float(value) <= MAX_TEMPERATURE:
        raise ValueError(f"temperature is {value}")
    return float(value)


def _local_settings(saved: dict[str, Any], folder: Path) -> TrainableSettings:
    kind = Annotated[TrainableSettings, Field(discriminator="kind")]
    settings: TrainableSettings = TypeAdapter(kind).validate_python(saved)
    updates = {"model": str(folder.resolve()), "revision": None, "device": "auto", "preset": None}
    return settings.model_copy(
        update={k: v for k, v in updates.items() if k in type(settings).model_fields}
    )


def _library_model(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    names, tokenizer = config["id2label"], _read_json(folder / "tokenizer_config.json")
    limits = [config.get("max_position_embeddings"), tokenizer.get("model_max_length")]
    shortest = min([MAX_LENGTH, *(int(limit) for limit in limits if limit)])
    return {
        "classes": [names[str(index)] for index in range(len(names))],
        "classifier": {"kind": "transformer", "max_length": shortest},
    }


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    to_json(value).encode()  # raises a ValueError for half a character (a lone surrogate escape)
    return value
