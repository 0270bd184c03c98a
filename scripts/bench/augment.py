#!/usr/bin/env python3
"""Kept rows and tokens a second of GPT3Mix's generation, beside the ways that one writes first.

    python scripts/bench/augment.py --data ../shared/data/sst2

All ways use the same LM (the packaged one unless --model names another), the same prompts (k = 2 of 70 rows of SST-2),
temperature 1 and at most 100 tokens, and run in turn in one call, each in a process of its own; loading is not counted,
one text is written before the clock starts. A row is kept if its text is finished, not empty, copies no real row and
repeats none. Plain: one prompt at a time through `generate`, stopped at the line's end or the label prefix, then one forward pass
for each label. Padded: the same with 32 prompts a call, left-padded, and a scoring pass over 32 padded rows at a time.
Ours: `lm.complete`, as `gpt3mix augment` calls it. Then: how far bfloat16 moves the labels of the same texts; what 100,
1,000 and 10,000 rows cost (--long); and on a GPU (--gpu, or by itself where there is one) the tokens a second and the share of the
memory bandwidth of a model of 0.5 B parameters with random weights, in bfloat16.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REAL = 70
LIMIT = 100
BATCH = 32
ENDS = ["\n", " (Sentiment:"]
TASK = {
    "name": "sst2",
    "data": {"kind": "demo"},
    "labels": {"pos": "positive", "neg": "negative"},
    "text_type": "movie review",
    "label_type": "sentiment",
}
Row = tuple[str, bool, list[float]]  # text, whether it is finished, log-probabilities of labels
Way = Callable[[Sequence[str]], Iterator[tuple[Row, int]]]


def real_rows(data: Path) -> list[Any]:
    """Return the real rows."""
    from gpt3mix_cli.records import Example

    lines = (data / "train.jsonl").read_text("utf-8").splitlines()[:REAL]
    return [Example.model_validate_json(line) for line in lines]


def prompts(data: Path, count: int) -> list[str]:
    """Return the prompts, two examples each."""
    from gpt3mix_cli.method.prompt import prompt
    from gpt3mix_cli.settings import Task

    rows, task, rng = real_rows(data), Task.model_validate(TASK), random.Random(0)
    return [prompt(task, rng.sample(rows, 2)) for _ in range(count)]


def labels() -> tuple[str, tuple[str, ...]]:
    """Return the label prefix and the choices."""
    from gpt3mix_cli.method.prompt import choices, label_prefix
    from gpt3mix_cli.settings import Task

    task = Task.model_validate(TASK)
    return label_prefix(task), choices(task)


def open_plain(model: str) -> tuple[Any, Any]:
    """Return model and tokenizer as the library's documentation opens them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gpt3mix_cli.pretrained import lm_path

    place = lm_path(model)
    return AutoModelForCausalLM.from_pretrained(
        place, dtype=torch.float32
    ).eval(), AutoTokenizer.from_pretrained(place, padding_side="left")


def cut(text: str) -> tuple[str, bool]:
    """Return a text up to where it ends, and whether it does."""
    places = [text.find(end) for end in ENDS if end in text]
    return (text[: min(places)], True) if places else (text, False)


def plain(model: str, batch: int = 1) -> Way:
    """Return what yields rows and tokens written, `batch` prompts at a time."""
    lm, tokenizer = open_plain(model)
    return lambda texts: plainly(lm, tokenizer, texts, batch)


