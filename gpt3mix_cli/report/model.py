"""The inputs of a report, its averaged results, and their comparisons.

Accuracies and differences are fractions; only the text of a table is in percent. Nothing here
reads a file or computes a statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .artifacts import DEFAULT_LIMIT

# A subsample: its data seed and the hash of its rows. Runs may draw other rows for the same seed,
# and only trials on the same rows are paired.
Subsample = tuple[int, str | None]
MIN_PAIRS_FOR_STARS = 6  # five pairs cannot reach p < 0.05
SIGNIFICANCE_LEVELS = (0.05, 0.01, 0.001)


# Inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExpectedTrials:
    """A trials file that a config asks for, whether it exists or not.

    Attributes:
        path: of the file.
        trials: how many trials it should have.
        task: name of the task.
        level: as the config spells it.
        method: name of the method.
        classifier: name of the classifier.
        variant: the swept settings, key -> value; empty without a sweep.
    """

    path: Path
    trials: int
    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]


@dataclass(frozen=True)
class ReportInput:
    """The trials of a report, or of one of two runs that are compared.

    Attributes:
        name: of the run or runs; the report's title.
        sources: trials files, and folders that are searched for them.
        expected: trials files that configs ask for; they set the order of rows and columns.
        folder: where the results are.
    """

    name: str
    sources: Sequence[Path]
    expected: Sequence[ExpectedTrials]
    folder: Path


@dataclass(frozen=True)
class ReportOptions:
    """What the user may choose about a report.

    Attributes:
        rows: keys of the main table's rows, separated by commas, such as `task,level`.
        columns: keys of its columns.
        with_paper: print the paper's values next to ours.
        synthetic_limit: synthetic rows of a result on the page, and as many rejects; None for all.
    """

    rows: str | None = None
    columns: str | None = None
    with_paper: bool = False
    synthetic_limit: int | None = DEFAULT_LIMIT


# Results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """The trials of one task, level, method, classifier and variant, averaged over data seeds.

    Trials that ran with different settings, test rows or versions are separate results.

    Attributes:
        task: name of the task.
        variant: the swept settings as text (`layout.variant_name`); empty without a sweep.
        level: as the config spells it.
        classifier: name of the classifier.
        method: name of the method.
        settings: hash of every setting that can change a score.
        split_by: what distinguishes it from other results of the same names, such as
            `settings 1a2b3c`; None if it is the only one.
        n: trials that succeeded; all averages are over these.
        failed: trials that failed.
        expected: trials that the config asks for; None without a config.
        data_seeds: subsamples among the `n` trials.
        mean: of the accuracy.
        std: sample standard deviation of the accuracy over trials; None for one trial.
        ci: 95 % interval of the mean, bootstrapped over data seeds; None for fewer than two.
        between: standard deviation between data seeds; None if it cannot be estimated.
        within: standard deviation between trials of one data seed; None if no seed has two trials.
        macro_f1: mean.
        mcc: mean.
        majority: fraction of the most frequent class of the test rows.
        ece: mean.
        n_train: real rows, mean.
        n_synthetic: synthetic rows, mean.
        n_test: test rows, mean.
        classes: number of classes of the task, if known.
        one_class: trials that predict a single class.
        tokens: tokens of one synthetic set, mean.
        usd: US dollars of one synthetic set, mean.
        seconds: of a trial, mean.
        tokens_per_prediction: tokens that an LM reads for one prediction, mean; None for a
            classifier that uses no LM.
        gain: mean difference to no augmentation, paired by data seed; None without a partner.
        swept: the swept settings, key -> value.
        test_sha: hash of the test rows.
        version: of the package that ran the trials.
        seed_means: subsample -> mean accuracy of its trials.
        scores: (data seed, trial) -> accuracy of every trial, None for a failed one.
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
    test_sha: str | None = None
    version: str | None = None
    seed_means: Mapping[Subsample, float] = field(default_factory=dict)
    scores: Mapping[tuple[int, int], float | None] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The heading of its column: the method, and what the result is split by."""
        return f"{self.method} [{self.split_by}]" if self.split_by else self.method

    @property
    def title(self) -> str:
        """The result as remarks name it."""
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.task} {self.level} {self.method} + {self.classifier}{variant}"

    @property
    def uneven(self) -> bool:
        """Whether the most frequent class has 1.2 times its even fraction or more."""
        return bool(self.majority and self.majority * (self.classes or 2) >= 1.2)

    @property
    def gain_per_usd(self) -> float | None:
        """Gain over no augmentation per US dollar of a synthetic set."""
        return self.gain / self.usd if self.gain is not None and self.usd else None

    @property
    def gain_per_1k_tokens(self) -> float | None:
        """Gain over no augmentation per thousand tokens of a synthetic set."""
        return 1000 * self.gain / self.tokens if self.gain is not None and self.tokens else None


def significance_stars(units: int, p: float | None) -> str:
    """Return `*`, `**` or `***` for a corrected p below 0.05, 0.01, 0.001; none below six units."""
    if units < MIN_PAIRS_FOR_STARS or p is None:
        return ""
    return "*" * sum(p < level for level in SIGNIFICANCE_LEVELS)


@dataclass(frozen=True)
class Comparison:
    """Two columns of one task, level and classifier, paired by data seed.

    Attributes:
        a: a method, or `method (variant)`.
        b: the column that it is compared with; `diff` is a - b.
        task: name of the task.
        variant: the variant of both; empty without a sweep or if two variants are compared.
        level: as the config spells it.
        classifier: name of the classifier.
        n_pairs: data seeds that both have; the trials of a seed are averaged first.
        diff: mean difference of accuracy.
        ci: 95 % interval of `diff`, bootstrapped over data seeds.
        p: two-sided, of the paired permutation test; None for fewer than two pairs.
        p_wilcoxon: two-sided, of the exact Wilcoxon signed-rank test.
        p_corrected: `p` after Holm's correction over all comparisons of the report.
        smallest_p: the smallest `p` that `n_pairs` pairs can reach.
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
        """Significance of `p_corrected`."""
        return significance_stars(self.n_pairs, self.p_corrected)


