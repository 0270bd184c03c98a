"""What a report holds: rows, cells, comparisons and tables, from which every form (terminal, LaTeX, page, plots) is made.

Figures are fractions and differences of fractions; only `Entry.text` is in percent. Nothing here computes or reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ExpectedTrials:
    """A trials file that a config asks for."""

    path: Path
    trials: int
    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]


@dataclass(frozen=True)
class ReportInput:
    """What is reported on, or one of two runs that are compared.

    Attributes:
        name: of the run or runs.
        sources: folders and files of trials.
        wanted: what configs ask for.
        folder: where the results stand.
    """

    name: str
    sources: Sequence[Path]
    wanted: Sequence[ExpectedTrials]
    folder: Path


class TrialRow(NamedTuple):
    """The fields of a trial that a report uses, light enough for 100,000 of them.

    Attributes:
        variant: the swept settings as one word (`variant_name`); the object itself stands in the cells.
        classes: how many classes the task has; None where the row has no confusion matrix.
        path: the trials file, whose folder's parent holds the rows that were trained on.
    """

    task: str
    level: str
    method: str
    classifier: str
    variant: str
    data_seed: int
    trial: int
    draw: int
    seed: int
    status: str
    error: str | None
    n_train: int
    n_synthetic: int
    n_test: int
    accuracy: float | None
    macro_f1: float | None
    mcc: float | None
    majority: float | None
    ece: float | None
    seconds: float | None
    predicted_classes: int | None
    train_sha: str | None
    test_sha: str | None
    tokens: int | None
    usd: float | None
    settings: str | None
    version: str | None
    tokens_per_prediction: float | None
    classes: int | None
    path: Path


@dataclass(frozen=True)
class CellRow:
    """What the trials of a cell say: one task, level, method, classifier and variant under one set of settings.

    Attributes:
        task: name of the task.
        variant: the swept settings as one word; empty without a sweep.
        swept: the same as an object.
        level: as the config spells it.
        classifier: name of the classifier.
        method: name of the method.
        settings: hash of every setting that can change a figure.
        told_apart: what sets it apart from another cell of the same names, such as `settings 1a2b3c`; None if there is none.
        n: trials that ended well; the figures are over these.
        failed: trials that did not.
        expected: trials that the config asks for; None without a config.
        data_seeds: how many data seeds the trials are of.
        mean: of the accuracy over trials.
        std: sample standard deviation of the accuracy over trials.
        ci: 95 % interval of the mean, by a bootstrap over data seeds; None for fewer than two of them.
        between: standard deviation between data seeds, that within them taken out; None where it cannot be told.
        within: standard deviation between trials of one data seed; None where no seed has two.
        macro_f1: mean.
        mcc: mean.
        majority: share of the most frequent class of the test rows.
        ece: mean.
        n_train: real rows, mean.
        n_synthetic: synthetic rows, mean.
        n_test: test rows, mean.
        classes: how many classes the task has, where it is known.
        one_class: trials that predict one class only.
        tokens: tokens that a synthetic set took, mean.
        usd: dollars that a synthetic set took, mean.
        seconds: of a trial, mean.
        tokens_per_prediction: what an LM reads for a prediction, mean; None for a classifier that asks none.
        gain: mean over data seeds of the difference to no augmentation; None where there is nothing to compare with.
    """

    task: str
    variant: str
    level: str
    classifier: str
    method: str
    settings: str | None
    split_by: str | None
    n: int
    failed: int
    expected: int | None
    data_seeds: int
    mean: float | None
    std: float | None
    ci: tuple[float, float] | None
    between: float | None
    within: float | None
    macro_f1: float | None
    mcc: float | None
    majority: float | None
    ece: float | None
    n_train: float | None
    n_synthetic: float | None
    n_test: float | None
    classes: int | None
    one_class: int
    tokens: float | None
    usd: float | None
    seconds: float | None
    tokens_per_prediction: float | None = None
    gain: float | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The column in which the cell stands."""
        return f"{self.method} [{self.split_by}]" if self.split_by else self.method

    @property
    def place(self) -> str:
        """The cell in words."""
        return f"{self.task} {self.level} {self.method} + {self.classifier}" + (
            f" ({self.variant})" if self.variant else ""
        )

    @property
    def uneven(self) -> bool:
        """Whether the most frequent class has at least 1.2 times its even share, so that accuracy alone misleads."""
        return bool(self.majority and self.majority * (self.classes or 2) >= 1.2)

    @property
    def gain_per_usd(self) -> float | None:
        """Gain over no augmentation for each dollar of a synthetic set."""
        return self.gain / self.usd if self.gain is not None and self.usd else None

    @property
    def gain_per_1k_tokens(self) -> float | None:
        """Gain over no augmentation for each thousand tokens of a synthetic set."""
        return 1000 * self.gain / self.tokens if self.gain is not None and self.tokens else None


@dataclass(frozen=True)
class Comparison:
    """Two columns of one task, level and classifier, paired by data seed.

    Attributes:
        a: the column that is compared: a method, or `method (variant)`.
        b: the column it is compared with; `diff` is a - b.
        task: name of the task.
        variant: the variant of both; empty without a sweep and where two variants are compared.
        level: as the config spells it.
        classifier: name of the classifier.
        n_pairs: data seeds that both have; the trials of each are averaged first.
        diff: mean difference of accuracy.
        ci: 95 % interval of `diff`, by a bootstrap over data seeds.
        p: two-sided, of the paired permutation (sign flips); None for fewer than two pairs.
        p_wilcoxon: two-sided, of the Wilcoxon signed-rank test, exact.
        p_corrected: `p` after Holm's correction over all comparisons of the report.
        smallest_p: the least `p` that so many pairs can reach.
    """

    a: str
    b: str
    task: str
    variant: str
    level: str
    classifier: str
    n_pairs: int
    diff: float
    ci: tuple[float, float] | None
    p: float | None
    p_wilcoxon: float | None
    p_corrected: float | None
    smallest_p: float | None

    @property
    def stars(self) -> str:
        """`*`, `**`, `***` for a corrected p below 0.05, 0.01, 0.001; never for fewer than six pairs."""
        if self.n_pairs < 6 or self.p_corrected is None:
            return ""
        return "*" * sum(self.p_corrected < limit for limit in (0.05, 0.01, 0.001))


