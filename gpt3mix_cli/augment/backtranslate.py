"""Back-translation (Fadaee et al., 2017): into a pivot language and back, with transformers or with Apertium.

Copy c of a parent is its c-th candidate that changes it and is like no earlier one: the beams of the way back through the
first pivot, then those through the next; at a temperature above 0 one draw after the other, both ways. A parent that no
candidate changes stays as it is; candidates that run out are taken again from the first. Both are counted.

Translations are kept in the journal, so that none is asked for twice. Both directions of a batch come before the next
batch, and batches are alike in length and the same however many rows are wanted. Limits: those of `translators`, and a
translation may lose what the label rests on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..lm import Journal
from ..records import Augmented, Example
from ..settings import BacktranslateSettings, Task, derived_seed, fingerprint
from .editing import NoCost, edited
from .filter import normalize_text
from .translators import APERTIUM_BATCH, Translator, open_translator, translator_fingerprint

CACHE_VERSION = 2  # raised when the same settings would give other rows
COMMON = {"max_tokens", "batch_size", "device"}
USED = {
    False: {*COMMON, "beams"},
    True: {*COMMON, "temperature"},
}  # the settings that a beam search and draws depend on
BARREN = (
    4  # draws in a row, through each pivot, that may bring nothing new before no more are asked for
)


class Direction:
    """One way through one pivot: the journal, and behind it a translator that is opened when it is first needed."""

    def __init__(
        self, settings: BacktranslateSettings, model: str, candidates: int, journal: Journal | None
    ) -> None:
        """Say what its translations depend on.

        Args:
            settings: of the method.
            model: or Apertium pair.
            candidates: how many of a text are kept.
            journal: where translations are looked up and kept.
        """
        self._settings, self._model, self._candidates, self._journal = (
            settings,
            model,
            candidates,
            journal,
        )
        self._translator: Translator | None = None
        parameters = (
            {}
            if settings.engine == "apertium"
            else settings.model_dump(include=USED[settings.temperature > 0])
        )
        self.sha = translator_fingerprint(settings, model)
        # Folders move, their files are the same: a hub model's sha knows its name.
        self._about = [
            "translation",
            settings.engine,
            self.sha or model,
            candidates,
            parameters,
            CACHE_VERSION,
        ]

    def translate(self, texts: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
        """Return the candidates of each text, asking only for those that the journal lacks.

        Args:
            texts: non-empty, each on one line.
            seeds: of what is drawn for each; where nothing is drawn they make no other translation.
        """
        drawn = self._settings.temperature > 0
        keys = [
            fingerprint([self._about, text, seed if drawn else None], 32)
            for text, seed in zip(texts, seeds, strict=True)
        ]
        found = self._kept(keys)
        if missing := {key: place for place, key in enumerate(keys) if key not in found}:
            self._translator = self._translator or open_translator(
                self._settings, self._model, self.sha
            )
            places = list(missing.values())
            new = self._translator.translate(
                [texts[place] for place in places],
                self._candidates,
                [seeds[place] for place in places],
            )
            found |= dict(zip(missing, new, strict=True))
            if self._journal:
                self._journal.store(
                    [
                        (key, None, self._request(texts[place]), _json(found[key]))
                        for key, place in missing.items()
                    ]
                )
        return [found[key] for key in keys]

    def _kept(self, keys: Sequence[str]) -> dict[str, list[str]]:
        journal = self._journal
        return (
            {
                key: journal.parse(_candidates, answer)
                for key, answer in journal.lookup(keys).items()
            }
            if journal
            else {}
        )

    def _request(self, text: str) -> str:
        return _json({"model": self._model, "text": text})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _candidates(answer: str) -> list[str]:
    value = json.loads(answer)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError("no list of texts")
    return value


@dataclass
class Parent:
    """What is known of a parent's text.

    Attributes:
        seen: it and its candidates, without case and spacing.
        candidates: those that change it, each once.
        steps: how many pivots it went through, those of further draws included.
        barren: how many of the last steps brought nothing new.
    """

    seen: set[str]
    candidates: list[str] = field(default_factory=list)
    steps: int = 0
    barren: int = 0

    def take(self, texts: Sequence[str]) -> None:
        """Take the candidates of a step."""
        before = len(self.candidates)
        for text in (" ".join(text.split()) for text in texts):
            if text and normalize_text(text) not in self.seen:
                self.seen.add(normalize_text(text))
                self.candidates.append(text)
        self.steps += 1
        self.barren = 0 if len(self.candidates) > before else self.barren + 1


class RoundTrips:
    """The candidates of a set of parents, translated batch by batch as they are wanted."""

    def __init__(
        self,
        pivots: Sequence[tuple[Direction, Direction]],
        texts: Sequence[str],
        settings: BacktranslateSettings,
        seed: int,
    ) -> None:
        """Deal the distinct texts into batches that are alike in length."""
        self._pivots, self._settings, self._seed = pivots, settings, seed
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        size = APERTIUM_BATCH if settings.engine == "apertium" else settings.batch_size
        self._batches = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        self._batch_of = {
            text: number for number, batch in enumerate(self._batches) for text in batch
        }
        self._wanted = [0] * len(self._batches)
        self._parents = {text: Parent({normalize_text(text)}) for text in distinct}

    def candidates(self, text: str, wanted: int) -> list[str]:
        """Return at least so many candidates of a text, or all that there are to be had: maybe none."""
        if not text:
            return []
        number = self._batch_of[text]
        # One copy after the other, so that what is translated together does not depend on the first copy asked for.
        while self._wanted[number] < wanted:
            self._wanted[number] += 1
            self._fill(self._batches[number], self._wanted[number])
        return self._parents[text].candidates

    def _fill(self, batch: Sequence[str], wanted: int) -> None:
        while waiting := [text for text in batch if self._wants(self._parents[text], wanted)]:
            step = min(self._parents[text].steps for text in waiting)
            self._step([text for text in waiting if self._parents[text].steps == step], step)

    def _wants(self, parent: Parent, wanted: int) -> bool:
        if len(parent.candidates) >= wanted:
            return False
        if self._settings.temperature:
            return parent.barren < BARREN * len(self._pivots)
        return parent.steps < len(self._pivots)

    def _step(self, texts: Sequence[str], step: int) -> None:
        """Take texts through a pivot and back."""
        there, back = self._pivots[step % len(self._pivots)]
        seeds = [
            [derived_seed(self._seed, way, step, text) for text in texts]
            for way in ("there", "back")
        ]
        pivots = [" ".join(found[0].split()) for found in there.translate(texts, seeds[0])]
        # Engines take no empty text.
        written = [place for place, pivot in enumerate(pivots) if pivot]
        returned = (
            back.translate(
                [pivots[place] for place in written], [seeds[1][place] for place in written]
            )
            if written
            else []
        )
        found = dict(zip(written, returned, strict=True))
        for number, text in enumerate(texts):
            self._parents[text].take(found.get(number, []))


class BackTranslation(NoCost):
    """Rewrites each parent in turn; see `augment.Augmenter`."""

    edits = True
    rows = block = 1

    def __init__(
        self, settings: BacktranslateSettings, task: Task, journal: Journal | None = None
    ) -> None:
        """Keep the settings and the classes; translators are opened when they are first needed.

        Args:
            settings: of the method.
            task: the labels.
            journal: where translations are looked up and kept.
        """
        self._settings, self._classes = settings, task.classes
        candidates = (
            settings.beams if settings.engine == "transformers" and not settings.temperature else 1
        )
        self._pivots = [
            (Direction(settings, there, 1, journal), Direction(settings, back, candidates, journal))
            for there, back in settings.pairs
        ]
        self._trips: tuple[object, RoundTrips] | None = None
        used = (
            settings.model_dump(include=USED[settings.temperature > 0])
            if settings.engine == "transformers"
            else {}
        )
        self.about: dict[str, Any] = {
            "method": settings.name,
            "kind": "backtranslate",
            "engine": settings.engine,
            "pairs": [list(pair) for pair in settings.pairs],
            **used,
            "revisions": dict(settings.revisions),
            "classes": task.classes,
            "fingerprint": fingerprint(
                [direction.sha for pair in self._pivots for direction in pair]
            ),
            "format": CACHE_VERSION,
        }

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Augmented]:
        """Yield the rows of attempts first..first+count: attempt i is copy i // n of parent i mod n."""
        texts = [" ".join(row.text.split()) for row in examples]
        trips = self._round_trips(texts, seed)
        for attempt in range(first, first + count):
            copy, parent = divmod(attempt, len(examples))
            row, candidates = examples[parent], trips.candidates(texts[parent], copy + 1)
            text = candidates[copy % len(candidates)] if candidates else row.text
            yield edited(row, text, copy, attempt, self._settings.name, self._classes)

    def _round_trips(self, texts: Sequence[str], seed: int) -> RoundTrips:
        """Return the round trips of these parents, the last ones if they are the same; a beam search has no seed."""
        key = fingerprint([texts, seed if self._settings.temperature else None])
        if self._trips is None or self._trips[0] != key:
            self._trips = key, RoundTrips(self._pivots, texts, self._settings, seed)
        return self._trips[1]
