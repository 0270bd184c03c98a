"""Reads the manual. A page is `<topic>.md`: a title, a sentence on its purpose, the text."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, did_you_mean

# In reading order.
TOPICS = (
    "quickstart",
    "your-data",
    "concepts",
    "methods",
    "language-models",
    "endpoints",
    "cost",
    "reports-and-statistics",
    "clusters",
    "api",
    "reference",
    "performance",
    "compared",
    "development",
)


@dataclass(frozen=True)
class Page:
    """A page of the manual.

    Attributes:
        topic: its name, as in `gpt3mix guide TOPIC`.
        text: Markdown.
    """

    topic: str
    text: str

    @property
    def purpose(self) -> str:
        """Its first paragraph, which is one sentence."""
        return " ".join(self.text.split("\n\n", 2)[1].split())


def read_page(topic: str) -> Page:
    """Return a page by its topic, or by the start of one, such as `reports`.

    Raises:
        UserError: if there is no such topic.
    """
    matches = [name for name in TOPICS if name.startswith(topic.lower())]
    if len(matches) != 1:
        first_words = [name.split("-")[0] for name in TOPICS]
        raise UserError(
            f"the manual has no page '{topic}'{did_you_mean(topic, [*TOPICS, *first_words])}",
            f"gpt3mix guide lists the topics: {', '.join(TOPICS)}",
        )
    return Page(matches[0], Path(__file__).with_name(f"{matches[0]}.md").read_text("utf-8"))
