"""Starts cost nothing: what is up to date is recognised without opening a model."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.recognition import split_finished
from gpt3mix_cli.grid.steps import cell_steps
from gpt3mix_cli.lm import open_lm
from gpt3mix_cli.lm.lazy_lm import LazyLM
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.lm.local.token_counter import open_token_counter
from gpt3mix_cli.method import selection
from gpt3mix_cli.records import Example
from gpt3mix_cli.report.charts import Chart, Point, SeriesStyle
from gpt3mix_cli.report.render import plots
from gpt3mix_cli.report.render.plot_files import write_plots
from gpt3mix_cli.settings import (
    LinearSettings,
    LocalLMSettings,
    SetFitSettings,
    TrainableSettings,
    TransformerSettings,
)
from gpt3mix_cli.train import open_classifier
from gpt3mix_cli.user_cache import ModelFacts, cache_folder, hash_large_file, hash_model

EXPERIMENT = """
name: small
task:
  data: {{kind: demo}}
  labels: {{pos: positive, neg: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [2/class], seeds: 1, validation: 4}}
lm: {{kind: local, model: {lm}, device: cpu}}
augment: {{ratio: 1, attempts: 16}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {encoder}, max_epochs: 1}}
trials: 1
"""
HEAVY = ("torch", "transformers", "sklearn", "pandas", "multiprocessing", "filelock")
MODEL_LIBRARIES = ("torch", "transformers", "sklearn", "matplotlib")


def write_experiment(folder: Path, lm: str, encoder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(EXPERIMENT.format(lm=lm, encoder=encoder), encoding="utf-8")
    return path


COMMANDS = """
import sys
from gpt3mix_cli.cli import main
for command in (["subsample"], ["augment"], ["baseline", "--method", "eda"], ["train"]):
    code = main([*command, "small.yaml", "--json"])
    print("exit code", code, [name for name in sys.argv[1:] if name in sys.modules])
"""


IMPORTS = """
import json, sys
from gpt3mix_cli.cli import main
command, names = map(json.loads, sys.argv[1:])
print("exit code", main(command), [name for name in names if name in sys.modules])
"""


def imports_of(*command: str) -> str:
    """Return a command's exit code, and those of the libraries that it imports."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(command), json.dumps(MODEL_LIBRARIES)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.splitlines()[-1]


def test_a_draw_and_a_plan_of_an_unknown_lm_load_no_model(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    write_experiment(tmp_path, "bundled", tiny_encoder)
    assert imports_of("subsample", "small.yaml") == "exit code 0 []"
    assert imports_of("plan", "small.yaml", "--no-measure") == "exit code 0 []"
    assert not (cache_folder() / "facts").exists()


def test_commands_with_nothing_to_do_import_nothing_heavy(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    write_experiment(tmp_path, "bundled", tiny_encoder)
    assert main(["run", "small.yaml", "--quiet"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *HEAVY], check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.count("exit code 0 []\n") == 4, done.stdout
    summaries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    outputs = [output for summary in summaries for output in summary["outputs"]]
    assert len(outputs) == 9
    assert all(output["skipped"] for output in outputs)
    # The plots are drawn already, and the answers of the journal tell how long lines are.
    assert imports_of("report", "small.yaml") == "exit code 0 []"
    assert imports_of("plan", "small.yaml") == "exit code 0 []"
    more_rows = imports_of("plan", "small.yaml", "--no-measure", "--set", "augment.ratio=2")
    assert more_rows == "exit code 0 []"


# One truth ---------------------------------------------------------------------------------------


def known_twice(settings: LocalLMSettings) -> tuple[LazyLM, LazyLM]:
    first, second = open_lm(settings), open_lm(settings)
    assert isinstance(first, LazyLM)
    assert isinstance(second, LazyLM)
    return first, second


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"batch_size": 7}])
def test_a_known_lm_says_what_the_opened_one_says(tiny_lm: Path, options: dict[str, Any]) -> None:
    settings = LocalLMSettings(kind="local", model=str(tiny_lm), **options)
    first, second = known_twice(settings)
    assert first._facts.is_computed
    assert not second._facts.is_computed
    assert second._facts.values == first._facts.values
    assert second.info.count_tokens("a film") == first.info.count_tokens("a film")
    # The first request opens it, and compares.
    assert not second._facts.is_computed
    assert second.score(["a film"], [" good"]) == first.score(["a film"], [" good"])
    assert second._facts.is_computed


