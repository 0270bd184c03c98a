"""The commands as a shell sees them: chained, repeated, killed, interrupted, with broken input."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from gpt3mix_cli.cli import app, main
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.settings import Task

pytestmark = pytest.mark.usefixtures("without_plots")

SCRIPT = Path(sys.executable).with_name("gpt3mix")
COMMANDS = sorted(vars(typer.main.get_command(app))["commands"])
HEAVY = {"torch", "transformers", "datasets", "sklearn", "pandas", "numpy", "pydantic"}
DEADLINE = 120  # seconds that a test waits for a process

CONFIG = """\
# A user's own reviews: gpt3mix run mine.yaml
name: mine
task:
  data:
    {{kind: files, train: train.csv, validation: validation.csv, test: test.csv, text: review,
     label: stars, values: {{1: bad, 5: good}}}}
  labels: {{good: positive, bad: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [3/class], seeds: 2}}
lm: {{kind: local, model: bundled, batch_size: 4, device: cpu}}
augment: {{ratio: 1, temperature: 0.9, max_tokens: 60}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {encoder}, lr: 1e-3, max_epochs: 2, dtype: float32,
     device: cpu}}
trials: 2
"""
# Without models, so that a process of its own takes a second or two.
LINEAR = ["--set", "classifiers=[{kind: linear}]"]
LIGHT = ["--set", "lm=null", *LINEAR]


class CommandResult:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CommandResult]:
    """Run a command line in this process; `text` is its stdin."""

    def run(*arguments: object, text: str = "") -> CommandResult:
        capsys.readouterr()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stdin, monkeypatch.context() as here:
            stdin.write(text)
            stdin.seek(0)
            here.setattr(sys, "stdin", stdin)
            code = main([str(argument) for argument in arguments])
        return CommandResult(code, *capsys.readouterr())

    return run


def shell(
    *arguments: object, folder: Path, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the console script in a process of its own."""
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        env={**os.environ, **environment},
    )


def own_data(folder: Path, encoder: Path) -> Path:
    """Write CSV files and an experiment over them."""
    task = Task.model_validate({"name": "demo", "data": {"kind": "demo"}, "labels": ["pos", "neg"]})
    splits = load_splits(task, 0)
    for name, rows in (
        ("train", splits.train[:60]),
        ("validation", splits.validation[:12]),
        ("test", splits.test[:40]),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["stars", "review"])
            writer.writerows([5 if row.label == "pos" else 1, row.text] for row in rows)
    path = folder / "mine.yaml"
    path.write_text(CONFIG.format(encoder=encoder), encoding="utf-8")
    return path


@pytest.fixture
def mine(tmp_path: Path, tiny_encoder: Path) -> Path:
    return own_data(tmp_path, tiny_encoder)


def chain(config: Path, out: Path) -> Iterator[list[str]]:
    """Yield the commands of a user who runs each stage by hand, seed by seed."""
    for seed in ("0", "1"):
        common = [str(config), "--out", str(out), "--level", "3/class", "--seed", seed]
        yield ["subsample", *common]
        yield ["augment", *common]
        yield ["baseline", *common, "--method", "eda"]
        yield ["train", *common]
    yield ["report", str(config), "--out", str(out)]


def contents(folder: Path) -> dict[str, str]:
    """Return every JSONL file and report under a folder, without the seconds."""
    texts = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jsonl", ".md", ".csv"):
            texts[str(path.relative_to(folder))] = re.sub(
                r'"seconds": [\d.]+', '"seconds": 0', path.read_text(encoding="utf-8")
            )
    return texts


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """The folder of an experiment that was run by hand, seed by seed; read only."""
    folder = tmp_path_factory.mktemp("chained")
    config = own_data(folder, tiny_encoder)
    for command in chain(config, folder / "results"):
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            assert main(command) == 0, err.getvalue()
    return folder


# A whole experiment ------------------------------------------------------------------------------


def test_the_chain_writes_what_the_design_lists(chained: Path) -> None:
    cell = ["eda.jsonl", "gpt3mix.jsonl", "gpt3mix.rejects.jsonl", "train.jsonl"]
    trials = [
        f"trials/{method}.{c}{end}.jsonl"
        for method in ("none", "gpt3mix", "eda")
        for c in ("linear", "tiny")
        for end in ("", ".history")
    ]
    expected = {f"3-per-class/seed-{seed}/{name}" for seed in (0, 1) for name in (*cell, *trials)}
    expected |= {"report/report.md", "report/table.csv"}  # and table.tex, report.json
    files = contents(chained / "results" / "mine")
    assert set(files) == expected
    rows = [json.loads(line) for line in files["3-per-class/seed-1/gpt3mix.jsonl"].splitlines()]
    assert len(rows) == 6
    assert {label for row in rows for label in row["probs"]} == {"good", "bad"}
    assert any(0.01 < row["probs"]["good"] < 0.99 for row in rows)
    for seed in (0, 1):
        trial = json.loads(files[f"3-per-class/seed-{seed}/trials/gpt3mix.tiny.jsonl"])
        assert (
            trial["trial"],
            trial["data_seed"],
            trial["n_train"],
            trial["n_synthetic"],
            trial["n_test"],
        ) == (seed, seed, 6, 6, 40)


