#!/usr/bin/env python3
"""What 20,000 EDA rows cost, beside other libraries and the paper's algorithm as one writes it first.

    python scripts/bench/eda.py --data ../shared/data/sst2 --others VENV/bin/python

Whole processes, file to file: each reads the rows of SST-2's train.jsonl, edits them in turn with alpha 0.1, a quarter of the
rows by each operation, and writes text and label as JSON lines. `--others` is a Python that has nltk, and textaugment and
nlpaug where they install (`pip install nltk textaugment nlpaug`); all three read WordNet from --wordnet (Debian's
wordnet-base), of which they get a copy in the place where nltk looks. The ways run in turn, --rounds times; the ratio is to
the CPU seconds of ours (one core), the least over the rounds, since a busy machine moves these less than the clock.
`plain`: SR, RI, RS and RD as section 2 of Wei and Zou (2019) describes them, over nltk. `nlpaug` has no insertion of synonyms,
so that it replaces instead, and without nltk's tagger (not on PyPI) it takes every word's part of speech for unknown, which
saves it time. Then (--long) ours at 1,000 to 1,000,000 rows, with the largest memory.
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
COUNT = 20_000
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


# The other ways: they run under --others, where only nltk and its kin are installed ------------------------------------


def stop_words() -> set[str]:
    """Return ours, read from the source, since the package is not installed there."""
    source = (Path(__file__).parents[2] / "gpt3mix_cli" / "augment" / "eda.py").read_text("utf-8")
    found = re.search(r'_STOP_WORDS = """(.*?)"""', source, re.DOTALL)
    assert found
    return set(found[1].split())


def plain() -> Edit:
    """Return the four operations over nltk's WordNet, as the paper describes them."""
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
            left = n
            for word in random.sample(
                sources := sorted({word for word in words if word not in stops}), len(sources)
            ):
                if left and (found := synonyms(word)):
                    chosen = random.choice(found)
                    words = [chosen if one == word else one for one in words]
                    left -= 1
        elif operation == 1:
            for _ in range(n):
                sources = [word for word in words if word not in stops]
                for _ in range(10):
                    if sources and (found := synonyms(random.choice(sources))):
                        words.insert(random.randrange(len(words)), random.choice(found))
                        break
        elif operation == 2 and len(words) > 1:
            for _ in range(n):
                one, other = random.sample(range(len(words)), 2)
                words[one], words[other] = words[other], words[one]
        elif operation == 3:
            words = [word for word in words if random.random() > ALPHA] or [random.choice(words)]
        return " ".join(words)

    return edit


def textaugment() -> Edit:
    """Return textaugment's four operations."""
    import nltk
    from textaugment import EDA

    nltk.download = lambda *_: True  # it would look for its files on the net at each start
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
            return text  # a text of stop words alone ends its insertion

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
    ways = [
        replace,
        replace,
        RandomWordAug(action="swap", **options),
        RandomWordAug(action="delete", **options),
    ]

    def edit(text: str, operation: int) -> str:
        found = ways[operation].augment(text)
        return found[0] if found else text

    return edit


OTHERS: dict[str, Callable[[], Edit]] = {
    "plain": plain,
    "textaugment": textaugment,
    "nlpaug": nlpaug,
}


