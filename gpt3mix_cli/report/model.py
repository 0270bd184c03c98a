"""The inputs of a report, and its averaged results.

Accuracies and differences are fractions; only the text of a table is in percent. Nothing here
reads a file or computes a statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A subsample: its data seed and the hash of its rows. Runs may draw other rows for the same seed,
# and only trials on the same rows are paired.
Subsample = tuple[int, str | None]
DEFAULT_LIMIT = 200  # synthetic rows of a result on the page, and as many rejects


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
        paper: the paper's table and column that GPT3Mix repeats; None if the config names none.
    """

    path: Path
    trials: int
    task: str
    level: str
    method: str
    classifier: str
    variant: Mapping[str, Any]
    paper: tuple[int, str] | None = None


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
        by_validation: of a sweep's variants, report on the one with the best validation accuracy.
    """

    rows: str | None = None
    columns: str | None = None
    with_paper: bool = False
    synthetic_limit: int | None = DEFAULT_LIMIT
    by_validation: bool = False


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
        ci: 95 % interval of the mean, over data seeds and test rows; with one data seed over test
            rows only. With folds, whose spread is of both, it is the wider one of the two.
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
        tested: test rows of all data seeds together, which with folds differ; None if unknown.
        swept: the swept settings, key -> value.
        paper: the paper's table and column that it repeats, where the config names them.
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
    tested: float | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)
    paper: tuple[int, str] | None = None
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
