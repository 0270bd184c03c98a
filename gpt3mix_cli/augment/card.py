"""The data card of a synthetic set (README.md of a Hugging Face data set), and rows as in Table 4.

The card is written next to the rows, `gpt3mix.jsonl` -> `gpt3mix.card.md`, because one folder holds
the rows of several methods. It becomes `README.md` when the rows of a method are published:
`gpt3mix augment CONFIG --card --license cc-by-4.0`.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import content_errors
from ..files import STDIO, atomic_write
from ..layout import card_path, manifest_path
from ..provenance import UNKNOWN, data_source, describe_sources, without_path
from ..records import Augmented, Example, Manifest, StageResult, read_records
from ..settings import METHOD_TITLES, Task
from .statistics import describe_counts

EXAMPLE_ROWS = 3  # in a card
MAX_LABELS = 5  # classes of a soft label that are shown; few classes are all shown
# The hub's size categories: rows below the number.
SIZE_CATEGORIES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}


@dataclass(frozen=True)
class Table4Row:
    """A row of Table 4.

    Attributes:
        name: of the text: `Example 1`, `GPT3Mix`.
        text: the text.
        labels: each label, with its probability if it is soft, and whether it is the likeliest.
        is_synthetic: whether the text is synthetic.
    """

    name: str
    text: str
    labels: tuple[tuple[str, bool], ...]
    is_synthetic: bool


def table4_rows(
    row: Augmented, parents: Mapping[str, Example], tokens: Mapping[str, str]
) -> list[Table4Row]:
    """Return a synthetic row below its parents.

    Args:
        row: the synthetic row.
        parents: real rows by their id; missing ones are left out.
        tokens: class -> label token.
    """
    edited = row.label_source == "parent"
    known = [parents[name] for name in row.parents if name in parents]
    rows = [
        Table4Row(
            "Original" if edited else f"Example {number}",
            parent.text,
            ((tokens.get(parent.label, parent.label), False),),
            is_synthetic=False,
        )
        for number, parent in enumerate(known, 1)
    ]
    labels = tuple(
        (f"{tokens.get(label, label)}: {probability:.0%}", label == row.label)
        for label, probability in _shown_probs(row)
    )
    if edited:
        labels = ((tokens.get(row.label, row.label), True),)
    title = METHOD_TITLES.get(row.method, row.method)
    return [*rows, Table4Row(title, row.text, labels, is_synthetic=True)]


def _shown_probs(row: Augmented) -> list[tuple[str, float]]:
    """Return the classes of a soft label: all if they are few, otherwise the most probable ones."""
    probs = list(row.probs.items())
    if len(probs) <= MAX_LABELS:
        return probs
    best = sorted(probs, key=lambda item: -item[1])[:MAX_LABELS]
    return [(name, value) for name, value in best if value >= 0.005 or name == row.label]


def write_card(
    result: StageResult,
    task: Task,
    source: Path,
    model: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the data card of a synthetic set and return its path.

    Args:
        result: the synthetic set and its manifest.
        task: of the experiment.
        source: file of the real rows, for the examples in the card.
        model: name or folder of the LM; None if no LM was used.
        license: of the synthetic rows, as the hub spells it; None if it is unknown.

    Raises:
        UserError: if a file cannot be read or written.
    """
    rows = list(itertools.islice(read_records(result.output, Augmented), EXAMPLE_ROWS))
    names = {name for row in rows for name in row.parents}
    real = () if source == STDIO else read_records(source, Example)
    parents = {row.id: row for row in real if row.id in names}
    hint = "remove that file, and run the same command again"
    with content_errors(manifest_path(result.output), hint):
        card = render_card(result.manifest, task, rows, parents, model, license or UNKNOWN)
    with atomic_write(path := card_path(result.output)) as stream:
        stream.write(card.encode())
    return path


