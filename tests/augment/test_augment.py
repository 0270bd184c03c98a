"""Quota, rounds, the filter, rejects, manifests and resuming.

With the packaged LM, and with scripted augmenters.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli import stopping
from gpt3mix_cli.augment import AugmentOptions, augment, loop, num_rows_wanted, open_augmenter
from gpt3mix_cli.augment.protocol import RowGenerator, TextEditor
from gpt3mix_cli.errors import Callbacks, StoppedShort, UserError
from gpt3mix_cli.layout import journal_path, rejects_path
from gpt3mix_cli.lm import LM, Completion, JournaledLM, Request, Scores, open_lm
from gpt3mix_cli.records import (
    Augmented,
    Example,
    IncompleteOutput,
    Manifest,
    Reject,
    StageOptions,
    StageResult,
    manifest_path,
    read_manifest,
    read_records,
)
from gpt3mix_cli.settings import AugmentSettings, EdaSettings, FilterSettings, LocalLMSettings, Task

# Matched labels depend on the whole set, so a longer one would not begin like a shorter one.
SETTINGS = AugmentSettings(temperature=0.9, max_tokens=40, label_prior="none", label_check=0)
ROWS = [
    Example(id=f"r{i}", text=f"real text {i}", label="neg" if i % 2 else "pos") for i in range(5)
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # The last digits of a sum may depend on the number of threads, and the children below have one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def examples(texts: list[str]) -> list[Example]:
    return [
        Example(id=f"r{i}", text=text, label="neg" if i % 2 else "pos")
        for i, text in enumerate(texts[:6])
    ]


@pytest.fixture(scope="module")
def bundled() -> LM:
    return open_lm(LocalLMSettings(kind="local", dtype="float32", device="cpu", batch_size=8))


def kept(path: Path) -> list[Augmented]:
    return list(read_records(path, Augmented, ["pos", "neg"]))


def rejected(path: Path) -> list[Reject]:
    return list(read_records(rejects_path(path), Reject))


def manifest_of(path: Path) -> Manifest:
    manifest = read_manifest(path)
    assert manifest is not None
    return manifest


# Scripted augmenters ------------------------------------------------------------------------------


class Scripted(RowGenerator):
    """A generator: attempt i gives the i-th text of its script, over and over; no text is a reject,
    '#' becomes the number."""

    rows_per_attempt = 1

    def __init__(self, *script: str | None, block: int = 1) -> None:
        self.script, self.block_size = script, block
        self.about: dict[str, Any] = {"method": "scripted", "script": list(script)}
        self.asked: list[tuple[int, int]] = []

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented | Reject]:
        self.asked.append((first, count))
        for number in range(first, first + count):
            text = self.script[number % len(self.script)]
            parents = [examples[number % len(examples)].id]
            if text is None:
                yield Reject(
                    request=number, method="scripted", parents=parents, text="", reason="unfinished"
                )
            else:
                probs = {"pos": 1.0, "neg": 0.0}
                text = text.replace("#", str(number))
                yield Augmented(
                    id=f"s-{number}",
                    text=text,
                    label="pos",
                    probs=probs,
                    method="scripted",
                    parents=parents,
                    request=number,
                )

    def usage(self) -> Mapping[str, int]:
        return {"prompt_tokens": 10 * len(self.asked), "completion_tokens": len(self.asked)}


class Editor(TextEditor):
    """Edits parent i mod n: adds the number of the copy, or changes nothing but the case."""

    def __init__(self, change: bool = True) -> None:
        self.about = {"method": "editor", "classes": ["pos", "neg"], "change": change}
        self.change = change

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        for number in range(first, first + count):
            parent = examples[number % len(examples)]
            yield f"{parent.text} {number // len(examples)}" if self.change else parent.text.upper()


def made(augmenter: Any, output: Path, **options: Any) -> StageResult:
    stage = {
        name: options.pop(name)
        for name in ("callbacks", "command", "force", "has_own_output")
        if name in options
    }
    quota = AugmentOptions(**{"ratio": 1, "attempts": 4, "seed": 0, **options})
    return augment(augmenter, ROWS, output, quota, StageOptions(**stage))


# How many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "n", "wanted"),
    [
        (1, 7, 7),
        (10, 7, 70),
        (0.5, 3, 2),
        (0.5, 5, 3),
        (0.5, 4, 2),
        (2.5, 3, 8),
        (0.1, 5, 1),
        (0.1, 4, 0),
        (0.29, 50, 15),
        (1.005, 100, 101),
    ],
)
def test_ratio_times_n_is_rounded_half_up(ratio: float, n: int, wanted: int) -> None:
    """As the decimal number that was written: 0.29 x 50 is 14.5, although the float is less."""
    assert num_rows_wanted(ratio, n) == wanted


@quick(max_examples=100, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 5000))
def test_rounding_is_never_half_a_row_off(hundredths: int, n: int) -> None:
    exact = Fraction(hundredths, 100) * n
    assert -Fraction(1, 2) < num_rows_wanted(hundredths / 100, n) - exact <= Fraction(1, 2)


def test_ratio_half_of_three_rows_is_two(tmp_path: Path) -> None:
    done = augment(
        Scripted("new #"),
        ROWS[:3],
        tmp_path / "out.jsonl",
        AugmentOptions(ratio=0.5, attempts=4, seed=0),
    )
    assert len(kept(done.output)) == done.manifest.counts["kept"] == 2


def test_a_limit_caps_the_rows(tmp_path: Path) -> None:
    assert len(kept(made(Scripted("new #"), tmp_path / "a.jsonl", ratio=10, limit=3).output)) == 3
    assert len(kept(made(Scripted("new #"), tmp_path / "b.jsonl", ratio=1, limit=30).output)) == 5


# With the packaged LM -----------------------------------------------------------------------------


def write_with(
    lm: LM,
    task: Task,
    examples: list[Example],
    output: Path,
    ratio: float,
    seed: int = 0,
    attempts: float = 4,
    settings: AugmentSettings = SETTINGS,
) -> StageResult:
    return augment(
        open_augmenter(settings, task, lm),
        examples,
        output,
        AugmentOptions(ratio=ratio, attempts=attempts, seed=seed),
    )


def test_the_packaged_lm_gives_the_rows_wanted_and_ratio_3_extends_ratio_1(
    bundled: LM, task: Task, examples: list[Example], tmp_path: Path
) -> None:
    """Byte for byte: rows of ratio 1, 1.5 and 3, and the rejects among them, begin alike; another
    seed gives others."""
    done = {
        ratio: write_with(bundled, task, examples, tmp_path / f"{ratio}.jsonl", ratio)
        for ratio in (1, 1.5, 3)
    }
    for ratio, wanted in ((1, 6), (1.5, 9), (3, 18)):
        rows = kept(done[ratio].output)
        assert len(rows) == wanted
        assert done[ratio].manifest.complete
        for row in rows:
            assert row.label == max(row.probs, key=lambda name: row.probs[name])
            assert row.text == row.text.strip() != ""
            assert len(set(row.parents)) == 2
            assert row.label_source == "exact"
            assert row.label_mass is not None
            assert 0 < row.label_mass <= 1
    whole = {
        ratio: (one.output.read_bytes(), rejects_path(one.output).read_bytes())
        for ratio, one in done.items()
    }
    for smaller, larger in ((1, 1.5), (1.5, 3)):
        assert all(
            long.startswith(short)
            for short, long in zip(whole[smaller], whole[larger], strict=True)
        )
    other = write_with(bundled, task, examples, tmp_path / "other.jsonl", 1, seed=1)
    assert not {row.text for row in kept(other.output)} & {row.text for row in kept(done[1].output)}


def test_every_attempt_up_to_the_last_row_is_kept_or_rejected(
    bundled: LM, task: Task, examples: list[Example], tmp_path: Path
) -> None:
    """With so few tokens many are unfinished, so that there are rounds."""
    output = tmp_path / "out.jsonl"
    done = write_with(
        bundled,
        task,
        examples,
        output,
        2,
        attempts=8,
        settings=AugmentSettings(temperature=0.9, max_tokens=20),
    )
    rows, rejects = kept(output), rejected(output)
    numbers = [row.request for row in rows]
    assert rejects
    assert numbers == sorted(numbers)
    assert [row.request for row in rejects] == sorted(row.request for row in rejects)
    assert sorted([*numbers, *(row.request for row in rejects)]) == list(range(numbers[-1] + 1))
    counts = done.manifest.counts
    assert counts["rejected"] == dict(Counter(row.reason for row in rejects))
    assert (counts["wanted"], counts["kept"]) == (12, 12)
    assert counts["asked"] >= numbers[-1] + 1
    assert counts["asked"] % 8 == 0


# Rounds and the limit -----------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_again(tmp_path: Path) -> None:
    """One in four is a row: 5, then the missing 4, 3, 2, ..."""
    scripted = Scripted(None, "real text 3", None, "new #")
    done = made(scripted, tmp_path / "out.jsonl", attempts=5)
    assert [row.request for row in kept(done.output)] == [3, 7, 11, 15, 19]
    assert scripted.asked[:3] == [(0, 5), (5, 4), (9, 3)]
    assert all(
        first == before + count
        for (before, count), (first, _) in zip(scripted.asked, scripted.asked[1:], strict=False)
    )
    assert done.manifest.counts["rejected"] == {"copy_of_real": 5, "unfinished": 10}
    assert done.manifest.counts["asked"] == 20


def test_whole_blocks_are_asked_for_and_spare_rows_not_used(tmp_path: Path) -> None:
    scripted = Scripted(None, "new #", block=8)
    done = made(scripted, tmp_path / "out.jsonl")
    assert scripted.asked == [(0, 8), (8, 8)]
    assert [row.request for row in kept(done.output)] == [1, 3, 5, 7, 9]
    assert [row.request for row in rejected(done.output)] == [0, 2, 4, 6, 8]
    assert done.manifest.counts["asked"] == 16


@quick(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([None, "new #", "same", "other", "real text 1"]), min_size=1, max_size=7
    ),
    st.integers(1, 9),
)
def test_any_script_fills_its_files_consistently(
    tmp_path_factory: pytest.TempPathFactory, script: list[str | None], block: int
) -> None:
    """Kept and rejected partition the attempts considered, in order; ratio 1 begins ratio 2."""
    folder = tmp_path_factory.mktemp("script")
    contents = []
    for ratio in (1, 2):
        output = folder / f"{ratio}.jsonl"
        try:
            complete = made(
                Scripted(*script, block=block), output, ratio=ratio, attempts=2
            ).manifest.complete
            assert complete
        except StoppedShort:
            complete = False
        rows, rejects, manifest = kept(output), rejected(output), manifest_of(output)
        numbers = sorted([row.request or 0 for row in rows] + [row.request for row in rejects])
        assert numbers == list(range(len(numbers)))
        assert manifest.complete == complete == (len(rows) == 5 * ratio)
        assert manifest.counts["kept"] == len(rows)
        assert sum(manifest.counts["rejected"].values()) == len(rejects)
        assert manifest.counts["asked"] == len(rows) + len(rejects) + manifest.counts["spare"]
        assert len(numbers) <= manifest.counts["asked"] < 2 * 5 * ratio + block
        assert len({row.text for row in rows}) == len(rows)
        contents.append([path.read_bytes() for path in (output, rejects_path(output))])
        if not complete:
            assert len(numbers) == manifest.counts["asked"], (
                "nothing that was asked for is thrown away while rows are missing"
            )
    assert contents[1][0].startswith(contents[0][0])
    assert contents[1][1].startswith(contents[0][1])


def test_attempts_end_and_what_there_is_is_written(tmp_path: Path) -> None:
    """Exit 3: the rows so far with `complete: false`; a run with more attempts replaces them."""
    output = tmp_path / "out.jsonl"
    scripted = Scripted(None, None, "new #")
    with pytest.raises(StoppedShort, match="3 of 5 rows after 10 requests") as caught:
        made(scripted, output, attempts=2)
    assert caught.value.exit_code == 3
    assert sum(count for _, count in scripted.asked) == 10
    assert [row.request for row in kept(output)] == [2, 5, 8]
    assert (manifest_of(output).complete, manifest_of(output).counts["kept"]) == (False, 3)
    assert len(rejected(output)) == 7
    short = output.read_bytes()
    with pytest.raises(StoppedShort):
        made(Scripted(None, None, "new #"), output, attempts=2)
    assert output.read_bytes() == short
    done = made(Scripted(None, None, "new #"), output, attempts=3)
    assert (done.skipped, done.manifest.complete, len(kept(output))) == (False, True, 5)
    assert output.read_bytes().startswith(short)


def test_attempts_are_rounded_up(tmp_path: Path) -> None:
    """1.1 x 5 rows: six requests."""
    scripted = Scripted(None)
    with pytest.raises(StoppedShort, match="after 6 requests"):
        made(scripted, tmp_path / "out.jsonl", attempts=1.1)


def test_copies_and_repeats_are_rejected_with_what_they_copy(tmp_path: Path) -> None:
    done = made(
        Scripted("REAL  text 2", "new #", "a", "A"), tmp_path / "out.jsonl", ratio=0.6, limit=2
    )
    assert [row.text for row in kept(done.output)] == ["new 1", "a"]
    done = made(Scripted("REAL  text 2", "a", "A", "new #"), tmp_path / "b.jsonl", ratio=0.6)
    assert [row.text for row in kept(done.output)] == ["a", "new 3", "new 7"]
    reasons = [(row.request, row.reason, row.detail, row.text) for row in rejected(done.output)]
    copy, repeat = ("copy_of_real", "r2", "REAL  text 2"), ("repeat", "s-1")
    assert reasons == [
        (0, *copy),
        (2, *repeat, "A"),
        (4, *copy),
        (5, *repeat, "a"),
        (6, *repeat, "A"),
    ]


# The manifest, skipping, force --------------------------------------------------------------------


def test_a_second_call_is_skipped_and_force_redoes(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = made(Scripted("new #"), output, command=["gpt3mix", "augment"])
    assert (first.skipped, first.manifest.seed, first.manifest.command) == (
        False,
        0,
        ["gpt3mix", "augment"],
    )
    assert first.manifest.tokens == 11
    scripted = Scripted("new #")
    second = made(scripted, output)
    assert second.skipped
    assert scripted.asked == []
    assert second.manifest == first.manifest
    third = made(scripted, output, force=True)
    assert not third.skipped
    assert scripted.asked == [(0, 5)]


def test_a_changed_setting_redoes_with_force(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    made(Scripted("new #"), output)
    before = output.read_bytes()
    scripted = Scripted("new #")
    with pytest.raises(UserError, match=r"finished, with other settings or rows: seed .* -> 1"):
        made(scripted, output, seed=1)
    assert (output.read_bytes(), scripted.asked) == (before, [])
    assert not made(Scripted("new #"), output, seed=1, force=True).skipped
    assert (tmp_path / "out.jsonl.bak").read_bytes() == before


@pytest.mark.parametrize("change", [{"ratio": 2}, {"limit": 4}, {"ratio": 0.4}])
def test_another_number_of_rows_is_no_other_work(tmp_path: Path, change: dict[str, Any]) -> None:
    output = tmp_path / "out.jsonl"
    made(Scripted("new #"), output)
    before = output.read_bytes()
    assert not made(Scripted("new #"), output, **change).skipped
    after = output.read_bytes()
    assert after.startswith(before) or before.startswith(after)
    assert (tmp_path / "out.jsonl.bak").read_bytes() == before


def test_other_rows_or_another_augmenter_redo_with_force(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    made(Scripted("new #"), output)
    with pytest.raises(UserError, match="finished, with other settings") as caught:
        made(Scripted("newer #"), output, has_own_output=True)
    assert caught.value.hint.startswith("to keep both, write to another file with -o; to replace")
    assert not made(Scripted("newer #"), output, force=True).skipped
    changed = [ROWS[0].model_copy(update={"label": "neg"}), *ROWS[1:]]
    quota = AugmentOptions(ratio=1, attempts=4, seed=0)
    with pytest.raises(UserError, match="other training rows"):
        augment(Scripted("newer #"), changed, output, quota)
    done = augment(Scripted("newer #"), changed, output, quota, StageOptions(force=True))
    assert not done.skipped


@pytest.mark.parametrize("has_manifest", [True, False])
def test_rows_that_a_person_has_changed_are_kept(tmp_path: Path, has_manifest: bool) -> None:
    output = tmp_path / "out.jsonl"
    made(Scripted("new #"), output)
    content = output.read_bytes()
    edited = content.replace(b"new", b"edited", 1)
    output.write_bytes(edited)
    if not has_manifest:
        manifest_path(output).unlink()
    with pytest.raises(UserError, match=r"was changed|has no manifest") as caught:
        made(Scripted("new #"), output)
    assert "--set name=NAME" in caught.value.hint
    assert ("gpt3mix review" in caught.value.hint) is has_manifest
    assert "--force" in caught.value.hint
    with pytest.raises(UserError) as caught:
        made(Scripted("new #"), output, has_own_output=True)
    assert caught.value.hint.startswith("to keep it, write to another file with -o; to replace")
    assert output.read_bytes() == edited
    made(Scripted("new #"), output, force=True)
    assert output.read_bytes() == content
    assert (tmp_path / "out.jsonl.bak").read_bytes() == edited


def test_a_set_of_a_run_that_was_killed_at_its_end_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its rows appeared, and before its manifest."""
    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_output", lambda *args, **fields: interrupt())
        with pytest.raises(KeyboardInterrupt):
            made(Scripted("new #"), output)
    content = output.read_bytes()
    assert not made(Scripted("new #"), output).skipped
    assert output.read_bytes() == content
    assert not list(tmp_path.glob("*.bak"))


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_unfinished_set_goes_on_with_other_settings_too(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(StoppedShort):
        made(Scripted(None, "new #", None, None), output, attempts=1)
    made(Scripted("new #"), output, seed=1)
    assert (tmp_path / "out.jsonl.bak").exists()


def test_nothing_is_written_if_the_generator_breaks(tmp_path: Path) -> None:
    class Breaking(Scripted):
        def generate(
            self, examples: Sequence[Example], first: int, count: int, seed: int
        ) -> Iterator[Augmented | Reject]:
            yield from super().generate(examples, first, 2, seed)
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        made(Breaking("new #"), tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_no_real_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no real rows"):
        augment(
            Scripted("new #"),
            [],
            tmp_path / "out.jsonl",
            AugmentOptions(ratio=1, attempts=4, seed=0),
        )


def test_progress_is_reported_up_to_the_quota(tmp_path: Path) -> None:
    heard: list[tuple[str, int | None, int | None]] = []
    made(
        Scripted(None, "new #"),
        tmp_path / "out.jsonl",
        callbacks=Callbacks(
            lambda name, done, total=None, detail="": heard.append((name, done, total))
        ),
    )
    assert heard[-1] == ("scripted", 5, 5)
    assert heard[:2] == [("preparing scripted", 0, None), ("preparing scripted", 1, 1)]
    kept = [done or 0 for name, done, _ in heard if name == "scripted"]
    assert kept[0] == 0
    assert kept == sorted(kept)


def test_paths_next_to_the_output() -> None:
    assert rejects_path(Path("a/gpt3mix.draw-1.jsonl")) == Path("a/gpt3mix.draw-1.rejects.jsonl")
    assert journal_path(Path("a/gpt3mix.draw-1.jsonl")) == Path("a/gpt3mix.draw-1.journal.sqlite")


class Several(Scripted):
    """A generator whose attempts give three rows each, of which the script's turn may be a
    reject."""

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented | Reject]:
        for row in super().generate(examples, first, count, seed):
            for rank, word in enumerate(("one", "two", "three")):
                names = (
                    {}
                    if isinstance(row, Reject)
                    else {"id": f"{row.id}.{rank}" if rank else row.id}
                )
                yield row.model_copy(
                    update={"text": f"{row.text} {word}" if row.text else "", **names}
                )


def test_several_rows_of_an_attempt_count_in_order_and_get_ids_of_their_own(tmp_path: Path) -> None:
    contents = []
    for ratio in (0.8, 2):
        done = made(Several("new #", None), tmp_path / f"{ratio}.jsonl", ratio=ratio, attempts=4)
        rows = kept(done.output)
        assert len({row.id for row in rows}) == len(rows) == 5 * ratio
        contents.append(done.output.read_bytes())
    assert contents[1].startswith(contents[0])
    assert [(row.id, row.text) for row in rows[:4]] == [
        ("s-0", "new 0 one"),
        ("s-0.1", "new 0 two"),
        ("s-0.2", "new 0 three"),
        ("s-2", "new 2 one"),
    ]
    assert done.manifest.counts["asked"] == 10, "attempts, not rows"


def test_rows_past_the_last_one_wanted_are_spare_and_all_answers_add_up(tmp_path: Path) -> None:
    """Where an attempt has three rows, they are more than the attempts."""
    counts = made(Several("new #", None, block=6), tmp_path / "out.jsonl", limit=4).manifest.counts
    assert (counts["asked"], counts["kept"], counts["rejected"], counts["spare"]) == (
        6,
        4,
        {"unfinished": 3},
        11,
    )


# What the manifest says of the set ----------------------------------------------------------------


def test_tokens_are_tokens_and_events_are_counted_next_to_them(tmp_path: Path) -> None:
    scripted = Scripted("new #")
    scripted.usage = lambda: {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "shortened": 3,
        "retokenised": 1,
    }  # type: ignore[method-assign]
    manifest = made(scripted, tmp_path / "out.jsonl").manifest
    assert manifest.tokens == 15
    assert (manifest.counts["shortened"], manifest.counts["retokenised"]) == (3, 1)
    scripted.usage = lambda: {"shortened": 3}  # type: ignore[method-assign]
    assert made(scripted, tmp_path / "none.jsonl").manifest.tokens is None


def test_a_changed_threshold_redoes_a_generators_rows_and_no_editors(tmp_path: Path) -> None:
    held_out = [ROWS[0].model_copy(update={"text": "new 1"})]
    gates: list[dict[str, Any]] = [
        {},
        {"filter": FilterSettings(max_words=50)},
        {"test": held_out},
        {"filter": FilterSettings(reject_test_copies=False), "test": held_out},
    ]
    for changed in gates:
        assert not made(Scripted("new #"), tmp_path / "out.jsonl", **changed, force=True).skipped
        assert made(Scripted("new #"), tmp_path / "out.jsonl", **changed).skipped
    made(Editor(), tmp_path / "editor.jsonl")
    assert all(made(Editor(), tmp_path / "editor.jsonl", **changed).skipped for changed in gates)


@pytest.mark.parametrize(
    ("script", "helps"),
    [((None,), "raise augment.max_tokens"), (("same",), "raise augment.temperature")],
)
def test_the_remedy_for_too_few_rows_fits_the_reason(
    tmp_path: Path, script: tuple[str | None, ...], helps: str
) -> None:
    with pytest.raises(StoppedShort) as caught:
        made(Scripted(*script), tmp_path / "out.jsonl")
    assert helps in caught.value.hint
    assert "answers are kept" in caught.value.hint


# Editors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "shares"),
    [(1, [1, 1, 1, 1, 1]), (1.4, [2, 2, 1, 1, 1]), (0.6, [1, 1, 1, 0, 0]), (3, [3, 3, 3, 3, 3])],
)
def test_an_editor_deals_its_rows_evenly_the_first_get_the_remainder(
    tmp_path: Path, ratio: float, shares: list[int]
) -> None:
    for augmenter in (
        Editor(),
        open_augmenter(
            EdaSettings(kind="eda"), Task(name="t", data={"kind": "demo"}, labels=["pos", "neg"])
        ),
    ):
        rows = kept(
            made(augmenter, tmp_path / f"{augmenter.about['method']}.jsonl", ratio=ratio).output
        )
        counts = Counter(parent for row in rows for parent in row.parents)
        assert [counts[row.id] for row in ROWS] == shares
        labels = {row.id: row.label for row in ROWS}
        assert all(row.label == labels[row.parents[0]] for row in rows)


