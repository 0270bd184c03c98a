"""The manual's pages: complete, listed with their purpose, shown in a terminal and in a pipe."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.console_guide import terminal_markdown
from gpt3mix_cli.guide import TOPICS, pages, read_page

MAX_PURPOSE = 70  # characters: after the topic it fits into 94 columns
SCRIPT = Path(sys.executable).with_name("gpt3mix")
HEAVY = {"torch", "transformers", "datasets", "sklearn", "pandas", "numpy", "pydantic"}
LOADED = "from gpt3mix_cli.cli import main; import sys; main(sys.argv[1:]); print(*sys.modules)"


def test_the_topics_are_the_files_of_the_folder() -> None:
    assert sorted(TOPICS) == sorted(path.stem for path in Path(pages.__file__).parent.glob("*.md"))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_its_title_purpose_and_a_command(topic: str) -> None:
    page = read_page(topic)
    assert page.text.startswith("# ")
    assert len(page.purpose) <= MAX_PURPOSE
    assert page.purpose.endswith(".")
    if topic not in ("concepts", "reference"):
        assert page.text.split("\n\n")[2].startswith("```bash\n")


def test_without_a_topic_the_pages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(TOPICS)]] == list(TOPICS)
    assert lines[0].endswith(read_page("quickstart").purpose)


def test_in_a_pipe_a_page_is_its_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", "reports"]) == 0
    assert capsys.readouterr().out == read_page("reports-and-statistics").text


@pytest.mark.parametrize(("wrong", "right"), [("endpoint", ""), ("qickstart", "quickstart")])
def test_a_topic_may_be_shortened_and_a_wrong_one_names_the_nearest(
    wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["guide", wrong]) == (2 if right else 0)
    assert f"did you mean '{right}'?" in capsys.readouterr().err or not right


def test_a_topic_that_begins_several_pages_is_none() -> None:
    with pytest.raises(pages.UserError, match="no page 'co'"):
        read_page("co")


def test_links_become_commands_and_files_in_a_terminal() -> None:
    text = (
        "<!-- keys -->\n\nSee [cost](cost.md#prices), [terms](#a) and [a run](../../results/x.md)."
    )
    shown = "See cost (`gpt3mix guide cost`), terms and a run (`results/x.md`)."
    assert terminal_markdown(text) == shown


def test_a_terminal_gets_formatted_text_in_a_pager() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [SCRIPT, "guide", "clusters"],
        stdout=slave,
        env={**os.environ, "PAGER": "cat", "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(slave)
    output = b""
    while True:
        try:
            output += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
    os.close(master)
    assert process.wait() == 0
    text = output.decode()
    assert "\x1b[" in text
    assert "```" not in text
    assert "gpt3mix guide endpoints" in " ".join(text.replace("\x1b", " ").split())


def test_a_reader_that_leaves_early_ends_it_without_an_error() -> None:
    command = f'"{SCRIPT}" guide reference | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "# Reference\n", "")


def test_the_manual_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "guide", "cost"], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "gpt3mix_cli.guide.pages" in loaded
    # Typer 0.29 itself builds the parameters of a command with pydantic; our models stay out.
    assert not (HEAVY - {"pydantic"}) & loaded
    assert "gpt3mix_cli.settings" not in loaded
