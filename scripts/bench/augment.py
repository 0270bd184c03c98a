#!/usr/bin/env python3
"""Compare the speed of GPT3Mix's generation with straightforward implementations.

    python scripts/bench/augment.py --data FOLDER_OF_SST2

All implementations use the same LM (the packaged one unless --model names another), the same
prompts (k = 2 of 70 rows of SST-2), temperature 1 and at most 100 tokens. They run one after the
other, each in its own process. Loading and a warm-up of two prompts are not timed. A row is kept if
its text is finished, not empty, not a copy of a real row and not a repeat.

- plain: one prompt at a time through `generate`, stopped at the end of the line or the label
  prefix, then one forward pass per label.
- padded: the same with 32 left-padded prompts per call, and scoring passes over 32 padded rows.
- ours: the LM behind a journal (here in memory), as `gpt3mix augment` asks it, with `dtype: auto`.
- llama.cpp (--llama-server PATH, for `smollm2` or a GGUF file): its server with four slots, which
  keep the prompts that they have read. The label's log-probabilities come with the line; where it
  has no label, from a second request of one token.
- bound: the floating-point operations of our rows over the rate of matrix products in our dtype.
  Every prefix that prompts of a block share, and every generated token, counts once; attention does
  not.

Further measurements: how much bfloat16 changes the labels of the same texts, and the cost of 100,
1,000 and 10,000 rows (--long). gpu.py measures a GPU.
"""

import argparse
import atexit
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpt3mix_cli.cli import ENVIRONMENT

REAL_ROWS = 70
SLOTS = 4  # of llama.cpp's server
TOP_LOGPROBS = 20
LABEL_PREFIX_TOKENS = 4  # as many as ` (Sentiment:` has
PORT = 8431
MAX_TOKENS = 100
BATCH_SIZE = 32
STOP_STRINGS = ["\n", " (Sentiment:"]
TASK = {
    "name": "sst2",
    "data": {"kind": "demo"},
    "labels": {"pos": "positive", "neg": "negative"},
    "text_type": "movie review",
    "label_type": "sentiment",
}
Row = tuple[str, bool, list[float]]  # text, whether it is finished, log-probabilities of the labels
Generate = Callable[[Sequence[str]], Iterator[tuple[Row, int]]]  # prompts -> rows, tokens of each


def real_rows(data: Path) -> list[Any]:
    """Return the real rows."""
    from gpt3mix_cli.records import Example

    lines = (data / "train.jsonl").read_text("utf-8").splitlines()[:REAL_ROWS]
    return [Example.model_validate_json(line) for line in lines]


def prompts(data: Path, count: int) -> list[str]:
    """Return `count` prompts with two examples each."""
    from gpt3mix_cli.method.prompt import render_prompt
    from gpt3mix_cli.settings import Task

    rows, task, rng = real_rows(data), Task.model_validate(TASK), random.Random(0)
    return [render_prompt(task, rng.sample(rows, 2)) for _ in range(count)]


def labels() -> tuple[str, tuple[str, ...]]:
    """Return the label prefix and the choices."""
    from gpt3mix_cli.method.prompt import label_choices, label_prefix
    from gpt3mix_cli.settings import Task

    task = Task.model_validate(TASK)
    return label_prefix(task), label_choices(task)


def local_folder(model: str) -> str:
    """Return a model's folder; that of a GGUF file is its conversion in the cache."""
    from gpt3mix_cli.errors import NO_CALLBACKS
    from gpt3mix_cli.lm.local.gguf import find_gguf, open_gguf
    from gpt3mix_cli.pretrained import lm_path
    from gpt3mix_cli.settings import LocalLMSettings

    settings = LocalLMSettings(kind="local", model=model)
    file = find_gguf(settings)
    return open_gguf(file, settings, NO_CALLBACKS)[0] if file else lm_path(model)