def test_an_editors_rows_are_all_kept_and_the_unchanged_and_repeated_counted(
    tmp_path: Path,
) -> None:
    """12 rows of 5 parents: all unchanged (in case only), 7 of them repeated."""
    done = made(Editor(change=False), tmp_path / "out.jsonl", ratio=2.4)
    assert len(kept(done.output)) == 12
    assert not rejects_path(done.output).exists()
    expected = {
        "wanted": 12,
        "asked": 12,
        "kept": 12,
        "rejected": {},
        "spare": 0,
        "unchanged": 12,
        "repeated": 7,
    }
    assert done.manifest.counts.pop("statistics")["classes"] == {"pos": 7, "neg": 5}
    assert done.manifest.counts == expected
    assert done.manifest.tokens is None
    changed = made(Editor(), tmp_path / "changed.jsonl", ratio=2.4).manifest.counts
    assert (changed["unchanged"], changed["repeated"]) == (0, 0)


def test_the_same_text_of_two_parents_is_no_repeat(tmp_path: Path) -> None:
    twins = [ROWS[0], ROWS[0].model_copy(update={"id": "twin"})]
    done = augment(
        Editor(change=False),
        twins,
        tmp_path / "out.jsonl",
        AugmentOptions(ratio=1, attempts=1, seed=0),
    )
    assert (done.manifest.counts["unchanged"], done.manifest.counts["repeated"]) == (2, 0)


