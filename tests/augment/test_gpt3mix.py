"""GPT3Mix: requests, soft and hard labels, calibration, and the rows of answers."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.augment import Augmenter, AugmentOptions, augment, open_augmenter
from gpt3mix_cli.augment.filter import suggest_remedy
from gpt3mix_cli.augment.gpt3mix import GPT3Mix
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.lm import LM, Completion, Hypothesis, JournaledLM, LMInfo, Request, Scores, open_lm
from gpt3mix_cli.method.prompt import render_prompt
from gpt3mix_cli.records import Augmented, Example, Reject, read_records
from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings, Task


def make_task(labels: Any, **types: str) -> Task:
    return Task.model_validate({"name": "t", "data": {"kind": "demo"}, "labels": labels, **types})


def rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(id=f"r{i}", text=text, label=label) for i, (text, label) in enumerate(pairs)]


SST2 = make_task(
    {"pos": "positive", "neg": "negative"}, text_type="movie review", label_type="sentiment"
)
TWENTY = rows(*((f"text number {i} .", "pos" if i % 2 else "neg") for i in range(20)))


# From requests to rows ----------------------------------------------------------------------------


class Echo:
    """An LM that keeps what it is asked; by turns it gives the answers it was made with."""

    def __init__(self, *script: Completion) -> None:
        self.requests: list[Request] = []
        self.scored: list[tuple[str, tuple[str, ...]]] = []
        self.info = LMInfo("echo", "echo-weights", 500, 4, len, "")
        self._script = script or (answer(),)

    def describe(self) -> str:
        return "an echo"

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in requests:
            self.requests.append(request)
            yield replace(self._script[request.number % len(self._script)], number=request.number)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        self.scored += [(prompt, tuple(choices)) for prompt in prompts]
        return [Scores((math.log(0.3), math.log(0.1))) for _ in prompts]


def answer(
    text: str = " a fine film",
    finish: Any = "label_prefix",
    logprobs: tuple[float, ...] | None = (math.log(0.1), math.log(0.3)),
) -> Completion:
    return Completion(0, text, finish, None if logprobs is None else Scores(logprobs), 50, 6)


def generator(lm: LM, **options: Any) -> Augmenter:
    return open_augmenter(AugmentSettings(**options), SST2, lm)


def generated(
    lm: Echo, first: int = 0, count: int = 4, seed: int = 0, **options: Any
) -> list[Augmented | Reject]:
    return list(generator(lm, **options).generate(TWENTY, first, count, seed))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("selection", ["uniform", "balanced", "nearest", "furthest"])
def test_parents_are_those_in_the_prompt_in_its_order(k: int, selection: str) -> None:
    lm = Echo()
    found = generated(lm, count=8, k=k, selection=selection)
    texts = {row.id: row for row in TWENTY}
    for row, request in zip(found, lm.requests, strict=True):
        assert len(set(row.parents)) == k
        assert render_prompt(SST2, [texts[parent] for parent in row.parents]) == request.prompt
    assert len({tuple(row.parents) for row in found}) > 1


def test_a_row_carries_everything_in_the_tasks_classes() -> None:
    (row,) = generated(Echo(), first=17, count=1)
    assert isinstance(row, Augmented)
    assert row.model_dump() == {
        "id": "gpt3mix-00017",
        "text": "a fine film",
        "label": "neg",
        "probs": {"pos": 0.25, "neg": 0.75},
        "method": "gpt3mix",
        "parents": row.parents,
        "label_source": "exact",
        "label_mass": 0.4,
        "request": 17,
    }


def test_the_label_is_the_likeliest_class() -> None:
    found = generated(Echo(answer(logprobs=(-0.1, -3.0)), answer(logprobs=(-3.0, -0.1))))
    assert [row.label for row in found if isinstance(row, Augmented)] == [
        "pos",
        "neg",
        "pos",
        "neg",
    ]


def test_a_line_that_ended_before_the_seam_is_kept_with_its_soft_label() -> None:
    (row,) = generated(Echo(answer(finish="line")), count=1)
    assert isinstance(row, Augmented)
    assert row.probs == {"pos": 0.25, "neg": 0.75}


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (" Movie review: a fine film", "a fine film"),
        (" a fine film (sentiment: positive)", "a fine film"),
        (" a fine film (Positive) [Movie review]", "a fine film"),
        (" a fine (if long) film\u2028indeed  ", "a fine (if long) film indeed"),
        ("a fine film", "a fine film"),
        (" a fine film ", "a fine film"),
        (' "a fine film"', "a fine film"),
        (" 1. a fine film", "a fine film"),
    ],
)
def test_a_cleaned_text_has_the_label_of_what_is_kept(written: str, text: str) -> None:
    lm = Echo(answer(written, finish="line"))
    made = generator(lm)
    (row,) = made.generate(TWENTY, 0, 1, 0)
    assert isinstance(row, Augmented)
    assert (row.text, row.probs, row.label_mass) == (text, {"pos": 0.75, "neg": 0.25}, 0.4)
    assert lm.scored == [
        (f"{lm.requests[0].prompt} {text} (Sentiment:", (" Positive", " Negative"))
    ]
    assert made.usage()["rescored"] == 1


def test_a_text_that_was_scored_as_it_is_kept_is_not_scored_again() -> None:
    lm = Echo(answer(), answer(finish="line"), answer(" (fine) isn't `it' ?"))
    made = generator(lm)
    assert {row.probs["pos"] for row in made.generate(TWENTY, 0, 6, 0)} == {0.25}  # type: ignore
    assert not lm.scored
    assert "rescored" not in made.usage()


class Endpoint(Echo):
    """An Echo that is paid for: a text or a score is a request of 7 tokens and a dollar."""

    known = True

    def __init__(self, *script: Completion) -> None:
        paid = [replace(item, requests=1, usd=1.0) for item in script]
        super().__init__(*paid)
        self.info = replace(self.info, block_size=1)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        unknown = {} if self.known else {"bounded": (0, 1), "logprobs": (-0.7, -0.7)}
        return [
            replace(scores, source="decision", tokens=7, usd=1.0, requests=1, **unknown)
            for scores in super().score(prompts, choices)
        ]


def test_an_endpoint_is_paid_for_another_text_but_not_for_spaces() -> None:
    lm = Endpoint(
        answer("a fine film"), answer(" a fine film  "), answer(" a fine film (Positive)")
    )
    made = generator(lm)
    found = list(made.generate(TWENTY, 0, 3, 0))
    assert [getattr(row, "label_source", "") for row in found] == ["exact", "exact", "decision"]
    assert len(lm.scored) == 1
    usage = made.usage()
    assert (usage["rescored"], usage["requests"], usage["label_tokens"]) == (1, 4, 7)
    assert made.usd() == 4.0


def test_a_rescored_text_without_a_reported_label_is_rejected() -> None:
    lm = Endpoint(answer(" fine (Positive)"), answer())
    lm.known = False
    lost, kept = generated(lm, count=2)
    assert (getattr(lost, "reason", ""), getattr(kept, "text", "")) == ("unscored", "a fine film")


def test_rows_before_the_first_one_to_be_scored_again_do_not_wait() -> None:
    class Breaking(Endpoint):
        def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
            for completion in super().complete(requests):
                if completion.number == 2:
                    raise StoppedShort("gone")
                yield completion

    stream = generator(Breaking(answer(), answer(" fine (Positive)"))).generate(TWENTY, 0, 4, 0)
    assert next(stream).request == 0
    with pytest.raises(StoppedShort, match="gone"):
        next(stream)


def test_a_text_that_no_longer_fits_the_context_is_rejected_not_scored() -> None:
    lm = Echo(answer(f" {'x' * 300} (Positive)"))
    (lost,) = generated(lm, count=1)
    assert (getattr(lost, "reason", ""), lm.scored) == ("prompt_too_long", [])


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("You continue lists.", "copy_of_prompt"),
        ("each item in the following list contains a movie review", "copy_of_prompt"),
        ("Positive", "label_in_text"),
        ("Hi there,", "empty"),
    ],
)
def test_what_chats_write_instead_of_a_text_is_rejected(
    text: str, reason: str, labels: str
) -> None:
    line = beam(f" {text} (Sentiment: Positive)") if labels == "hard" else answer(f" {text}")
    (lost,) = generated(Echo(line), count=1, labels=labels)
    assert getattr(lost, "reason", "") == reason


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_a_label_in_brackets_within_a_text_rejects_the_row(labels: str) -> None:
    text = " a fine (Interpretive response: Negative) film"
    line = beam(f"{text} (Sentiment: Positive)") if labels == "hard" else answer(text)
    (lost,) = generated(Echo(line), count=1, labels=labels)
    assert isinstance(lost, Reject)
    assert (lost.reason, lost.detail) == ("label_in_text", "(Interpretive response: Negative)")


@pytest.mark.parametrize(
    "written",
    [
        " fine Movie review: dull",
        " fine (sentiment: positive) Movie review: dull",
        " fine (Sentiment : Positive). It",
    ],
)
def test_scores_that_belong_to_another_text_label_no_row(written: str) -> None:
    (found,) = generated(Echo(answer(written)), count=1)
    assert isinstance(found, Reject)
    assert (found.reason, found.text) == ("no_label", written.strip())
    assert found.detail.endswith((" dull'", ". It'"))


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (answer(finish="length", logprobs=None), "unfinished"),
        (answer("", "too_long", None), "prompt_too_long"),
        (answer("  "), "empty"),
        (answer("", "line"), "empty"),
    ],
)
def test_what_is_no_row_is_rejected_with_its_reason(completion: Completion, reason: str) -> None:
    (found,) = generated(Echo(completion), first=3, count=1)
    assert isinstance(found, Reject)
    assert (found.request, found.method, found.reason, found.text) == (
        3,
        "gpt3mix",
        reason,
        completion.text.strip(),
    )
    assert len(found.parents) == 2


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize(
    ("finish", "reason"), [("refused", "refused"), ("reasoning", "only_reasoning")]
)
def test_a_refused_prompt_is_rejected_with_the_servers_message(
    finish: Any, reason: str, labels: str
) -> None:
    refused = replace(answer(" The film wa", finish, None), detail="HTTP 400: flagged")
    other = beam(" fine (Sentiment: Positive)") if labels == "hard" else answer()
    found, kept = generated(Echo(refused, other), count=2, labels=labels)
    assert isinstance(found, Reject)
    assert (found.reason, found.detail, found.text) == (reason, "HTTP 400: flagged", "The film wa")
    assert isinstance(kept, Augmented)
    assert suggest_remedy({reason: 1})


def test_a_perplexity_beyond_all_numbers_is_unknown() -> None:
    (row,) = generated(Echo(replace(answer(), logprob=-9000.0, completion_tokens=1)), count=1)
    assert isinstance(row, Augmented)
    assert row.perplexity is None


def test_a_prompt_too_long_says_by_how_much() -> None:
    (found,) = generated(Echo(answer("", "too_long", None)), count=1, max_tokens=460)
    assert isinstance(found, Reject)
    assert all(number in found.detail for number in ("50", "460", "500"))


def test_the_settings_reach_every_request() -> None:
    lm = Echo()
    generated(
        lm, count=3, first=5, max_tokens=33, temperature=0.7, top_p=0.8, min_p=0.1,
        frequency_penalty=0.25,
    )  # fmt: skip
    assert [request.number for request in lm.requests] == [5, 6, 7]
    for request in lm.requests:
        assert (
            request.max_tokens,
            request.temperature,
            request.top_p,
            request.min_p,
            request.frequency_penalty,
        ) == (33, 0.7, 0.8, 0.1, 0.25)
        assert (request.label_prefix, request.choices) == (
            " (Sentiment:",
            (" Positive", " Negative"),
        )
    assert len({request.seed for request in lm.requests}) == 3


def test_an_attempt_depends_on_seed_and_number_only() -> None:
    """Asked for alone or among others, its request is the same; another seed gives another."""
    together, alone, other = Echo(), Echo(), Echo()
    generated(together, count=8, seed=3)
    generated(alone, first=6, count=1, seed=3)
    generated(other, first=6, count=1, seed=4)
    assert alone.requests == [together.requests[6]]
    assert other.requests[0].seed != alone.requests[0].seed


def test_rows_stream_as_the_answers_come() -> None:
    class Breaking(Echo):
        def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
            for completion in super().complete(requests):
                if completion.number == 2:
                    raise RuntimeError("gone")
                yield completion

    stream = generator(Breaking()).generate(TWENTY, 0, 4, 0)
    assert [next(stream).request, next(stream).request] == [0, 1]
    with pytest.raises(RuntimeError, match="gone"):
        next(stream)


def test_all_tokens_are_counted_those_of_rejects_too() -> None:
    made = generator(Echo(answer(), answer(finish="length", logprobs=None)))
    assert dict(made.usage()) == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "shortened": 0,
        "retokenised": 0,
    }
    list(made.generate(TWENTY, 0, 6, 0))
    assert dict(made.usage()) == {
        "prompt_tokens": 300,
        "completion_tokens": 36,
        "shortened": 0,
        "retokenised": 0,
    }


def test_texts_that_are_read_in_other_tokens_than_written_are_counted() -> None:
    made = generator(
        Echo(
            answer(),
            replace(answer(), retokenised=True),
            replace(answer(finish="line"), retokenised=True),
        )
    )
    list(made.generate(TWENTY, 0, 6, 0))
    assert made.usage()["retokenised"] == 4


def test_about_names_what_can_change_a_row_and_nothing_else() -> None:
    """The quota cannot; the prompt, the sampler, the labels and the weights can."""
    base = generator(Echo()).about
    assert (
        generator(Echo(), ratio=7, synthetic_sets=3, attempts=9, beams=2, similarity="minilm").about
        == base
    )
    hard = generator(Echo(), labels="hard").about
    assert (
        generator(
            Echo(),
            labels="hard",
            top_p=0.5,
            min_p=0.5,
            frequency_penalty=0.5,
            label_temperature=2,
            contextual_calibration=True,
        ).about
        == hard
    )
    assert generator(Echo(), labels="hard", beams=2).about != hard
    changes: list[dict[str, Any]] = [
        {"k": 3},
        {"selection": "balanced"},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"min_p": 0.5},
        {"max_tokens": 7},
        {"frequency_penalty": 0.0},
        {"labels": "hard"},
        {"label_temperature": 2},
        {"contextual_calibration": True},
    ]
    for change in changes:
        assert generator(Echo(), **change).about != base
    other = Echo()
    other.info = LMInfo("echo", "other-weights", 500, 4, len, "")
    assert generator(other).about != base
    for task in (
        SST2.model_copy(update={"text_type": "review"}),
        make_task({"pos": "good", "neg": "bad"}),
    ):
        assert GPT3Mix(AugmentSettings(), task, Echo(), "gpt3mix").about != base


def test_its_rows_bear_the_name_that_it_was_given() -> None:
    (row,) = open_augmenter(AugmentSettings(), SST2, Echo(), "mix").generate(TWENTY, 0, 1, 0)
    assert isinstance(row, Augmented)
    assert (row.id, row.method) == ("mix-00000", "mix")


# Hard labels --------------------------------------------------------------------------------------


def beam(*lines: str, unfinished: bool = False) -> Completion:
    """What a beam search found."""
    found = tuple(Hypothesis(line, not unfinished, -1.0 - rank) for rank, line in enumerate(lines))
    return Completion(0, lines[0] if lines else "", "line", None, 50, 12, hypotheses=found)


def test_every_hypothesis_is_a_row_in_the_order_of_its_rank() -> None:
    lm = Echo(
        beam(
            " fine (Sentiment: Positive)",
            " dull (Sentiment: Negative)",
            '"fine (sometimes)" (Positive)',
        )
    )
    found = generated(lm, first=17, count=2, labels="hard", beams=3)
    assert [row.id for row in found if isinstance(row, Augmented)] == [
        f"gpt3mix-000{n}{rank}" for n in (17, 18) for rank in ("", ".1", ".2")
    ]
    assert [(row.text, row.label) for row in found[:3] if isinstance(row, Augmented)] == [
        ("fine", "pos"),
        ("dull", "neg"),
        ("fine (sometimes)", "pos"),
    ]
    assert found[1].model_dump() == {
        "id": "gpt3mix-00017.1",
        "text": "dull",
        "label": "neg",
        "probs": {"pos": 0.0, "neg": 1.0},
        "method": "gpt3mix",
        "parents": found[0].parents,
        "label_source": "hard",
        "label_mass": None,
        "request": 17,
    }


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("fine (Sentiment: Mixed)", "label_not_in_set", "Mixed"),
        ("fine (Sentiment:)", "label_not_in_set", ""),
        ("fine", "no_label", ""),
        ("fine Movie review: dull (Sentiment: Negative)", "no_label", ""),
        (" (Sentiment: Positive)", "empty", ""),
        ("", "empty", ""),
    ],
)
def test_a_hypothesis_that_is_no_row_is_rejected_and_the_others_stay(
    line: str, reason: str, detail: str
) -> None:
    lost, kept = generated(Echo(beam(line, "good (Sentiment: Positive)")), count=1, labels="hard")
    assert isinstance(lost, Reject)
    assert isinstance(kept, Augmented)
    assert (lost.reason, lost.detail, lost.text, kept.id) == (
        reason,
        detail,
        line.strip(),
        "gpt3mix-00000.1",
    )


def test_an_unfinished_hypothesis_and_an_empty_search_are_rejected() -> None:
    found = generated(
        Echo(beam("fine (Sentiment: Positive)", unfinished=True), beam()), count=2, labels="hard"
    )
    assert [row.reason for row in found if isinstance(row, Reject)] == ["unfinished", "unfinished"]
    (found_long,) = generated(Echo(answer("", "too_long", None)), count=1, labels="hard")
    assert isinstance(found_long, Reject)
    assert found_long.reason == "prompt_too_long"


def test_a_beam_search_asks_for_no_seam_and_for_nothing_that_a_sampler_needs() -> None:
    """So no sampler's setting makes another request; the text may be as long as a soft one, the
    label comes on top."""
    one, two = Echo(beam("x")), Echo(beam("x"))
    generated(
        one, labels="hard", beams=3, max_tokens=33, temperature=0, top_p=0.8, min_p=0.1,
        frequency_penalty=0.25,
    )  # fmt: skip
    generated(two, labels="hard", beams=3, max_tokens=33, temperature=0)
    assert one.requests == two.requests
    assert {
        (request.beams, request.label_prefix, request.choices, request.max_tokens)
        for request in one.requests
    } == {(3, "", (), 33 + len(" Positive)\n"))}
    soft = Echo()
    generated(soft)
    assert [request.prompt for request in soft.requests] == [
        request.prompt for request in one.requests
    ]
    assert {request.beams for request in soft.requests} == {0}


def test_quota_gate_and_rejects_cope_with_several_rows_an_attempt(tmp_path: Path) -> None:
    lm = Echo(
        beam("a # (Sentiment: Positive)", "text number 3 . (Sentiment: Negative)"),
        beam("b (Sentiment: Negative)", "b (Sentiment: Positive)"),
    )
    with pytest.raises(StoppedShort, match=r"2 of 20 rows after 40 requests"):
        augment(
            generator(lm, labels="hard"),
            TWENTY,
            tmp_path / "out.jsonl",
            AugmentOptions(ratio=1, attempts=2, seed=0),
        )
    kept = list(read_records(tmp_path / "out.jsonl", Augmented, ["pos", "neg"]))
    assert [(row.id, row.text, row.label) for row in kept] == [
        ("gpt3mix-00000", "a #", "pos"),
        ("gpt3mix-00001", "b", "neg"),
    ]
    done = augment(
        generator(lm, labels="hard"),
        TWENTY,
        tmp_path / "two.jsonl",
        AugmentOptions(ratio=0.1, attempts=2, seed=0),
    )
    assert done.manifest.counts["rejected"] == {"copy_of_real": 1}


# Calibration --------------------------------------------------------------------------------------


class Refusing(Echo):
    """An LM with Echo's weights that may not be asked."""

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        raise AssertionError("asked for texts")


