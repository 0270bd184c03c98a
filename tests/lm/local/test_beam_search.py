"""Beam search against reference passes, greedy decoding and an exhaustive search."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    OPEN_PROMPTS,
    SURE,
    answers,
    index,
    listed_tokenizer,
    local,
    plain,
    plain_logits,
    request,
    saved,
    scripted,
    with_memory_for,
)
from transformers import PreTrainedTokenizerFast

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm import Completion, Hypothesis
from gpt3mix_cli.lm.local.beam_search import beam_search
from gpt3mix_cli.lm.local.engine import LocalLM


def searched(lm: LocalLM, width: int, longest: int, prompt: str = OPEN_PROMPTS[0]) -> list[Any]:
    (lines,) = beam_search(
        lm._decoder,
        [lm._tokenizer.encode(prompt)],
        [request(temperature=0, beams=width, max_tokens=longest)],
        64,
    )
    return lines


def lines(completion: Completion) -> list[str]:
    return [hypothesis.text for hypothesis in completion.hypotheses]


def test_hypotheses_differ_and_the_most_probable_comes_first(folder: Path) -> None:
    for completion in answers(
        local(folder),
        [
            request(i, prompt=prompt, temperature=0, beams=4, max_tokens=8)
            for i, prompt in enumerate(OPEN_PROMPTS)
        ],
    ):
        logprobs = [hypothesis.logprob for hypothesis in completion.hypotheses]
        assert 1 < len(logprobs) <= 4
        assert len(set(lines(completion))) == len(logprobs)
        assert logprobs == sorted(logprobs, reverse=True)
        assert (completion.text, completion.logprob) == (completion.hypotheses[0].text, logprobs[0])
        assert completion.scores is None


def test_logprobs_equal_reference_passes(folders: dict[str, Path]) -> None:
    """Of all tokens of a line, its end included; characters have one tokenization only."""
    folder = folders["llama-characters"]
    model, tokenizer = plain(folder)
    completions = answers(
        local(folder),
        [
            request(i, prompt=prompt, temperature=0, beams=3, max_tokens=10)
            for i, prompt in enumerate(OPEN_PROMPTS)
        ],
    )
    for prompt, completion in zip(OPEN_PROMPTS, completions, strict=True):
        for hypothesis in completion.hypotheses:
            before, after = tokenizer(prompt)["input_ids"], tokenizer(hypothesis.text)["input_ids"]
            if tokenizer.unk_token_id in after:
                continue
            logprobs = plain_logits(model, [*before, *after]).log_softmax(-1)
            expected = sum(
                float(logprobs[len(before) + i - 1, token]) for i, token in enumerate(after)
            )
            ends = (
                [index(tokenizer, "\n"), *tokenizer.all_special_ids] if hypothesis.finished else []
            )
            sums = [expected + float(logprobs[-1, end]) for end in ends] or [expected]
            assert any(hypothesis.logprob == pytest.approx(total, abs=1e-3) for total in sums)


def test_one_beam_is_greedy(folder: Path) -> None:
    lm = local(folder)
    greedy = answers(
        lm, [request(i, prompt=prompt, temperature=0) for i, prompt in enumerate(OPEN_PROMPTS)]
    )
    beams = answers(
        lm,
        [
            request(i, prompt=prompt, temperature=0, beams=1)
            for i, prompt in enumerate(OPEN_PROMPTS)
        ],
    )
    for sampled, beam in zip(greedy, beams, strict=True):
        assert (sampled.text, sampled.finish, sampled.completion_tokens) == (
            beam.text,
            beam.finish,
            beam.completion_tokens,
        )
        assert sampled.logprob == pytest.approx(beam.logprob, abs=1e-3)
        assert beam.hypotheses == (
            Hypothesis(beam.text, beam.finish == "line", beam.logprob or 0.0),
        )


def test_beams_equal_those_of_each_prompt_alone(folder: Path) -> None:
    """Padding, the shared prefix and the position in a batch change nothing."""
    lm = local(folder)
    requests = [
        request(i, prompt=OPEN_PROMPTS[i % 3], temperature=0, beams=3, max_tokens=7)
        for i in range(6)
    ]
    together = answers(lm, requests)
    lm._row_limit.max_rows = 1
    for completion, alone in zip(together, answers(lm, requests), strict=True):
        assert lines(completion) == lines(alone)
        assert [line.logprob for line in completion.hypotheses] == pytest.approx(
            [line.logprob for line in alone.hypotheses], abs=1e-3
        )


# By a table ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> PreTrainedTokenizerFast:
    return listed_tokenizer(["Movie review:", " great", " good", " film", ".\n"])


TABLE = {
    "Movie review:": {" great": SURE + math.log(0.6), " good": SURE + math.log(0.4)},
    " great": {
        " film": SURE + math.log(0.5),
        "\n": SURE + math.log(0.3),
        "<end>": SURE + math.log(0.2),
    },
    " good": {"\n": SURE + math.log(0.9), " film": SURE + math.log(0.1)},
    " film": {".\n": SURE + math.log(0.7), "\n": SURE + math.log(0.3)},
}


def test_the_most_probable_lines_are_found_where_greedy_misses_them(
    tmp_path: Path, few: PreTrainedTokenizerFast
) -> None:
    """By hand: good 0.36, great film. 0.21, great 0.18, great film 0.09.

    "great" ends in two ways, of which the more probable counts.
    """
    lm = local(scripted(tmp_path, few, TABLE))
    (completion,) = answers(lm, [request(prompt="Movie review:", temperature=0, beams=4)])
    assert completion.hypotheses[:4] == (
        Hypothesis(" good", True, round(math.log(0.36), 4)),
        Hypothesis(" great film.", True, round(math.log(0.21), 4)),
        Hypothesis(" great", True, round(math.log(0.18), 4)),
        Hypothesis(" great film", True, round(math.log(0.09), 4)),
    )
    assert completion.finish == "line"
    (greedy,) = answers(lm, [request(prompt="Movie review:", temperature=0)])
    assert greedy.text == " great film."


def test_a_line_that_reaches_the_limit_is_unfinished(
    tmp_path: Path, few: PreTrainedTokenizerFast
) -> None:
    lm = local(scripted(tmp_path, few, TABLE))
    (completion,) = answers(
        lm, [request(prompt="Movie review:", temperature=0, beams=3, max_tokens=2)]
    )
    assert {line.text: line.finished for line in completion.hypotheses} == {
        " good": True,
        " great film": False,
        " great": True,
    }
    (completion,) = answers(
        lm, [request(prompt="Movie review:", temperature=0, beams=2, max_tokens=1)]
    )
    assert (completion.finish, [line.finished for line in completion.hypotheses]) == (
        "length",
        [False, False],
    )


def test_a_wide_search_is_exhaustive(tmp_path: Path) -> None:
    """All lines of up to four of three characters, from a random table."""
    letters = ["a", "b", "c"]
    tokenizer = listed_tokenizer([])
    rows = torch.rand(4, 4, generator=torch.Generator().manual_seed(3)).tolist()
    following = [*letters, "\n"]
    table = {
        last: {piece: SURE + 3 * value for piece, value in zip(following, row, strict=True)}
        for last, row in zip(["x", *letters], rows, strict=True)
    }
    lm = local(scripted(tmp_path, tokenizer, table))

    def logprob(line: str) -> float:
        steps = itertools.pairwise(f"x{line}")
        return sum(table[a][b] - math.log(sum(map(math.exp, table[a].values()))) for a, b in steps)

    whole = {
        "".join(text): logprob("".join(text) + "\n")
        for n in range(4)
        for text in itertools.product(letters, repeat=n)
    }
    cut = {"".join(text): logprob("".join(text)) for text in itertools.product(letters, repeat=4)}
    expected = sorted({**whole, **cut}.items(), key=lambda pair: -pair[1])
    (completion,) = answers(lm, [request(prompt="x", temperature=0, beams=121, max_tokens=4)])
    assert len(completion.hypotheses) == 121 == len(expected)
    assert [line.logprob for line in completion.hypotheses] == pytest.approx(
        [value for _, value in expected], abs=1e-3
    )
    assert {line.text for line in completion.hypotheses if line.finished} == set(whole)


def test_a_prompt_that_fills_the_context_is_too_long(
    tmp_path: Path, few: PreTrainedTokenizerFast
) -> None:
    """The other prompts are answered, one whose line just fits included."""
    lm = local(scripted(tmp_path, few, TABLE, max_position_embeddings=12))
    prompts = ["Movie review:", "x" * 9 + "Movie review:", "x" * 8 + "Movie review:"]
    first, second, third = answers(
        lm,
        [
            request(i, prompt=prompt, temperature=0, beams=2, max_tokens=3)
            for i, prompt in enumerate(prompts)
        ],
    )
    assert (
        second.text,
        second.finish,
        second.hypotheses,
        second.logprob,
        second.prompt_tokens,
    ) == ("", "too_long", (), None, 10)
    assert lines(first) == lines(third) == [" good", " great film."]


def test_beams_and_ordinary_requests_keep_their_order(folder: Path) -> None:
    """Different widths, limits and sampled texts in one block, each the same as alone."""
    lm = local(folder, 8)
    options = [
        {"beams": 2},
        {},
        {"beams": 3},
        {"beams": 2, "max_tokens": 5},
        {"temperature": 0},
        {"beams": 2, "max_tokens": 5},
        {},
        {"beams": 2},
    ]
    requests = [
        request(i, prompt=OPEN_PROMPTS[i % 3], **option) for i, option in enumerate(options)
    ]
    mixed = answers(lm, requests)
    assert [completion.number for completion in mixed] == list(range(8))
    for asked, completion in zip(requests, mixed, strict=True):
        (alone,) = answers(lm, [asked])
        assert (completion.text, lines(completion)) == (alone.text, lines(alone))


def test_the_models_generation_config_is_ignored(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Many instruction models have a repetition penalty and sampling switched on there."""
    model, tokenizer = plain(folders["llama-characters"])
    asked = [request(temperature=0, beams=3, max_tokens=12), request(1, temperature=0)]
    before = answers(local(folders["llama-characters"]), asked)
    model.generation_config.update(
        repetition_penalty=5.0, do_sample=True, temperature=0.1, top_k=2, min_new_tokens=3
    )
    assert answers(local(saved(tmp_path, tokenizer, model)), asked) == before