@dataclass(frozen=True)
class PooledComparison:
    """Two columns over all tasks and levels of a classifier: a permutation stratified by task.

    Attributes:
        a: a method, or `method (variant)`.
        b: the column that it is compared with; `diff` is a - b.
        variant: the variant of both; empty without a sweep or if two variants are compared.
        classifier: name of the classifier.
        tasks: number of tasks.
        rows: number of (task, level) that both have.
        units: number of (task, data seed). All levels of a data seed share rows, so that their
            differences change sign together.
        wins: rows in which a has the higher mean, rounded as the tables show it.
        ties: rows with equal means, rounded.
        losses: rows in which a has the lower mean, rounded.
        diff: mean over the rows of the mean difference.
        min_diff: mean difference of the task with the lowest one.
        max_diff: mean difference of the task with the highest one.
        p: two-sided; None for fewer than two units.
        p_corrected: after Holm's correction over all pooled comparisons.
        smallest_p: the smallest `p` that so many units can reach.
    """

    a: str
    b: str
    variant: str
    classifier: str
    tasks: int
    rows: int
    units: int
    wins: int
    ties: int
    losses: int
    diff: float
    min_diff: float
    max_diff: float
    p: float | None
    p_corrected: float | None
    smallest_p: float | None

    @property
    def stars(self) -> str:
        """Significance of `p_corrected`."""
        return significance_stars(self.units, self.p_corrected)


@dataclass(frozen=True)
class TaskAverage:
    """The mean of a column over the tasks of a level; every task counts once.

    Only averages over all tasks (`tasks == all_tasks`) can be compared with each other.
    """

    variant: str
    level: str
    classifier: str
    column: str
    tasks: int
    all_tasks: int
    mean: float


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and why."""

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
    """A synthetic row with its parents, as in Table 4 of the paper.

    `parents` holds (text, label) in the order of the prompt. `edited` rows are an edit of their
    one parent and keep its label.
    """

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
