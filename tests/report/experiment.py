"""A small run's folder as the stages leave it, with texts that a browser could misread."""

import json
from pathlib import Path

from rows import trial

from gpt3mix_cli.records import Augmented, Example, Reject, write_records

HOSTILE = (
    "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'> {{7*7}} ${7*7} "
    "=1+1 \x1b[31m \u202eback\u2028 & <b>bold</b>"
)


def experiment(
    folder: Path, rows: int = 12, levels: tuple[str, ...] = ("1%",), hostile: str = HOSTILE
) -> Path:
    """Write two data seeds of no augmentation, gpt3mix and eda at each level.

    Each has synthetic rows, rejects and epochs.
    """
    for level in levels:
        for seed in (0, 1):
            cell = folder / level.replace("%", "pct") / f"seed-{seed}"
            real = [
                Example(
                    id=f"t{number}",
                    text=f"a real film, number {number} {hostile}",
                    label=("pos", "neg")[number % 2],
                )
                for number in range(4)
            ]
            write_records(cell / "train.jsonl", real)
            for method, source in (("gpt3mix", "exact"), ("eda", "parent")):
                write_records(
                    cell / f"{method}.jsonl",
                    [_row(number, seed, method, source, hostile) for number in range(rows)],
                )
            rejects = [
                Reject(
                    request=90,
                    method="gpt3mix",
                    parents=["t0", "gone"],
                    text=f"rejected {hostile}",
                    reason="duplicate",
                    detail=f"of t0 {hostile}",
                ),
                Reject(
                    request=91,
                    method="gpt3mix",
                    parents=["t1"],
                    text="unfinish",
                    reason="unfinished",
                    detail="60 tokens",
                ),
            ]
            write_records(cell / "gpt3mix.rejects.jsonl", rejects)
            for method, gain in (("none", 0.0), ("gpt3mix", 0.1), ("eda", 0.02)):
                trials = [
                    trial(
                        number,
                        0.5 + gain + number / 100,
                        data_seed=seed,
                        level=level,
                        **_about(method, level),
                    )
                    for number in (seed, seed + 2)
                ]
                write_records(cell / "trials" / f"{method}.linear.jsonl", trials)
                epochs = [
                    {"trial": row.trial, "epoch": at, "valid_accuracy": 0.5 + at / 20}
                    for row in trials
                    for at in (1, 2, 3)
                ]
                (cell / "trials" / f"{method}.linear.history.jsonl").write_text(
                    "".join(json.dumps(epoch) + "\n" for epoch in epochs)
                )
    return folder


def _row(number: int, seed: int, method: str, source: str, hostile: str) -> Augmented:
    share = 1.0 if source == "parent" else round(0.3 + number % 12 / 20, 2)
    probs = {"pos": share, "neg": round(1 - share, 2)}
    text = f"{method} film {number} of seed {seed}" + (f" {hostile}" if number == 0 else "")
    label = max(probs, key=lambda name: probs[name])
    return Augmented(
        id=f"{method}-{number}", text=text, label=label, probs=probs, method=method,
        parents=["t0", "t3"][: 1 + (source == "exact")],
        label_source=source, label_mass=0.97 if source == "exact" else None,
    )  # fmt: skip


def _about(method: str, level: str) -> dict[str, object]:
    tokens = {"tokens": 2000, "usd": 0.01} if method == "gpt3mix" else {}
    n_train = {"0.1%": 6, "1%": 70}.get(level, 20)
    return {
        "method": method,
        "n_train": n_train,
        "n_synthetic": 0 if method == "none" else 70,
        "settings": f"{method:0<16.16}",
        **tokens,
    }