def test_labels_are_made_anew_without_asking(tmp_path: Path) -> None:
    """Temperature and calibration stand in no request: the journal answers, and content-free texts
    alone are scored."""
    with closing(JournaledLM(Echo(), tmp_path / "journal.sqlite")) as journal:
        (before,) = generator(journal).generate(TWENTY, 0, 1, 0)
    lm = Refusing()
    with closing(JournaledLM(lm, tmp_path / "journal.sqlite")) as journal:
        (warm,) = generator(journal, label_temperature=2).generate(TWENTY, 0, 1, 0)
        assert not lm.scored
        (calibrated,) = generator(journal, contextual_calibration=True).generate(TWENTY, 0, 1, 0)
    for row in (before, warm, calibrated):
        assert isinstance(row, Augmented)
        assert (row.text, row.parents, row.label_mass) == ("a fine film", before.parents, 0.4)
    # By hand: 0.1 and 0.3; their roots; divided by the 0.3 and 0.1 that Echo gives to texts without
    # content.
    root = math.sqrt(1 / 3)
    for row, expected in ((before, 0.25), (warm, root / (1 + root)), (calibrated, 0.1)):
        assert getattr(row, "probs", {})["pos"] == pytest.approx(expected, abs=1e-6)


def test_each_prompt_is_scored_with_the_three_texts_without_content() -> None:
    lm = Echo(answer(), answer(finish="length", logprobs=None))
    found = generated(lm, count=6, contextual_calibration=True)
    assert [type(row) for row in found] == [Augmented, Reject] * 3
    expected = [
        f"{request.prompt}{text} (Sentiment:"
        for request in lm.requests[::2]
        for text in (" N/A", " [MASK]", "")
    ]
    assert lm.scored == [(text, (" Positive", " Negative")) for text in expected]