def test_trials_are_paired_over_methods(chained: Path) -> None:
    for seed in (0, 1):
        rows = [
            json.loads(path.read_text())
            for path in sorted(
                (chained / f"results/mine/3-per-class/seed-{seed}/trials").glob("*.tiny.jsonl")
            )
        ]
        assert len(rows) == 3
        assert len({(row["seed"], row["train_sha"], row["test_sha"]) for row in rows}) == 1
        assert len({row["settings"] for row in rows}) == 3


REPEAT = """
import json, sys
from gpt3mix_cli.cli import main
sys.exit(max(main(command) for command in json.loads(sys.argv[1])))
"""


@pytest.mark.slow
def test_another_process_folder_and_hash_seed_give_the_same_bytes(
    chained: Path, mine: Path, tmp_path: Path
) -> None:
    commands = json.dumps(list(chain(Path("mine.yaml"), Path("elsewhere"))))
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": str(_threads())}
    done = subprocess.run(
        [sys.executable, "-c", REPEAT, commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "elsewhere") == contents(chained / "results")


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def linear_rows(folder: Path) -> dict[str, str]:
    """Return the contents that do not depend on an encoder."""
    return {
        name: text
        for name, text in contents(folder).items()
        if ".tiny." not in name and "report" not in name
    }


@pytest.mark.slow
def test_run_writes_the_same_files_as_the_commands_by_hand(
    chained: Path, mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("run", mine, *LINEAR).code == 0
    assert linear_rows(tmp_path / "results") == linear_rows(chained / "results")
    assert len(linear_rows(tmp_path / "results")) == 20


@pytest.mark.slow
def test_run_writes_the_same_trials_of_an_encoder_as_the_commands_by_hand(
    chained: Path, mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("run", mine).code == 0
    assert contents(tmp_path / "results") == contents(chained / "results")


def test_a_second_time_all_is_up_to_date_and_untouched(
    chained: Path, call: Callable[..., CommandResult]
) -> None:
    files = [
        path
        for path in (chained / "results").rglob("*")
        if path.is_file() and path.parent.name != "report" and path.suffix != ".sqlite"
    ]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    for command in chain(chained / "mine.yaml", chained / "results"):
        done = call(*command)
        assert done.code == 0
        if command[0] != "report":
            assert "up to date, skipped" in done.err
            assert " 0 up to date" not in done.err
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before


def test_a_changed_setting_redoes_what_it_changes_and_nothing_else(
    mine: Path, call: Callable[..., CommandResult]
) -> None:
    """With --force: without it, finished work stays, and so do the rows that it has read."""
    assert call("run", mine, *LIGHT, "--json").code == 0
    changed = ("train", mine, *LIGHT, "--json", "--set", "classifiers.0.C=1")
    stopped = call(*changed)
    assert stopped.code == 2
    assert "is finished, with other settings or rows: classifier.C 10.0 -> 1.0" in stopped.err
    assert "--set name=NAME" in stopped.err
    done = call(*changed, "--force")
    assert [item["skipped"] for item in json.loads(done.out)["outputs"]] == [False] * 4
    more = ("baseline", mine, *LIGHT, "--json", "--method", "eda", "--ratio", "2")
    stopped = call(*more)
    assert stopped.code == 2
    assert "with other synthetic rows: augment.ratio 1 -> 2" in stopped.err
    done = call(*more, "--force")
    assert [(item["rows"], item["skipped"]) for item in json.loads(done.out)["outputs"]] == [
        (12, False)
    ] * 2
    done = call(*changed, "--method", "none")
    assert [item["skipped"] for item in json.loads(done.out)["outputs"]] == [True] * 2
    stopped = call(*changed)
    assert stopped.code == 2
    assert "augment.ratio 1.0 -> 2.0, other synthetic rows" in stopped.err
    assert call("run", mine, *LIGHT, "--set", "classifiers.0.C=1", "--set", "name=other").code == 0


# Killed and interrupted --------------------------------------------------------------------------


def until(is_reached: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait until a condition holds; if the process ends before, the test fails."""
    end = time.monotonic() + DEADLINE
    while not is_reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)


def start(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    def listen() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # tests in the background hand down an ignored SIGINT

    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )


@pytest.mark.slow
def test_an_interrupted_run_exits_with_130_and_resumes(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    many = [*LIGHT, "--set", "subsample.seeds=20", "--set", "trials=20"]
    process = start("run", mine, *many, folder=tmp_path)
    until(lambda: len(list(tmp_path.rglob("trials/*.linear.jsonl"))) > 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted; finished work is kept" in err
    assert "Traceback" not in err
    done = call("run", mine, *many)
    assert done.code == 0
    assert int(re.findall(r"stages done \((\d+) up to date", done.err)[0]) > 1
    assert not list(tmp_path.rglob("*.partial"))


def test_two_runs_at_once_do_not_mix(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    import fcntl

    output = tmp_path / "rows.jsonl"
    with (tmp_path / ".rows.jsonl.partial.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = call("subsample", mine, "--seed", 0, "-o", output)
    assert done.code == 2
    assert "another process is writing it" in done.err
    assert not output.exists()


# Streams -----------------------------------------------------------------------------------------


def test_rows_can_go_through_pipes(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    cell = tmp_path / "results" / "mine" / "3-per-class" / "seed-1"
    edit = ["baseline", mine, *LIGHT, "--seed", 1, "--method", "eda"]
    assert call("subsample", mine, *LIGHT).code == 0
    assert call(*edit).code == 0
    before = contents(tmp_path)
    drawn = call("subsample", mine, *LIGHT, "--seed", 1, "-o", "-")
    assert (drawn.code, drawn.out) == (0, (cell / "train.jsonl").read_text())
    process = shell(*edit, "-i", "-", "-o", "-", folder=tmp_path, text=drawn.out)
    assert (process.returncode, process.stdout) == (0, (cell / "eda.jsonl").read_text())
    assert contents(tmp_path) == before
    assert not (tmp_path / "-").exists()


def test_trials_can_go_to_stdout(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine, *LIGHT).code == 0
    done = call("train", mine, *LIGHT, "--seed", 0, "--method", "none", "-o", "-")
    assert done.code == 0
    assert json.loads(done.out)["n_train"] == 6
    assert not list(tmp_path.glob("-*"))


def test_synthetic_rows_can_come_from_stdin(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    row = {"text": "a", "label": "good", "probs": {"good": 0.8, "bad": 0.2}, "method": "made"}
    text = "".join(json.dumps({"id": f"s{i}", **row}) + "\n" for i in range(3))
    assert call("subsample", mine, *LIGHT).code == 0
    train = ["train", mine, *LIGHT, "--seed", 0, "-a", "-", "-o", "trials.jsonl"]
    done = call(*train, text=text)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "trials.jsonl").read_text())["n_synthetic"] == 3


def test_real_rows_from_stdin_serve_every_method(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine, *LIGHT).code == 0
    assert call("baseline", mine, *LIGHT, "--method", "eda").code == 0
    text = next((tmp_path / "results").rglob("seed-0/train.jsonl")).read_text()
    done = call("train", mine, *LIGHT, "--seed", 0, "-i", "-", text=text)
    assert done.code == 0, done.err
    assert [
        json.loads(path.read_text())["n_train"]
        for path in (tmp_path / "results").rglob("trials/*.linear.jsonl")
    ] == [6, 6]


def test_synthetic_rows_of_other_real_rows_are_refused(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("run", mine, *LIGHT).code == 0
    other = ["--set", "subsample.master_seed=7"]
    assert call("subsample", mine, *LIGHT, *other, "--force").code == 0
    done = call("train", mine, *LIGHT, *other, "--method", "eda")
    assert done.code == 2
    assert "its rows were made from other real rows than these" in done.err


def test_augmented_rows_cannot_be_the_method_none(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("run", mine, *LIGHT).code == 0
    rows = next((tmp_path / "results").rglob("seed-0/eda.jsonl"))
    done = call("train", mine, *LIGHT, "--seed", 0, "-a", rows, "--method", "none")
    assert done.code == 2
    assert "'none' cannot be the name of a method" in done.err


def test_an_output_cannot_be_the_input(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine, *LIGHT).code == 0
    real = next((tmp_path / "results").rglob("seed-0/train.jsonl"))
    before = real.read_bytes()
    done = call("baseline", mine, *LIGHT, "--method", "eda", "-i", real, "-o", real)
    assert done.code == 2
    assert "is the input too" in done.err
    assert real.read_bytes() == before


@pytest.mark.parametrize("level", ["0%", "200%", "0/class", "8"])
def test_a_level_of_the_command_line_is_checked_as_in_the_config(
    mine: Path, level: str, call: Callable[..., CommandResult]
) -> None:
    done = call("subsample", mine, "--level", level)
    assert done.code == 2
    assert f"--level {level}" in done.err


def test_other_cells_continue_if_one_falls_short(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine).code == 0
    done = call(
        "augment", mine, "--set", "augment.max_tokens=1", "--set", "augment.attempts=1", "--json"
    )
    assert done.code == 3
    assert len(list((tmp_path / "results").rglob("gpt3mix.jsonl"))) == 2
    assert [(output["rows"], output["complete"]) for output in json.loads(done.out)["outputs"]] == [
        (0, False)
    ] * 2


def test_a_closed_pipe_is_no_error(chained: Path) -> None:
    report = f"{SCRIPT} report {chained / 'results'} -o {chained / 'piped'} -q"
    command = f"{report} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_or_closed_stdout_is_reported(mine: Path, tmp_path: Path) -> None:
    for command in (
        f"{SCRIPT} subsample {mine} --seed 0 -o - > /dev/full",
        f"{SCRIPT} subsample {mine} --seed 0 --json -q > /dev/full",
    ):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "stdout: cannot be written" in done.stderr
    done = subprocess.run(
        ["bash", "-c", f"{SCRIPT} subsample {mine} --seed 0 -o - >&-"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr


def test_a_device_is_never_replaced(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = call("subsample", mine, "--seed", 0, "-o", tmp_path / "pipe")
    assert done.code == 2
    assert "is not a plain file" in done.err
    assert (tmp_path / "pipe").is_fifo()


def test_stdout_holds_results_only(chained: Path, call: Callable[..., CommandResult]) -> None:
    for command in chain(chained / "mine.yaml", chained / "results"):
        done = call(*command)
        assert bool(done.out) == (command[0] == "report")
        assert done.err.count("\n") >= 1
        assert done.err.splitlines()[-1].startswith(("1 file, ", "6 files, ", "report over "))
        assert not re.search("\x1b", done.out + done.err)  # no colours where there is no terminal
    assert "gpt3mix" in done.out
    assert "%" in done.out


def test_the_last_line_names_the_next_command(
    mine: Path, call: Callable[..., CommandResult]
) -> None:
    ends = [
        call(*command, *LIGHT).err.splitlines()[-1]
        for command in chain(mine, Path("results"))
        if command[0] in ("subsample", "baseline", "train")
    ]
    flags = "--level 3/class --seed 0 --set lm=null --set 'classifiers=[{kind: linear}]'"
    assert ends[0] == f"1 file, 6 rows; next: gpt3mix baseline {mine} --method eda {flags}"
    assert ends[1] == f"1 file, 6 rows; next: gpt3mix train {mine} {flags}"
    assert ends[2] == f"2 files, 2 rows; next: gpt3mix report {mine}{flags.partition(' 0')[2]}"


def test_json_is_one_object_on_stdout_and_nothing_else(
    chained: Path, call: Callable[..., CommandResult]
) -> None:
    keys = {"report": {"verdict", "cells", "comparisons", "remarks", "files", "warnings"}}
    for command in chain(chained / "mine.yaml", chained / "results"):
        done = call(*command, "--json")
        assert done.code == 0
        assert set(json.loads(done.out)) == keys.get(command[0], {"outputs", "warnings"})
        assert done.out.count("\n") == 1
    cells = json.loads(done.out)["cells"]
    assert [(cell["method"], cell["classifier"], cell["n"]) for cell in cells] == [
        (method, c, 2) for c in ("linear", "tiny") for method in ("none", "gpt3mix", "eda")
    ]


def test_json_of_run_and_check_is_one_object(
    mine: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("run", mine, *LIGHT, "--json")
    summary = json.loads(done.out)
    assert summary["verdict"]["overall"]
    assert "verdict" not in done.err
    assert "report over " in done.err.splitlines()[-1]
    assert set(summary) == {
        "verdict",
        "cells",
        "comparisons",
        "remarks",
        "files",
        "warnings",
    }
    findings = json.loads(call("check", mine, *LIGHT, "--json").out)["findings"]
    assert [(item["what"], item["good"]) for item in findings] == [
        (what, True)
        for what in ("config", "data", "baseline eda", "classifier linear", "devices", "output")
    ]


def test_quiet_prints_nothing(mine: Path, call: Callable[..., CommandResult]) -> None:
    for command in ("subsample", "baseline", "train"):
        done = call(
            command,
            mine,
            *LIGHT,
            "--quiet",
            *(["--method", "eda"] if command == "baseline" else []),
        )
        assert (done.code, done.out, done.err) == (0, "", "")
    assert call("report", mine, *LIGHT, "-q").err == ""


def test_show_prints_rows_after_their_parents_as_table_4_does(
    chained: Path, call: Callable[..., CommandResult]
) -> None:
    """With the task's label words, although all is up to date."""
    done = call(
        "augment", chained / "mine.yaml", "--out", chained / "results", "--seed", 0, "--show", 2
    )
    assert "up to date" in done.err
    for block in done.out.strip().split("\n\n"):
        first, second, synthetic = block.splitlines()
        assert re.fullmatch(r"Example 1  .+ \((positive|negative)\)", first)
        assert re.fullmatch(r"Example 2  .+ \((positive|negative)\)", second)
        assert re.fullmatch(r"GPT3Mix    .+ \(positive: \d+%, negative: \d+%\)", synthetic)
    assert done.out.count("GPT3Mix") == 2
    done = call(
        "baseline",
        chained / "mine.yaml",
        "--method",
        "eda",
        "--out",
        chained / "results",
        "--seed",
        0,
        "--show",
        1,
    )
    assert re.fullmatch(r"Original  .+ \((positive|negative)\)\nEDA       .+ \(\1\)\n\n", done.out)


def test_augment_ends_with_statistics_of_the_rows(
    chained: Path, call: Callable[..., CommandResult]
) -> None:
    """In full for one file, as a table for several, as numbers with --json; as in the manifest."""
    common = [chained / "mine.yaml", "--out", chained / "results"]
    lines = [
        line.split(maxsplit=1) for line in call("augment", *common, "--seed", 0).err.splitlines()
    ]
    said = {words[0]: words[1] for words in lines if len(words) == 2}
    assert said["rows"].startswith("6 of ")
    assert re.fullmatch(r"\d good, \d bad", said["classes"])
    assert re.fullmatch(
        r"distinct-1 [\d.]+, distinct-2 [\d.]+, self-BLEU [\d.]+", said["diversity"]
    )
    table = call("augment", *common).err
    assert re.search(r"seed-0/gpt3mix +6/\d+ .*\n.*seed-1/gpt3mix +6/\d+ ", table)
    assert "mass" not in call("baseline", *common, "--method", "eda").err
    item = json.loads(call("augment", *common, "--seed", 0, "--json").out)["outputs"][0]
    counts = json.loads(Path(item["output"] + ".manifest.json").read_text())["counts"]
    assert item["counts"] == counts
    assert item["tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]
    assert f"entropy {counts['statistics']['entropy_bits']:.3f} bits" in said["soft"]


@pytest.mark.parametrize("flag", ["--license", "--licence"])
def test_card_writes_a_data_card_for_each_file_of_rows(
    flag: str, mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine).code == 0
    assert call("baseline", mine, *LIGHT, "--method", "eda", "-q").code == 0
    assert not list(tmp_path.rglob("*.card.md"))
    done = call("baseline", mine, *LIGHT, "--method", "eda", "--seed", 1, flag, "cc0-1.0")
    (path,) = (tmp_path / "results").rglob("*.card.md")
    assert path.name == "eda.card.md"
    assert "license: cc0-1.0" in path.read_text("utf-8")
    assert "1 card: " in done.err
    assert (
        len(
            call("baseline", mine, *LIGHT, "--method", "eda", "--card")
            .err.split("2 cards: ")[1]
            .splitlines()[0]
            .split(", ")
        )
        == 2
    )
    done = call("baseline", mine, *LIGHT, "--method", "eda", "--seed", 0, "--card", "-o", "-")
    assert (done.code, done.out) == (2, "")
    assert "--card" in done.err


def test_copies_of_test_rows_never_reach_the_output(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    """A text of the LM becomes a test row: the filter then rejects it, and the output is stale."""
    assert call("subsample", mine).code == 0
    path = tmp_path / "results" / "mine" / "3-per-class" / "seed-0" / "gpt3mix.jsonl"
    assert (
        call("augment", mine, "--seed", 0, "--set", "augment.filter.reject_test_copies=false").code
        == 0
    )
    leaked = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    with (tmp_path / "test.csv").open("a", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerow([5, leaked[0].upper()])
    assert (
        "up to date"
        in call(
            "augment", mine, "--seed", 0, "--set", "augment.filter.reject_test_copies=false"
        ).err
    )
    done = call("augment", mine, "--seed", 0, "--force")
    assert done.code == 0
    assert "1 reject_test_copies" in done.err
    rows = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    assert rows[:5] == leaked[1:6]
    (reject,) = [
        row
        for row in map(
            json.loads, path.with_name("gpt3mix.rejects.jsonl").read_text("utf-8").splitlines()
        )
        if row["reason"] == "reject_test_copies"
    ]
    assert reject["text"] == leaked[0]
    (tmp_path / "test.csv").unlink()
    done = call("augment", mine, "--seed", 0, "--force")
    assert done.code == 2
    assert "test.csv" in done.err
    assert "augment.filter.reject_test_copies=false" in done.err


# Exit codes --------------------------------------------------------------------------------------


def test_version_and_help_exit_with_0() -> None:
    done = shell("--version", folder=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"gpt3mix \d+\.\d+\S*\n", done.stdout)


HELP = """
import contextlib, io, json, sys
from gpt3mix_cli.cli import main
results = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(command)
    results.append([code, out.getvalue(), sorted(sys.modules)])
print(json.dumps(results))
"""


def test_the_help_of_every_command_loads_nothing_heavy(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 14
    lines = [["--help"], *([command, "--help"] for command in COMMANDS), ["run", "-h"]]
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    results = json.loads(done.stdout)
    assert [code for code, _, _ in results] == [0] * len(lines)
    assert all("Usage: gpt3mix" in text for _, text, _ in results)
    assert all(command in results[0][1] for command in COMMANDS)
    assert not HEAVY & set(results[0][2])
    # Typer 0.29 itself builds the parameters of a command with pydantic; our models stay out.
    assert not (HEAVY - {"pydantic"}) & set(results[-1][2])
    ours = {name for name in results[-1][2] if name.startswith("gpt3mix_cli")}
    assert {name for name in ours if not name.startswith("gpt3mix_cli.cli")} == {
        "gpt3mix_cli",
        "gpt3mix_cli.errors",
        "gpt3mix_cli.process",
        "gpt3mix_cli.stopping",
    }


def test_too_few_rows_stop_with_3_and_are_kept(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("subsample", mine).code == 0
    done = call(
        "augment", mine, "--seed", 0, "--set", "augment.max_tokens=1", "--set", "augment.attempts=1"
    )
    assert done.code == 3
    assert "0 of 6 rows" in done.err
    assert "unfinished" in done.err
    output = tmp_path / "results" / "mine" / "3-per-class" / "seed-0" / "gpt3mix.jsonl"
    assert output.exists()
    assert not json.loads(output.with_name("gpt3mix.jsonl.manifest.json").read_text())["complete"]


def test_failed_trials_stop_with_3_and_the_next_run_repeats_them(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    broken = [
        "--set",
        "lm=null",
        "--set",
        "baselines=[]",
        "--set",
        "classifiers.1.lr=1e30",
        "--set",
        "classifiers.1.warmup_epochs=0",
    ]
    broken += ["--set", "classifiers.1.batch_size=2"]
    done = call("run", mine, *broken)
    assert done.code == 3
    assert "ArithmeticError: the loss became nan" in done.err
    assert "failed (2)" in done.out
    assert "none" in done.out
    assert (tmp_path / "results" / "mine" / "report" / "report.md").exists()
    fixed = [word.replace("1e30", "1e-3") for word in broken]
    assert call("run", mine, *fixed).code == 0


def test_no_arguments_and_unknown_ones_exit_with_2(
    call: Callable[..., CommandResult], mine: Path
) -> None:
    assert call().code == 2
    for arguments in (
        ["nonsense"],
        ["run"],
        ["run", mine, "--nonsense"],
        ["train", mine, "--trials", "0"],
        ["baseline", mine],
    ):
        done = call(*arguments)
        assert done.code == 2, arguments
        assert done.out == ""
        assert "Traceback" not in done.err


# Broken input ------------------------------------------------------------------------------------

Break = Callable[[Path], object]


def put(name: str, text: str) -> Break:
    return lambda folder: (folder / name).write_text(text)


def change(name: str, old: str, new: str) -> Break:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


JSONL = [
    "--set",
    "task.data={kind: files, train: rows.jsonl, test: test.csv, text: review, label: stars, "
    "values: {1: bad, 5: good}}",
]
GOOD_ROW = '{"review": "fine", "stars": 5}\n'

BROKEN: dict[str, tuple[Break, Sequence[str], Sequence[str]]] = {
    "unknown key": (
        change("mine.yaml", "temperature:", "temperatur:"),
        [],
        ["mine.yaml", "augment.temperatur: unknown key; did you mean 'temperature'?"],
    ),
    "key that stands twice": (
        change("mine.yaml", "trials: 2", "trials: 2\ntrials: 3"),
        [],
        ["mine.yaml, line", "duplicate key 'trials'"],
    ),
    "no yaml": (put("mine.yaml", "name: [a\n"), [], ["mine.yaml, line", "not valid YAML"]),
    "two wrong keys": (
        change("mine.yaml", "trials: 2", "trials: 0"),
        ["--set", "augment.ratio=0"],
        ["2 problems", "trials:", "augment.ratio:"],
    ),
    "no such level": (lambda _: None, ["--level", "1 %"], ["--level 1 %", "8/class"]),
    "no such config": (
        lambda folder: (folder / "mine.yaml").unlink(),
        [],
        ["mine.yaml: no such file"],
    ),
    "no such data": (
        lambda folder: (folder / "test.csv").unlink(),
        [],
        ["test.csv: cannot be read"],
    ),
    "label outside the task": (
        change("train.csv", "\n5,", "\n3,"),
        [],
        ["train.csv, line", "label '3'", "'good', 'bad'", "task.data.values"],
    ),
    "empty file": (put("validation.csv", ""), [], ["validation split has no rows"]),
    "header only": (put("test.csv", "stars,review\n"), [], ["test split has no rows"]),
    "missing column": (
        change("train.csv", "stars,review", "stars,texts"),
        [],
        ["train.csv, line 1", "no column 'review'", "task.data.text"],
    ),
    "empty text": (
        put("train.csv", "stars,review\n5,fine\n1,\n"),
        [],
        ["train.csv, line 3", "column 'review'", "is empty"],
    ),
    "too many fields": (
        put("train.csv", "stars,review\n5,fine\n1,a, b\n"),
        [],
        ["train.csv, line 3", "3 fields where the header has 2"],
    ),
    "null text": (
        put("rows.jsonl", GOOD_ROW + '{"review": null, "stars": 1}\n'),
        JSONL,
        ["rows.jsonl, line 2", "is null"],
    ),
    "broken line in the middle": (
        put("rows.jsonl", f"{GOOD_ROW}{{broken\n{GOOD_ROW}"),
        JSONL,
        ["rows.jsonl, line 2", "not valid JSON"],
    ),
    "a line that is no object": (
        put("rows.jsonl", GOOD_ROW + "[1]\n"),
        JSONL,
        ["rows.jsonl, line 2", "not an object"],
    ),
    "unknown ending": (
        lambda folder: (folder / "train.csv").rename(folder / "train.xls"),
        ["--set", "task.data.train=train.xls"],
        ["train.xls", "'.xls' is not known", ".csv"],
    ),
    "no utf-8": (
        lambda folder: (folder / "train.csv").write_bytes(b"stars,review\n5,\xff\xfe\n"),
        [],
        ["train.csv, line 2", "not UTF-8"],
    ),
    "no class left": (
        put("train.csv", "stars,review\n5,fine\n5,good\n"),
        [],
        ["the training rows have one class only: good"],
    ),
    "results under a file": (
        put("file", ""),
        ["--out", "file/results"],
        ["file/results", "cannot be written", "--out"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_reported_in_one_message_and_leaves_nothing(
    name: str, mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    spoil, arguments, expected = BROKEN[name]
    spoil(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = call("subsample", mine, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("error: ") == done.err.count("  fix: ") == 1
    assert len(done.err.split("  fix: ")[1].strip()) > 10
    for word in expected:
        assert word in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "results").exists()


ROW = '{"id": "a", "text": "fine", "label": "good"}\n'


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", ["real.jsonl: the file has no rows"]),
        (ROW + ROW, ["real.jsonl, row 2", "'a' is used twice"]),
        (
            ROW + '{"id": "b", "text": "x", "label": "fine"}\n',
            ["real.jsonl, line 2", "label 'fine'"],
        ),
        (ROW + '{"id": "b", "text": null, "label": "good"}\n', ["real.jsonl, line 2", "'text'"]),
        (ROW + '{"id": "b", "label": "good"}\n', ["real.jsonl, line 2", "'text' is missing"]),
        ("{\n" + ROW, ["real.jsonl, line 1", "not valid JSON"]),
    ],
    ids=["empty", "same id", "label", "null", "missing key", "broken"],
)
def test_broken_rows_between_stages_are_reported_with_their_line(
    mine: Path,
    tmp_path: Path,
    call: Callable[..., CommandResult],
    rows: str,
    expected: list[str],
) -> None:
    (tmp_path / "real.jsonl").write_text(rows)
    for command in (["baseline", mine, "--method", "eda"], ["train", mine, "--method", "none"]):
        done = call(*command, *LIGHT, "-i", tmp_path / "real.jsonl", "-o", tmp_path / "out.jsonl")
        assert (done.code, done.out) == (2, "")
        for word in expected:
            assert word in done.err
        assert not list(tmp_path.glob("*out*"))


def test_a_broken_input_through_the_console_script(mine: Path, tmp_path: Path) -> None:
    done = shell("run", mine, *LIGHT, "--set", "augment.kk=2", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "augment.kk: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["subsample", "-o", "x.jsonl"],
        ["augment", "-o", "x.jsonl"],
        ["baseline", "--method", "eda", "-o", "x.jsonl"],
        ["train", "--method", "none", "--seed", "0", "-o", "x.jsonl"],
        ["train", "--set", "classifiers=[{kind: linear}]", "--seed", "0", "-o", "x.jsonl"],
    ],
    ids=" ".join,
)
def test_one_file_for_several_outputs_is_refused(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult], arguments: list[str]
) -> None:
    done = call(arguments[0], mine, *arguments[1:])
    assert done.code == 2
    assert "-o names one file" in done.err
    assert not (tmp_path / "x.jsonl").exists()


def test_json_and_rows_cannot_both_have_stdout(
    mine: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("subsample", mine, "--seed", 0, "-o", "-", "--json")
    assert (done.code, done.out) == (2, "")
    assert "both want stdout" in done.err


def test_a_stage_whose_input_is_missing_names_the_command_before(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("augment", mine, "--seed", 0)
    assert done.code == 2
    assert "gpt3mix subsample" in done.err
    assert not list((tmp_path / "results").rglob("*.jsonl"))
    assert call("report", mine).code == 2
    assert call("report", tmp_path / "nothing").code == 2


def test_a_stage_whose_input_is_missing_leaves_nothing(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    assert call("augment", mine, "--seed", 0).code == 2
    assert not (tmp_path / "results").exists()


def test_rows_of_a_user_are_a_method_named_after_their_file(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    rows = [
        {"id": f"s{i}", "text": f"text {i}", "label": "good", "probs": {"good": 0.8, "bad": 0.2}}
        for i in range(3)
    ]
    (tmp_path / "handmade.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call("subsample", mine)
    assert call("train", mine, *LIGHT, "--seed", 1, "-a", tmp_path / "handmade.jsonl").code == 0
    (path,) = (tmp_path / "results").rglob("trials/handmade.linear.jsonl")
    trial = json.loads(path.read_text())
    assert (trial["method"], trial["n_synthetic"]) == ("handmade", 3)
    assert call("report", path, "-o", tmp_path / "r").code == 0
    assert "handmade" in (tmp_path / "r" / "report.md").read_text()


# report ------------------------------------------------------------------------------------------


def test_report_takes_several_configs_folders_and_files_at_once(
    chained: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    (path,) = (chained / "results").rglob("seed-0/trials/none.linear.jsonl")
    other = path.read_text().replace('"task": "mine"', '"task": "other"')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trials.jsonl").write_text(other)
    (tmp_path / "single.jsonl").write_text(other.replace('"other"', '"third"'))
    sources = [chained / "mine.yaml", tmp_path / "other", tmp_path / "single.jsonl"]
    done = call("report", *sources, "--out", chained / "results", "-o", tmp_path / "r", "--json")
    assert done.code == 0
    assert {cell["task"] for cell in json.loads(done.out)["cells"]} == {"mine", "other", "third"}
    assert (tmp_path / "r" / "report.md").read_text().startswith("# mine, other, single\n")
    done = call("report", *sources, "--out", chained / "results", "-o", tmp_path / "r")
    assert "average" in done.out


def test_report_shows_the_selected_rows_and_columns(
    chained: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    common = ("report", chained / "results", "-o", tmp_path / "r")
    assert (
        "linear none" in call(*common, "--rows", "task,level", "--columns", "classifier,method").out
    )
    wrong = call(*common, "--columns", "methdo")
    assert wrong.code == 2
    assert "did you mean 'method'" in wrong.err


def test_report_compares_two_runs(
    chained: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    done = call(
        "report",
        "--diff",
        chained / "mine.yaml",
        chained / "results",
        "--out",
        chained / "results",
        "-o",
        tmp_path / "d",
    )
    assert done.code == 0
    assert "6 results are in both runs; 6 are equal to the last digit" in done.err
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        "diff.csv",
        "diff.json",
        "diff.md",
    ]
    as_json = call(
        "report", "--diff", chained / "results", chained / "results", "-o", tmp_path / "d", "--json"
    )
    assert {item["note"] for item in json.loads(as_json.out)["differences"]} == {"equal"}
    for arguments in ([], [chained / "results", "--diff", chained, chained]):
        wrong = call("report", *arguments)
        assert wrong.code == 2
        assert "--diff" in wrong.err


def test_report_says_first_that_the_paper_lacks_a_task(
    chained: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("report", chained / "results", "-o", tmp_path / "r", "--paper")
    assert done.code == 0
    assert "Table 6 (page 8)" not in done.out
    assert "the paper has no task mine" in done.err


# check -------------------------------------------------------------------------------------------


def test_check_ticks_everything_that_is_ready(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("check", mine)
    assert done.code == 0
    marks = [line.split(":")[0] for line in done.out.splitlines()]
    assert marks == [
        f"✓ {what}"
        for what in (
            "config",
            "data",
            "lm",
            "baseline eda",
            "classifier linear",
            "classifier tiny",
            "devices",
            "output",
        )
    ]
    assert "60 train, 12 validation, 40 test rows; classes good, bad" in done.out
    assert "all is ready" in done.err
    assert not (tmp_path / "results").exists()


def test_check_names_the_remedy_for_what_is_missing(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    done = call(
        "check", mine, "--set", f"classifiers.1.model={tmp_path / 'absent'}", "--set", "lm=null"
    )
    assert done.code == 2
    lines = done.out.splitlines()
    (path,) = (number for number, line in enumerate(lines) if line.startswith("✗"))
    assert lines[path].startswith("✗ classifier tiny: ")
    assert "absent" in lines[path]
    assert lines[path + 1].startswith("  fix: give an encoder's folder")
    assert sum(line.startswith("✓") for line in lines) == 6
    assert "not ready: classifier tiny" in done.err


@pytest.mark.parametrize(
    ("override", "warns"),
    [
        ("task.text_type=support ticket", True),
        ("task.text_type=text", True),
        ("task.text_type=Film review", False),
        ("task.text_type=movie review", False),
        ("lm=null", False),
    ],
)
def test_check_warns_if_the_packaged_lm_does_not_know_such_texts(
    override: str, warns: bool, mine: Path, call: Callable[..., CommandResult]
) -> None:
    done = call("check", mine, *LINEAR, "--set", override)
    assert done.code == 0
    assert ("all is ready, 1 warning" in done.err) == warns
    warning = [line for line in done.out.splitlines() if line.startswith("! lm: ")]
    assert len(warning) == warns
    if warns:
        assert override.removeprefix("task.text_type=") in warning[0]
        assert "  fix: lm.model=smollm2" in done.out
    findings = json.loads(call("check", mine, *LINEAR, "--set", override, "--json").out)["findings"]
    assert [finding["good"] for finding in findings if finding["warning"]] == [True] * warns


def test_check_checks_the_encoder_that_selects_examples(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    (tmp_path / "empty").mkdir()
    nearest = [
        "--set",
        "augment.selection=nearest",
        "--set",
        "classifiers=[{kind: linear}]",
        "--set",
    ]
    assert (
        "✓ similarity: tfidf, for the nearest examples\n"
        in call("check", mine, *nearest, "augment.similarity=tfidf").out
    )
    done = call("check", mine, *nearest, f"augment.similarity={tmp_path / 'empty'}")
    assert done.code == 2
    assert "✗ similarity: augment.similarity" in done.out


def test_a_set_that_fell_short_is_described_shown_and_has_a_card(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    """Statistics matter most if rows are rejected."""
    assert call("subsample", mine).code == 0
    # 12 words at least: some rows pass, too few.
    strict = [
        "--seed",
        0,
        "--ratio",
        4,
        "--set",
        "augment.attempts=1",
        "--set",
        "augment.filter.min_words=12",
    ]
    done = call("augment", mine, *strict, "--show", 1, "--card")
    assert done.code == 3
    assert re.search(r"rejected +.*\d+ min_words", done.err)
    assert "GPT3Mix    " in done.out
    (path,) = (tmp_path / "results").rglob("*.card.md")
    assert "- Incomplete: " in path.read_text("utf-8")
    (item,) = json.loads(call("augment", mine, *strict, "--json").out)["outputs"]
    assert (item["complete"], item["rows"]) == (False, item["counts"]["kept"])
    assert 0 < item["rows"] < item["counts"]["wanted"]


def test_check_finds_that_results_cannot_be_written(
    mine: Path, tmp_path: Path, call: Callable[..., CommandResult]
) -> None:
    (tmp_path / "file").write_text("")
    done = call("check", mine, *LIGHT, "--out", tmp_path / "file" / "results")
    assert done.code == 2
    assert "✗ output" in done.out