@pytest.mark.parametrize(
    "text", ["", "a film", "Movie review: caf\u00e9 \U0001f642\n\n  12.50 (Sentiment: Positive)"]
)
@pytest.mark.parametrize("model", ["bundled", "tiny"])
def test_an_lm_that_only_counts_counts_like_the_opened_one(
    tiny_lm: Path, model: str, text: str
) -> None:
    model = str(tiny_lm) if model == "tiny" else model
    settings = LocalLMSettings(kind="local", model=model, device="cpu")
    unknown = open_lm(settings, replay_only=True, counts_only=True)
    engine = LocalLM(settings)
    assert unknown.info.count_tokens(text) == engine.info.count_tokens(text) >= 1
    assert unknown.info.context_length == engine.info.context_length
    assert "_engine" not in vars(unknown)


def test_a_tokenizer_that_the_library_reads_differently_counts_by_the_library(
    tiny_lm: Path, tmp_path: Path
) -> None:
    """Its tokenizer.json puts words before each text, which the library's class leaves out."""
    folder = shutil.copytree(tiny_lm, tmp_path / "lm")
    for name, changes in (
        ("tokenizer.json", {"normalizer": {"type": "Prepend", "prepend": "Once more: "}}),
        ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"}),
    ):
        content = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps(content | changes))
    settings = LocalLMSettings(kind="local", model=str(folder), device="cpu")
    first, second = known_twice(settings)
    counter = open_token_counter(settings)
    assert counter is not None
    assert counter("a film") > LocalLM(settings).info.count_tokens("a film")
    for lm in (first, second):
        assert lm.info.count_tokens("a film") == LocalLM(settings).info.count_tokens("a film")


def test_threads_that_ask_first_open_one_engine(tiny_lm: Path) -> None:
    _, lm = known_twice(LocalLMSettings(kind="local", model=str(tiny_lm)))
    both = threading.Barrier(2, timeout=60)

    def engine(_: int) -> Any:
        both.wait()
        return lm._checked_engine

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(engine, range(2))
    assert first is second


@pytest.mark.parametrize("model", ["bundled", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_our_own_lms_are_known_too(model: str) -> None:
    first, second = known_twice(LocalLMSettings(kind="local", model=model))
    assert not second._facts.is_computed
    assert second.info.fingerprint == first.info.fingerprint
    assert second.info.count_parameters() == first.info.count_parameters()


def test_other_settings_or_files_are_another_lm(tiny_lm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    folder.symlink_to(tiny_lm)
    known_twice(LocalLMSettings(kind="local", model=str(folder)))
    other = open_lm(LocalLMSettings(kind="local", model=str(folder), dtype="bfloat16"))
    assert isinstance(other, LazyLM)
    assert other._facts.is_computed
    os.utime(tiny_lm / "config.json")
    changed = open_lm(LocalLMSettings(kind="local", model=str(folder)))
    assert isinstance(changed, LazyLM)
    assert changed._facts.is_computed


Settings = Callable[[Path], TrainableSettings]
CLASSIFIERS: list[Settings] = [
    lambda folder: TransformerSettings(kind="transformer", model=str(folder)),
    lambda folder: TransformerSettings(kind="transformer", model=str(folder), dtype="bfloat16"),
    lambda folder: SetFitSettings(kind="setfit", model=str(folder)),
    lambda folder: LinearSettings(kind="linear"),
]


@pytest.mark.parametrize("settings", CLASSIFIERS, ids=["auto", "bfloat16", "setfit", "linear"])
def test_a_known_classifier_says_what_the_opened_one_says(
    settings: Settings, tiny_encoder: Path
) -> None:
    if settings(tiny_encoder).kind == "setfit":
        pytest.importorskip("setfit")
    first, second = (open_classifier(settings(tiny_encoder), ("pos", "neg")) for _ in range(2))
    assert second.about == first.about
    assert second.threads == first.threads
    assert not {"_encoder", "_unchecked_encoder"} & vars(second).keys()
    second.probe()  # opens it, and compares


def test_a_model_that_opens_in_another_way_than_before_is_noticed(tiny_lm: Path) -> None:
    settings = LocalLMSettings(kind="local", model=str(tiny_lm))
    known_twice(settings)
    (record,) = (cache_folder() / "facts").iterdir()
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"fingerprint": "of another device"}))
    lm = open_lm(settings)
    assert lm.info.fingerprint == "of another device"
    for _ in range(2):  # other cells would store its answers under the old fingerprint
        with pytest.raises(StoppedShort, match="another than before"):
            lm.score(["a film"], [" good"])
    assert open_lm(settings).info.fingerprint == about["fingerprint"]