def test_what_is_scored_together_depends_on_no_quota() -> None:
    """Blocks of attempts, wherever a round ends: so ratio 10 extends ratio 1 to the last digit."""

    class Batches(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.info = replace(self.info, block_size=64)
            self.batches: list[int] = []

        def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
            self.batches.append(len(prompts) // 3)
            return super().score(prompts, choices)

    few, many = Batches(), Batches()
    for first in (0, 32):
        generated(few, first=first, count=32, contextual_calibration=True)
    generated(many, count=384, contextual_calibration=True)
    assert (few.batches, many.batches) == ([32, 32], [32] * 8 + [64, 64])


def test_a_cleaned_text_is_scored_together_with_the_texts_without_content() -> None:
    lm = Echo(answer(" fine (Positive)"), answer(" dull"), answer(" x (Positive) y"))
    first, second, lost = generated(lm, count=3, contextual_calibration=True)
    texts = [text.removeprefix(lm.requests[0].prompt) for text, _ in lm.scored[:4]]
    assert texts == [f"{text} (Sentiment:" for text in (" fine", " N/A", " [MASK]", "")]
    assert len(lm.scored) == 7
    assert isinstance(first, Augmented)
    assert isinstance(second, Augmented)
    assert isinstance(lost, Reject)
    # Echo's scores are the same with and without content; those of its lines are the reverse.
    assert (first.probs["pos"], second.probs["pos"]) == (0.5, 0.1)


def test_hard_labels_are_not_calibrated() -> None:
    lm = Echo(beam("fine (Sentiment: Positive)"))
    found = generated(lm, labels="hard", contextual_calibration=True, label_temperature=3)
    assert not lm.scored
    assert {row.probs["pos"] for row in found if isinstance(row, Augmented)} == {1.0}


# Prompts that are too long ------------------------------------------------------------------------


class Short(Echo):
    """An LM with a given context whose tokens are characters, some more around each text; it keeps
    what it counted."""

    def __init__(self, context: int, added: int = 1) -> None:
        super().__init__()
        self.counted: list[str] = []
        self._added = added
        self.info = replace(self.info, context_length=context, count_tokens=self._count)

    def _count(self, text: str) -> int:
        self.counted.append(text)
        return len(text) + self._added


def room(max_tokens: int = 100) -> int:
    return max_tokens + len(". (Sentiment: Positive)\n")


@quick(max_examples=60, deadline=None)
@given(st.integers(100, 900), st.integers(1, 8), st.sampled_from([1, 60]))
def test_examples_are_dropped_from_the_front_until_the_prompt_fits(
    context: int, k: int, added: int
) -> None:
    """Also with the many tokens that a chat template adds."""
    whole, lm = Echo(), Short(context, added)
    whole.info = replace(whole.info, context_length=10_000)
    before = generated(whole, k=k)
    made = generator(lm, k=k)
    texts = {row.id: row for row in TWENTY}
    shortened = 0
    for row, full, request in zip(made.generate(TWENTY, 0, 4, 0), before, lm.requests, strict=True):
        count = len(row.parents)
        assert row.parents == full.parents[k - count :]
        assert request.prompt == render_prompt(SST2, [texts[parent] for parent in row.parents])
        assert count == 1 or lm._count(request.prompt) + room() <= context
        if count < k:
            longer = render_prompt(
                SST2, [texts[parent] for parent in full.parents[k - count - 1 :]]
            )
            assert lm._count(longer) + room() > context
        shortened += count < k
    assert made.usage()["shortened"] == shortened


def test_each_line_is_counted_once_and_a_whole_prompt_only_near_the_limit() -> None:
    lm = Short(2000)
    generated(lm, count=200, k=8)
    lines = Counter(text for text in lm.counted if text)
    assert max(lines.values()) == 1
    assert (
        len(lines) == 20 + 3 + 2 + 1
    )  # examples; header, blank line, end; what follows each label; the label prefix
    near = Short(lm.counted.index(lm.counted[0]) + len(lm.requests[0].prompt) + 1 + room())
    generated(near, count=1, k=8)
    assert near.requests == lm.requests[:1]
    assert near.requests[0].prompt in near.counted


def test_with_a_real_lm_a_prompt_just_fits(tiny_lm: Path, texts: list[str]) -> None:
    """Its own check is met: no prompt is too long for it, and with one example more each would
    be."""
    lm = open_lm(LocalLMSettings(kind="local", model=str(tiny_lm), device="cpu", batch_size=8))
    examples = [Example(id=f"r{i}", text=text, label="pos") for i, text in enumerate(texts[:40])]
    made = generator(lm, k=30, max_tokens=4)
    whole = Echo()
    whole.info = replace(whole.info, context_length=1_000_000)
    drawn = list(generator(whole, k=30).generate(examples, 0, 8, 0))
    known = {row.id: row for row in examples}
    for row, full in zip(made.generate(examples, 0, 8, 0), drawn, strict=True):
        assert getattr(row, "reason", "") != "prompt_too_long"
        used, room = len(row.parents), lm.info.count_tokens(". (Sentiment: Negative)\n") + 4
        assert 1 < used < 30
        fits, fails = (
            lm.info.count_tokens(
                render_prompt(SST2, [known[parent] for parent in full.parents[-n:]])
            )
            for n in (used, used + 1)
        )
        assert fits + room <= lm.info.context_length + 1
        assert fails + room > lm.info.context_length - 1
    assert made.usage()["shortened"] == 8
