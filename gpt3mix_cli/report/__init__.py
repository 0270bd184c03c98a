"""Stage report: tables, plots and tests over all trials."""

from .artifacts import rows_shown
from .build import analysed, compare, report
from .model import Report, Side, Wanted

__all__ = ["Report", "Side", "Wanted", "analysed", "compare", "report", "rows_shown"]
