"""Language models: text in; text and label log-probabilities out. `port` is the page to read."""

from .journal import IN_MEMORY, Journal, Spending, total_spent
from .journal_listing import list_answers
from .journaled_lm import JournaledLM
from .port import (
    FIRST_BLOCK_SIZE,
    GENERATION_INSTRUCTION,
    LM,
    THINKING_REMEDY,
    Completion,
    CostModel,
    Hypothesis,
    LMInfo,
    Priced,
    Request,
    Scores,
    check_prices,
    cost_model_for,
    costs_money,
    next_block_start,
    open_lm,
    score_labels,
    split_into_blocks,
)

__all__ = [
    "FIRST_BLOCK_SIZE",
    "GENERATION_INSTRUCTION",
    "IN_MEMORY",
    "LM",
    "THINKING_REMEDY",
    "Completion",
    "CostModel",
    "Hypothesis",
    "Journal",
    "JournaledLM",
    "LMInfo",
    "Priced",
    "Request",
    "Scores",
    "Spending",
    "check_prices",
    "cost_model_for",
    "costs_money",
    "list_answers",
    "next_block_start",
    "open_lm",
    "score_labels",
    "split_into_blocks",
    "total_spent",
]