# Resuming, and bytes that depend on nothing else --------------------------------------------------

CHILD = """
import json, os, sys
from pathlib import Path
import torch
from gpt3mix_cli.augment import AugmentOptions, augment, open_augmenter
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.layout import journal_path
from gpt3mix_cli.lm import open_lm
from gpt3mix_cli.lm import JournaledLM
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings, Task

torch.set_num_threads(1)
asked = json.load(sys.stdin)

class Dying:
    def __init__(self, lm, blocks):
        self.lm, self.left, self.info = lm, blocks, lm.info
    def complete(self, requests):
        if not self.left:
            os._exit(9)
        self.left -= 1
        yield from self.lm.complete(requests)
    def score(self, prompts, choices):
        return self.lm.score(prompts, choices)
    def describe(self):
        return self.lm.describe()

output = Path(asked["output"])
inner = open_lm(LocalLMSettings(**asked["lm"]))
lm = JournaledLM(Dying(inner, asked["blocks"]), journal_path(output))
examples = [Example(**row) for row in asked["examples"]]
quota = AugmentOptions(ratio=asked["ratio"], attempts=4, seed=0)
try:
    augmenter = open_augmenter(AugmentSettings(**asked["augment"]), Task(**asked["task"]), lm)
    augment(augmenter, examples, output, quota)
except StoppedShort:
    pass
lm.close()
"""