def render_card(
    manifest: Manifest,
    task: Task,
    rows: Sequence[Augmented],
    parents: Mapping[str, Example],
    model: str | None,
    license: str,
) -> str:
    """Return the data card: the source of the rows, how they were made, and how to publish them.

    Args:
        manifest: of the synthetic set.
        task: of the experiment.
        rows: synthetic rows to show.
        parents: their real rows, by id.
        model: name or folder of the LM; None if no LM was used.
        license: of the synthetic rows.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    method = manifest.settings["method"]
    blocks = (map(_plain_row, table4_rows(row, parents, task.labels)) for row in rows)
    examples = "\n\n".join(map("\n".join, blocks))
    settings = json.dumps(_without_paths(manifest.settings), ensure_ascii=False, indent=1)
    counts = "\n".join(f"| {name} | {value} |" for name, value in describe_counts(manifest.counts))
    metadata = DatasetCardData(**_metadata(manifest, task, license))
    body = f"""\
# {task.name}: synthetic rows of {METHOD_TITLES.get(method, method)}

Written by gpt3mix {manifest.version} (GPT3Mix, [Yoo et al., 2021](https://arxiv.org/abs/2104.08826)).
Nobody has read these rows one by one: they may be wrong, biased or offensive, and so may the rows
that they were made from.

{_facts(manifest, task, model, license)}

## Statistics

| | |
| --- | --- |
{counts}

A row's `probs` are its soft label, `label` is the likeliest class, `parents` are the real rows that
it was made from.

## Examples

{_fence(examples, "text")}

## Settings

{_fence(settings, "json")}

## How to publish

Put `{manifest.output}` and this file, renamed to `README.md`, into a folder of their own; then
`hf upload USER/NAME FOLDER . --repo-type dataset`. Without the hub:
`datasets.load_dataset("json", data_files="{manifest.output}")`.

{describe_sources(task, {"Language model": model} if model else {})}"""
    return str(DatasetCard(f"---\n{metadata}\n---\n\n{body}"))


def _metadata(manifest: Manifest, task: Task, license: str) -> dict[str, Any]:
    kept = manifest.counts["kept"]
    size = next((size for limit, size in SIZE_CATEGORIES.items() if kept < limit), "n>10M")
    # The hub identifies licenses by short ids; any other text is a license that it does not know.
    is_id = re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license)
    data_files = [{"split": "train", "path": manifest.output}]
    return {
        **({"license": license} if is_id else {"license": "other", "license_name": license}),
        "pretty_name": f"{task.name}, synthetic",
        "task_categories": ["text-classification"],
        "size_categories": [size],
        "tags": ["synthetic", "gpt3mix"],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }


def _facts(manifest: Manifest, task: Task, model: str | None, license: str) -> str:
    classes = ", ".join(f"`{name}` ({token})" for name, token in task.labels.items())
    is_mlm, lm = manifest.settings.get("kind") == "mlm", manifest.settings.get("lm")
    origin = f"edits of real rows, {'by a masked' if is_mlm else 'without an'} LM"
    if model:
        origin = f"the language model `{without_path(model)}` (hash {lm})"
    if license == UNKNOWN:
        license += (
            ": that of the data and of the LM's output; see Sources and licenses before you publish"
        )
    facts = [
        f"Task: {task.label_type} of a {task.text_type}; classes {classes}.",
        f"Real rows: {data_source(task)}; hash of the rows used: `{manifest.inputs.get('train')}`.",
        f"Made by: {origin}.",
        f"License: {license}.",
    ]
    if not manifest.complete:
        facts.append("Incomplete: the filter passed fewer rows than wanted.")
    return "\n".join(f"- {fact}" for fact in facts)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return without_path(value) if isinstance(value, str) and "/" in value else value


def _plain_row(row: Table4Row) -> str:
    labels = ", ".join(label for label, _ in row.labels)
    return f"{row.name:<10} {' '.join(row.text.split())} ({labels})"


def _fence(text: str, language: str) -> str:
    # The fence is longer than any in the text.
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text + "``")))
    return f"{fence}{language}\n{text}\n{fence}"