def on_another_device(record: Path) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | {"device": "cuda"}))


@pytest.mark.parametrize("settings", [CLASSIFIERS[0], CLASSIFIERS[2]], ids=["auto", "setfit"])
def test_a_classifier_on_another_device_than_before_is_refused(
    settings: Settings, tiny_encoder: Path
) -> None:
    if settings(tiny_encoder).kind == "setfit":
        pytest.importorskip("setfit")
    before = open_classifier(settings(tiny_encoder), ("pos", "neg")).about
    (record,) = (cache_folder() / "facts").iterdir()
    on_another_device(record)
    classifier = open_classifier(settings(tiny_encoder), ("pos", "neg"))
    for _ in range(2):
        with pytest.raises(StoppedShort, match="another than before"):
            classifier.probe()
    assert classifier.about["device"] == "cuda"
    assert open_classifier(settings(tiny_encoder), ("pos", "neg")).about == before


def test_an_encoder_of_similarities_on_another_device_is_refused(tiny_encoder: Path) -> None:
    selection._facts_of.cache_clear()  # an earlier test may have had the same encoder
    before = selection.similarity_fingerprint(str(tiny_encoder))
    (record,) = (cache_folder() / "facts").iterdir()
    on_another_device(record)
    rows = [Example(id=str(number), text=f"film {number}", label="pos") for number in range(3)]
    try:
        selection._facts_of.cache_clear()  # as in another process
        assert selection.similarity_fingerprint(str(tiny_encoder)) != before
        for _ in range(2):
            with pytest.raises(StoppedShort, match="another than before"):
                selection.ExampleSelector(rows, "nearest", str(tiny_encoder)).select(2, Random(0))
    finally:
        selection._facts_of.cache_clear()
    assert selection.similarity_fingerprint(str(tiny_encoder)) == before


def test_facts_that_only_count_tokens_change_no_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("weights")

    def facts(dtype: str, read_only: bool = False) -> ModelFacts:
        values = {"dtype": dtype}
        return ModelFacts({}, str(tmp_path / "file"), None, lambda: values, read_only)

    assert facts("float32", read_only=True).values == {"dtype": "float32"}
    assert facts("bfloat16").values == {"dtype": "bfloat16"}
    facts("float32", read_only=True).check()
    assert facts("").values == {"dtype": "bfloat16"}


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_damaged_record_of_a_model_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text("weights")

    def facts() -> ModelFacts:
        return ModelFacts({"a": 1}, str(tmp_path / "file"), None, lambda: {"device": "cpu"})

    facts()
    (record,) = (cache_folder() / "facts").iterdir()
    record.write_text(content)
    assert facts().is_computed
    assert not facts().is_computed


def test_a_read_only_cache_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("weights")
    monkeypatch.setenv("GPT3MIX_CACHE", str(tmp_path / "file"))  # no folder can be in there
    for _ in range(2):
        facts = ModelFacts({}, str(tmp_path / "file"), None, lambda: {"device": "cpu"})
        assert facts.is_computed
        assert len(hash_large_file(tmp_path / "file")) == 64


