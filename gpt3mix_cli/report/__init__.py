"""Stage report: tables, plots and tests over all trials."""

from .artifacts import parse_row_limit
from .build import compare_runs, report
from .document import Report
from .model import ExpectedTrials, ReportInput, ReportOptions

__all__ = [
    "ExpectedTrials",
    "Report",
    "ReportInput",
    "ReportOptions",
    "compare_runs",
    "parse_row_limit",
    "report",
]
