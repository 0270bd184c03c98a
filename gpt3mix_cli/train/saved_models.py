"""A trained classifier as a folder: saved after its trials, and loaded again to label texts.

The folder holds the weights, a model card, and `gpt3mix.json`, which says how to read texts. The
transformers library reads a transformer's folder: `pipeline("text-classification", DIR)`.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
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
from ..settings import TrainableSettings
from .protocol import Classifier, open_classifier
from .trials import TrialJob, TrialRunner

MODEL_FILE = "gpt3mix.json"
UNSTABLE_FIELDS = {"seconds", "version"}  # of a row; they differ when its trial is repeated
MAX_LENGTH = 512  # tokens that a model of another tool reads, if its files do not say less
NOT_IN_CARD = {"model", "revision", "device", "preset"}
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
SCORE_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mcc": "Matthews correlation",
    "ece": "expected calibration error",
    "majority": "majority class alone",
    "valid_accuracy": "validation accuracy",
}
TEMPLATE = """\
---
{header}
---

# {task}: {classes}

A text classifier trained by gpt3mix {version}: {summary}.

## Data and method

- Task {task}, level {level}, data seed {data_seed}: {n_train} real rows (sha {train_sha}).
- Method `{method}`: {n_synthetic} synthetic rows, {synthetic}.
- Settings: `{settings}`; training seed {seed}{best_epoch}.
- Chosen among its trials by validation accuracy; test rows were not used for the choice.

## Scores on {n_test} test rows

| score | value |
| --- | --- |
{scores}

Confusion (rows: true {classes}; columns: predicted): `{confusion}`

One trial on few rows says little: the experiment's report has all trials and their spread.

## Use

```
{usage}# on the command line: gpt3mix predict DIR -i texts.jsonl -o labelled.jsonl
```
"""


def save_model(
    runner: TrialRunner,
    rows: Sequence[Trial],
    settings: TrainableSettings,
    folder: Path,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Trial:
    """Write the model of the trial with the best validation accuracy; return the trial's row.

    Of several best trials the first is taken; the test score is not used. If its weights are no
    longer in memory the trial is run again, which gives the same.

    Args:
        runner: the runner of the trials.
        rows: the trials' rows.
        settings: the classifier's settings.
        folder: where to write; an earlier model there is replaced.
        callbacks: for progress and warnings.

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
    folder = folder.resolve()
    if runner.fitted_trial != best.trial:
        best = _repeat(runner, best, folder, callbacks)
    partial = folder.with_name(f".{folder.name}.partial")
    with write_errors(folder), temporary_path(partial):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # it follows no link
        partial.mkdir()
        _write_model(runner, best, settings, partial)
        check_save_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
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


def _write_model(
    runner: TrialRunner, row: Trial, settings: TrainableSettings, folder: Path
) -> None:
    runner.classifier.save(folder)
    saved, base_model = settings.model_dump(exclude={"name", "trials"}), None
    if "model" in saved:
        path = Path(saved["model"])
        base_model = None if path.is_dir() else saved["model"]
        # The path of a folder would reveal details of this machine.
        saved["model"] = base_model or path.name
    about = {
        "classifier": saved,
        "classes": list(runner.classes),
        # A swept value may be a path too.
        "trial": row.model_dump()
        | {"variant": {key: Path(str(value)).name for key, value in row.variant.items()}},
        "version": __version__,
    }
    (folder / "README.md").write_text(_model_card(runner, row, saved, base_model), "utf-8")
    about["files"] = sorted(_files(folder))
    (folder / MODEL_FILE).write_text(
        json.dumps(about, ensure_ascii=False, indent=1) + "\n", "utf-8"
    )


def _files(folder: Path) -> set[str]:
    """Return the paths of everything in a folder but folders."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def check_save_folder(folder: Path) -> None:
    """Make sure that saving replaces nothing but an earlier model.

    Raises:
        UserError: if the folder exists and is or holds something else.
    """
    hint = "choose another folder with --save-model"
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


# Model card --------------------------------------------------------------------------------------


def _model_card(
    runner: TrialRunner, row: Trial, settings: Mapping[str, Any], base_model: str | None
) -> str:
    from huggingface_hub import ModelCardData

    classifier = runner.classifier
    header = ModelCardData(
        pipeline_tag="text-classification",
        tags=["gpt3mix"],
        library_name=classifier.library_name,
        base_model=MINILM_HUB_ID if base_model == "minilm" else base_model,
    )
    synthetic = runner.data.synthetic.get(row.draw)
    sources = {example.label_source for example in synthetic.rows} if synthetic else ()
    labels_from = f"draw {row.draw}, labels from: {', '.join(sorted(sources)) or 'none'}"
    values = row.model_dump()
    scores = [
        f"| {title} | {values[name]:.4f} |"
        for name, title in SCORE_TITLES.items()
        if values[name] is not None
    ]
    values |= {
        "header": header.to_yaml(),
        "classes": ", ".join(runner.classes),
        "version": __version__,
        "summary": classifier.summary.format(**settings),
        "synthetic": labels_from if synthetic else "no augmentation",
        "settings": json.dumps({k: v for k, v in settings.items() if k not in NOT_IN_CARD}),
        "best_epoch": f", best epoch {row.best_epoch} of {row.epochs}" if row.epochs else "",
        "scores": "\n".join(scores),
        "usage": classifier.usage_snippet.format(**settings),
    }
    return TEMPLATE.format(**values)


# Loading -----------------------------------------------------------------------------------------


def load_saved_model(folder: Path) -> tuple[Classifier, list[str]]:
    """Return a saved classifier and its classes.

    The folder was written by `save_model`, or is a classifier of the transformers library.

    Raises:
        UserError: if the folder is neither.
    """
    from safetensors import SafetensorError

    hint = "name a folder that `gpt3mix train --save-model` wrote"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint)
    try:
        about = _read_json(folder / MODEL_FILE) or _library_model(folder)
        classes = [str(name) for name in about["classes"]]
        classifier = open_classifier(_local_settings(about["classifier"], folder), classes)
        classifier.load(folder)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{folder}: not a saved model: {reason}", hint) from None
    return classifier, classes


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
