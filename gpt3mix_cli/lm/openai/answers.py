"""Reads the answers of OpenAI's protocol strictly; nothing is sent here.

An answer becomes typed records, or is refused with a reason: servers send null, NaN, numbers as
text, texts as lists of parts, and errors with the status 200. A number that is none counts as
unreported. So nothing behind this module meets a value that it cannot use, and answers in a journal
can be read again, also differently, at no cost. Log-probabilities are natural logarithms.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .http_errors import HttpError, InvalidResponse, raise_error_in, replace_unstorable
from .responses import UNKNOWN_LOGPROB, GeneratedText, TokenLogprobs, Usage, join_tokens

MAX_LOGPROB = 0.01  # rounding may put that of a certain token above 0
MAX_TOKENS = 10**9  # of an answer; a greater count is no count
STOP_REASONS = ("stop", "none", "eos", "eos_token", "end_turn", "stop_sequence", "complete")
FILTER_REASONS = ("content_filter", "safety", "prohibited_content", "recitation", "refusal")
ERROR_REASONS = (
    "error",
    "abort",
    "aborted",
    "cancelled",
    "timeout",
    "insufficient_system_resource",
)
# A NUL, or a half of a character; pairs of halves match too, and are decoded before they are read.
UNSTORABLE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
# What a model thinks before it answers; a chat template may already hold the opening tag.
_TAG = r"(?:seed:)?(?:think|thinking|reasoning)"
THOUGHTS = re.compile(rf".*(?:</{_TAG}>|\[/{_TAG}\])\s*", re.DOTALL | re.IGNORECASE)
THOUGHT_START = re.compile(rf"\s*(?:<{_TAG}>|\[{_TAG}\])", re.IGNORECASE)
ONLY_REASONING = "the model thinks before it answers, and its tokens ended before the answer began"


def parse_json(text: str) -> Any:
    """Return the JSON value of an answer; U+FFFD replaces what no file can hold.

    Raises:
        InvalidResponse: if it is no JSON.
    """
    try:
        value = json.loads(text)
        return _storable(value) if UNSTORABLE_ESCAPE.search(text) else value
    except (ValueError, RecursionError):  # nested too deeply, or a number of too many digits
        raise InvalidResponse("the answer is not JSON") from None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return replace_unstorable(value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {replace_unstorable(name): _storable(item) for name, item in value.items()}
    return value


def parse_texts(answer: Any, prompt: str = "") -> list[GeneratedText]:
    """Return the texts of an answer, of a chat or not.

    Args:
        answer: its JSON value.
        prompt: is cut off where a server repeats it before the text.

    Raises:
        HttpError: if it holds an error, or no choices, as filters of prompts leave it.
        InvalidResponse: if it does not follow the protocol, or the server broke off.
    """
    if not isinstance(answer, Mapping):
        raise InvalidResponse("the answer has no valid choices: it is no object")
    raise_error_in(answer)
    choices = answer.get("choices")
    if choices == []:
        raise HttpError(400, "the server refuses the prompt: its answer has no choices")
    if not isinstance(choices, list):
        raise InvalidResponse("the answer has no valid choices")
    return [_parse_choice(choice, prompt) for choice in choices]


def _parse_choice(choice: Any, prompt: str) -> GeneratedText:
    if not isinstance(choice, Mapping):
        raise InvalidResponse("the answer has no valid choices: one is no object")
    raise_error_in(choice)
    finish = str(choice.get("finish_reason") or None).lower()
    if finish in ERROR_REASONS:
        raise InvalidResponse(f"the server broke off (finish_reason: {finish})")
    message = choice.get("message")
    is_chat = isinstance(message, Mapping)
    fields: Mapping[str, Any] = message if is_chat else choice  # type: ignore[assignment]
    text = _join_parts(fields.get("content" if is_chat else "text"))
    if text is None and not is_chat:
        raise InvalidResponse("the answer has no valid choices: one has no text")
    reasoning = (
        _join_parts(fields.get("reasoning_content")) or _join_parts(fields.get("reasoning")) or ""
    )
    generated, refusal = f"{reasoning}{text or ''}", fields.get("refusal")
    blocked = f"finish_reason: {finish}" if finish in FILTER_REASONS else ""
    if isinstance(refusal, str) and refusal:
        blocked = f"the model refuses: {refusal}"
    result = GeneratedText(
        text or "",
        finish in STOP_REASONS,
        _parse_tokens(choice.get("logprobs")),
        blocked,
        generated=generated,
    )
    if prompt and result.text.startswith(prompt):
        in_tokens = join_tokens(result.tokens).startswith(prompt)
        result = _cut(result, len(prompt), len(prompt) if in_tokens else 0)
    return _without_thoughts(result, bool(reasoning))


def _join_parts(content: Any) -> str | None:
    """Return a text, or the texts of a list of parts (without thoughts); None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _without_thoughts(text: GeneratedText, has_reasoning: bool) -> GeneratedText:
    # The tokens have the thoughts also where the server keeps them out of the text.
    thoughts = THOUGHTS.match(text.text)
    in_tokens = THOUGHTS.match(join_tokens(text.tokens))
    if thoughts or in_tokens:
        text = _cut(text, _length(thoughts), _length(in_tokens))
    is_empty = not text.text.strip() and (thoughts or has_reasoning)
    if is_empty or THOUGHT_START.match(text.text):
        return replace(text, text="", tokens=(), blocked=ONLY_REASONING, only_reasoning=True)
    return text


