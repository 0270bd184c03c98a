#!/usr/bin/env python3
"""Train the packaged LM from random weights on labelled review sentences in the prompt's format.

    CORPUS=reviews.jsonl.gz
    scripts/pretrain_lm.py scripts/pretrain_lm.yaml --corpus $CORPUS --out lm-run
    scripts/label_corpus.py scripts/distil_lm.yaml --corpus $CORPUS --out labelled.jsonl.gz
    scripts/pretrain_lm.py scripts/distil_lm.yaml --corpus labelled.jsonl.gz --held-out $CORPUS \
        --start lm-run --out lm-distilled --package

The corpus has one review per line: {"label": "pos" | "neg", "sentences": [...]}. A corpus that an
encoder has labelled also has the probability of `pos` of each sentence as `positive`. Then each
line has the more likely label, and the loss of its label token is the cross-entropy with these
probabilities, so the LM learns the encoder's soft labels. The result of the second run is the mean
of its weights and the first run's (`start_fraction`).

A sequence is a prompt's header and then as many lines as fit, from a few reviews of either label.
In half of the sequences all texts are lower-cased and tokenized as in SST-2. The folder of a run
gets the tokenizer, a checkpoint every 250 steps from which the same command resumes (the batch of a
step depends only on the seed and the step), loss.jsonl, loss.png, and at the end the model in
float16. --package copies it into gpt3mix_cli/resources/lm. Needs the extra `dev` and a C++ compiler
(torch.compile). Two free cores of an EPYC with bfloat16 process 13,000 tokens per second, one
6,000.
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
CHECKPOINT_STEPS = 250
MAX_PACKAGED_BYTES = 10_000_000


class Model(Settings):
    """The shape of the Llama."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    context: int


class Specification(Settings):
    """A task specification, and the fraction of sequences that begin with it."""

    fraction: float
    text_type: str
    label_type: str


class SequenceShape(Settings):
    """How a training sequence is built."""

    tokens: int
    reviews: int
    sentences: int
    shuffled: float
    plain: float


class Muon(Settings):
    """The optimizer of the matrices."""

    lr: float
    momentum: float
    weight_decay: float


class AdamW(Settings):
    """The optimizer of all other weights."""

    lr: float
    weight_decay: float


class Recipe(Settings):
    """Everything that a run depends on, except the corpus."""

    seed: int
    vocabulary: int
    model: Model
    specifications: list[Specification]
    sequence: SequenceShape
    held_out: float
    batch_size: int
    tokens: int
    label_weight: float
    muon: Muon
    adamw: AdamW
    warmup: float
    start_fraction: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.tokens // (self.batch_size * self.sequence.tokens)


@dataclass
class Review:
    """A review as tokens.

    Attributes:
        label: of the review.
        positive: probability of `pos` of each sentence.
        written: tokens of each sentence as written.
        plain: tokens of each sentence in SST-2's spelling.
    """

    label: str
    positive: list[float]
    written: list[list[int]]
    plain: list[list[int]]


# The corpus ---------------------------------------------------------------------------------------