@dataclass(frozen=True)
class Pooled:
    """Two columns over all tasks and levels of a classifier and variant: a permutation stratified by task.

    Attributes:
        a: the column that is compared.
        b: the column it is compared with; `diff` is a - b.
        variant: the variant of both; empty without a sweep and where two variants are compared.
        classifier: name of the classifier.
        tasks: how many tasks.
        lines: how many (task, level) both have.
        units: what is permuted: (task, data seed), all levels of a seed together because they share rows.
        wins: lines in which a's mean is the higher one, as shown (percent, one decimal).
        ties: lines in which they are shown alike.
        losses: lines in which a's mean is the lower one.
        diff: mean over the lines of the mean difference.
        least: the mean difference of the task on which a does worst.
        most: that of the task on which it does best.
        p: two-sided; None for fewer than two units.
        p_corrected: after Holm's correction over all pooled comparisons.
        smallest_p: the least `p` that so many units can reach.
    """

    a: str
    b: str
    variant: str
    classifier: str
    tasks: int
    lines: int
    units: int
    wins: int
    ties: int
    losses: int
    diff: float
    least: float
    most: float
    p: float | None
    p_corrected: float | None
    smallest_p: float | None

    @property
    def stars(self) -> str:
        """As for a comparison."""
        if self.units < 6 or self.p_corrected is None:
            return ""
        return "*" * sum(self.p_corrected < limit for limit in (0.05, 0.01, 0.001))


@dataclass(frozen=True)
class Average:
    """A column's mean over the tasks of a level, from the cells: each task counts once.

    `tasks` of `of` tasks have the cell; where some lack it the average is not to be compared with others.
    """

    variant: str
    level: str
    classifier: str
    column: str
    tasks: int
    of: int
    mean: float


@dataclass(frozen=True)
class Failure:
    """A trial that came to nothing, and why."""

    task: str
    variant: str
    level: str
    classifier: str
    method: str
    data_seed: int
    trial: int
    error: str


@dataclass(frozen=True)
class Sample:
    """A synthetic row with its parents, as Table 4 shows them; `parents` holds (text, label) in the prompt's order."""

    task: str
    variant: str
    level: str
    data_seed: int
    method: str
    id: str
    text: str
    label: str
    probs: Mapping[str, float]
    edited: bool
    parents: Sequence[tuple[str, str]]


class TableCell(NamedTuple):
    """One entry of a table.

    Attributes:
        text: what is shown where nothing finer can be, not escaped: `61.0 ± 6.0 (10)`.
        best: the best of its line.
        value: to sort by and to print: percent, or whatever the column holds; None for a text.
        spread: the deviation that belongs to it, in the same unit.
        note: what follows the figure in brackets, such as its number of trials.
    """

    text: str
    best: bool = False
    value: float | None = None
    spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table in no form yet.

    Attributes:
        name: to be part of a file name or anchor: `accuracy`, `ablation-augment.k`.
        title: its heading.
        headings: of the columns, a part for each level of the heading; of the first columns only the last part is not empty.
        stubs: how many columns from the left name the line.
        rows: the lines.
        foot: how many of the last lines are averages.
        caption: what the figures are, with its limits.
        across: whether the columns right of the stubs hold figures of one kind, so that they may as well stand below each other.
    """

    name: str
    title: str
    headings: Sequence[tuple[str, ...]]
    stubs: int
    rows: Sequence[Sequence[TableCell]]
    foot: int = 0
    caption: str = ""
    across: bool = True


@dataclass
class Report:
    """All that is found, and the files written.

    Attributes:
        title: of the report.
        cells: in the config's order, the missing ones included.
        remarks: what a reader must know.
        files: what was written, report.md first.
        comparisons: pairs of columns in each line.
        pooled: the same pairs over all lines.
        averages: of each level and column over the tasks.
        failures: the trials that came to nothing.
        samples: synthetic rows to look at.
        paper: with `--paper`, the printed figures beside ours: `paper.PaperRow`.
        trials: every row that was read, the failed ones included.
        groups: the cells with their rows and data seeds: `cells.Group`.
        paper_remarks: with `--paper`, what the paper prints against itself.
        sheets: the tables, in the order in which they are shown; the main one first.
        printed: the same for table.tex, the main one in the shape of the paper's Table 1 unless another is asked for.
        design: which seeds vary, in a sentence each.
        differences: of two runs that are compared: `differing.Difference`.
        beside: synthetic rows, epochs and settings: `beside.Beside`.
        charts: what is plotted: `charts.Chart`.
        looks: colour and marker of each method: `charts.Look`.
    """

    title: str
    cells: list[CellRow]
    remarks: list[str]
    files: list[Path] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    pooled: list[Pooled] = field(default_factory=list)
    averages: list[Average] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    paper: list[Any] = field(default_factory=list)
    trials: list[TrialRow] = field(default_factory=list)
    paper_remarks: list[str] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    sheets: list[Table] = field(default_factory=list)
    printed: list[Table] = field(default_factory=list)
    design: list[str] = field(default_factory=list)
    differences: list[Any] = field(default_factory=list)
    beside: Any = None
    charts: list[Any] = field(default_factory=list)
    looks: dict[str, Any] = field(default_factory=dict)
