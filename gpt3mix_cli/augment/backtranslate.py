"""Back-translation (Fadaee et al., 2017): into a pivot language and back, with transformers or with Apertium.

The transformers engine takes a model a direction (OPUS-MT by default, which needs sentencepiece); copy c of a parent is
candidate c of the way back, modulo the beam width. Apertium translates by rules, without a download, and has one
candidate, which later copies repeat. Limits: texts are cut at the model's length, models that must be told their
languages (M2M, NLLB) are not served, and a translation may lose what the label rests on.
"""

import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..files import model_sha
from ..pretrained import loaded
from ..records import Augmented, Example
from ..settings import Backtranslate, Task, fingerprint
from . import Free, edited

FORMAT = 1  # raised when the same settings would give other rows
DEFAULTS = {
    "transformers": ("Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en"),
    "apertium": ("eng-spa", "spa-eng"),
}
APERTIUM_BATCH = 1000  # sentences a process: starting one costs as much as translating some hundred
ENDLESS = 1_000_000  # tokenizers without a limit name one far above this


class _Engine(Protocol):
    """Translates in one direction."""

    def translate(self, texts: list[str]) -> list[list[str]]:
        """Return the candidates of each text, best first, at least one. Texts are non-empty and on one line."""


class BackTranslation(Free):
    """Rewrites each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(self, settings: Backtranslate, task: Task) -> None:
        """Keep the settings and the classes; the engines are opened when they are first needed."""
        self._settings, self._classes = settings, task.classes
        default = DEFAULTS[settings.engine]
        self._forward, self._backward = settings.forward or default[0], settings.backward or default[1]
        self._batch = APERTIUM_BATCH if settings.engine == "apertium" else settings.batch_size
        self._engines: tuple[_Engine, _Engine] | None = None
        self._known: tuple[str, dict[str, list[str]]] = "", {}
        self.about: dict[str, Any] = {
            "method": settings.name,
            "kind": "backtranslate",
            "engine": settings.engine,
            "forward": self._forward,
            "backward": self._backward,
            "classes": task.classes,
            "format": FORMAT,
        }
        if settings.engine == "apertium":
            self.about["fingerprint"] = _apertium_version()
        else:
            self.about |= settings.model_dump(include={"beams", "max_tokens", "batch_size", "device"})
            # A hub model is known by its id alone, since nothing is loaded yet.
            places = [Path(self._forward), Path(self._backward)]
            self.about["fingerprint"] = fingerprint([model_sha(place) if place.is_dir() else str(place) for place in places])

    def generate(self, examples: Sequence[Example], first: int, count: int, seed: int) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n, whatever the seed."""
        texts = [" ".join(row.text.split()) for row in examples]
        batches = self._batches(texts)
        # A later draw has the same parents; those of another cell would come in other batches.
        key = fingerprint(texts)
        if self._known[0] != key:
            self._known = key, {}
        known = self._known[1]
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            row, text = examples[parent], texts[parent]
            if text and text not in known:
                known.update(self._there_and_back(batches[text]))
            candidates = known.get(text, [text])
            written = candidates[copy % len(candidates)].strip() or row.text
            yield edited(row, written, copy, attempt, self._settings.name, self._classes)

    def _batches(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """Return the batch of each text: alike in length, and the same however many rows are asked for."""
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        batches = [distinct[start : start + self._batch] for start in range(0, len(distinct), self._batch)]
        return {text: batch for batch in batches for text in batch}

    def _there_and_back(self, texts: list[str]) -> dict[str, list[str]]:
        if self._engines is None:
            self._engines = self._open(self._forward, 1), self._open(self._backward, self._settings.beams)
        there, back = self._engines
        # The parent's text stands in for an empty translation; engines take none.
        pivots = [" ".join(found[0].split()) for found in there.translate(texts)]
        written = [place for place, pivot in enumerate(pivots) if pivot]
        candidates = [[text] for text in texts]
        returned = back.translate([pivots[place] for place in written]) if written else []
        for place, found in zip(written, returned, strict=True):
            candidates[place] = [candidate.strip() or texts[place] for candidate in found]
        return dict(zip(texts, candidates, strict=True))

    def _open(self, name: str, candidates: int) -> _Engine:
        if self._settings.engine == "apertium":
            return _Apertium(name)
        return _Transformers(name, self._settings, candidates)


# Transformers --------------------------------------------------------------------------------------------------------


class _Transformers:
    """A sequence-to-sequence model in this process; float32 and beam search, so that each run gives the same."""

    def __init__(self, name: str, settings: Backtranslate, candidates: int) -> None:
        self._beams, self._candidates = settings.beams, candidates
        with _silence():
            self._tokenizer, self._model = _load(name, settings.device)
        limits = (getattr(self._model.config, "max_position_embeddings", None), self._tokenizer.model_max_length)
        self._longest = min((limit for limit in limits if limit and limit < ENDLESS), default=None)
        # One place is taken by the token that starts the translation.
        self._max_tokens = min(settings.max_tokens, self._longest - 1) if self._longest else settings.max_tokens

    def translate(self, texts: list[str]) -> list[list[str]]:
        import torch

        with _silence(), torch.inference_mode():
            rows = self._tokenizer(texts, padding=True, truncation=self._longest is not None, max_length=self._longest, return_tensors="pt")
            tokens = self._model.generate(
                input_ids=rows["input_ids"].to(self._model.device),
                attention_mask=rows["attention_mask"].to(self._model.device),
                max_new_tokens=self._max_tokens,
                num_beams=self._beams,
                num_return_sequences=self._candidates,
                do_sample=False,
            )
        written = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [written[start : start + self._candidates] for start in range(0, len(written), self._candidates)]


def _load(name: str, device: str) -> tuple[Any, Any]:
    import torch

    what = f"back-translation: {name} cannot be loaded as a translation model"
    hint = "give a model's folder or a hub id that can be reached (forward:, backward:), or `engine: apertium`"
    tokenizer = loaded("AutoTokenizer", name, what, hint)
    model = loaded("AutoModelForSeq2SeqLM", name, what, hint, dtype=torch.float32)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return tokenizer, model.to(place).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"back-translation: device '{place}' cannot be used: {reason}", "use auto or cpu") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' load reports, bars and advice off the terminal, and leave its settings as they were."""
    try:
        from transformers.utils import logging as untyped
    except ImportError:
        yield  # `_load` says what is missing.
        return
    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Marian's tokenizer asks for a package that it does not use here.
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# Apertium ------------------------------------------------------------------------------------------------------------


