"""The port to language models: text in; text and label log-probabilities out."""

from .port import (
    LM,
    SMALLEST,
    About,
    Charges,
    Completion,
    Hypothesis,
    Request,
    Scores,
    Tariff,
    blocks,
    end_of_block,
    open_lm,
)

__all__ = [
    "LM",
    "SMALLEST",
    "About",
    "Charges",
    "Completion",
    "Hypothesis",
    "Request",
    "Scores",
    "Tariff",
    "blocks",
    "end_of_block",
    "open_lm",
]
