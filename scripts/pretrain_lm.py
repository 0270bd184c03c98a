#!/usr/bin/env python3
"""Train the packaged LM from nothing on labelled review sentences, laid out as the paper's prompts.

    scripts/pretrain_lm.py scripts/pretrain_lm.yaml --corpus ../shared/corpus/reviews.jsonl.gz --out lm-run
    scripts/label_corpus.py scripts/distil_lm.yaml --corpus ../shared/corpus/reviews.jsonl.gz --out labelled.jsonl.gz
    scripts/pretrain_lm.py scripts/distil_lm.yaml --corpus labelled.jsonl.gz --held-out ../shared/corpus/reviews.jsonl.gz \
        --start lm-run --out lm-distilled --package

The corpus has one review a line: {"label": "pos" | "neg", "sentences": [...]}, and where an encoder has read the sentences
their probabilities of `pos` as `positive`: then each line has the likelier label, and the loss at its place is the
cross-entropy with those probabilities, so that the LM's soft labels are the encoder's. The result of the second run is the
mean of its weights and the first run's (`start_share`). A sequence is a prompt's header and then as
many lines as fit, from a few reviews of either label; in half of them all texts are lower-cased and tokenised as SST-2's
are. FOLDER receives the tokenizer, a checkpoint every 250 steps from which the same command goes on (the batches of a
step depend on the seed and its number only), loss.jsonl, loss.png, and in the end the model in float16, which --package
copies into gpt3mix_cli/resources/lm. Needs the extra `dev` (matplotlib) and a C++ compiler (torch.compile). Two free cores
of an EPYC with bfloat16 read 13,000 tokens a second, one 6,000.
"""

import argparse
import gzip
import json
import math
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gpt3mix_cli.method.prompt import label_prefix, render_prompt
from gpt3mix_cli.settings import Settings, Task, generator

RESOURCES = Path(__file__).resolve().parent.parent / "gpt3mix_cli" / "resources" / "lm"
END = "<|endoftext|>"
LABELS = {"pos": "positive", "neg": "negative"}
EVERY = 250  # steps between checkpoints
PACKAGED = 10_000_000  # bytes at most


class Model(Settings):
    """The shape of the Llama."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    context: int


class Specification(Settings):
    """A task specification, and the share of sequences that open with it."""

    share: float
    text_type: str
    label_type: str


class Sequence_(Settings):
    """How a training sequence is put together."""

    tokens: int
    reviews: int
    sentences: int
    shuffled: float
    plain: float


class Muon(Settings):
    """The optimiser of the matrices."""

    lr: float
    momentum: float
    weight_decay: float


class AdamW(Settings):
    """The optimiser of all other weights."""

    lr: float
    weight_decay: float


class Recipe(Settings):
    """Everything that a run depends on, but for the corpus."""

    seed: int
    vocabulary: int
    model: Model
    specifications: list[Specification]
    sequence: Sequence_
    held_out: float
    batch_size: int
    tokens: int
    label_weight: float
    muon: Muon
    adamw: AdamW
    warmup: float
    start_share: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        return self.tokens // (self.batch_size * self.sequence.tokens)


@dataclass
class Review:
    """A review's label, its sentences' probabilities of `pos`, and their tokens, as written and in SST-2's spelling."""

    label: str
    positive: list[float]
    written: list[list[int]]
    plain: list[list[int]]


# The corpus -----------------------------------------------------------------------------------------------------------


