"""Translators in one direction: a sequence-to-sequence model of transformers (Marian, FSMT, BART), or Apertium's rules.

Limits: texts are cut at the model's length, and models that must be told their languages (M2M, NLLB) are not served.
"""

import functools
import hashlib
import os
import random
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UserError, first_line
from ..files import hash_file, hash_model
from ..pretrained import load_pretrained, move_to, out_of_memory, resolve_device
from ..settings import BacktranslateSettings, fingerprint

if TYPE_CHECKING:
    import torch

ENDLESS = 1_000_000  # tokenizers without a limit name one far above this
APERTIUM_BATCH = 1000  # texts a process: starting one costs as much as translating some hundred


class Translator(Protocol):
    """Translates in one direction."""

    def translate(
        self, texts: Sequence[str], candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Return up to so many candidates of each text, best first, at least one.

        Args:
            texts: non-empty, each on one line.
            candidates: the most that are wanted of each.
            seeds: of what is drawn for each text; a translator that draws nothing passes over them.
        """


def open_translator(settings: BacktranslateSettings, model: str, sha: str | None) -> Translator:
    """Return the translator of a model, or of an Apertium pair.

    Args:
        settings: of the method.
        model: a folder, hub id or pair.
        sha: its `translator_fingerprint`; a changed model is loaded anew.

    Raises:
        UserError: if it is not installed or cannot be loaded.
    """
    return Apertium(model) if settings.engine == "apertium" else Transformers(settings, model, sha)


def translator_fingerprint(settings: BacktranslateSettings, model: str) -> str | None:
    """Return what tells a translator's versions apart, without loading it.

    A hash of a model folder's files, of a hub model's id and revision, or of Apertium's version, programs and data; None
    where Apertium has no such pair, which is said when it is first needed.
    """
    if settings.engine == "apertium":
        return _apertium_fingerprint(model)
    folder = Path(model).expanduser()
    return (
        hash_model(folder)
        if folder.is_dir()
        else fingerprint([model, settings.revisions.get(model)])
    )


# Transformers --------------------------------------------------------------------------------------------------------


class Transformers:
    """A model in this process, in float32. Beam search at temperature 0, else each text's own draw."""

    def __init__(self, settings: BacktranslateSettings, model: str, sha: str | None) -> None:
        """Load the model, unless this process has it already.

        Raises:
            UserError: if it cannot be loaded, a package is missing, or the device cannot be used.
        """
        self._settings = settings
        self._tokenizer, self._model = _kept_model(
            model, settings.revisions.get(model), settings.device, sha
        )
        limits = (
            getattr(self._model.config, "max_position_embeddings", None),
            self._tokenizer.model_max_length,
        )
        self._longest = min((limit for limit in limits if limit and limit < ENDLESS), default=None)
        # One place is taken by the token that starts the translation.
        self._max_tokens = (
            min(settings.max_tokens, self._longest - 1) if self._longest else settings.max_tokens
        )

    def translate(
        self, texts: Sequence[str], candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Translate the texts together; where memory runs out, in halves."""
        import torch

        try:
            with _silence(), torch.inference_mode():
                return self._translate(list(texts), candidates, seeds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(texts) == 1:
                raise UserError(
                    f"back-translation: a single text does not fit the memory: {first_line(error)}",
                    "lower max_tokens or beams",
                ) from None
        half = len(texts) // 2
        return self.translate(texts[:half], candidates, seeds[:half]) + self.translate(
            texts[half:], candidates, seeds[half:]
        )

    def _translate(
        self, texts: list[str], candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        temperature, place = self._settings.temperature, self._model.device
        rows = self._tokenizer(
            texts,
            padding=True,
            truncation=self._longest is not None,
            max_length=self._longest,
            return_tensors="pt",
        )
        if temperature:
            candidates = 1
            how = {"num_beams": 1, "logits_processor": [_Draw(temperature, seeds)]}
        else:
            how = {"num_beams": self._settings.beams, "num_return_sequences": candidates}
        tokens = self._model.generate(
            input_ids=rows["input_ids"].to(place),
            attention_mask=rows["attention_mask"].to(place),
            max_new_tokens=self._max_tokens,
            do_sample=False,
            **how,
        )
        written = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [written[start : start + candidates] for start in range(0, len(written), candidates)]


class _Draw:
    """Leaves each row the one token that its own random number falls on, so that no row's draw depends on its neighbours.

    The library's sampling takes all rows' numbers from one global generator.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [random.Random(seed) for seed in seeds]  # noqa: S311 - translations, not secrets

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        weights = ((scores - scores.amax(-1, keepdim=True)).double() / self._temperature).exp()
        sums = weights.cumsum(-1)
        numbers = torch.tensor(
            [[generator.random()] for generator in self._generators], dtype=torch.float64
        ).to(sums.device)
        # Below the sum even when it is rounded: what lies beyond would be a token without weight.
        drawn = torch.searchsorted(sums, numbers.clamp(max=1 - 1e-12) * sums[:, -1:], right=True)
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)


@functools.lru_cache(maxsize=8)  # three pivots both ways, and more than most memories hold
def _kept_model(name: str, revision: str | None, device: str, sha: str | None) -> tuple[Any, Any]:
    """Return tokenizer and model; `sha` stands for the files, so that changed ones are loaded anew."""
    import torch

    what = f"back-translation: {name} cannot be loaded as a translation model"
    hint = "give a model's folder or a hub id that can be reached (pivot, forward, backward), or `engine: apertium`"
    with _silence():
        tokenizer = load_pretrained("AutoTokenizer", name, what, hint, revision=revision)
        model = load_pretrained(
            "AutoModelForSeq2SeqLM", name, what, hint, revision=revision, dtype=torch.float32
        )
    device = resolve_device(device, "back-translation: device")
    return tokenizer, move_to(device, model, what).eval()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' load reports, bars and advice off the terminal, and leave its settings as they were."""
    from transformers.utils import logging as untyped

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


class Apertium:
    """Apertium's command, many texts a process; an empty line between two keeps words from wandering.

    Its tagger (3.8.3, English) remembers rare words of earlier texts, which may turn a choice in a later one: a text's
    translation can depend on its batch, whose texts and order are fixed. No flush resets that, only a process a text.
    """

    def __init__(self, pair: str) -> None:
        """Look whether the pair is installed.

        Raises:
            UserError: if it is not.
        """
        self._pair = pair
        # A package serves both directions and is named after one of them.
        turned = "-".join(reversed(pair.split("-")))
        remedy = f"apt-get install apertium apertium-{pair}, or apertium-{turned} where that is the package's name"
        if not shutil.which("apertium"):
            raise UserError("back-translation: the program `apertium` is not installed", remedy)
        pairs = _run("-l").split()
        if pair not in pairs:
            known = ", ".join(pairs) or "none"
            raise UserError(
                f"back-translation: Apertium has no pair '{pair}' here (it has {known})", remedy
            )

    def translate(
        self, texts: Sequence[str], candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Translate the texts in one process; in halves where what comes back is not one text each."""
        # NUL, alone among the signs that may stand in a text, ends what Apertium reads.
        written = _run("-u", self._pair, text="\n\n".join(text.replace("\0", "") for text in texts))
        if len(texts) == 1:
            return [[" ".join(written.split())]]
        parts = written.strip("\n").split("\n\n")
        if len(parts) == len(texts) and all(part.strip() for part in parts):
            return [[" ".join(part.split())] for part in parts]
        half = len(texts) // 2
        return self.translate(texts[:half], candidates, seeds[:half]) + self.translate(
            texts[half:], candidates, seeds[half:]
        )


def _run(*arguments: str, text: str = "") -> str:
    try:
        command = ["apertium", *arguments]
        done = subprocess.run(
            command, input=text.encode(errors="replace"), capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        message = f"back-translation: `apertium {' '.join(arguments)}` failed: {said}"
        raise UserError(message, "try it in a shell") from None
    return done.stdout.decode(errors="replace")


def _apertium_fingerprint(pair: str) -> str | None:
    """Return a hash of Apertium's version and of every program and data file that the pair's mode runs."""
    program = shutil.which("apertium")
    folder = Path(
        os.environ.get("APERTIUM_DATADIR")
        or Path(program or "").resolve().parent.parent / "share" / "apertium"
    )
    mode = folder / "modes" / f"{pair}.mode"
    if not program or not mode.is_file():
        return None
    digest = hashlib.sha256(_run("-V").encode())
    for word in shlex.split(mode.read_text("utf-8")):
        place = Path(shutil.which(word) or word)
        digest.update(
            f"{word} {_sha(place, place.stat().st_mtime_ns) if place.is_file() else ''}\n".encode()
        )
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=128)
def _sha(path: Path, changed: int) -> str:
    return hash_file(path)
