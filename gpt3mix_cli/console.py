"""What a person sees: progress bars and warnings on stderr, tables and summaries on stdout.

Nothing moves where stderr is no terminal; there each finished file gets a line. With `--json` stdout carries one object.
"""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .errors import Callbacks, StdoutClosed, StoppedShort, UserError
from .files import DISK_TROUBLE, STDIO, disk
from .records import Augmented, Done, Example, read

if TYPE_CHECKING:
    from .augment.card import Line
    from .grid.check import Finding
    from .grid.estimates import Plan
    from .report import Report


A_WORD = 60.0  # seconds between two words of progress where there are no bars


class _Stdout(Console):
    """Stdout, whose reader may go away (`| head`)."""

    def on_broken_pipe(self) -> None:
        raise StdoutClosed


class Display:
    """Renders what stages tell; a context manager around one command."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        """Open the streams; nothing is shown yet."""
        self._quiet, self._json = quiet, as_json
        self._err = Console(stderr=True, soft_wrap=True, highlight=False)
        self._out = _Stdout(highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=self._err, transient=True, disable=quiet or not self._err.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._warned: list[str] = []
        self._lock = threading.Lock()
        self._said = time.monotonic()

    def __enter__(self) -> "Display":
        """Begin to show progress."""
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove the bars; say what became of stdout if it could not be written."""
        self._progress.stop()
        if isinstance(error[1], BrokenPipeError):
            raise StdoutClosed from None
        if isinstance(error[1], OSError) and error[1].errno in DISK_TROUBLE:
            with disk(Path("stdout")):
                raise error[1]

    @property
    def callbacks(self) -> Callbacks:
        """What a stage calls to show progress and warnings; safe to call from any thread."""
        return Callbacks(self.progress, self.warn)

    def warn(self, message: str) -> None:
        """Show a warning, each only once."""
        with self._lock:
            if message not in self._warned:
                self._warned.append(message)
                self._progress.console.print(Text.assemble(("warning: ", "bold yellow"), message))

    def progress(self, name: str, done: int, total: int | None = None, detail: str = "") -> None:
        """Show a step of progress: a bar in a terminal, elsewhere a line now and then."""
        with self._lock:
            if not self._progress.disable:
                self._show_bar(name, done, total, detail)
            elif not self._quiet and time.monotonic() - self._said > A_WORD and done != total:
                # A log without a line for an hour looks like a run that hangs.
                self._said = time.monotonic()
                self._err.print(
                    Text(f"{name}: {done} of {total}{f' ({detail})' if detail else ''}")
                )

    def _show_bar(self, name: str, done: int, total: int | None, detail: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, detail="")
        if done == total:
            self._progress.remove_task(self._tasks.pop(name))
        else:
            self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)

    def ended(self, item: Done | StoppedShort) -> Done | StoppedShort:
        """Say that a stage of many has ended: a log has no bars."""
        if self._progress.disable and isinstance(item, Done):
            self._line(item)
        return item

    def note(self, text: str) -> None:
        """Say something that is neither progress nor a warning."""
        if not self._quiet:
            self._progress.stop()
            self._err.print(Text(text))

    def end(self, items: Sequence[Done | StoppedShort], following: str = "") -> None:
        """Say what was written, how many rows, and the next command."""
        self._progress.stop()
        done = [made for item in items if (made := item if isinstance(item, Done) else item.done)]
        for item in done:
            self._line(item)
        self._figures(done)
        if self._json:
            self._print_json(
                {"outputs": [_summary(item) for item in done], "warnings": self._warned}
            )
        self._raise(items)
        if not self._quiet:
            rows = sum(_rows(item) for item in done)
            skipped = sum(item.skipped for item in done)
            kept = f" ({skipped} up to date, skipped)" if skipped else ""
            self._err.print(
                Text(
                    f"{len(done)} file{'s' * (len(done) != 1)}, {rows} rows{kept}"
                    + (f"; next: {following}" if following else "")
                )
            )

    def report(self, result: "Report", items: Sequence[Done | StoppedShort] = ()) -> None:
        """Print the tables that answer the question, and say where the report stands."""
        from .report.render.json import summary
        from .report.render.terminal import terminal_table, terminal_tables

        self._progress.stop()
        if self._json:
            self._print_json(
                {
                    **summary(result),
                    "remarks": result.remarks,
                    "files": [str(path) for path in result.files],
                    "warnings": self._warned,
                }
            )
        else:
            # A table that is cut off where it is piped would be useless; there it gets the room it wants.
            console = (
                self._out
                if self._out.is_terminal
                else _Stdout(highlight=False, width=max(200, self._out.width))
            )
            for table in terminal_tables(result.tables):
                console.print(terminal_table(table, console.width))
        if not self._quiet:
            for remark in [*result.remarks, *result.paper_remarks]:
                self._err.print(Text(f"note: {remark}"))
            done = [item for item in items if isinstance(item, Done)]
            skipped = sum(item.skipped for item in done)
            stages = f"{len(done)} stages done ({skipped} up to date, skipped); " if done else ""
            trials = sum(row.n for row in result.results)
            over = (
                f"{len(result.differences)} results compared"
                if result.differences
                else f"report over {trials} trials"
            )
            self._err.print(Text(f"{stages}{over}: {result.files[0]}"))
        self._raise(items)

    def plan(self, plan: "Plan", following: str) -> None:
        """Print a line a cell with a total, what the figures rest on, the budget and the first prompt; then the next command."""
        self._progress.stop()
        if self._json:
            self._print_json({**plan.as_json(), "warnings": self._warned})
        else:
            # What is cut off where it is piped would be lost.
            console = (
                self._out
                if self._out.is_terminal
                else _Stdout(highlight=False, width=max(200, self._out.width))
            )
            console.print(_plan_table(plan))
            self._out.print(
                Text(
                    "  x2: two draws; held: rows that the journals give; the figures behind them are still to come"
                ),
                soft_wrap=True,
            )
            self._out.print(
                Text(
                    "  read, written: tokens of prompts and of completions; trials: over methods and classifiers"
                ),
                soft_wrap=True,
            )
            for remark in plan.remarks:
                self._out.print(Text(f"  {remark}"), soft_wrap=True)
            for name, (limit, spent) in plan.budget.items():
                self._out.print(
                    Text(f"  budget.{name}: {_spent(name, limit, spent)}"), soft_wrap=True
                )
            if plan.prompt is not None:
                self._out.print(
                    Text("\nthe first prompt, up to where the LM goes on:\n", "bold"),
                    Text(plan.prompt),
                    sep="",
                    soft_wrap=True,
                )
        if self._quiet:
            return
        if over := plan.over():
            self._err.print(
                Text(
                    f"the budget would end it early: {', '.join(f'budget.{name}' for name in over)}; what was answered is kept"
                )
            )
        total = plan.total
        asked = "unknown" if total["requests"] is None else f"{total['requests']:,}"
        self._err.print(
            Text(
                f"nothing was asked; {asked} requests and {total['trainings']:,} trainings to come; next: {following}"
            )
        )

    def findings(self, findings: Iterable["Finding"], following: str) -> None:
        """Print a tick or a cross for each finding, and the next command.

        Raises:
            UserError: if anything is wrong.
        """
        found = []
        for finding in findings:
            found.append(finding)
            if not self._json:
                mark = ("✓ ", "bold green") if finding.good else ("✗ ", "bold red")
                self._out.print(
                    Text.assemble(mark, (finding.what, "bold"), f": {finding.detail}"),
                    soft_wrap=True,
                )
                if finding.remedy:
                    self._out.print(Text(f"  fix: {finding.remedy}"), soft_wrap=True)
        self._progress.stop()
        if self._json:
            self._print_json(
                {"findings": [vars(finding) for finding in found], "warnings": self._warned}
            )
        bad = [finding.what for finding in found if not finding.good]
        if bad:
            raise UserError(f"not ready: {', '.join(bad)}")
        if not self._quiet:
            self._err.print(Text(f"all is ready; next: {following}"))

    def rows(self, output: Path, source: Path, count: int, tokens: Mapping[str, str]) -> None:
        """Print the first synthetic rows of a file below their parents, as Table 4 does.

        Args:
            output: the synthetic rows.
            source: the real rows.
            count: how many rows.
            tokens: class -> label token.
        """
        if not count or output == STDIO or self._json or not output.exists():
            return
        from .augment.card import table4

        parents = {} if source == STDIO else {row.id: row for row in read(source, Example)}
        for row in itertools.islice(read(output, Augmented), count):
            lines = table4(row, parents, tokens)
            for line in lines:
                self._example(line, max(len(line.name) for line in lines) + 2)
            self._out.print()

    def _example(self, line: "Line", width: int) -> None:
        labels = Text(", ").join(
            Text(label, "bold" if wins else "italic") for label, wins in line.labels
        )
        said = Text.assemble(" ".join(line.text.split()), " (", labels, ")")
        name = Text(line.name.ljust(width), "bold cyan" if line.made else "dim")
        if self._out.is_terminal:
            grid = Table.grid()
            grid.add_row(name, said)
            self._out.print(grid)
        else:  # there a row stays on its line
            self._out.print(Text.assemble(name, said), soft_wrap=True)

    def _line(self, item: Done) -> None:
        # On a terminal too: the bars are gone by now, and these lines are what remains.
        if not self._quiet and item.output != STDIO:
            state = "up to date, skipped" if item.skipped else f"{_rows(item)} rows"
            self._err.print(Text(f"{item.output}: {state}"))

    def _figures(self, items: Sequence[Done]) -> None:
        """Say what synthetic rows are like: of one file in full, of several in a table."""
        made = [item for item in items if item.manifest.counts.get("statistics")]
        if self._quiet or not made:
            return
        from .augment.statistics import figures

        if len(made) == 1:
            for name, value in figures(made[0].manifest.counts, made[0].manifest.usd):
                self._err.print(Text.assemble((f"  {name:<12} ", "dim"), value))
            return
        # What is cut off in a log would be lost; there the table gets the room it wants.
        console = (
            self._err
            if self._err.is_terminal
            else Console(stderr=True, highlight=False, width=max(200, self._err.width))
        )
        console.print(_figures_table(made), soft_wrap=False)

    def _raise(self, items: Sequence[Done | StoppedShort]) -> None:
        if short := [item for item in items if isinstance(item, StoppedShort)]:
            more = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
            raise StoppedShort(f"{short[0].message}{more}", short[0].hint)

    def _print_json(self, value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), file=sys.stdout, flush=True)


