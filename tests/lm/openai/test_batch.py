"""Batches: submitted once, collected by the same command, with the rows of a direct run."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Server, serving
from hypothesis import given
from hypothesis import strategies as st

from gpt3mix_cli.cli import main
from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.lm import Completion, Journal, JournaledLM, Request, total_spent
from gpt3mix_cli.lm.openai.batch import parse_output_line, split_into_files
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.lm.openai.requests import Call
from gpt3mix_cli.settings import Budget, OpenAISettings

HEADER = (
    "Each item in the following list contains a movie review and the respective "
    "sentiment. The sentiment is one of 'positive' or 'negative'.\n\n"
    "Movie review: A gorgeous, witty film. (Sentiment: Positive)\nMovie review: so bad "
    "(Sentiment: Negative)\nMovie review:"
)
KEY = "sk-a-key-of-the-tests-0123"
CONFIG = """\
name: batched
task:
  data: {{kind: demo}}
  labels: {{pos: positive, neg: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [2/class], seeds: 2}}
lm: {{kind: openai, model: tiny, base_url: {url}, api: {api}, endpoint: tests}}
augment: {{ratio: 2, max_tokens: 60, attempts: 8}}
classifiers: [{{kind: linear}}]
trials: 2
"""


@pytest.fixture(params=["completions", "chat"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(dialect="openai", completions=request.param == "completions", key=KEY) as server:
        yield server


@pytest.fixture
def completions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(dialect="openai", completions=True, key=KEY) as server:
        yield server


def build_requests(count: int = 10, first: int = 0, **options: Any) -> list[Request]:
    known = {
        "prompt": HEADER,
        "max_tokens": 60,
        "label_prefix": " (Sentiment:",
        "choices": (" Positive", " Negative"),
    }
    return [
        Request(**{"number": number, "seed": number, **known, **options})
        for number in range(first, first + count)
    ]


def ask(
    server: Server,
    path: Path,
    requests: list[Request],
    budget: Budget | None = None,
    **settings: Any,
) -> list[Completion]:
    lm = OpenAILM(
        OpenAISettings(
            kind="openai",
            **{"model": "tiny", "base_url": server.base_url, "batch": True, **settings},
        ),
        budget,
        lambda: [path],
    )
    journaled = JournaledLM(lm, path)
    try:
        return list(journaled.complete(requests))
    finally:
        journaled.close()
        lm.close()


def stopped(server: Server, path: Path, requests: list[Request], **how: Any) -> str:
    with pytest.raises(StoppedShort) as error:
        ask(server, path, requests, **how)
    return error.value.message


def lines_asked(server: Server) -> int:
    """Return how many lines were requested directly: the probe never asks for so many tokens."""
    return sum(
        (body.get("max_tokens") or body.get("max_completion_tokens") or 0) > 60
        for body in server.bodies("completions")
    )


# From the first run to the last ---------------------------------------------------------------


def test_what_is_collected_equals_what_is_asked_directly(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.journal.sqlite"
    assert "submitted 10 requests: batch batch_2 (/v1/" in stopped(server, path, build_requests())
    assert "batch batch_2 is in_progress" in stopped(server, path, build_requests())
    results = ask(server, path, build_requests())
    assert lines_asked(server) == 0
    assert (len(server.batches.batches), server.batches.lines) == (1, 10)
    assert results == ask(server, tmp_path / "b.journal.sqlite", build_requests(), batch=False)
    # Once collected, a batch is not retrieved again.
    retrievals = [batch.retrievals for batch in server.batches.batches.values()]
    assert (
        results
        == ask(server, path, build_requests())
        == ask(server, path, build_requests(), batch=False)
    )
    assert retrievals == [batch.retrievals for batch in server.batches.batches.values()]
    assert (len(server.batches.batches), server.batches.lines) == (1, 10)


def test_the_message_has_the_progress_of_a_batch(completions: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = -1
    stopped(completions, path, build_requests())
    state = next(iter(completions.batches.batches.values())).state
    state |= {"status": "finalizing", "request_counts": {"total": 10, "completed": 7, "failed": 1}}
    assert (
        stopped(completions, path, build_requests())
        == f"batch {state['id']} is finalizing: 7 of 10 answered, 1 failed"
    )


def test_lines_of_a_beam_search_come_by_batch_too(completions: Server, tmp_path: Path) -> None:
    beams = build_requests(3, beams=4, label_prefix="", choices=(), temperature=0.9)
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 1
    stopped(completions, path, beams)
    results = ask(completions, path, beams)
    assert results == ask(completions, tmp_path / "b.journal.sqlite", beams, batch=False)
    assert any(len(result.hypotheses) > 1 for result in results)


def test_only_the_first_round_goes_by_batch(completions: Server, tmp_path: Path) -> None:
    assert len(ask(completions, tmp_path / "a.journal.sqlite", build_requests(4, first=10))) == 4
    assert not completions.batches.batches
    assert lines_asked(completions) == 4


def test_more_rows_submit_only_what_no_batch_holds(completions: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = -1
    stopped(completions, path, build_requests(4))
    assert "submitted 6 requests" in stopped(completions, path, build_requests(10))
    # Fewer rows wait for the batch that holds them, and for no other.
    first, second = completions.batches.batches.values()
    completions.batches._finish(first)
    assert len(ask(completions, path, build_requests(4))) == 4
    assert "is in_progress" in stopped(completions, path, build_requests(10))
    completions.batches._finish(second)
    assert len(ask(completions, path, build_requests(10))) == 10
    assert (completions.batches.lines, lines_asked(completions)) == (10, 0)


# Kills ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """An exception that no code catches."""


@pytest.mark.parametrize("after", [False, True], ids=["before-the-commit", "after-it"])
@pytest.mark.parametrize("commit", [1, 2], ids=["of-the-file", "of-the-batch"])
def test_whatever_the_moment_of_a_kill_nothing_is_submitted_twice(
    completions: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: int, after: bool
) -> None:
    path, commits, keep = tmp_path / "a.journal.sqlite", [], Journal.store_batch

    def dies(self: Journal, *what: Any) -> None:
        commits.append(what)
        if len(commits) < commit or after:
            keep(self, *what)
        if len(commits) == commit:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "store_batch", dies)
        with pytest.raises(Killed):
            ask(completions, path, build_requests())
    for _ in range(3):
        try:
            ask(completions, path, build_requests())
        except StoppedShort:
            continue
    assert len(ask(completions, path, build_requests())) == 10
    assert (
        len(completions.batches.batches),
        completions.batches.lines,
        lines_asked(completions),
    ) == (1, 10, 0)


def test_a_killed_collection_is_repeated(
    completions: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 1
    stopped(completions, path, build_requests())
    under_way, *_ = total_spent(path)
    with monkeypatch.context() as patch:
        patch.setattr("gpt3mix_cli.lm.openai.batch.KEYS_PER_COMMIT", 3)
        commits, keep = [], Journal.store

        def dies(self: Journal, *what: Any) -> None:
            keep(self, *what)
            commits.append(what)
            if len(commits) == 2:
                raise Killed

        patch.setattr(Journal, "store", dies)
        with pytest.raises(Killed):
            ask(completions, path, build_requests())
    assert len(ask(completions, path, build_requests())) == 10
    assert (completions.batches.lines, lines_asked(completions)) == (10, 0)
    assert under_way == total_spent(path)[0]  # each line once


def test_a_process_that_was_killed_after_submitting_goes_on(
    completions: Server, tmp_path: Path
) -> None:
    completions.batches.polls = 1
    config = configured(tmp_path, completions, "api: completions", "batch: true")
    script = (
        "import os, sys\nfrom gpt3mix_cli.cli import main\n"
        "from gpt3mix_cli.lm import Journal\n"
        "keep = Journal.store_batch\n"
        "def die(self, batch, *spent):\n"
        f"    if batch.batch: os.kill(os.getpid(), {signal.SIGKILL:d})\n"
        "    keep(self, batch, *spent)\n"
        "Journal.store_batch = die\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["augment", str(config), "--out", str(tmp_path / "out"), "--seed", "0"]
    assert main(["subsample", *arguments[1:]]) == 0
    assert (
        subprocess.run(
            [sys.executable, "-c", script, *arguments], env=os.environ, check=False
        ).returncode
        == -signal.SIGKILL
    )
    assert main(arguments) == 3
    assert main(arguments) == 0
    assert len(completions.batches.batches) == 1


# What goes wrong ------------------------------------------------------------------------------


def test_failed_lines_are_asked_for_directly(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.journal.sqlite"
    server.batches.polls = 1
    stopped(server, path, build_requests())
    ((_, content),) = server.batches.files.values()
    server.batches.fail = [json.loads(line)["custom_id"] for line in content.splitlines()[2:5]]
    results = ask(server, path, build_requests())
    assert lines_asked(server) == 3
    assert results == ask(server, tmp_path / "b.journal.sqlite", build_requests(), batch=False)
    assert len(server.batches.batches) == 1


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_a_batch_left_undone_is_asked_for_directly(
    completions: Server, tmp_path: Path, end: str
) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls, completions.batches.expire = 1, end == "expired"
    stopped(completions, path, build_requests())
    if end == "cancelled":
        next(iter(completions.batches.batches.values())).state["status"] = "cancelled"
    results = ask(completions, path, build_requests())
    assert lines_asked(completions) == (5 if end == "expired" else 10)
    assert results == ask(completions, tmp_path / "b.journal.sqlite", build_requests(), batch=False)


def test_a_rejected_batch_is_reported_with_the_providers_message_and_forgotten(
    completions: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 1
    stopped(completions, path, build_requests())
    ((name, (state, _)),) = completions.batches.files.items()
    completions.batches.files[name] = (state, b"{half a line\n")
    with pytest.raises(
        UserError, match="line 1: This line is not parseable as valid JSON"
    ) as error:
        ask(completions, path, build_requests())
    assert error.value.exit_code == 2
    assert "submitted 10 requests" in stopped(completions, path, build_requests())
    assert len(ask(completions, path, build_requests())) == 10
    assert lines_asked(completions) == 0


def test_a_batch_that_is_one_too_many_is_submitted_later(
    completions: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.journal.sqlite"
    stopped(completions, path, build_requests())
    error = {
        "code": "token_limit_exceeded",
        "message": "Enqueued token limit reached.",
        "line": None,
        "param": None,
    }
    next(iter(completions.batches.batches.values())).state |= {
        "status": "failed",
        "errors": {"object": "list", "data": [error]},
    }
    assert "Enqueued token limit reached" in stopped(completions, path, build_requests())
    assert "submitted 10 requests" in stopped(completions, path, build_requests())


def test_a_batch_that_the_provider_lost_is_an_error(completions: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.journal.sqlite"
    stopped(completions, path, build_requests())
    completions.batches.batches.clear()
    with pytest.raises(UserError, match=r"lm\.batch: .*HTTP 404: No such Batch object"):
        ask(completions, path, build_requests())
    assert len(ask(completions, path, build_requests(), batch=False)) == 10


def test_batches_under_way_are_waited_for_when_no_more_are_wanted(
    completions: Server, tmp_path: Path
) -> None:
    """Their answers are not paid twice, and no more are submitted."""
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 2
    stopped(completions, path, build_requests(6))
    with pytest.raises(StoppedShort, match="is in_progress") as error:
        ask(completions, path, build_requests(10), batch=False)
    assert "cancel it at the provider" in error.value.hint
    assert lines_asked(completions) == 0
    results = ask(completions, path, build_requests(10), batch=False)
    assert results == ask(
        completions, tmp_path / "b.journal.sqlite", build_requests(10), batch=False
    )
    assert lines_asked(completions) == 4 + 10
    assert (len(completions.batches.batches), completions.batches.lines) == (1, 6)


def test_a_batch_that_was_cancelled_is_asked_for_directly_when_no_more_are_wanted(
    completions: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.journal.sqlite"
    stopped(completions, path, build_requests())
    next(iter(completions.batches.batches.values())).state["status"] = "cancelled"
    assert len(ask(completions, path, build_requests(), batch=False)) == 10
    assert lines_asked(completions) == 10
    asked = completions.paths["/v1/completions"] + completions.paths["/tokenize"]
    assert total_spent(path)[0] <= asked, "the reserved cost of the batch is released"


def test_a_server_without_batches_says_so(tmp_path: Path) -> None:
    with (
        serving(dialect="vllm") as server,
        pytest.raises(UserError, match=r"lm\.batch: .*HTTP 404") as error,
    ):
        ask(server, tmp_path / "a.journal.sqlite", build_requests())
    assert "omit lm.batch" in error.value.hint


def test_without_a_journal_there_are_no_batches(completions: Server) -> None:
    lm = OpenAILM(
        OpenAISettings(kind="openai", model="tiny", base_url=completions.base_url, batch=True)
    )
    try:
        with pytest.raises(UserError, match=r"lm\.batch needs an output file"):
            list(lm.complete(build_requests()))
    finally:
        lm.close()
    assert not completions.batches.files


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"custom_id": "a", "response": {"status_code": 200, "body": {"choices": []}}}',
        '{"response": null}',
    ],
)
def test_a_line_that_holds_no_answer_is_none(line: str) -> None:
    assert parse_output_line(line) is None


# Money ----------------------------------------------------------------------------------------


def test_answers_cost_a_batchs_price_and_what_is_under_way_counts_as_spent(
    completions: Server, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "version: 2026-11-01\nmodels: {tiny: {prompt: 10, completion: 20, batch: 0.5}}\n"
    )
    path, other = tmp_path / "a.journal.sqlite", tmp_path / "b.journal.sqlite"
    completions.batches.polls = 1
    stopped(completions, path, build_requests(), prices=str(prices))
    under_way = total_spent(path)
    whole = ask(completions, other, build_requests(), prices=str(prices), batch=False)
    halved = ask(completions, path, build_requests(), prices=str(prices))
    assert [result.usd for result in halved] == pytest.approx(
        [result.usd / 2 for result in whole if result.usd]
    )
    assert sum(result.usd or 0 for result in halved) <= total_spent(path)[3] < under_way[3]
    assert under_way[0] == total_spent(path)[0]
    assert [result.prompt_tokens for result in whole] == [result.prompt_tokens for result in halved]


def test_an_answer_without_usage_counts_by_our_own_estimate(
    completions: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 1
    stopped(completions, path, build_requests())
    completions.batches.without_usage = True
    ask(completions, path, build_requests())
    requests, prompt, completion, _ = total_spent(path)
    assert prompt > 10 * requests
    assert completion >= requests


@pytest.mark.parametrize("limit", [{"requests": 15}, {"tokens": 500}])
def test_a_batch_that_the_budget_does_not_hold_is_not_submitted(
    completions: Server, tmp_path: Path, limit: dict[str, int]
) -> None:
    path = tmp_path / "a.journal.sqlite"
    message = stopped(completions, path, build_requests(), budget=Budget(**limit))
    assert message.startswith(
        f"budget.{next(iter(limit))}: this batch of 10 requests may use up to "
    )
    assert not completions.batches.files


def test_the_budget_counts_what_is_under_way_in_other_runs(
    completions: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.journal.sqlite"
    budget = Budget(requests=30)
    stopped(completions, path, build_requests(10), budget=budget)
    assert "budget.requests" in stopped(completions, path, build_requests(30), budget=budget)
    assert len(completions.batches.batches) == 1


# Files ----------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=40), max_size=30), st.integers(1, 7), st.integers(100, 600))
def test_a_file_has_no_more_lines_and_bytes_than_it_may(
    prompts: list[str], lines: int, size: int
) -> None:
    calls = [
        (f"{number:032x}", Call("/completions", {"prompt": prompt}))
        for number, prompt in enumerate(prompts)
    ]
    files = list(split_into_files(calls, lines, size))
    assert [(key, call) for part in files for key, call, _ in part] == calls
    for part in files:
        assert len(part) <= lines
        assert len(part) == 1 or sum(len(line) for _, _, line in part) <= size
        for key, call, line in part:
            assert json.loads(line) == {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/completions",
                "body": call.body,
            }
            assert line.count(b"\n") == 1
            assert len(key) <= 64
    for part, following in itertools.pairwise(files):
        assert (
            len(part) == lines
            or sum(len(line) for _, _, line in part) + len(following[0][2]) > size
        )


def test_several_files_are_several_batches(
    completions: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_into_files, "__defaults__", (4, 200_000_000))
    path = tmp_path / "a.journal.sqlite"
    completions.batches.polls = 1
    assert stopped(completions, path, build_requests()).count("batch batch_") == 3
    assert [result.number for result in ask(completions, path, build_requests())] == list(range(10))
    assert len(completions.batches.batches) == 3


def test_no_key_is_in_what_is_uploaded_or_kept(completions: Server, tmp_path: Path) -> None:
    completions.batches.polls = 1
    stopped(completions, tmp_path / "a.journal.sqlite", build_requests())
    ask(completions, tmp_path / "a.journal.sqlite", build_requests())
    kept = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(completions.batches.files) == 2
    assert not [
        part
        for part in [*kept, *(content for _, content in completions.batches.files.values())]
        if KEY.encode() in part
    ]


# Commands -------------------------------------------------------------------------------------


def configured(
    tmp_path: Path, server: Server, api: str, more: str = "", ratio: str = "ratio: 2"
) -> Path:
    text = CONFIG.format(url=server.base_url, api=api.partition(": ")[2]).replace(
        "endpoint: tests}", f"endpoint: tests, {more}}}"
    )
    path = tmp_path / "batched.yaml"
    path.write_text(
        text.replace("endpoint: tests, }", "endpoint: tests}").replace("ratio: 2", ratio)
    )
    return path


def rows(folder: Path) -> dict[str, bytes]:
    outputs = sorted([*folder.rglob("gpt3mix.jsonl"), *folder.rglob("gpt3mix.rejects.jsonl")])
    return {str(path.relative_to(folder)): path.read_bytes() for path in outputs}


def test_two_cells_are_submitted_together_and_give_the_rows_of_a_direct_run(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = "api: completions" if server.options.completions else "api: chat"
    config = str(configured(tmp_path, server, api))
    assert main(["subsample", config, "--out", str(tmp_path / "direct")]) == 0
    assert main(["augment", config, "--out", str(tmp_path / "direct")]) == 0
    direct = rows(tmp_path / "direct")
    assert len(direct) == 4

    command = ["augment", config, "--out", str(tmp_path / "batched"), "--set", "lm.batch=true"]
    assert main(["subsample", *command[1:]]) == 0
    capsys.readouterr()
    assert main(command) == 3
    stderr = capsys.readouterr().err
    assert "no row yet: submitted 8 requests: batch batch_2" in stderr
    assert "stopped: 2 of 2 steps:" in stderr
    assert len(server.batches.batches) == 2
    assert not rows(tmp_path / "batched")
    assert main(command) == 3
    assert main(command) == 0
    assert rows(tmp_path / "batched") == direct
    assert len(server.batches.batches) == 2


def test_what_was_made_before_outlives_a_run_that_only_submits(
    completions: Server, tmp_path: Path
) -> None:
    config = str(configured(tmp_path, completions, "api: completions"))
    out = ["--out", str(tmp_path / "out"), "--seed", "0"]
    assert main(["subsample", config, *out]) == 0
    assert main(["augment", config, *out]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("gpt3mix*json*")}
    assert len(before) == 3
    assert main(["augment", config, *out, "--set", "lm.batch=true", "--ratio", "5"]) == 3
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
def test_nothing_is_trained_on_rows_that_are_not_there_yet(
    completions: Server, tmp_path: Path
) -> None:
    config = str(configured(tmp_path, completions, "api: completions", "batch: true"))
    command = ["run", config, "--out", str(tmp_path / "out"), "--jobs", "1"]
    completions.batches.polls = 3  # each run asks twice: a step that fails is tried once more
    assert main(command) == 3
    assert {path.name for path in (tmp_path / "out").rglob("trials/*.linear.jsonl")} == {
        "none.linear.jsonl"
    }
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "out").rglob("trials/*.linear.jsonl")} == {
        "none.linear.jsonl",
        "gpt3mix.linear.jsonl",
    }


def test_the_variants_of_a_sweep_share_their_batches(completions: Server, tmp_path: Path) -> None:
    path = configured(tmp_path, completions, "api: completions", "batch: true")
    path.write_text(path.read_text() + "sweep: {augment.ratio: [1, 3, 2]}\n")
    command = ["augment", str(path), "--out", str(tmp_path / "out"), "--seed", "0"]
    assert main(["subsample", *command[1:]]) == 0
    completions.batches.polls = 1
    assert main(command) == 3
    assert [
        len(completions.batches._lines(batch)) for batch in completions.batches.batches.values()
    ] == [4, 8]
    assert main(command) == 0
    assert completions.batches.lines == 12
