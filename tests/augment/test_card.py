"""The data card, and rows as Table 4 shows them; the hub's own library reads both."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt3mix_cli.augment.card import render_card, table4_rows, write_card
from gpt3mix_cli.augment.statistics import Statistics
from gpt3mix_cli.layout import card_path
from gpt3mix_cli.provenance import model_license
from gpt3mix_cli.records import (
    Augmented,
    Example,
    Manifest,
    StageResult,
    finish_output,
    write_records,
)
from gpt3mix_cli.settings import Task

PARENTS = {
    "r0": Example(id="r0", text="Laughably, irredeemably awful.", label="neg"),
    "r1": Example(id="r1", text="Well-made but mush-hearted.", label="pos"),
}
MIXED = Augmented(
    id="gpt3mix-00000",
    text="Groundbreaking, disturbing.",
    label="pos",
    probs={"pos": 0.75, "neg": 0.25},
    method="gpt3mix",
    parents=["r0", "r1"],
    label_source="exact",
    label_mass=0.9,
    request=0,
)
EDITED = Augmented(
    id="r0~eda-0",
    text="Laughably awful.",
    label="neg",
    probs={"pos": 0.0, "neg": 1.0},
    method="eda",
    parents=["r0"],
)
TOKENS = {"pos": "positive", "neg": "negative"}


def made(folder: Path, rows: list[Augmented], **settings: Any) -> StageResult:
    """Write rows and their manifest as the stage does."""
    output = folder / "gpt3mix.jsonl"
    write_records(output, rows)
    write_records(folder / "train.jsonl", PARENTS.values())
    collected = Statistics(list(PARENTS.values()))
    for row in rows:
        collected.add(row)
    counts = {
        "wanted": 2,
        "asked": 8,
        "kept": len(rows),
        "rejected": {"max_parent_overlap": 3},
        "statistics": collected.summary(),
    }
    settings = {"method": rows[0].method, "lm": "0123abcd", "k": 2, **settings}
    manifest = finish_output(
        output,
        0.0,
        stage="augment",
        complete=True,
        settings=settings,
        inputs={"train": "feedbeef"},
        seed=0,
        counts=counts,
        command=[],
    )
    return StageResult(output, manifest)


def test_a_mixed_row_is_below_its_examples_with_the_winning_label_marked() -> None:
    """Table 4's first block, in the order of the prompt."""
    shown = [
        (line.name, line.text, line.labels, line.is_synthetic)
        for line in table4_rows(MIXED, PARENTS, TOKENS)
    ]
    assert shown == [
        ("Example 1", "Laughably, irredeemably awful.", (("negative", False),), False),
        ("Example 2", "Well-made but mush-hearted.", (("positive", False),), False),
        (
            "GPT3Mix",
            "Groundbreaking, disturbing.",
            (("positive: 75%", True), ("negative: 25%", False)),
            True,
        ),
    ]


def test_an_edited_row_is_below_its_original() -> None:
    shown = [(line.name, line.labels) for line in table4_rows(EDITED, PARENTS, TOKENS)]
    assert shown == [("Original", (("negative", False),)), ("EDA", (("negative", True),))]
    assert [line.name for line in table4_rows(EDITED, {}, TOKENS)] == ["EDA"]


def header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return found


def test_a_card_says_what_a_reader_must_know(tmp_path: Path, task: Task) -> None:
    done = made(tmp_path, [MIXED])
    path = write_card(done, task, tmp_path / "train.jsonl", model=str(tmp_path))
    assert path == card_path(done.output) == tmp_path / "gpt3mix.card.md"
    text = path.read_text("utf-8")
    assert header(text)["license"] == "unknown"
    assert header(text)["task_categories"] == ["text-classification"]
    assert header(text)["size_categories"] == ["n<1K"]
    assert "language" not in header(text)
    for word in (
        "movie review",
        "`pos` (positive)",
        "feedbeef",
        "0123abcd",
        f"`{tmp_path.name}`",
        "3 max_parent_overlap",
        "label mass 0.900",
        "see Sources and licenses before you publish",
    ):
        assert word in text
    assert (
        "Example 2  Well-made but mush-hearted. (positive)\n"
        "GPT3Mix    Groundbreaking, disturbing. (positive: 75%, negative: 25%)" in text
    )
    assert str(tmp_path) not in text, "a path tells of its machine"


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("cc-by-4.0", {"license": "cc-by-4.0"}),
        ("Only for: tests", {"license": "other", "license_name": "Only for: tests"}),
    ],
)
def test_the_license_is_the_hubs_word_or_one_of_its_own(
    tmp_path: Path, task: Task, license: str, expected: dict[str, str]
) -> None:
    text = write_card(
        made(tmp_path, [MIXED]), task, tmp_path / "train.jsonl", license=license
    ).read_text("utf-8")
    assert {
        name: value for name, value in header(text).items() if name.startswith("license")
    } == expected
    assert f"License: {license}." in text


