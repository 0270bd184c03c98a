"""What is fuzzed: for each target a hypothesis strategy of inputs."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from . import seeds
from .cases import Case
from .edits import (
    Raw,
    byte_edits,
    edit_bytes,
    edit_json,
    json_edits,
    some,
    to_json,
    to_jsonl,
)
from .journals import journal_edits

Draw = Callable[..., Any]
CELL = "out/seed/2-per-class/seed-0"
LM_CELL = "out/lm/2-per-class/seed-0"
SERVER = ("--set", "lm.base_url={url}")
BASE_COMMANDS = [  # they make the base folder
    ("subsample", "c.yaml", "--out", "out"),
    ("baseline", "c.yaml", "--method", "eda", "--out", "out"),
    ("train", "c.yaml", "--out", "out", "--jobs", "1"),
    ("train", "c.yaml", "--out", "out", "--jobs", "1", "--method", "none", "--save-model", "model",
     "-o", "saved.jsonl"),
    ("subsample", "lm.yaml", "--out", "out"),
    ("augment", "lm.yaml", "--out", "out", *SERVER),
    ("train", "lm.yaml", "--out", "out", "--jobs", "1", "--method", "none", *SERVER),
]  # fmt: skip


def write_base(folder: Path) -> None:
    """Write the files that the first commands read."""
    folder.mkdir(parents=True)
    for name, rows in seeds.SPLITS.items():
        (folder / f"{name}.jsonl").write_bytes(seeds.jsonl(rows))
    documents = {
        "c": seeds.CONFIG, "lm": seeds.LM_CONFIG, "task": seeds.TASK, "prices": seeds.PRICES,
        "specs": seeds.SPECS,
    }  # fmt: skip
    for name, value in documents.items():
        (folder / f"{name}.yaml").write_bytes(to_yaml(value))


def to_yaml(value: Any) -> bytes:
    """Return a value as YAML that a person could have written."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return f"@raw@{value.text}@raw@" if isinstance(value, Raw) else value

    text = yaml.safe_dump(plain(value), sort_keys=False, width=10_000, allow_unicode=True)
    return (
        text.replace("'@raw@", "")
        .replace("@raw@'", "")
        .replace("@raw@", "")
        .encode("utf-8", "surrogatepass")
    )


@st.composite
def config_cases(draw: Draw) -> Case:
    """Configs, task files, price files and specifications."""
    name = draw(st.sampled_from(["f.yaml"] * 6 + ["task.yaml", "prices.yaml", "specs.yaml"]))
    by_name = {"task.yaml": seeds.TASK, "prices.yaml": seeds.PRICES, "specs.yaml": seeds.SPECS}
    which = draw(st.integers(0, len(seeds.CONFIGS) - 1)) if name == "f.yaml" else 0
    value: Any = by_name.get(name, seeds.CONFIGS[which])
    if draw(st.booleans()):
        data = to_yaml(edit_json(value, draw(some(json_edits))))
    else:
        data = edit_bytes(to_yaml(value), draw(some(byte_edits)))
    files = {"f.yaml": to_yaml(seeds.CONFIGS[1 if name == "task.yaml" else 2]), name: data}
    argv = draw(st.sampled_from([("plan",), ("plan", "--json"), ("check",), ("subsample",)]))
    if name == "specs.yaml":
        argv = ("check", "--specs", name, *SERVER)
        files["f.yaml"] = to_yaml(seeds.LM_CONFIG)
    elif name == "prices.yaml" or (which == 2 and argv == ("check",)):
        argv = (*argv, *SERVER)
    return Case("config", (argv[0], "f.yaml", *argv[1:], "--out", "out"), files)


@st.composite
def data_cases(draw: Draw) -> Case:
    """Data files: JSONL, CSV, TSV, Parquet."""
    suffix = draw(st.sampled_from(["jsonl", "csv", "tsv", "parquet"]))
    split = draw(st.sampled_from(["train", "train", "valid", "test"]))
    rows: Any = seeds.SPLITS[split]
    if draw(st.booleans()):
        rows = edit_json(rows, draw(some(json_edits)))
    data = _tables(rows, suffix, draw)
    if data is None or draw(st.booleans()):
        data = edit_bytes(_tables(seeds.SPLITS[split], suffix, draw) or b"", draw(some(byte_edits)))
    name = f"data.{suffix}"
    key = {"valid": "validation"}.get(split, split)
    argv = draw(st.sampled_from([("subsample",), ("subsample",), ("check",), ("plan",)]))
    options = ("--set", f"task.data.{key}={name}")
    if draw(st.integers(0, 5)) == 5:
        options += ("--set", f"task.data.{draw(st.sampled_from(['id', 'text', 'label']))}=label")
    return Case("data", (argv[0], "c.yaml", "--out", "new", *options), {name: data})


