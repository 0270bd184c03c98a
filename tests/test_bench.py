"""Benches run: they call functions of the package that no type checker compares."""

import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "scripts" / "bench"


@pytest.mark.slow
def test_the_bench_of_reports_runs() -> None:
    count, best = runpy.run_path(str(BENCH / "report.py"))["best_of"](40, 10, 1)
    assert count >= 40
    assert {"pandas", "averages", "tests", "files"} <= best.keys()


def test_a_bench_that_ends_its_process_leaves_the_other_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    functions = runpy.run_path(str(BENCH / "all"))

    def fail(_: Path) -> None:
        raise SystemExit("no server")

    names = functions["main"].__globals__
    monkeypatch.setitem(names["LINES"], "endpoint", fail)
    monkeypatch.setitem(names["LINES"], "start", lambda _: iter(["| start |"]))
    monkeypatch.setitem(names, "matrix_rate", lambda *_: 1e9)
    words = ["all", "--data", str(tmp_path), "--only", "endpoint", "start"]
    monkeypatch.setattr("sys.argv", words)
    functions["main"]()
    printed = capsys.readouterr().out
    assert "| endpoint | failed: no server |" in printed
    assert "| start |" in printed
