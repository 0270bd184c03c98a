"""What a person sees: progress and warnings on stderr, tables and summaries on stdout.

In a terminal there are bars (`console_progress`); elsewhere each finished file gets a line. With
`--json` stdout holds one object.
"""

import itertools
import json
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .console_progress import ProgressDisplay
from .console_tables import (
    candidates_table,
    manifest_errors,
    model_lines,
    plan_table,
    statistics_table,
)
from .errors import Callbacks, StdoutClosed, StoppedShort, UserError, fit_screen, raise_failures
from .files import STDIO, stdout_errors
from .records import Augmented, Example, IncompleteOutput, StageResult, read_records

if TYPE_CHECKING:
    from .augment.card import Table4Row
    from .grid.check import Finding
    from .grid.estimates import Plan
    from .grid.fit import ChosenModel
    from .lm.local.model_cache import ConvertedModel
    from .report import Report

MIN_PIPE_WIDTH = 200  # columns of a piped table without COLUMNS: what is cut off would be lost

# Texts of files and servers must not control the terminal.


class _Stdout(Console):
    """Stdout, whose reader may close it early (`| head`), or whose disk may be full."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        with stdout_errors():
            super().print(*args, **kwargs)

    def on_broken_pipe(self) -> None:
        raise StdoutClosed


class Display:
    """The display of one command, as a context manager.

    Args:
        quiet: show only warnings and errors.
        as_json: print one summary object on stdout in place of tables.
    """

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet, self._json = quiet, as_json
        self._err = Console(stderr=True, soft_wrap=True, highlight=False)
        self._out = _Stdout(highlight=False)
        self._progress = ProgressDisplay(self._err, quiet)
        self._warnings: list[str] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    # While a stage works -------------------------------------------------------------------------

    @property
    def callbacks(self) -> Callbacks:
        """How a stage shows progress, warnings and notes; any thread may call them."""
        return Callbacks(self.progress, self.warn, self.note)

    def warn(self, message: str) -> None:
        """Show a warning, unless it was shown before."""
        message = fit_screen(message)
        with self._lock:
            if message not in self._warnings:
                self._warnings.append(message)
                self._err.print(Text.assemble(("warning: ", "bold yellow"), message))

    def progress(self, name: str, done: int, total: int | None = None, detail: str = "") -> None:
        """Show progress: a bar in a terminal, elsewhere a line from time to time."""
        self._progress.update(name, done, total, detail)

    def log_result(self, result: StageResult | UserError) -> StageResult | UserError:
        """Show that one stage of many has ended, where there are no bars; return its result."""
        if not self._progress.has_bars and isinstance(result, StageResult):
            self._print_output(result)
        return result

    def note(self, text: str) -> None:
        """Show a message that is neither progress nor a warning."""
        if not self._quiet:
            with self._lock:
                self._err.print(Text(fit_screen(text)))

    def print_examples(
        self, output: Path, source: Path, count: int, tokens: Mapping[str, str]
    ) -> None:
        """Print the first synthetic rows of a file with their parents, as Table 4 does.

        Args:
            output: the synthetic rows.
            source: the real rows.
            count: number of rows.
            tokens: class -> label token.
        """
        if not count or output == STDIO or self._json or not output.exists():
            return
        from .augment.card import table4_rows

        parents = {} if source == STDIO else {row.id: row for row in read_records(source, Example)}
        for row in itertools.islice(read_records(output, Augmented), count):
            texts = table4_rows(row, parents, tokens)
            for text in texts:
                self._print_example(text, max(len(text.name) for text in texts) + 2)
            self._out.print()

    def _print_example(self, text: "Table4Row", width: int) -> None:
        labels = Text(", ").join(
            Text(label, "bold" if is_winner else "italic") for label, is_winner in text.labels
        )
        content = Text.assemble(" ".join(text.text.split()), " (", labels, ")")
        name = Text(text.name.ljust(width), "bold cyan" if text.is_synthetic else "dim")
        if self._out.is_terminal:
            table = Table.grid()
            table.add_row(name, content)
            self._out.print(table)
        else:  # one line for each text
            self._out.print(Text.assemble(name, content), soft_wrap=True)

    # At the end of a command ---------------------------------------------------------------------

    def finish(self, results: Sequence[StageResult | UserError], next_command: str = "") -> None:
        """Show what was written, how many rows, and the next command.

        Raises:
            StoppedShort: if any of the results is one.
        """
        self._progress.stop()
        done = [
            result.result if isinstance(result, IncompleteOutput) else result
            for result in results
            if isinstance(result, StageResult | IncompleteOutput)
        ]
        for result in done:
            self._print_output(result)
        self._print_statistics(done)
        if self._json:
            self._print_json({"outputs": [_summary(result) for result in done]})
        raise_failures(results)
        skipped = sum(result.skipped for result in done)
        suffix = f" ({skipped} up to date, skipped)" if skipped else ""
        rows = f"{plural(len(done), 'file')}, {plural(sum(map(_count_rows, done)), 'row')}"
        self._print_end(f"{rows}{suffix}", next_command)

    def print_report(
        self,
        report: "Report",
        results: Sequence[StageResult | UserError] = (),
        per_class: bool = False,
    ) -> None:
        """Print the main tables of a report, its verdict and where it is, after a run's results.

        Args:
            report: the report.
            results: of the run.
            per_class: print the scores of each class too.

        Raises:
            StoppedShort: if any of the results is one.
        """
        from .report.classes import shown_tables
        from .report.render.data import class_objects, summary
        from .report.render.terminal import printable, terminal_table, terminal_tables

        self._progress.stop()
        if self._json:
            files = [str(path) for path in report.files]
            classes = {"classes": class_objects(report)} if per_class else {}
            facts = {"remarks": report.remarks, "files": files}
            self._print_json({**summary(report), **classes, **facts})
        else:
            console = self._table_console()
            tables = terminal_tables(report.tables)
            if per_class:
                tables += shown_tables(report.classes, console.width)
            for table in tables:
                console.print(terminal_table(table, console.width))
            for sentence in report.verdict:
                self._print_verdict(printable(sentence))
        for remark in [*report.remarks, *report.paper_remarks]:
            self.note(f"note: {remark}")
        done = [result for result in results if isinstance(result, StageResult)]
        skipped = sum(result.skipped for result in done)
        stages = ""
        if done:
            stages = f"{plural(len(done), 'stage')} done ({skipped} up to date, skipped); "
        scope = f"report over {plural(sum(result.n for result in report.results), 'trial')}"
        if report.differences:
            scope = f"{plural(len(report.differences), 'result')} compared"
        self._print_end(f"{stages}{scope}: {report.files[0]}")
        raise_failures(results)

    def print_model(self, model: "ChosenModel") -> None:
        """Print what was tried, why the saved model is the best of it, and the next command."""
        self._progress.stop()
        if self._json:
            self._print_json({"model": str(model.folder), **model.about})
        else:
            self._table_console().print(candidates_table(model.about))
            self._print_verdict(" ".join(model.verdict))
            for line in model_lines(model.about):
                self._print_line(Text(line))
        self._print_end(
            f"{model.folder}: model and card (README.md) saved",
            f"gpt3mix predict {shlex.quote(str(model.folder))} -i FILE -o FILE",
        )

    def print_plan(self, plan: "Plan", next_command: str) -> None:
        """Print a row for each cell, remarks, the budget and the first prompts."""
        self._progress.stop()
        for reason in plan.missing if plan.lacks_data else ():  # before a long table
            self.warn(f"nothing is known before the data can be read: {reason}")
        if self._json:
            self._print_json(plan.as_json())
        else:
            self._table_console().print(plan_table(plan))
            for line in plan.notes():
                self._out.print(Text(f"  {line}"), soft_wrap=True)
            for name, prompt in plan.prompts.items():
                title = Text(
                    f"\nthe first prompt of {name}; the LM continues at its end:\n", "bold"
                )
                self._out.print(title, Text(prompt), sep="", soft_wrap=True)
        if exceeded := ", ".join(f"budget.{name}" for name in plan.exceeded_limits()):
            self.note(f"the budget would end it early: {exceeded}; answers are kept")
        requests, trainings = plan.total["requests"], plan.total["trainings"]
        requests = "unknown" if requests is None else f"{requests:,}"
        # Trainings that are finished count too: `run --dry-run` shows what is up to date.
        coming = f"{requests} requests to come, {plural(trainings, 'training')} in all"
        self._print_end(f"no request was sent; {coming}", next_command)

    def print_findings(self, findings: Iterable["Finding"], next_command: str) -> None:
        """Print a tick, a warning mark or a cross for each finding, and the next command.

        Raises:
            UserError: if anything is wrong.
        """
        seen = []
        for finding in findings:
            seen.append(finding)
            if not self._json:
                mark = ("✓ ", "bold green") if finding.good else ("✗ ", "bold red")
                mark = ("! ", "bold yellow") if finding.warning else mark
                remedy = f"\n  fix: {finding.remedy}" if finding.remedy else ""
                text = Text.assemble(mark, (finding.what, "bold"), f": {finding.detail}{remedy}")
                self._out.print(text, soft_wrap=True)
        self._progress.stop()
        if self._json:
            self._print_json({"findings": [vars(finding) for finding in seen]})
        # A sweep checks several variants.
        if bad := dict.fromkeys(finding.what for finding in seen if not finding.good):
            raise UserError(f"not ready: {', '.join(bad)}")
        warnings = sum(finding.warning for finding in seen)
        suffix = f", {plural(warnings, 'warning')}" if warnings else ""
        self._print_end(f"all is ready{suffix}", next_command)

    def print_models(self, models: "Sequence[ConvertedModel]", removed: bool) -> None:
        """Print the converted models in the cache, or those that were removed from it."""
        total = sum(model.size for model in models)
        if self._json:
            rows = [{**vars(model), "path": str(model.path)} for model in models]
            self._print_json({"models": rows, "total": total, "removed": removed})
        else:
            for model in models:
                facts = f"  {model.size / 1e6:,.0f} MB  {model.date[:10]}\n"
                text = Text.assemble((model.name, "bold"), facts, (f"  {model.path}", "dim"))
                self._out.print(text, soft_wrap=True)
        count = plural(len(models), "converted model")
        end = " removed" if removed else ""
        self.note(f"{count}, {total / 1e6:,.0f} MB{end}")

    def print_summary(
        self, lines: Iterable[str], value: Mapping[str, Any], end: str, next_command: str
    ) -> None:
        """Print lines for a person, or with `--json` a value, and the next command."""
        self._progress.stop()
        if self._json:
            self._print_json(value)
        for line in lines:
            self.note(line)
        self._print_end(end, next_command)

    def print_lines(self, lines: Iterable[str]) -> None:
        """Print lines on stdout, as a script is written."""
        self._progress.stop()
        with stdout_errors():
            for line in lines:
                print(line, flush=True)

    # Parts ---------------------------------------------------------------------------------------

    def _print_end(self, text: str, next_command: str = "") -> None:
        self.note(f"{text}; next: {next_command}" if next_command else text)

    def _print_verdict(self, sentence: str) -> None:
        self._print_line(Text.assemble(("verdict: ", "bold"), sentence))

    def _print_line(self, text: Text) -> None:
        # In a terminal, words are not broken; elsewhere a sentence is a line.
        self._out.print(text, soft_wrap=not self._out.is_terminal)

    def _print_output(self, result: StageResult) -> None:
        # In a terminal too: the bars have gone, and these lines remain.
        if result.output != STDIO:
            rows = "up to date, skipped" if result.skipped else plural(_count_rows(result), "row")
            self.note(f"{result.output}: {rows}")

    def _print_statistics(self, results: Sequence[StageResult]) -> None:
        # Of one file in full, of several as a table.
        augmented = [result for result in results if result.manifest.counts.get("statistics")]
        if self._quiet or not augmented:
            return
        from .augment.statistics import describe_counts

        if len(augmented) == 1:
            manifest = augmented[0].manifest
            with manifest_errors(augmented[0]):
                for name, value in describe_counts(manifest.counts, manifest.usd):
                    self._err.print(Text.assemble((f"  {name:<12} ", "dim"), value))
            return
        console = Console(stderr=True, highlight=False, width=_table_width(self._err))
        console.print(statistics_table(augmented))

    def _table_console(self) -> Console:
        if self._out.is_terminal:
            return self._out
        return _Stdout(highlight=False, width=_table_width(self._out))

    def _print_json(self, value: Mapping[str, Any]) -> None:
        text = json.dumps({**value, "warnings": self._warnings}, ensure_ascii=False)
        with stdout_errors():
            print(text, file=sys.stdout, flush=True)


def _table_width(console: Console) -> int:
    """Return the width of tables: the terminal's, that of COLUMNS, or a generous one in a pipe."""
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console.width
    return max(MIN_PIPE_WIDTH, console.width)


def plural(count: int, name: str) -> str:
    """Return a number with what is counted: `1 row`, `2,000 rows`."""
    return f"{count:,} {name}{'s' * (count != 1)}"


def _count_rows(result: StageResult) -> int:
    counts = result.manifest.counts
    with manifest_errors(result):
        return int(next((counts[name] for name in ("rows", "kept", "trials") if name in counts), 0))


def _summary(result: StageResult) -> dict[str, Any]:
    return {
        "output": str(result.output),
        "rows": _count_rows(result),
        "skipped": result.skipped,
        **result.manifest.model_dump(include={"complete", "counts", "tokens", "usd", "seconds"}),
    }


def print_error(error: UserError) -> None:
    """Print what is wrong and how to fix it."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    stopped = isinstance(error, StoppedShort)  # not an error: the same command resumes later
    title = ("stopped: ", "bold yellow") if stopped else ("error: ", "bold red")
    console.print(Text.assemble(title, error.message))
    if error.hint:
        label = " then: " if stopped else "  fix: "
        console.print(Text.assemble((label, "bold green"), error.hint))
