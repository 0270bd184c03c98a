"""The local LM against reference passes, over four families of models, and scripted models."""

import math
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    CHOICES,
    HEADER,
    LABEL_PREFIX,
    OPEN_PROMPTS,
    PROMPTS,
    SURE,
    added,
    answers,
    chain,
    index,
    listed_tokenizer,
    local,
    pieces_tokenizer,
    plain,
    plain_logits,
    plain_score,
    request,
    saved,
    scripted,
    spelled,
    text_of,
)  # fmt: skip
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm import Completion, Request
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.settings import LocalLMSettings

# score() ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices",
    [
        CHOICES,
        (" Positive)", " Positive and then some)", " x"),
        (" 1", " 22", " Abbreviation", " Human being"),
    ],
    ids=["labels", "one begins another", "unequal lengths"],
)
def test_score_equals_a_reference_pass(folder: Path, choices: tuple[str, ...]) -> None:
    """Prompts of many lengths in blocks of 4: tests padding, positions and sums over tokens."""
    model, tokenizer = plain(folder)
    results = local(folder).score(PROMPTS, choices)
    assert [scores.source for scores in results] == ["exact"] * len(PROMPTS)
    for prompt, scores in zip(PROMPTS, results, strict=True):
        expected = [plain_score(model, tokenizer, prompt, choice) for choice in choices]
        assert scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_families_have_labels_of_one_token_and_of_several(folders: dict[str, Path]) -> None:
    """Otherwise the test above would not test both."""
    lengths = set()
    for folder in folders.values():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        lengths |= {
            len(tokenizer("a:" + choice)["input_ids"]) - len(tokenizer("a:")["input_ids"])
            for choice in CHOICES
        }
    assert 1 in lengths
    assert max(lengths) > 2