def plainly(lm: Any, tokenizer: Any, texts: Sequence[str], batch: int) -> Iterator[tuple[Row, int]]:
    """Yield rows and tokens written through `generate`."""
    import torch

    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    label_prefix, choices = labels()
    torch.manual_seed(0)
    options = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_new_tokens": LIMIT,
        "stop_strings": ENDS,
        "tokenizer": tokenizer,
    }
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        read = tokenizer(part, return_tensors="pt", padding=True)
        with torch.inference_mode():
            written = lm.generate(**read, pad_token_id=tokenizer.pad_token_id, **options)[
                :, read["input_ids"].shape[1] :
            ]
        spelled = [cut(text) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
        if batch == 1:
            scores = [
                [
                    one_label(lm, tokenizer, f"{part[0]}{spelled[0][0]}{label_prefix}", choice)
                    for choice in choices
                ]
            ]
        else:
            scores = padded_labels(
                lm,
                tokenizer,
                [
                    f"{prompt}{text}{label_prefix}"
                    for prompt, (text, _) in zip(part, spelled, strict=True)
                ],
                choices,
            )
        for (text, finished), found, tokens in zip(spelled, scores, written, strict=True):
            yield (text, finished, found), int((tokens != tokenizer.pad_token_id).sum())


def one_label(lm: Any, tokenizer: Any, context: str, choice: str) -> float:
    """Return the log-probability of a label after a context, from a forward pass of its own."""
    import torch

    before, both = (
        tokenizer(context)["input_ids"],
        tokenizer(context + choice, return_tensors="pt")["input_ids"],
    )
    with torch.inference_mode():
        logprobs = lm(both).logits[0].log_softmax(-1)
    places = torch.arange(len(before), both.shape[1])
    return float(logprobs[places - 1, both[0, places]].sum())


def padded_labels(
    lm: Any, tokenizer: Any, contexts: Sequence[str], choices: Sequence[str]
) -> list[list[float]]:
    """Return the log-probabilities of all labels, a padded forward pass a choice."""
    import torch

    found = []
    for choice in choices:
        sizes = [len(tokenizer(context)["input_ids"]) for context in contexts]
        both = tokenizer(
            [context + choice for context in contexts], return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            logprobs = lm(**both).logits.log_softmax(-1)
        width = both["input_ids"].shape[1]
        column = []
        for row, size in enumerate(sizes):
            length = int(both["attention_mask"][row].sum())
            places = torch.arange(width - length + size, width)
            column.append(float(logprobs[row, places - 1, both["input_ids"][row, places]].sum()))
        found.append(column)
    return [list(row) for row in zip(*found, strict=True)]


def ours(model: str, dtype: str = "float32") -> Way:
    """Return what yields rows and tokens written by the package's engine."""
    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    lm = open_lm(LocalLMSettings(kind="local", model=model, dtype=dtype, device="cpu"))
    return lambda texts: by_the_engine(lm, texts)


def by_the_engine(lm: Any, texts: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Yield rows and tokens written through `lm.complete`."""
    from gpt3mix_cli.lm import Request

    label_prefix, choices = labels()
    requests = [
        Request(n, prompt, n, LIMIT, label_prefix=label_prefix, choices=choices)
        for n, prompt in enumerate(texts)
    ]
    for one in lm.complete(requests):
        yield (
            (
                one.text,
                one.finish in ("label_prefix", "line"),
                list(one.scores.logprobs) if one.scores else [],
            ),
            one.completion_tokens,
        )


WAYS: dict[str, tuple[Callable[..., Way], dict[str, Any]]] = {
    "plain": (plain, {}),
    "padded": (plain, {"batch": BATCH}),
    "ours": (ours, {}),
    "ours, bfloat16": (ours, {"dtype": "bfloat16"}),
}


def measure(way: str, data: Path, model: str, count: int) -> dict[str, float]:
    """Time a way, and count what a gate would keep."""
    from gpt3mix_cli.augment.filter import normalize_text

    resources, options = WAYS[way]
    write = resources(model, **options)
    asked = prompts(data, count)
    for _ in write(asked[:2]):  # weights and the libraries' caches
        pass
    seen = {normalize_text(row.text) for row in real_rows(data)}
    kept = tokens = 0
    started = time.perf_counter()
    for (text, finished, _), written in write(asked):
        key = normalize_text(text)
        kept += bool(key) and finished and key not in seen
        seen.add(key)
        tokens += written
    return {"seconds": time.perf_counter() - started, "rows": count, "kept": kept, "tokens": tokens}


def labels_in_bfloat16(data: Path, model: str) -> dict[str, float]:
    """Return how far the probability of a label moves in bfloat16, over the same texts."""
    import math

    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    label_prefix, choices = labels()
    texts = [
        f"{prompt} {row.text}{label_prefix}"
        for prompt, row in zip(prompts(data, 64), real_rows(data), strict=False)
    ]
    exact, rough = (
        open_lm(LocalLMSettings(kind="local", model=model, dtype=dtype, device="cpu")).score(
            texts, choices
        )
        for dtype in ("float32", "bfloat16")
    )

    def first(logprobs: Sequence[float]) -> float:
        weights = [math.exp(value) for value in logprobs]
        return weights[0] / sum(weights)

    moved = sorted(
        abs(first(a.logprobs) - first(b.logprobs)) for a, b in zip(exact, rough, strict=True)
    )
    return {
        "largest": moved[-1],
        "median": moved[len(moved) // 2],
        "within": sum(value <= 2e-3 for value in moved) / len(moved),
    }


def whole(data: Path, model: str, count: int) -> dict[str, float]:
    """Return what `augment` costs for so many rows, journal, gate and files included."""
    from gpt3mix_cli.augment import augment, journal_path, open_augmenter
    from gpt3mix_cli.lm import JournaledLM, open_lm
    from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings, Task

    lm = open_lm(LocalLMSettings(kind="local", model=model))
    lm.score(["a"], [" b"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "gpt3mix.jsonl"
        journal = JournaledLM(lm, journal_path(output))
        augmenter = open_augmenter(AugmentSettings(), Task.model_validate(TASK), journal)
        done = augment(
            augmenter, real_rows(data), output, ratio=count / REAL, attempts=4, seed=0, limit=count
        )
        journal.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": time.perf_counter() - started,
        "kept": done.manifest.counts["kept"],
        "asked": done.manifest.counts["asked"],
        "megabytes": peak,
    }


def on_gpu(data: Path) -> dict[str, float]:
    """Return tokens a second and the share of the memory bandwidth that decoding reaches; random weights end no text."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from gpt3mix_cli.lm import Request, open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    _, tokenizer = open_plain("bundled")
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1280, intermediate_size=3456, num_hidden_layers=24, num_attention_heads=20, num_key_value_heads=4,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape).to(torch.bfloat16)
        weights = sum(weight.numel() for weight in model.parameters())
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer.name_or_path).save_pretrained(folder)
        lm = open_lm(LocalLMSettings(kind="local", model=folder, device="cuda"))
        asked = prompts(data, 512)
        requests = [Request(n, prompt, n, LIMIT) for n, prompt in enumerate(asked)]
        list(lm.complete(requests[:32]))
        torch.cuda.synchronize()
        started = time.perf_counter()
        tokens = sum(one.completion_tokens for one in lm.complete(requests[:512]))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    block.clone()
    torch.cuda.synchronize()
    copying = time.perf_counter()
    for _ in range(10):
        block.clone()
    torch.cuda.synchronize()
    bandwidth = 10 * 2 * block.numel() / (time.perf_counter() - copying)
    side = lm.info.block_size
    cache = 2 * 24 * 4 * 64 * 2 * 150  # bytes of keys and values a row, about 150 tokens long
    steps = tokens / side
    moved = steps * (2 * weights + side * cache)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "parameters": weights,
        "bandwidth": bandwidth,
        "share": moved / seconds / bandwidth,
    }


