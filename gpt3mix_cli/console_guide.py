"""The manual in the terminal: formatted and in a pager there, plain Markdown elsewhere."""

import os
import re

from rich.console import Console
from rich.markdown import Markdown

from .files import stdout_errors
from .guide import TOPICS, read_page

MAX_WIDTH = 100  # columns; longer lines of text are hard to read


def show_guide(topic: str | None) -> None:
    """Print a page of the manual; without a topic the list of pages.

    Raises:
        UserError: if there is no such topic.
        StdoutClosed: if the reader of stdout has gone.
    """
    console = Console(highlight=False)
    console.width = min(console.width, MAX_WIDTH)
    with stdout_errors():
        if topic is None:
            for name in TOPICS:
                print(f"{name:<24}{read_page(name).purpose}")
            print("\nShow a page: gpt3mix guide TOPIC", flush=True)
        elif console.is_terminal:
            os.environ.setdefault("LESS", "-FRX")  # colours; a short page needs no pager
            markdown = Markdown(terminal_markdown(read_page(topic).text), hyperlinks=False)
            with console.pager(styles=True, links=False):
                console.print(markdown)
        else:
            print(read_page(topic).text, end="", flush=True)


def terminal_markdown(text: str) -> str:
    """Return a page without comments, whose links name commands and files."""
    text = re.sub(r"<!--.*?-->\n*", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\(([a-z-]+)\.md(?:#[^)]*)?\)", r"\1 (`gpt3mix guide \2`)", text)
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+([^)]*)\)", r"\1 (`\2`)", text)
