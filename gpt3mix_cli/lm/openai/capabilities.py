"""What a server supports: found by `probe`, stored in journals, followed by `requests`."""

import json
from dataclasses import dataclass
from typing import Literal

from ..port import Request

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
    """

    api: Literal["completions", "chat"] = "completions"
    label_method: Literal["ids", "echo", "decision", "top_logprobs", "vote", "none"] = "none"
    top_logprobs: int = 0
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    refused_fields: tuple[str, ...] = ()
    supports_n: bool = False
    neutral_sampling: bool = False
    raw_logprobs: bool = True

    @property
    def path(self) -> str:
        """The path that generates text, below the base URL."""
        return "/completions" if self.api == "completions" else "/chat/completions"

    @property
    def label_source(self) -> str:
        """What `lm.label_source` calls the label method; `none` if there is none."""
        return "exact" if self.label_method in ("ids", "echo") else self.label_method

    def returns_raw_logprobs(self, request: Request) -> bool:
        """Return whether a text's log-probabilities are those before sampling, or close to them."""
        return self.raw_logprobs or (
            request.temperature == 1
            and request.top_p == 1
            and abs(request.frequency_penalty) <= NEGLIGIBLE_PENALTY
        )


def parse_capabilities(text: str) -> Capabilities | None:
    """Return capabilities stored as JSON by this or an earlier version; None if unreadable."""
    try:
        stored = json.loads(text)
        fields = {STORED_NAMES.get(name, name): value for name, value in stored.items()}
        fields["refused_fields"] = tuple(fields.get("refused_fields", ()))
        return Capabilities(**fields)
    except (ValueError, TypeError, AttributeError):
        return None
