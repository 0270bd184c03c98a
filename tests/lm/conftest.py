"""Tiny random models of each family, saved in Hugging Face format."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from families import (
    FAMILIES,
    bytes_tokenizer,
    listed_tokenizer,
    pieces_tokenizer,
    random_llama,
    saved,
)
from transformers import GPT2Config, GPT2LMHeadModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Models this small are slower on two threads, much slower if other processes share the cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tiny_lm: Path
) -> dict[str, Path]:
    lines = [f"Movie review: {text} (Sentiment: Positive)" for text in texts]
    root = tmp_path_factory.mktemp("families")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = bytes_tokenizer(lines, 350)
        gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=512,
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        saved(root / "gpt2-bytes", tokenizer, gpt2)
        characters = listed_tokenizer([])
        saved(root / "llama-characters", characters, random_llama(characters))
        pieces = pieces_tokenizer(lines, 400)
        saved(root / "llama-pieces", pieces, random_llama(pieces))
    return {"llama-bytes": tiny_lm, **{name: root / name for name in FAMILIES[1:]}}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]
