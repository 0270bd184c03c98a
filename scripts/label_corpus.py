#!/usr/bin/env python3
"""Give each sentence of the review corpus a label of its own: what an encoder that was trained on other reviews says of it.

    scripts/label_corpus.py scripts/distil_lm.yaml --corpus ../shared/corpus/reviews.jsonl.gz --out labelled.jsonl.gz

A sentence of the corpus has its review's label, which is often not its own. MiniLM (extra `offline`) is trained on
sentences of some reviews, half of them in SST-2's spelling, and reads the sentences of others; the output holds the
latter, in the corpus's form with the probability of `pos` for each sentence as `positive`. scripts/pretrain_lm.py takes
these as soft targets. Reviews that the recipe holds out are in neither part. About ten minutes on two cores.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pretrain_lm import Recipe, like_sst2, parted, read_corpus

from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import TransformerSettings, generator
from gpt3mix_cli.train import cached_classifier
from gpt3mix_cli.train.targets import to_one_hot

CLASSES = ("pos", "neg")
CHUNK = 8192  # sentences labelled between two lines of progress


def examples(
    reviews: Sequence[tuple[str, list[str]]], count: int, name: str, seed: int
) -> list[Example]:
    """Return so many sentences with their reviews' labels, the spelling of each drawn."""
    rng = generator(seed, "spelling", name)
    rows = [(label, text) for label, sentences in reviews for text in sentences]
    rng.shuffle(rows)
    return [
        Example(id=f"{name}-{i}", text=like_sst2(text) if rng.random() < 0.5 else text, label=label)
        for i, (label, text) in enumerate(rows[:count])
    ]


def main(arguments: Sequence[str]) -> None:
    """Train, label and write."""
    parser = argparse.ArgumentParser(description="Label the sentences of the review corpus.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--train", type=int, default=16_000, help="sentences that the encoder learns from"
    )
    parser.add_argument("--reviews", type=int, default=40_000, help="reviews that it labels")
    options = parser.parse_args(arguments)
    recipe = Recipe.model_validate(yaml.safe_load(options.recipe.read_text("utf-8")))
    _, seen = parted(read_corpus(options.corpus), recipe)
    labelled, others = seen[: options.reviews], seen[options.reviews :]
    rows = examples(others, options.train + 1000, "teacher", recipe.seed)
    settings = TransformerSettings(
        kind="transformer",
        model="minilm",
        lr=1e-4,
        warmup_epochs=0.1,
        max_epochs=1,
        patience=1,
        max_length=64,
        threads=2,
    )
    teacher = cached_classifier(settings, CLASSES)
    started = time.monotonic()
    fit = teacher.fit([to_one_hot(row, CLASSES) for row in rows[1000:]], rows[:1000], recipe.seed)
    print(
        f"trained in {time.monotonic() - started:.0f} s: {fit.valid_accuracy:.1%} of 1,000 other sentences have their review's label",
        flush=True,
    )
    texts = [like_sst2(text) for _, sentences in labelled for text in sentences]
    found: list[float] = []
    for start in range(0, len(texts), CHUNK):
        found += [float(row[0]) for row in teacher.predict_proba(texts[start : start + CHUNK])]
        print(
            f"{len(found):,} of {len(texts):,} sentences, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    probabilities = iter(found)
    with gzip.open(options.out, "wt", encoding="utf-8") as stream:
        for label, sentences in labelled:
            row = {
                "label": label,
                "sentences": sentences,
                "positive": [round(next(probabilities), 4) for _ in sentences],
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