class _Apertium:
    """Apertium's command, many sentences a process; an empty line between two keeps words from wandering."""

    def __init__(self, pair: str) -> None:
        self._pair = pair
        # A package serves both directions and is named after one of them.
        turned = "-".join(reversed(pair.split("-")))
        remedy = f"apt-get install apertium apertium-{pair}, or apertium-{turned} where that is the package's name"
        if not shutil.which("apertium"):
            raise UserError("back-translation: the program `apertium` is not installed", remedy)
        pairs = _run("-l").split()
        if pair not in pairs:
            known = ", ".join(pairs) or "none"
            raise UserError(f"back-translation: Apertium has no pair '{pair}' here (it has {known})", remedy)

    def translate(self, texts: list[str]) -> list[list[str]]:
        # NUL, alone among the signs that may stand in a text, ends what Apertium reads.
        written = _run("-u", self._pair, text="\n\n".join(text.replace("\0", "") for text in texts))
        if len(texts) == 1:
            return [[" ".join(written.split())]]
        parts = written.strip("\n").split("\n\n")
        if len(parts) == len(texts) and all(part.strip() for part in parts):
            return [[" ".join(part.split())] for part in parts]
        half = len(texts) // 2
        return self.translate(texts[:half]) + self.translate(texts[half:])


def _run(*arguments: str, text: str = "") -> str:
    try:
        command = ["apertium", *arguments]
        done = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        message = f"back-translation: `apertium {' '.join(arguments)}` failed: {said}"
        raise UserError(message, "try it in a shell") from None
    return done.stdout.decode(errors="replace")


def _apertium_version() -> str | None:
    # Where it is not installed, that is said when it is first needed.
    return _run("-V").partition("\n")[0] if shutil.which("apertium") else None
