"""Translators: sequence-to-sequence models of transformers (Marian, FSMT, BART), and Apertium.

Each translates in one direction.

Limits: texts are truncated to the model's maximum length; models that need language codes (M2M,
NLLB) are not supported.
"""

import functools
import hashlib
import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import StoppedShort, UserError
from ..files import hash_file
from ..pretrained import load_config, load_model, load_tokenizer, out_of_memory, resolve_device
from ..quiet import quiet_transformers
from ..settings import BacktranslateSettings, fingerprint
from ..user_cache import hash_model

if TYPE_CHECKING:
    import torch

NO_LIMIT_TOKENS = 1_000_000  # a tokenizer without a limit reports a number far above this
APERTIUM_BATCH_SIZE = 1000  # texts per process: its start takes as long as some hundred texts


class Translator(Protocol):
    """Translates in one direction."""

    def translate(
        self, texts: Sequence[str], num_candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Return the translations of each text, best first, at least one.

        Args:
            texts: non-empty, each on one line.
            num_candidates: the most translations of a text.
            seeds: one for each text; a translator that does not sample ignores them.
        """


def open_translator(settings: BacktranslateSettings, model: str, sha: str | None) -> Translator:
    """Return the translator for a model or an Apertium pair.

    Args:
        settings: of the method.
        model: a folder, hub id or pair.
        sha: its `translator_fingerprint`; a model that changed is loaded again.

    Raises:
        UserError: if it is not installed or cannot be loaded.
    """
    return Apertium(model) if settings.engine == "apertium" else Transformers(settings, model, sha)


def translator_fingerprint(settings: BacktranslateSettings, model: str) -> str | None:
    """Return what identifies the version of a translator, without loading it.

    A hash of the files of a model folder, of the id and revision of a hub model, or of Apertium's
    version, programs and data. None if Apertium has no such pair; the first use raises an error.
    """
    if settings.engine == "apertium":
        return _apertium_fingerprint(model)
    if (folder := Path(model).expanduser()).is_dir():
        return hash_model(folder)
    return fingerprint([model, settings.revisions.get(model)])


# Transformers -------------------------------------------------------------------------------------


class Transformers:
    """A model in this process, in float32: beam search at temperature 0, otherwise sampling.

    It is loaded unless this process has loaded it before.

    Raises:
        UserError: if it cannot be loaded, a package is missing, or the device cannot be used.
    """

    def __init__(self, settings: BacktranslateSettings, model: str, sha: str | None) -> None:
        self._settings = settings
        revision = settings.revisions.get(model)
        self._tokenizer, self._model = _load_model(model, revision, settings.device, sha)
        limit = min(
            getattr(self._model.config, "max_position_embeddings", None) or NO_LIMIT_TOKENS,
            self._tokenizer.model_max_length or NO_LIMIT_TOKENS,
        )
        self._max_length = limit if limit < NO_LIMIT_TOKENS else None
        # One position is taken by the token that starts the translation.
        self._max_new_tokens = min(settings.max_tokens, limit - 1)

    def translate(
        self, texts: Sequence[str], num_candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Translate the texts in one batch; in halves if memory runs out."""
        import torch

        try:
            with quiet_transformers(), torch.inference_mode():
                return self._translate_batch(list(texts), num_candidates, seeds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(texts) == 1:
                raise StoppedShort(
                    "back-translation: not enough memory for a single text",
                    "lower max_tokens or beams",
                ) from None
        half = len(texts) // 2
        return [
            *self.translate(texts[:half], num_candidates, seeds[:half]),
            *self.translate(texts[half:], num_candidates, seeds[half:]),
        ]

    def _translate_batch(
        self, texts: list[str], num_candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        temperature, device = self._settings.temperature, self._model.device
        batch = self._tokenizer(
            texts,
            padding=True,
            truncation=self._max_length is not None,
            max_length=self._max_length,
            return_tensors="pt",
        )
        if temperature:
            num_candidates = 1
            search = {"num_beams": 1, "logits_processor": [_SeededSampler(temperature, seeds)]}
        else:
            search = {"num_beams": self._settings.beams, "num_return_sequences": num_candidates}
        tokens = self._model.generate(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            **search,
        )
        translations = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            translations[start : start + num_candidates]
            for start in range(0, len(translations), num_candidates)
        ]


class _SeededSampler:
    """A logits processor that samples each row's token with the row's own random generator.

    All other tokens get probability 0. So no row's sample depends on the other rows; the library's
    sampling draws for all rows from one global generator.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [random.Random(seed) for seed in seeds]  # noqa: S311 - not secrets

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        weights = ((scores - scores.amax(-1, keepdim=True)).double() / self._temperature).exp()
        sums = weights.cumsum(-1)
        numbers = torch.tensor(
            [[generator.random()] for generator in self._generators], dtype=torch.float64
        ).to(sums.device)
        # Stay below the sum even if it is rounded: beyond it are tokens of probability 0.
        drawn = torch.searchsorted(sums, numbers.clamp(max=1 - 1e-12) * sums[:, -1:], right=True)
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)


@functools.lru_cache(maxsize=8)  # three pivots in both directions, and more than most memories hold
def _load_model(name: str, revision: str | None, device: str, sha: str | None) -> tuple[Any, Any]:
    import torch

    problem = f"back-translation: {name} cannot be loaded as a translation model"
    hint = (
        "give a model's folder or a hub id that can be reached (pivot, forward, backward), "
        "or `engine: apertium`"
    )
    with quiet_transformers():
        config = load_config(name, problem, hint, revision=revision)
        tokenizer = load_tokenizer(name, problem, hint, config, revision=revision)
        model = load_model(
            "AutoModelForSeq2SeqLM",
            name,
            problem,
            hint,
            device=resolve_device(device, "back-translation: device"),
            optional=r".*\.embed_positions\.",  # old checkpoints lack these sines
            revision=revision,
            dtype=torch.float32,
        )
    return tokenizer, model


# Apertium -----------------------------------------------------------------------------------------


class Apertium:
    """Apertium's command line: many texts per process, separated by empty lines.

    Its tagger (3.8.3, English) remembers rare words of earlier texts, which may change a later
    translation. So a translation can depend on its batch, whose texts and order are fixed. Only a
    process for each text would avoid that.

    Raises:
        UserError: if the pair is not installed.
    """

    def __init__(self, pair: str) -> None:
        self._pair = pair
        # A package serves both directions and has the name of one of them.
        reverse = "-".join(reversed(pair.split("-")))
        remedy = (
            f"apt-get install apertium apertium-{pair} "
            f"(the package may be named apertium-{reverse})"
        )
        if not shutil.which("apertium"):
            raise UserError("back-translation: the program `apertium` is not installed", remedy)
        pairs = _run("-l").split()
        if pair not in pairs:
            installed = ", ".join(pairs) or "none"
            raise UserError(
                f"back-translation: Apertium's pair '{pair}' is not installed (only: {installed})",
                remedy,
            )

    def translate(
        self, texts: Sequence[str], num_candidates: int, seeds: Sequence[int]
    ) -> list[list[str]]:
        """Translate the texts in one process; in halves if its output is not one text for each."""
        # Apertium stops reading at a NUL, the one character of a text that it cannot take.
        output = _run("-u", self._pair, text="\n\n".join(text.replace("\0", "") for text in texts))
        if len(texts) == 1:
            return [[" ".join(output.split())]]
        parts = output.strip("\n").split("\n\n")
        if len(parts) == len(texts) and all(part.strip() for part in parts):
            return [[" ".join(part.split())] for part in parts]
        half = len(texts) // 2
        return [
            *self.translate(texts[:half], num_candidates, seeds[:half]),
            *self.translate(texts[half:], num_candidates, seeds[half:]),
        ]


def _run(*arguments: str, text: str = "") -> str:
    try:
        process = subprocess.run(
            ["apertium", *arguments],
            input=text.encode(errors="replace"),
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise UserError(
            f"back-translation: `apertium {' '.join(arguments)}` failed: {reason}",
            "run the command in a shell to see why",
        ) from None
    return process.stdout.decode(errors="replace")


def _apertium_fingerprint(pair: str) -> str | None:
    """Return a hash of Apertium's version and of each program and data file that the pair uses."""
    program = shutil.which("apertium")
    folder = Path(
        os.environ.get("APERTIUM_DATADIR")
        or Path(program or "").resolve().parent.parent / "share" / "apertium"
    )
    mode = folder / "modes" / f"{pair}.mode"
    if not program or not mode.is_file():
        return None
    digest = hashlib.sha256(_apertium_version(program, Path(program).stat().st_mtime_ns).encode())
    for word in shlex.split(mode.read_text("utf-8")):
        path = Path(shutil.which(word) or word)
        sha = _file_sha(path, path.stat().st_mtime_ns) if path.is_file() else ""
        digest.update(f"{word} {sha}\n".encode())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _apertium_version(program: str, mtime: int) -> str:
    return _run("-V")


@functools.lru_cache(maxsize=128)
def _file_sha(path: Path, mtime: int) -> str:
    return hash_file(path)
