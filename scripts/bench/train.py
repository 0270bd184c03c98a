#!/usr/bin/env python3
"""How long the trials of SST-2 at 1 % take, beside a plain training loop and the transformers Trainer.

    python scripts/bench/train.py --data ../shared/data/sst2 --epochs 4 --trials 4

All three train the same encoder (MiniLM by default) on the same 68 rows for the same number of epochs, score the 872
validation rows after each and the 1,821 test rows once, with the best weights. They run in turn in one call, each in
processes of its own, with nothing counted before the first batch (imports, reading weights). The plain loop: texts are
tokenised when they are used, batches of 32 in file order padded to the longest, float32, the best weights copied to the
CPU. The Trainer: as its documentation shows, with evaluation and saving each epoch and the best model loaded at the end.
Ours: side by side in as many processes as there are cores, which is what `gpt3mix train` does by itself.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES = ["pos", "neg"]
SEED = 42


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def few(found: list[dict[str, str]], seed: int, count: int = 34) -> list[dict[str, str]]:
    """Return a class-balanced draw."""
    import random

    chosen: list[dict[str, str]] = []
    for name in CLASSES:
        chosen += random.Random(f"{seed} {name}").sample(
            [row for row in found if row["label"] == name], count
        )
    return chosen


def encoder_folder(model: str) -> str:
    """Return the folder of a model, as the package finds it."""
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train.encoder import _place

    return _place(TransformerSettings(kind="transformer", model=model))


def prepared(data: Path, model: str) -> tuple[str, dict[str, list[dict[str, str]]], Any]:
    """Return the encoder's folder, the rows of each split and the tokenizer; the weights have been read once before any clock starts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = encoder_folder(model)
    AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
    return (
        place,
        {name: rows(data / f"{name}.jsonl") for name in ("train", "validation", "test")},
        AutoTokenizer.from_pretrained(place),
    )


def plain(data: Path, model: str, epochs: int, trials: int) -> dict[str, Any]:
    """Train with the loop that one writes first."""
    import torch
    from transformers import AutoModelForSequenceClassification

    place, splits, tokenizer = prepared(data, model)
    started, accuracies = time.perf_counter(), []
    for trial in range(trials):
        torch.manual_seed(trial)
        network = AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=2, dtype=torch.float32
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-5)
        train = few(splits["train"], trial)
        steps = 3 * -(-len(train) // 32)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step, steps=steps: min(1.0, (step + 1) / steps)
        )

        def logits(part: list[dict[str, str]], network: Any = network) -> Any:
            batch = tokenizer(
                [row["text"] for row in part],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            return network(**batch).logits

        def accuracy(
            part: list[dict[str, str]], network: Any = network, logits: Any = logits
        ) -> float:
            network.eval()
            right = 0
            with torch.no_grad():
                for start in range(0, len(part), 32):
                    batch = part[start : start + 32]
                    truth = torch.tensor([CLASSES.index(row["label"]) for row in batch])
                    right += int((logits(batch).argmax(1) == truth).sum())
            return right / len(part)

        best, weights = -1.0, {}
        for _ in range(epochs):
            network.train()
            order = torch.randperm(len(train)).tolist()
            for start in range(0, len(train), 32):
                batch = [train[i] for i in order[start : start + 32]]
                truth = torch.tensor([CLASSES.index(row["label"]) for row in batch])
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits(batch), truth).backward()
                optimizer.step()
                schedule.step()
            score = accuracy(splits["validation"])
            if score > best:
                best, weights = (
                    score,
                    copy.deepcopy(
                        {name: weight.cpu() for name, weight in network.state_dict().items()}
                    ),
                )
        network.load_state_dict(weights)
        accuracies.append(accuracy(splits["test"]))
    return {"seconds": time.perf_counter() - started, "accuracies": accuracies}


def trainer(data: Path, model: str, epochs: int, trials: int) -> dict[str, Any]:
    """Train with the transformers Trainer, set up as its documentation shows."""
    import datasets
    import numpy as np
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    place, splits, tokenizer = prepared(data, model)
    started, accuracies = time.perf_counter(), []
    for trial in range(trials):
        set_seed(trial)
        splits["few"] = few(splits["train"], trial)

        def made(name: str) -> Any:
            found = datasets.Dataset.from_list(
                [
                    {"text": row["text"], "label": CLASSES.index(row["label"])}
                    for row in splits[name]
                ]
            )
            return found.map(
                lambda row: tokenizer(row["text"], truncation=True, max_length=128), batched=True
            )

        with tempfile.TemporaryDirectory() as folder:
            fitted = Trainer(
                model=AutoModelForSequenceClassification.from_pretrained(place, num_labels=2),
                args=TrainingArguments(
                    output_dir=folder,
                    learning_rate=3e-5,
                    per_device_train_batch_size=32,
                    per_device_eval_batch_size=32,
                    num_train_epochs=epochs,
                    warmup_steps=9,
                    lr_scheduler_type="constant_with_warmup",
                    weight_decay=0.01,
                    eval_strategy="epoch",
                    save_strategy="epoch",
                    load_best_model_at_end=True,
                    metric_for_best_model="accuracy",
                    disable_tqdm=True,
                    seed=trial,
                ),
                train_dataset=made("few"),
                eval_dataset=made("validation"),
                processing_class=tokenizer,
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=lambda found: {
                    "accuracy": float(np.mean(found.predictions.argmax(1) == found.label_ids))
                },
            )
            fitted.train()
            accuracies.append(fitted.evaluate(made("test"))["eval_accuracy"])
    return {"seconds": time.perf_counter() - started, "accuracies": accuracies}