def _length(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _cut(text: GeneratedText, characters: int, of_tokens: int) -> GeneratedText:
    """Return a text without its first characters, and without those of its tokens."""
    tokens = list(text.tokens)
    while tokens and of_tokens >= len(tokens[0].token):
        of_tokens -= len(tokens.pop(0).token)
    if tokens and of_tokens:
        tokens[0] = replace(tokens[0], token=tokens[0].token[of_tokens:])
    return replace(text, text=text.text[characters:], tokens=tokens)


# Numbers -----------------------------------------------------------------------------------------


def _parse_tokens(logprobs: Any) -> list[TokenLogprobs]:
    """Return the tokens of a choice; none if any is not as one of the protocol's forms has it.

    `{"content": [...]}` is a chat's form. llama-server uses it for completions too, whose own form
    has a list for each of token, log-probability, likeliest tokens and offset.
    """
    if not isinstance(logprobs, Mapping):
        return []
    entries, tokens = logprobs.get("content"), logprobs.get("tokens")
    rows: list[tuple[Any, ...]] = []
    if isinstance(entries, list) and entries:
        if not all(isinstance(entry, Mapping) for entry in entries):
            return []
        names = ("token", "logprob", "top_logprobs")
        rows = [(*(entry.get(name) for name in names), None) for entry in entries]
    elif isinstance(tokens, list):
        columns = [
            _column(logprobs.get(name), len(tokens))
            for name in ("token_logprobs", "top_logprobs", "text_offset")
        ]
        rows = list(zip(tokens, *columns, strict=True))
    parsed = [
        TokenLogprobs(token, parse_logprob(logprob), _parse_top(top), _count(offset))
        for token, logprob, top, offset in rows
        if isinstance(token, str)
    ]
    return parsed if len(parsed) == len(rows) else []


def _column(values: Any, length: int) -> list[Any]:
    known = values[:length] if isinstance(values, list) else []
    return [*known, *[None] * (length - len(known))]


def _parse_top(top: Any) -> dict[str, float]:
    if isinstance(top, Mapping):
        pairs = list(top.items())
    else:
        entries = top if isinstance(top, list) else []
        pairs = [
            (entry.get("token"), entry.get("logprob"))
            for entry in entries
            if isinstance(entry, Mapping)
        ]
    return {
        token: logprob
        for token, value in pairs
        if isinstance(token, str) and (logprob := parse_logprob(value)) is not None
    }


def parse_logprob(value: Any) -> float | None:
    """Return a log-probability, at least `UNKNOWN_LOGPROB`; None for what cannot be one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    # NaN fails the comparison.
    return float(max(value, UNKNOWN_LOGPROB)) if value <= MAX_LOGPROB else None


def _count(value: Any) -> int | None:
    """Return a number of tokens or characters; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_TOKENS and value == int(value) else None


def parse_usage(
    answer: Mapping[str, Any], estimate: Callable[[], tuple[int, int]] = lambda: (0, 0)
) -> Usage:
    """Return the tokens that an answer reports.

    Args:
        answer: its JSON object.
        estimate: returns prompt and completion tokens for an answer that does not report both.
    """
    usage = answer.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens"))) or 0
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens"))) or 0
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    if prompt and completion:
        return Usage(prompt, completion, min(cached or 0, prompt))
    reported, (own_prompt, own_completion) = (prompt, completion), estimate()
    prompt, completion = prompt or own_prompt, completion or own_completion
    cached = min(cached or 0, prompt)
    return Usage(prompt, completion, cached, estimated=reported != (prompt, completion))
