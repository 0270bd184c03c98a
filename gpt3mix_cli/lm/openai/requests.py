"""What a server supports, and the request bodies that follow from it; nothing is sent here.

`probe` finds out the capabilities, and journals store them. The JSON of a body is part of the
journal key of its paid answer. A changed body means that users pay for the same answer again, so
bodies must not change between versions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from ...errors import UserError
from ...settings import OpenAISettings
from ..port import GENERATION_INSTRUCTION, Request

LABEL_INSTRUCTION = (
    "You complete the last line of a list. Answer with one of these labels alone, as it stands: "
)
# Turns off sampling that servers add by default. llama.cpp uses 40 tokens and a repeat penalty,
# vLLM whatever the model's folder says.
NEUTRAL_SAMPLING = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
SEED_LIMIT = 1 << 31  # some servers only take signed 32-bit seeds
TOKEN_MARGIN = 4  # for a closing bracket, and for labels that the server tokenises differently
NEGLIGIBLE_PENALTY = 0.01  # a frequency penalty that changes a label's log-probability by <= 0.01
STORED_NAMES = {  # field names in journals of earlier versions
    "labels": "label_method",
    "top": "top_logprobs",
    "limit": "max_tokens_field",
    "refused": "refused_fields",
    "many": "supports_n",
    "plain": "neutral_sampling",
    "raw": "raw_logprobs",
}


@dataclass(frozen=True)
class Capabilities:
    """What a server supports, and so how it is asked.

    Attributes:
        api: `completions` continues the paper's prompt as it is; `chat` wraps it into messages.
        label_method: how label scores are requested if the generated line does not contain them.
            `ids` asks for the log-probabilities of the labels' tokens (vLLM's
            `logprob_token_ids`), `echo` for those of a prompt that ends in the label. `none`: the
            server offers no label scores.
        top_logprobs: the most log-probabilities per token that the server returns; 0: none.
        max_tokens_field: the name of the field that limits the number of tokens.
        refused_fields: fields that the server rejects; requests omit them.
        supports_n: whether one request may ask for several texts (`n`).
        neutral_sampling: whether requests turn off the sampling that the server adds by default.
        raw_logprobs: whether log-probabilities are those before temperature and top-p. They are
            at OpenAI, but not at SGLang.
        label_logprobs: the most log-probabilities that a request for a label alone gets, where that
            is more than `top_logprobs`, the number for each token of a line; otherwise 0.
        max_copies: the most texts of one request, such as llama-server's slots; 0: no limit known.
        is_greedy: whether the server draws nothing, so that two answers never differ.
        context: the server's own limit in tokens; 0: unknown.
    """

    api: Literal["completions", "chat"] = "completions"
    label_method: Literal["ids", "echo", "decision", "top_logprobs", "vote", "none"] = "none"
    top_logprobs: int = 0
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    refused_fields: tuple[str, ...] = ()
    supports_n: bool = False
    neutral_sampling: bool = False
    raw_logprobs: bool = True
    label_logprobs: int = 0
    max_copies: int = 0
    is_greedy: bool = False
    context: int = 0

    @property
    def path(self) -> str:
        """The path that generates text, below the base URL."""
        return "/completions" if self.api == "completions" else "/chat/completions"

    @property
    def label_source(self) -> str:
        """What `lm.label_source` calls the label method; `none` if there is none."""
        return "exact" if self.label_method in ("ids", "echo") else self.label_method

    @property
    def most_logprobs(self) -> int:
        """The log-probabilities that a request for a label asks for."""
        return max(self.top_logprobs, self.label_logprobs)

    def split_draws(self, count: int) -> list[int]:
        """Return how many texts each request for `count` draws asks for."""
        if self.is_greedy:
            return [1]
        copies = max(min(self.max_copies or count, count), 1) if self.supports_n else 1
        return [min(copies, count - start) for start in range(0, count, copies)]

    def returns_raw_logprobs(self, request: Request) -> bool:
        """Return whether a text's log-probabilities are those before sampling, or close to them."""
        return self.raw_logprobs or (
            request.temperature == 1
            and request.top_p == 1
            and request.min_p == 0
            and abs(request.frequency_penalty) <= NEGLIGIBLE_PENALTY
        )