def read_reviews(path: Path) -> list[dict[str, Any]]:
    """Return the corpus's lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_corpus(path: Path) -> list[tuple[str, list[str]]]:
    """Return (label, sentences) of each review."""
    return [
        (row["label"], [" ".join(text.split()) for text in row["sentences"]])
        for row in read_reviews(path)
    ]


def read_positive(path: Path) -> list[list[float]] | None:
    """Return the probability of `pos` of each sentence of each review; None where the corpus has none."""
    rows = read_reviews(path)
    return [row["positive"] for row in rows] if "positive" in rows[0] else None


def parted(
    corpus: Sequence[tuple[str, list[str]]], recipe: Recipe
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """Return the reviews that training does not see, and all others."""
    shuffled = list(corpus)
    generator(recipe.seed, "held-out").shuffle(shuffled)
    cut = round(recipe.held_out * len(shuffled))
    return shuffled[:cut], shuffled[cut:]


CLITICS = re.compile(r"(?i)(?<=\w)(n't|'s|'re|'ve|'ll|'d|'m)\b")
SIGNS = re.compile(r"(\.\.\.|--|[.,!?;:()\[\]\"`])")
QUOTED = re.compile(r'"([^"]*)"')


def like_sst2(text: str) -> str:
    """Return a sentence as SST-2 spells it: lower case, signs and clitics set apart (`do n't`, `it 's`, `-lrb-`)."""
    text = QUOTED.sub(r"`` \1 ''", text.lower())
    text = CLITICS.sub(r" \1", text)
    text = SIGNS.sub(r" \1 ", text.replace("``", "\u0001")).replace("\u0001", "``")
    text = text.replace("(", "-lrb-").replace(")", "-rrb-").replace('"', "''")
    return " ".join(text.split())


def train_tokenizer(corpus: Sequence[tuple[str, list[str]]], recipe: Recipe, path: Path) -> None:
    """Train the byte-level BPE on lines of the prompt's format in both spellings."""

    def lines() -> Iterator[str]:
        for number, (label, sentences) in enumerate(corpus):
            spell = like_sst2 if number % 2 else str
            for text in sentences:
                yield f"Movie review: {spell(text)} (Sentiment: {LABELS[label].capitalize()})\n"

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines(),
        trainers.BpeTrainer(
            vocab_size=recipe.vocabulary,
            special_tokens=[END],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=recipe.model.context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(path)


def tokenised(
    corpus: Sequence[tuple[str, list[str]]],
    tokenizer: Any,
    positive: Sequence[list[float]] | None = None,
) -> list[Review]:
    """Return the reviews with each sentence's tokens after `review:`, in both spellings; without probabilities the label is sure."""
    flat = [f" {text}" for _, sentences in corpus for text in sentences]
    written = iter(tokenizer(flat)["input_ids"])
    plain = iter(tokenizer([f" {like_sst2(text)}" for text in flat])["input_ids"])
    sure = {"pos": 1.0, "neg": 0.0}
    reviews = []
    for i, (label, sentences) in enumerate(corpus):
        known = positive[i] if positive else [sure[label]] * len(sentences)
        reviews.append(
            Review(
                label, known, [next(written) for _ in sentences], [next(plain) for _ in sentences]
            )
        )
    return reviews


@dataclass
class Tokens:
    """A sequence of tokens, and how the loss counts each.

    Attributes:
        ids: the tokens.
        weights: of each in the loss.
        others: the token that may stand in its place: a label's other one.
        shares: the probability of the token itself; 1 but for labels.
    """

    ids: list[int]
    weights: list[float]
    others: list[int]
    shares: list[float]

    def add(
        self,
        ids: list[int],
        weights: list[float],
        others: list[int] | None = None,
        shares: list[float] | None = None,
    ) -> None:
        """Append tokens."""
        self.ids += ids
        self.weights += weights
        self.others += others or ids
        self.shares += shares or [1.0] * len(ids)

    def cut(self, length: int) -> "Tokens":
        """Return the first tokens, padded where there are fewer."""
        rest = [0] * max(0, length - len(self.ids))
        nothing, sure = [0.0] * len(rest), [1.0] * len(rest)
        whole = self.ids + rest, self.weights + nothing, self.others + rest, self.shares + sure
        return Tokens(*(column[:length] for column in whole))  # type: ignore[arg-type]


class Batches:
    """Puts sequences together; which ones depends on the generator only."""

    def __init__(self, reviews: Sequence[Review], recipe: Recipe, tokenizer: Any) -> None:
        """Tokenise headers, label prefixes and labels once: byte-level pieces between them never merge."""
        self._recipe = recipe
        self._by_label = {
            label: [review for review in reviews if review.label == label] for label in LABELS
        }
        self._frames = []
        for specification in recipe.specifications:
            task = Task.model_validate(
                {
                    "data": {"kind": "demo"},
                    "labels": LABELS,
                    "text_type": specification.text_type,
                    "label_type": specification.label_type,
                }
            )

            def tokens(text: str) -> list[int]:
                found: list[int] = tokenizer(text)["input_ids"]
                return found

            again = tokens(f")\n{render_prompt(task, []).splitlines()[-1]}")
            labels = {
                label: token
                for label, word in LABELS.items()
                for (token,) in [tokens(f" {word.capitalize()}")]
            }
            self._frames.append(
                (tokens(render_prompt(task, [])), tokens(label_prefix(task)), labels, again)
            )
        self.header = min(len(frame[0]) for frame in self._frames)

    def sequence(self, rng: random.Random) -> Tokens:
        """Return a sequence, cut or padded to the length of the recipe."""
        recipe = self._recipe.sequence
        header, between, labels, again = rng.choices(
            self._frames, [s.share for s in self._recipe.specifications]
        )[0]
        plain = rng.random() < recipe.plain
        shuffled = rng.random() < recipe.shuffled
        one = Tokens(list(header), [0.0] * len(header), list(header), [1.0] * len(header))
        while len(one.ids) < recipe.tokens:
            drawn = [
                rng.choice(self._by_label[rng.choice(list(LABELS))]) for _ in range(recipe.reviews)
            ]
            found = [line for review in drawn for line in self._some(review, plain, rng)]
            if shuffled:
                rng.shuffle(found)
            for positive, text in found:
                label, other = ("pos", "neg") if positive >= 0.5 else ("neg", "pos")
                before, after = [*text, *between], again
                one.add(before, [1.0] * len(before))
                one.add(
                    [labels[label]],
                    [self._recipe.label_weight],
                    [labels[other]],
                    [max(positive, 1 - positive)],
                )
                one.add(after, [1.0] * len(after))
        return one.cut(recipe.tokens)

    def _some(
        self, review: Review, plain: bool, rng: random.Random
    ) -> list[tuple[float, list[int]]]:
        """Return neighbouring sentences of a review, each with its probability of `pos`."""
        lines = list(zip(review.positive, review.plain if plain else review.written, strict=True))
        start = rng.randrange(max(1, len(lines) - self._recipe.sequence.sentences + 1))
        return lines[start : start + self._recipe.sequence.sentences]

    def batch(
        self, step: int | str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids, weights, others and shares (see `Tokens`), each (rows, tokens), of a step."""
        rng = generator(self._recipe.seed, "batch", step)
        rows = [self.sequence(rng) for _ in range(self._recipe.batch_size)]
        columns = (
            [getattr(row, name) for row in rows] for name in ("ids", "weights", "others", "shares")
        )
        ids, weights, others, shares = map(torch.tensor, columns)
        return ids, weights, others, shares


# Training -------------------------------------------------------------------------------------------------------------


def build(recipe: Recipe, start: Path | None) -> LlamaForCausalLM:
    """Return the model with fresh weights, or with those of the run in the folder `start`."""
    if start:
        return LlamaForCausalLM.from_pretrained(start / "model", dtype=torch.float32)
    torch.manual_seed(recipe.seed)
    shape = recipe.model
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=shape.context, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def optimisers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for the rest."""
    matrices = [
        weight for name, weight in model.named_parameters() if weight.ndim == 2 and "layers" in name
    ]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, **recipe.muon.model_dump()),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), **recipe.adamw.model_dump()),
    ]


