#!/usr/bin/env python3
"""Compare the cost of 20,000 EDA rows with other libraries and a direct implementation.

    python scripts/bench/eda.py --data FOLDER_OF_SST2 --others VENV/bin/python

Whole processes, file to file: each reads SST-2's train.jsonl, edits the rows in order with alpha
0.1, a quarter of them with each operation, and writes text and label as JSON lines. `--others` is a
Python with nltk and, if they can be installed, textaugment and nlpaug (`pip install nltk
textaugment nlpaug`). All three read WordNet from --wordnet (Debian's wordnet-base), copied to where
nltk expects it. The implementations run interleaved, --rounds times. The ratio uses CPU seconds on
one core, the lowest of all rounds: a busy machine affects these less than wall-clock time.

- `plain`: SR, RI, RS and RD as in section 2 of Wei and Zou (2019), with nltk.
- `nlpaug` has no insertion of synonyms, so it replaces instead. Without nltk's tagger (not on PyPI)
  every part of speech is unknown, which saves it time.

`--long` also measures our implementation at 1,000 to 1,000,000 rows.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ALPHA = 0.1
ROWS = 20_000
SIZES = (1_000, 10_000, 100_000, 1_000_000)
WORDNET_FILES = [
    f"{kind}.{part}" for kind in ("index", "data") for part in ("noun", "verb", "adj", "adv")
]
WORDNET_FILES += [f"{part}.exc" for part in ("noun", "verb", "adj", "adv")]
CONFIG = """\
task: {name: sst2, data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [full], seeds: 1}
baselines: [{kind: eda, alpha: 0.1}]
"""
Edit = Callable[[str, int], str]  # text, operation 0 to 3 -> text


# Other implementations: they run with --others, where only nltk and the libraries are installed ---


def stop_words() -> set[str]:
    """Return our stop words, read from the source: the package is not installed there."""
    source = (Path(__file__).parents[2] / "gpt3mix_cli" / "augment" / "eda.py").read_text("utf-8")
    match = re.search(r'_STOP_WORDS = """(.*?)"""', source, re.DOTALL)
    assert match
    return set(match[1].split())


def plain() -> Edit:
    """Return the four operations of the paper with nltk's WordNet."""
    from nltk.corpus import wordnet

    stops = stop_words()

    def synonyms(word: str) -> list[str]:
        lemmas = {
            name.replace("_", " ")
            for synset in wordnet.synsets(word)
            for name in synset.lemma_names()
        }
        return sorted(lemmas - {word})

    def edit(text: str, operation: int) -> str:
        words = text.split()
        n = max(1, int(ALPHA * len(words)))
        if operation == 0:
            remaining = n
            sources = sorted({word for word in words if word not in stops})
            for source in random.sample(sources, len(sources)):
                if remaining and (candidates := synonyms(source)):
                    chosen = random.choice(candidates)
                    words = [chosen if word == source else word for word in words]
                    remaining -= 1
        elif operation == 1:
            for _ in range(n):
                sources = [word for word in words if word not in stops]
                for _ in range(10):
                    if sources and (candidates := synonyms(random.choice(sources))):
                        words.insert(random.randrange(len(words)), random.choice(candidates))
                        break
        elif operation == 2 and len(words) > 1:
            for _ in range(n):
                i, j = random.sample(range(len(words)), 2)
                words[i], words[j] = words[j], words[i]
        elif operation == 3:
            words = [word for word in words if random.random() > ALPHA] or [random.choice(words)]
        return " ".join(words)

    return edit


def textaugment() -> Edit:
    """Return textaugment's four operations."""
    import nltk
    from textaugment import EDA

    nltk.download = lambda *_: True  # otherwise it downloads files at each start
    eda = EDA(stop_words=stop_words())

    def edit(text: str, operation: int) -> str:
        n = max(1, int(ALPHA * len(text.split())))
        try:
            if operation == 0:
                return str(eda.synonym_replacement(text, n))
            if operation == 1:
                return str(eda.random_insertion(text, n))
            return str(
                eda.random_swap(text, n) if operation == 2 else eda.random_deletion(text, ALPHA)
            )
        except ValueError:
            return text  # its insertion fails for a text of stop words only

    return edit


def nlpaug() -> Edit:
    """Return nlpaug's replacement, swap and deletion."""
    import nltk
    from nlpaug.augmenter.word import RandomWordAug, SynonymAug
    from nlpaug.model.word_dict.wordnet import WordNet

    try:
        nltk.pos_tag(["film"])
    except LookupError:
        WordNet.pos_tag = classmethod(lambda _, tokens: [(token, "") for token in tokens])
    options: dict[str, Any] = {"aug_p": ALPHA, "aug_min": 1, "aug_max": None}
    replace = SynonymAug(aug_src="wordnet", stopwords=list(stop_words()), **options)
    operations = [
        replace,
        replace,
        RandomWordAug(action="swap", **options),
        RandomWordAug(action="delete", **options),
    ]

    def edit(text: str, operation: int) -> str:
        texts = operations[operation].augment(text)
        return texts[0] if texts else text

    return edit


OTHERS: dict[str, Callable[[], Edit]] = {
    "plain": plain,
    "textaugment": textaugment,
    "nlpaug": nlpaug,
}


