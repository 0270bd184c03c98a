#!/usr/bin/env python3
"""What language models are worth as the packaged review LM: one table, a column a model.

    python scripts/bench/lm_quality.py --data sst2 --corpus reviews.jsonl.gz --models old=FOLDER new=bundled --out lm-quality

Every model gets the same prompts, examples and seeds:

- Held-out loss: the reviews that scripts/pretrain_lm.py keeps from its training, laid out as its sequences are (the header,
  then 6 to 8 lines; half of the lists in SST-2's spelling). Nats a token over all tokens after the header, as that script
  counts; tokenizers differ, so only bits a byte compares models: all that is lost after the header, over the bytes of
  texts and label words. A model from elsewhere may have trained on these reviews, since its split is unknown: in its favour.
- Labels: how many SST-2 validation rows it labels rightly after two training rows, one a class, in random order; and the
  mass that the label words have together before they are normalised.
- Generations: how many of the first N attempts, from 35 rows a class with the default settings, are usable rows.
- Gain: SST-2 test accuracy with and without GPT3Mix's rows, through `gpt3mix` itself; the trials without them are run once
  for all models. MiniLM learns at 1e-4 with patience 5 in place of 3e-5 and 20, and stops early on 200 rows, so that its
  trials are done in minutes: the figures compare models, and are no reproduction of the paper's.

--data holds train, validation and test.jsonl of SST-2 ({"text", "label": "pos" | "neg"}). FOLDER receives the table
(lm_quality.md, lm_quality.csv), the configs and what `gpt3mix` makes of them; the same command goes on where it stopped, but for
the first three parts, which take a few minutes a model. The gain is mostly MiniLM: on one core of a busy machine a trial
took 15 to 50 seconds, at 1 % and ratio 10 eight minutes, so an hour or less a model with two such cores (an estimate).
"""

import argparse
import csv
import itertools
import math
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretrain_lm import LABELS, RESOURCES, Recipe, like_sst2, parted, read_corpus

from gpt3mix_cli import config
from gpt3mix_cli.augment import open_augmenter
from gpt3mix_cli.augment.filter import RowFilter
from gpt3mix_cli.data import Splits, group_by_class, load_splits
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.layout import TrialKey
from gpt3mix_cli.lm import LM, open_lm
from gpt3mix_cli.method.labels import soft_label
from gpt3mix_cli.method.prompt import choices, label_prefix, one_line, prompt
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
REAL = "35/class"  # SST-2's 1 %
RATIOS = [10, 1]  # the highest first: the other's rows are among its answers
VALIDATION = 200
MINILM = {
    "kind": "transformer",
    "name": "minilm",
    "model": "minilm",
    "lr": 1e-4,
    "warmup_epochs": 1,
    "patience": 5,
    "max_epochs": 25,
}
TRIALS = {
    "linear": 2,
    "minilm": 1,
}  # a data seed; linear has no training seed, so that two differ by their synthetic rows only


@dataclass(frozen=True)
class Figure:
    """A cell of the table: how it is shown, and its parts."""

    shown: str
    value: float | None = None
    spread: float | None = None
    n: int | None = None


Column = dict[str, Figure]  # what was measured -> the model's figure


def specification(data: Path) -> Task:
    """Return the paper's SST-2 task over the files of a folder."""
    files = {split: data.resolve() / f"{split}.jsonl" for split in ("train", "validation", "test")}
    about = {"text_type": "movie review", "label_type": "sentiment"}
    return Task.model_validate(
        {"name": "sst2", "data": {"kind": "files", **files}, "labels": LABELS, **about}
    )


# The model by itself --------------------------------------------------------------------------------------------------


def held_out_lists(corpus: Path) -> list[list[Example]]:
    """Return lists of 6 to 8 lines from the reviews that training does not see, each review used once."""
    recipe = Recipe.model_validate(yaml.safe_load(RECIPE.read_text("utf-8")))
    layout = recipe.sequence
    rng = generator(recipe.seed, "held-out lists")
    lists: list[list[Example]] = []
    lines: list[Example] = []
    for label, sentences in parted(read_corpus(corpus), recipe)[0]:
        start = rng.randrange(max(1, len(sentences) - layout.sentences + 1))
        lines += [
            Example(id="", text=text, label=label)
            for text in sentences[start : start + layout.sentences]
        ]
        if len(lines) >= 6:
            if rng.random() < layout.shuffled:
                rng.shuffle(lines)
            spell = like_sst2 if rng.random() < layout.plain else str
            lists.append([row.model_copy(update={"text": spell(row.text)}) for row in lines])
            lines = []
    return lists


