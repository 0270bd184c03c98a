"""Trial rows and inputs that the tests of the report share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import ExpectedTrials, Report, ReportInput, ReportOptions, report
from gpt3mix_cli.report import load_trials as loading


def trial(number: int = 0, accuracy: float | None = 0.5, **fields: Any) -> Trial:
    """Return a trial on one of two data seeds; without an accuracy it has failed."""
    common = {
        "task": "sst2", "level": "1%", "method": "none", "classifier": "linear",
        "data_seed": number % 2, "trial": number, "seed": 100 + number, "n_train": 70,
        "n_synthetic": 0, "n_test": 1821, "accuracy": accuracy, "macro_f1": 0.4, "mcc": 0.1,
        "majority": 0.500824, "ece": 0.05, "predicted_classes": 2,
        "train_sha": f"sha-{number % 2}", "settings": "aaaaaaaaaaaaaaaa",
    }  # fmt: skip
    if accuracy is None:
        common |= {"status": "failed", "error": "RuntimeError: no luck", "predicted_classes": None}
    return Trial(**{**common, **fields})


def seeds(accuracies: list[float], **fields: Any) -> list[Trial]:
    """Return a trial per data seed."""
    return [
        trial(seed, accuracy, data_seed=seed, train_sha=f"sha-{seed}", **fields)
        for seed, accuracy in enumerate(accuracies)
    ]


def inputs(*sources: Path, name: str = "t", expected: Sequence[ExpectedTrials] = ()) -> ReportInput:
    """Return the input of a report over files and folders."""
    return ReportInput(name, sources, expected, Path())


def report_on(tmp_path: Path, trials: Sequence[Trial], name: str = "t", **options: Any) -> Report:
    """Return a report over trials, written to the folder `report`."""
    write_records(tmp_path / "trials" / "all.jsonl", trials)
    return report(inputs(tmp_path, name=name), tmp_path / "report", ReportOptions(**options))


def trials_frame(trials: Sequence[Trial], path: Path) -> Any:
    """Return the trials as `load_trials` would read them from a file."""
    return loading._as_frame(loading._as_columns([list(trials)], path))
