"""What a person sees while waiting: bars at 80 columns, the time left, lines without a terminal."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpt3mix_cli.console_progress import (
    ProgressDisplay,
    Stage,
    clock,
    render_stages,
    shorten_middle,
)


def stage(name: str = "gpt3mix", done: int = 0, total: int | None = 10) -> Stage:
    return Stage(name, done, total, "", 0.0)


def lines(stages: list[Stage], width: int, now: float) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(render_stages(stages, width, now))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_narrow_terminal_cuts_details_and_keeps_the_rest(width: int) -> None:
    first = stage("gpt3mix", 3, 1_000)
    name = "tickets-of-a-long-name full seed 12 gpt3mix + minilm-large, trial 7, epoch"
    second = stage(name, 12, 200)
    for number in range(4, 40):
        first.update(number, 1_000, "", number * 5.0)
    second.update(12, 200, "loss 0.123 validation 91.2% (best 92.0% at 9), ends at 29", 190.0)
    shown = lines([first, second], width, 200.0)
    assert len(shown) == 2
    assert all(len(line) <= width for line in shown)
    assert shown[0].startswith("gpt3mix ")
    assert "39/1000" in shown[0]
    assert "left" in shown[0]
    assert "12/200" in shown[1]
    assert "trial 7, epoch" in shown[1]
    assert ("ends at 29" in shown[1]) is (width == 200)


@given(
    st.lists(st.tuples(st.text(max_size=90), st.text(max_size=90)), min_size=1, max_size=4),
    st.integers(80, 200),
)
def test_no_line_is_wider_than_the_terminal(texts: list[tuple[str, str]], width: int) -> None:
    stages = [Stage(name, 3, 7, detail, 0.0) for name, detail in texts]
    console = Console(width=width, file=io.StringIO())
    options = console.options.update(width=width)
    assert len(console.render_lines(render_stages(stages, width, 9.0), options)) == len(stages)


def test_the_time_left_is_shown_after_ten_seconds_and_two_steps() -> None:
    one = stage()
    one.update(1, 10, "", 1.0)
    one.update(2, 10, "", 2.0)
    assert one.seconds_left(2.0) is None
    assert one.time_text(9.0) == "0:09"
    one.update(3, 10, "", 12.0)
    assert one.seconds_left(12.0) == pytest.approx(28.0)
    slow = stage()
    slow.update(1, 10, "", 60.0)
    assert slow.seconds_left(60.0) is None  # one step is no speed


def test_steps_that_were_done_before_do_not_count() -> None:
    """Twenty files are up to date within a second; the others take a minute each."""
    one = stage(total=25)
    for number in range(1, 21):
        one.update(number, 25, "", number * 0.01)
    one.update(21, 25, "", 60.2)
    one.update(22, 25, "", 120.2)
    assert one.seconds_left(120.2) == pytest.approx(180, abs=1)
    resumed = Stage("trials", 8, 10, "", 0.0)  # eight of ten were there
    resumed.update(9, 10, "", 30.0)
    assert resumed.seconds_left(30.0) is None


def test_a_step_that_takes_long_makes_the_time_left_longer() -> None:
    one = stage()
    one.update(1, 10, "", 10.0)
    one.update(2, 10, "", 20.0)
    assert one.seconds_left(20.0) == pytest.approx(80.0)
    assert (one.seconds_left(120.0) or 0) > 200


@pytest.mark.parametrize("name", ["sst2 1% seed 0 none + minilm, trial 0, epoch", "fit steps"])
def test_stages_that_end_early_or_have_unequal_steps_have_no_time_left(name: str) -> None:
    one = stage(name, total=200)
    one.update(30, 200, "", 60.0)
    one.update(31, 200, "", 62.0)
    assert one.seconds_left(62.0) is None
    assert one.line(62.0) == f"{name}: 31 of 200, 1:02 so far"


def test_a_time_left_that_has_passed_is_not_shown() -> None:
    """112 of 123 rows are kept of a block; the last ones come with the next block."""
    one = stage("gpt3mix", total=123)
    one.update(26, 123, "", 13.0)
    one.update(113, 123, "", 60.0)
    assert one.line(62.0) == "gpt3mix: 113 of 123, 1:02 so far, about 0:03 left"
    assert one.line(66.2) == "gpt3mix: 113 of 123, 1:06 so far"  # not "about 0:00 left"
    assert one.line(73.0) == "gpt3mix: 113 of 123, 1:13 so far"


def test_without_a_terminal_a_line_comes_every_30_seconds_in_long_stages_too() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(Console(file=stream, soft_wrap=True), quiet=False)
    assert not display.has_bars
    start = time.monotonic()
    display.update("run steps", 1, 4, "")
    display.update("loading the LM smollm2", 0, None, "")
    for second in range(0, 95):
        display.write_line(start + second)
    written = stream.getvalue().splitlines()
    assert len(written) == 3
    assert written[0].startswith("run steps: 1 of 4, 0:")
    assert "; loading the LM smollm2, 0:" in written[0]
    display.update("loading the LM smollm2", 1, 1, "")
    display.update("run steps", 4, 4, "")
    display.write_line(start + 500)
    assert stream.getvalue().splitlines() == written


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(Console(file=stream, force_terminal=True), quiet=True)
    display.start()
    display.update("run steps", 1, 4, "")
    display.stop()
    assert stream.getvalue() == ""


def test_durations_and_names() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 200, 3_800)] == [
        "0:00", "1:00", "3:20", "1:03:20",
    ]  # fmt: skip
    assert shorten_middle("a long name, trial 7", 12) == "a lo…trial 7"
    assert shorten_middle("short", 12) == "short"
