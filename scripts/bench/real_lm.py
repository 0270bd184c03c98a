#!/usr/bin/env python3
"""Measure a real LM: the precision of its labels, its prompts, its texts, and what they lack.

    python scripts/bench/real_lm.py labels --data FOLDER_OF_SST2
    python scripts/bench/real_lm.py prompts --data FOLDER_OF_SST2
    python scripts/bench/real_lm.py sampling --data FOLDER_OF_SST2 --results results/sampling-sst2
    python scripts/bench/real_lm.py labeller --data FOLDER_OF_SST2 --results results/labels-sst2

Each prints a Markdown table. The LM is `smollm2`; --model names another.

- labels: the probability of `positive` after two training rows and a validation row, against a
  float32 pass of the transformers library over the same text, one text at a time: of a bfloat16
  model as it is, of our engine in bfloat16 (output layer in float32), of our engine in float32, and
  of int8 matrix products (PyTorch's dynamic quantisation, one scale per token), which no dtype of
  ours offers. Seconds are those of the whole measurement, batches of 10 where there are batches.
- prompts: label accuracy on validation rows, of the same examples as completion and as chat.
- sampling: of each variant of an experiment that has run, the perplexity of its texts per word
  under the packaged LM (which knows film reviews only), their diversity, and the gain over no
  augmentation. The first row is that of as many real rows.
- labeller: of an experiment that has run, the test accuracy with the LM's labels and with those of
  a linear classifier of all published training rows, on the same texts. What the second lacks is
  the fault of the texts.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from augment import TASK, labels, local_folder, print_row

BATCH_SIZE = 10
Score = Callable[[Sequence[str]], list[list[float]]]  # log-probabilities of the labels


def label_prompts(data: Path, count: int) -> tuple[list[str], list[str]]:
    """Return prompts for the labels of validation rows, and the rows' classes."""
    from gpt3mix_cli.method.prompt import render_label_prompt
    from gpt3mix_cli.records import Example, read_records
    from gpt3mix_cli.settings import Task

    task, rng = Task.model_validate(TASK), random.Random(0)
    train = list(read_records(data / "train.jsonl", Example))
    rows = rng.sample(list(read_records(data / "validation.jsonl", Example)), count)
    classes = {name: [row for row in train if row.label == name] for name in task.labels}
    prompts = []
    for row in rows:
        examples = [rng.choice(group) for group in classes.values()]
        rng.shuffle(examples)
        prompts.append(render_label_prompt(task, examples, row.text))
    return prompts, [row.label for row in rows]


def engine(model: str, **options: Any) -> Score:
    """Return a function that scores labels with our engine."""
    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    lm = open_lm(LocalLMSettings(kind="local", model=model, device="cpu", **options))
    return lambda prompts: [list(scores.logprobs) for scores in lm.score(prompts, labels()[1])]