def open_plain(model: str) -> tuple[Any, Any]:
    """Return model and tokenizer, loaded as the library's documentation shows."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = local_folder(model)
    lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return lm, AutoTokenizer.from_pretrained(path, padding_side="left")


def cut(text: str) -> tuple[str, bool]:
    """Return a text up to the first stop string, and whether it has one."""
    ends = [text.find(stop) for stop in STOP_STRINGS if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)


def plain(model: str, batch: int = 1) -> Generate:
    """Return a function that generates with the library, `batch` prompts at a time."""
    lm, tokenizer = open_plain(model)
    return lambda texts: generate_plain(lm, tokenizer, texts, batch)


def generate_plain(
    lm: Any, tokenizer: Any, texts: Sequence[str], batch: int
) -> Iterator[tuple[Row, int]]:
    """Yield rows and their numbers of tokens, generated with `generate`."""
    import torch

    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    label_prefix, choices = labels()
    torch.manual_seed(0)
    options = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_new_tokens": MAX_TOKENS,
        "stop_strings": STOP_STRINGS,
        "tokenizer": tokenizer,
    }
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        encoded = tokenizer(part, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = lm.generate(**encoded, pad_token_id=tokenizer.pad_token_id, **options)
        generated = output[:, encoded["input_ids"].shape[1] :]
        texts_of_part = tokenizer.batch_decode(generated, skip_special_tokens=True)
        results = [cut(text) for text in texts_of_part]
        contexts = [
            f"{prompt}{text}{label_prefix}" for prompt, (text, _) in zip(part, results, strict=True)
        ]
        if batch == 1:
            scores = [[score_label(lm, tokenizer, contexts[0], choice) for choice in choices]]
        else:
            scores = score_padded(lm, tokenizer, contexts, choices)
        for (text, finished), row_scores, tokens in zip(results, scores, generated, strict=True):
            yield (text, finished, row_scores), int((tokens != tokenizer.pad_token_id).sum())


def score_label(lm: Any, tokenizer: Any, context: str, choice: str) -> float:
    """Return the log-probability of a label after a context, from its own forward pass."""
    import torch

    context_size = len(tokenizer(context)["input_ids"])
    ids = tokenizer(context + choice, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logprobs = lm(ids).logits[0].log_softmax(-1)
    positions = torch.arange(context_size, ids.shape[1])
    return float(logprobs[positions - 1, ids[0, positions]].sum())


def score_padded(
    lm: Any, tokenizer: Any, contexts: Sequence[str], choices: Sequence[str]
) -> list[list[float]]:
    """Return the log-probabilities of all labels, with one padded forward pass per label."""
    import torch

    columns = []
    for choice in choices:
        sizes = [len(tokenizer(context)["input_ids"]) for context in contexts]
        encoded = tokenizer(
            [context + choice for context in contexts], return_tensors="pt", padding=True
        )
        ids = encoded["input_ids"]
        with torch.inference_mode():
            logprobs = lm(**encoded).logits.log_softmax(-1)
        width = ids.shape[1]
        column = []
        for row, size in enumerate(sizes):
            length = int(encoded["attention_mask"][row].sum())
            positions = torch.arange(width - length + size, width)
            column.append(float(logprobs[row, positions - 1, ids[row, positions]].sum()))
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def ours(model: str, dtype: str = "auto") -> Generate:
    """Return a function that generates with the package's engine."""
    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    lm = open_lm(LocalLMSettings(kind="local", model=model, dtype=dtype, device="cpu"))
    return lambda texts: generate_with_engine(lm, texts)