def _tables(rows: Any, suffix: str, draw: Draw) -> bytes | None:
    """Return rows in a format; None if it cannot hold them."""
    if suffix == "jsonl":
        return to_jsonl(rows)
    records = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    columns = list(dict.fromkeys(key for row in records for key in row))
    if suffix == "parquet":
        return _parquet(records, columns, draw)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter="," if suffix == "csv" else "\t")
    writer.writerow(columns)
    for row in records:
        cells = [row.get(column) for column in columns]
        writer.writerow([cell.text if isinstance(cell, Raw) else cell for cell in cells])
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _parquet(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], draw: Draw
) -> bytes | None:
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet

    odd = {
        "a date": [datetime.date(2026, 1, number + 1) for number in range(12)],
        "binary": [b"\xff\x00"] * 12,
        "a decimal": [decimal.Decimal("1.50")] * 12,
        "a time": [datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)] * 12,
        "a duration": [datetime.timedelta(days=100_000)] * 12,
        "nested": [{"a": [1]}] * 12,
        "floats": [float("nan"), 1.0] * 6,
        "nulls": [None] * 12,
        "words": ["pos", "neg"] * 6,
        "numbers": [0, 1] * 6,
    }
    extra = draw(st.sampled_from(["", "", *odd]))
    place = draw(st.sampled_from([*columns, "more"]))
    try:
        values = {column: [row.get(column) for row in records] for column in columns}
        if extra:
            values[place] = odd[extra][: len(records)]
        table = pa.table({name: pa.array(column) for name, column in values.items()})
        if draw(st.booleans()) and columns and not extra:
            table = table.set_column(
                0, columns[0], table.column(0).combine_chunks().dictionary_encode()
            )
        sink = pa.BufferOutputStream()
        codec = draw(st.sampled_from(["snappy", "none", "zstd"]))
        pa.parquet.write_table(table, sink, compression=codec)
        return bytes(sink.getvalue())
    except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
        return None


COMMANDS: dict[str, Sequence[str]] = {
    "subsample": ("--level", "--seed", "-o", "--force", "--set"),
    "augment": ("--level", "--seed", "-i", "-o", "--ratio", "-k", "--limit", "--show", "--card",
                "--license", "--force", "--set"),
    "baseline": ("--method", "--level", "--seed", "-i", "-o", "--ratio", "--limit", "--show",
                 "--card", "--license", "--force", "--set"),
    "train": ("--level", "--seed", "--method", "-i", "-a", "-o", "--trials", "--classifier",
              "--save-model", "--force", "--set"),
    "predict": ("-i", "-o", "--force"),
    "report": ("-o", "--rows", "--columns", "--paper", "--synthetic", "--diff", "--set"),
    "plan": ("--level", "--seed", "--set"),
    "check": ("--labels", "--specs", "--level", "--seed", "--set"),
    "cache": ("--clear",),
}  # fmt: skip
SWITCHES = ("--card", "--force", "--paper", "--labels", "--clear", "--quiet", "--json")
VALUES = [
    "0", "1", "2", "-1", "0.5", "1e30", "nan", "inf", "9" * 30, "", " ", "x", "eda", "none",
    "linear",
    "gpt3mix", "prompt", "2/class", "full", "1%", "0%", "101%", "-", ".", "..", "c.yaml", "out",
    "train.jsonl", "valid.jsonl", "new.jsonl", "new/a/b.jsonl", "train.jsonl/x", "model",
    "saved.jsonl",
    f"{CELL}/train.jsonl", f"{CELL}/eda.jsonl", f"{CELL}/trials/none.linear.jsonl", "specs.yaml",
    "/dev/null", "/dev/full", "x" * 300, "a/" * 200 + "x", "task", "method,level", "all", "é",
    "\udcff",
    "trials=2", "trials=", "=1", "augment.ratio=2", "augment.ratio=1e30", "name=x/y", "name=../x",
    "subsample.levels=[full]", "subsample.seeds=100", "subsample={}", "task.data.kind=demo",
    "classifiers=[{kind: linear, C: 1e-9}]", "classifiers=[]", "baselines.0.alpha=1",
    "baselines.7=1",
    "sweep={trials: [1, 2]}", "sweep={subsample.seeds: [1, 2]}",
    "task.labels={pos: a, neg: b, new: c}",
    "task.labels=[pos]", "subsample.validation=1/class", "lm={kind: local, model: none}",
    "x.y.z=[{",
    "task=task.yaml", "task=gone.yaml", "task.data.train=out", "budget.requests=1", "[red]=1",
]  # fmt: skip


