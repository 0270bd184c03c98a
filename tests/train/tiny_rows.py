"""Rows for the tests of encoders: few words, so that a tiny random encoder learns them."""

from gpt3mix_cli.records import Augmented, Example

CLASSES = ["pos", "neg"]
ROWS = [
    Augmented(
        id=f"r{i}",
        text=" ".join([*["film"] * i, word]),
        label=label,
        probs={"pos": share, "neg": 1 - share},
    )
    for i in range(5)
    for word, label, share in (("good", "pos", 0.9), ("bad", "neg", 0.2))
]
VALIDATION = [
    Example(id=f"v{i}", text=text, label="neg" if text == "bad" else "pos")
    for i, text in enumerate(["good", "good film", "the good", "bad"])
]
TEXTS = [
    "bad",
    "a good film and a long story about the sea",
    "good",
    "the film is bad",
    "a",
    "a good film " * 12,
    "the story is bad and long",
]