def child(
    output: Path,
    model: str,
    settings: AugmentSettings,
    task: Task,
    examples: list[Example],
    ratio: float,
    blocks: int,
    hash_seed: str,
) -> subprocess.Popen[bytes]:
    asked = {
        "output": str(output),
        "blocks": blocks,
        "augment": settings.model_dump(),
        "task": task.model_dump(mode="json"),
        "ratio": ratio,
        "lm": {
            "kind": "local",
            "model": model,
            "dtype": "float32",
            "device": "cpu",
            "batch_size": 8,
        },
        "examples": [row.model_dump() for row in examples],
    }
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin
    process.stdin.write(json.dumps(asked).encode())
    process.stdin.close()
    return process


def ended(process: subprocess.Popen[bytes]) -> int:
    with process:
        assert process.stderr
        message = process.stderr.read().decode()
    assert "Traceback" not in message, message
    return process.returncode


class CountingLM:
    """Counts the blocks that reach the real LM."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.info, self.blocks = lm, lm.info, 0

    def complete(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.blocks += 1
        return self.lm.complete(requests)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        return self.lm.score(prompts, choices)

    def describe(self) -> str:
        return self.lm.describe()


@pytest.mark.slow
def test_a_run_resumed_after_a_kill_gives_the_same_bytes(
    bundled: LM, task: Task, examples: list[Example], tmp_path: Path
) -> None:
    """Ended without a word in the third block: the first two are not asked for again."""
    output, straight = tmp_path / "killed" / "gpt3mix.jsonl", tmp_path / "straight.jsonl"
    process = child(output, "bundled", SETTINGS, task, examples, 4, blocks=2, hash_seed="random")
    write_with(bundled, task, examples, straight, 4)
    assert ended(process) == 9
    assert not output.exists()
    assert read_manifest(output) is None
    counting = CountingLM(bundled)
    journal = JournaledLM(counting, journal_path(output))
    resumed = write_with(journal, task, examples, output, 4)
    journal.close()
    assert output.read_bytes() == straight.read_bytes()
    assert rejects_path(output).read_bytes() == rejects_path(straight).read_bytes()
    assert resumed.manifest.counts == manifest_of(straight).counts
    assert counting.blocks == resumed.manifest.counts["asked"] // 8 - 2


def test_prompts_that_lost_examples_cause_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    for shortened in (0, 3):
        scripted = Scripted("new #")
        scripted.usage = lambda shortened=shortened: {"shortened": shortened}  # type: ignore[method-assign]
        made(
            scripted,
            tmp_path / f"{shortened}.jsonl",
            callbacks=Callbacks(warn=warnings.append),
        )
    assert len(warnings) == 1
    assert "3 of 5 prompts" in warnings[0]


def test_an_lm_that_passes_over_the_labels_causes_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    for mass in (0.4, 0.6):
        scripted = Scripted(*(f"new {i}" for i in range(9)))
        generate = scripted.generate
        scripted.generate = lambda *given, mass=mass, generate=generate: (
            row.model_copy(update={"label_mass": mass}) for row in generate(*given)
        )  # type: ignore[method-assign]
        made(
            scripted,
            tmp_path / f"{mass}.jsonl",
            callbacks=Callbacks(warn=warnings.append),
        )
    assert len(warnings) == 1
    assert "40.0%" in warnings[0]


# Signals, and answers that are there --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "editor"])
def test_an_interrupted_set_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With `complete: false`, as after a budget; the same command makes the others."""
    monkeypatch.setattr(stopping, "_is_requested", False)

    def after_seven(name: str, done: int, total: int | None = None, detail: str = "") -> None:
        if done == 7:
            stopping.request_stop()

    class Stoppable(Scripted):
        def generate(self, *given: Any) -> Iterator[Augmented | Reject]:
            for row in super().generate(*given):
                stopping.stop_if_requested()
                yield row

    augmenter = Stoppable("new #") if kind == "generator" else Editor()
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    with pytest.raises(IncompleteOutput, match="7 of 10 rows: interrupted") as caught:
        made(augmenter, output, ratio=2, callbacks=Callbacks(progress=after_seven))
    assert caught.value.exit_code == 3
    manifest = manifest_of(output)
    assert (manifest.complete, manifest.counts["kept"], manifest.counts["asked"]) == (False, 7, 7)
    monkeypatch.setattr(stopping, "_is_requested", False)
    made(augmenter, whole, ratio=2)
    assert whole.read_bytes().startswith(output.read_bytes())
    assert made(augmenter, output, ratio=2).manifest.complete
    assert output.read_bytes() == whole.read_bytes()