def read_reviews(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the corpus."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_corpus(path: Path) -> list[tuple[str, list[str]]]:
    """Return (label, sentences) of each review."""
    return [
        (row["label"], [" ".join(text.split()) for text in row["sentences"]])
        for row in read_reviews(path)
    ]


def read_positive(path: Path) -> list[list[float]] | None:
    """Return the probability of `pos` of each sentence of each review, if the corpus has them."""
    rows = read_reviews(path)
    return [row["positive"] for row in rows] if "positive" in rows[0] else None


def split_held_out(
    corpus: Sequence[tuple[str, list[str]]], recipe: Recipe
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """Return the held-out reviews, and all others."""
    shuffled = list(corpus)
    generator(recipe.seed, "held-out").shuffle(shuffled)
    cut = round(recipe.held_out * len(shuffled))
    return shuffled[:cut], shuffled[cut:]


CLITICS = re.compile(r"(?i)(?<=\w)(n't|'s|'re|'ve|'ll|'d|'m)\b")
PUNCTUATION = re.compile(r"(\.\.\.|--|[.,!?;:()\[\]\"`])")
QUOTED = re.compile(r'"([^"]*)"')


def like_sst2(text: str) -> str:
    """Return a sentence in SST-2's spelling.

    It is lower-cased, and punctuation and clitics are separate (`do n't`, `it 's`, `-lrb-`).
    """
    text = QUOTED.sub(r"`` \1 ''", text.lower())
    text = CLITICS.sub(r" \1", text)
    text = PUNCTUATION.sub(r" \1 ", text.replace("``", "\u0001")).replace("\u0001", "``")
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


def tokenize_reviews(
    corpus: Sequence[tuple[str, list[str]]],
    tokenizer: Any,
    positive: Sequence[list[float]] | None = None,
) -> list[Review]:
    """Return the reviews as tokens in both spellings, each sentence tokenized as after `review:`.

    Args:
        corpus: (label, sentences) of each review.
        tokenizer: of the LM.
        positive: probability of `pos` of each sentence; by default 1 or 0 by the review's label.
    """
    flat = [f" {text}" for _, sentences in corpus for text in sentences]
    written = iter(tokenizer(flat)["input_ids"])
    plain = iter(tokenizer([f" {like_sst2(text)}" for text in flat])["input_ids"])
    certain = {"pos": 1.0, "neg": 0.0}
    reviews = []
    for i, (label, sentences) in enumerate(corpus):
        reviews.append(
            Review(
                label=label,
                positive=positive[i] if positive else [certain[label]] * len(sentences),
                written=[next(written) for _ in sentences],
                plain=[next(plain) for _ in sentences],
            )
        )
    return reviews


@dataclass
class Tokens:
    """A sequence of tokens with their targets.

    Attributes:
        ids: the tokens.
        weights: weight of each token in the loss.
        alternatives: the alternative token at each position: for a label, the other label.
        probabilities: the target probability of each token itself; 1 except for labels.
    """

    ids: list[int]
    weights: list[float]
    alternatives: list[int]
    probabilities: list[float]

    def add(
        self,
        ids: list[int],
        weights: list[float],
        alternatives: list[int] | None = None,
        probabilities: list[float] | None = None,
    ) -> None:
        """Append tokens."""
        self.ids += ids
        self.weights += weights
        self.alternatives += alternatives or ids
        self.probabilities += probabilities or [1.0] * len(ids)

    def cut(self, length: int) -> "Tokens":
        """Return the first `length` tokens, padded if there are fewer."""
        missing = max(0, length - len(self.ids))
        return Tokens(
            ids=(self.ids + [0] * missing)[:length],
            weights=(self.weights + [0.0] * missing)[:length],
            alternatives=(self.alternatives + [0] * missing)[:length],
            probabilities=(self.probabilities + [1.0] * missing)[:length],
        )


@dataclass(frozen=True)
class Frame:
    """The fixed parts of a prompt as tokens.

    Attributes:
        header: everything before the first text.
        label_prefix: between a text and its label.
        labels: class -> label token.
        line_end: from after a label up to the next text.
    """

    header: list[int]
    label_prefix: list[int]
    labels: dict[str, int]
    line_end: list[int]


def single_token(tokenizer: Any, text: str) -> int:
    """Return the only token of a text."""
    (token,) = tokenizer(text)["input_ids"]
    return int(token)


class Batches:
    """Builds training sequences; they depend on the generator only."""

    def __init__(self, reviews: Sequence[Review], recipe: Recipe, tokenizer: Any) -> None:
        """Tokenize headers, label prefixes and labels once: tokens never merge across them."""
        self._recipe = recipe
        self._by_label = {
            label: [review for review in reviews if review.label == label] for label in LABELS
        }
        self._frames: list[Frame] = []
        for specification in recipe.specifications:
            task = Task.model_validate(
                {
                    "data": {"kind": "demo"},
                    "labels": LABELS,
                    "text_type": specification.text_type,
                    "label_type": specification.label_type,
                }
            )

            header = render_prompt(task, [])
            line_end = f")\n{header.splitlines()[-1]}"
            labels = {label: f" {word.capitalize()}" for label, word in LABELS.items()}
            self._frames.append(
                Frame(
                    header=tokenizer(header)["input_ids"],
                    label_prefix=tokenizer(label_prefix(task))["input_ids"],
                    labels={k: single_token(tokenizer, text) for k, text in labels.items()},
                    line_end=tokenizer(line_end)["input_ids"],
                )
            )
        self.header = min(len(frame.header) for frame in self._frames)

    def sequence(self, rng: random.Random) -> Tokens:
        """Return a sequence, cut or padded to the length of the recipe."""
        recipe = self._recipe.sequence
        fractions = [specification.fraction for specification in self._recipe.specifications]
        frame = rng.choices(self._frames, fractions)[0]
        plain = rng.random() < recipe.plain
        shuffled = rng.random() < recipe.shuffled
        size = len(frame.header)
        tokens = Tokens(list(frame.header), [0.0] * size, list(frame.header), [1.0] * size)
        while len(tokens.ids) < recipe.tokens:
            reviews = [
                rng.choice(self._by_label[rng.choice(list(LABELS))]) for _ in range(recipe.reviews)
            ]
            lines = [line for review in reviews for line in self._sentences(review, plain, rng)]
            if shuffled:
                rng.shuffle(lines)
            for positive, text in lines:
                label, other = ("pos", "neg") if positive >= 0.5 else ("neg", "pos")
                before = [*text, *frame.label_prefix]
                tokens.add(before, [1.0] * len(before))
                tokens.add(
                    [frame.labels[label]],
                    [self._recipe.label_weight],
                    [frame.labels[other]],
                    [max(positive, 1 - positive)],
                )
                tokens.add(frame.line_end, [1.0] * len(frame.line_end))
        return tokens.cut(recipe.tokens)

    def _sentences(
        self, review: Review, plain: bool, rng: random.Random
    ) -> list[tuple[float, list[int]]]:
        """Return adjacent sentences of a review, each with its probability of `pos`."""
        lines = list(zip(review.positive, review.plain if plain else review.written, strict=True))
        start = rng.randrange(max(1, len(lines) - self._recipe.sequence.sentences + 1))
        return lines[start : start + self._recipe.sequence.sentences]

    def batch(
        self, step: int | str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the columns of `Tokens` for a step, each of shape (rows, tokens)."""
        rng = generator(self._recipe.seed, "batch", step)
        rows = [self.sequence(rng) for _ in range(self._recipe.batch_size)]
        columns = (
            [getattr(row, name) for row in rows]
            for name in ("ids", "weights", "alternatives", "probabilities")
        )
        ids, weights, alternatives, probabilities = map(torch.tensor, columns)
        return ids, weights, alternatives, probabilities


# Training -----------------------------------------------------------------------------------------


def build_model(recipe: Recipe, start: Path | None) -> LlamaForCausalLM:
    """Return the model with random weights, or with those of the run in the folder `start`."""
    if start:
        return LlamaForCausalLM.from_pretrained(start / "model", dtype=torch.float32)
    torch.manual_seed(recipe.seed)
    shape = recipe.model
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
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


def lr_factor(step: int, recipe: Recipe) -> float:
    """Return a step's factor of the learning rate: linear warm-up, then linear decay to zero."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    return min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm))


def losses(
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    alternatives: torch.Tensor,
    probabilities: torch.Tensor,
    start: int,
) -> torch.Tensor:
    """Return the cross-entropy of each token from `start` on, (rows, tokens - start)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, start - 1 : -1]
    logits = model.lm_head(hidden).float()
    own, other = (
        logits.gather(-1, which[:, start:, None])[:, :, 0] for which in (ids, alternatives)
    )
    probabilities = probabilities[:, start:]
    return logits.logsumexp(-1) - probabilities * own - (1 - probabilities) * other


def held_out_loss(model: LlamaForCausalLM, batches: Batches) -> float:
    """Return the loss per token, in nats, of held-out texts and labels."""
    total = count = 0.0
    with torch.inference_mode():
        for number in range(8):
            ids, weights, alternatives, probabilities = batches.batch(f"held-out {number}")
            seen = (weights > 0).float()[:, batches.header :]
            total += float(
                (losses(model, ids, alternatives, probabilities, batches.header) * seen).sum()
            )
            count += float(seen.sum())
    return total / count


def train(
    recipe: Recipe, training: Batches, testing: Batches, out: Path, start: Path | None
) -> LlamaForCausalLM:
    """Train, or resume from the checkpoint; return the model."""
    model = build_model(recipe, start)
    optimizers = build_optimizers(model, recipe)
    compiled = torch.compile(losses)
    checkpoint, log = out / "checkpoint.pt", out / "loss.jsonl"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != recipe.model_dump_json():
            sys.exit(
                f"{checkpoint}: from another recipe; delete the folder or name another with --out"
            )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
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
        ids, weights, alternatives, probabilities = training.batch(step)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * lr_factor(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            token_losses = compiled(model, ids, alternatives, probabilities, training.header)
        weights = weights[:, training.header :]
        loss = (token_losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        plain = float((token_losses.detach() * (weights > 0)).sum() / (weights > 0).sum())
        smooth = plain if math.isnan(smooth) else 0.95 * smooth + 0.05 * plain
        ended = step + 1
        if ended % CHECKPOINT_STEPS == 0 or ended == recipe.steps:
            row = {
                "step": ended,
                "tokens": ended * ids.numel(),
                "loss": round(smooth, 4),
                "held_out": round(held_out_loss(model, testing), 4),
            }
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            rate = (ended - first) * ids.numel() / (time.monotonic() - started)
            minutes = (recipe.steps - ended) * ids.numel() / rate / 60
            print(
                f"step {ended} of {recipe.steps}: loss {smooth:.3f}, "
                f"held out {row['held_out']:.3f}, {rate:.0f} tokens/s, {minutes:.0f} min left",
                flush=True,
            )
            temporary = checkpoint.with_suffix(".partial")
            state = {"recipe": recipe.model_dump_json(), "model": model.state_dict(), "step": ended}
            torch.save(
                {**state, "optimizers": [optimizer.state_dict() for optimizer in optimizers]},
                temporary,
            )
            temporary.replace(checkpoint)
    return model


def plot(out: Path) -> None:
    """Plot the loss against the number of tokens."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (out / "loss.jsonl").read_text("utf-8").splitlines()]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    millions = [row["tokens"] / 1e6 for row in rows]
    for key, name in (("loss", "training (smoothed)"), ("held_out", "held out")):
        axes.plot(millions, [row[key] for row in rows], label=name)
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out / "loss.png", dpi=150)


def average_weights(model: LlamaForCausalLM, start: Path, fraction: float) -> None:
    """Replace the weights by a mean with those of the start: it often does better than either."""
    first = LlamaForCausalLM.from_pretrained(start / "model", dtype=torch.float32).state_dict()
    model.load_state_dict(
        {
            name: (1 - fraction) * weight + fraction * first[name]
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
        help="the whole corpus, if --corpus lacks the held-out reviews",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of an earlier run: start from its model and tokenizer",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the run; the same command resumes it",
    )
    parser.add_argument("--package", action="store_true", help="copy the model into the package")
    options = parser.parse_args(arguments)
    recipe = Recipe.model_validate(yaml.safe_load(options.recipe.read_text("utf-8")))
    options.out.mkdir(parents=True, exist_ok=True)
    unseen, seen = split_held_out(read_corpus(options.held_out or options.corpus), recipe)
    positive = None
    if options.held_out:
        seen, positive = read_corpus(options.corpus), read_positive(options.corpus)
    path = (options.start or options.out) / "tokenizer"
    if not path.exists():
        train_tokenizer(seen, recipe, path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    testing = Batches(tokenize_reviews(unseen, tokenizer), recipe, tokenizer)
    model = train(
        recipe,
        Batches(tokenize_reviews(seen, tokenizer, positive), recipe, tokenizer),
        testing,
        options.out,
        options.start,
    )
    plot(options.out)
    if options.start:
        average_weights(model, options.start, recipe.start_fraction)
    size = save(model, tokenizer, options.out / "model")
    print(f"{options.out / 'model'}: {size:,} bytes", flush=True)
    if size > MAX_PACKAGED_BYTES:
        sys.exit(
            f"the model has more than {MAX_PACKAGED_BYTES:,} bytes; make it smaller to package it"
        )
    if options.package:
        shutil.copytree(options.out / "model", RESOURCES, dirs_exist_ok=True)
        print(f"copied to {RESOURCES}")


if __name__ == "__main__":
    main(sys.argv[1:])
