"""A local LM answers several blocks at the same time, with the answers of one after the other."""

import shutil
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
import torch
from families import CHOICES, LABEL_PREFIX, OPEN_PROMPTS, request
from transformers import AutoConfig

from gpt3mix_cli import stopping
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.lm import Completion, JournaledLM, Request
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.settings import LocalLMSettings

BLOCKS = 4
BLOCK_SIZE = 6
Engine = TypeVar("Engine", bound=LocalLM)


@pytest.fixture(autouse=True)
def _two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def open_local(folder: Path, kind: type[Engine] = LocalLM, dtype: str = "float32") -> Engine:
    values = {"model": str(folder), "device": "cpu", "dtype": dtype}
    return kind(LocalLMSettings(kind="local", batch_size=BLOCK_SIZE, **values))


def requests() -> list[Request]:
    return [
        request(
            number,
            prompt=OPEN_PROMPTS[number % len(OPEN_PROMPTS)],
            label_prefix=LABEL_PREFIX,
            choices=CHOICES,
            max_tokens=20,
            temperature=1.2,
        )
        for number in range(BLOCKS * BLOCK_SIZE)
    ]


class WatchedLM(LocalLM):
    """Counts the blocks in progress; two begin together, or the test fails."""

    def watch(self) -> "WatchedLM":
        self.begun: list[int] = []
        self.pair = threading.Barrier(2, timeout=60)
        return self

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        block = list(requests)
        number = block[0].number // BLOCK_SIZE
        self.begun.append(number)
        self.pair.wait()
        self.before_answers(number)
        return super().complete(block)

    def before_answers(self, block: int) -> None:
        """For tests to override."""


def watched(folder: Path, kind: type[WatchedLM] = WatchedLM) -> WatchedLM:
    return open_local(folder, kind).watch()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_those_of_one_block_after_the_other(
    tiny_lm: Path, tmp_path: Path, dtype: str
) -> None:
    lm = open_local(tiny_lm, dtype=dtype)
    assert lm.parallel_blocks == 2
    expected = list(lm.complete(requests()))
    path = tmp_path / "a.sqlite"
    journaled = JournaledLM(lm, path)
    assert list(journaled.complete(requests())) == expected
    journaled.close()
    assert torch.get_num_threads() == 2

    class ReplayOnly(LocalLM):
        def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
            raise AssertionError("all answers are in the journal")

    replayed = JournaledLM(open_local(tiny_lm, ReplayOnly, dtype), path)
    assert list(replayed.complete(requests())) == expected


