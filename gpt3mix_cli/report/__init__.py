"""Stage report: tables, plots and tests over all trials."""

from .artifacts import parse_row_limit
from .build import analyze, compare, report
from .model import ExpectedTrials, Report, ReportInput

__all__ = [
    "ExpectedTrials",
    "Report",
    "ReportInput",
    "analyze",
    "compare",
    "parse_row_limit",
    "report",
]
