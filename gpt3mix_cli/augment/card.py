"""The data card of synthetic rows (the README.md of a Hugging Face data set), and rows as Table 4 shows them.

The card stands beside its rows, `gpt3mix.jsonl` -> `gpt3mix.card.md`, since one folder holds the rows of several methods;
it becomes `README.md` where a method's rows are published: `gpt3mix augment CONFIG --card --licence cc-by-4.0`.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import STDIO, atomic_write
from ..records import Augmented, Example, Manifest, StageResult, read_records
from ..settings import DemoData, FilesData, HubData, Task
from .statistics import figures

SHOWN = 3  # example rows in a card
UNKNOWN = "unknown"
NAMES = {
    "gpt3mix": "GPT3Mix",
    "eda": "EDA",
    "aeda": "AEDA",
    "mlm": "Masked LM",
    "backtranslate": "Back-translation",
    "paraphrase": "Paraphrase",
}
SIZES = [
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
]


@dataclass(frozen=True)
class Line:
    """A line of Table 4.

    Attributes:
        name: whose text it is: `Example 1`, `GPT3Mix`.
        text: the text.
        labels: each with its share, if it is soft, and whether it is the winning one.
        made: whether the text is synthetic.
    """

    name: str
    text: str
    labels: tuple[tuple[str, bool], ...]
    made: bool


def table4(row: Augmented, parents: Mapping[str, Example], tokens: Mapping[str, str]) -> list[Line]:
    """Return a synthetic row below its parents.

    Args:
        row: the synthetic row.
        parents: real rows by their id; one that is missing is left out.
        tokens: class -> label token.
    """
    edited = row.label_source == "parent"
    found = []
    for number, parent in enumerate((parents[name] for name in row.parents if name in parents), 1):
        labels: tuple[tuple[str, bool], ...] = ((tokens.get(parent.label, parent.label), False),)
        found.append(
            Line("Original" if edited else f"Example {number}", parent.text, labels, made=False)
        )
    if edited:
        labels = ((tokens.get(row.label, row.label), True),)
    else:
        labels = tuple(
            (f"{tokens.get(label, label)}: {share:.0%}", label == row.label)
            for label, share in row.probs.items()
        )
    return [*found, Line(NAMES.get(row.method, row.method), row.text, labels, made=True)]


def card_path(output: Path) -> Path:
    """Return where the card of an output stands: `gpt3mix.jsonl` -> `gpt3mix.card.md`."""
    return output.with_name(output.name.removesuffix(".jsonl") + ".card.md")


def write_card(
    done: StageResult,
    task: Task,
    source: Path,
    model: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write the data card of an output beside it, and return its place.

    Args:
        done: the output and its manifest.
        task: of the experiment.
        source: the file of the real rows, for the examples of the card.
        model: the LM's name, or the folder that it came from.
        licence: of the synthetic rows, as the hub spells it; unknown if there is none.

    Raises:
        UserError: if a file cannot be read or written.
    """
    rows = list(itertools.islice(read_records(done.output, Augmented), SHOWN))
    wanted = {name for row in rows for name in row.parents}
    parents = (
        {}
        if source == STDIO
        else {row.id: row for row in read_records(source, Example) if row.id in wanted}
    )
    path = card_path(done.output)
    with atomic_write(path) as stream:
        stream.write(card(done.manifest, task, rows, parents, model, licence or UNKNOWN).encode())
    return path


def card(
    manifest: Manifest,
    task: Task,
    rows: Sequence[Augmented],
    parents: Mapping[str, Example],
    model: str | None,
    licence: str,
) -> str:
    """Return the data card: where the rows come from, how they were made, what they are like, how to publish them."""
    method = manifest.settings["method"]
    edits = (
        "edits of real rows, by a masked LM"
        if manifest.settings.get("kind") == "mlm"
        else "edits of real rows, without an LM"
    )
    made_by = (
        f"the language model `{_place(model)}` (hash {manifest.settings.get('lm')})"
        if model
        else edits
    )
    shown = "\n\n".join(
        "\n".join(_plain(line) for line in table4(row, parents, task.labels)) for row in rows
    )
    settings = json.dumps(_without_places(manifest.settings), ensure_ascii=False, indent=1)
    unsaid = (
        ": that of the source rows and of the LM's output; find it out before you publish"
        if licence == UNKNOWN
        else ""
    )
    return "\n".join(
        [
            *_front(manifest, task, licence),
            f"# {task.name}: synthetic rows of {NAMES.get(method, method)}",
            "",
            f"Written by gpt3mix {manifest.version} (GPT3Mix, [Yoo et al., 2021](https://arxiv.org/abs/2104.08826)). Nobody has read these rows",
            "one by one: they may be wrong, biased or offensive, as what they were made from may be.",
            "",
            f"- Task: {task.label_type} of a {task.text_type}; classes {', '.join(f'`{name}` ({token})' for name, token in task.labels.items())}.",
            f"- Real rows: {_source(task)}; hash of those that were used: `{manifest.inputs.get('train')}`.",
            f"- Made by: {made_by}.",
            f"- Licence: {licence}{unsaid}.",
            *(
                []
                if manifest.complete
                else ["- Incomplete: fewer rows than wanted passed the gate."]
            ),
            "",
            "## What the rows are like",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in figures(manifest.counts)),
            "",
            "A row's `probs` are its soft label, `label` is the likeliest class, `parents` are the real rows that it was made from.",
            "",
            "## Examples",
            "",
            _fenced(shown, "text"),
            "",
            "## Settings",
            "",
            _fenced(settings, "json"),
            "",
            "## To publish",
            "",
            f"Put `{manifest.output}` and this file, renamed to `README.md`, into a folder of their own; then",
            "`hf upload USER/NAME FOLDER . --repo-type dataset`. Without the hub:",
            f'`datasets.load_dataset("json", data_files="{manifest.output}")`.',
            "",
        ]
    )


def _front(manifest: Manifest, task: Task, licence: str) -> list[str]:
    """Return the YAML header; JSON strings are valid YAML whatever they hold."""
    count = manifest.counts["kept"]
    size = next((name for most, name in SIZES if count < most), "n>10M")
    # The hub knows licences by short ids; any other text is one that it does not know.
    known = re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence)
    return [
        "---",
        *(
            [f"license: {json.dumps(licence)}"]
            if known
            else ["license: other", f"license_name: {json.dumps(licence, ensure_ascii=False)}"]
        ),
        f"pretty_name: {json.dumps(f'{task.name}, synthetic', ensure_ascii=False)}",
        "task_categories:",
        "- text-classification",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- synthetic",
        "- gpt3mix",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {json.dumps(manifest.output, ensure_ascii=False)}",
        "---",
        "",
    ]


def _source(task: Task) -> str:
    match task.data:
        case HubData() as data:
            return f"`{_place(data.path)}`{f', {data.name}' if data.name else ''} of the hub, revision {data.revision or 'unknown'}"
        case FilesData() as data:
            return f"`{data.train.name}`"
        case DemoData():
            return "the movie-review sentences that come with gpt3mix"


def _place(name: str) -> str:
    """Return a hub id as it is, and of a folder only the last part: a path tells of its machine."""
    return Path(name).name if Path(name).is_dir() else name


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return _place(value) if isinstance(value, str) and "/" in value else value


def _plain(line: Line) -> str:
    return f"{line.name:<10} {' '.join(line.text.split())} ({', '.join(label for label, _ in line.labels)})"


def _fenced(text: str, language: str) -> str:
    """Return a block that no line of the text can end."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text + "``")))
    return f"{fence}{language}\n{text}\n{fence}"
