"""Back-translation (Fadaee et al., 2017): into a pivot language and back.

Copy c of a parent is its c-th candidate that differs from the parent and from earlier candidates:
the beams of the way back through the first pivot, then those through the next. At a temperature
above 0, each candidate is sampled, in both directions. A parent without candidates stays unchanged;
if there are fewer candidates than copies, they repeat from the first. Both cases are counted.

The journal stores translations, so that none is computed twice. A batch is translated in both
directions before the next one, and holds texts of similar length, however many rows are wanted.

Limits: those of `translators`; and a translation may lose what the label depends on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..duplicates import normalize_text
from ..jsonl import to_json
from ..lm import Journal
from ..records import Example
from ..settings import BacktranslateSettings, Task, derived_seed, fingerprint
from .protocol import TextEditor
from .translators import APERTIUM_BATCH_SIZE, Translator, open_translator, translator_fingerprint

CACHE_VERSION = 2  # raise it if the same settings give other rows
# Sampling rounds in a row, through each pivot, that may find no candidate before sampling stops.
MAX_FRUITLESS_ROUNDS = 4


def _search_settings(settings: BacktranslateSettings) -> dict[str, Any]:
    if settings.engine == "apertium":
        return {}
    search = "temperature" if settings.temperature > 0 else "beams"
    return settings.model_dump(include={"max_tokens", "batch_size", "device", search})


class Direction:
    """Translates in one direction: looks texts up in the journal, then asks the translator.

    Args:
        settings: of the method.
        model: a model, or an Apertium pair. It is opened when it is first needed.
        num_candidates: how many translations of a text are kept.
        journal: stores translations.
    """

    def __init__(
        self,
        settings: BacktranslateSettings,
        model: str,
        num_candidates: int,
        journal: Journal | None,
    ) -> None:
        self._settings, self._model = settings, model
        self._num_candidates, self._journal = num_candidates, journal
        self._translator: Translator | None = None
        self.fingerprint = translator_fingerprint(settings, model)
        self._cache_key = [
            "translation",
            settings.engine,
            # Not the path of a folder, which may move.
            self.fingerprint or model,
            num_candidates,
            _search_settings(settings),
            CACHE_VERSION,
        ]

    def translate(self, texts: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
        """Return the candidates of each text.

        Args:
            texts: non-empty, each on one line.
            seeds: one for each text; without sampling they have no effect.
        """
        samples = self._settings.temperature > 0
        keys = [
            fingerprint([self._cache_key, text, seed if samples else None], 32)
            for text, seed in zip(texts, seeds, strict=True)
        ]
        known = self._journal.read(keys, _parse_candidates) if self._journal else {}
        missing = {key: index for index, key in enumerate(keys) if key not in known}
        if missing:
            if self._translator is None:
                self._translator = open_translator(self._settings, self._model, self.fingerprint)
            new = self._translator.translate(
                [texts[index] for index in missing.values()],
                self._num_candidates,
                [seeds[index] for index in missing.values()],
            )
            known |= dict(zip(missing, new, strict=True))
            if self._journal:
                requests = {
                    key: to_json({"model": self._model, "text": texts[index]})
                    for key, index in missing.items()
                }
                self._journal.store(
                    [(key, None, request, to_json(known[key])) for key, request in requests.items()]
                )
        return [known[key] for key in keys]


def _parse_candidates(answer: str) -> list[str]:
    value = json.loads(answer)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError("no list of texts")
    return value


@dataclass
class Candidates:
    """The candidates of one parent's text so far.

    Attributes:
        seen: the text and its candidates, normalised.
        texts: the distinct candidates that differ from the text.
        rounds: round trips through a pivot so far.
        fruitless: how many of the last round trips found no candidate.
    """

    seen: set[str]
    texts: list[str] = field(default_factory=list)
    rounds: int = 0
    fruitless: int = 0

    def add_round(self, translations: Sequence[str]) -> None:
        """Add the translations of a round trip."""
        before = len(self.texts)
        for translation in translations:
            text = " ".join(translation.split())
            if text and normalize_text(text) not in self.seen:
                self.seen.add(normalize_text(text))
                self.texts.append(text)
        self.rounds += 1
        self.fruitless = 0 if len(self.texts) > before else self.fruitless + 1


class RoundTrips:
    """The candidates of all parents, translated batch by batch when they are needed."""

    def __init__(
        self,
        pivots: Sequence[tuple[Direction, Direction]],
        texts: Sequence[str],
        settings: BacktranslateSettings,
        seed: int,
    ) -> None:
        self._pivots, self._settings, self._seed = pivots, settings, seed
        # The distinct texts, in batches of similar length.
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        size = APERTIUM_BATCH_SIZE if settings.engine == "apertium" else settings.batch_size
        self._batches = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        self._batch_of = {
            text: number for number, batch in enumerate(self._batches) for text in batch
        }
        self._requested = [0] * len(self._batches)
        self._candidates = {text: Candidates({normalize_text(text)}) for text in distinct}

    def candidates(self, text: str, count: int) -> list[str]:
        """Return at least `count` candidates of a text, or all that there are, maybe none."""
        if not text:
            return []
        number = self._batch_of[text]
        # One copy at a time: what is translated together must not depend on `count`.
        while self._requested[number] < count:
            self._requested[number] += 1
            self._fill(self._batches[number], self._requested[number])
        return self._candidates[text].texts

    def _fill(self, batch: Sequence[str], count: int) -> None:
        # Until each text of the batch has `count` candidates, or no more exist.
        while waiting := [text for text in batch if self._needs_round(text, count)]:
            number = min(self._candidates[text].rounds for text in waiting)
            behind = [text for text in waiting if self._candidates[text].rounds == number]
            self._round_trip(behind, number)

    def _needs_round(self, text: str, count: int) -> bool:
        candidates, num_pivots = self._candidates[text], len(self._pivots)
        has_more = candidates.rounds < num_pivots
        if self._settings.temperature:
            has_more = candidates.fruitless < MAX_FRUITLESS_ROUNDS * num_pivots
        return has_more and len(candidates.texts) < count

    def _round_trip(self, texts: Sequence[str], number: int) -> None:
        forward, backward = self._pivots[number % len(self._pivots)]
        forward_seeds, backward_seeds = (
            [derived_seed(self._seed, way, number, text) for text in texts]
            for way in ("there", "back")
        )
        pivots = [
            " ".join(candidates[0].split())
            for candidates in forward.translate(texts, forward_seeds)
        ]
        # Engines accept no empty text.
        translated = iter(
            backward.translate(
                [pivot for pivot in pivots if pivot],
                [seed for pivot, seed in zip(pivots, backward_seeds, strict=True) if pivot],
            )
        )
        for text, pivot in zip(texts, pivots, strict=True):
            self._candidates[text].add_round(next(translated) if pivot else ())


class BackTranslation(TextEditor):
    """See the top of this file; translators are opened when they are first needed.

    Args:
        settings: of the method.
        task: the classes.
        journal: stores translations.
    """

    def __init__(
        self, settings: BacktranslateSettings, task: Task, journal: Journal | None = None
    ) -> None:
        searches_beams = settings.engine == "transformers" and not settings.temperature
        num_candidates = settings.beams if searches_beams else 1
        self._settings = settings
        self._pivots = [
            (
                Direction(settings, forward, 1, journal),
                Direction(settings, backward, num_candidates, journal),
            )
            for forward, backward in settings.pairs
        ]
        self._trips: tuple[str, RoundTrips] | None = None  # hash of texts and seed, round trips
        self.about = {
            "method": settings.name,
            "kind": "backtranslate",
            "engine": settings.engine,
            "pairs": [list(pair) for pair in settings.pairs],
            **_search_settings(settings),
            "revisions": dict(settings.revisions),
            "classes": task.classes,
            "fingerprint": fingerprint(
                [direction.fingerprint for pair in self._pivots for direction in pair]
            ),
            "format": CACHE_VERSION,
        }

    def edit_texts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[str]:
        """Yield the texts of attempts first..first+count."""
        texts = [" ".join(row.text.split()) for row in examples]
        # Round trips are kept for the next call. Without sampling the seed has no effect.
        key = fingerprint([texts, seed if self._settings.temperature else None])
        if self._trips is None or self._trips[0] != key:
            self._trips = key, RoundTrips(self._pivots, texts, self._settings, seed)
        trips = self._trips[1]
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            candidates = trips.candidates(texts[parent], copy + 1)
            yield candidates[copy % len(candidates)] if candidates else examples[parent].text