def share_of_lr(step: int, recipe: Recipe) -> float:
    """Return the part of the learning rate that a step has: linear up, then linear down to nothing."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    return min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm))


def losses(
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    others: torch.Tensor,
    shares: torch.Tensor,
    start: int,
) -> torch.Tensor:
    """Return the cross-entropy at each token from `start` on, (rows, tokens - start)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, start - 1 : -1]
    logits = model.lm_head(hidden).float()
    own, other = (logits.gather(-1, which[:, start:, None])[:, :, 0] for which in (ids, others))
    shares = shares[:, start:]
    return logits.logsumexp(-1) - shares * own - (1 - shares) * other


def held_out(model: LlamaForCausalLM, batches: Batches) -> float:
    """Return the loss a token, in nats, of texts and labels that training does not see."""
    total = count = 0.0
    with torch.inference_mode():
        for number in range(8):
            ids, weights, others, shares = batches.batch(f"held-out {number}")
            seen = (weights > 0).float()[:, batches.header :]
            total += float((losses(model, ids, others, shares, batches.header) * seen).sum())
            count += float(seen.sum())
    return total / count


def train(
    recipe: Recipe, training: Batches, testing: Batches, out: Path, start: Path | None
) -> LlamaForCausalLM:
    """Train, or go on from the checkpoint; return the model."""
    model = build(recipe, start)
    steppers = optimisers(model, recipe)
    compiled = torch.compile(losses)
    checkpoint, log = out / "checkpoint.pt", out / "loss.jsonl"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != recipe.model_dump_json():
            sys.exit(
                f"{checkpoint}: made with another recipe; give another folder with --out, or delete this one"
            )
        model.load_state_dict(state["model"])
        for stepper, kept in zip(steppers, state["optimisers"], strict=True):
            stepper.load_state_dict(kept)
        first = state["step"]
        lines = [
            line
            for line in log.read_text("utf-8").splitlines(keepends=True)
            if json.loads(line)["step"] <= first
        ]
        log.write_text("".join(lines), "utf-8")
    else:
        log.write_text("", "utf-8")
    started, smooth = time.monotonic(), math.nan
    rates = [recipe.muon.lr, recipe.adamw.lr]
    for step in range(first, recipe.steps):
        ids, weights, others, shares = training.batch(step)
        for stepper, rate in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate * share_of_lr(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            each = compiled(model, ids, others, shares, training.header)
        weights = weights[:, training.header :]
        loss = (each * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        plain = float((each.detach() * (weights > 0)).sum() / (weights > 0).sum())
        smooth = plain if math.isnan(smooth) else 0.95 * smooth + 0.05 * plain
        ended = step + 1
        if ended % EVERY == 0 or ended == recipe.steps:
            row = {
                "step": ended,
                "tokens": ended * ids.numel(),
                "loss": round(smooth, 4),
                "held_out": round(held_out(model, testing), 4),
            }
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            pace = (ended - first) * ids.numel() / (time.monotonic() - started)
            left = (recipe.steps - ended) * ids.numel() / pace / 60
            print(
                f"step {ended} of {recipe.steps}: loss {smooth:.3f}, held out {row['held_out']:.3f}, {pace:.0f} tokens/s, {left:.0f} min left",
                flush=True,
            )
            aside = checkpoint.with_suffix(".partial")
            state = {"recipe": recipe.model_dump_json(), "model": model.state_dict(), "step": ended}
            torch.save(
                {**state, "optimisers": [stepper.state_dict() for stepper in steppers]}, aside
            )
            aside.replace(checkpoint)
    return model


def plot(out: Path) -> None:
    """Draw the loss over the tokens seen."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (out / "loss.jsonl").read_text("utf-8").splitlines()]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    millions = [row["tokens"] / 1e6 for row in rows]
    for key, name in (("loss", "training (smoothed)"), ("held_out", "held out")):
        axes.plot(millions, [row[key] for row in rows], label=name)
    axes.set(xlabel="million tokens", ylabel="loss (nats a token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out / "loss.png", dpi=150)


def average(model: LlamaForCausalLM, start: Path, share: float) -> None:
    """Move the weights towards those that the run began with: such a mean often does better than either."""
    first = LlamaForCausalLM.from_pretrained(start / "model", dtype=torch.float32).state_dict()
    model.load_state_dict(
        {
            name: (1 - share) * weight + share * first[name]
            for name, weight in model.state_dict().items()
        }
    )


def save(model: LlamaForCausalLM, tokenizer: Any, folder: Path) -> int:
    """Write model and tokenizer in float16; return their size in bytes."""
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.iterdir())


def main(arguments: Sequence[str]) -> None:
    """Train, plot and save."""
    parser = argparse.ArgumentParser(description="Train the packaged LM.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="labelled review sentences (JSONL, gzip)"
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        help="the whole corpus, where --corpus is a part of it without the reviews held out",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of the run whose model and tokenizer this one goes on from",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the run; the same command goes on where it stopped",
    )
    parser.add_argument("--package", action="store_true", help="copy the model into the package")
    options = parser.parse_args(arguments)
    recipe = Recipe.model_validate(yaml.safe_load(options.recipe.read_text("utf-8")))
    options.out.mkdir(parents=True, exist_ok=True)
    unseen, seen = parted(read_corpus(options.held_out or options.corpus), recipe)
    positive = None
    if options.held_out:
        seen, positive = read_corpus(options.corpus), read_positive(options.corpus)
    place = (options.start or options.out) / "tokenizer"
    if not place.exists():
        train_tokenizer(seen, recipe, place)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    testing = Batches(tokenised(unseen, tokenizer), recipe, tokenizer)
    model = train(
        recipe,
        Batches(tokenised(seen, tokenizer, positive), recipe, tokenizer),
        testing,
        options.out,
        options.start,
    )
    plot(options.out)
    if options.start:
        average(model, options.start, recipe.start_share)
    size = save(model, tokenizer, options.out / "model")
    print(f"{options.out / 'model'}: {size:,} bytes", flush=True)
    if size > PACKAGED:
        sys.exit(f"the model has more than {PACKAGED:,} bytes: make it smaller to package it")
    if options.package:
        shutil.copytree(options.out / "model", RESOURCES, dirs_exist_ok=True)
        print(f"copied to {RESOURCES}")


if __name__ == "__main__":
    main(sys.argv[1:])
