"""Request bodies of OpenAI's protocol; nothing is sent here.

The JSON of a body is part of the journal key of its paid answer. A changed body means that users
pay for the same answer again, so bodies must not change between versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..port import Request
from .capabilities import Capabilities

GENERATION_INSTRUCTION = (
    "You continue lists. Answer with the next item alone, on one line, "
    "in the form of the items before it."
)
LABEL_INSTRUCTION = (
    "You complete the last line of a list. Answer with one of these labels alone, as it stands: "
)
# Turns off sampling that servers add by default. llama.cpp uses 40 tokens and a repeat penalty,
# vLLM whatever the model's folder says.
NEUTRAL_SAMPLING = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
SEED_LIMIT = 1 << 31  # some servers only take signed 32-bit seeds


@dataclass(frozen=True)
class Call:
    """One HTTP request to an endpoint.

    Attributes:
        path: below the base URL, such as `/completions`; with two slashes (`//tokenize`) at the
            root of the server.
        body: the JSON body.
        number: distinguishes calls with equal bodies: the attempt, and which of its draws.
    """

    path: str
    body: Mapping[str, Any]
    number: str = ""


def text_body(
    capabilities: Capabilities,
    model: str,
    prompt: str | Sequence[int],
    system: str = "",
    **fields: Any,
) -> dict[str, Any]:
    """Return the body that asks for text.

    Args:
        capabilities: of the server.
        model: as the server calls it.
        prompt: the text to continue, or its token ids.
        system: the system message; only a chat has one.
        fields: `max_tokens`, `temperature` and so on; `logprobs` is a count. None omits a field.
    """
    body: dict[str, Any] = {"model": model}
    if capabilities.api == "completions":
        body["prompt"] = prompt
    else:
        body["messages"] = [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt},
        ]
        if fields.get("logprobs"):
            fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
        fields.pop("stop", None)  # the answer of a chat may begin with an empty line
    fields[capabilities.max_tokens_field] = fields.pop("max_tokens")
    body |= NEUTRAL_SAMPLING if capabilities.neutral_sampling else {}
    return {
        name: value
        for name, value in (body | fields).items()
        if value is not None and name not in capabilities.refused_fields
    }


def generation_body(
    request: Request,
    capabilities: Capabilities,
    model: str,
    label_tokens: int,
    label_ids: Sequence[int],
    copies: int = 1,
) -> dict[str, Any]:
    """Return the body that generates a request's line, label included.

    The line is generated to its end, so that the label's distribution comes in the same answer,
    at the position after the label prefix.

    Args:
        request: the request.
        capabilities: of the server.
        model: as the server calls it.
        label_tokens: additional tokens for the label prefix and the label.
        label_ids: the token ids of the labels, if the server scores tokens by id.
        copies: how many texts.
    """
    scored = bool(request.choices)
    fields: dict[str, Any] = {
        "max_tokens": request.max_tokens + (label_tokens if scored else 0),
        "temperature": request.temperature,
        # Always sent, because servers have different defaults.
        "top_p": request.top_p,
        "frequency_penalty": request.frequency_penalty,
        "seed": request.seed % SEED_LIMIT,
        "stop": ["\n"],
        "n": copies if copies > 1 else None,
    }
    if scored and capabilities.top_logprobs:
        fields["logprobs"] = 1 if label_ids else capabilities.top_logprobs
        if label_ids:
            fields["logprob_token_ids"] = list(label_ids)
    elif capabilities.top_logprobs:
        fields["logprobs"] = 1
    return text_body(capabilities, model, request.prompt, GENERATION_INSTRUCTION, **fields)


def label_body(
    context: str | Sequence[int],
    choices: Sequence[str],
    capabilities: Capabilities,
    model: str,
    **fields: Any,
) -> dict[str, Any]:
    """Return the body that asks for the label after a context: one token, unless `fields` differ.

    Temperature and top-p are always 1. So log-probabilities are raw even where a server computes
    them after sampling, and votes are drawn from the whole distribution.
    """
    system = LABEL_INSTRUCTION + ", ".join(choice.strip() for choice in choices)
    defaults = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    return text_body(capabilities, model, context, system, **{**defaults, **fields})


def echo_body(capabilities: Capabilities, model: str, text: str) -> dict[str, Any]:
    """Return the body that asks for the log-probabilities of a text's own tokens."""
    # One more token is generated than needed: some servers take 0 for "no limit".
    return text_body(
        capabilities, model, text, max_tokens=1, temperature=1.0, logprobs=1, echo=True
    )


def decision_body(context: str, choices: Sequence[str], model: str) -> dict[str, Any]:
    """Return the body that asks OpenAI's decisions API for the label after a context."""
    question = {
        "type": "choice",
        "name": "label",
        "instructions": "The label with which the last line goes on.",
        "choices": [{"value": choice.strip()} for choice in choices],
    }
    return {"model": model, "input": context, "questions": [question]}
