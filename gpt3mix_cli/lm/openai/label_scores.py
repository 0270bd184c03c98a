"""Turns what a server reports about labels into `Scores`; all functions are pure."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..port import Scores
from .http_errors import InvalidResponse, raise_error_in
from .responses import UNKNOWN_LOGPROB, TokenLogprobs

MAX_UNCERTAIN_LOGPROB = -1e-9  # the upper limit for every label that is not exact
SPELLINGS_PER_LABEL = 6  # with and without its space; as given, in lower and in upper case
MIN_PROBABILITY = 1e-6  # of a label that the server did not report
LETTERS_PER_TOKEN = 5  # of a longer word, so that ` Abbreviation` has three tokens
MAX_ONE_TOKEN_LETTERS = 8  # of a word such as ` Positive`, which large vocabularies hold whole
NEGLIGIBLE = 0.01  # the fraction of a label's probability that may be unknown
MIN_BEGINNING = 1e-3  # of all labels' probability; less likely beginnings are not followed

Tops = Mapping[str, Mapping[str, float]]  # text after the label prefix -> token -> log-probability


@dataclass
class LabelMass:
    """What is known of a label's probability.

    Attributes:
        known: of the tokens that complete it.
        unknown: of its beginnings after which no token is known, and of unreported tokens.
        has_own_token: whether any token is this label's alone.
    """

    known: float = 0.0
    unknown: float = 0.0
    has_own_token: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether more than a negligible part is unknown."""
        return not self.known or self.unknown > NEGLIGIBLE * self.known

    @property
    def logprob(self) -> float:
        """The highest log-probability that the label can have."""
        return math.log(max(self.known + self.unknown, sys.float_info.min))


@dataclass(frozen=True)
class Beginning:
    """A text that labels begin with.

    Attributes:
        text: after the label prefix.
        probability: of the text.
        rests: index of the label -> what is left of it; all are empty if the text is a label.
    """

    text: str
    probability: float
    rests: Mapping[int, str]


def score_top_logprobs(
    top: Mapping[str, float],
    choices: Sequence[str],
    chat: bool = False,
    merge: bool = False,
    further: Tops | None = None,
) -> Scores | None:
    """Return label scores from the likeliest tokens; None if they tell no label from the others.

    The probability of a label is the product of its tokens'. If every label is there, spelled as in
    the prompt, scores are exact. Otherwise a label's score sums its spellings in other case and
    spacing, unless tokens after beginnings of labels are known. It is an upper bound if the label
    is not there, or only its first tokens are. Labels that share these tokens all have their
    probability. No label becomes certain because the others were cut off.

    Args:
        top: token -> log-probability after the label prefix.
        choices: the labels with their leading space.
        chat: the label starts a chat's answer, where no spelling is the right one.
        merge: sum spellings even if every label is there.
        further: the same after beginnings of labels.
    """
    tops = {**(further or {}), "": top}
    if not (chat or merge):
        if all(top.get(choice, UNKNOWN_LOGPROB) > UNKNOWN_LOGPROB for choice in choices):
            return Scores(tuple(min(top[choice], 0.0) for choice in choices))
        masses, _ = _label_masses(tops, choices, any_spelling=False)
        if not any(mass.is_bounded for mass in masses):
            return Scores(tuple(min(math.log(mass.known), 0.0) for mass in masses))
    if chat or merge or len(tops) == 1:
        masses, _ = _label_masses(tops, choices, any_spelling=True)
    if not any(mass.has_own_token for mass in masses):
        return None
    return Scores(
        tuple(min(mass.logprob, MAX_UNCERTAIN_LOGPROB) for mass in masses),
        "top_logprobs",
        bounded=tuple(index for index, mass in enumerate(masses) if mass.is_bounded),
    )


def likeliest_beginning(tops: Tops, choices: Sequence[str], chat: bool = False) -> str | None:
    """Return the beginning of labels whose next token matters most; None if none does.

    In a chat only one that several labels share matters: its scores do not tell them apart.
    """
    masses, beginnings = _label_masses(tops, choices, any_spelling=chat)
    limit = MIN_BEGINNING * math.fsum(mass.known + mass.unknown for mass in masses)
    matter = [
        beginning
        for beginning in beginnings
        if beginning.probability > limit
        and any(masses[index].is_bounded for index in beginning.rests)
        and (len(beginning.rests) > 1 or not chat)
    ]
    likeliest = max(matter, key=lambda beginning: beginning.probability, default=None)
    return likeliest.text if likeliest else None


