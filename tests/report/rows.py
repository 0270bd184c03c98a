"""Trial rows that the tests of the report share."""

from typing import Any

from gpt3mix_cli.records import Trial


def trial(number: int = 0, accuracy: float | None = 0.5, **fields: Any) -> Trial:
    """Return a trial; data seeds are dealt over two subsamples, a missing accuracy is a failed one."""
    common = {
        "task": "sst2", "level": "1%", "method": "none", "classifier": "linear", "data_seed": number % 2, "trial": number, "seed": 100 + number,
        "n_train": 70, "n_synthetic": 0, "n_test": 1821, "accuracy": accuracy, "macro_f1": 0.4, "mcc": 0.1, "majority": 0.500824, "ece": 0.05,
        "predicted_classes": 2, "train_sha": f"sha-{number % 2}", "settings": "aaaaaaaaaaaaaaaa",
    }  # fmt: skip
    if accuracy is None:
        common |= {"status": "failed", "error": "RuntimeError: no luck", "predicted_classes": None}
    return Trial(**{**common, **fields})


def cell(accuracies: list[float], **fields: Any) -> list[Trial]:
    """Return a trial a data seed."""
    return [
        trial(seed, accuracy, data_seed=seed, train_sha=f"sha-{seed}", **fields)
        for seed, accuracy in enumerate(accuracies)
    ]
