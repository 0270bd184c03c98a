"""Every answer is paid for once, even after kills, and no API key is ever written."""

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX, PROMPT, build_requests, engine
from endpoint_server import Server, running, serving
from killed_runs import AT_ONCE

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.lm import JournaledLM, total_spent
from gpt3mix_cli.lm.openai import servers
from gpt3mix_cli.records import IncompleteOutput, StageOptions

KEY = "sk-test-Zq8/w+Yh3x_9-secret"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.01)


# Kills --------------------------------------------------------------------------------------------


def killed_runs(url: str, folder: Path, kills: int, rows: int) -> str:
    command = [
        sys.executable,
        Path(__file__).parent / "killed_runs.py",
        url,
        folder,
        str(kills),
        str(rows),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()


@pytest.mark.slow
def test_twenty_kills_repeat_only_requests_in_flight(tmp_path: Path) -> None:
    rows, kills = 400, 20
    with running(delay=0.02) as server:
        assert (
            killed_runs(server.base_url, tmp_path / "undisturbed", 0, rows) == "0 killed, status 0"
        )
        undisturbed = server.counters()
        server.command(reset=True)
        assert (
            killed_runs(server.base_url, tmp_path / "disturbed", kills, rows)
            == f"{kills} killed, status 0"
        )
        disturbed = server.counters()
    assert (tmp_path / "disturbed/rows.jsonl").read_bytes() == (
        tmp_path / "undisturbed/rows.jsonl"
    ).read_bytes()
    assert len((tmp_path / "disturbed/rows.jsonl").read_text().splitlines()) == rows
    again = disturbed["requests"] - undisturbed["requests"]
    assert 0 <= again <= kills * AT_ONCE
    assert disturbed["answered_twice"] <= kills * AT_ONCE
    assert undisturbed["answered_twice"] == 0


# The journal --------------------------------------------------------------------------------------


def texts(lm: Any, count: int = 10) -> list[str]:
    return [completion.text for completion in lm.complete(build_requests(count))]


def test_a_file_system_without_shared_memory_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's dot-file locking has none, so it refuses a write-ahead log."""
    connect = sqlite3.connect

    def without(path: Any, **options: Any) -> sqlite3.Connection:
        name = str(path) if str(path).startswith("file:") else Path(path).absolute().as_uri()
        return connect(
            f"{name}{'&' if '?' in name else '?'}vfs=unix-dotfile", **{**options, "uri": True}
        )

    monkeypatch.setattr(sqlite3, "connect", without)
    path = tmp_path / "a.sqlite"
    with serving() as server, engine(server) as lm:
        journal = JournaledLM(lm, path)
        first = texts(journal)
        journal.close()
        before = server.requests
        journal = JournaledLM(lm, path)
        assert texts(journal) == first
        journal.close()
        assert server.requests == before
    assert total_spent(path)[0] == before - server.paths["/v1/models"]  # a list, no answer
    assert not list(tmp_path.glob("*-wal"))
    assert not list(tmp_path.glob("*-shm"))


def test_answers_of_a_sibling_journal_are_used(tmp_path: Path) -> None:
    sibling, path = tmp_path / "one.sqlite", tmp_path / "other.sqlite"
    with serving() as server, engine(server) as lm:
        journal = JournaledLM(lm, sibling)
        first = texts(journal, 20)
        journal.close()
        before = server.requests
        journal = JournaledLM(lm, path, [sibling])
        assert texts(journal, 20) == first
        assert server.requests == before
        assert len(texts(journal, 25)) == 25
        assert 0 < server.requests - before <= 5 * 3
        journal.close()


def test_raw_answers_are_stored_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with serving() as server, engine(server) as lm:
        journal = JournaledLM(lm, path)
        texts(journal, 3)
        journal.close()
    with sqlite3.connect(path) as database:
        kept = [
            json.loads(row[0])
            for row in database.execute(
                "SELECT answer FROM answers WHERE number IS NOT NULL AND typeof(answer) = 'text'"
            )
        ]
    database.close()
    assert kept
    assert all(row["object"] == "text_completion" for row in kept)


def test_equal_requests_in_flight_are_sent_once(tmp_path: Path) -> None:
    with serving(delay=0.02) as server, engine(server) as lm:
        journal = JournaledLM(lm, tmp_path / "a.sqlite")
        context = f"{PROMPT} a fine film{LABEL_PREFIX}"
        scores = journal.score([context] * 50, CHOICES)
        journal.close()
        assert len(set(scores)) == 1
        assert not server.twice()
        assert sum(body["prompt"] == context for body in server.bodies("/v1/completions")) == 1


# An experiment ------------------------------------------------------------------------------------


def experiment(
    tmp_path: Path,
    server: Any,
    more: str = "",
    augment: str = "ratio: 2",
    lm: str = "",
    force: bool = False,
) -> Grid:
    path = tmp_path / "hosted.yaml"
    path.write_text(
        "name: hosted\n"
        "task: {data: {kind: demo}, labels: {pos: positive, neg: negative},"
        " text_type: movie review, label_type: sentiment}\n"
        "subsample: {levels: [5/class], seeds: 1}\n"
        f"lm: {{kind: openai, model: tiny, base_url: '{server.base_url}'{lm}}}\n"
        f"augment: {{{augment}}}\ntrials: 1\n{more}",
        encoding="utf-8",
    )
    options = StageOptions(force=force)
    return Grid(load_experiments(path), tmp_path / "results", options)


def generate(grid: Grid) -> list[Path]:
    """Draw the real rows and generate the synthetic sets of a grid."""
    outputs = []
    try:
        for cell in grid.cells():
            grid.subsample(cell)
            outputs.append(grid.augment(cell, "gpt3mix", 0).output)
    finally:
        grid.close()
    return outputs


def test_relabelling_calibrating_and_filtering_send_nothing(tmp_path: Path) -> None:
    with serving() as server:
        (first,) = generate(
            experiment(tmp_path, server, augment="ratio: 2, contextual_calibration: true")
        )
        rows = first.read_bytes()
        before = server.requests
        changes = (
            "label_temperature: 2.0, contextual_calibration: true",
            "contextual_calibration: false",
            "filter: {max_parent_overlap: null}",
        )
        for changed in changes:
            generate(experiment(tmp_path, server, augment=f"ratio: 2, {changed}", force=True))
            assert first.read_bytes() != rows or "filter" in changed
        assert server.requests == before
        augment = "ratio: 2, contextual_calibration: true"
        generate(experiment(tmp_path, server, augment=augment, force=True))
        assert first.read_bytes() == rows


def test_a_sweep_sends_each_request_once(tmp_path: Path) -> None:
    with serving() as server:
        for name in ("one", "sweep"):
            (tmp_path / name).mkdir()
        generate(experiment(tmp_path / "one", server, augment="ratio: 4"))
        alone = server.requests
        server.reset()
        outputs = generate(
            experiment(tmp_path / "sweep", server, more="sweep: {augment.ratio: [4, 1, 2], }\n")
        )
        assert len(outputs) == 3
        assert server.requests == alone


# Money --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "index"), [({"requests": 25}, 0), ({"tokens": 3000}, 1), ({"usd": 0.02}, 3)]
)
def test_a_budget_is_exceeded_only_by_requests_in_flight(
    budget: dict[str, float], index: int, tmp_path: Path
) -> None:
    """Over several runs too: each ends with exit code 3 and keeps its answers."""
    (tmp_path / "prices.yaml").write_text(
        "version: 2026-11-01\nmodels: {tiny: {prompt: 5, completion: 15}}\n"
    )
    (name, limit), at_once = *budget.items(), 3
    spent: list[float] = []
    with serving(delay=0.01) as server:
        for attempt in range(3):
            server.fault("server_error", at=[4, 9], path="completions")
            grid = experiment(
                tmp_path,
                server,
                more=f"budget: {{{name}: {limit}}}\n",
                augment="ratio: 20",
                lm=f", concurrency: {at_once}, prices: {tmp_path}/prices.yaml",
            )
            with pytest.raises(
                StoppedShort, match=rf"budget\.{name}: .* are already used"
            ) as error:
                generate(grid)
            assert error.value.exit_code == 3
            if attempt == 0:
                assert isinstance(error.value, IncompleteOutput)
                manifest, rows = (
                    error.value.result.manifest,
                    error.value.result.output.read_text().splitlines(),
                )
                assert not manifest.complete
                assert len(rows) == manifest.counts["kept"] > 0
            (journal,) = tmp_path.rglob("*.journal.sqlite")
            spent.append(total_spent(journal)[index] if index < 3 else total_spent(journal)[3])
            if name == "tokens":
                spent[-1] += total_spent(journal)[2]
        # Requests in flight reserve their likely tokens, so the limit is nearly reached.
        least = limit if name == "requests" else 0.9 * limit
        assert least <= spent[-1] <= 1.02 * limit
        asked = server.requests - server.paths["/v1/models"]
        assert asked <= (limit if name == "requests" else 10**6)


