"""`train` warns of synthetic sets that were made with other settings than the config has."""

from pathlib import Path

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks
from gpt3mix_cli.grid import Grid, select_trainings, stale_sets, warn_of_stale_sets
from gpt3mix_cli.records import Manifest, StageOptions, read_manifest

CONFIG = """\
name: n
task:
  data: {kind: demo}
  labels: {pos: positive, neg: negative}
  text_type: movie review
  label_type: sentiment
subsample: {levels: [2/class], seeds: 1, validation: 20}
lm: {kind: local, model: bundled}
augment: {max_tokens: 20, label_check: 0}
baselines: [{kind: eda}]
classifiers: [{kind: linear}, {kind: linear, name: other}]
trials: 1
"""


def test_a_set_of_other_settings_is_named_once_with_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "c.yaml").write_text(CONFIG)
    out = tmp_path / "results"
    read: list[str] = []

    def count(path: Path) -> Manifest | None:
        read.append(path.name)
        return read_manifest(path)

    monkeypatch.setattr(stale_sets, "read_manifest", count)

    def warnings_of(*overrides: str) -> list[str]:
        found: list[str] = []
        options = StageOptions(callbacks=Callbacks(warn=found.append))
        grid = Grid(load_experiments(path, overrides), out, options)
        grid.resources.lm = None  # type: ignore[assignment,method-assign]  # it is not opened
        steps = select_trainings(grid, list(grid.cells()))
        read.clear()
        warn_of_stale_sets(grid, steps)
        assert sorted(read) == ["eda.jsonl", "gpt3mix.jsonl"]  # once for both classifiers
        return found

    assert warnings_of() == []  # there is no set
    grid = Grid(load_experiments(path, ()), out)
    (cell,) = grid.cells()
    grid.subsample(cell)
    for method in ("gpt3mix", "eda"):
        grid.augment(cell, method, 0)
    grid.close()

    assert warnings_of() == []
    (warning,) = warnings_of("augment.max_tokens=21")
    assert "gpt3mix.jsonl: was made with other settings: augment.max_tokens 20 -> 21; " in warning
    assert "`gpt3mix augment` or `gpt3mix run` makes it again" in warning
    (warning,) = warnings_of("baselines.0.alpha=0.2")
    assert "eda.jsonl" in warning
    assert 'alpha "auto" -> 0.2; `gpt3mix baseline --method eda`' in warning
    (warning,) = warnings_of("augment.filter.max_disagreement=0.2")
    assert "augment.filter.max_disagreement null -> 0.2" in warning
    assert len(warnings_of("subsample.decontaminate=drop")) == 2
    (warning,) = warnings_of("augment.label_descriptions={pos: good}")
    assert "augment.label_descriptions.pos none" in warning