def test_a_card_has_sources_licenses_and_citations(tmp_path: Path, task: Task) -> None:
    about = {
        "title": "Reviews",
        "license": "cc0-1.0",
        "citation": "@misc{reviews,\n year={2020}}\n",
    }
    data = {"kind": "hub", "path": "SetFit/sst2", "revision": "abc"}
    task = Task.model_validate({**task.model_dump(), "data": data, "about": about})
    card = write_card(
        made(tmp_path, [MIXED]), task, tmp_path / "train.jsonl", "EleutherAI/pythia-2.8b"
    ).read_text("utf-8")
    assert "- Data: Reviews, `SetFit/sst2` of the hub, revision abc; license: cc0-1.0." in card
    assert "- Language model: `EleutherAI/pythia-2.8b`; license: apache-2.0." in card
    bibtex = card.split("```bibtex\n")[1].split("\n```")[0]
    assert "@inproceedings{yoo2021gpt3mix," in bibtex
    assert bibtex.endswith("@misc{reviews,\n year={2020}}")


def test_the_license_of_a_model_in_a_folder_is_that_of_its_card(tmp_path: Path) -> None:
    assert model_license(str(tmp_path)) == "unknown"
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: gpl\n")
    assert model_license(str(tmp_path)) == "mit"
    assert model_license("bundled") == "apache-2.0"
    assert model_license("someone/model") == "unknown"


def test_no_text_can_end_the_block_that_it_is_in(tmp_path: Path, task: Task) -> None:
    row = MIXED.model_copy(update={"text": "``` ````\n# A heading"})
    text = write_card(made(tmp_path, [row]), task, tmp_path / "train.jsonl").read_text("utf-8")
    assert text.count("`````text") == 1
    assert "\n# A heading" not in text


def test_rows_that_fell_short_say_so(tmp_path: Path, task: Task) -> None:
    manifest = made(tmp_path, [MIXED]).manifest.model_copy(update={"complete": False})
    assert "Incomplete" in render_card(manifest, task, [], {}, None, "unknown")


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    "rows",
    [[MIXED, MIXED], [EDITED], [MIXED, EDITED], [MIXED.model_copy(update={"perplexity": 9.5})]],
    ids=range(4),
)
def test_the_hubs_library_loads_the_rows_and_the_folder_to_be_published(
    tmp_path: Path, task: Task, rows: list[Augmented]
) -> None:
    """By the file, and by the card as README.md next to it; a label mass of null is null there
    too."""
    import datasets

    done = made(tmp_path, rows)
    published = tmp_path / "published"
    published.mkdir()
    shutil.copy(done.output, published)
    shutil.copy(write_card(done, task, tmp_path / "train.jsonl"), published / "README.md")
    by_file = datasets.load_dataset("json", data_files=str(done.output), split="train")
    by_card = datasets.load_dataset(str(published), split="train")
    for found in (by_file, by_card):
        assert found["text"] == [row.text for row in rows]
        assert found["label_mass"] == [row.label_mass for row in rows]
        assert found["probs"] == [row.probs for row in rows]
        assert ("perplexity" in found.column_names) == (rows[0].perplexity is not None)


def test_a_manifest_without_figures_still_has_a_card(tmp_path: Path, task: Task) -> None:
    """One that an older version wrote."""
    manifest = made(tmp_path, [MIXED]).manifest
    old = Manifest.model_validate(
        {**manifest.model_dump(), "counts": {"wanted": 1, "asked": 1, "kept": 1, "rejected": {}}}
    )
    assert "1 of 1 wanted" in render_card(old, task, [MIXED], PARENTS, None, "unknown")
