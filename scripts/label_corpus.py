#!/usr/bin/env python3
"""Label each sentence of the review corpus with an encoder that was trained on other reviews.

    scripts/label_corpus.py scripts/distil_lm.yaml --corpus reviews.jsonl.gz --out labelled.jsonl.gz

A sentence of the corpus has its review's label, which is often wrong for the sentence. This
script trains MiniLM (extra `offline`) on sentences of some reviews, half of them in SST-2's
spelling, and labels the sentences of other reviews. The output holds the latter in the corpus's
format, with the probability of `pos` of each sentence as `positive`. scripts/pretrain_lm.py uses
these as soft targets. Held-out reviews of the recipe are in neither part. About ten minutes on
two cores.
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
from pretrain_lm import Recipe, like_sst2, read_corpus, split_held_out

from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import TransformerSettings, generator
from gpt3mix_cli.train import cached_classifier
from gpt3mix_cli.train.targets import to_one_hot

CLASSES = ("pos", "neg")
CHUNK = 8192  # sentences between two progress messages


def examples(
    reviews: Sequence[tuple[str, list[str]]], count: int, name: str, seed: int
) -> list[Example]:
    """Return `count` sentences with their reviews' labels, each in one of two spellings."""
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
        "--train", type=int, default=16_000, help="sentences to train the encoder on"
    )
    parser.add_argument("--reviews", type=int, default=40_000, help="reviews to label")
    options = parser.parse_args(arguments)
    recipe = Recipe.model_validate(yaml.safe_load(options.recipe.read_text("utf-8")))
    _, seen = split_held_out(read_corpus(options.corpus), recipe)
    labelled, rest = seen[: options.reviews], seen[options.reviews :]
    rows = examples(rest, options.train + 1000, "teacher", recipe.seed)
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
        f"trained in {time.monotonic() - started:.0f} s: "
        f"{fit.valid_accuracy:.1%} of 1,000 other sentences get their review's label",
        flush=True,
    )
    texts = [like_sst2(text) for _, sentences in labelled for text in sentences]
    positive: list[float] = []
    for start in range(0, len(texts), CHUNK):
        positive += [float(row[0]) for row in teacher.predict_proba(texts[start : start + CHUNK])]
        print(
            f"{len(positive):,} of {len(texts):,} sentences, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    probabilities = iter(positive)
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
