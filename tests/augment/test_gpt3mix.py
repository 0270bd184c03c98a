"""GPT3Mix: the prompt to the letter, the soft label of equation (1), and rows that say where they come from."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.augment import Augmenter, open_augmenter
from gpt3mix_cli.augment.gpt3mix import GPT3Mix, choices, one_line, prompt, seam, soft_label
from gpt3mix_cli.lm import About, Completion, Request, Scores
from gpt3mix_cli.records import Augmented, Example, Reject
from gpt3mix_cli.settings import Augment, Task

GOLDEN = Path(__file__).parent.parent / "golden"
TREC = ["abbreviation", "location", "description", "numeric", "entity", "human"]
LINE_ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def make_task(labels: Any, **types: str) -> Task:
    return Task.model_validate({"name": "t", "data": {"kind": "demo"}, "labels": labels, **types})


def rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(id=f"r{i}", text=text, label=label) for i, (text, label) in enumerate(pairs)]


SST2 = make_task({"pos": "positive", "neg": "negative"}, text_type="movie review", label_type="sentiment")
TWENTY = rows(*((f"text number {i} .", "pos" if i % 2 else "neg") for i in range(20)))


# The prompt ----------------------------------------------------------------------------------------------------------


def golden(name: str) -> str:
    return (GOLDEN / f"prompt-{name}.txt").read_bytes().decode()


def test_the_papers_example_to_the_letter() -> None:
    """Appendix A; its line breaks within a review are the page's."""
    lilo = (
        "Despite its Hawaiian setting, the science-fiction trimmings and some moments of rowdy slapstick, the basic plot of ``Lilo`` "
        "could have been pulled from a tear-stained vintage Shirley Temple script."
    )
    examples = rows((lilo, "neg"), ("And people make fun of me for liking Showgirls.", "neg"))
    assert prompt(SST2, examples) == golden("sst2-paper")


def test_six_classes() -> None:
    task = make_task(TREC, text_type="question", label_type="type")
    examples = rows(
        ("What is the capital of Burkina Faso ?", "location"),
        ("Who invented the hula hoop ?", "human"),
        ("What does NASA stand for ?", "abbreviation"),
    )
    assert prompt(task, examples) == golden("trec6")


def test_the_generic_specification() -> None:
    assert prompt(make_task(["pos", "neg"]), rows(("A gorgeous, witty, seductive movie.", "pos"))) == golden("generic")


@pytest.mark.parametrize("k", [1, 2, 4])
def test_one_line_an_example_in_the_order_given(k: int) -> None:
    header, blank, *lines, last = prompt(SST2, TWENTY[:k][::-1]).split("\n")
    assert header.startswith("Each item in the following list contains a movie review and the respective sentiment.")
    assert (blank, last) == ("", "Movie review:")
    names = {"pos": "Positive", "neg": "Negative"}
    assert lines == [f"Movie review: {row.text} (Sentiment: {names[row.label]})" for row in TWENTY[:k][::-1]]


def test_labels_stand_in_the_tasks_order_whatever_their_case_in_the_config() -> None:
    """Small in the header, capitalised in the lines, in types and labels alike."""
    task = make_task({"b": "NO", "a": "Yes", "c": "mayBe"}, text_type="Question", label_type="ANSWER")
    text = prompt(task, rows(("so", "a"), ("not so", "b"), ("SO", "c")))
    assert "contains a question and the respective answer. The answer is one of 'no', 'yes', or 'maybe'.\n\n" in text
    assert text.endswith("\nQuestion: so (Answer: Yes)\nQuestion: not so (Answer: No)\nQuestion: SO (Answer: Maybe)\nQuestion:")
    assert choices(task) == (" No", " Yes", " Maybe")


@pytest.mark.parametrize("end", LINE_ENDS, ids=repr)
def test_a_text_of_several_lines_becomes_one(end: str) -> None:
    text = prompt(SST2, rows((f"{end} first line {end}{end}second{end}third{end}", "pos")))
    assert text.splitlines()[2:] == ["Movie review: first line second third (Sentiment: Positive)", "Movie review:"]