def inside(arguments: Sequence[str], *options: str) -> dict[str, Any]:
    """Return what this script measures in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *options, "--only", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(options: Sequence[str], counts: dict[str, int]) -> None:
    """Print the ways side by side."""
    found = {way: inside([way, str(count)], *options) for way, count in counts.items() if count}
    rates = {way: one["kept"] / one["seconds"] for way, one in found.items()}
    print(
        "| way | rows asked | kept | seconds | kept rows a second | tokens a second | times plain | times padded |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for way, one in found.items():
        ratios = " | ".join(
            f"{rates[way] / rates[other]:.1f}" if other in rates else ""
            for other in ("plain", "padded")
        )
        pace = one["tokens"] / one["seconds"]
        print(
            f"| {way} | {one['rows']} | {one['kept']} | {one['seconds']:.1f} | {rates[way]:.1f} | {pace:.0f} | {ratios} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl of SST-2")
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of a causal LM")
    parser.add_argument(
        "--rows",
        type=int,
        default=1024,
        help="prompts for our engine; an eighth for padded batches, a sixteenth for the plain way",
    )
    parser.add_argument(
        "--long",
        type=int,
        nargs="*",
        default=[100, 1000, 10_000],
        help="rows of the runs whose cost is compared; none: skip",
    )
    parser.add_argument("--only", nargs=2, metavar=("WAY", "ROWS"), help="for the process inside")
    given = parser.parse_args()
    if given.only:
        way, count = given.only[0], int(given.only[1])
        calls = {
            "bfloat16": lambda: labels_in_bfloat16(given.data, given.model),
            "whole": lambda: whole(given.data, given.model, count),
            "gpu": lambda: on_gpu(given.data),
        }
        print(
            json.dumps(
                calls[way]() if way in calls else measure(way, given.data, given.model, count)
            )
        )
        return
    options = ["--data", str(given.data), "--model", given.model]
    table(
        options,
        {
            "plain": given.rows // 16,
            "padded": given.rows // 8 // BATCH * BATCH,
            "ours": given.rows,
            "ours, bfloat16": given.rows,
        },
    )
    moved = inside(["bfloat16", "0"], *options)
    print(f"\nLabels in bfloat16: probability moved by {moved['median']:.4f} (median) and {moved['largest']:.4f} (largest), "
          f"by at most 0.002 in {moved['within']:.0%} of 64 texts.\n")  # fmt: skip
    for i, count in enumerate(given.long):
        if i == 0:
            print(
                "| rows wanted | asked | kept | seconds | kept rows a second | largest memory, MiB |\n| --- | --- | --- | --- | --- | --- |"
            )
        one = inside(["whole", str(count)], *options)
        pace = one["kept"] / one["seconds"]
        print(
            f"| {count} | {one['asked']} | {one['kept']} | {one['seconds']:.1f} | {pace:.1f} | {one['megabytes']:.0f} |",
            flush=True,
        )
    import torch

    if not torch.cuda.is_available():
        print("\nGPU: none at hand, not measured.")
        return
    one = inside(["gpu", "0"], *options)
    print(f"\nGPU {torch.cuda.get_device_name()}: {one['tokens'] / one['seconds']:.0f} tokens a second with {one['parameters'] / 1e6:.0f} M "
          f"parameters in bfloat16, {one['share']:.0%} of the {one['bandwidth'] / 1e9:.0f} GB/s that a copy reaches.")  # fmt: skip


if __name__ == "__main__":
    main()
