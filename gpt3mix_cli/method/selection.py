"""Chooses the k real examples of a prompt, without replacement; their order in the prompt is the order returned.

`uniform` is section 3's p_s(i) = 1/N, `balanced` takes the classes in turn. `nearest` and `furthest` draw an anchor and
join it with the k - 1 rows that are most or least like it, by the cosine of tf-idf vectors or of an encoder's mean token
vectors; among equals they draw. Limits: an encoder sees the first 128 tokens of a text.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from ..errors import UserError
from ..files import hash_model
from ..pretrained import load_model, load_pretrained, model_path, resolve_device
from ..records import Example
from ..settings import fingerprint

if TYPE_CHECKING:
    import numpy as np

How = Literal["uniform", "balanced", "nearest", "furthest"]
TFIDF = "tfidf"
WORD = r"(?u)\w+|[^\w\s]"  # signs count too, so that no text is without a word
DIGITS = 6  # cosines that are equal but for rounding are equal
LONGEST, BATCH = 128, 64  # tokens of a text, texts an encoder reads together


class ExampleSelector:
    """Chooses out of one set of examples; vectors are made once, when they are first needed."""

    def __init__(self, examples: Sequence[Example], how: How, similarity: str = TFIDF) -> None:
        """Keep the examples.

        Args:
            examples: the real rows.
            how: see the top of the file.
            similarity: `tfidf`, or an encoder: `minilm`, a folder or a hub id.
        """
        self._examples, self._how, self._similarity = examples, how, similarity
        self._vectors: Any = None
        self._classes: dict[str, list[Example]] = {}
        for row in examples:
            self._classes.setdefault(row.label, []).append(row)

    def choose(self, k: int, rng: random.Random) -> list[Example]:
        """Return k distinct examples.

        Args:
            k: how many.
            rng: the generator of this attempt.

        Raises:
            UserError: if there are fewer than k rows, or the encoder cannot be loaded.
        """
        examples = self._examples
        if k > len(examples):
            raise UserError(
                f"augment.k is {k}, but there are only {len(examples)} real rows",
                "lower k, or draw more rows",
            )
        match self._how:
            case "uniform":
                return rng.sample(examples, k)
            case "balanced":
                return _balanced(self._classes, k, rng)
            case "nearest" | "furthest":
                return [examples[place] for place in self._around(k, rng)]
            case _:
                assert_never(self._how)

    def _around(self, k: int, rng: random.Random) -> list[int]:
        """Return the places of a drawn anchor and of the k - 1 rows nearest to or furthest from it, in drawn order."""
        anchor = rng.randrange(len(self._examples))
        if k == 1:
            return [anchor]
        distances = -self._cosines(anchor) if self._how == "nearest" else self._cosines(anchor)
        distances[anchor] = float("inf")
        return rng.sample([anchor, *_least(distances, k - 1, rng)], k)

    def _cosines(self, anchor: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Return the cosine of every row with one row, (rows,): one row of a matrix that is never built."""
        import numpy as np

        if self._vectors is None:
            texts = [row.text for row in self._examples]
            self._vectors = (
                _tfidf(texts) if self._similarity == TFIDF else _encoded(texts, self._similarity)
            )
        vector = self._vectors[anchor]
        cosines: np.ndarray[Any, np.dtype[np.float64]] = self._vectors @ (
            vector.toarray()[0] if self._similarity == TFIDF else vector
        )
        return cosines.round(DIGITS)


def similarity_fingerprint(similarity: str) -> str:
    """Return what identifies a similarity: a hub model's id, a folder's content; an encoder's device counts too.

    Raises:
        UserError: if `minilm` is not installed.
    """
    if similarity == TFIDF:
        return TFIDF
    where = model_path(similarity, "augment.similarity")
    return fingerprint(
        [
            hash_model(Path(where)) if Path(where).is_dir() else where,
            resolve_device("auto", "augment.similarity"),
        ]
    )


def _balanced(classes: dict[str, list[Example]], k: int, rng: random.Random) -> list[Example]:
    """Return k rows of the classes in turn, from a drawn class on; a class that has no more is passed over."""
    counts = dict.fromkeys(rng.sample(sorted(classes), len(classes)), 0)
    while (missing := k - sum(counts.values())) > 0:
        for label in [label for label in counts if counts[label] < len(classes[label])][:missing]:
            counts[label] += 1
    chosen = [row for label, count in counts.items() for row in rng.sample(classes[label], count)]
    return rng.sample(chosen, k)


def _least(
    values: "np.ndarray[Any, np.dtype[np.float64]]", count: int, rng: random.Random
) -> list[int]:
    """Return the places of the `count` smallest values; those that share the last rank are drawn."""
    import numpy as np

    last = np.partition(values, count - 1)[count - 1]
    below: list[int] = np.flatnonzero(values < last).tolist()
    level: list[int] = np.flatnonzero(values == last).tolist()
    return below + rng.sample(level, count - len(below))


# Vectors of length 1 --------------------------------------------------------------------------------------------------


def _tfidf(texts: Sequence[str]) -> Any:
    """Return a sparse matrix (texts, words)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=WORD).fit_transform(texts)


def _encoded(texts: Sequence[str], model: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return the mean of each text's last hidden states, (texts, width), as sentence encoders such as MiniLM take it."""
    import numpy as np
    import torch

    tokenizer, network = _loaded(model)
    longest = min(LONGEST, tokenizer.model_max_length)
    # Texts of like length are read together: padding costs as much as words do.
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
    vectors: list[np.ndarray[Any, Any]] = [np.empty(0)] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            batch = batch.to(network.device)
            mask = batch["attention_mask"][:, :, None]
            means = (network(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            for place, vector in zip(
                places,
                torch.nn.functional.normalize(means, dim=-1).cpu().double().numpy(),
                strict=True,
            ):
                vectors[place] = vector
    return np.stack(vectors)


def _loaded(model: str) -> tuple[Any, Any]:
    """Return an encoder and its tokenizer, in float32."""
    import torch

    where, what = (
        model_path(model, "augment.similarity"),
        f"augment.similarity '{model}': cannot be loaded",
    )
    hint = "give tfidf, minilm, an encoder's folder, or a hub id that can be reached"
    tokenizer = load_pretrained("AutoTokenizer", where, what, hint)
    network = load_model(
        "AutoModel",
        where,
        what,
        hint,
        device=resolve_device("auto", "augment.similarity"),
        optional="pooler.",  # drawn at random where it is missing, but not used here
        dtype=torch.float32,
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer, network
