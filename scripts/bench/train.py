#!/usr/bin/env python3
"""Measures the time of SST-2 trials at 1 % against a plain loop and the transformers Trainer.

    python scripts/bench/train.py --data ../shared/data/sst2 --epochs 4 --trials 4

All three train the same encoder (MiniLM by default) on the same 68 rows for the same number of
epochs, score the 872 validation rows after each epoch and the 1,821 test rows once, with the best
weights. They run in turn, each in processes of its own; imports and reading weights are not
counted. The Trainer needs the package `accelerate`.

- plain: texts are tokenised when they are used, batches of 32 are padded to the longest text,
  float32, the best weights are copied to the CPU.
- trainer: as its documentation shows, with evaluation and saving after each epoch and the best
  model loaded at the end.
- ours: as `gpt3mix train` does by default, in as many processes as there are cores.

`--decisions SEEDS` trains once for each data seed on one thread (lr 1e-4, every third validation
and test row), and prints losses, validation accuracies, the best epoch, test accuracy and CPU
seconds: two versions of the package are compared by running it in both.
"""

import argparse
import copy
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CLASSES = ["pos", "neg"]
SEED = 42


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def draw(rows: list[dict[str, str]], seed: int, count: int = 34) -> list[dict[str, str]]:
    """Return a class-balanced sample with `count` rows per class."""
    import random

    chosen: list[dict[str, str]] = []
    for name in CLASSES:
        chosen += random.Random(f"{seed} {name}").sample(
            [row for row in rows if row["label"] == name], count
        )
    return chosen


