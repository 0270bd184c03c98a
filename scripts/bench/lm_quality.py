#!/usr/bin/env python3
"""Compare language models as the packaged review LM: a table with one column per model.

    python scripts/bench/lm_quality.py --data SST2_FOLDER --corpus reviews.jsonl.gz \
        --models old=FOLDER new=bundled --out lm-quality

Every model gets the same prompts, examples and seeds:

- Held-out loss: of the reviews that scripts/pretrain_lm.py holds out, in the format of its
  sequences (the header, then 6 to 8 lines; half of the lists in SST-2's spelling). Nats per token
  are over all tokens after the header, as in that script. Tokenizers differ, so only bits per byte
  compare models: the total loss after the header over the bytes of texts and label tokens. Another
  model may have been trained on these reviews, which is to its advantage.
- Labels: how many SST-2 validation rows the model labels correctly after two training rows, one per
  class, in random order; and the label mass.
- Generations: how many of the first N attempts are usable rows, from 35 real rows per class with
  the default settings.
- Gain: SST-2 test accuracy with and without GPT3Mix's rows, by the `gpt3mix` command. The trials
  without them are run once for all models. MiniLM uses a learning rate of 1e-4 and patience 5 in
  place of 3e-5 and 20, and stops early on 200 rows, so its trials take minutes. The numbers compare
  models; they do not reproduce the paper.

--data has train, validation and test.jsonl of SST-2 ({"text", "label": "pos" | "neg"}). --out gets
the table (lm_quality.md, lm_quality.csv), the configs and the results of `gpt3mix`. The same
command resumes, except for the first three parts, which take a few minutes per model. Most of the
time is MiniLM: on one core of a busy machine a trial took 15 to 50 seconds, at 1 % and ratio 10
eight minutes; so an hour or less per model with two such cores (an estimate).
"""

import argparse
import csv
import itertools
import math
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretrain_lm import LABELS, RESOURCES, Recipe, like_sst2, read_corpus, split_held_out

from gpt3mix_cli.augment import open_augmenter
from gpt3mix_cli.augment.filter import RowFilter
from gpt3mix_cli.data import Splits, group_by_class, load_splits
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.layout import Layout, find_trials
from gpt3mix_cli.lm import LM, open_lm
from gpt3mix_cli.method.labels import soft_label
from gpt3mix_cli.method.prompt import label_choices, label_prefix, render_prompt, to_one_line
from gpt3mix_cli.records import Augmented, Example, Reject, Trial, read_records
from gpt3mix_cli.settings import (
    FILE_NAME_PATTERN,
    AugmentSettings,
    LocalLMSettings,
    Task,
    derived_seed,
    generator,
)
from gpt3mix_cli.subsample import DrawOptions, draw_rows

RECIPE = Path(__file__).resolve().parents[1] / "pretrain_lm.yaml"
SEED = 42
REAL_ROWS = "35/class"  # SST-2's 1 %
RATIOS = [10, 1]  # the highest first: its answers include those of the lower one
VALIDATION_ROWS = 200
MINILM = {
    "kind": "transformer",
    "name": "minilm",
    "model": "minilm",
    "lr": 1e-4,
    "warmup_epochs": 1,
    "patience": 5,
    "max_epochs": 25,
}
# Trials per data seed. Linear has no training seed: its two trials differ in their synthetic rows.
TRIALS = {"linear": 2, "minilm": 1}


@dataclass(frozen=True)
class Value:
    """A value of the table.

    Attributes:
        shown: as text.
        value: the number itself, a fraction where the text has percent.
        spread: its standard deviation or standard error.
        n: number of trials, rows or tokens behind it.
    """

    shown: str
    value: float | None = None
    spread: float | None = None
    n: int | None = None


Column = dict[str, Value]  # name of a measurement -> its value for one model


def sst2_task(data: Path) -> Task:
    """Return the paper's SST-2 task with the files of a folder."""
    files = {split: data.resolve() / f"{split}.jsonl" for split in ("train", "validation", "test")}
    about = {"text_type": "movie review", "label_type": "sentiment"}
    return Task.model_validate(
        {"name": "sst2", "data": {"kind": "files", **files}, "labels": LABELS, **about}
    )


# The model by itself ------------------------------------------------------------------------------


