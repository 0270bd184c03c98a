"""The whole report: all that its renderings show, and the files that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pandas import DataFrame

from .artifacts import Artifacts, Sample
from .charts import Chart, SeriesStyle
from .classes import ClassScores
from .diff import Difference
from .model import Result
from .table import Table
from .verdict import Verdict


@dataclass(frozen=True)
class Report:
    """A whole report, and the files that hold it.

    Attributes:
        title: its heading.
        files: what is written, the Markdown page first.
        remarks: what a reader must know.
        tables: in the order in which they are shown, the main one first.
        latex_tables: the same for table.tex, where the main one has the shape of Table 1.
        verdict: sentences that say which methods are ahead of no augmentation, and which harm.
        verdicts: the same for each task, level, classifier and method.
        results: in the config's order, those without trials included.
        trials: every trial, the failed ones included; `load_trials` lists the columns, and the
            column `result` is the index in `results`.
        comparisons: pairs of columns within each row of the main table (`compare_results`).
        pooled: the same pairs over all rows.
        averages: of each level and column over the tasks (`average_over_tasks`).
        failures: the trials that failed, with their errors.
        samples: synthetic rows to look at.
        classes: how well each class is recognised, a result each.
        design: sentences that say which seeds vary.
        paper: the paper's values with ours (`compare_with_paper`), if asked for.
        paper_remarks: where the paper contradicts itself.
        differences: of two runs that are compared.
        artifacts: synthetic rows, epochs and settings.
        charts: what is plotted.
        styles: colour and marker of each method.
    """

    title: str
    files: Sequence[Path]
    remarks: Sequence[str]
    tables: Sequence[Table]
    latex_tables: Sequence[Table] = ()
    verdict: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()
    results: Sequence[Result] = ()
    trials: DataFrame | None = None
    comparisons: DataFrame | None = None
    pooled: DataFrame | None = None
    averages: DataFrame | None = None
    failures: DataFrame | None = None
    samples: Sequence[Sample] = ()
    classes: Sequence[ClassScores] = ()
    design: Sequence[str] = ()
    paper: DataFrame | None = None
    paper_remarks: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    artifacts: Artifacts = field(default_factory=Artifacts)
    charts: Sequence[Chart] = ()
    styles: Mapping[str, SeriesStyle] = field(default_factory=dict)