def count_further_requests(
    choices: Sequence[str], chat: bool, count_tokens: Callable[[str], int] | None = None
) -> int:
    """Return how many requests a row's label is likely to take at most, beyond its line.

    One for each beginning of labels; at a chat, where only labels that share their first words need
    it, mostly one.

    Args:
        choices: the labels with their leading space.
        chat: the label starts a chat's answer.
        count_tokens: of the server's tokenizer. None: words of more than eight letters are taken
            for several tokens, others for one.
    """
    beginnings: list[set[tuple[str, ...]]] = []
    for choice in choices:
        words = choice.casefold().split()
        own = {tuple(words[:count]) for count in range(1, len(words))}
        if chat:
            shortened = 0
        elif count_tokens:
            shortened = count_tokens(choice) - count_tokens("") - len(words)
        else:
            long_words = (word for word in words if len(word) > MAX_ONE_TOKEN_LETTERS)
            shortened = sum(len(word) // LETTERS_PER_TOKEN for word in long_words)
        own |= {(*words, str(number)) for number in range(shortened)}
        beginnings.append(own)
    every = set[tuple[str, ...]]().union(*beginnings)
    if chat:
        return int(any(sum(text in own for own in beginnings) > 1 for text in every))
    return len(every)


def tops_by_text(
    tokens: Sequence[TokenLogprobs], choices: Sequence[str]
) -> dict[str, Mapping[str, float]]:
    """Return the likeliest tokens after each beginning of a generated label, the empty one too."""
    tops: dict[str, Mapping[str, float]] = {}
    text, longest = "", max(map(len, choices), default=0)
    for token in tokens:
        if len(text) > longest or not token.top:
            break
        tops.setdefault(text, token.top)
        text += token.token
    return tops


def _label_masses(
    tops: Tops, choices: Sequence[str], any_spelling: bool
) -> tuple[list[LabelMass], list[Beginning]]:
    """Return what is known of each label, and the beginnings after which no token is known.

    With `any_spelling`, case and spacing may differ from those of the labels.
    """
    masses, beginnings = [LabelMass() for _ in choices], []
    paths = [Beginning("", 1.0, dict(enumerate(choices)))]
    while paths:
        path = paths.pop()
        top = {token: value for token, value in tops[path.text].items() if value > UNKNOWN_LOGPROB}
        missing = set(path.rests)
        for step in _next_steps(path, top, choices, any_spelling):
            is_label, is_alone = not any(step.rests.values()), len(step.rests) == 1
            is_followed = not is_label and bool(tops.get(step.text))
            at_word_end = not any(rest[:1].isalnum() for rest in step.rests.values())
            if any_spelling and not (is_followed or at_word_end) and len(step.text.strip()) < 2:
                continue  # the article `A` is no beginning of `Abbreviation`
            # A token that ends within a word is not always one of the label's own tokens.
            if at_word_end or is_followed or (any_spelling and is_alone):
                missing -= set(step.rests)
            if is_followed:
                paths.append(step)
                continue
            if not is_label:
                beginnings.append(step)
            for mass in map(masses.__getitem__, step.rests):
                mass.has_own_token |= is_alone
                if is_label and is_alone:
                    mass.known += step.probability
                else:
                    mass.unknown += step.probability
        for index in missing:
            masses[index].unknown += path.probability * _max_unreported(top, any_spelling)
    return masses, beginnings


def _next_steps(
    path: Beginning, top: Mapping[str, float], choices: Sequence[str], any_spelling: bool
) -> Iterator[Beginning]:
    """Yield each token that goes on with labels, with the labels that it goes on with."""
    for token, logprob in top.items():
        if not token:
            continue  # the end of the text, at llama.cpp
        text, rests = path.text + token, {}
        for index, before in path.rests.items():
            if not any_spelling and before in top and before != token:
                continue  # the longest token is the label's own
            if (rest := _rest(choices[index], text, any_spelling)) is not None:
                rests[index] = rest
        if "" in rests.values():
            rests = {index: rest for index, rest in rests.items() if not rest}
        if rests:
            yield Beginning(text, path.probability * math.exp(logprob), rests)


def _rest(label: str, text: str, any_spelling: bool) -> str | None:
    """Return what follows in a label that begins with a text; None if it does not."""
    if any_spelling:
        label, text = label.strip().casefold(), text.strip().casefold()
    return label[len(text) :] if text and label.startswith(text) else None


def _max_unreported(top: Mapping[str, float], any_spelling: bool) -> float:
    """Return the highest probability that a label can have if none of its tokens is reported."""
    rest = max(1 - math.fsum(map(math.exp, top.values())), MIN_PROBABILITY)
    lowest = math.exp(min(top.values(), default=0.0))
    return min(rest, (SPELLINGS_PER_LABEL if any_spelling else 1) * lowest)


def score_decision(answer: Mapping[str, Any], choices: Sequence[str]) -> Scores | None:
    """Return label scores from an answer of OpenAI's decisions API; None if the model refused.

    Raises:
        HttpError: if it holds an error.
        InvalidResponse: if it is no decision.
    """
    try:
        raise_error_in(answer)
        decision = answer["answers"][0]
        if decision.get("type") == "refusal":
            return None
        by_value = {entry["value"]: entry["probability"] for entry in decision["probabilities"]}
        probabilities = [by_value[choice.strip()] for choice in choices]
        if not all(
            0 <= value <= 1 + MIN_PROBABILITY for value in probabilities
        ):  # NaN fails it too
            raise ValueError(f"one is none: {probabilities}")
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InvalidResponse(
            f"the decision has no probabilities ({type(error).__name__}: {error})"
        ) from None
    return Scores(
        tuple(math.log(max(value, MIN_PROBABILITY)) for value in probabilities),
        "decision",
        bounded=tuple(
            index for index, value in enumerate(probabilities) if value < MIN_PROBABILITY
        ),
    )


def score_votes(texts: Sequence[str], choices: Sequence[str]) -> Scores | None:
    """Return the fraction of sampled texts that begin with each label; None if none does.

    Half a vote is added to each label (the estimator of Krichevsky and Trofimov).
    """
    counts = [0] * len(choices)
    labels = [choice.strip().casefold() for choice in choices]
    # Longest first: "Very good" is no vote for "Very".
    longest_first = sorted(range(len(labels)), key=lambda index: -len(labels[index]))
    for text in texts:
        spelled = text.strip().casefold()
        for index in longest_first:
            # Labels of which one begins another have a bracket, which a chat's answer may lack.
            bare = labels[index].removesuffix(")")
            if spelled.startswith(labels[index]) or spelled.strip("\"'*.! ") == bare:
                counts[index] += 1
                break
    if not any(counts):
        return None
    total = sum(counts) + len(choices) / 2
    return Scores(tuple(math.log((count + 0.5) / total) for count in counts), "vote")


def next_tokens_by_prefix(labels: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """Return, for each proper prefix of the labels' tokens, the tokens that may follow it.

    One request per prefix is enough to score all labels.
    """
    next_tokens: dict[tuple[int, ...], list[int]] = {}
    for tokens in labels:
        for index, token in enumerate(tokens):
            known = next_tokens.setdefault(tuple(tokens[:index]), [])
            if token not in known:
                known.append(token)
    return next_tokens


def score_token_sequences(
    labels: Sequence[Sequence[int]], logprobs: Mapping[tuple[int, ...], Mapping[int, float]]
) -> Scores:
    """Return exact label scores from the log-probabilities of tokens after each prefix."""
    return Scores(tuple(_sequence_logprob(tokens, logprobs) for tokens in labels))


def _sequence_logprob(
    tokens: Sequence[int], logprobs: Mapping[tuple[int, ...], Mapping[int, float]]
) -> float:
    return math.fsum(logprobs[tuple(tokens[:index])][token] for index, token in enumerate(tokens))