def size_and_loss(folder: Path, task: Task, lists: Sequence[Sequence[Example]]) -> Column:
    """Return parameters, bytes, and the loss on held-out lists."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    )
    header = len(prompt(task, []))
    nats = tokens = 0.0
    for rows in lists:
        text = prompt(task, rows).rpartition("\n")[0]
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        counted = encoded["offset_mapping"][0, 1:, 1] > header
        ids = encoded["input_ids"].to(device)
        with torch.inference_mode():
            logits = network(input_ids=ids).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").cpu()
        nats += float(each[counted].double().sum())
        tokens += int(counted.sum())
    size = sum(
        len(row.text.encode()) + len(task.labels[row.label]) for rows in lists for row in rows
    )
    parameters = sum(weight.numel() for weight in network.parameters())
    packaged = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return {
        "parameters, millions": Figure(f"{parameters / 1e6:.2f}", parameters / 1e6),
        "packaged, MB": Figure(f"{packaged:.2f}", packaged),
        "held-out loss, nats a token": Figure(f"{nats / tokens:.3f}", nats / tokens, n=int(tokens)),
        "held-out loss, bits a byte": Figure(
            f"{nats / math.log(2) / size:.4f}", nats / math.log(2) / size, n=size
        ),
    }


def questions(task: Task, splits: Splits, count: int) -> list[tuple[str, str]]:
    """Return (prompt up to the label, true label) of validation rows, each after two training rows of its own."""
    shots = group_by_class(splits.train, task.classes)
    rows = generator(SEED, "rows").sample(splits.validation, min(count, len(splits.validation)))
    found = []
    for row in rows:
        rng = generator(SEED, "shots", row.id)
        chosen = [rng.choice(shots[label]) for label in task.classes]
        rng.shuffle(chosen)
        found.append(
            (f"{prompt(task, chosen)} {one_line(row.text)}{label_prefix(task)}", row.label)
        )
    return found


def labelling(lm: LM, task: Task, asked: Sequence[tuple[str, str]]) -> Column:
    """Return the accuracy of the labels, in percent with its binomial standard error, and their mass."""
    scores = lm.score([text for text, _ in asked], choices(task))
    labels = [soft_label(task.classes, score.logprobs) for score in scores]
    right = statistics.fmean(
        max(probs, key=lambda name: probs[name]) == label
        for (probs, _), (_, label) in zip(labels, asked, strict=True)
    )
    error = math.sqrt(right * (1 - right) / len(asked))
    mass = statistics.fmean(mass for _, mass in labels)
    return {
        "labels right, %": Figure(
            f"{right:.1%} ± {error:.1%}".replace("%", ""), right, error, len(asked)
        ),
        "label mass, mean": Figure(f"{mass:.4f}", mass, n=len(asked)),
    }


def writing(lm: LM, task: Task, real: Sequence[Example], count: int) -> Column:
    """Return how many of `count` attempts are usable rows, why others are not, and what the rows are like."""
    gate = RowFilter(real)
    attempts = open_augmenter(AugmentSettings(), task, lm).generate(
        real, 0, count, derived_seed(SEED, "generations")
    )
    checked = [gate.check(row) for row in attempts]
    rows = [row for row in checked if isinstance(row, Augmented)]
    reasons = Counter(row.reason for row in checked if isinstance(row, Reject))
    words = [row.text.lower().split() for row in rows]
    pairs = [pair for text in words for pair in itertools.pairwise(text)]
    kept, length = len(rows) / count, statistics.fmean(map(len, words)) if words else math.nan
    different = len(set(pairs)) / len(pairs) if pairs else math.nan
    found = Counter(row.label for row in rows)
    return {
        "generations kept, %": Figure(f"{kept * 100:.1f}", kept, n=count),
        "rejected": Figure(
            ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "none",
            count - len(rows),
            n=count,
        ),
        "words a text, mean": Figure(f"{length:.1f}", length, n=len(rows)),
        "distinct-2": Figure(f"{different:.3f}", different, n=len(pairs)),
        f"labels, {' : '.join(task.classes)}": Figure(
            " : ".join(str(found[label]) for label in task.classes),
            found[task.classes[0]] / max(1, len(rows)),
            n=len(rows),
        ),
    }


# The gain -------------------------------------------------------------------------------------------------------------


def write_config(
    path: Path, task: Task, levels: Sequence[str], seeds: int, model: Path | None
) -> Path:
    """Write an experiment: with a model the trials of GPT3Mix, without one those of no augmentation."""
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
            "validation": VALIDATION,
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


def gpt3mix(*arguments: object) -> None:
    """Run a command, its own output on stderr; one that stopped short has kept what it made."""
    command = [
        sys.executable,
        "-c",
        "from gpt3mix_cli.cli import entry; entry()",
        *map(str, arguments),
    ]
    if (code := subprocess.run(command, stdout=sys.stderr, check=False).returncode) not in (0, 3):
        sys.exit(code)


def trials(experiment: Path, out: Path, method: str) -> Iterator[Trial]:
    """Yield the trials of a config that went well."""
    grid = Grid(config.load_experiments(experiment), out)
    for cell in grid.cells():
        for classifier in grid.experiment(cell).classifiers:
            path = grid.layout.trials_path(TrialKey(cell, method, classifier.name))
            yield from (
                row
                for row in (read_records(path, Trial) if path.exists() else ())
                if row.status == "ok"
            )


def spread(values: Sequence[float], sign: str = "") -> Figure:
    """Return mean and sample standard deviation, shown in percent."""
    if not values:
        return Figure("—", n=0)
    mean, deviation = (
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
    )
    around = "" if deviation is None else f" ± {deviation * 100:.1f}"
    return Figure(f"{mean * 100:{sign}.1f}{around} ({len(values)})", mean, deviation, len(values))


def gains(levels: Sequence[str], plain: Iterable[Trial], augmented: Iterable[Trial]) -> Column:
    """Return the accuracies, and the differences between trials with the same real rows and training seed."""

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

    before = {key(row): row.accuracy for row in plain}
    rows = list(augmented)
    found: Column = {}
    for level in levels:
        for classifier in TRIALS:
            found[f"{level} {classifier}, none"] = spread(
                [accuracy for which, accuracy in before.items() if which[:2] == (level, classifier)]
            )
            for ratio in sorted(RATIOS):
                some = [
                    row
                    for row in rows
                    if (row.level, row.classifier, row.variant["augment.ratio"])
                    == (level, classifier, ratio)
                ]
                differences = [
                    row.accuracy - before[key(row)] for row in some if key(row) in before
                ]
                found[f"{level} {classifier}, ratio {ratio}"] = spread(
                    [row.accuracy for row in some]
                )
                found[f"{level} {classifier}, ratio {ratio} less none"] = spread(differences, "+")
    return found


# The table ------------------------------------------------------------------------------------------------------------


def caption(options: argparse.Namespace, lists: int, rows: int) -> str:
    """Return what a reader of the table must know."""
    lines = [
        f"Held-out loss: {lists} lists of 6 to 8 lines, all after the header; only bits a byte compares tokenizers, and a model whose training "
        "split is unknown may have seen these reviews.",
        f"Labels: {rows} rows of SST-2 validation, k = 2, ± binomial standard error.",
        f"Generations: {options.generations} attempts from {REAL} of SST-2 train, default settings; distinct-2 falls with the number of texts.",
    ]
    if not options.no_gain:
        each = ", ".join(f"{name} {count * options.seeds}" for name, count in TRIALS.items())
        minilm = f"lr {MINILM['lr']:g}, warm-up {MINILM['warmup_epochs']} epoch, patience {MINILM['patience']}, at most {MINILM['max_epochs']} epochs"
        lines.append(
            f"Gain: SST-2 test accuracy in percent, mean ± sample standard deviation (trials) over {options.seeds} data seeds; trials: {each}. "
            f"`less none` pairs trials with the same real rows and training seed (pairs). {VALIDATION} validation rows; minilm: {minilm}, so early "
            "stopping counts epochs of few steps where there are few rows, which handicaps `none`. Trials of a data seed share its real rows: "
            "their pairs are not independent."
        )
    return "\n".join(f"- {line}" for line in lines)


def markdown(columns: dict[str, Column], below: str) -> str:
    """Return the table with its caption."""
    measures = list(next(iter(columns.values())))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [
        f"| {measure} | {' | '.join(column[measure].shown for column in columns.values())} |"
        for measure in measures
    ]
    return "\n".join([*lines, "", below, ""])


def save(out: Path, columns: dict[str, Column], text: str) -> None:
    """Write the table, and its figures one a line (fractions where the table has percent)."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "lm_quality.md").write_text(text, "utf-8")
    with (out / "lm_quality.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["model", "measure", "value", "spread", "n", "shown"])
        for name, column in columns.items():
            table.writerows(
                [name, measure, f.value, f.spread, f.n, f.shown] for measure, f in column.items()
            )


def named_folder(text: str) -> tuple[str, Path]:
    """Return (name, folder) of `name=folder`."""
    name, _, place = text.partition("=")
    folder = RESOURCES if place == "bundled" else Path(place)
    if not FILE_NAME_PATTERN.fullmatch(name) or name == "none":
        raise argparse.ArgumentTypeError(
            f"'{name}' cannot name a model; use letters, digits, '.', '_', '+' and '-', and not `none`"
        )
    if not (folder / "config.json").is_file():
        raise argparse.ArgumentTypeError(
            f"'{place}' is no model's folder; write name=folder or name=bundled"
        )
    return name, folder.resolve()


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
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
    parser.add_argument("--rows", type=int, default=872, help="validation rows to be labelled")
    parser.add_argument("--generations", type=int, default=400)
    parser.add_argument("--no-gain", action="store_true", help="leave out what takes hours")
    parser.add_argument("--levels", nargs="+", default=["0.1%", "0.3%", "1%"], help="of the gain")
    parser.add_argument("--seeds", type=int, default=5, help="data seeds of the gain")
    parser.add_argument("--jobs", type=int, default=2, help="trials side by side")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    names = [name for name, _ in options.models]
    if len(set(names)) < len(names):
        parser.error("two models have one name")
    return options


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    options = parsed(arguments)
    task = specification(options.data)
    splits = load_splits(task, SEED)
    lists, asked = held_out_lists(options.corpus), questions(task, splits, options.rows)
    real = draw_rows(splits.train, task.classes, DrawOptions(REAL, SEED, 0))
    below = caption(options, len(lists), len(asked))
    columns: dict[str, Column] = {}
    for name, folder in options.models:
        lm = open_lm(LocalLMSettings(kind="local", model=str(folder)))
        columns[name] = (
            size_and_loss(folder, task, lists)
            | labelling(lm, task, asked)
            | writing(lm, task, real, options.generations)
        )
        print(f"{name}: measured by itself", file=sys.stderr, flush=True)
    save(options.out, columns, markdown(columns, below))
    if not options.no_gain:
        place = options.out / "gain"
        plain = write_config(place / "none.yaml", task, options.levels, options.seeds, None)
        gpt3mix("run", plain, "--out", place, "--jobs", options.jobs)
        for name, folder in options.models:
            mixed = write_config(
                place / f"{name}.yaml", task, options.levels, options.seeds, folder
            )
            # Not `run`: that would train without augmentation too, for each model and ratio.
            gpt3mix("subsample", mixed, "--out", place)
            gpt3mix("augment", mixed, "--out", place)
            gpt3mix("train", mixed, "--method", "gpt3mix", "--out", place, "--jobs", options.jobs)
            columns[name] |= gains(
                options.levels, trials(plain, place, "none"), trials(mixed, place, "gpt3mix")
            )
    text = markdown(columns, below)
    save(options.out, columns, text)
    print(text, end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
