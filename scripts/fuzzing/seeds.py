"""Small sound inputs, which the fuzzers change."""

import json
from typing import Any

WORDS = ["film", "plot", "actor", "scene", "music", "camera", "story", "joke", "ending", "script"]
ENDS = {"pos": "good", "neg": "bad"}


def rows(start: int, count: int) -> list[dict[str, Any]]:
    """Return labelled rows; rows of different numbers have different texts."""
    found = []
    for number in range(start, start + count):
        label = ("pos", "neg")[number % 2]
        words = [WORDS[(number * 7 + step * (number % 5 + 1)) % len(WORDS)] for step in range(6)]
        text = f"{' '.join(words)} {number} {ENDS[label]}"
        found.append({"id": f"row-{number}", "text": text, "label": label})
    return found


def jsonl(values: list[Any]) -> bytes:
    """Return values as JSONL."""
    return "".join(json.dumps(value) + "\n" for value in values).encode()


SPLITS = {"train": rows(0, 12), "valid": rows(100, 6), "test": rows(200, 6)}
TASK = {
    "data": {
        "kind": "files", "train": "train.jsonl", "validation": "valid.jsonl", "test": "test.jsonl"
    },
    "labels": {"pos": "positive", "neg": "negative"},
    "text_type": "movie review",
    "label_type": "sentiment",
}  # fmt: skip
CONFIG = {
    "name": "seed",
    "task": TASK,
    "subsample": {"levels": ["2/class"], "seeds": 1, "validation": "full"},
    "baselines": [{"kind": "eda"}],
    "classifiers": [{"kind": "linear"}],
    "trials": 1,
}
LM = {"kind": "openai", "model": "tiny", "base_url": "http://127.0.0.1:1/v1", "endpoint": "here"}
LM_CONFIG = {
    **CONFIG,
    "name": "lm",
    "lm": LM,
    "augment": {"ratio": 0.5, "max_tokens": 30},
    "classifiers": [{"kind": "prompt"}],
}
# What the configs of the target `config` begin with: between them they have most keys.
CONFIGS = [
    CONFIG,
    {"task": "task.yaml", "subsample": {"levels": ["full"], "seeds": [0, 3]}},
    {
        **LM_CONFIG,
        "budget": {"usd": 1, "tokens": 10000, "requests": 100},
        "lm": {**LM, "prices": "prices.yaml", "extra": {"seed": 1}, "timeout": 5},
        "augment": {
            "k": 2, "ratio": 1, "selection": "balanced", "label_prior": {"pos": 0.5, "neg": 0.5},
            "filter": {"min_words": 2, "perplexity": [1, 100], "max_disagreement": 0.5},
        },
        "sweep": {"augment.k": [1, 2], "lm.api": ["chat", "completions"]},
    },
    {
        **CONFIG,
        "task": {**TASK, "data": {"kind": "demo"}},
        "baselines": [
            {"kind": "eda", "name": "eda2", "alpha": 0.1},
            {"kind": "aeda"},
            {"kind": "mlm", "model": "none"},
            {"kind": "backtranslate", "pivot": ["de"]},
        ],
        "classifiers": [
            {"kind": "transformer", "model": "minilm-none", "lr": 1e-3, "max_epochs": 1},
            {"kind": "linear", "class_weights": {"pos": 2}, "synthetic_weight": "auto"},
        ],
        "sweep": {"classifiers": [[{"kind": "linear", "C": 1}], [{"kind": "linear", "C": 2}]]},
    },
]  # fmt: skip
PRICES = {"tiny": {"input": 1.0, "cached_input": 0.5, "output": 2.0}}
SPECS = [
    {"text_type": "film review", "label_type": "opinion"},
    {"labels": {"pos": "a", "neg": "b"}},
]