def test_an_interrupted_set_without_rows_leaves_an_earlier_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    made(Editor(), output)
    before = output.read_bytes()
    monkeypatch.setattr(stopping, "_is_requested", True)
    with pytest.raises(StoppedShort, match="no row yet"):
        made(Editor(), output, ratio=2)
    assert output.read_bytes() == before


def test_without_top_up_a_filter_passes_the_answers_that_are_there_again(
    bundled: LM, task: Task, examples: list[Example], tmp_path: Path
) -> None:
    """A stricter filter gives fewer rows and asks nothing; the former one gives the former rows."""
    output = tmp_path / "gpt3mix.jsonl"
    journal = JournaledLM(bundled, journal_path(output))
    write_with(journal, task, examples, output, 4)
    journal.close()
    before = output.read_text()
    longest = max(len(row.text.split()) for row in kept(output))
    settings = LocalLMSettings(kind="local", dtype="float32", device="cpu", batch_size=8)
    replay = JournaledLM(open_lm(settings, replay_only=True), journal_path(output))
    augmenter = open_augmenter(SETTINGS, task, replay)

    def filtered(**options: Any) -> StageResult:
        quota = AugmentOptions(ratio=4, attempts=4, seed=0, **options)
        return augment(augmenter, examples, output, quota)

    strict = FilterSettings(min_words=longest)
    with pytest.raises(UserError, match="is finished, with other settings"):
        filtered(filter=strict)
    with pytest.raises(IncompleteOutput) as caught:
        filtered(filter=strict, tops_up=False)
    assert "leave out --no-top-up" in caught.value.hint
    assert not manifest_of(output).complete
    assert set(output.read_text().splitlines()) < set(before.splitlines())
    assert kept(output)
    assert {row.reason for row in rejected(output)} >= {"min_words"}
    assert filtered(tops_up=False).manifest.complete
    assert output.read_text() == before
    replay.close()
