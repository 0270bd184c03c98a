"""`--no-top-up`: another filter on the answers that are there."""

from dataclasses import replace
from pathlib import Path

import pytest
from endpoint_server import serving

from gpt3mix_cli.augment.filter import split_words
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.layout import journal_path
from gpt3mix_cli.lm.journal_listing import list_answers
from gpt3mix_cli.records import Augmented, IncompleteOutput, read_records

LOCAL = "{kind: local, model: bundled}"
CONFIG = """\
name: n
task:
  data: {kind: demo}
  labels: {pos: positive, neg: negative}
  text_type: movie review
  label_type: sentiment
subsample: {levels: [4/class], seeds: 1, validation: 20}
lm: {kind: local, model: bundled}
augment: {max_tokens: 30, label_check: 0}
classifiers: [{kind: linear}]
trials: 1
"""


def test_a_stricter_filter_asks_nothing_and_replaces_no_rows_that_trials_have_read(
    tmp_path: Path,
) -> None:
    (path := tmp_path / "c.yaml").write_text(CONFIG)

    def open_grid(*overrides: str) -> Grid:
        return Grid(load_experiments(path, overrides), tmp_path / "results")

    grid = open_grid()
    for step in grid.steps():
        grid.run_step(step)
    (cell,) = grid.cells()
    rows = grid.layout.synthetic_path(cell, "gpt3mix")
    before, answers = rows.read_bytes(), list(list_answers(journal_path(rows)))
    grid.close()

    most = max(len(split_words(row.text)) for row in read_records(rows, Augmented))
    strict = open_grid(f"augment.filter.min_words={most}")
    strict.tops_up = False
    with pytest.raises(UserError, match=r"other synthetic rows: augment\.filter\.min_words 1 ->"):
        strict.augment(cell, "gpt3mix", 0)
    assert rows.read_bytes() == before

    strict.options = replace(strict.options, force=True)
    with pytest.raises(IncompleteOutput, match="of 8 rows"):
        strict.augment(cell, "gpt3mix", 0)
    assert all(len(split_words(row.text)) >= most for row in read_records(rows, Augmented))
    assert rows.stat().st_size
    assert list(list_answers(journal_path(rows))) == answers
    assert rows.with_name("gpt3mix.jsonl.bak").read_bytes() == before
    strict.close()


def test_an_endpoint_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for what it can do; and the list of its answers holds no key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    with serving(dialect="vllm") as server:
        lm = f"{{kind: openai, base_url: '{server.base_url}', model: tiny}}"
        (path := tmp_path / "c.yaml").write_text(CONFIG.replace(LOCAL, lm))
        grid = Grid(load_experiments(path), tmp_path / "results")
        (cell,) = grid.cells()
        grid.subsample(cell)
        rows = grid.augment(cell, "gpt3mix", 0).output
        grid.close()
        lengths = sorted(len(split_words(row.text)) for row in read_records(rows, Augmented))
        answers = list(list_answers(journal_path(rows)))
        server.reset()
        monkeypatch.delenv("OPENAI_API_KEY")
        strict = Grid(
            load_experiments(path, [f"augment.filter.min_words={lengths[4]}"]), tmp_path / "results"
        )
        strict.tops_up = False
        with pytest.raises(IncompleteOutput, match="no request is sent"):
            strict.augment(cell, "gpt3mix", 0)
        strict.close()
        assert server.requests == 0
    kept = [len(split_words(row.text)) for row in read_records(rows, Augmented)]
    assert sorted(kept) == [length for length in lengths if length >= lengths[4]]
    assert answers
    assert all(answer["prompt_tokens"] for answer in answers if answer["texts"])
    assert "sk-of-a-test" not in str(answers)