# Memory -------------------------------------------------------------------------------------------


def test_a_search_that_runs_out_of_memory_continues_with_fewer_lines(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = local(folders["llama-characters"], 12)
    requests = [
        request(i, prompt=OPEN_PROMPTS[i % 3], temperature=0, beams=2, max_tokens=5)
        for i in range(6)
    ]
    expected = answers(lm, requests)
    with_memory_for(monkeypatch, lm, 4)
    for completion, reference in zip(answers(lm, requests), expected, strict=True):
        assert (lines(completion), completion.hypotheses[0].logprob) == (
            lines(reference),
            pytest.approx(reference.hypotheses[0].logprob, abs=1e-3),
        )
    with_memory_for(monkeypatch, lm, 1)
    with pytest.raises(UserError, match="2 beams of a single text"):
        answers(lm, requests)


def test_drawn_lines_are_a_sample_without_replacement(
    tmp_path: Path, few: PreTrainedTokenizerFast
) -> None:
    """First lines have the LM's frequencies; lines of a draw differ; seeds decide."""
    lm = local(scripted(tmp_path, few, TABLE), batch_size=256)
    asked = [
        request(number, seed=number, temperature=1, beams=2, max_tokens=6) for number in range(1200)
    ]
    results = answers(lm, asked)
    assert results == answers(lm, asked)
    assert all(
        len({line.text for line in answer.hypotheses}) == len(answer.hypotheses)
        for answer in results
    )
    firsts = Counter(answer.hypotheses[0].text for answer in results)
    for text, probability in {
        " good": 0.36,
        " great": 0.30,
        " great film.": 0.21,
        " great film": 0.09,
    }.items():  # see TABLE
        assert abs(firsts[text] / len(results) - probability) < 4 * math.sqrt(
            probability * (1 - probability) / len(results)
        ), text