def parse_capabilities(text: str) -> Capabilities | None:
    """Return capabilities stored as JSON by this or an earlier version; None if unreadable."""
    try:
        stored = json.loads(text)
        fields = {STORED_NAMES.get(name, name): value for name, value in stored.items()}
        fields["refused_fields"] = tuple(fields.get("refused_fields", ()))
        Capabilities(**fields)  # no other fields
        # The types of fields are checked too: a journal may have been edited or damaged.
        return pydantic.TypeAdapter(Capabilities).validate_python(fields)
    except (ValueError, TypeError, AttributeError):
        return None


def describe_capabilities(capabilities: Capabilities, settings: OpenAISettings) -> str:
    """Return in words how the server is asked, and what it lacks."""
    method = {
        "ids": " (by token ids)",
        "echo": " (of echoed prompts)",
        "top_logprobs": f" ({capabilities.top_logprobs} a token)",
        "vote": f" of {1 if capabilities.is_greedy else settings.num_votes}",
    }.get(capabilities.label_method, "")
    refused = [name for name in capabilities.refused_fields if name not in NEUTRAL_SAMPLING]
    text = f"{capabilities.api}, label scores {capabilities.label_source}{method}"
    if refused:
        text += f"; omitted fields, since the server refuses them: {', '.join(refused)}"
    if not capabilities.raw_logprobs:
        text += (
            "; its log-probabilities depend on temperature and top_p: "
            "labels take a separate request unless both are 1"
        )
    if capabilities.is_greedy:
        text += (
            "; the server decodes greedily (two draws are alike), so labels are hard and texts "
            "repeat: let it sample, with `transformers serve` by `do_sample: true` in the "
            "generation_config.json of the model's folder"
        )
    if 0 < capabilities.context < settings.context:
        text += (
            f"; the server's context of {capabilities.context} tokens is used, "
            f"less than lm.context ({settings.context})"
        )
    return text


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

    @property
    def prompt(self) -> str | Sequence[int]:
        """The text that the server continues, or its token ids; of a chat, the last message."""
        messages = self.body.get("messages")
        prompt: str | Sequence[int] = (
            messages[-1]["content"] if messages else self.body.get("prompt", self.body.get("input"))
        )
        return prompt or ""

    @property
    def max_completion_tokens(self) -> int:
        """The most tokens of all texts of the answer."""
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens") or 0
        return int(limit) * int(self.body.get("n") or 1)

    def count_tokens(self, count: Callable[[str], int]) -> int:
        """Return the tokens of all its messages, or of its prompt, by a count of a text's."""
        prompts = [message["content"] for message in self.body.get("messages", ())] or [self.prompt]
        return sum(count(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts)


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

    Raises:
        UserError: if the request has a min-p and the server refuses the field.
    """
    if request.min_p and "min_p" in capabilities.refused_fields:
        raise UserError(
            f"augment.min_p is {request.min_p}, but the server of {model} refuses the field min_p",
            "set augment.min_p: 0 (top_p is an alternative), or use vLLM, SGLang or llama.cpp",
        )
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
    if request.min_p:
        fields["min_p"] = request.min_p
    if capabilities.top_logprobs:
        fields["logprobs"] = capabilities.top_logprobs if scored and not label_ids else 1
        fields["logprob_token_ids"] = list(label_ids) or None
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
    fields = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0} | fields
    return text_body(capabilities, model, context, system, **fields)


def echo_body(capabilities: Capabilities, model: str, text: str) -> dict[str, Any]:
    """Return the body that asks for the log-probabilities of a text's own tokens."""
    # One more token is generated than needed: some servers take 0 for "no limit".
    return text_body(
        capabilities, model, text, max_tokens=1, temperature=1.0, logprobs=1, echo=True
    )


def decision_body(context: str, choices: Sequence[str], model: str) -> dict[str, Any]:
    """Return the body that asks OpenAI's decisions API for the label after a context."""
    return {
        "model": model,
        "input": context,
        "questions": [
            {
                "type": "choice",
                "name": "label",
                "instructions": "The label with which the last line goes on.",
                "choices": [{"value": choice.strip()} for choice in choices],
            }
        ],
    }
