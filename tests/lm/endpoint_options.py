"""Options of the test server, and the form of each kind of server's refusals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from endpoint_model import ASKS_LABEL


@dataclass
class Options:
    """Which server it is.

    Attributes:
        dialect: openai, vllm, llamacpp or ollama.
        model: its name; other names are refused (llamacpp takes any).
        context: the most tokens of prompt and text together.
        key: the only valid key; empty: any.
        ignores: fields of vLLM that an older version ignores.
        refuses: parameters that an OpenAI model refuses, as reasoning models do.
        completions: an OpenAI model that still has /v1/completions (5 log-probabilities, no echo).
        decisions: whether /v1/decisions is there.
        refusals: the fraction of decisions that are refused.
        max_logprobs: vLLM's cap; -1 is none.
        begin: whether a token begins each prompt, unless add_special_tokens is false.
        echo_shifted: llamacpp gives an echo's log-probabilities one token off.
        tempered: log-probabilities are computed after temperature, as SGLang does.
        fewer: this many of the top log-probabilities that were asked for are left out.
        split, unlikely, asks_label: see `TinyLM`.
        delay: seconds that every answer takes, or their bounds.
        at_once: requests served at the same time; 0: no limit. Others get 429, or wait if `queue`.
        per_minute: requests accepted within any 60 s (`window` seconds); 0: no limit.
        polls: a batch ends when it was retrieved this many times; -1: on command only.
        remember: whether to keep the body of each request.
    """

    dialect: str = "vllm"
    model: str = "tiny"
    context: int = 4096
    key: str = ""
    ignores: Sequence[str] = ()
    refuses: Sequence[str] = ()
    completions: bool = False
    decisions: bool = True
    refusals: float = 0.0
    max_logprobs: int = 20
    begin: bool = False
    echo_shifted: bool = False
    tempered: bool = False
    fewer: int = 0
    split: Sequence[str] = ()
    unlikely: Sequence[str] = ()
    asks_label: str = ASKS_LABEL
    delay: float | Sequence[float] = 0.0
    at_once: int = 0
    queue: bool = False
    per_minute: int = 0
    window: float = 60.0
    polls: int = 2
    remember: bool = True


@dataclass
class Refused(Exception):
    """An answer other than 200."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def refused(
    dialect: str,
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    kind: str = "",
) -> Refused:
    """Return an error in the form of the server."""
    names = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}
    if dialect == "vllm":
        error = {
            "message": message,
            "type": kind or names.get(status, "InternalServerError"),
            "param": param,
            "code": status,
        }
    else:
        default = {
            "openai": "invalid_request_error",
            "llamacpp": "invalid_request_error",
            "ollama": "api_error",
        }[dialect]
        error = {"message": message, "type": kind or default, "param": param, "code": code}
    return Refused(status, {"error": error})