@pytest.mark.parametrize("asks", [1, 2], ids=["one thread", "two threads"])
def test_a_model_that_writes_to_itself_runs_one_block_at_a_time(
    tiny_lm: Path, tmp_path: Path, asks: int
) -> None:
    """The library's rotary embeddings of this kind keep what the longest text of a pass needs."""
    config = AutoConfig.from_pretrained(tiny_lm)
    half = config.hidden_size // config.num_attention_heads // 2
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * half,
        "long_factor": [8.0] * half,
        "original_max_position_embeddings": 32,
        "factor": 16.0,
    }
    shutil.copytree(tiny_lm, tmp_path / "lm")
    config.save_pretrained(tmp_path / "lm")
    torch.set_num_threads(4)
    mixed = [
        replace(asked, prompt="Movie review:" * (30 if asked.number // BLOCK_SIZE % 2 else 1))
        for asked in requests()
    ]
    expected = list(open_local(tmp_path / "lm").complete(mixed))
    lm = open_local(tmp_path / "lm")
    assert lm.parallel_blocks == 1
    with ThreadPoolExecutor(asks) as threads:
        answers = threads.map(
            lambda path: list(JournaledLM(lm, path).complete(mixed)),
            [tmp_path / f"{number}.sqlite" for number in range(asks)],
        )
        assert list(answers) == [expected] * asks


def test_two_blocks_run_at_the_same_time(tiny_lm: Path, tmp_path: Path) -> None:
    lm = watched(tiny_lm)
    answers = list(JournaledLM(lm, tmp_path / "a.sqlite").complete(requests()))
    assert [answer.number for answer in answers] == list(range(BLOCKS * BLOCK_SIZE))
    assert sorted(lm.begun) == list(range(BLOCKS))


def test_after_a_signal_the_blocks_in_flight_are_kept(
    tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(WatchedLM):
        def before_answers(self, block: int) -> None:
            stopping.request_stop()

    monkeypatch.setattr(stopping, "_is_requested", False)
    path = tmp_path / "a.sqlite"
    answers = JournaledLM(watched(tiny_lm, Stopped), path).complete(requests())
    assert [next(answers).number for _ in range(2 * BLOCK_SIZE)] == list(range(2 * BLOCK_SIZE))
    with pytest.raises(stopping.Interrupted):
        next(answers)

    monkeypatch.setattr(stopping, "_is_requested", False)
    lm = watched(tiny_lm)
    assert len(list(JournaledLM(lm, path).complete(requests()))) == BLOCKS * BLOCK_SIZE
    assert sorted(lm.begun) == [2, 3]


def test_a_block_that_fails_does_not_lose_the_one_after_it(tiny_lm: Path, tmp_path: Path) -> None:
    class Failing(WatchedLM):
        def before_answers(self, block: int) -> None:
            if block == 0:
                raise StoppedShort("no memory")

    path = tmp_path / "a.sqlite"
    with pytest.raises(StoppedShort, match="no memory"):
        list(JournaledLM(watched(tiny_lm, Failing), path).complete(requests()[: 2 * BLOCK_SIZE]))
    lm = watched(tiny_lm)
    lm.pair = threading.Barrier(1)
    assert len(list(JournaledLM(lm, path).complete(requests()[: 2 * BLOCK_SIZE]))) == 12
    assert lm.begun == [0]


def test_a_caller_that_stops_does_not_lose_the_blocks_in_flight(
    tiny_lm: Path, tmp_path: Path
) -> None:
    """As when a signal asks to stop while the labels of the first block are scored."""
    path = tmp_path / "a.sqlite"
    lm = watched(tiny_lm)
    answers = JournaledLM(lm, path).complete(requests())
    assert isinstance(answers, Generator)
    assert next(answers).number == 0
    answers.close()
    begun = set(lm.begun)
    assert len(begun) >= 2
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]

    lm = watched(tiny_lm)
    assert len(list(JournaledLM(lm, path).complete(requests()))) == BLOCKS * BLOCK_SIZE
    assert not begun & set(lm.begun)


def test_a_second_signal_ends_the_blocks_in_flight(
    tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process would wait for their threads."""

    class Ended(WatchedLM):
        def before_answers(self, block: int) -> None:
            stopping.request_stop_now()

    monkeypatch.setattr(stopping, "_ends_now", False)
    lm = watched(tiny_lm, Ended)
    with pytest.raises(stopping.Interrupted):
        list(JournaledLM(lm, tmp_path / "a.sqlite").complete(requests()))
    assert sorted(lm.begun) == [0, 1]


def test_scores_have_all_threads_while_a_block_runs(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last digits depend on it; a Python thread begins with the number that was last set."""
    lm = open_local(tiny_lm)
    lm.describe()
    in_block, has_scored = threading.Event(), threading.Event()
    seen: dict[str, int] = {}
    run = LocalLM._run

    def watched_run(self: LocalLM, *arguments: Any) -> None:
        name = threading.current_thread().name
        seen[name] = torch.get_num_threads()
        if name == "block":
            in_block.set()
            assert has_scored.wait(60)
        run(self, *arguments)

    monkeypatch.setattr(LocalLM, "_run", watched_run)

    def complete() -> None:
        list(lm.complete(requests()[:1]))

    def score() -> None:
        lm.score(["Movie review: fine (Sentiment:"], CHOICES)
        seen["after"] = torch.get_num_threads()

    block, scores = Thread(target=complete, name="block"), Thread(target=score, name="scores")
    block.start()
    assert in_block.wait(60)
    scores.start()
    scores.join()
    has_scored.set()
    block.join()
    assert seen == {"block": 1, "scores": 2, "after": 2}