def plain(model: str, dtype: str, quantise: bool = False, batch: int = BATCH_SIZE) -> Score:
    """Return a function that scores labels of one token each with the library."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = local_folder(model)
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if quantise:
        use_int8(lm)
    choices = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in labels()[1]]
    assert all(len(choice) == 1 for choice in choices)

    def score(prompts: Sequence[str]) -> list[list[float]]:
        results = []
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(
                list(prompts[start : start + batch]), return_tensors="pt", padding=True
            )
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = lm(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
            logprobs = logits.float().log_softmax(-1)
            results += logprobs[:, [choice[0] for choice in choices]].tolist()
        return results

    return score


def use_int8(model: Any) -> None:
    """Replace every linear layer but the last by one with int8 weights and inputs."""
    import torch

    class Int8Linear(torch.nn.Module):
        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            scales = layer.weight.abs().amax(1).clamp(min=1e-8) / 127
            weights = torch.quantize_per_channel(
                layer.weight.detach(),
                scales.double(),
                torch.zeros(len(scales), dtype=torch.long),
                0,
                torch.qint8,
            )
            self.packed = torch.ops.quantized.linear_prepack(weights, layer.bias)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            scale = inputs.abs().amax(-1, keepdim=True).clamp(min=1e-8)
            return torch.ops.quantized.linear_dynamic(inputs / scale, self.packed) * scale

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Int8Linear(module))


def measure_labels(data: Path, model: str, count: int) -> None:
    """Print the table of precisions."""
    import torch

    prompts, _ = label_prompts(data, count)

    def probabilities(score: Score) -> torch.Tensor:
        return torch.tensor(score(prompts), dtype=torch.float64).softmax(-1)[:, 0]

    expected = probabilities(plain(model, "float32", batch=1))
    implementations: dict[str, Callable[[], Score]] = {
        "library, bfloat16": lambda: plain(model, "bfloat16"),
        "library, int8": lambda: plain(model, "float32", quantise=True),
        "ours, bfloat16": lambda: engine(model, dtype="bfloat16"),
        "ours, bfloat16, label_dtype float32": lambda: engine(
            model, dtype="bfloat16", label_dtype="float32"
        ),
        "ours, float32": lambda: engine(model, dtype="float32"),
    }
    print_row("labels", "median error", "largest", "within 0.02", "distinct values", "seconds")
    print_row(*["---"] * 6)
    for name, create in implementations.items():
        score = create()
        score(prompts[:2])
        started = time.perf_counter()
        actual = probabilities(score)
        errors = (actual - expected).abs()
        print_row(
            name,
            f"{errors.median():.4f}",
            f"{errors.max():.4f}",
            f"{(errors <= 0.02).double().mean():.0%}",
            f"{len({round(float(value), 6) for value in actual})} of {count}",
            f"{time.perf_counter() - started:.0f}",
        )


def measure_prompts(data: Path, model: str, count: int) -> None:
    """Print the table of completion and chat prompts."""
    prompts, classes = label_prompts(data, count)
    names = list(TASK["labels"])
    print_row("lm.prompt", "accuracy", "fraction called pos", "label mass")
    print_row(*["---"] * 4)
    for prompt in ("completion", "chat"):
        import torch

        logprobs = torch.tensor(engine(model, prompt=prompt)(prompts)).double()
        predicted = [names[index] for index in logprobs.argmax(-1).tolist()]
        correct = sum(a == b for a, b in zip(predicted, classes, strict=True))
        print_row(
            prompt,
            f"{correct / count:.1%} of {count}",
            f"{predicted.count('pos') / count:.1%}",
            f"{logprobs.exp().sum(-1).mean():.2f}",
        )


def perplexity_per_word(texts: Sequence[str]) -> float:
    """Return the perplexity of texts under the packaged LM, for each word."""
    import math

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = local_folder("bundled")
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logprob, words = 0.0, 0
    for text in texts:
        ids = tokenizer(f"Movie review: {text}", return_tensors="pt")["input_ids"]
        start = len(tokenizer("Movie review:")["input_ids"])
        with torch.inference_mode():
            scores = lm(ids).logits[0, :-1].log_softmax(-1)
        own = scores.gather(1, ids[0, 1:, None])[start - 1 :]
        logprob, words = logprob + float(own.sum()), words + len(text.split())
    return math.exp(-logprob / words)


def measure_sampling(data: Path, results: Path) -> None:
    """Print the table of an experiment's variants."""
    import json
    from statistics import fmean

    from gpt3mix_cli.augment.statistics import distinct, self_bleu
    from gpt3mix_cli.records import Augmented, Example, read_records

    cells = json.loads((results / "report" / "report.json").read_text())["cells"]
    of_variant = {
        ",".join(f"{key}={value}" for key, value in cell["variant"].items()): cell
        for cell in cells
        if cell["method"] == "gpt3mix"
    }
    sets = {
        folder.name: [
            row.text
            for path in sorted(folder.glob("*/seed-*/gpt3mix.jsonl"))
            for row in read_records(path, Augmented)
        ]
        for folder in sorted(results.iterdir())
        if "=" in folder.name
    }
    size = min(map(len, sets.values()))
    real = [row.text for row in read_records(data / "train.jsonl", Example)]
    sets = {"real rows": random.Random(0).sample(real, size), **sets}
    print_row("texts", "perplexity", "distinct-2", "self-BLEU", "words", "accuracy", "gain")
    print_row(*["---"] * 7)
    for name, texts in sets.items():
        sample = [text.split() for text in random.Random(0).sample(texts, size)]
        cell = of_variant.get(name)
        print_row(
            name,
            f"{perplexity_per_word(texts):.0f}",
            distinct(sample, 2),
            self_bleu(sample[:200]),
            f"{fmean(map(len, sample)):.1f}",
            f"{100 * cell['mean']:.1f}" if cell else "",
            f"{100 * cell['gain']:+.1f}" if cell else "",
        )