@st.composite
def flag_cases(draw: Draw) -> Case:
    """Command lines."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    words = [command]
    config = draw(st.sampled_from(["c.yaml"] * 6 + ["lm.yaml", "gone.yaml", "out", "-", "", "."]))
    if command == "predict":
        words += [draw(st.sampled_from(["model", "model", "out", "gone", "-"]))]
        words += ["-i", "test.jsonl", "-o", "labelled.jsonl"]
    elif command == "report":
        words += draw(st.lists(st.sampled_from(["out", "c.yaml", f"{CELL}/trials", "gone"])))
    elif command != "cache":
        words += [config]
    if command == "baseline":
        words += ["--method", "eda"]
    words += ["--out", draw(st.sampled_from(["out", "out", "new"]))] * (
        command not in ("predict", "cache")
    )
    options = [*COMMANDS[command], "--quiet", "--json", "--nonsense"]
    for option in draw(st.lists(st.sampled_from(options), max_size=4)):
        words.append(option)
        if option == "--diff":
            words += [draw(st.sampled_from(VALUES)) for _ in range(2)]
        elif option not in SWITCHES:
            words.append(draw(st.sampled_from(VALUES)))
    if config == "lm.yaml" and command not in ("predict", "cache", "report"):
        words += SERVER
    if command == "train":
        words += ["--jobs", "1"]
    stdin = draw(st.sampled_from([b"", seeds.jsonl(seeds.SPLITS["test"]), b"\xff", b"{}"]))
    return Case("flags", tuple(words), stdin=stdin)


FILES = {  # a result -> commands that read it
    f"{CELL}/train.jsonl": ["baseline", "train", "plan"],
    f"{CELL}/train.jsonl.manifest.json": ["subsample", "train"],
    f"{CELL}/eda.jsonl": ["train", "baseline", "report"],
    f"{CELL}/eda.jsonl.manifest.json": ["baseline", "train", "report"],
    f"{CELL}/trials/none.linear.jsonl": ["train", "report", "report out"],
    f"{CELL}/trials/eda.linear.jsonl": ["train", "report", "report out", "diff"],
    f"{CELL}/trials/eda.linear.jsonl.manifest.json": ["train", "report"],
    f"{CELL}/trials/eda.linear.history.jsonl": ["train", "train --force", "report"],
}


@st.composite
def file_cases(draw: Draw, base: Path) -> Case:
    """Intermediate files: subsamples, synthetic rows, trials, histories, manifests."""
    name = draw(st.sampled_from(sorted(FILES)))
    command = draw(st.sampled_from(FILES[name]))
    data = (base / name).read_bytes()
    if draw(st.booleans()):
        edits = draw(some(json_edits))
        if name.endswith(".jsonl"):
            data = to_jsonl(edit_json([json.loads(line) for line in data.splitlines()], edits))
        else:
            data = to_json(edit_json(json.loads(data), edits))
    else:
        data = edit_bytes(data, draw(some(byte_edits)))
    argv = {
        "baseline": ("baseline", "c.yaml", "--method", "eda", "--out", "out", "--show", "1"),
        "train --force": ("train", "c.yaml", "--out", "out", "--jobs", "1", "--force"),
        "train": ("train", "c.yaml", "--out", "out", "--jobs", "1"),
        "report out": ("report", "out", "--paper"),
        "diff": ("report", "--diff", "out", f"{CELL}/trials/none.linear.jsonl"),
    }.get(command, (command, "c.yaml", "--out", "out"))
    return Case("files", argv, {name: data}, plots=draw(st.integers(0, 60)) == 60)


@st.composite
def journal_cases(draw: Draw, base: Path) -> Case:
    """Journals: their bytes, tables and values."""
    name = draw(st.sampled_from([f"{LM_CELL}/gpt3mix.journal.sqlite"] * 3 + [
        f"{LM_CELL}/trials/none.prompt.journal.sqlite"
    ]))  # fmt: skip
    argv = draw(st.sampled_from([
        ("augment", "lm.yaml", "--force"),
        ("augment", "lm.yaml", "--force", "--set", "augment.ratio=0.6"),
        ("augment", "lm.yaml", "--force", "--set", "budget.tokens=100000"),
        ("plan", "lm.yaml"),
        ("train", "lm.yaml", "--method", "none", "--force", "--jobs", "1"),
    ]))  # fmt: skip
    data = draw(journal_edits((base / name).read_bytes()))
    argv = (*argv, "--out", "out", *SERVER)
    if data is None:
        return Case("journals", argv, folders=(name,))
    return Case("journals", argv, {name: data})


@st.composite
def answer_cases(draw: Draw) -> Case:
    """Answers of a server."""
    edits = some(json_edits | json_edits | byte_edits, most=4)
    statuses = st.sampled_from([200] * 12 + [400, 401, 402, 404, 429, 500, 503])
    skipped = draw(st.integers(0, 6))
    changes = draw(st.lists(st.tuples(statuses, edits), min_size=1, max_size=12))
    changes = [(200, ())] * skipped + [(status, tuple(items)) for status, items in changes]
    dialect = draw(st.sampled_from(["vllm", "openai", "llamacpp", "ollama"]))
    argv = draw(st.sampled_from([
        ("augment", "lm.yaml"),
        ("augment", "lm.yaml", "--set", "lm.label_source=vote", "--set", "lm.num_votes=2"),
        ("augment", "lm.yaml", "--set", "lm.api=chat"),
        ("augment", "lm.yaml", "--set", "augment.labels=hard", "--set", "lm.prices=prices.yaml"),
        ("train", "lm.yaml", "--method", "none", "--jobs", "1", "-i", f"{LM_CELL}/train.jsonl"),
        ("check", "lm.yaml"),
    ]))  # fmt: skip
    return Case("answers", (*argv, "--out", "new", *SERVER), {
        "new/lm/2-per-class/seed-0/train.jsonl": seeds.jsonl(seeds.SPLITS["train"][:4])
    }, answers=tuple(changes), dialect=dialect)  # fmt: skip


@st.composite
def predict_cases(draw: Draw, base: Path) -> Case:
    """Inputs and models of `predict`."""
    rows = seeds.SPLITS["test"]
    files: dict[str, bytes | None] = {}
    name = draw(st.sampled_from(["texts"] * 3 + ["gpt3mix.json", "vocabulary.json",
                                                 "model.safetensors"]))  # fmt: skip
    data = seeds.jsonl(rows) if name == "texts" else (base / "model" / name).read_bytes()
    if draw(st.booleans()) and not name.endswith(".safetensors"):
        edits = draw(some(json_edits))
        if name == "texts":
            data = to_jsonl(edit_json(rows, edits))
        else:
            data = to_json(edit_json(json.loads(data), edits))
    else:
        data = edit_bytes(data, draw(some(byte_edits)))
    stdin = seeds.jsonl(rows)
    source = draw(st.sampled_from(["texts.jsonl", "-", "texts.csv"]))
    if name == "texts":
        stdin, files["texts.jsonl"], files["texts.csv"] = data, data, data
    else:
        files |= {f"model/{name}": data, "texts.jsonl": stdin, "texts.csv": stdin}
    output = draw(st.sampled_from(["labelled.jsonl", "-"]))
    return Case("predict", ("predict", "model", "-i", source, "-o", output), files, stdin)


def all_targets(base: Path) -> dict[str, tuple[int, st.SearchStrategy[Case]]]:
    """Return target -> (its weight, its inputs)."""
    return {
        "config": (30, config_cases()),
        "data": (20, data_cases()),
        "flags": (14, flag_cases()),
        "files": (14, file_cases(base)),
        "journals": (6, journal_cases(base)),
        "answers": (8, answer_cases()),
        "predict": (8, predict_cases(base)),
    }
