"""Tiny random translators, saved as the hub's are: two Marians, and two FSMTs."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIZES = {
    f"{part}_{what}": size
    for part in ("encoder", "decoder")
    for what, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
} | {
    "d_model": 16,
    "max_position_embeddings": 64,
    "init_std": 0.5,
    "dropout": 0.0,
}


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    # Random decoders hardly listen to the encoder; a translation has to depend on its text.
    model.model.decoder.layers[0].encoder_attn.out_proj.weight.data *= 30
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def marian(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> tuple[Path, Path]:
    """Two random Marians, over SentencePiece models of a source and a (reversed) target
    language."""
    import sentencepiece
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder = tmp_path_factory.mktemp("pieces")
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1}
    for name, sentences in (("source", texts), ("target", [text[::-1] for text in texts])):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, vocab_size=200, minloglevel=2
        )
        (folder / f"{name}.spm").write_bytes(model.getvalue())
        found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        for number in range(3, found.get_piece_size()):  # after <unk>, <s> and </s>
            pieces.setdefault(found.id_to_piece(number), len(pieces))
    pieces["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces))
    pad = pieces["<pad>"]
    ends = {
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "bos_token_id": 0,
    }
    made = []
    for seed, name in enumerate(("en-de", "de-en")):
        tokenizer = MarianTokenizer(
            *(str(folder / file) for file in ("source.spm", "target.spm", "vocab.json"))
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MarianMTModel(MarianConfig(vocab_size=len(pieces), **SIZES, **ends))
        made.append(_saved(model, tokenizer, tmp_path_factory.mktemp(name)))
    return made[0], made[1]


@pytest.fixture(scope="session")
def fsmt(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> tuple[Path, Path]:
    """Two random FSMTs over letters and the merges of a few words; their tokenizer needs
    sacremoses."""
    pytest.importorskip("sacremoses")
    import torch
    from transformers import FSMTConfig, FSMTForConditionalGeneration, FSMTTokenizer

    letters = sorted(
        {letter for text in texts for letter in text if letter.isascii() and not letter.isspace()}
        | set("abcdefghijklmnopqrstuvwxyz")
    )
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *(letter + end for letter in letters for end in ("", "</w>")),
        "th",
        "the</w>",
        "in",
        "ing</w>",
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("t h 9\nth e</w> 8\ni n 7\nin g</w> 6\n")
    made = []
    for seed, langs in enumerate((["en", "de"], ["de", "en"])):
        tokenizer = FSMTTokenizer(
            langs,
            str(folder / "vocab.json"),
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = FSMTConfig(
                langs=langs, src_vocab_size=len(tokens), tgt_vocab_size=len(tokens), **SIZES
            )
            model = FSMTForConditionalGeneration(config)
        made.append(_saved(model, tokenizer, tmp_path_factory.mktemp("-".join(langs))))
    return made[0], made[1]


@pytest.fixture(params=["marian", "fsmt"])
def models(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """Each kind of translator in turn, on one thread: threads that wait for each other cost a
    hundred times what these models do."""
    import torch

    found: tuple[Path, Path] = request.getfixturevalue(request.param)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield found
    torch.set_num_threads(threads)