def other(way: str, source: Path, output: Path, count: int) -> None:
    """Write `count` rows by another way."""
    random.seed(0)
    edit = OTHERS[way]()
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    with output.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = rows[number % len(rows)]
            text = edit(row["text"], (number + number // len(rows)) % 4)
            stream.write(
                json.dumps({"text": text, "label": row["label"]}, ensure_ascii=False) + "\n"
            )


def copy_wordnet(folder: Path, to: Path) -> None:
    """Copy WordNet's files to where nltk looks, with the three that Debian leaves out and nltk asks for."""
    place = to / "corpora" / "wordnet"
    place.mkdir(parents=True)
    for name in WORDNET_FILES:
        shutil.copy(folder / name, place)
    for name in ("index.sense", "cntlist.rev"):
        (place / name).touch()
    lexicographer = [
        (29, 44, 2),
        (44, 45, 3),
        (3, 29, 1),
        (2, 3, 4),
        (0, 2, 3),
    ]  # first file, last, part of speech
    parts = {number: part for first, last, part in lexicographer for number in range(first, last)}
    (place / "lexnames").write_text(
        "".join(f"{number:02}\tfile{number:02}\t{part}\n" for number, part in sorted(parts.items()))
    )


# Measuring -------------------------------------------------------------------------------------------------------------


def measured(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Return what a process took: seconds, seconds of CPU, and the largest memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: ended with {process.returncode}")
    largest = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, largest


def ours(folder: Path, source: Path, output: Path, count: int) -> list[str]:
    """Return the command that a user types for so many rows."""
    (folder / "eda.yaml").write_text(CONFIG)
    with source.open("rb") as stream:
        rows = sum(1 for _ in stream)
    call = [
        sys.executable,
        "-c",
        "from gpt3mix_cli.cli import entry; entry()",
        "baseline",
        str(folder / "eda.yaml"),
        "--method",
        "eda",
    ]
    return [
        *call,
        "-i",
        str(source),
        "-o",
        str(output),
        "--ratio",
        str(count // rows + 1),
        "--limit",
        str(count),
        "--force",
        "--quiet",
    ]


def beside(
    folder: Path, source: Path, others: str, wordnet: Path, rounds: int
) -> Iterator[tuple[str, float, float, float]]:
    """Yield (way, seconds, CPU seconds, MiB), each the least of the rounds."""
    commands = {"gpt3mix": (ours(folder, source, folder / "out.jsonl", COUNT), {})}
    if shutil.which(others):
        copy_wordnet(wordnet, folder / "nltk")
        for way in OTHERS:
            name = "nltk" if way == "plain" else way
            if subprocess.run(
                [others, "-c", f"import importlib.util as u; exit(not u.find_spec({name!r}))"]
            ).returncode:
                print(f"{name} is not installed for {others}: left out", file=sys.stderr)
                continue
            call = [
                others,
                __file__,
                "--way",
                way,
                "--data",
                str(source),
                "--output",
                str(folder / "other.jsonl"),
            ]
            commands[way] = call, {"NLTK_DATA": str(folder / "nltk")}
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in commands}
    for _ in range(rounds):
        for way, (command, environment) in commands.items():
            found[way].append(measured(command, environment))
    for way, figures in found.items():
        seconds, cpu, memory = (min(column) for column in zip(*figures, strict=True))
        yield way, seconds, cpu, memory


def sizes(
    folder: Path, source: Path, rounds: int
) -> Iterator[tuple[str, int, float, float, float]]:
    """Yield (what, rows, seconds, CPU seconds, MiB) of ours: SST-2 over and over, then as many parents as rows."""
    whole = source.read_text("utf-8").splitlines()
    for count in SIZES:
        many = folder / "many.jsonl"
        with many.open("w", encoding="utf-8") as stream:
            for number in range(count):
                row = json.loads(whole[number % len(whole)])
                stream.write(json.dumps({**row, "id": f"r{number}"}, ensure_ascii=False) + "\n")
        for what, parents in ((f"{len(whole):,} parents", source), ("a parent a row", many)):
            figures = [
                measured(ours(folder, parents, folder / "out.jsonl", count), {})
                for _ in range(rounds if count <= 100_000 else 1)
            ]
            seconds, cpu, memory = (min(column) for column in zip(*figures, strict=True))
            yield what, count, seconds, cpu, memory


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of SST-2's train.jsonl")
    parser.add_argument(
        "--others", default=sys.executable, help="a Python with nltk, textaugment, nlpaug"
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="WordNet 3.0's files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="1,000 to 1,000,000 rows too")
    parser.add_argument("--way", choices=OTHERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        other(given.way, given.data, given.output, COUNT)
        return
    source = given.data / "train.jsonl"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = list(beside(folder, source, given.others, given.wordnet, given.rounds))
        base = table[0][2]
        print(
            f"| way, {COUNT:,} rows | seconds | CPU seconds | rows a CPU second | times ours | largest memory, MiB |\n|{' --- |' * 6}"
        )
        for way, seconds, cpu, memory in table:
            print(
                f"| {way} | {seconds:.2f} | {cpu:.2f} | {COUNT / cpu:,.0f} | {cpu / base:.1f} | {memory:.0f} |",
                flush=True,
            )
        if given.long:
            print(
                f"\n| parents | rows | seconds | CPU seconds | CPU seconds a 1,000 rows | largest memory, MiB |\n|{' --- |' * 6}"
            )
            for what, count, seconds, cpu, memory in sizes(folder, source, given.rounds):
                print(
                    f"| {what} | {count:,} | {seconds:.2f} | {cpu:.2f} | {1000 * cpu / count:.4f} | {memory:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
