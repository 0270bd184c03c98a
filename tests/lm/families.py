"""Shared by the LM's tests: families of models, scripted models, reference passes."""

import itertools
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gpt3mix_cli.lm import Completion, Request
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.settings import LocalLMSettings

FAMILIES = ["llama-bytes", "gpt2-bytes", "llama-characters", "llama-pieces"]
LABEL_PREFIX = " (Sentiment:"
CHOICES = (" Positive", " Negative")
HEADER = "The sentiment is one of 'positive' or 'negative'.\n\n"
PROMPTS = [
    f"{HEADER}Movie review: A gorgeous, witty film. (Sentiment: Positive)\n"
    "Movie review: so bad (Sentiment:",
    "Movie review: fine (Sentiment:",
    f"{HEADER}Movie review: It 's a mess and it knows it , and so do we all (Sentiment:",
    "Café, naïve – 映画 (Sentiment:",
    "The sentiment is:",
]
OPEN_PROMPTS = [
    f"{HEADER}Movie review: A gorgeous, witty film. (Sentiment: Positive)\nMovie review:",
    "Movie review:",
    "A list of films\n\nText:",
]
SURE = 40.0  # a logit that leaves the rest less than e-15


# Families -----------------------------------------------------------------------------------------


def bytes_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level BPE, its own word pattern, no token before the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def listed_tokenizer(pieces: Sequence[str]) -> PreTrainedTokenizerFast:
    """Every character and every given piece is a token, so that a model's text can be scripted."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = ["<end>", "<unknown>", *dict.fromkeys([*pieces, *characters])]
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(vocabulary)}, unk_token="<unknown>")
    )
    longest_first = sorted(pieces, key=len, reverse=True)
    pattern = "|".join(
        [
            "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in piece)
            for piece in longest_first
        ]
        + ["[\\s\\S]"]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", unk_token="<unknown>"
    )


def pieces_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Llama 2's kind: a marker for spaces, one before the text, byte fallback, a BOS token."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        ),
    )
    model = json.loads(trained.to_str())["model"]
    learned = [piece for piece, _ in sorted(model["vocab"].items(), key=lambda pair: pair[1])]
    vocabulary = [*learned[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *learned[3:]]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocabulary)},
            [tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def random_llama(tokenizer: PreTrainedTokenizerFast, **options: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=None, initializer_range=0.2, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, model: Any) -> Path:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def local(folder: Path | str, batch_size: int = 4) -> LocalLM:
    return LocalLM(
        LocalLMSettings(
            kind="local", model=str(folder), dtype="float32", device="cpu", batch_size=batch_size
        )
    )


# Reference passes: one sequence at a time, no padding, no cache -----------------------------------


def plain_logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float()


def plain_score(model: Any, tokenizer: Any, context: str, choice: str) -> float:
    before, whole = tokenizer(context)["input_ids"], tokenizer(context + choice)["input_ids"]
    assert whole[: len(before)] == before, (
        "the reference needs a choice that begins with a token of its own"
    )
    logprobs = plain_logits(model, whole).log_softmax(-1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(len(before), len(whole)))


def plain(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval(), AutoTokenizer.from_pretrained(folder)


def request(number: int = 0, **options: Any) -> Request:
    return Request(
        **{"number": number, "prompt": OPEN_PROMPTS[0], "seed": number, "max_tokens": 12, **options}
    )


def answers(lm: LocalLM, requests: Sequence[Request]) -> list[Completion]:
    return list(lm.complete(requests))


def with_memory_for(
    monkeypatch: pytest.MonkeyPatch,
    lm: LocalLM,
    texts: int,
    error: type[Exception] = torch.OutOfMemoryError,
) -> list[int]:
    """Let the model run out of memory above `texts` rows; return the rows of each call."""
    forward, seen = type(lm._decoder.model).forward, []

    def limited(model: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(options["input_ids"]))
        if seen[-1] > texts:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(model, *args, **options)

    monkeypatch.setattr(type(lm._decoder.model), "forward", limited)
    return seen


def added(tokenizer: PreTrainedTokenizerFast, prompt: list[int], tokens: list[int]) -> str:
    """Return what tokens add to a prompt, up to a special token.

    Without the prompt a Llama-2 decoder would drop their first space.
    """
    tokens = list(itertools.takewhile(lambda token: token not in tokenizer.all_special_ids, tokens))
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(prompt + tokens, **options).removeprefix(
        tokenizer.decode(prompt, **options)
    )


def text_of(completions: Sequence[Completion]) -> list[str]:
    return [completion.text for completion in completions]


# Scripted models: the next token depends on the last one alone ------------------------------------


def scripted(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    table: dict[str, dict[str, float]],
    noise: float = 0,
    **options: Any,
) -> Path:
    """A Llama whose layers add nothing: the logits are the table's, {token: {next token: logit}}.

    Other logits are 0. With noise the earlier tokens shift the logits a little.
    """
    size = len(tokenizer) + len(tokenizer) % 2
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=2, num_hidden_layers=1,
        num_attention_heads=1, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=None, rms_norm_eps=1e-12,
        **{"max_position_embeddings": 128, **options},
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.v_proj.weight.copy_(torch.eye(size))
        layer.self_attn.o_proj.weight.normal_(
            std=1, generator=torch.Generator().manual_seed(0)
        ).mul_(noise)
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for last, following in table.items():
            for piece, logit in following.items():
                model.lm_head.weight[index(tokenizer, piece), index(tokenizer, last)] = (
                    logit / math.sqrt(size)
                )
    return saved(folder, tokenizer, model)


def index(tokenizer: PreTrainedTokenizerFast, piece: str) -> int:
    token = tokenizer.convert_tokens_to_ids(piece)
    assert token is not None
    assert token != tokenizer.unk_token_id, piece
    return token


def chain(*pieces: str) -> dict[str, dict[str, float]]:
    return {a: {b: SURE} for a, b in pairwise(pieces)}


def spelled(tokenizer: PreTrainedTokenizerFast, before: str, after: str) -> list[str]:
    """The tokens of `after` where it follows `before`."""
    first, whole = (tokenizer.tokenize(text) for text in (before, before + after))
    assert whole[: len(first)] == first
    return whole[len(first) :]