def ours(
    data: Path, model: str, epochs: int, trials: int, jobs: int | None = None, dtype: str = "auto"
) -> dict[str, Any]:
    """Train as `gpt3mix train` does."""
    from gpt3mix_cli.grid.executors.processes import Workers, fitting
    from gpt3mix_cli.records import Example
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import Cell, TrialRunner, cached_classifier, run_serially

    splits = {
        name: [Example.model_validate(row) for row in rows(data / f"{name}.jsonl")]
        for name in ("train", "validation", "test")
    }
    settings = TransformerSettings(
        kind="transformer", model=model, max_epochs=epochs, patience=epochs, dtype=dtype
    )
    cell = Cell("sst2", "1%", "none", "minilm", {}, 0, CLASSES)
    classifier = cached_classifier(settings, tuple(CLASSES))
    classifier.probe()
    jobs = jobs or min(trials, fitting(settings.threads))

    def work(trial: int) -> TrialRunner:
        real = [Example.model_validate(row) for row in few(rows(data / "train.jsonl"), trial)]
        return TrialRunner(classifier, cell, real, {}, splits["validation"], splits["test"], SEED)

    works = {trial: work(trial) for trial in range(trials)}
    with Workers(jobs) as workers:
        # Each worker loads the encoder before the clock starts, as the other two have done.
        short = settings.model_copy(update={"max_epochs": 1})
        warm = TrialRunner(
            cached_classifier(short, tuple(CLASSES)),
            cell,
            works[0].real[::17],
            {},
            splits["validation"][:9],
            splits["test"][:9],
            SEED,
        )
        list(
            workers.map(warm.trial, [(n, 0) for n in range(jobs)], lambda *_: None)
        ) if jobs > 1 else warm.trial((0, 0))
        started, rows_of = time.perf_counter(), {}
        together = Many(works)
        for job, ran in (workers.map if jobs > 1 else run_serially)(
            together.trial, [(n, 0) for n in range(trials)], lambda *_, **__: None
        ):
            rows_of[job[0]] = ran.row
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "accuracies": [rows_of[n].accuracy for n in range(trials)],
        "jobs": jobs,
    }


class Many:
    """Trials of several draws in one call."""

    def __init__(self, works: dict[int, Any]) -> None:
        """Keep them."""
        self.works = works

    def trial(self, job: tuple[int, int], callbacks: Any) -> Any:
        """Run the trial of a draw."""
        return self.works[job[0]].trial(job, callbacks)


def set_up(data: Path, model: str) -> float:
    """Return the seconds from the end of one trial's last batch to the first of the next: weights, head, optimiser, tokens."""
    from gpt3mix_cli.records import Example
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import cached_classifier
    from gpt3mix_cli.train.targets import one_hot

    classifier = cached_classifier(
        TransformerSettings(kind="transformer", model=model, max_epochs=1), tuple(CLASSES)
    )
    validation = [Example.model_validate(row) for row in rows(data / "validation.jsonl")]
    real = [
        one_hot(Example.model_validate(row), CLASSES) for row in few(rows(data / "train.jsonl"), 0)
    ]
    classifier.fit(real, validation, 0)
    times = []
    for trial in range(5):
        fit = type(classifier)._epoch
        started = time.perf_counter()

        def first(*arguments: Any, started: float = started) -> float:
            times.append(time.perf_counter() - started)
            raise ArithmeticError("only the set-up is wanted")

        type(classifier)._epoch = first  # type: ignore[method-assign]
        try:
            classifier.fit(real, validation, trial)
        except ArithmeticError:
            pass
        finally:
            type(classifier)._epoch = fit  # type: ignore[method-assign]
    return statistics.median(times)


def main() -> None:
    """Run the three in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with train, validation and test.jsonl of SST-2",
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument(
        "--only",
        choices=["plain", "trainer", "ours", "ours, one process", "ours, float32", "set-up"],
        help="for the process inside",
    )
    given = parser.parse_args()
    if given.only:
        call = {
            "plain": plain,
            "trainer": trainer,
            "ours": ours,
            "ours, one process": lambda *arguments: ours(*arguments, jobs=1),
            "ours, float32": lambda *arguments: ours(*arguments, dtype="float32"),
        }
        if given.only == "set-up":
            print(json.dumps({"seconds": set_up(given.data, given.model)}))
        else:
            print(json.dumps(call[given.only](given.data, given.model, given.epochs, given.trials)))
        return
    found = {}
    names = ["plain", "trainer", "ours", "ours, one process", "ours, float32"]
    options = [
        "--data",
        str(given.data),
        "--model",
        given.model,
        "--epochs",
        str(given.epochs),
        "--trials",
        str(given.trials),
    ]
    for name in [*names, "set-up"]:
        done = subprocess.run(
            [sys.executable, __file__, *options, "--only", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"| {given.trials} trials of {given.epochs} epochs, {given.model} | seconds a trial | times plain | times Trainer | mean test accuracy |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in names:
        seconds = found[name]["seconds"]
        ratios = f"{found['plain']['seconds'] / seconds:.2f} | {found['trainer']['seconds'] / seconds:.2f}"
        print(
            f"| {name} | {seconds / given.trials:.1f} | {ratios} | {statistics.mean(found[name]['accuracies']):.3f} |"
        )
    print(
        f"set-up of trial n+1 in the same process: {found['set-up']['seconds'] * 1000:.0f} ms (median of 5)"
    )


if __name__ == "__main__":
    main()
