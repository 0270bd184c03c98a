"""SetFit (Tunstall et al., 2022) by its authors' library: a sentence encoder fine-tuned on pairs, then logistic regression.

What users would pick instead of making rows, so that the table answers "why not SetFit?". The library takes hard labels
only: of a soft label the likeliest class counts, and no row or class can be weighted. Pairs are `iterations` of each kind for
each row (R of the paper), so that time grows with the rows and not with their square. All else is the library's default.
Saved, it is the encoder as sentence-transformers reads it and a head in safetensors: nothing that runs when it is read.
"""

import importlib.util
import math
import tempfile
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import hash_model
from ..pretrained import first_line, model_path, resolve_device
from ..records import Augmented, Example
from ..settings import SetFitSettings, fingerprint
from .loop import EpochCallback, FitResult, cached_classifier, ignore_epoch
from .parallel import group_size, threads

if TYPE_CHECKING:
    import torch

CACHE_VERSION = 1  # raised when the same settings would give other numbers
HEAD = "head.safetensors"
SCORING_BATCH = 32


class SetFitClassifier:
    """The classifier; see `train.Classifier`."""

    def __init__(self, settings: SetFitSettings, classes: Sequence[str]) -> None:
        """Look for the library and the model; the weights are read when they are first needed.

        Raises:
            UserError: if the library is not installed, or several processes are to share a training.
        """
        if importlib.util.find_spec("setfit") is None:
            raise UserError(
                "classifiers: kind setfit needs the library `setfit`",
                "pip install 'gpt3mix[setfit]', or take the classifier out",
            )
        if group_size() > 1:
            raise UserError(
                "classifiers: kind setfit cannot be spread over several processes",
                "start gpt3mix without torchrun or accelerate",
            )
        self._settings, self._classes = settings, list(classes)
        self._place = model_path(settings.model, "classifiers: model")
        self._device = resolve_device("auto", "classifiers: device")
        self.threads = settings.threads if self._device == "cpu" else None
        self.tokens: int | None = None
        self.usd: float | None = None
        self.notes: list[str] = []
        folder = Path(self._place)
        self.about: dict[str, Any] = {
            **settings.model_dump(exclude={"name", "trials", "model", "revision"}),
            "model": hash_model(folder)
            if folder.is_dir()
            else fingerprint([self._place, settings.revision]),
            "device": self._device,
            "library": metadata.version("setfit"),
            "format": CACHE_VERSION,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as settings: there it is loaded once."""
        return cached_classifier, (self._settings, tuple(self._classes))

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        watch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Train encoder and head from the pretrained weights; validation rows are scored, and choose nothing."""
        import torch

        texts = [row.text for row in train]
        labels = [
            max(range(len(self._classes)), key=lambda place: row.probs[self._classes[place]])
            for row in train
        ]
        # The library seeds torch's global generator (and Python's and NumPy's, which we draw nothing from).
        with (
            torch.random.fork_rng(),
            threads(self._settings.threads),
            tempfile.TemporaryDirectory() as folder,
        ):
            self._encoder.load_state_dict(self._pretrained)
            self._head = self._trained(texts, labels, seed % 2**32, folder)
        right = self.predict_proba([row.text for row in validation]).argmax(1) == [
            self._classes.index(row.label) for row in validation
        ]
        return FitResult(valid_accuracy=float(right.mean()))

    def _trained(self, texts: list[str], labels: list[int], seed: int, folder: str) -> Any:
        """Train the encoder in place and return the head."""
        from setfit import SetFitModel, Trainer, TrainingArguments, logging
        from sklearn.linear_model import LogisticRegression
        from transformers import PrinterCallback, ProgressCallback

        logging.set_verbosity_error()
        settings, head = self._settings, LogisticRegression()
        arguments = TrainingArguments(
            output_dir=folder,
            batch_size=settings.batch_size,
            num_epochs=settings.epochs,
            num_iterations=settings.iterations,
            # As many as the epochs have; told of them, the library makes the pairs that it shows, and not those of every two rows.
            max_steps=math.ceil(2 * settings.iterations * len(texts) / settings.batch_size)
            * settings.epochs,
            body_learning_rate=settings.lr,
            seed=seed,
            show_progress_bar=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
        )
        trainer = Trainer(
            model=SetFitModel(model_body=self._encoder, model_head=head), args=arguments
        )
        for callback in (PrinterCallback, ProgressCallback):  # they print to stdout
            trainer.remove_callback(callback)
        trainer.st_trainer.args.dataloader_pin_memory = self._device == "cuda"
        trainer.train_embeddings(texts, labels, args=arguments)
        trainer.train_classifier(texts, labels, args=arguments)
        return head

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return the class probabilities, (texts, classes); a class that no row had gets 0."""
        import numpy as np

        probabilities = np.zeros((len(texts), len(self._classes)))
        with threads(self._settings.threads):
            vectors = self._encoder.encode(
                list(texts), batch_size=SCORING_BATCH, show_progress_bar=False
            )
        probabilities[:, self._head.classes_] = self._head.predict_proba(vectors)
        return probabilities

    def probe(self) -> None:
        """Load the library and the weights."""
        import setfit  # noqa: F401 - an ImportError would be the finding

        _ = self._pretrained

    def save(self, folder: Path) -> None:
        """Write the encoder, and the head's weights."""
        from safetensors.numpy import save_file

        self._encoder.save_pretrained(str(folder), create_model_card=False)
        save_file(
            {
                "coef": self._head.coef_,
                "intercept": self._head.intercept_,
                "classes": self._head.classes_,
            },
            folder / HEAD,
        )

    def load(self, folder: Path) -> None:
        """Read the head that `save` wrote; the encoder is that of the settings' `model`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from sklearn.linear_model import LogisticRegression

        try:
            weights = load_file(folder / HEAD)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        self._head = LogisticRegression()
        self._head.coef_, self._head.intercept_, self._head.classes_ = (
            weights["coef"],
            weights["intercept"],
            weights["classes"],
        )

    @cached_property
    def _encoder(self) -> Any:
        from sentence_transformers import SentenceTransformer

        try:
            encoder = SentenceTransformer(
                self._place, revision=self._settings.revision, device=self._device
            )
        except Exception as error:
            # The libraries raise a dozen unrelated classes for a folder that is damaged, foreign or not there.
            hint = "give a sentence encoder's folder, a hub id that can be reached, or minilm"
            raise UserError(
                f"classifiers: model '{self._place}' cannot be loaded: {first_line(error)}", hint
            ) from None
        encoder.max_seq_length = min(
            self._settings.max_length, encoder.max_seq_length or self._settings.max_length
        )
        return encoder

    @cached_property
    def _pretrained(self) -> "dict[str, torch.Tensor]":
        """The weights that each fit starts from."""
        return {name: weight.clone() for name, weight in self._encoder.state_dict().items()}
