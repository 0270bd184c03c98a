"""The gate of generated rows: each reason to discard a row has a name and is counted."""

from collections.abc import Iterable

from ..records import Augmented, Example, Reject


def same_text(text: str) -> str:
    """Return what two copies of a text share: its words and signs, whatever their case and spacing."""
    return " ".join(text.casefold().split())


class Gate:
    """Lets a row through if it copies no real row and repeats no synthetic one, in the order of the attempts."""

    def __init__(self, examples: Iterable[Example]) -> None:
        """Learn the real rows."""
        self._real = {same_text(row.text): row.id for row in examples}
        self._kept: dict[str, str] = {}

    def check(self, row: Augmented | Reject) -> Augmented | Reject:
        """Return the row, or why it is discarded."""
        if isinstance(row, Reject):
            return row
        text = same_text(row.text)
        for reason, seen in (("copy_of_real", self._real), ("repeat", self._kept)):
            if text in seen:
                return Reject(request=row.request or 0, method=row.method, parents=row.parents, text=row.text, reason=reason, detail=seen[text])
        self._kept[text] = row.id
        return row