def test_score_does_not_depend_on_the_block(folder: Path) -> None:
    single, batched = (
        local(folder, 1).score(PROMPTS, CHOICES),
        local(folder, 8).score(PROMPTS, CHOICES),
    )
    for a, b in zip(single, batched, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_score_keeps_the_order_of_prompts_and_choices(folders: dict[str, Path]) -> None:
    lm = local(folders["gpt2-bytes"])
    forward, backward = lm.score(PROMPTS, CHOICES), lm.score(PROMPTS[::-1], CHOICES[::-1])
    for a, b in zip(forward, backward[::-1], strict=True):
        assert a.logprobs == pytest.approx(b.logprobs[::-1], abs=1e-4)
    assert len({scores.logprobs for scores in forward}) == len(PROMPTS)


def test_score_of_nothing_is_nothing(folders: dict[str, Path]) -> None:
    assert local(folders["gpt2-bytes"]).score([], CHOICES) == []


# complete(): the texts ----------------------------------------------------------------------------


def test_greedy_text_equals_generate(folder: Path) -> None:
    """Prompts of three lengths in one block, left-padded, against generate() on each alone."""
    model, tokenizer = plain(folder)
    completions = answers(
        local(folder),
        [
            request(i, prompt=prompt, max_tokens=40, temperature=0)
            for i, prompt in enumerate(OPEN_PROMPTS)
        ],
    )
    for prompt, completion in zip(OPEN_PROMPTS, completions, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=40,
                pad_token_id=0,
            )
        tokens = out[0, ids.shape[1] :].tolist()
        assert completion.text == added(tokenizer, ids[0].tolist(), tokens).split("\n")[0]
        assert completion.prompt_tokens == ids.shape[1]
        if completion.finish == "length":
            assert completion.completion_tokens == len(tokens) == 40


def test_tiny_top_p_equals_greedy(folder: Path) -> None:
    lm = local(folder)
    greedy = answers(
        lm, [request(i, prompt=prompt, temperature=0) for i, prompt in enumerate(OPEN_PROMPTS)]
    )
    for seed in (1, 2):
        drawn = answers(
            lm,
            [
                request(i, prompt=prompt, seed=seed, top_p=1e-6)
                for i, prompt in enumerate(OPEN_PROMPTS)
            ],
        )
        assert text_of(drawn) == text_of(greedy)


@pytest.mark.parametrize("penalty", [0.7, -0.7])
def test_frequency_penalty_equals_greedy_by_hand(folder: Path, penalty: float) -> None:
    """Logit minus penalty times the count; the prompt's tokens do not count."""
    model, tokenizer = plain(folder)
    (completion,) = answers(
        local(folder), [request(temperature=0, frequency_penalty=penalty, max_tokens=24)]
    )
    tokens, counts, generated = (
        tokenizer(OPEN_PROMPTS[0])["input_ids"],
        torch.zeros(len(tokenizer)),
        [],
    )
    for _ in range(24):
        token = int((plain_logits(model, tokens)[-1] - penalty * counts).argmax())
        counts[token] += 1
        tokens, generated = [*tokens, token], [*generated, token]
        if token in tokenizer.all_special_ids or "\n" in tokenizer.decode(generated):
            break
    text = added(tokenizer, tokenizer(OPEN_PROMPTS[0])["input_ids"], generated)
    assert completion.text == text.split("\n")[0]
    assert completion.completion_tokens == len(generated)


def test_frequency_penalty_lowers_repeats(folders: dict[str, Path]) -> None:
    lm = local(folders["llama-characters"])

    def repeats(penalty: float) -> int:
        completions = answers(
            lm,
            [
                request(i, prompt=prompt, max_tokens=40, temperature=0, frequency_penalty=penalty)
                for i, prompt in enumerate(OPEN_PROMPTS)
            ],
        )
        return sum(len(completion.text) - len(set(completion.text)) for completion in completions)

    assert repeats(2.0) < repeats(0.0)


def test_no_text_contains_a_line_end(folder: Path) -> None:
    """A random model at a high temperature generates line ends; texts stop before the first."""
    completions = answers(
        local(folder, 16), [request(i, max_tokens=60, temperature=1.5) for i in range(32)]
    )
    assert not any("\n" in text for text in text_of(completions))
    assert {"line", "length"} <= {completion.finish for completion in completions}


# complete(): what an answer depends on ------------------------------------------------------------


def test_an_answer_depends_on_its_block_and_seed_only(folder: Path) -> None:
    lm = local(folder)
    requests = [
        request(i, prompt=OPEN_PROMPTS[i % 3], label_prefix=LABEL_PREFIX, choices=CHOICES)
        for i in range(10)
    ]
    whole = answers(lm, requests)
    assert [completion.number for completion in whole] == list(range(10))
    assert answers(lm, requests) == whole
    assert answers(lm, requests[:4]) == whole[:4]
    assert answers(local(folder), requests[4:8]) == whole[4:8]
    other = answers(
        lm,
        [
            request(
                i,
                prompt=OPEN_PROMPTS[i % 3],
                seed=i + 1000,
                label_prefix=LABEL_PREFIX,
                choices=CHOICES,
            )
            for i in range(10)
        ],
    )
    assert not set(text_of(other)) & set(text_of(whole))


def test_a_request_draws_the_same_at_any_position_in_a_block(folder: Path) -> None:
    """Position and neighbours change only the last digits of the logits, too little for a draw."""
    lm = local(folder)
    requests = [request(i, prompt=OPEN_PROMPTS[i % 3]) for i in range(4)]
    assert text_of(answers(lm, requests[::-1]))[::-1] == text_of(answers(lm, requests))


def test_global_randomness_is_neither_used_nor_changed(folders: dict[str, Path]) -> None:
    lm = local(folders["llama-characters"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = answers(lm, [request()])
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert answers(lm, [request()]) == first


def test_a_neighbours_top_p_does_not_change_a_draw(folders: dict[str, Path]) -> None:
    lm = local(folders["llama-characters"])
    alone = answers(lm, [request(0), request(1)])
    mixed = answers(lm, [request(0), request(1, top_p=0.5)])
    assert mixed[0].text == alone[0].text


def test_a_neighbours_max_tokens_does_not_change_a_draw(folders: dict[str, Path]) -> None:
    lm = local(folders["llama-characters"])
    alone = answers(lm, [request(0), request(1)])
    mixed = answers(lm, [request(0), request(1, max_tokens=50)])
    assert mixed[0] == alone[0]


# Scripted models: the next token depends on the last one alone ------------------------------------


PIECES = [
    "Movie review:",
    " great",
    " film",
    " (Sentiment",
    "Sentiment",
    ":",
    " Positive",
    " Negative",
    " Pos",
    "itive",
    ".\n",
    ": ",
    " (Sentiment: ",
]
LABELS = {":": {" Positive": 3.0, " Negative": 2.0}}
START = {"Movie review:": {" great": SURE}}


@pytest.fixture(scope="module")
def listed() -> PreTrainedTokenizerFast:
    return listed_tokenizer(PIECES)


def ask(folder: Path, **options: Any) -> Completion:
    (completion,) = local(folder).complete(
        [
            request(
                **{
                    "prompt": "Movie review:",
                    "label_prefix": LABEL_PREFIX,
                    "choices": CHOICES,
                    **options,
                }
            )
        ]
    )
    return completion


# The scores after the label prefix, by the table: two labels at 3 and 2, every other token at 0.


def label_scores(size: int) -> list[float]:
    total = math.log(math.exp(3) + math.exp(2) + size - 2)
    return [3 - total, 2 - total]


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    return len(tokenizer) + len(tokenizer) % 2


def test_a_text_that_reaches_the_label_prefix(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(
        tmp_path,
        listed,
        {**chain("Movie review:", " great", " film", " (Sentiment", ":"), **LABELS},
    )
    completion = ask(folder)
    assert (completion.text, completion.finish) == (" great film", "label_prefix")
    assert (completion.prompt_tokens, completion.completion_tokens) == (1, 4)
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(
        label_scores(vocabulary_size(listed)), abs=1e-4
    )


@pytest.mark.parametrize("end", ["\n", "<end>"])
def test_a_line_that_ends_without_the_label_prefix_has_it_appended(
    tmp_path: Path, listed: PreTrainedTokenizerFast, end: str
) -> None:
    folder = scripted(
        tmp_path, listed, {**chain("Movie review:", " great", " film", end), **LABELS}
    )
    completion = ask(folder)
    assert (completion.text, completion.finish, completion.completion_tokens) == (
        " great film",
        "line",
        3,
    )
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(
        label_scores(vocabulary_size(listed)), abs=1e-4
    )


def test_a_token_across_the_line_end_is_split(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(tmp_path, listed, {**chain("Movie review:", " great", ".\n"), **LABELS})
    completion = ask(folder)
    assert (completion.text, completion.finish) == (" great.", "line")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(
        label_scores(vocabulary_size(listed)), abs=1e-4
    )


def test_a_token_across_the_label_prefix_is_split(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    """`: ` is longer than the label prefix; labels are scored after the label prefix itself."""
    folder = scripted(
        tmp_path, listed, {**chain("Movie review:", " great", " (Sentiment", ": "), **LABELS}
    )
    completion = ask(folder)
    assert (completion.text, completion.finish) == (" great", "label_prefix")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(
        label_scores(vocabulary_size(listed)), abs=1e-4
    )


def test_an_empty_line(tmp_path: Path, listed: PreTrainedTokenizerFast) -> None:
    folder = scripted(tmp_path, listed, {**chain("Movie review:", "\n"), **LABELS})
    completion = ask(folder)
    assert (completion.text, completion.finish) == ("", "line")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(
        label_scores(vocabulary_size(listed)), abs=1e-4
    )


def test_an_empty_text_before_the_label_prefix(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(tmp_path, listed, {**chain("Movie review:", " (Sentiment", ":"), **LABELS})
    completion = ask(folder)
    assert (completion.text, completion.finish) == ("", "label_prefix")


def test_a_text_without_an_end_is_unfinished_and_unscored(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(tmp_path, listed, chain("Movie review:", " great", " film", " great"))
    completion = ask(folder, max_tokens=5)
    assert (completion.text, completion.finish, completion.scores) == (
        " great film great film great",
        "length",
        None,
    )
    assert completion.completion_tokens == 5


def test_an_end_at_the_last_token_allowed_counts(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(
        tmp_path, listed, {**chain("Movie review:", " great", " (Sentiment", ":"), **LABELS}
    )
    assert [ask(folder, max_tokens=n).finish for n in (2, 3, 4)] == [
        "length",
        "label_prefix",
        "label_prefix",
    ]


def test_without_a_label_prefix_nothing_is_scored(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    folder = scripted(
        tmp_path,
        listed,
        {**chain("Movie review:", " great", " (Sentiment", ":"), ":": {"\n": SURE}},
    )
    completion = ask(folder, label_prefix="", choices=())
    assert (completion.text, completion.finish, completion.scores) == (
        " great (Sentiment:",
        "line",
        None,
    )


def test_a_prompt_that_fills_the_context_is_too_long(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    """A row that does not fit leaves the other rows as they are."""
    folder = scripted(
        tmp_path,
        listed,
        {**chain("Movie review:", " great", " (Sentiment", ":"), **LABELS},
        max_position_embeddings=19,
    )
    lm = local(folder)
    assert lm.info.context_length == 19  # of which the label prefix and a label take 3
    fits = {
        "prompt": "x" * 5 + "Movie review:",
        "label_prefix": LABEL_PREFIX,
        "choices": CHOICES,
    }  # 6 tokens
    longer = {**fits, "prompt": "x" * 6 + "Movie review:"}
    first, second, third = answers(
        lm,
        [
            request(0, **fits, max_tokens=10),
            request(1, **longer, max_tokens=10),
            request(2, **longer, max_tokens=9),
        ],
    )
    assert (
        second.text,
        second.finish,
        second.scores,
        second.prompt_tokens,
        second.completion_tokens,
    ) == ("", "too_long", None, 7, 0)
    assert [first.finish, third.finish] == ["label_prefix", "label_prefix"]
    assert first.scores is not None
    assert answers(lm, [request(1, **longer, max_tokens=10)]) == [second]


def test_a_label_prefix_appended_at_the_edge_of_the_context_is_scored(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    """With absolute positions the label prefix and the label need space in the context too."""
    size = vocabulary_size(listed)
    config = GPT2Config(
        vocab_size=size, n_embd=size, n_layer=1, n_head=1, n_inner=2, n_positions=8,
        tie_word_embeddings=False,
        eos_token_id=listed.eos_token_id, bos_token_id=listed.eos_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        block = model.transformer.h[0]
        for part in (block.attn.c_proj, block.mlp.c_proj, model.transformer.wpe):
            part.weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for a, b in (("Movie review:", " great"), (" great", " film"), (" film", "\n")):
            model.lm_head.weight[index(listed, b), index(listed, a)] = 5.0
    folder = saved(tmp_path, listed, model)
    completion = ask(
        folder, prompt="xxxxMovie review:", max_tokens=3
    )  # 5 + 3 tokens fill the context of 8
    assert completion.finish in ("line", "too_long")


def test_scores_do_not_depend_on_how_the_text_was_drawn(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    """They are those before temperature, top-p and penalty."""
    folder = scripted(
        tmp_path, listed, {**chain("Movie review:", " great", " (Sentiment", ":"), **LABELS}
    )
    plainly = ask(folder)
    for options in (
        {"temperature": 0.1},
        {"temperature": 0},
        {"top_p": 0.3},
        {"min_p": 0.3},
        {"frequency_penalty": 2.0},
        {"seed": 5},
    ):
        assert ask(folder, **options) == plainly


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        ({"top_p": 0.6}, [0.4 / 0.7, 0.3 / 0.7, 0, 0]),
        ({"top_p": 0.75, "temperature": 2.0}, None),
        ({"min_p": 0.6}, [0.4 / 0.7, 0.3 / 0.7, 0, 0]),
        ({"min_p": 0.6, "temperature": 2.0}, None),
        ({"min_p": 0.3, "top_p": 0.6}, [0.4 / 0.7, 0.3 / 0.7, 0, 0]),
        ({"min_p": 0.6, "top_p": 0.95}, [0.4 / 0.7, 0.3 / 0.7, 0, 0]),
    ],
    ids=[
        "plain",
        "temperature",
        "top-p",
        "both",
        "min-p",
        "min-p, both",
        "top-p cuts",
        "min-p cuts",
    ],
)
def test_drawn_frequencies_match_the_probabilities(
    tmp_path: Path,
    listed: PreTrainedTokenizerFast,
    options: dict[str, float],
    expected: list[float] | None,
) -> None:
    """4,000 seeds: each token's count is within 5 standard deviations (1 in 400,000).

    Temperature comes before top-p and min-p: at 2 the four probabilities are 0.325, 0.282, 0.230,
    0.163, of which the first three reach 0.75, and are at least 0.6 times the first one.
    """
    pieces, probs = ["x", "a", "q", "c"], [0.4, 0.3, 0.2, 0.1]
    if expected is None:
        roots = [math.sqrt(p) for p in probs]
        expected = [
            roots[0] / sum(roots[:3]),
            roots[1] / sum(roots[:3]),
            roots[2] / sum(roots[:3]),
            0,
        ]
    logits = {piece: SURE * 2 + math.log(p) for piece, p in zip(pieces, probs, strict=True)}
    lm = local(scripted(tmp_path, listed, {"Movie review:": logits}), 500)
    n = 4000
    drawn = Counter(
        text_of(
            answers(
                lm, [request(i, prompt="Movie review:", max_tokens=1, **options) for i in range(n)]
            )
        )
    )
    assert set(drawn) <= set(pieces)
    for piece, p in zip(pieces, expected, strict=True):
        assert abs(drawn[piece] - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def test_draws_of_one_request_are_independent(
    tmp_path: Path, listed: PreTrainedTokenizerFast
) -> None:
    """A fair coin thrown 100 times by 20 seeds changes sides half of the time.

    Within 5 standard deviations (1 in 1.7 million).
    """
    fair = {"a": SURE * 2, "b": SURE * 2}
    lm = local(scripted(tmp_path, listed, {"Movie review:": fair, "a": fair, "b": fair}), 20)
    texts = text_of(
        answers(lm, [request(i, prompt="Movie review:", max_tokens=100) for i in range(20)])
    )
    assert all(len(text) == 100 for text in texts)
    changes = sum(a != b for text in texts for a, b in pairwise(text))
    assert abs(changes - 990) <= 5 * math.sqrt(1980 / 4)


# complete(): scores against the text re-read ------------------------------------------------------


def check_scores(
    folder: Path, requests: Sequence[Request], completions: Sequence[Completion]
) -> Counter[str]:
    """Compare with a reference pass over the whole string; count by `finish`.

    Texts that have another tokenization when they are read again are skipped.
    """
    model, tokenizer = plain(folder)
    label_prefix = len(tokenizer("x" + LABEL_PREFIX)["input_ids"]) - len(
        tokenizer("x")["input_ids"]
    )
    checked: Counter[str] = Counter()
    for asked, completion in zip(requests, completions, strict=True):
        assert (completion.scores is None) == (completion.finish == "length")
        if completion.scores is not None:
            context = asked.prompt + completion.text + LABEL_PREFIX
            num_generated = completion.completion_tokens + (
                label_prefix - 1 if completion.finish == "line" else 0
            )
            if len(tokenizer(context)["input_ids"]) == completion.prompt_tokens + num_generated:
                expected = [plain_score(model, tokenizer, context, choice) for choice in CHOICES]
                assert completion.scores.logprobs == pytest.approx(expected, abs=1e-4)
                checked[completion.finish] += 1
    return checked


def test_scores_equal_a_reference_pass_over_the_whole_text(folders: dict[str, Path]) -> None:
    requests = [
        request(
            i,
            prompt=OPEN_PROMPTS[i % 3],
            max_tokens=40,
            temperature=0.8,
            label_prefix=LABEL_PREFIX,
            choices=CHOICES,
        )
        for i in range(24)
    ]
    folder = folders["llama-characters"]
    assert check_scores(folder, requests, answers(local(folder, 8), requests))["line"] >= 3


def test_scores_of_the_packaged_model_equal_a_reference_pass() -> None:
    texts = ("A joy.", "The worst film of the year, by far.")
    prompts = [
        f"{HEADER}Movie review: {text} (Sentiment: Positive)\nMovie review:" for text in texts
    ] * 4
    requests = [
        request(
            i,
            prompt=prompt,
            max_tokens=40,
            temperature=0.7,
            label_prefix=LABEL_PREFIX,
            choices=CHOICES,
        )
        for i, prompt in enumerate(prompts)
    ]
    folder = Path(str(resources.files("gpt3mix_cli") / "resources" / "lm"))
    assert (
        check_scores(folder, requests, answers(local("bundled", 8), requests))["label_prefix"] >= 4
    )


# A tokenizer that strips the first space of what it decodes ---------------------------------------


@pytest.fixture(scope="module")
def pieces(texts: list[str]) -> PreTrainedTokenizerFast:
    return pieces_tokenizer([f"Movie review: {text} (Sentiment: Positive)" for text in texts], 400)


def llama_2_answer(
    folder: Path, pieces: PreTrainedTokenizerFast, *pieces_out: str
) -> tuple[Completion, list[float]]:
    """Return a scripted model's greedy answer, and the label scores of a reference pass."""
    colon = pieces.tokenize("Movie review:")[-1]
    labels = [spelled(pieces, "a:", choice)[0] for choice in CHOICES]
    table = chain(colon, *pieces_out)
    table.setdefault(pieces_out[-1], {}).update({labels[0]: 6.0, labels[1]: 5.0})
    scripted(folder, pieces, table, noise=0.02)
    (completion,) = local(folder).complete(
        [
            request(
                prompt="Movie review:",
                temperature=0,
                label_prefix=LABEL_PREFIX,
                choices=CHOICES,
                max_tokens=10,
            )
        ]
    )
    model, _ = plain(folder)
    text = "".join(pieces_out).replace("▁", " ").split(LABEL_PREFIX)[0].split("</s>")[0]
    return completion, [
        plain_score(model, pieces, "Movie review:" + text + LABEL_PREFIX, choice)
        for choice in CHOICES
    ]


def test_llama_2_label_prefix(tmp_path: Path, pieces: PreTrainedTokenizerFast) -> None:
    """Its decoder drops the leading space; scores still follow the generated tokens."""
    completion, expected = llama_2_answer(
        tmp_path, pieces, "▁film", *spelled(pieces, "x", LABEL_PREFIX)
    )
    assert (completion.text.strip(), completion.finish) == ("film", "label_prefix")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_llama_2_line(tmp_path: Path, pieces: PreTrainedTokenizerFast) -> None:
    completion, expected = llama_2_answer(tmp_path, pieces, "▁film", "</s>")
    assert (completion.text.strip(), completion.finish) == ("film", "line")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_llama_2_token_across_the_label_prefix(tmp_path: Path, texts: list[str]) -> None:
    """A token `::` is longer than the label prefix; the text keeps its leading space."""
    pieces = pieces_tokenizer(
        [f"Movie review: {text} (Sentiment: Positive)" for text in texts], 400
    )
    pieces.add_tokens(["(Sentiment::"])
    completion, expected = llama_2_answer(tmp_path, pieces, "▁film", "▁", "(Sentiment::")
    assert (completion.text.strip(), completion.finish) == ("film", "label_prefix")
    assert completion.scores is not None
    assert completion.scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_llama_2_empty_text_before_the_label_prefix(
    tmp_path: Path, pieces: PreTrainedTokenizerFast
) -> None:
    """The label prefix is found although the decoder drops its leading space."""
    completion, _ = llama_2_answer(tmp_path, pieces, *spelled(pieces, "x", LABEL_PREFIX))
    assert (completion.text.strip(), completion.finish) == ("", "label_prefix")


# Opening ------------------------------------------------------------------------------------------


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    AutoModelForCausalLM.from_pretrained(folders["gpt2-bytes"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        local(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        local(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        local(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    plain_tokenizer = AutoTokenizer.from_pretrained(folders["gpt2-bytes"])
    plain_tokenizer.save_pretrained(tmp_path)
    GPT2Config(vocab_size=300).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        answers(local(tmp_path), [request()])


def test_a_translator_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    """It has a tokenizer and weights, but no causal LM head."""
    from transformers import T5Config, T5Model

    AutoTokenizer.from_pretrained(folders["gpt2-bytes"]).save_pretrained(tmp_path)
    T5Model(
        T5Config(vocab_size=350, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="causal LM"):
        answers(local(tmp_path), [request()])


def test_an_encoder_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match="causal LM"):
        answers(local(tiny_encoder), [request()])


def test_weights_without_the_head_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The library would initialize a missing head at random."""
    model, tokenizer = plain(folders["llama-characters"])
    saved(tmp_path, tokenizer, model.model)
    with pytest.raises(UserError, match=r"lm\.model"):
        answers(local(tmp_path), [request()])


def test_an_unknown_device_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="cuda:99"):
        LocalLM(LocalLMSettings(kind="local", model=str(folders["gpt2-bytes"]), device="cuda:99"))


def test_a_label_that_tokenises_to_nothing_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="tokenises to nothing"):
        local(folders["gpt2-bytes"]).score(["a:"], [""])


# Information before the first request -------------------------------------------------------------


def test_the_fingerprint_depends_on_everything_that_changes_answers(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    model, tokenizer = plain(folders["gpt2-bytes"])
    first = local(saved(tmp_path / "a", tokenizer, model)).info.fingerprint
    copied = local(saved(tmp_path / "b", tokenizer, model))
    assert copied.info.fingerprint == first, "the path does not count"
    with torch.no_grad():
        model.transformer.ln_f.weight[0] += 1e-3
    changed = local(saved(tmp_path / "c", tokenizer, model)).info.fingerprint
    half = LocalLM(
        LocalLMSettings(
            kind="local", model=str(tmp_path / "a"), dtype="bfloat16", device="cpu", batch_size=4
        )
    ).info.fingerprint
    block = local(tmp_path / "a", 5).info.fingerprint
    assert len({first, changed, half, block}) == 4


def test_count_tokens_equals_the_tokens_read(folder: Path) -> None:
    lm = local(folder)
    (completion,) = answers(lm, [request(max_tokens=1)])
    assert (
        lm.info.count_tokens(OPEN_PROMPTS[0])
        == completion.prompt_tokens
        == len(AutoTokenizer.from_pretrained(folder)(OPEN_PROMPTS[0])["input_ids"])
    )
    assert (lm.info.context_length, lm.info.block_size) == (512, 4)


def test_a_missing_folder_is_reported_as_missing(tmp_path: Path) -> None:
    """And not as an invalid hub id."""
    with pytest.raises(UserError, match="cannot be loaded as a causal LM: no such folder"):
        LocalLM(LocalLMSettings(kind="local", model=str(tmp_path / "nowhere")))
