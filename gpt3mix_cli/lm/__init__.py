"""The port to language models: text in; text and label log-probabilities out."""

from .port import (
    LM,
    SMALLEST,
    About,
    Completion,
    CostModel,
    Hypothesis,
    Priced,
    Request,
    Scores,
    blocks,
    end_of_block,
    open_lm,
)

__all__ = [
    "LM",
    "SMALLEST",
    "About",
    "Completion",
    "CostModel",
    "Hypothesis",
    "Priced",
    "Request",
    "Scores",
    "blocks",
    "end_of_block",
    "open_lm",
]
