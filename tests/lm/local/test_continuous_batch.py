"""Batches against reference passes over the same tokens: one row, no padding, no cache."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    CHOICES,
    HEADER,
    OPEN_PROMPTS,
    answers,
    local,
    plain,
    plain_logits,
    request,
    saved,
    with_memory_for,
)
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)  # fmt: skip

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm import Request
from gpt3mix_cli.lm.local import prompt_reader
from gpt3mix_cli.lm.local.continuous_batch import ContinuousBatch, Row, run_rows
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.settings import LocalLMSettings

# Label prefixes that random models reach often, inside longer tokens, and hardly ever.
LABEL_PREFIXES = ["e", ":", " (", " (Sentiment:"]
LABELS = {
    "one and several tokens": CHOICES,
    "one begins another": (" Positive", " Positive)", " Pos"),
    "one character": (" a", " b", " c"),
}
SHARING = [
    f"{HEADER}Movie review: {text} (Sentiment: Positive)\nMovie review:"
    for text in ("A joy.", "so bad", "It 's a mess and it knows it ,", "x")
]
PROMPTS = {
    "sharing a header": SHARING,
    "equal": SHARING[:1] * 3,
    "with nothing in common": OPEN_PROMPTS,
    "one token and more": ["a", "Movie review:", "b"],
}


def filled_rows(lm: LocalLM, requests: Sequence[Request], max_rows: int) -> list[Row]:
    rows = [
        lm._prepare(asked.prompt, asked.label_prefix, asked.choices, asked) for asked in requests
    ]
    run_rows(lm._decoder, rows, max_rows)
    return rows


def summed(model: Any, before: Sequence[int], after: Sequence[int]) -> float:
    """Return the log-probability of some tokens after others, by one reference pass."""
    whole = [*before, *after]
    logprobs = plain_logits(model, whole).double().log_softmax(-1)
    return sum(
        float(logprobs[position - 1, whole[position]])
        for position in range(len(before), len(whole))
    )


def check(lm: LocalLM, rows: Sequence[Row]) -> Counter[str]:
    """Compare every row with reference passes; return how often rows ended in each way."""
    ways: Counter[str] = Counter()
    for row in rows:
        asked = row.request
        assert asked
        assert row.logprob == pytest.approx(
            summed(lm._decoder.model, row.prompt, row.generated), abs=1e-3
        )
        if row.ending is None:
            assert (row.scores, len(row.generated)) == (None, asked.max_tokens)
            ways["length"] += 1
            continue
        longest = max(map(len, row.choices), default=0)
        context = row.ending.context
        if len(context) + longest > lm._decoder.context_length:  # it reads longer than it was
            assert row.scores is None
            continue
        expected = [summed(lm._decoder.model, context, choice) for choice in row.choices]
        assert row.scores == (pytest.approx(expected, abs=1e-4) if expected else None)
        fits = row.ending.context[: len(row.prompt) + len(row.generated) - 1] == [
            *row.prompt,
            *row.generated[:-1],
        ]
        end = "end token" if row.generated[-1] in lm._tokenizer.end_tokens else row.ending.finish
        ways[end if fits else f"{end}, straddled"] += 1
    return ways


def mixed(
    prompts: Sequence[str], choices: Sequence[str], count: int, **options: Any
) -> list[Request]:
    """Requests that differ in everything in which rows of a block may differ."""
    return [
        request(
            i,
            prompt=prompts[i % len(prompts)],
            label_prefix=LABEL_PREFIXES[i % len(LABEL_PREFIXES)],
            choices=choices,
            max_tokens=3 + 7 * i % 23,
            temperature=0.5 + i % 3 / 2,
            **options,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("prompts", "max_rows"),
    [
        *((prompts, 3) for prompts in PROMPTS),
        ("sharing a header", 1),
        ("sharing a header", 2),
        ("with nothing in common", 16),
    ],
)
def test_rows_equal_reference_passes(folder: Path, prompts: str, max_rows: int) -> None:
    """Few slots for many rows: rows leave and join, and the cache moves and grows."""
    lm = local(folder)
    labels = list(LABELS.values())[len(prompts) % 3]
    check(lm, filled_rows(lm, mixed(PROMPTS[prompts], labels, 14), max_rows))


@pytest.mark.parametrize("tree_bytes", [1 << 30, 20_000, 0])
def test_shared_prefixes_change_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tree_bytes: int
) -> None:
    """A tree of several levels, equal prompts, prompts that begin others, and little memory."""
    monkeypatch.setattr(prompt_reader, "MIN_FLOPS_SAVED", 0)
    monkeypatch.setattr(prompt_reader, "TREE_BYTES", tree_bytes)
    first, second = SHARING[:2]
    prompts = [
        first,
        f"{first} a film\nMovie review:",
        f"{first} a film\nMovie review: long\nMovie review:",
        f"{first} a fish\nMovie review:",
        second,
        f"{second} x\nMovie review:",
        "Movie review:",
        "a",
    ]
    lm = local(folder)
    check(lm, filled_rows(lm, mixed(prompts, CHOICES, 24), 5))
    reader = prompt_reader.PromptReader(
        lm._decoder, [lm._tokenizer.encode(prompt) for prompt in [*prompts, *prompts]]
    )
    assert max(map(prompt_reader._depth, reader._prefixes), default=0) >= (
        3 if tree_bytes > 1e6 else 0
    )
    shared = sum(len(prefix.tokens) for prefix in reader._prefixes)
    assert shared * lm._decoder.bytes_per_token <= tree_bytes


@pytest.mark.parametrize("tokens", [1, 8, 60])
def test_prompts_in_small_passes_give_equal_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """Among them prompts of which a shared prefix is all, so that nothing is left to read."""
    monkeypatch.setattr(prompt_reader, "MIN_FLOPS_SAVED", 0)
    monkeypatch.setattr(prompt_reader, "CPU_PREFILL_TOKENS", tokens)
    prompts = [*SHARING[:2] * 4, f"{SHARING[0]} a film\nMovie review:", OPEN_PROMPTS[1], "a"]
    lm = local(folder)
    check(lm, filled_rows(lm, mixed(prompts, CHOICES, 30), 7))


@pytest.mark.parametrize("labels", LABELS)
def test_labels_equal_reference_passes(folder: Path, labels: str) -> None:
    lm = local(folder)
    rows = filled_rows(lm, mixed([*SHARING, *OPEN_PROMPTS], LABELS[labels], 16), 5)
    check(lm, rows)
    if labels == "one character":
        assert all(sum(map(math.exp, row.scores)) <= 1 + 1e-6 for row in rows if row.scores)


def test_rows_end_in_every_way(folders: dict[str, Path]) -> None:
    """Otherwise the tests above would not test all of them."""
    ways: Counter[str] = Counter()
    for folder in folders.values():
        lm = local(folder)
        ways += check(lm, filled_rows(lm, mixed(SHARING, CHOICES, 48), 12))
    assert {"length", "label_prefix", "line", "end token", "label_prefix, straddled"} <= set(
        ways
    ), ways


# Kinds of attention -------------------------------------------------------------------------------

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def save_and_open(folder: Path, like: Path, model: type, config: type, **options: Any) -> LocalLM:
    """A random model of another architecture, with the tokenizer of a family."""
    tokenizer = AutoTokenizer.from_pretrained(like)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return local(
            saved(
                folder,
                tokenizer,
                model(
                    config(
                        **{
                            **SIZES,
                            "vocab_size": len(tokenizer),
                            "initializer_range": 0.2,
                            **options,
                        }
                    )
                ),
            )
        )


MIXED_LAYERS = {
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
    "head_dim": 8,
}


@pytest.mark.parametrize(
    ("model", "config", "options"),
    [
        (LlamaForCausalLM, LlamaConfig, {}),
        (MistralForCausalLM, MistralConfig, {"sliding_window": 24}),
        (Gemma3ForCausalLM, Gemma3TextConfig, MIXED_LAYERS),
        (
            GptOssForCausalLM,
            GptOssConfig,
            {
                **MIXED_LAYERS,
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "rope_scaling": None,
            },
        ),
    ],
    ids=[
        "fewer heads for keys than for queries",
        "sliding",
        "sliding and full",
        "sliding and full, eager",
    ],
)
def test_kinds_of_attention_equal_reference_passes(
    tmp_path: Path, folders: dict[str, Path], model: type, config: type, options: dict[str, Any]
) -> None:
    """A sliding window must reach across gaps in rows, before short prompts and label prefixes."""
    lm = save_and_open(tmp_path, folders["gpt2-bytes"], model, config, **options)
    check(lm, filled_rows(lm, mixed(SHARING, CHOICES, 10), 3))


# What an answer does not depend on ----------------------------------------------------------------


def test_greedy_answers_do_not_depend_on_the_number_of_slots(folder: Path) -> None:
    requests = [
        request(
            i,
            prompt=SHARING[i % 4] if i % 3 else OPEN_PROMPTS[1],
            label_prefix=LABEL_PREFIXES[i % 2],
            choices=CHOICES,
            max_tokens=4 + i % 9,
            temperature=0,
            frequency_penalty=0.3,
        )
        for i in range(12)
    ]
    lm = local(folder, 12)
    whole = answers(lm, requests)
    for max_rows in (1, 2, 3, 5):
        lm._row_limit.max_rows = max_rows
        for actual, expected in zip(answers(lm, requests), whole, strict=True):
            assert replace(actual, scores=None, logprob=None) == replace(
                expected, scores=None, logprob=None
            )
            assert actual.logprob == pytest.approx(expected.logprob, abs=1e-3)
            if actual.scores and expected.scores:
                assert actual.scores.logprobs == pytest.approx(expected.scores.logprobs, abs=1e-4)


def test_equal_blocks_get_equal_answers_whatever_came_before(folder: Path) -> None:
    """To the last digit; blocks with other prompts, labels and beams in between leave no trace."""
    lm = local(folder, 8)
    lm._row_limit.max_rows = 3
    requests = mixed(SHARING, CHOICES, 8, top_p=0.9, frequency_penalty=0.1)
    first = answers(lm, requests)
    answers(lm, mixed(OPEN_PROMPTS, LABELS["one begins another"], 8))
    answers(lm, [request(beams=2)])
    lm.score([*SHARING, "a"], CHOICES)
    assert answers(lm, requests) == first


def test_retokenised_is_exact(folders: dict[str, Path]) -> None:
    """True if and only if the whole string has other tokens than the sequence."""
    counts: Counter[bool] = Counter()
    for folder in folders.values():
        lm = local(folder, 24)
        requests = mixed(SHARING, CHOICES, 24)
        for row, completion in zip(
            filled_rows(lm, requests, 24), answers(lm, requests), strict=True
        ):
            if row.ending is None:
                assert not completion.retokenised
                continue
            asked = row.request
            assert asked
            read = [*row.prompt, *row.generated]
            if completion.finish == "line":
                read = [
                    *read[:-1],
                    *lm._tokenizer.encode_continuations(".", [asked.label_prefix])[0],
                ]
            assert completion.retokenised == (
                lm._tokenizer.encode(asked.prompt + completion.text + asked.label_prefix) != read
            )
            counts[completion.retokenised] += 1
    assert min(counts[True], counts[False]) >= 3


# The edges of the context -------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [(), (" ",), (" Positive and then some",)])
def test_texts_fill_the_context_to_its_last_position(
    tmp_path: Path, folders: dict[str, Path], choices: tuple[str, ...]
) -> None:
    """GPT-2 has no embedding beyond: neither free slots nor padded choices may need one."""
    lm = save_and_open(
        tmp_path,
        folders["gpt2-bytes"],
        GPT2LMHeadModel,
        GPT2Config,
        n_positions=40,
        n_embd=32,
        n_layer=2,
        n_head=2,
    )
    requests = []
    for i in range(24):
        labels = choices if i % 2 else choices[:0] or (" ",)
        room = (
            40
            - len(lm._tokenizer.encode(OPEN_PROMPTS[i % 2 + 1]))
            - 1
            - max(
                (len(tokens) for tokens in lm._tokenizer.encode_continuations("e", labels)),
                default=0,
            )
        )
        requests.append(
            request(
                i,
                prompt=OPEN_PROMPTS[i % 2 + 1],
                label_prefix="e",
                choices=labels,
                max_tokens=room,
                temperature=1.2,
            )
        )
    check(lm, filled_rows(lm, requests, 5))
    assert "too_long" not in {completion.finish for completion in answers(lm, requests)}
    assert {
        completion.finish
        for completion in answers(
            lm, [replace(asked, max_tokens=asked.max_tokens + 1) for asked in requests]
        )
    } == {"too_long"}


def test_a_pad_token_beyond_the_embeddings_is_not_read(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """Often one is added to a Llama tokenizer and the model is not resized."""
    model, tokenizer = plain(folders["gpt2-bytes"])
    requests = [
        request(i, prompt=prompt, temperature=0, label_prefix=LABEL_PREFIXES[0], choices=CHOICES)
        for i, prompt in enumerate(OPEN_PROMPTS)
    ]
    expected = answers(local(folders["gpt2-bytes"]), requests)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert answers(local(saved(tmp_path, tokenizer, model)), requests) == expected


def test_an_empty_prompt_is_read_as_bos_or_eos(folder: Path) -> None:
    lm = local(folder)
    assert {
        completion.prompt_tokens
        for completion in answers(lm, [request(prompt=""), request(1, prompt="", beams=2)])
    } == {1}
    rows = filled_rows(
        lm,
        [
            request(i, prompt=prompt, label_prefix="e", choices=CHOICES)
            for i, prompt in enumerate(["", "a", "Movie review:"])
        ],
        3,
    )
    check(lm, rows)


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_is_finite_and_close(
    folder: Path, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding before a text attends to nothing, from which no NaN may come."""
    prompts = ["a", "b", *SHARING, *OPEN_PROMPTS]
    exact = local(folder, 16)
    half = LocalLM(
        LocalLMSettings(
            kind="local", model=str(folder), dtype="bfloat16", device="cpu", batch_size=16
        )
    )
    half._decoder.model.set_attn_implementation(attention)
    for actual, expected in zip(
        half.score(prompts, CHOICES), exact.score(prompts, CHOICES), strict=True
    ):
        assert actual.logprobs == pytest.approx(expected.logprobs, abs=0.5)
    half._row_limit.max_rows = 3
    for row in filled_rows(half, mixed(prompts, CHOICES, 18), 3):
        assert math.isfinite(row.logprob)
        assert row.scores is None or all(map(math.isfinite, row.scores))


