"""Measures of synthetic rows that need a model: fluency, similarity to the parents, agreement.

They take seconds to minutes a set, so neither `augment` nor `run` computes them. They are written
into the manifest of the set, where card and report find them; the rows stay as they are.

- `perplexity`: per token, under a local LM that wrote none of the rows: SmolLM2, or the packaged LM
  where SmolLM2 writes or is not installed.
- `parent_similarity`: mean cosine of a row and its parents, by MiniLM's sentence vectors.
- `label_agreement`: fraction of the rows with the label that a linear classifier gives them. It is
  trained on all real training rows of the task; `labeller_accuracy` is that on its test rows.

What cannot be measured, because no other LM or no encoder is installed, is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..augment.filter import split_words
from ..augment.statistics import distinct, self_bleu
from ..data import Splits
from ..errors import UserError, in_progress
from ..existing_outputs import CHANGED_BY_HAND
from ..files import exclusive_writer, hash_file
from ..layout import Cell
from ..method.selection import encoder_vectors
from ..pretrained import lm_path, model_path
from ..records import (
    Augmented,
    Example,
    Manifest,
    StageResult,
    read_manifest,
    read_records,
    write_manifest,
)
from ..settings import Experiment, LinearSettings, fingerprint, generator
from ..train import Classifier, open_classifier
from ..train.targets import to_one_hot
from .runner import Grid

if TYPE_CHECKING:
    from ..lm.local.perplexity import PerplexityScorer

MEASURED_ROWS = 200  # of a set
SCORERS = ("smollm2", "bundled")  # in the order in which they are chosen
ENCODER = "minilm"
CACHE_VERSION = 1  # raise it if the same rows get other values


def measure(grid: Grid, cells: Sequence[Cell]) -> Iterator[StageResult]:
    """Measure the real rows and all synthetic sets of some cells; yield each set that there is.

    Args:
        grid: the experiment.
        cells: the cells.

    Raises:
        UserError: if a file was changed by hand, or a model cannot be loaded.
    """
    measurer = Measurer(grid)
    for cell in cells:
        experiment = grid.experiment(cell)
        if not grid.layout.train_path(cell).exists():
            continue
        real = grid.real_rows(cell)
        paths = [grid.layout.train_path(cell)]
        for method in experiment.methods:
            if method != "none":
                draws = experiment.draws_for(cell.data_seed)
                paths += [grid.layout.synthetic_path(cell, method, draw) for draw in draws]
        for path in paths:
            manifest = read_manifest(path)
            # Without a hash a killed run has left it.
            if manifest and manifest.sha256 and path.is_file():
                yield measurer.measure(cell, path, manifest, real)


def choose_scorer(experiment: Experiment) -> str | None:
    """Return the LM that measures fluency: the same one for all methods, which wrote none of them.

    None if there is none.
    """
    lm = experiment.lm
    # A folder, a hub id and an endpoint may name the same LM differently: `SmolLM2-135M.gguf`.
    writer = lm.model.lower() if lm else ""
    is_bundled = lm is not None and lm.kind == "local" and writer == "bundled"
    written = {"smollm2": "smollm2" in writer, "bundled": is_bundled}
    return next((name for name in SCORERS if not written[name] and _is_installed(name)), None)


def _is_installed(lm: str) -> bool:
    try:
        return bool(lm_path(lm))
    except UserError:
        return False


def _has_encoder() -> bool:
    try:
        return bool(model_path(ENCODER, "measure"))
    except UserError:
        return False


@dataclass
class Measurer:
    """Measures sets; each model is loaded once, when it is first needed.

    Attributes:
        grid: the experiment.
    """

    grid: Grid
    _scorers: dict[str, "PerplexityScorer"] = field(default_factory=dict)
    _labellers: dict[str, tuple[Classifier, float]] = field(default_factory=dict)

    def measure(
        self, cell: Cell, path: Path, manifest: Manifest, real: Sequence[Example]
    ) -> StageResult:
        """Write the measures of a set into its manifest, unless they are there.

        Args:
            cell: of the set.
            path: of its rows.
            manifest: of the same; that of a subsample measures the real rows.
            real: the real rows.

        Raises:
            UserError: if the file was changed by hand, or a model cannot be loaded.
        """
        if manifest.sha256 != hash_file(path):
            raise UserError(f"{path}: {CHANGED_BY_HAND}", "make it anew, or accept it by review")
        experiment = self.grid.experiment(cell)
        splits = self.grid.resources.splits(experiment, cell.data_seed)
        scorer, encoder = choose_scorer(experiment), _has_encoder()
        key = fingerprint([CACHE_VERSION, scorer, encoder, splits.sha])
        if manifest.counts.get("measures", {}).get("key") == key and not self.grid.options.force:
            return StageResult(path, manifest, skipped=True)
        with in_progress(self.grid.callbacks, f"measuring {path.name} of {cell}"):
            if manifest.stage == "subsample":
                rows: list[Any] = _sample(real)
                texts = [split_words(row.text) for row in rows]
                values: dict[str, Any] = {
                    "distinct_1": distinct(texts, 1),
                    "distinct_2": distinct(texts, 2),
                    "self_bleu": self_bleu(texts),
                }
            else:
                rows = _sample(list(read_records(path, Augmented, experiment.task.classes)))
                values = self._label_values(rows, splits, experiment.task.classes)
                if encoder:
                    values["parent_similarity"] = parent_similarity(rows, real)
            if scorer and rows:
                perplexity = self._scorer(scorer).perplexity([row.text for row in rows])
                values |= {"perplexity": perplexity, "perplexity_lm": scorer}
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        return StageResult(
            path, self._keep(path, manifest, {"key": key, "rows": len(rows), **rounded})
        )

    def _keep(self, path: Path, manifest: Manifest, measures: dict[str, Any]) -> Manifest:
        """Write the measures into the manifest, if the rows are still those that were measured."""
        options = self.grid.options
        with exclusive_writer(path, options.waits, options.callbacks):
            current = read_manifest(path)
            if current is None or current.sha256 != manifest.sha256:
                raise UserError(
                    f"{path}: was replaced while it was measured",
                    "run the command again when no other one writes it",
                )
            counts = current.counts | {"measures": measures}
            current = current.model_copy(update={"counts": counts})
            write_manifest(path, current)
        return current

    def _label_values(
        self, rows: Sequence[Augmented], splits: Splits, classes: Sequence[str]
    ) -> dict[str, Any]:
        key = splits.sha["train"]
        if key not in self._labellers:
            labeller = open_classifier(LinearSettings(kind="linear"), classes)
            labeller.fit([to_one_hot(row, classes) for row in splits.train], [], 0)
            self._labellers[key] = labeller, _agreement(labeller, splits.test, classes) or 0.0
        labeller, accuracy = self._labellers[key]
        return {
            "label_agreement": _agreement(labeller, rows, classes),
            "labeller_accuracy": accuracy,
        }

    def _scorer(self, model: str) -> "PerplexityScorer":
        from ..lm.local.perplexity import PerplexityScorer

        if model not in self._scorers:
            self._scorers[model] = PerplexityScorer(model, self.grid.callbacks)
        return self._scorers[model]


def _sample(rows: Sequence[Any]) -> list[Any]:
    count = min(MEASURED_ROWS, len(rows))
    return generator(0, "measured rows").sample(rows, count)


def _agreement(
    labeller: Classifier, rows: Sequence[Example], classes: Sequence[str]
) -> float | None:
    if not rows:
        return None
    best = labeller.predict_proba([row.text for row in rows]).argmax(1)
    return fmean(classes[index] == row.label for index, row in zip(best, rows, strict=True))


def parent_similarity(rows: Sequence[Augmented], real: Sequence[Example]) -> float | None:
    """Return the mean cosine of the sentence vectors of each row and each of its parents.

    Args:
        rows: synthetic rows.
        real: their parents, among others.

    Returns:
        None if no row has a parent among them.
    """
    texts = {row.id: row.text for row in real}
    pairs = [(row.text, texts[name]) for row in rows for name in row.parents if name in texts]
    if not pairs:
        return None
    numbers = {text: number for number, text in enumerate(dict.fromkeys(sum(pairs, ())))}
    vectors = encoder_vectors(list(numbers), ENCODER)
    return fmean(float(vectors[numbers[a]] @ vectors[numbers[b]]) for a, b in pairs)
