"""SetFit (Tunstall et al., 2022) by its authors' library.

A sentence encoder is fine-tuned on pairs, then a logistic regression is fitted on its vectors. It
is what users would pick instead of augmentation, so the table answers "why not SetFit?".

The library takes hard labels only: a soft label counts as its most probable class, and no row or
class can be weighted. `iterations` (R of the paper) is the number of pairs of each kind for each
row, so time grows with the rows and not with their square. All else is the library's default.

A saved model is the encoder as sentence-transformers reads it and a head in safetensors. Reading
it runs no code.
"""

import math
import tempfile
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..pretrained import (
    NO_FOREIGN_CODE,
    loading_error,
    model_path,
    refuse_other_formats,
    resolve_device,
)
from ..quiet import quiet_transformers
from ..records import Augmented, Example
from ..settings import SetFitSettings
from ..user_cache import ModelFacts
from . import metrics
from .encoder import cpu_threads, hash_pretrained
from .linear import all_class_probabilities, load_logistic, save_logistic
from .protocol import Classifier, EpochCallback, FitResult, cached_classifier, ignore_epoch
from .targets import target_rows

CACHE_VERSION = 1  # raised when the same settings would give other numbers
HEAD_FILE = "head.safetensors"
SCORING_BATCH_ROWS = 32
MIN_LIBRARY_VERSION = 6  # of sentence-transformers
HINT = "give a sentence encoder's folder, a hub id that can be reached, or minilm"


class SetFitClassifier(Classifier):
    """The classifier; see `train.Classifier`.

    The weights are read when they are first needed.

    Raises:
        UserError: if the library is not installed.
    """

    summary = "`{model}` fine-tuned by SetFit, and logistic regression"
    library_name = "sentence-transformers"

    def __init__(self, settings: SetFitSettings, classes: Sequence[str]) -> None:
        if util.find_spec("setfit") is None:
            raise UserError(
                "classifiers: kind setfit needs the library `setfit`",
                "pip install 'gpt3mix[setfit]', or remove the classifier",
            )
        if int(metadata.version("sentence-transformers").split(".")[0]) < MIN_LIBRARY_VERSION:
            raise UserError(
                "classifiers: kind setfit needs sentence-transformers 6 or later: earlier releases "
                "run code that is in a model's folder",
                "pip install -U 'gpt3mix[setfit]', or remove the classifier",
            )
        self._settings, self._classes = settings, list(classes)
        self._path = model_path(settings.model, "classifiers: model")
        self._facts = ModelFacts(
            {"setfit": settings.revision},
            self._path,
            settings.revision,
            lambda: {
                "model": hash_pretrained(self._path, settings.revision),
                "device": resolve_device("auto", "classifiers: device"),
            },
        )
        self._device = self._facts.values["device"]
        self.threads = settings.threads if self._device == "cpu" else None
        self.about = {
            **settings.model_dump(exclude={"name", "trials", "model", "revision"}),
            **self._facts.values,
            "library": metadata.version("setfit"),
            "format": CACHE_VERSION,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # The settings alone: another process loads the weights once.
        return cached_classifier, (self._settings, tuple(self._classes))

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train encoder and head from the pretrained weights; validation rows choose nothing."""
        import torch

        labels = [values.index(max(values)) for values in target_rows(train, self._classes)]
        # The library seeds torch's global generator (and Python's and NumPy's, which our code
        # does not use).
        with (
            torch.random.fork_rng(),
            cpu_threads(self._settings.threads),
            tempfile.TemporaryDirectory() as folder,
        ):
            self._encoder.load_state_dict(self._pretrained)
            self._head = self._train([row.text for row in train], labels, seed % 2**32, folder)
        if not validation:
            return FitResult(None)
        probabilities = self.predict_proba([row.text for row in validation])
        return FitResult(metrics.accuracy(probabilities, validation, self._classes))

    def _train(self, texts: list[str], labels: list[int], seed: int, folder: str) -> Any:
        from setfit import SetFitModel, Trainer, TrainingArguments, logging
        from sklearn.linear_model import LogisticRegression
        from transformers import PrinterCallback, ProgressCallback

        logging.set_verbosity_error()
        settings, head = self._settings, LogisticRegression()
        steps = math.ceil(2 * settings.iterations * len(texts) / settings.batch_size)
        arguments = TrainingArguments(
            output_dir=folder,
            batch_size=settings.batch_size,
            num_epochs=settings.epochs,
            num_iterations=settings.iterations,
            # The true number of steps. With it the library builds only the pairs that it trains
            # on; otherwise it builds the pairs of every two rows.
            max_steps=steps * settings.epochs,
            body_learning_rate=settings.lr,
            seed=seed,
            show_progress_bar=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
        )
        model = SetFitModel(model_body=self._encoder, model_head=head)
        trainer = Trainer(model=model, args=arguments)
        for callback in (PrinterCallback, ProgressCallback):  # they print to stdout
            trainer.remove_callback(callback)
        trainer.st_trainer.args.dataloader_pin_memory = self._device == "cuda"
        trainer.train_embeddings(texts, labels, args=arguments)
        trainer.train_classifier(texts, labels, args=arguments)
        return head

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); 0 for a class that no row had."""
        with cpu_threads(self._settings.threads):
            vectors = self._encoder.encode(
                list(texts), batch_size=SCORING_BATCH_ROWS, show_progress_bar=False
            )
        return all_class_probabilities(self._head, vectors, len(self._classes))

    def probe(self) -> None:
        """Load the library and the weights."""
        import setfit  # noqa: F401 - an ImportError is what `check` looks for

        _ = self._pretrained

    def save(self, folder: Path) -> None:
        """Write the encoder, and the head's weights."""
        self._encoder.save_pretrained(str(folder), create_model_card=False)
        save_logistic(folder / HEAD_FILE, self._head)

    def load(self, folder: Path) -> None:
        """Read the head that `save` wrote; the encoder is that of the settings' `model`."""
        self._head = load_logistic(folder / HEAD_FILE)[0]

    @cached_property
    def _encoder(self) -> Any:
        self._facts.check()
        from sentence_transformers import SentenceTransformer

        what = f"classifiers: model '{self._path}' cannot be loaded"
        refuse_other_formats(self._path, what, HINT)
        try:
            with quiet_transformers():
                encoder = SentenceTransformer(
                    self._path,
                    revision=self._settings.revision,
                    device=self._device,
                    **NO_FOREIGN_CODE,
                )
        except Exception as error:
            # The libraries raise a dozen unrelated classes for a folder that is damaged, foreign
            # or missing.
            raise loading_error(error, what, HINT) from None
        limits = self._settings.max_length, encoder.max_seq_length
        encoder.max_seq_length = min(filter(None, limits))
        return encoder

    @cached_property
    def _pretrained(self) -> dict[str, Any]:
        return {name: weight.clone() for name, weight in self._encoder.state_dict().items()}