def test_the_cache_stays_as_wide_as_its_texts(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred rows through four slots: unused columns are reused, so memory does not grow."""
    lm, widths = local(folders["gpt2-bytes"]), []
    forward = ContinuousBatch._forward

    def watched(window: Any, scored: Any) -> torch.Tensor:
        widths.append(tuple(window._cache.mask.shape))
        return forward(window, scored)

    monkeypatch.setattr(ContinuousBatch, "_forward", watched)
    rows = filled_rows(lm, mixed([*SHARING, *OPEN_PROMPTS], CHOICES, 100), 4)
    longest = max(len(row.prompt) for row in rows) + 26
    assert max(columns for _, columns in widths) <= 2 * longest + 64
    assert {slots for slots, _ in widths} >= {4, 1}, (
        "the last rows continue without the empty slots"
    )
    check(lm, rows[::7])


# Memory -------------------------------------------------------------------------------------------


def test_a_block_that_runs_out_of_memory_continues_with_half_as_many_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixed(SHARING, CHOICES, 12)
    expected = answers(local(folder, 12), requests)
    lm = local(folder, 12)
    seen = with_memory_for(monkeypatch, lm, 4)
    for actual, reference in zip(answers(lm, requests), expected, strict=True):
        assert (actual.text, actual.finish) == (reference.text, reference.finish)
        assert (actual.scores is None) == (reference.scores is None)
        if actual.scores and reference.scores:
            assert actual.scores.logprobs == pytest.approx(reference.scores.logprobs, abs=1e-4)
    assert lm._row_limit.max_rows == 3
    seen.clear()
    answers(lm, requests)
    assert max(seen) <= 4, "it is not tried again with every block"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_too_small_for_one_text_is_reported(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    lm = local(folders["gpt2-bytes"])
    with_memory_for(monkeypatch, lm, 0, error)
    with pytest.raises(UserError, match="not enough memory for a single text"):
        answers(lm, [request()])
    with pytest.raises(UserError, match="not enough memory for a single text"):
        lm.score(["a", "b"], CHOICES)


def test_memory_too_small_for_the_weights_is_reported(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    lm = local(folders["gpt2-bytes"])
    monkeypatch.setattr(GPT2LMHeadModel, "to", full)
    with pytest.raises(UserError, match="cannot be loaded as a causal LM: not enough memory"):
        answers(lm, [request()])


def test_other_errors_are_not_taken_for_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = local(folders["gpt2-bytes"])

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(type(lm._decoder.model), "forward", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        answers(lm, [request()])


# What cannot be served ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "config", "options"),
    [
        (MambaForCausalLM, MambaConfig, {}),
        (RwkvForCausalLM, RwkvConfig, {"attention_hidden_size": 32}),
        (BloomForCausalLM, BloomConfig, {"n_head": 2}),
        (
            GPTNeoForCausalLM,
            GPTNeoConfig,
            {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 2},
        ),
        (
            Llama4ForCausalLM,
            Llama4TextConfig,
            {"num_local_experts": 2, "intermediate_size_mlp": 32, "head_dim": 8},
        ),
    ],
    ids=["a state", "a state of its own", "no positions", "windows of its own", "chunks"],
)
def test_models_that_cannot_be_served_are_refused(
    tmp_path: Path, folders: dict[str, Path], model: type, config: type, options: dict[str, Any]
) -> None:
    lm = save_and_open(tmp_path, folders["gpt2-bytes"], model, config, **options)
    with pytest.raises(UserError, match=f"{model.__name__} .* cannot serve") as caught:
        answers(lm, [request()])
    assert "plain transformer" in caught.value.hint


def test_a_prompt_to_be_scored_beyond_the_context_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="context is 512"):
        local(folders["gpt2-bytes"]).score(["a", "b " * 600], CHOICES)
