"""A trained classifier as a folder: written after its trials, read again to label texts.

The folder of a transformer is what the transformers library reads (`pipeline("text-classification", DIR)`); beside the
weights stand `gpt3mix.json`, which says how to read texts, and a model card.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ..files import STDIO, atomic_write, exclusive_writer, hash_file, hash_model, write_errors
from ..records import StageResult, Trial, find_up_to_date, finish_output, read_objects
from ..settings import LinearSettings, SetFitSettings, TrainableSettings, TransformerSettings
from .loop import Classifier, TrialResult, TrialRunner

ABOUT = "gpt3mix.json"
ROWS = 2048  # texts that are labelled together
NOT_A_FIGURE = {"seconds", "version"}


def save_model(
    work: TrialRunner,
    rows: Sequence[Trial],
    settings: TrainableSettings,
    folder: Path,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Trial:
    """Write the model of the trial with the best validation accuracy, of several the first; return its row.

    The test score takes no part in the choice. Where its weights are gone the trial is run again, which gives the same.

    Args:
        work: what the trials share.
        rows: of the trials.
        settings: of the classifier.
        folder: where to; an earlier model there is replaced.
        callbacks: take progress and warnings.

    Raises:
        UserError: if the folder holds something else, or cannot be written.
        StoppedShort: if no trial went well.
    """
    good = [row for row in rows if row.status == "ok" and row.valid_accuracy is not None]
    if not good:
        raise StoppedShort(
            "no trial went well, so there is no model to save", "mend the cause and run again"
        )
    best = min(good, key=lambda row: (-(row.valid_accuracy or 0), row.trial))
    folder = folder.resolve()
    if work.fitted != best.trial:
        work.curves = None  # its epochs are drawn already
        again: TrialResult = work.trial((best.trial, best.draw), callbacks)
        if again.row.status == "failed":
            raise StoppedShort(
                f"trial {best.trial} failed when it was run again to save its model: {again.row.error}",
                "mend the cause and run again",
            )
        if again.row.model_dump(exclude=NOT_A_FIGURE) != best.model_dump(exclude=NOT_A_FIGURE):
            callbacks.warn(
                f"{folder}: trial {best.trial} gave other figures than its row when it was run again; the model card has the new ones"
            )
        best = again.row
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        work.classifier.save(aside)
        about = {
            "classifier": {**settings.model_dump(exclude={"name", "trials"}), **_base(settings)},
            "classes": list(work.cell.classes),
            # A swept value may be a path, which tells of its machine.
            "trial": best.model_dump()
            | {"variant": {key: Path(str(value)).name for key, value in best.variant.items()}},
            "version": __version__,
        }
        (aside / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", "utf-8")
        (aside / "README.md").write_text(card(work, best, settings), "utf-8")
        check_save_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    return best


def check_save_folder(folder: Path) -> None:
    """Make sure that nothing but an earlier model would be replaced.

    Raises:
        UserError: if something else stands there.
    """
    if folder.resolve() == Path.cwd():
        raise UserError(
            f"{folder}: the current folder cannot be replaced",
            "choose another folder with --save-model",
        )
    if (
        folder.exists()
        and not (folder / ABOUT).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise UserError(
            f"{folder}: there is something that is no saved model",
            "choose another folder with --save-model, or remove it",
        )


def _base(settings: TrainableSettings) -> dict[str, str]:
    """Return the name of the pretrained model: of a folder only the last part, since a path tells of its machine."""
    if isinstance(settings, LinearSettings):
        return {}
    return {"model": Path(settings.model).name if Path(settings.model).is_dir() else settings.model}


def card(work: TrialRunner, row: Trial, settings: TrainableSettings) -> str:
    """Return the model card: data, method, scores, use."""
    cell = work.cell
    front = ["---", "pipeline_tag: text-classification", "tags: [gpt3mix]"]
    if not isinstance(settings, LinearSettings):
        front += [
            f"library_name: {'transformers' if isinstance(settings, TransformerSettings) else 'sentence-transformers'}"
        ]
        # Only a hub id says more than a name; `minilm` is one in disguise.
        if not Path(settings.model).is_dir():
            front += [
                f"base_model: {'sentence-transformers/all-MiniLM-L6-v2' if settings.model == 'minilm' else settings.model}"
            ]
    front += ["---"]
    settings_of = json.dumps(
        settings.model_dump(exclude={"name", "trials", "model", "revision", "device", "preset"})
    )
    scores = {
        "accuracy": row.accuracy,
        "macro-F1": row.macro_f1,
        "Matthews correlation": row.mcc,
        "expected calibration error": row.ece,
        "majority class alone": row.majority,
        "validation accuracy": row.valid_accuracy,
    }
    use = (
        f'from transformers import pipeline\nclassify = pipeline("text-classification", "DIR", truncation=True, max_length={settings.max_length})\n'
        if isinstance(settings, TransformerSettings)
        else ""
    )
    return "\n".join(
        [
            *front,
            f"# {cell.task}: {', '.join(cell.classes)}",
            "",
            f"A text classifier made by gpt3mix {__version__}: " + _what(settings),
            "",
            "## Data and method",
            "",
            f"- Task {cell.task}, level {cell.level}, data seed {cell.data_seed}: {row.n_train} real rows (sha {row.train_sha}).",
            f"- Method `{cell.method}`: {row.n_synthetic} synthetic rows, {_made(work, row)}.",
            f"- Settings: `{settings_of}`; training seed {row.seed}"
            + (f", best epoch {row.best_epoch} of {row.epochs}." if row.epochs else "."),
            "- Chosen among its trials by validation accuracy; the test rows took no part.",
            "",
            f"## Scores on {row.n_test} test rows",
            "",
            "| score | value |",
            "| --- | --- |",
            *(f"| {name} | {value:.4f} |" for name, value in scores.items() if value is not None),
            "",
            f"Confusion (rows: true {', '.join(cell.classes)}; columns: predicted): `{row.confusion}`",
            "",
            "One trial of few rows says little: the report of the experiment has all trials and their spread.",
            "",
            "## Use",
            "",
            f"```\n{use}# or: gpt3mix predict DIR -i texts.jsonl -o labelled.jsonl\n```",
            "",
        ]
    )


def _what(settings: TrainableSettings) -> str:
    base = _base(settings).get("model")
    if isinstance(settings, SetFitSettings):
        return f"`{base}` fine-tuned by SetFit, and logistic regression."
    return (
        f"`{base}` with a new classification head." if base else "tf-idf and logistic regression."
    )


def _made(work: TrialRunner, row: Trial) -> str:
    part = work.synthetic.get(row.draw)
    if part is None:
        return "no augmentation"
    sources = sorted({one.label_source for one in part.rows})
    return f"draw {row.draw}, labels from: {', '.join(sources) or 'none'}"


# Use -----------------------------------------------------------------------------------------------------------------


def load(folder: Path) -> tuple[Classifier, list[str]]:
    """Return a saved classifier and its classes, from our folder or one of the transformers library.

    Raises:
        UserError: if the folder is neither.
    """
    hint = "name a folder that `gpt3mix train --save-model` wrote"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint)
    try:
        about: dict[str, Any] = (
            json.loads((folder / ABOUT).read_text("utf-8"))
            if (folder / ABOUT).is_file()
            else _foreign(folder)
        )
        classes, kept = [str(name) for name in about["classes"]], about["classifier"]
        if kept["kind"] == "linear":
            from .linear import LinearClassifier

            linear = LinearClassifier(LinearSettings.model_validate(kept), classes)
            linear.load(folder)
            return linear, classes
        if kept["kind"] == "setfit":
            from .setfit import SetFitClassifier

            setfit = SetFitClassifier(
                SetFitSettings.model_validate(
                    {**kept, "model": str(folder.resolve()), "revision": None}
                ),
                classes,
            )
            setfit.load(folder)
            return setfit, classes
        options = {
            "model": str(folder.resolve()),
            "revision": None,
            "device": "auto",
            "preset": None,
        }
        from .transformer import TransformerClassifier

        transformer = TransformerClassifier(
            TransformerSettings.model_validate({**kept, **options}), classes
        )
        transformer.whole()
        return transformer, classes
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: no saved model: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint,
        ) from None


def _foreign(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    names = config["id2label"]
    reads = [config.get("max_position_embeddings"), _tokenizer_limit(folder)]
    limit = min(512, *(int(number) for number in reads if number))
    return {
        "classes": [names[str(number)] for number in range(len(names))],
        "classifier": {"kind": "transformer", "max_length": limit},
    }


def _tokenizer_limit(folder: Path) -> int | None:
    path = folder / "tokenizer_config.json"
    found: int | None = (
        json.loads(path.read_text("utf-8")).get("model_max_length") if path.is_file() else None
    )
    return found


def predict(
    model: Path,
    source: Path,
    output: Path,
    *,
    command: Sequence[str] = (),
    force: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
) -> StageResult:
    """Label the texts of a JSONL file: every row is kept as it is, with `predicted` and `probs` added.

    Rows are read, labelled and written in chunks, so that the file may be larger than memory. Where rows have a `label`
    the counts say how many are right.

    Raises:
        UserError: at a row without a text, naming its line, or where the model or the files do not serve.
    """
    started = time.monotonic()
    if source != STDIO and output != STDIO and source.resolve() == output.resolve():
        raise UserError(f"{output}: is the input too", "write to another file")
    inputs = {} if source == STDIO else {"texts": hash_file(source)}
    with exclusive_writer(output):
        classifier, classes = load(model)
        settings = {"model": hash_model(model), "classes": classes}
        if inputs and not force and (manifest := find_up_to_date(output, settings, inputs)):
            return StageResult(output, manifest, skipped=True)
        counts = {"rows": 0, "labelled": 0, "right": 0}
        with atomic_write(output) as stream:
            rows = _texts(source)
            while chunk := list(islice(rows, ROWS)):
                shares = classifier.predict_proba([row["text"] for row in chunk])
                for row, probs in zip(chunk, shares, strict=True):
                    found = classes[int(probs.argmax())]
                    counts["rows"] += 1
                    counts["labelled"] += "label" in row
                    counts["right"] += row.get("label") == found
                    added = {
                        "predicted": found,
                        "probs": {
                            name: round(float(p), 6) for name, p in zip(classes, probs, strict=True)
                        },
                    }
                    stream.write((json.dumps({**row, **added}, ensure_ascii=False) + "\n").encode())
                callbacks.progress("rows labelled", counts["rows"], None)
        for note in classifier.notes:
            callbacks.warn(note)
        return StageResult(output, finish_output(
            output, started, stage="predict", complete=True, settings=settings, inputs=inputs, seed=None, counts=counts, command=list(command)
        ))  # fmt: skip


def _texts(source: Path) -> Iterator[dict[str, Any]]:
    for number, row in read_objects(source):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise UserError(
                f"{source}, line {number}: 'text' is {'empty' if 'text' in row else 'missing'}",
                'each line needs a text, such as {"text": "..."}',
            )
        yield row