@quick(max_examples=100, deadline=None)
@given(st.text(st.sampled_from([*"ab .,(:", "\t", "\u00a0", "é", *LINE_ENDS[:2], *LINE_ENDS[3:]]), max_size=30))
def test_one_line_keeps_every_word(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.split() == text.split()
    assert one_line(line) == line


@quick(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=4))
def test_the_prompt_has_a_line_an_example_and_ends_with_the_colon(texts: list[str]) -> None:
    text = prompt(SST2, rows(*((text, "pos") for text in texts)))
    assert text.endswith("\nMovie review:")
    assert len(text.splitlines()) == 2 + len(texts) + 1


# Seam and choices ----------------------------------------------------------------------------------------------------


def test_the_seam_joins_text_and_label_as_the_prompt_does() -> None:
    """What the LM reads in an example is a text, the seam, a choice and a bracket."""
    (row,) = rows(("fine", "neg"))
    assert seam(SST2) == " (Sentiment:"
    assert f"Movie review: fine{seam(SST2)}{choices(SST2)[1]})\n" in prompt(SST2, [row])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["positive", "negative"], (" Positive", " Negative")),
        (["pos", "positive"], (" Pos)", " Positive)")),
        (["not grammatical", "other", "NOT"], (" Not grammatical)", " Other)", " Not)")),
        (["1", "2", "10"], (" 1)", " 2)", " 10)")),
        (["active", "inactive"], (" Active", " Inactive")),
    ],
)
def test_choices_carry_the_bracket_if_and_only_if_one_label_begins_another(labels: list[str], expected: tuple[str, ...]) -> None:
    """Without it ` Pos` would count every ` Positive` as its own."""
    assert choices(make_task(labels)) == expected


# Equation (1) --------------------------------------------------------------------------------------------------------


logprobs = st.lists(st.floats(-1500, 0), min_size=2, max_size=6)


@quick(max_examples=200, deadline=None)
@given(logprobs)
def test_soft_label_is_the_softmax(values: list[float]) -> None:
    """Against exact arithmetic on shifted values; six digits are kept."""
    names = TREC[: len(values)]
    probs, mass = soft_label(names, values)
    assert list(probs) == names
    assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
    for name, value in zip(names, values, strict=True):
        assert probs[name] == pytest.approx(1 / math.fsum(math.exp(min(other - value, 700)) for other in values), abs=1e-6)
    assert mass == pytest.approx(math.fsum(math.exp(value) for value in values), rel=1e-9, abs=1e-300)
    assert probs[names[values.index(max(values))]] == max(probs.values())


def test_soft_label_by_hand() -> None:
    probs, mass = soft_label(["pos", "neg"], [math.log(0.6), math.log(0.2)])
    assert probs == {"pos": 0.75, "neg": 0.25}
    assert mass == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([-1000.0, -1000.0], [0.5, 0.5]), ([-1000.0, -1001.0], [0.731059, 0.268941]), ([-0.0, -1000.0], [1, 0]), ([-1e300, -1.0], [0, 1])],
)
def test_extreme_values_neither_overflow_nor_vanish(values: list[float], expected: list[float]) -> None:
    probs, mass = soft_label(["a", "b"], values)
    assert list(probs.values()) == expected
    assert 0 <= mass <= 1


# From requests to rows -----------------------------------------------------------------------------------------------


class Echo:
    """An LM that keeps what it is asked; by turns it gives the answers it was made with."""

    def __init__(self, *script: Completion) -> None:
        self.requests: list[Request] = []
        self.about = About("echo", "echo-weights", 500, 4, len, "")
        self._script = script or (answer(),)

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.requests += requests
        for request in requests:
            made = self._script[request.number % len(self._script)]
            yield Completion(request.number, made.text, made.finish, made.scores, made.prompt_tokens, made.completion_tokens)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        return [Scores((0.0,) * len(choices)) for _ in prompts]


def answer(text: str = " a fine film", finish: Any = "seam", logprobs: tuple[float, ...] | None = (math.log(0.1), math.log(0.3))) -> Completion:
    return Completion(0, text, finish, None if logprobs is None else Scores(logprobs), 50, 6)