def prepare(data: Path, model: str) -> tuple[str, dict[str, list[dict[str, str]]], Any]:
    """Return the encoder's folder, the rows of each split and the tokenizer.

    The weights are read once, so that later reads come from the file cache.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from gpt3mix_cli.pretrained import model_path

    path = model_path(model, "--model")
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    splits = {name: read_rows(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return path, splits, AutoTokenizer.from_pretrained(path)


def plain(data: Path, model: str, epochs: int, trials: int) -> dict[str, Any]:
    """Train with a plain PyTorch loop."""
    import torch
    from transformers import AutoModelForSequenceClassification

    path, splits, tokenizer = prepare(data, model)
    started, accuracies = time.perf_counter(), []
    for trial in range(trials):
        torch.manual_seed(trial)
        network = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=2, dtype=torch.float32
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-5)
        train = draw(splits["train"], trial)
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

    path, splits, tokenizer = prepare(data, model)
    started, accuracies = time.perf_counter(), []
    for trial in range(trials):
        set_seed(trial)
        splits["sample"] = draw(splits["train"], trial)

        def dataset(name: str) -> Any:
            examples = datasets.Dataset.from_list(
                [
                    {"text": row["text"], "label": CLASSES.index(row["label"])}
                    for row in splits[name]
                ]
            )
            return examples.map(
                lambda row: tokenizer(row["text"], truncation=True, max_length=128), batched=True
            )

        with tempfile.TemporaryDirectory() as folder:
            library_trainer = Trainer(
                model=AutoModelForSequenceClassification.from_pretrained(path, num_labels=2),
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
                train_dataset=dataset("sample"),
                eval_dataset=dataset("validation"),
                processing_class=tokenizer,
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=lambda result: {
                    "accuracy": float(np.mean(result.predictions.argmax(1) == result.label_ids))
                },
            )
            library_trainer.train()
            accuracies.append(library_trainer.evaluate(dataset("test"))["eval_accuracy"])
    return {"seconds": time.perf_counter() - started, "accuracies": accuracies}


def ours(
    data: Path, model: str, epochs: int, trials: int, jobs: int | None = None, dtype: str = "auto"
) -> dict[str, Any]:
    """Train as `gpt3mix train` does."""
    from gpt3mix_cli.errors import NO_CALLBACKS
    from gpt3mix_cli.grid.executors.processes import ProcessExecutor, count_fitting_workers
    from gpt3mix_cli.layout import Cell, TrialKey
    from gpt3mix_cli.records import Example
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import TrialData, TrialJob, TrialRunner, cached_classifier, run_serially

    rows = {name: read_rows(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    validation, test = (
        [Example.model_validate(row) for row in rows[name]] for name in ("validation", "test")
    )
    settings = TransformerSettings(
        kind="transformer", model=model, max_epochs=epochs, patience=epochs, dtype=dtype
    )
    short = settings.model_copy(update={"max_epochs": 1})
    jobs = jobs or min(trials, count_fitting_workers(settings.threads))

    def open_runner(settings: TransformerSettings, data: TrialData) -> TrialRunner:
        key = TrialKey(Cell("sst2", {}, "1%", 0), "none", "minilm")
        return TrialRunner(cached_classifier(settings, tuple(CLASSES)), key, CLASSES, data, SEED)

    runners = {}
    for trial in range(trials):
        real = [Example.model_validate(row) for row in draw(rows["train"], trial)]
        runners[trial] = open_runner(settings, TrialData(real, validation, test))
    runners[0].classifier.probe()
    few = TrialData(runners[0].data.real[::17], validation[:9], test[:9])
    with ProcessExecutor(jobs) as processes:
        executor = processes.map if jobs > 1 else run_serially
        # Each worker loads the encoder before the clock starts, as the other two do.
        warm_up = open_runner(short, few)
        list(executor(warm_up.run, [TrialJob(n) for n in range(jobs)], NO_CALLBACKS))
        started = time.perf_counter()
        all_trials = RunTrials(runners)
        results = dict(executor(all_trials, [TrialJob(n) for n in range(trials)], NO_CALLBACKS))
        seconds = time.perf_counter() - started
    accuracies = [results[TrialJob(n)].row.accuracy for n in range(trials)]
    return {"seconds": seconds, "accuracies": accuracies, "jobs": jobs}


class RunTrials:
    """Runs each trial with a runner of its own, so that one executor serves several draws."""

    def __init__(self, runners: dict[int, Any]) -> None:
        """Store the runner of each trial."""
        self._runners = runners

    def __call__(self, job: tuple[int, int], callbacks: Any) -> Any:
        """Run a trial."""
        return self._runners[job[0]].run(job, callbacks)


def measure_setup(data: Path, model: str) -> float:
    """Return the median seconds from the start of a fit to its first batch, in a warm process.

    This is the time for weights, head, optimiser and tokens.
    """
    from gpt3mix_cli.records import Example
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import cached_classifier
    from gpt3mix_cli.train.targets import to_one_hot

    settings = TransformerSettings(kind="transformer", model=model, max_epochs=1)
    classifier = cached_classifier(settings, tuple(CLASSES))
    validation = [Example.model_validate(row) for row in read_rows(data / "validation.jsonl")]
    sample = draw(read_rows(data / "train.jsonl"), 0)
    real = [to_one_hot(Example.model_validate(row), CLASSES) for row in sample]
    classifier.fit(real, validation, 0)
    times = []
    for trial in range(5):
        epoch = type(classifier)._epoch
        started = time.perf_counter()

        def stop(*arguments: Any, started: float = started) -> float:
            times.append(time.perf_counter() - started)
            raise ArithmeticError("only the set-up is measured")

        type(classifier)._epoch = stop  # type: ignore[method-assign]
        try:
            classifier.fit(real, validation, trial)
        except ArithmeticError:
            pass
        finally:
            type(classifier)._epoch = epoch  # type: ignore[method-assign]
    return statistics.median(times)


def print_decisions(data: Path, model: str, epochs: int, seeds: Iterable[int]) -> None:
    """Print what a training decides for each data seed, a JSON line each."""
    import torch

    from gpt3mix_cli.records import Example
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import cached_classifier
    from gpt3mix_cli.train.targets import to_one_hot

    torch.set_num_threads(1)
    settings = TransformerSettings(
        kind="transformer", model=model, max_epochs=epochs, patience=epochs, lr=1e-4
    )
    classifier = cached_classifier(settings, tuple(CLASSES))
    validation, test = (
        [Example.model_validate(row) for row in read_rows(data / f"{name}.jsonl")[::3]]
        for name in ("validation", "test")
    )
    train = read_rows(data / "train.jsonl")
    for seed in seeds:
        real = [to_one_hot(Example.model_validate(row), CLASSES) for row in draw(train, seed)]
        started = time.process_time()
        result = classifier.fit(real, validation, seed)
        chosen = classifier.predict_proba([row.text for row in test]).argmax(1)
        right = sum(CLASSES[n] == row.label for n, row in zip(chosen, test, strict=True))
        line = {
            "seed": seed,
            "losses": [epoch["loss"] for epoch in result.history],
            "validation": [epoch["valid_accuracy"] for epoch in result.history],
            "best": result.best_epoch,
            "test": right / len(test),
            "cpu": time.process_time() - started,
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Run all in turn and print the table."""
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
        "--only", choices=[*CANDIDATES, "set-up"], help="run this one only, in this process"
    )
    parser.add_argument("--decisions", type=int, nargs="+", metavar="SEED", help="data seeds")
    options = parser.parse_args()
    if options.decisions:
        print_decisions(options.data, options.model, options.epochs, options.decisions)
    elif options.only == "set-up":
        print(json.dumps({"seconds": measure_setup(options.data, options.model)}))
    elif options.only:
        run = CANDIDATES[options.only]
        print(json.dumps(run(options.data, options.model, options.epochs, options.trials)))
    else:
        results = {name: run_alone(name) for name in [*CANDIDATES, "set-up"]}
        print_table(results, options)


def run_alone(name: str) -> dict[str, Any]:
    """Return the result of one candidate, run in a process of its own with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(process.stderr)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def print_table(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the results as a Markdown table."""
    print(
        f"| {options.trials} trials of {options.epochs} epochs, {options.model} "
        "| seconds per trial | speed-up over plain | over trainer | mean test accuracy |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in CANDIDATES:
        seconds = results[name]["seconds"]
        over_plain = results["plain"]["seconds"] / seconds
        over_trainer = results["trainer"]["seconds"] / seconds
        accuracy = statistics.mean(results[name]["accuracies"])
        print(
            f"| {name} | {seconds / options.trials:.1f} "
            f"| {over_plain:.2f} | {over_trainer:.2f} | {accuracy:.3f} |"
        )
    setup_ms = results["set-up"]["seconds"] * 1000
    print(f"set-up of a further trial in the same process: {setup_ms:.0f} ms (median of 5)")


CANDIDATES: dict[str, Callable[..., dict[str, Any]]] = {
    "plain": plain,
    "trainer": trainer,
    "ours": ours,
    "ours, one process": functools.partial(ours, jobs=1),
    "ours, float32": functools.partial(ours, dtype="float32"),
}

if __name__ == "__main__":
    main()
