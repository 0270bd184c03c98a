"""table.tex has the shape of the paper's Table 1, compiles, and runs no command from data."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import inputs, seeds, trial

from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import ReportOptions, report
from gpt3mix_cli.report.render.latex import tex

HOSTILE = '[a]_b* & 50% #1 $x$ {y} ~z ^w \\input{/etc/passwd} <é> | "q" \x1b[31m 中文'


def sweeping() -> list[Trial]:
    """Return trials that fill every table, with names that mean something to TeX."""
    rows = []
    for task, majority in (("sst2", 0.5), (HOSTILE, 0.69)):
        for level in ("0.1%", "1%"):
            for k in (1, 2):
                variant = {"augment.k": k}
                for classifier in ("distilbert", "bert_base"):
                    for method, gain in (("none", 0.0), ("gpt3mix", 0.03 * k), ("eda", 0.01)):
                        tokens = {"tokens": 1000, "usd": 0.01} if method == "gpt3mix" else {}
                        fields = {
                            "task": task,
                            "level": level,
                            "variant": variant,
                            "classifier": classifier,
                            "method": method,
                            "majority": majority,
                        }
                        rows += seeds([0.5 + gain, 0.61 + gain, 0.55], **fields, **tokens)
    return [
        *rows,
        trial(
            7, None, method="eda", error=HOSTILE, variant={"augment.k": 1}, classifier="distilbert"
        ),
    ]


def test_table_tex_has_the_papers_shape(tmp_path: Path) -> None:
    rows = [
        row
        for c in ("distilbert", "bert")
        for row in [
            *seeds([0.5, 0.52], classifier=c),
            *seeds([0.6, 0.7], classifier=c, method="gpt3mix"),
        ]
    ]
    write_records(tmp_path / "trials.jsonl", rows)
    report(inputs(tmp_path / "trials.jsonl"), tmp_path)
    lines = (tmp_path / "table.tex").read_text("utf-8").splitlines()
    assert r" &  &  & \multicolumn{2}{c}{bert} & \multicolumn{2}{c}{distilbert} \\" in lines
    assert r"\cmidrule(lr){4-5} \cmidrule(lr){6-7}" in lines
    assert (
        r"sst2 & 1\% & 50.1 & $51.0_{1.4}$ & $\mathbf{65.0}_{7.1}$ & $51.0_{1.4}$ & "
        r"$\mathbf{65.0}_{7.1}$ \\" in lines
    )


@given(st.text())
def test_no_text_is_a_tex_command(text: str) -> None:
    shown = tex(text)
    plain = re.sub(
        r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar|char34|textdagger|ldots)\{\}|\$\\pm\$|\{[][*]\}",
        "",
        shown,
    )
    assert not re.search(
        r"[][*]", plain
    )  # after the end of a line these would belong to its command
    assert not re.search(r"(?<!\\)[#$%&_{}~^\\](?![#$%&_{}])", plain)
    assert shown.isprintable()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_table_tex_compiles(tmp_path: Path) -> None:
    write_records(tmp_path / "trials.jsonl", sweeping())
    report(inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(with_paper=True))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{table.tex}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000
    assert "Missing character" not in done.stdout
