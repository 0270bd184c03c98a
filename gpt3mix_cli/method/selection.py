"""Selects the k real examples of a prompt, without replacement; they are returned in prompt order.

`uniform` is the p_s(i) = 1/N of section 3. `balanced` takes the classes in turn. `same_class` takes
all from one class: the classes take turns from prompt to prompt. `nearest` and
`furthest` draw one example at random and add the k - 1 that are most or least similar to it, by the
cosine similarity of tf-idf vectors or of an encoder's mean token vectors; ties are random.

Limits: an encoder reads the first 128 tokens of a text.
"""

import functools
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from ..errors import UserError
from ..pretrained import load_config, load_model, load_tokenizer, model_path, resolve_device
from ..records import Example
from ..settings import fingerprint
from ..user_cache import ModelFacts, hash_model

if TYPE_CHECKING:
    import numpy as np

    Vector = np.ndarray[Any, np.dtype[np.float64]]

Strategy = Literal["uniform", "balanced", "same_class", "nearest", "furthest"]
TFIDF = "tfidf"
TOKEN_PATTERN = r"(?u)\w+|[^\w\s]"  # noqa: S105 - punctuation counts: every text has a token
SIMILARITY_DIGITS = 6  # similarities that differ by rounding alone are equal
ENCODER_MAX_TOKENS = 128
ENCODER_BATCH_SIZE = 64  # texts


class ExampleSelector:
    """Selects from one set of examples; vectors are computed once, when they are first needed.

    Args:
        examples: the real rows.
        strategy: see the top of this file.
        similarity: `tfidf`, or an encoder: `minilm`, a folder or a hub id.
    """

    def __init__(
        self, examples: Sequence[Example], strategy: Strategy, similarity: str = TFIDF
    ) -> None:
        self._examples, self._strategy, self._similarity = examples, strategy, similarity
        self._by_class: dict[str, list[Example]] = {}
        for row in examples:
            self._by_class.setdefault(row.label, []).append(row)

    def select(self, k: int, rng: random.Random, attempt: int = 0) -> list[Example]:
        """Return k distinct examples; all of a class if `same_class` takes one with fewer.

        Args:
            k: how many.
            rng: the random generator of this attempt.
            attempt: number of the attempt, on which the class of `same_class` depends.

        Raises:
            UserError: if there are fewer than k examples, or the encoder cannot be loaded.
        """
        if k > len(self._examples):
            raise UserError(
                f"augment.k is {k}, but there are only {len(self._examples)} real rows",
                "lower augment.k, or use a larger subsample",
            )
        match self._strategy:
            case "uniform":
                return rng.sample(self._examples, k)
            case "balanced":
                return _select_balanced(self._by_class, k, rng)
            case "same_class":
                classes = list(self._by_class.values())
                rows = classes[attempt % len(classes)]
                return rng.sample(rows, min(k, len(rows)))
            case "nearest" | "furthest":
                return [self._examples[index] for index in self._select_similar(k, rng)]
            case _:
                assert_never(self._strategy)

    def _select_similar(self, k: int, rng: random.Random) -> list[int]:
        anchor = rng.randrange(len(self._examples))
        if k == 1:
            return [anchor]
        ranks = self._similarities(anchor) * (-1 if self._strategy == "nearest" else 1)
        ranks[anchor] = float("inf")
        return rng.sample([anchor, *_smallest(ranks, k - 1, rng)], k)

    def _similarities(self, anchor: int) -> "Vector":
        vector = self._vectors[anchor]
        if self._similarity == TFIDF:
            vector = vector.toarray()[0]
        similarities: Vector = self._vectors @ vector
        return similarities.round(SIMILARITY_DIGITS)

    @functools.cached_property
    def _vectors(self) -> Any:
        texts = [row.text for row in self._examples]
        if self._similarity == TFIDF:
            return _tfidf_vectors(texts)
        return encoder_vectors(texts, self._similarity)


def similarity_fingerprint(similarity: str) -> str:
    """Return what identifies a similarity; for an encoder that includes the device.

    Raises:
        UserError: if `minilm` is not installed.
    """
    if similarity == TFIDF:
        return TFIDF
    model = model_path(similarity, "augment.similarity")
    weights = hash_model(Path(model)) if Path(model).is_dir() else model
    return fingerprint([weights, _facts_of(model).values["device"]])


# One object, so that an encoder that has changed is refused for every set of this process.
@functools.cache
def _facts_of(model: str) -> ModelFacts:
    return ModelFacts(
        {"similarity": "auto"},
        model,
        None,
        lambda: {"device": resolve_device("auto", "augment.similarity")},
    )


def _select_balanced(
    by_class: dict[str, list[Example]], k: int, rng: random.Random
) -> list[Example]:
    counts = dict.fromkeys(rng.sample(sorted(by_class), len(by_class)), 0)
    while (missing := k - sum(counts.values())) > 0:
        available = [label for label in counts if counts[label] < len(by_class[label])]
        for label in available[:missing]:
            counts[label] += 1
    selected = (rng.sample(by_class[label], count) for label, count in counts.items())
    return rng.sample(list(chain.from_iterable(selected)), k)


def _smallest(values: "Vector", count: int, rng: random.Random) -> list[int]:
    import numpy as np

    largest = np.partition(values, count - 1)[count - 1]
    below: list[int] = np.flatnonzero(values < largest).tolist()
    tied: list[int] = np.flatnonzero(values == largest).tolist()
    return below + rng.sample(tied, count - len(below))


# Vectors of length 1 -----------------------------------------------------------------------------


def _tfidf_vectors(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=TOKEN_PATTERN).fit_transform(texts)


def encoder_vectors(texts: Sequence[str], model: str) -> "Vector":
    """Return the mean of each text's last hidden states, shape (texts, width).

    Sentence encoders such as MiniLM are trained for this mean.

    Args:
        texts: at least one.
        model: `minilm`, a folder or a hub id.

    Raises:
        UserError: if the encoder cannot be loaded.
    """
    import numpy as np
    import torch

    tokenizer, encoder = _load_encoder(model)
    max_tokens = min(ENCODER_MAX_TOKENS, tokenizer.model_max_length)
    # Batches of similar length need little padding.
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    vectors: list[Vector] = []
    with torch.inference_mode():
        for start in range(0, len(order), ENCODER_BATCH_SIZE):
            indices = order[start : start + ENCODER_BATCH_SIZE]
            batch = tokenizer(
                [texts[index] for index in indices],
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            ).to(encoder.device)
            mask = batch["attention_mask"][:, :, None]
            means = (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors.append(torch.nn.functional.normalize(means, dim=-1).cpu().double().numpy())
    return np.concatenate(vectors)[np.argsort(order)]


def _load_encoder(model: str) -> tuple[Any, Any]:
    import torch

    path = model_path(model, "augment.similarity")
    facts = _facts_of(path)
    facts.check()
    problem = f"augment.similarity '{model}': cannot be loaded"
    hint = "give tfidf, minilm, an encoder's folder, or a hub id that can be reached"
    tokenizer = load_tokenizer(path, problem, hint, load_config(path, problem, hint))
    encoder = load_model(
        "AutoModel",
        path,
        problem,
        hint,
        device=facts.values["device"],
        optional=r"pooler\.",  # a missing pooler is initialised at random, but it is not used here
        dtype=torch.float32,
    )
    return tokenizer, encoder