def generator(lm: Echo, **options: Any) -> Augmenter:
    return open_augmenter(Augment(**options), SST2, lm)


def generated(lm: Echo, first: int = 0, count: int = 4, seed: int = 0, **options: Any) -> list[Augmented | Reject]:
    return list(generator(lm, **options).generate(TWENTY, first, count, seed))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("choose", ["uniform", "balanced"])
def test_parents_are_those_in_the_prompt_in_its_order(k: int, choose: str) -> None:
    lm = Echo()
    found = generated(lm, count=8, k=k, choose=choose)
    texts = {row.id: row for row in TWENTY}
    for row, request in zip(found, lm.requests, strict=True):
        assert len(set(row.parents)) == k
        assert prompt(SST2, [texts[parent] for parent in row.parents]) == request.prompt
    assert len({tuple(row.parents) for row in found}) > 1


def test_a_row_carries_everything_in_the_tasks_classes() -> None:
    (row,) = generated(Echo(), first=17, count=1)
    assert isinstance(row, Augmented)
    assert row.model_dump() == {
        "id": "gpt3mix-00017", "text": "a fine film", "label": "neg", "probs": {"pos": 0.25, "neg": 0.75}, "method": "gpt3mix",
        "parents": row.parents, "label_source": "exact", "label_mass": 0.4, "request": 17,
    }  # fmt: skip


def test_the_label_is_the_likeliest_class() -> None:
    found = generated(Echo(answer(logprobs=(-0.1, -3.0)), answer(logprobs=(-3.0, -0.1))))
    assert [row.label for row in found if isinstance(row, Augmented)] == ["pos", "neg", "pos", "neg"]


def test_a_line_that_ended_before_the_seam_is_kept_with_its_soft_label() -> None:
    (row,) = generated(Echo(answer(finish="line")), count=1)
    assert isinstance(row, Augmented)
    assert row.probs == {"pos": 0.25, "neg": 0.75}


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
    assert (found.request, found.method, found.reason, found.text) == (3, "gpt3mix", reason, completion.text.strip())
    assert len(found.parents) == 2


def test_a_prompt_too_long_says_by_how_much() -> None:
    (found,) = generated(Echo(answer("", "too_long", None)), count=1, max_tokens=460)
    assert isinstance(found, Reject)
    assert all(number in found.detail for number in ("50", "460", "500"))


def test_the_settings_reach_every_request() -> None:
    lm = Echo()
    generated(lm, count=3, first=5, max_tokens=33, temperature=0.7, top_p=0.8, frequency_penalty=0.25)
    assert [request.number for request in lm.requests] == [5, 6, 7]
    for request in lm.requests:
        assert (request.max_tokens, request.temperature, request.top_p, request.frequency_penalty) == (33, 0.7, 0.8, 0.25)
        assert (request.seam, request.choices) == (" (Sentiment:", (" Positive", " Negative"))
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
    assert dict(made.usage()) == {"prompt_tokens": 0, "completion_tokens": 0}
    list(made.generate(TWENTY, 0, 6, 0))
    assert dict(made.usage()) == {"prompt_tokens": 300, "completion_tokens": 36}


def test_about_names_what_can_change_a_row_and_nothing_else() -> None:
    """The quota cannot; the prompt, the sampler, the labels and the weights can."""
    base = generator(Echo()).about
    assert generator(Echo(), ratio=7, draws=3, attempts=9).about == base
    for change in ({"k": 3}, {"choose": "balanced"}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 7}, {"frequency_penalty": 0.0}):
        assert generator(Echo(), **change).about != base
    other = Echo()
    other.about = About("echo", "other-weights", 500, 4, len, "")
    assert generator(other).about != base
    for task in (SST2.model_copy(update={"text_type": "review"}), make_task({"pos": "good", "neg": "bad"})):
        assert GPT3Mix(Augment(), task, Echo(), "gpt3mix").about != base


def test_its_rows_bear_the_name_that_it_was_given() -> None:
    (row,) = open_augmenter(Augment(), SST2, Echo(), "mix").generate(TWENTY, 0, 1, 0)
    assert isinstance(row, Augmented)
    assert (row.id, row.method) == ("mix-00000", "mix")
