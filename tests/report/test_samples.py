"""Samples of synthetic rows with their parents."""

from pathlib import Path

from experiment import experiment
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


def test_low_label_mass_is_a_remark(tmp_path: Path) -> None:
    from gpt3mix_cli.method.labels import LOW_LABEL_MASS as limit
    from gpt3mix_cli.report.artifacts import LOW_LABEL_MASS

    assert limit == LOW_LABEL_MASS
    folder = experiment(tmp_path)
    assert not [remark for remark in _remarks(folder) if "label mass" in remark]
    for path in folder.rglob("gpt3mix.jsonl"):
        path.write_text(path.read_text("utf-8").replace('"label_mass": 0.97', '"label_mass": 0.2'))
    (remark,) = [remark for remark in _remarks(folder) if "label mass" in remark]
    assert remark.startswith("sst2 gpt3mix: the mean label mass is 20.0%, so the LM's labels are")


def _remarks(folder: Path) -> list[str]:
    return list(report(inputs(folder), folder / "report").remarks)


def test_a_sample_of_many_classes_names_the_likeliest_ones(tmp_path: Path) -> None:
    from gpt3mix_cli.report.artifacts import Sample, SyntheticFile

    file = SyntheticFile("t", "", "1%", "gpt3mix", 0, 0, tmp_path)
    probs = {f"class {number}": 0.001 for number in range(77)} | {"class 7": 0.7, "class 8": 0.225}
    row = Augmented(
        id="s", text="x", label="class 7", probs=probs, method="gpt3mix", parents=[],
        label_source="exact",
    )  # fmt: skip
    assert Sample(file, row, []).labels == [("class 7", 0.7), ("class 8", 0.225)]