def test_a_large_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * 1_000_000)
    before = hash_model(tmp_path)
    assert hash_model(tmp_path) == before
    assert len(list((cache_folder() / "hashes").iterdir())) == 1
    with file.open("r+b") as stream:  # of the same size
        stream.write(b"b")
    assert hash_model(tmp_path) != before


# Steps of a run ----------------------------------------------------------------------------------

LINEAR = """
name: small
task: {data: {kind: demo}, labels: [pos, neg], text_type: movie review, label_type: sentiment}
subsample: {levels: [2/class], seeds: 2, validation: 4}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 2
"""


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[], Grid]:
    """A finished experiment of two data seeds with four outputs each."""
    (tmp_path / "small.yaml").write_text(LINEAR)

    def open_small() -> Grid:
        return Grid(load_experiments(tmp_path / "small.yaml"), tmp_path / "out")

    assert not any(result.skipped for result in open_small().run())
    return open_small


def names(grid: Grid) -> tuple[list[str], list[str]]:
    """Return the outputs that are up to date, and the kinds of the other steps."""
    steps = [step for cell in grid.cells() for step in cell_steps(grid.experiment(cell), cell)]
    results, missing = split_finished(grid, steps)
    return [result.output.name for _, result in results], [type(step).__name__ for step in missing]


EACH = ["train.jsonl", "none.linear.jsonl", "eda.jsonl", "eda.linear.jsonl"]


def test_all_steps_of_a_finished_experiment_are_recognised(
    finished: Callable[[], Grid],
) -> None:
    assert names(finished()) == (EACH * 2, [])
    assert all(result.skipped for result in finished().run())


@pytest.mark.parametrize(
    ("output", "done_before"),
    [
        ("train.jsonl", []),
        ("trials/none.linear.jsonl", ["train.jsonl", "eda.jsonl", "eda.linear.jsonl"]),
        ("eda.jsonl", ["train.jsonl", "none.linear.jsonl"]),
    ],
)
def test_steps_that_read_a_changed_output_are_not_checked(
    finished: Callable[[], Grid], tmp_path: Path, output: str, done_before: list[str]
) -> None:
    path = tmp_path / "out/small/2-per-class/seed-0" / output
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"0", b"1"))  # of the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    done, missing = names(finished())
    assert done == done_before + EACH
    assert len(missing) == 4 - len(done_before)


def test_a_check_makes_nothing(finished: Callable[[], Grid], tmp_path: Path) -> None:
    for path in (tmp_path / "out").rglob("eda.jsonl*"):
        path.unlink()
    before = sorted((tmp_path / "out").rglob("*"))
    assert names(finished())[1] == ["AugmentStep", "TrainStep"] * 2
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_force_recognises_nothing(finished: Callable[[], Grid]) -> None:
    grid = finished()
    grid.options = grid.options.__class__(force=True)
    assert names(grid)[0] == []


# Plots -------------------------------------------------------------------------------------------


def test_plots_are_drawn_again_only_if_chart_or_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = Chart("accuracy", "Accuracy", "interval", "n", "%", [Point("", "eda", 8.0, 0.5)], "")
    styles = {"eda": SeriesStyle(1, 1)}
    drawn, draw = list[str](), plots.plot_files

    def count(charts: Sequence[Chart], styles: plots.Styles) -> Iterator[tuple[str, bytes]]:
        drawn.extend(chart.title for chart in charts)
        return draw(charts, styles)

    monkeypatch.setattr(plots, "plot_files", count)
    for _ in range(2):
        write_plots([chart], styles, tmp_path)
    before = (tmp_path / "accuracy.svg").read_bytes()
    assert drawn == ["Accuracy"]
    (tmp_path / "accuracy.svg").write_bytes(before + b" ")
    write_plots([chart], styles, tmp_path)
    assert drawn == ["Accuracy"] * 2
    assert (tmp_path / "accuracy.svg").read_bytes() == before
    write_plots([replace(chart, title="Other")], styles, tmp_path)
    assert drawn == [*["Accuracy"] * 2, "Other"]
