"""What a person sees while waiting: bars in a terminal, elsewhere a line from time to time.

A line of a terminal has the stage, its bar, the count and the time, which always fit; the rest of
the width is for details. The time left is shown once it is no guess, and the time so far until
then. Without a terminal a thread writes a line at most every 30 seconds, in long stages too.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .errors import clip

LINE_INTERVAL_S = 30.0  # between two lines where there are no bars
MIN_ELAPSED_S = 10.0  # before that a time left would be a guess
MIN_STEPS = 2  # steps that took their time, for the same reason
FAST_STEP_S = 0.1  # faster steps at the beginning are work that was done before
FAST_START_S = 5.0
# Ends of the names of stages that have no time left: trainings may end before their last epoch, and
# the steps of a run, such as LM rows or trials, take very different times.
NO_TIME_LEFT = (", epoch", " steps")
BAR_WIDTH = 12
MIN_NAME_WIDTH = 16
FRAMES_PER_S = 8


@dataclass
class Stage:
    """A stage that is under way.

    Attributes:
        name: of the stage.
        done: finished steps.
        total: all steps; None if unknown.
        detail: the latest result.
        started: when it started, in seconds.
        updated: when it was last updated.
        base: time and step from which its speed is measured.
    """

    name: str
    done: int
    total: int | None
    detail: str
    started: float
    updated: float = field(init=False)
    base: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self.updated, self.base = self.started, (self.started, self.done)

    def update(self, done: int, total: int | None, detail: str, now: float) -> None:
        """Set its state at a time in seconds."""
        is_fast = now - self.updated < FAST_STEP_S and now - self.started < FAST_START_S
        if done > self.done and is_fast and self.base[1] == self.done:
            self.base = now, done
        self.done, self.total, self.detail, self.updated = done, total, detail, now

    def seconds_left(self, now: float) -> float | None:
        """Return the time left at the speed so far; None as long as that is a guess.

        None too if it has passed: the step under way takes longer than those before.
        """
        start, first = self.base
        steps = self.done - first
        if self.total is None or self.name.endswith(NO_TIME_LEFT):
            return None
        if steps < MIN_STEPS or now - start < MIN_ELAPSED_S:
            return None
        # The step under way may be a long one: the time since the last one counts too.
        per_step = max(self.updated - start, (now - start) * steps / (steps + 1)) / steps
        left = per_step * (self.total - self.done) - (now - self.updated)
        return left if left >= 1 else None

    def count_text(self) -> str:
        """Return how much is done."""
        return f"{self.done}/{self.total}" if self.total else str(self.done or "")

    def time_text(self, now: float) -> str:
        """Return the time left, or the time so far."""
        left = self.seconds_left(now)
        return clock(now - self.started) if left is None else f"{clock(left)} left"

    def line(self, now: float) -> str:
        """Return its state as a line of a log."""
        count = f": {self.done} of {self.total}" if self.total else ""
        left = self.seconds_left(now)
        times = f", {clock(now - self.started)} so far"
        if left is not None:
            times += f", about {clock(left)} left"
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.name}{count}{times}{detail}"


class ProgressDisplay:
    """Shows the stages that are under way.

    Args:
        console: of stderr.
        quiet: show nothing.
    """

    def __init__(self, console: Console, quiet: bool) -> None:
        self.has_bars = console.is_terminal and not quiet
        self._console, self._quiet = console, quiet
        self._stages: dict[str, Stage] = {}
        self._lock = threading.RLock()
        self._last_line = time.monotonic()
        self._ended = threading.Event()
        self._live = Live(
            get_renderable=self._render, console=console, transient=True,
            refresh_per_second=FRAMES_PER_S,
        )  # fmt: skip

    def start(self) -> None:
        """Start to show stages."""
        if self.has_bars:
            self._live.start()
        elif not self._quiet:
            threading.Thread(target=self._write_lines, daemon=True).start()

    def stop(self) -> None:
        """Remove the bars."""
        self._ended.set()
        if self.has_bars:
            self._live.stop()

    def update(self, name: str, done: int, total: int | None, detail: str) -> None:
        """Set the state of a stage; it has ended when all of its steps are done."""
        now = time.monotonic()
        with self._lock:
            if total is not None and done >= total:
                self._stages.pop(name, None)
            elif name in self._stages:
                self._stages[name].update(done, total, detail, now)
            else:
                self._stages[name] = Stage(name, done, total, detail, now)

    def _write_lines(self) -> None:
        while not self._ended.wait(1.0):
            self.write_line(time.monotonic())

    def write_line(self, now: float) -> None:
        """Write the states of the first and of the latest stage, if the last line is old enough."""
        with self._lock:
            if now - self._last_line < LINE_INTERVAL_S or not self._stages:
                return
            self._last_line = now
            stages = list(self._stages.values())
            latest = max(stages, key=lambda stage: stage.started)
            shown = [stages[0]] if latest is stages[0] else [stages[0], latest]
            text = "; ".join(stage.line(now) for stage in shown)
        self._console.print(Text(_one_line(text)))

    def _render(self) -> RenderableType:
        with self._lock:
            return render_stages(list(self._stages.values()), self._console.width)


def render_stages(stages: Sequence[Stage], width: int, now: float | None = None) -> Table:
    """Return the bars of some stages as a table of this width.

    Args:
        stages: the stages.
        width: columns of the terminal.
        now: the time in seconds; the present time by default.
    """
    now = time.monotonic() if now is None else now
    counts = [stage.count_text() for stage in stages]
    times = [stage.time_text(now) for stage in stages]
    fixed = BAR_WIDTH + _longest(counts) + _longest(times) + 4
    name_width = max(MIN_NAME_WIDTH, width - fixed)
    names = [shorten_middle(_one_line(stage.name), name_width) for stage in stages]
    rest = width - fixed - _longest(names)
    grid = Table.grid(padding=(0, 1, 0, 0))
    for justify in ("left", "left", "right", "right", "left"):
        grid.add_column(justify=justify, no_wrap=True)
    for stage, name, count, spent in zip(stages, names, counts, times, strict=True):
        bar = ProgressBar(
            stage.total or 1, stage.done, BAR_WIDTH, pulse=not stage.total, animation_time=now
        )
        detail = Text(clip(_one_line(stage.detail), rest) if rest > 1 else "", "dim")
        grid.add_row(Text(name), bar, Text(count, "green"), Text(spent, "cyan"), detail)
    return grid


def clock(seconds: float) -> str:
    """Return a duration as `3:20` or `1:03:20`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shorten_middle(text: str, length: int) -> str:
    """Return a text of at most this length: its beginning and its end say most."""
    if len(text) <= length:
        return text
    end = (length - 1) * 2 // 3
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)
