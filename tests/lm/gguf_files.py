"""GGUF files for tests, written by `scripts/lm_to_gguf.py` or with the package gguf."""

import runpy
from pathlib import Path
from typing import Any

import numpy
from gguf import GGUFWriter

from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.settings import LocalLMSettings

CONVERTER = Path(__file__).parents[2] / "scripts" / "lm_to_gguf.py"


def write_gguf(folder: Path, path: Path) -> Path:
    """Write the model of a folder as a GGUF file."""
    runpy.run_path(str(CONVERTER))["convert"](folder, path)
    return path


def local(model: Path | str, callbacks: Callbacks = NO_CALLBACKS, **keys: Any) -> LocalLM:
    settings = LocalLMSettings(kind="local", model=str(model), device="cpu", **keys)
    return LocalLM(settings, callbacks=callbacks)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small(path: Path, architecture: str, tokens: int = 8, embeddings: int = 8) -> Path:
    """Write a file with a tokenizer and nothing but embeddings."""
    writer = GGUFWriter(path, architecture)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([f"t{token}" for token in range(tokens)])
        writer.add_token_merges(["t 0"])
    writer.add_tensor("token_embd.weight", numpy.zeros((embeddings, 32), numpy.float32))
    finish(writer)
    return path