def measure_labeller(data: Path, results: Path) -> None:
    """Print the table of labellers: a row for each level, the mean over its data seeds."""
    import numpy as np

    from gpt3mix_cli.records import Augmented, Example, read_records
    from gpt3mix_cli.settings import LinearSettings
    from gpt3mix_cli.train import open_classifier
    from gpt3mix_cli.train.metrics import accuracy
    from gpt3mix_cli.train.targets import to_one_hot

    train = list(read_records(data / "train.jsonl", Example))
    test = list(read_records(data / "test.jsonl", Example))
    classes = sorted({row.label for row in train})

    def fitted(rows: Sequence[Augmented]) -> Any:
        classifier = open_classifier(LinearSettings(kind="linear"), classes)
        classifier.fit(rows, test[:1], seed=0)  # validation rows change nothing here
        return classifier

    def test_accuracy(classifier: Any) -> float:
        probabilities = classifier.predict_proba([row.text for row in test])
        return 100 * accuracy(probabilities, test, classes)

    def one_hot(rows: Sequence[Example]) -> list[Augmented]:
        return [to_one_hot(row, classes) for row in rows]

    labeller = fitted(one_hot(train))
    print(f"the labeller's own accuracy: {test_accuracy(labeller):.1f}\n")
    print_row("level", "data seeds", "none", "the LM's labels", "labeller's", "agree")
    print_row(*["---"] * 6)
    folders = {path.parent for path in results.glob("*labels=soft*=match/*/seed-*/gpt3mix.jsonl")}
    for level in sorted({folder.parent.name for folder in folders}):
        rows = []
        for folder in sorted(path for path in folders if path.parent.name == level):
            real = one_hot(list(read_records(folder / "train.jsonl", Example)))
            generated = list(read_records(folder / "gpt3mix.jsonl", Augmented))
            probabilities = labeller.predict_proba([row.text for row in generated])
            relabelled = [
                row.model_copy(update={"probs": dict(zip(classes, probs, strict=True))})
                for row, probs in zip(generated, probabilities.tolist(), strict=True)
            ]
            agree = np.mean(
                [
                    classes[index] == row.label
                    for index, row in zip(probabilities.argmax(1), generated, strict=True)
                ]
            )
            sets = (real, real + generated, real + relabelled)
            rows.append([*(test_accuracy(fitted(rows)) for rows in sets), 100 * agree])
        print_row(level, len(rows), *(f"{value:.1f}" for value in np.mean(rows, axis=0)))


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["labels", "prompts", "sampling", "labeller"])
    parser.add_argument("--data", type=Path, required=True, help="train and validation of SST-2")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--results", type=Path, help="folder of an experiment that has run")
    arguments = parser.parse_args()
    if arguments.what in ("sampling", "labeller"):
        measure_run = measure_sampling if arguments.what == "sampling" else measure_labeller
        measure_run(arguments.data, arguments.results)
        return
    measure = measure_labels if arguments.what == "labels" else measure_prompts
    measure(arguments.data, arguments.model, arguments.rows)


if __name__ == "__main__":
    main()
