"""Chooses the k real examples of a prompt, without replacement; their order in the prompt is the order returned."""

import random
from collections.abc import Sequence
from typing import Literal, assert_never

from ..errors import UserError
from ..records import Example


def choose(examples: Sequence[Example], k: int, how: Literal["uniform", "balanced"], rng: random.Random) -> list[Example]:
    """Return k distinct examples.

    Args:
        examples: the real rows.
        k: how many.
        how: `uniform` (section 3: p_s(i) = 1/N), or `balanced`: all classes in turn, from a drawn class on.
        rng: the generator of this attempt.

    Raises:
        UserError: if there are fewer than k rows.
    """
    if k > len(examples):
        raise UserError(f"augment.k is {k}, but there are only {len(examples)} real rows", "lower k, or draw more rows")
    match how:
        case "uniform":
            return rng.sample(examples, k)
        case "balanced":
            return _balanced(examples, k, rng)
        case _:
            assert_never(how)


def _balanced(examples: Sequence[Example], k: int, rng: random.Random) -> list[Example]:
    pools: dict[str, list[Example]] = {}
    for row in rng.sample(examples, len(examples)):
        pools.setdefault(row.label, []).append(row)
    labels = rng.sample(sorted(pools), len(pools))
    chosen: list[Example] = []
    while len(chosen) < k:
        chosen += [pools[label].pop() for label in labels if pools[label]][: k - len(chosen)]
    return rng.sample(chosen, k)