# Keys ---------------------------------------------------------------------------------------------


def telling(server: Server) -> None:
    """Let the server put the key that it received into every text."""
    answer = server.answers.completions

    def completions(body: dict[str, Any]) -> dict[str, Any]:
        result = answer(body)
        for choice in result["choices"]:
            choice["text"] = f" {KEY}{choice['text']}"
        return result

    server.answers.completions = completions  # type: ignore[method-assign]


def command(folder: Path, name: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a new process, with the SDK's debug log on."""
    words = [
        sys.executable,
        "-c",
        "from gpt3mix_cli.cli import entry; entry()",
        name,
        "hosted.yaml",
        "--out",
        "results",
        "--json",
        *options,
    ]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"}
    return subprocess.run(
        words, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


def files_with(folder: Path, secret: str) -> list[Path]:
    """Return the files below a folder that contain a secret or its middle part."""
    forms = [secret.encode(), secret[8:24].encode()]
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


def test_no_key_is_written_anywhere(tmp_path: Path) -> None:
    """With the SDK's debug log on, and a server that repeats the key in errors and texts."""
    with serving() as server:
        server.fault("server_error", at=[12, 13], message="Incorrect API key provided: {key}.")
        with contextlib.closing(experiment(tmp_path, server)) as grid:
            grid.subsample(next(iter(grid.cells())))
        done = command(tmp_path, "augment")
        assert done.returncode == 0, done.stderr[-3000:]
        telling(server)
        refused = command(tmp_path, "augment", "--set", "augment.ratio=5")
        server.fault("bad_key", p=1.0)
        failed = command(tmp_path, "augment", "--set", "augment.ratio=5")
    assert server.keys == {f"Bearer {KEY}"}
    assert (refused.returncode, failed.returncode) == (3, 2)
    assert "the answer contains the API key" in refused.stderr
    assert "HTTP 401: Incorrect API key provided: <key>." in failed.stderr
    for text in (done, refused, failed):
        assert KEY[8:24] not in text.stdout + text.stderr
    assert not files_with(tmp_path, KEY)


def test_no_key_is_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in the exceptions that caused it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serving(dialect="openai") as server:
        for kind in ("bad_key", "no_quota", "server_error"):
            with engine(server) as lm:
                lm.describe()
                server.faults.clear()
                server.fault(kind, p=1.0, message="Incorrect API key provided: {key}.")
                with pytest.raises(UserError, match="<key>") as error:
                    texts(lm)
                server.faults.clear()
            shown = "".join(traceback.format_exception(error.value))
            assert KEY[8:24] not in shown
    assert KEY[8:24] not in caplog.text


def test_a_key_that_json_escapes_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Some servers write a slash as \/."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault(
            "status",
            status=500,
            html=json.dumps({"error": {"message": f"bad key {KEY}"}}).replace("/", "\\/"),
            p=1.0,
        )
        with pytest.raises(StoppedShort, match="<key>") as error:
            texts(lm)
        assert "w+" not in lm._dispatcher.redact_secrets(
            json.dumps({"text": KEY}).replace("/", "\\/")
        )
    assert KEY[8:24] not in str(error.value)


def test_a_key_in_an_answer_that_is_not_json_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a proxy's page, with status 200, that shows the request."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("status", status=200, html=f"<p>Authorization: Bearer {KEY}</p>", p=1.0)
        with pytest.raises(StoppedShort, match=r"is not JSON: .*<key>") as error:
            texts(lm)
    assert KEY[8:24] not in str(error.value)