def run_other(name: str, source: Path, output: Path, count: int) -> None:
    """Write `count` rows with another implementation."""
    random.seed(0)
    edit = OTHERS[name]()
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    with output.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = rows[number % len(rows)]
            text = edit(row["text"], (number + number // len(rows)) % 4)
            stream.write(
                json.dumps({"text": text, "label": row["label"]}, ensure_ascii=False) + "\n"
            )


def copy_wordnet(folder: Path, to: Path) -> None:
    """Copy WordNet's files to where nltk expects them, and add three that Debian leaves out."""
    target = to / "corpora" / "wordnet"
    target.mkdir(parents=True)
    for name in WORDNET_FILES:
        shutil.copy(folder / name, target)
    for name in ("index.sense", "cntlist.rev"):
        (target / name).touch()
    # First lexicographer file, last (exclusive), part of speech.
    ranges = [(29, 44, 2), (44, 45, 3), (3, 29, 1), (2, 3, 4), (0, 2, 3)]
    parts = {number: part for first, last, part in ranges for number in range(first, last)}
    lines = [f"{number:02}\tfile{number:02}\t{part}\n" for number, part in sorted(parts.items())]
    (target / "lexnames").write_text("".join(lines))


# Measurements -------------------------------------------------------------------------------------


def measure(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Return wall-clock seconds, CPU seconds and peak memory in MiB of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {process.returncode}")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, peak


def our_command(folder: Path, source: Path, output: Path, count: int) -> list[str]:
    """Return the command that writes `count` rows with gpt3mix."""
    (folder / "eda.yaml").write_text(CONFIG)
    with source.open("rb") as stream:
        rows = sum(1 for _ in stream)
    call = [sys.executable, "-c", "from gpt3mix_cli.cli import entry; entry()"]
    command = ["baseline", str(folder / "eda.yaml"), "--method", "eda", "--force", "--quiet"]
    files = ["-i", str(source), "-o", str(output)]
    return [*call, *command, *files, "--ratio", str(count // rows + 1), "--limit", str(count)]


def is_installed(python: str, module: str) -> bool:
    """Return whether a Python can import a module."""
    code = f"import importlib.util as u; exit(not u.find_spec({module!r}))"
    return subprocess.run([python, "-c", code]).returncode == 0


def compare(
    folder: Path, source: Path, others: str, wordnet: Path, rounds: int
) -> Iterator[tuple[str, float, float, float]]:
    """Yield (implementation, seconds, CPU seconds, MiB), each the lowest of the rounds."""
    commands = {"gpt3mix": (our_command(folder, source, folder / "out.jsonl", ROWS), {})}
    if shutil.which(others):
        copy_wordnet(wordnet, folder / "nltk")
        files = ["--data", str(source), "--output", str(folder / "other.jsonl")]
        for name in OTHERS:
            module = "nltk" if name == "plain" else name
            if not is_installed(others, module):
                print(f"{module} is not installed for {others}: skipped", file=sys.stderr)
                continue
            command = [others, __file__, "--implementation", name, *files]
            commands[name] = command, {"NLTK_DATA": str(folder / "nltk")}
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, environment) in commands.items():
            results[name].append(measure(command, environment))
    for name, measurements in results.items():
        seconds, cpu, memory = (min(column) for column in zip(*measurements, strict=True))
        yield name, seconds, cpu, memory


def measure_sizes(
    folder: Path, source: Path, rounds: int
) -> Iterator[tuple[str, int, float, float, float]]:
    """Yield (parents, rows, seconds, CPU seconds, MiB) of our implementation.

    Each size is measured with SST-2's rows as parents, and with as many parents as rows.
    """
    lines = source.read_text("utf-8").splitlines()
    for count in SIZES:
        many = folder / "many.jsonl"
        with many.open("w", encoding="utf-8") as stream:
            for number in range(count):
                row = json.loads(lines[number % len(lines)])
                stream.write(json.dumps({**row, "id": f"r{number}"}, ensure_ascii=False) + "\n")
        for name, parents in ((f"{len(lines):,}", source), (f"{count:,}", many)):
            command = our_command(folder, parents, folder / "out.jsonl", count)
            measurements = [measure(command, {}) for _ in range(rounds if count <= 100_000 else 1)]
            seconds, cpu, memory = (min(column) for column in zip(*measurements, strict=True))
            yield name, count, seconds, cpu, memory


def print_row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of SST-2's train.jsonl")
    parser.add_argument(
        "--others", default=sys.executable, help="a Python with nltk, textaugment, nlpaug"
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="WordNet 3.0's files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="also measure 1,000 to 1,000,000 rows")
    parser.add_argument("--implementation", choices=OTHERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.implementation:
        run_other(options.implementation, options.data, options.output, ROWS)
        return
    source = options.data / "train.jsonl"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = list(compare(folder, source, options.others, options.wordnet, options.rounds))
        ours = rows[0][2]
        columns = (f"implementation, {ROWS:,} rows", "seconds", "CPU seconds")
        print_row(*columns, "rows per CPU second", "relative to ours", "peak memory, MiB")
        print_row(*["---"] * 6)
        for name, seconds, cpu, memory in rows:
            values = f"{seconds:.2f}", f"{cpu:.2f}", f"{ROWS / cpu:,.0f}", f"{cpu / ours:.1f}"
            print_row(name, *values, f"{memory:.0f}")
        if options.long:
            print()
            columns = ("parents", "rows", "seconds", "CPU seconds")
            print_row(*columns, "CPU seconds per 1,000 rows", "peak memory, MiB")
            print_row(*["---"] * 6)
            for name, count, seconds, cpu, memory in measure_sizes(folder, source, options.rounds):
                values = f"{seconds:.2f}", f"{cpu:.2f}", f"{1000 * cpu / count:.4f}"
                print_row(name, f"{count:,}", *values, f"{memory:.0f}")


if __name__ == "__main__":
    main()
