"""Samples of synthetic rows with their parents."""

from pathlib import Path

from rows import inputs, trial

from gpt3mix_cli.records import Augmented, Example, write_records
from gpt3mix_cli.report import report


def test_samples_follow_their_parents_one_for_each_mixture_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "1pct" / "seed-0"
    real = [
        Example(id=name, text=f"text <b>{name}</b>", label=label)
        for name, label in (("p1", "pos"), ("p2", "pos"), ("n1", "neg"))
    ]
    parents = [("p1", "p2"), ("p2", "p1"), ("p1", "n1"), ("n1", "p1")]
    result = [
        Augmented(
            id=f"s{i}",
            text=f"made {i} | x",
            label="pos",
            probs={"pos": 0.75, "neg": 0.25},
            method="gpt3mix",
            parents=list(names),
            label_source="exact",
        )
        for i, names in enumerate(parents)
    ]
    write_records(folder / "train.jsonl", real)
    write_records(folder / "gpt3mix.jsonl", result)
    write_records(
        folder / "trials" / "gpt3mix.linear.jsonl", [trial(0, method="gpt3mix", n_synthetic=4)]
    )
    result = report(inputs(tmp_path), tmp_path / "r")
    assert [sample.row.id for sample in result.samples] == ["s0", "s2", "s1"]
    assert [(row.text, row.label) for row in result.samples[1].parents] == [
        ("text <b>p1</b>", "pos"),
        ("text <b>n1</b>", "neg"),
    ]
    page = (tmp_path / "r" / "report.md").read_text("utf-8")
    assert (
        "- Example 2: text \\<b\\>n1\\</b\\> (*neg*)\n"
        "- **gpt3mix**: made 2 \\| x (**pos**: 75%, *neg*: 25%)" in page
    )