def held_out_lists(corpus: Path) -> list[list[Example]]:
    """Return lists of 6 to 8 lines from the held-out reviews, each review used once."""
    recipe = Recipe.model_validate(yaml.safe_load(RECIPE.read_text("utf-8")))
    shape = recipe.sequence
    rng = generator(recipe.seed, "held-out lists")
    lists: list[list[Example]] = []
    lines: list[Example] = []
    for label, sentences in split_held_out(read_corpus(corpus), recipe)[0]:
        start = rng.randrange(max(1, len(sentences) - shape.sentences + 1))
        lines += [
            Example(id="", text=text, label=label)
            for text in sentences[start : start + shape.sentences]
        ]
        if len(lines) >= 6:
            if rng.random() < shape.shuffled:
                rng.shuffle(lines)
            spell = like_sst2 if rng.random() < shape.plain else str
            lists.append([row.model_copy(update={"text": spell(row.text)}) for row in lines])
            lines = []
    return lists


def size_and_loss(folder: Path, task: Task, lists: Sequence[Sequence[Example]]) -> Column:
    """Return the number of parameters, the size and the loss on held-out lists."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    )
    header = len(render_prompt(task, []))
    nats = tokens = 0.0
    for rows in lists:
        text = render_prompt(task, rows).rpartition("\n")[0]
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        counted = encoded["offset_mapping"][0, 1:, 1] > header
        ids = encoded["input_ids"].to(device)
        with torch.inference_mode():
            logits = network(input_ids=ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").cpu()
        nats += float(losses[counted].double().sum())
        tokens += int(counted.sum())
    size = sum(
        len(row.text.encode()) + len(task.labels[row.label]) for rows in lists for row in rows
    )
    parameters = sum(weight.numel() for weight in network.parameters())
    packaged = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return {
        "parameters, millions": Value(f"{parameters / 1e6:.2f}", parameters / 1e6),
        "packaged, MB": Value(f"{packaged:.2f}", packaged),
        "held-out loss, nats per token": Value(
            f"{nats / tokens:.3f}", nats / tokens, n=int(tokens)
        ),
        "held-out loss, bits per byte": Value(
            f"{nats / math.log(2) / size:.4f}", nats / math.log(2) / size, n=size
        ),
    }


def label_prompts(task: Task, splits: Splits, count: int) -> list[tuple[str, str]]:
    """Return (prompt up to the label, true label) of validation rows.

    Each prompt has two training rows of its own.
    """
    shots = group_by_class(splits.train, task.classes)
    rows = generator(SEED, "rows").sample(splits.validation, min(count, len(splits.validation)))
    prompts = []
    for row in rows:
        rng = generator(SEED, "shots", row.id)
        examples = [rng.choice(shots[label]) for label in task.classes]
        rng.shuffle(examples)
        text = f"{render_prompt(task, examples)} {to_one_line(row.text)}{label_prefix(task)}"
        prompts.append((text, row.label))
    return prompts


def measure_labels(lm: LM, task: Task, prompts: Sequence[tuple[str, str]]) -> Column:
    """Return the accuracy of the labels with its binomial standard error, and the label mass."""
    scores = lm.score([text for text, _ in prompts], label_choices(task))
    labels = [soft_label(task.classes, score.logprobs) for score in scores]
    accuracy = statistics.fmean(
        max(probs, key=lambda name: probs[name]) == label
        for (probs, _), (_, label) in zip(labels, prompts, strict=True)
    )
    error = math.sqrt(accuracy * (1 - accuracy) / len(prompts))
    mass = statistics.fmean(mass for _, mass in labels)
    return {
        "labels correct, %": Value(
            f"{accuracy:.1%} ± {error:.1%}".replace("%", ""), accuracy, error, len(prompts)
        ),
        "label mass, mean": Value(f"{mass:.4f}", mass, n=len(prompts)),
    }


def measure_generation(lm: LM, task: Task, real: Sequence[Example], count: int) -> Column:
    """Return how many of `count` attempts are kept, the reject reasons, and text statistics."""
    row_filter = RowFilter(real)
    attempts = open_augmenter(AugmentSettings(), task, lm).generate(
        real, 0, count, derived_seed(SEED, "generations")
    )
    checked = [row_filter.check(row) for row in attempts]
    rows = [row for row in checked if isinstance(row, Augmented)]
    reasons = Counter(row.reason for row in checked if isinstance(row, Reject))
    words = [row.text.lower().split() for row in rows]
    pairs = [pair for text in words for pair in itertools.pairwise(text)]
    kept, length = len(rows) / count, statistics.fmean(map(len, words)) if words else math.nan
    distinct = len(set(pairs)) / len(pairs) if pairs else math.nan
    counts = Counter(row.label for row in rows)
    return {
        "generations kept, %": Value(f"{kept * 100:.1f}", kept, n=count),
        "rejected": Value(
            ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "none",
            count - len(rows),
            n=count,
        ),
        "words per text, mean": Value(f"{length:.1f}", length, n=len(rows)),
        "distinct-2": Value(f"{distinct:.3f}", distinct, n=len(pairs)),
        f"labels, {' : '.join(task.classes)}": Value(
            " : ".join(str(counts[label]) for label in task.classes),
            counts[task.classes[0]] / max(1, len(rows)),
            n=len(rows),
        ),
    }


# The gain -----------------------------------------------------------------------------------------


def write_config(
    path: Path, task: Task, levels: Sequence[str], seeds: int, model: Path | None
) -> Path:
    """Write a config: for the trials of GPT3Mix with a model, or without augmentation."""
    classifiers = [
        {"kind": "linear", "trials": TRIALS["linear"] * seeds},
        {**MINILM, "trials": TRIALS["minilm"] * seeds},
    ]
    content: dict[str, Any] = {
        "name": path.stem,
        "task": task.model_dump(mode="json", exclude_defaults=True),
        "subsample": {
            "levels": list(levels),
            "seeds": seeds,
            "master_seed": SEED,
            "validation": VALIDATION_ROWS,
        },
        "augment": {"synthetic_sets": "per-trial"},
        "classifiers": classifiers,
    }
    if model:
        content |= {
            "lm": {"kind": "local", "model": str(model)},
            "sweep": {"augment.ratio": RATIOS},
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Written by {Path(__file__).name}.\n{yaml.safe_dump(content, sort_keys=False)}", "utf-8"
    )
    return path


def run_gpt3mix(*arguments: object) -> None:
    """Run a command with its output on stderr; exit code 3 (stopped early) is not an error."""
    command = [
        sys.executable,
        "-c",
        "from gpt3mix_cli.cli import entry; entry()",
        *map(str, arguments),
    ]
    if (code := subprocess.run(command, stdout=sys.stderr, check=False).returncode) not in (0, 3):
        sys.exit(code)


def successful_trials(config: Path, out: Path, method: str) -> Iterator[Trial]:
    """Yield the successful trials of a config with a method."""
    for path in find_trials(Layout(out, config.stem).root):
        for row in read_records(path, Trial):
            if row.method == method and row.status == "ok":
                yield row


def mean_and_std(values: Sequence[float], sign: str = "") -> Value:
    """Return mean and sample standard deviation, shown in percent."""
    if not values:
        return Value("—", n=0)
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    shown = "" if std is None else f" ± {std * 100:.1f}"
    return Value(f"{mean * 100:{sign}.1f}{shown} ({len(values)})", mean, std, len(values))


def gains(levels: Sequence[str], plain: Iterable[Trial], augmented: Iterable[Trial]) -> Column:
    """Return accuracies, and differences of trials with the same real rows and training seed."""

    def key(row: Trial) -> tuple[object, ...]:
        return (
            row.level,
            row.classifier,
            row.data_seed,
            row.trial,
            row.train_sha,
            row.test_sha,
            row.seed,
        )

    plain_accuracy = {key(row): row.accuracy for row in plain}
    by_ratio = defaultdict(list)
    for row in augmented:
        by_ratio[row.level, row.classifier, row.variant["augment.ratio"]].append(row)
    column: Column = {}
    for level, classifier in itertools.product(levels, TRIALS):
        name = f"{level} {classifier}"
        column[f"{name}, none"] = mean_and_std(
            [value for trial, value in plain_accuracy.items() if trial[:2] == (level, classifier)]
        )
        for ratio in sorted(RATIOS):
            rows = by_ratio[level, classifier, ratio]
            column[f"{name}, ratio {ratio}"] = mean_and_std([row.accuracy for row in rows])
            differences = [
                row.accuracy - plain_accuracy[key(row)]
                for row in rows
                if key(row) in plain_accuracy
            ]
            column[f"{name}, ratio {ratio} minus none"] = mean_and_std(differences, "+")
    return column


# The table ----------------------------------------------------------------------------------------


def caption(options: argparse.Namespace, lists: int, rows: int) -> str:
    """Return the notes below the table."""
    lines = [
        f"Held-out loss: {lists} lists of 6 to 8 lines, all after the header; only bits per "
        "byte is comparable between tokenizers, and a model whose training split is unknown may "
        "have seen these reviews.",
        f"Labels: {rows} rows of SST-2 validation, k = 2, ± binomial standard error.",
        f"Generations: {options.generations} attempts from {REAL_ROWS} of SST-2 train, default "
        "settings; distinct-2 falls with the number of texts.",
    ]
    if not options.no_gain:
        trials = ", ".join(f"{name} {count * options.seeds}" for name, count in TRIALS.items())
        minilm = (
            f"lr {MINILM['lr']:g}, warm-up {MINILM['warmup_epochs']} epoch, "
            f"patience {MINILM['patience']}, at most {MINILM['max_epochs']} epochs"
        )
        lines.append(
            "Gain: SST-2 test accuracy in percent, mean ± sample standard deviation (trials) over "
            f"{options.seeds} data seeds; trials: {trials}. `minus none` pairs trials with the "
            f"same real rows and training seed (pairs). {VALIDATION_ROWS} validation rows; minilm: "
            f"{minilm}, so early stopping counts epochs of few steps where there are few "
            "rows, which handicaps `none`. Trials of a data seed share its real rows: their pairs "
            "are not independent."
        )
    return "\n".join(f"- {line}" for line in lines)


def render_table(columns: dict[str, Column], notes: str) -> str:
    """Return the table with its notes as Markdown."""
    measures = list(next(iter(columns.values())))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [
        f"| {measure} | {' | '.join(column[measure].shown for column in columns.values())} |"
        for measure in measures
    ]
    return "\n".join([*lines, "", notes, ""])


def save(out: Path, columns: dict[str, Column], text: str) -> None:
    """Write the table, and its values as CSV (fractions where the table has percent)."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "lm_quality.md").write_text(text, "utf-8")
    with (out / "lm_quality.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["model", "measure", "value", "spread", "n", "shown"])
        for name, column in columns.items():
            table.writerows(
                [name, measure, cell.value, cell.spread, cell.n, cell.shown]
                for measure, cell in column.items()
            )


def named_folder(text: str) -> tuple[str, Path]:
    """Return (name, folder) of `name=folder`."""
    name, _, path = text.partition("=")
    folder = RESOURCES if path == "bundled" else Path(path)
    if not FILE_NAME_PATTERN.fullmatch(name) or name == "none":
        raise argparse.ArgumentTypeError(
            f"'{name}' cannot name a model: use letters, digits and ._+-; `none` is reserved"
        )
    if not (folder / "config.json").is_file():
        raise argparse.ArgumentTypeError(
            f"'{path}' is not a model's folder: write name=folder or name=bundled"
        )
    return name, folder.resolve()


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with train, validation and test.jsonl of SST-2",
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="labelled review sentences (JSONL, gzip)"
    )
    parser.add_argument(
        "--models",
        type=named_folder,
        nargs="+",
        required=True,
        metavar="NAME=FOLDER",
        help="or NAME=bundled",
    )
    parser.add_argument("--rows", type=int, default=872, help="validation rows to label")
    parser.add_argument("--generations", type=int, default=400)
    parser.add_argument("--no-gain", action="store_true", help="skip the gain, which takes hours")
    parser.add_argument(
        "--levels", nargs="+", default=["0.1%", "0.3%", "1%"], help="levels of the gain"
    )
    parser.add_argument("--seeds", type=int, default=5, help="data seeds of the gain")
    parser.add_argument("--jobs", type=int, default=2, help="parallel trials")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    names = [name for name, _ in options.models]
    if len(set(names)) < len(names):
        parser.error("two models have the same name")
    return options


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    options = parse_arguments(arguments)
    task = sst2_task(options.data)
    splits = load_splits(task, SEED)
    lists, prompts = held_out_lists(options.corpus), label_prompts(task, splits, options.rows)
    real = draw_rows(splits.train, task.classes, DrawOptions(REAL_ROWS, SEED, 0))
    notes = caption(options, len(lists), len(prompts))
    columns: dict[str, Column] = {}
    for name, folder in options.models:
        lm = open_lm(LocalLMSettings(kind="local", model=str(folder)))
        columns[name] = (
            size_and_loss(folder, task, lists)
            | measure_labels(lm, task, prompts)
            | measure_generation(lm, task, real, options.generations)
        )
        print(f"{name}: loss, labels and generations measured", file=sys.stderr, flush=True)
    save(options.out, columns, render_table(columns, notes))
    if not options.no_gain:
        out = options.out / "gain"
        plain = write_config(out / "none.yaml", task, options.levels, options.seeds, None)
        run_gpt3mix("run", plain, "--out", out, "--jobs", options.jobs)
        for name, folder in options.models:
            mixed = write_config(out / f"{name}.yaml", task, options.levels, options.seeds, folder)
            # `run` would also train without augmentation for each model and ratio.
            run_gpt3mix("subsample", mixed, "--out", out)
            run_gpt3mix("augment", mixed, "--out", out)
            run_gpt3mix("train", mixed, "--method", "gpt3mix", "--out", out, "--jobs", options.jobs)
            columns[name] |= gains(
                options.levels,
                successful_trials(plain, out, "none"),
                successful_trials(mixed, out, "gpt3mix"),
            )
    text = render_table(columns, notes)
    save(options.out, columns, text)
    print(text, end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
