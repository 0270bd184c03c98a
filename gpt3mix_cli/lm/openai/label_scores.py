"""Turns what a server reports about labels into `Scores`; all functions are pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..port import Scores
from .http_errors import InvalidResponse, raise_error_in
from .responses import UNKNOWN_LOGPROB

MAX_UNCERTAIN_LOGPROB = -1e-9  # the upper limit for every label that is not exact
SPELLINGS_PER_LABEL = 6  # with and without its space; as given, in lower and in upper case
MIN_PROBABILITY = 1e-6  # of a label that the server did not report


def score_top_logprobs(
    top: Mapping[str, float], choices: Sequence[str], chat: bool = False, merge: bool = False
) -> Scores | None:
    """Return label scores from the likeliest tokens; None if they contain no label.

    If every label is there as one whole token, spelled as in the prompt, its score is exact.
    Otherwise a label's score sums its spellings in other case and spacing and its prefixes of at
    least two characters. A label that is not there gets the highest log-probability that its
    spellings can have. So does one that shares a prefix with another label. No label becomes
    certain because the others were cut off.

    Args:
        top: token -> log-probability.
        choices: the labels with their leading space.
        chat: the label starts a chat's answer, where no spelling is the right one.
        merge: sum spellings even if every label is there.
    """
    if not (chat or merge) and all(
        top.get(choice, UNKNOWN_LOGPROB) > UNKNOWN_LOGPROB for choice in choices
    ):
        return Scores(tuple(min(top[choice], 0.0) for choice in choices))
    own, shared = _masses_by_label(top, choices)
    if not any(own):
        return None
    known = [value for value in top.values() if value > UNKNOWN_LOGPROB]
    rest = max(1 - math.fsum(map(math.exp, known)), MIN_PROBABILITY)
    unseen = min(rest, SPELLINGS_PER_LABEL * math.exp(min(known)))
    masses = [(mass or unseen) + also for mass, also in zip(own, shared, strict=True)]
    return Scores(
        tuple(min(math.log(mass), MAX_UNCERTAIN_LOGPROB) for mass in masses),
        "top_logprobs",
        bounded=tuple(index for index in range(len(choices)) if shared[index] or not own[index]),
    )


def _masses_by_label(
    top: Mapping[str, float], choices: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Return each label's probability from tokens that fit it alone, and from ambiguous tokens."""
    labels = [choice.strip().casefold() for choice in choices]
    own, shared = [0.0] * len(choices), [0.0] * len(choices)
    for token, logprob in top.items():
        spelled = token.strip().casefold()
        matches = [index for index, label in enumerate(labels) if label == spelled]
        if not matches and len(spelled) > 1:
            matches = [index for index, label in enumerate(labels) if label.startswith(spelled)]
        for index in matches:
            (own if len(matches) == 1 else shared)[index] += math.exp(logprob)
    return own, shared


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
            if spelled.startswith(labels[index]):
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
