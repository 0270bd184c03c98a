"""Token counts of a local LM without torch and transformers, whose imports take seconds.

A plan asks no more of an LM. The tokens are those of the model's tokenizer.json. What the
transformers library changes about them is not known here, so `lazy_lm` compares both counts once a
model is opened. A model without such a file, or whose prompts are chats, needs the library.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...pretrained import lm_path
from ...settings import LocalLMSettings
from ...user_cache import hash_large_file, hub_snapshot
from .model_cache import model_folder
from .tokenization import UNLIMITED_CONTEXT_TOKENS, PromptTokenizer

CAUSAL_LMS = ("ForCausalLM", "LMHeadModel")  # ends of the names of architectures


class _FastTokenizer:
    """A tokenizer.json, as `PromptTokenizer` calls the tokenizers of the transformers library."""

    all_special_ids = ()
    bos_token_id = eos_token_id = None

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoding.ids}


def open_token_counter(settings: LocalLMSettings) -> Callable[[str], int] | None:
    """Return a function that counts the tokens of a prompt; None if it needs the library.

    Args:
        settings: of the LM.
    """
    if settings.prompt == "chat":
        return None
    try:
        folder = _model_folder(settings)
        size = _read_json(folder / "config.json").get("vocab_size", math.inf)
        tokenizer = _FastTokenizer(folder / "tokenizer.json")
    except Exception:  # also that of tokenizers; whoever opens the model says what is wrong
        return None
    prompts = PromptTokenizer(tokenizer, settings.model, num_embeddings=size)
    return lambda text: len(prompts.encode(text))


def read_context_length(settings: LocalLMSettings) -> int | None:
    """Return the context length of a causal LM from its files; None if they do not say it.

    Args:
        settings: of the LM.
    """
    try:
        folder = _model_folder(settings)
        config = _read_json(folder / "config.json")
        architectures = config.get("architectures") or [""]
        limits = [
            config["max_position_embeddings"],
            _read_json(folder / "tokenizer_config.json")["model_max_length"],
            UNLIMITED_CONTEXT_TOKENS,
        ]
        known = all(name.endswith(CAUSAL_LMS) for name in architectures)
        return int(min(limits)) if known else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _model_folder(settings: LocalLMSettings) -> Path:
    model = lm_path(settings.model)
    path = Path(model).expanduser()
    if path.is_file():  # GGUF
        return model_folder(hash_large_file(path))
    folder = path if path.is_dir() else hub_snapshot(model, settings.revision)
    if folder is None or settings.gguf_file:
        raise FileNotFoundError(model)
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value