def generate_with_engine(lm: Any, texts: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Yield rows and their numbers of tokens, generated by an LM behind a journal."""
    from gpt3mix_cli.lm import IN_MEMORY, JournaledLM, Request

    label_prefix, choices = labels()
    requests = [
        Request(n, prompt, n, MAX_TOKENS, label_prefix=label_prefix, choices=choices)
        for n, prompt in enumerate(texts)
    ]
    for completion in JournaledLM(lm, IN_MEMORY).complete(requests):
        finished = completion.finish in ("label_prefix", "line")
        scores = list(completion.scores.logprobs) if completion.scores else []
        yield (completion.text, finished, scores), completion.completion_tokens


def llama_cpp(model: str) -> Generate:
    """Return a function that generates with llama.cpp's server, which is started here."""
    from gpt3mix_cli.pretrained import lm_path

    command = [os.environ["LLAMA_SERVER"], "-m", lm_path(model), "-np", str(SLOTS)]
    command += ["-c", str(SLOTS * 1024), "--port", str(PORT), "-t", str(os.cpu_count())]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(server.kill)
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health"):
                break
        except OSError:
            time.sleep(0.1)
    return generate_with_server


def generate_with_server(texts: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Yield rows and their numbers of tokens, as many at a time as there are slots."""
    with ThreadPoolExecutor(SLOTS) as threads:
        yield from threads.map(generate_one, texts, range(len(texts)))


def ask_server(prompt: str, num_tokens: int, seed: int) -> Any:
    """Return the answer of llama.cpp's server."""
    body = {
        "prompt": prompt,
        "n_predict": num_tokens,
        "seed": seed,
        "n_probs": TOP_LOGPROBS,
        "stop": ["\n"],
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def generate_one(prompt: str, seed: int) -> tuple[Row, int]:
    """Return a row and its number of tokens."""
    label_prefix, choices = labels()
    answer = ask_server(prompt, MAX_TOKENS, seed)
    text, tokens = answer["content"], answer["completion_probabilities"]
    written = itertools.accumulate(token["token"] for token in tokens)
    before = {prefix: i for i, prefix in enumerate(written, 1)}
    row_text, _, _ = text.partition(label_prefix)
    position = before.get(row_text + label_prefix)
    finished = label_prefix in text or answer["stop_type"] != "limit"
    if finished and (position is None or position == len(tokens)):
        tokens = ask_server(prompt + row_text + label_prefix, 1, 0)["completion_probabilities"]
        position = 0
    top = tokens[position]["top_logprobs"] if finished and tokens else []
    known = {token["token"]: token["logprob"] for token in top}
    scores = [known.get(choice, float("-inf")) for choice in choices]
    return (row_text, finished, scores), answer["tokens_predicted"]


def bound(model: str, texts: Sequence[str], tokens: int) -> tuple[float, float]:
    """Return the seconds that a block's floating-point operations take, and their rate.

    Args:
        model: the LM.
        texts: the prompts.
        tokens: that are generated.
    """
    import torch

    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.lm.local.prompt_reader import common_prefix_length
    from gpt3mix_cli.settings import LocalLMSettings

    lm, tokenizer = open_plain(model)
    ordered = sorted(tokenizer(text)["input_ids"] for text in texts)
    pairs = zip([[], *ordered], ordered, strict=False)
    prompt_tokens = sum(len(new) - common_prefix_length(old, new) for old, new in pairs)
    head = lm.get_output_embeddings().weight.numel()
    layers = lm.num_parameters() - lm.get_input_embeddings().weight.numel()
    written = tokens + LABEL_PREFIX_TOKENS * len(texts)
    operations = 2 * (layers * (prompt_tokens + written) + head * written)
    config = lm.config
    chosen = open_lm(LocalLMSettings(kind="local", model=model, device="cpu")).info.details.split()
    dtype = getattr(torch, chosen[0])
    left = torch.ones(64, config.hidden_size, dtype=dtype)
    right = torch.ones(config.intermediate_size, config.hidden_size, dtype=dtype)
    products, seconds = 0, 0.0
    torch.nn.functional.linear(left, right)
    started = time.perf_counter()
    while seconds < 2:
        torch.nn.functional.linear(left, right)
        products += 1
        seconds = time.perf_counter() - started
    rate = 2 * left.numel() * config.intermediate_size * products / seconds
    return operations / rate, rate


IMPLEMENTATIONS: dict[str, tuple[Callable[..., Generate], dict[str, Any]]] = {
    "plain": (plain, {}),
    "padded": (plain, {"batch": BATCH_SIZE}),
    "ours": (ours, {}),
    "ours, bfloat16": (ours, {"dtype": "bfloat16"}),
    "llama.cpp": (llama_cpp, {}),
}


def measure(name: str, data: Path, model: str, count: int) -> dict[str, float]:
    """Time an implementation, and count the rows that a filter would keep."""
    from gpt3mix_cli.augment.filter import normalize_text

    create, options = IMPLEMENTATIONS[name]
    loading = time.perf_counter()
    generate = create(model, **options)
    texts = prompts(data, count)
    for _ in generate(texts[:2]):  # warm-up
        pass
    loading = time.perf_counter() - loading
    seen = {normalize_text(row.text) for row in real_rows(data)}
    kept = tokens = 0
    started = time.perf_counter()
    for (text, finished, _), text_tokens in generate(texts):
        key = normalize_text(text)
        kept += bool(key) and finished and key not in seen
        seen.add(key)
        tokens += text_tokens
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "rows": count,
        "kept": kept,
        "tokens": tokens,
        "loading": loading,
        "megabytes": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """Return the largest memory of this process or of one that it started, in MiB."""
    own, child = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(own, child) / 1024


def bfloat16_error(data: Path, model: str) -> dict[str, float]:
    """Return how much bfloat16 changes the probability of a label, over the same texts."""
    import math

    from gpt3mix_cli.lm import open_lm
    from gpt3mix_cli.settings import LocalLMSettings

    label_prefix, choices = labels()
    texts = [
        f"{prompt} {row.text}{label_prefix}"
        for prompt, row in zip(prompts(data, 64), real_rows(data), strict=False)
    ]
    exact, rounded = (
        open_lm(LocalLMSettings(kind="local", model=model, dtype=dtype, device="cpu")).score(
            texts, choices
        )
        for dtype in ("float32", "bfloat16")
    )

    def first_probability(logprobs: Sequence[float]) -> float:
        weights = [math.exp(value) for value in logprobs]
        return weights[0] / sum(weights)

    errors = sorted(
        abs(first_probability(a.logprobs) - first_probability(b.logprobs))
        for a, b in zip(exact, rounded, strict=True)
    )
    return {
        "largest": errors[-1],
        "median": errors[len(errors) // 2],
        "within": sum(error <= 2e-3 for error in errors) / len(errors),
    }


def augment_cost(data: Path, model: str, count: int) -> dict[str, float]:
    """Return the cost of `augment` for `count` rows, with journal, filter and files."""
    from gpt3mix_cli.augment import AugmentOptions, augment, open_augmenter
    from gpt3mix_cli.layout import journal_path
    from gpt3mix_cli.lm import JournaledLM, open_lm
    from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings, Task

    lm = open_lm(LocalLMSettings(kind="local", model=model))
    lm.score(["a"], [" b"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "gpt3mix.jsonl"
        journal = JournaledLM(lm, journal_path(output))
        augmenter = open_augmenter(AugmentSettings(), Task.model_validate(TASK), journal)
        quota = AugmentOptions(ratio=count / REAL_ROWS, attempts=4, seed=0, limit=count)
        result = augment(augmenter, real_rows(data), output, quota)
        journal.close()
    return {
        "seconds": time.perf_counter() - started,
        "kept": result.manifest.counts["kept"],
        "asked": result.manifest.counts["asked"],
        "megabytes": peak_megabytes(),
    }


def run_in_process(arguments: Sequence[str], *options: str) -> dict[str, Any]:
    """Return a measurement of this script, run in a new process."""
    process = subprocess.run(
        [sys.executable, __file__, *options, "--only", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(process.stderr)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def print_row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_implementations(
    options: Sequence[str], counts: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """Print and return the measurements; `counts` has the number of prompts of each."""
    results = {
        name: run_in_process([name, str(count)], *options)
        for name, count in counts.items()
        if count
    }
    rates = {name: result["kept"] / result["seconds"] for name, result in results.items()}
    columns = ("implementation", "requests", "kept", "seconds", "kept rows per second")
    print_row(*columns, "tokens per second", "start, s", "peak, MiB", "vs. plain", "vs. padded")
    print_row(*["---"] * 10)
    for name, result in results.items():
        print_row(
            name,
            result["rows"],
            result["kept"],
            f"{result['seconds']:.1f}",
            f"{rates[name]:.3g}",
            f"{result['tokens'] / result['seconds']:.0f}",
            f"{result['loading']:.1f}",
            f"{result['megabytes']:.0f}",
            f"{rates[name] / rates['plain']:.1f}" if "plain" in rates else "",
            f"{rates[name] / rates['padded']:.1f}" if "padded" in rates else "",
        )
    return results


def print_sizes(options: Sequence[str], counts: Sequence[int]) -> None:
    """Print the cost of `augment` by the number of rows."""
    columns = ("rows wanted", "requests", "kept", "seconds", "kept rows per second")
    print_row(*columns, "peak memory, MiB")
    print_row(*["---"] * 6)
    for count in counts:
        result = run_in_process(["augment", str(count)], *options)
        print_row(
            count,
            result["asked"],
            result["kept"],
            f"{result['seconds']:.1f}",
            f"{result['kept'] / result['seconds']:.1f}",
            f"{result['megabytes']:.0f}",
        )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl of SST-2")
    parser.add_argument("--model", default="bundled", help="bundled, smollm2, a folder")
    parser.add_argument(
        "--rows",
        type=int,
        default=1024,
        help="prompts for our engine; padded gets an eighth, plain a sixteenth",
    )
    parser.add_argument(
        "--long",
        type=int,
        nargs="*",
        default=[100, 1000, 10_000],
        help="numbers of rows for the cost of augment; without values: skip",
    )
    parser.add_argument("--real-rows", type=int, default=REAL_ROWS, help="in the prompts")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's program")
    parser.add_argument(
        "--only", nargs=2, metavar=("NAME", "ROWS"), help="internal: one measurement"
    )
    arguments = parser.parse_args()
    globals()["REAL_ROWS"] = arguments.real_rows
    if arguments.only:
        if arguments.only[0].startswith(("ours", "augment")):
            os.environ.update(ENVIRONMENT)  # as the console script does
        print(json.dumps(measure_one(arguments)))
        return
    options = ["--data", str(arguments.data), "--model", arguments.model]
    options += ["--rows", str(arguments.rows), "--real-rows", str(arguments.real_rows)]
    counts = {
        "plain": arguments.rows // 16,
        "padded": arguments.rows // 8 // BATCH_SIZE * BATCH_SIZE,
        "ours": arguments.rows,
        # Without instructions for it bfloat16 takes a small CPU many minutes with a larger LM.
        "ours, bfloat16": arguments.rows if arguments.model == "bundled" else 0,
    }
    if arguments.llama_server:
        os.environ["LLAMA_SERVER"] = str(arguments.llama_server.resolve())
        counts["llama.cpp"] = arguments.rows // 4
    results = print_implementations(options, counts)
    limit = run_in_process(["bound", str(int(results["ours"]["tokens"]))], *options)
    rate = results["ours"]["kept"] / limit["seconds"]
    print(
        f"\nBound: {limit['seconds']:.1f} seconds, {rate:.1f} kept rows per second, at "
        f"{limit['rate'] / 1e9:.0f} GFLOP/s in matrix products."
    )
    error = run_in_process(["bfloat16", "0"], *options)
    print(
        f"\nLabels in bfloat16: the probability changes by {error['median']:.4f} (median) and "
        f"{error['largest']:.4f} (largest), "
        f"by at most 0.002 for {error['within']:.0%} of 64 texts.\n"
    )
    if arguments.long:
        print_sizes(options, arguments.long)


def measure_one(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the measurement that --only names."""
    name, count = arguments.only[0], int(arguments.only[1])
    match name:
        case "bfloat16":
            return bfloat16_error(arguments.data, arguments.model)
        case "augment":
            return augment_cost(arguments.data, arguments.model, count)
        case "bound":
            seconds, rate = bound(arguments.model, prompts(arguments.data, arguments.rows), count)
            return {"seconds": seconds, "rate": rate}
        case _:
            return measure(name, arguments.data, arguments.model, count)


if __name__ == "__main__":
    main()
