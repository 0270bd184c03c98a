"""How far labels in a lower precision are from those of a float32 pass.

`decoder.OutputLayer` computes label scores in float32. What remains is the rounding in the layers
before it. It is measured once for each model, dtype and device, over a dozen prompts, and
remembered in the user's cache folder.
"""

import contextlib
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...errors import UserError
from ...files import atomic_write
from .continuous_batch import Row, run_rows
from .decoder import Decoder
from .tokenization import PromptTokenizer

MAX_MEDIAN_ERROR = 1e-2  # of a dtype that `lm.dtype: auto` chooses
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one on ARM; without them: slower

# Header, examples, texts to be labelled, and labels, of three tasks.
_PROBES = (
    (
        "Each item in the following list contains a movie review and the respective sentiment. "
        "The sentiment is one of 'positive' or 'negative'.\n\n"
        "Movie review: A warm, funny and finely acted story. (Sentiment: Positive)\n"
        "Movie review: Two hours of noise without an idea. (Sentiment: Negative)\n"
        "Movie review: {} (Sentiment:",
        (
            "I would gladly see it again.",
            "The plot is thin, but the songs are lovely.",
            "Nobody in this film seems to know why they are there.",
            "It is long.",
        ),
        (" Positive", " Negative"),
    ),
    (
        "Each item in the following list contains a question and the respective type. "
        "The type is one of 'person', 'place', or 'number'.\n\n"
        "Question: Who built the first steam engine ? (Type: Person)\n"
        "Question: {} (Type:",
        (
            "How many rivers cross the border ?",
            "In which town was the treaty signed ?",
            "What do you call the captain of a choir ?",
            "When was the bridge opened ?",
        ),
        (" Person", " Place", " Number"),
    ),
    (
        "Each item in the following list contains a support ticket and the respective topic. "
        "The topic is one of 'billing', 'login', or 'shipping'.\n\n"
        "Support ticket: I was charged twice this month. (Topic: Billing)\n"
        "Support ticket: My parcel has been in the depot for a week. (Topic: Shipping)\n"
        "Support ticket: {} (Topic:",
        (
            "The password link in your mail has expired.",
            "Please send the invoice to our new address.",
            "The courier says that nobody was at home.",
            "I can not open my account.",
        ),
        (" Billing", " Login", " Shipping"),
    ),
)


@dataclass(frozen=True)
class LabelPrecision:
    """The largest difference of a class's probability from a float32 pass, over several prompts.

    Attributes:
        median: of the prompts.
        largest: of the prompts.
        prompts: how many.
    """

    median: float
    largest: float
    prompts: int

    def __str__(self) -> str:
        return (
            f"{self.median:.1g} from float32 in the median, {self.largest:.1g} at most, "
            f"over {self.prompts} prompts"
        )


def measure_precision(
    low: Decoder, reference: Callable[[], Decoder], tokenizer: PromptTokenizer
) -> LabelPrecision:
    """Return how far the labels of a model are from those of the same model in float32.

    Args:
        low: the model in its dtype.
        reference: returns it in float32.
        tokenizer: of both.

    Raises:
        UserError: if the prompts do not fit the model's context.
    """
    errors = [
        max(abs(a - b) for a, b in zip(probs, expected, strict=True))
        for probs, expected in zip(
            _label_probs(low, tokenizer), _label_probs(reference(), tokenizer), strict=True
        )
    ]
    return LabelPrecision(round(statistics.median(errors), 6), round(max(errors), 6), len(errors))


def _label_probs(decoder: Decoder, tokenizer: PromptTokenizer) -> list[list[float]]:
    rows = [
        Row(tokenizer.encode(text), tokenizer.encode_continuations(text[-16:], choices))
        for template, texts, choices in _PROBES
        for text in map(template.format, texts)
    ]
    if max(len(row.prompt) + max(map(len, row.choices)) for row in rows) > decoder.context_length:
        raise UserError("the prompts that measure precision do not fit the context", "")
    run_rows(decoder, rows, len(rows))
    return [torch.tensor(row.scores).softmax(-1).tolist() for row in rows]


def remembered(path: Path, measure: Callable[[], LabelPrecision]) -> LabelPrecision:
    """Return a measurement from its file, or measure and write the file."""
    if stored := read_precision(path):
        return stored
    precision = measure()
    # A cache that cannot be written costs time, no more.
    with contextlib.suppress(UserError), atomic_write(path) as stream:
        stream.write(json.dumps(asdict(precision)).encode())
    return precision


def read_precision(path: Path) -> LabelPrecision | None:
    """Return a measurement from its file; None if there is none, or it cannot be read."""
    try:
        return LabelPrecision(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def has_bfloat16_instructions() -> bool:
    """Return whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    try:
        return not BFLOAT16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # another system than Linux
        return False