def _rows(item: Done) -> int:
    counts = item.manifest.counts
    found: int = next((counts[name] for name in ("rows", "kept", "trials") if name in counts), 0)
    return found


def _summary(item: Done) -> dict[str, Any]:
    manifest = item.manifest
    return {
        "output": str(item.output),
        "rows": _rows(item),
        "skipped": item.skipped,
        "complete": manifest.complete,
        "counts": manifest.counts,
        "tokens": manifest.tokens,
        "usd": manifest.usd,
        "seconds": manifest.seconds,
    }


def _spent(name: str, limit: float | None, spent: float) -> str:
    def shown(value: float) -> str:
        return f"${value:,.4f}" if name == "usd" else f"{value:,.0f}"

    return f"{shown(spent)} spent, " + (
        "no limit" if limit is None else f"{shown(max(limit - spent, 0))} of {shown(limit)} left"
    )


def _plan_table(plan: "Plan") -> Table:
    """Return a line a cell and one for all, narrow enough for 80 columns; a variant is named once, above its cells."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("cell", overflow="fold")
    for name in ("rows", "held", "requests", "read", "written", "usd", "trials"):
        table.add_column(name, justify="right", overflow="fold")
    cells: list[dict[str, Any]] = plan.as_json()["cells"]
    variant: dict[str, Any] = {}
    for cell in cells:
        if cell["variant"] != variant:
            variant = cell["variant"]
            table.add_row(
                Text(", ".join(f"{key}={value}" for key, value in variant.items()), "bold")
            )
        draws = f" x{cell['draws']}" if cell["draws"] > 1 else ""
        table.add_row(f"{cell['level']} seed {cell['seed']}{draws}", *_plan_figures(cell))
    table.add_section()
    table.add_row("in all", *_plan_figures(plan.total), style="bold")
    return table


def _plan_figures(cell: Mapping[str, Any]) -> list[str]:
    names = ("requests", "prompt_tokens", "completion_tokens")
    figures = [cell["generations"], cell["held"]["generations"], *(cell[name] for name in names)]
    usd = (
        "?"
        if cell["usd"] is None
        else f"{cell['usd']:,.{4 if cell['usd'] < 1 else 2}f}"
        if cell["usd"]
        else "0"
    )
    return ["?" if figure is None else f"{figure:,}" for figure in figures] + [
        usd,
        f"{cell['trainings']:,}",
    ]


def _figures_table(items: Sequence[Done]) -> Table:
    """Return a line a file, without columns that are empty; what there is no room for is in each manifest."""
    shared = os.path.commonpath([item.output.parent for item in items])
    rows = []
    for item in items:
        counts = item.manifest.counts
        found = counts["statistics"]
        shares = {
            "entropy": found["entropy_bits"],
            "mass": (found["label_mass"] or {}).get("mean"),
            "agree": found["parents_majority"],
            "dist-2": found["distinct_2"],
            "self-BLEU": found["self_bleu"],
        }
        rows.append(
            {
                "rows of": os.path.relpath(item.output, shared).removesuffix(".jsonl"),
                "kept": f"{counts['kept']}/{counts['asked']}",
                "rejected": str(sum(counts["rejected"].values()) or ""),
                **{name: "" if share is None else f"{share:.3f}" for name, share in shares.items()},
                "words": f"{found['words']['mean']:.1f}",
                "tokens": f"{item.manifest.tokens:,}"
                if item.manifest.tokens and counts.get("requests")
                else "",
                "usd": f"{item.manifest.usd:.4f}" if item.manifest.usd is not None else "",
            }
        )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in names:
        table.add_column(
            name,
            **(
                {"overflow": "fold"} if name == "rows of" else {"justify": "right", "no_wrap": True}
            ),
        )
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table
