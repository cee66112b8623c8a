"""Where a generator's randomness comes from: upstream's one stream, or an even spread of depths."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

# upstream's insertion depths, in percent of the haystack's sentences
_DEPTHS = np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int).tolist()
_GOLDEN_RATIO = (5**0.5 - 1) / 2


class CannotBuild(Exception):
    """No sample exists at this size (too few lines for the needles, fewer documents than the gold ones, ...)."""


class Draws:
    """RULER's own randomness: one stream through all probes and samples of a task, the same shuffle for every sample.

    Equal to upstream's `random.seed(seed); np.random.seed(seed)`, without touching the global generators.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.rng = random.Random(seed)
        self.np_rng = np.random.RandomState(seed)

    def shuffle(self, items: list) -> None:
        """Shuffle in place; for equally long lists always the same permutation (upstream's behaviour)."""
        random.Random(self.seed).shuffle(items)

    def sentence_positions(self, total: int, count: int) -> list[int]:
        """Where to insert `count` needles among `total` sentences, ascending."""
        return sorted(int(total * (depth / 100)) for depth in self.rng.sample(_DEPTHS, count))

    def line_positions(self, total: int, count: int) -> list[int]:
        """Before which of `total` lines to insert `count` others: distinct, ascending."""
        if count > total:
            raise CannotBuild(f"{count} lines to insert among {total}")
        return sorted(self.rng.sample(range(total), count))

    def order_documents(self, documents: list[int], gold: Sequence[int]) -> None:
        """Put documents in the order of the prompt, in place."""
        self.shuffle(documents)


class BalancedDraws(Draws):
    """Randomness of one row of the balanced variant: own stream per row, depths spread evenly over the rows.

    Row r starts at depth frac((r + 1/2) * golden ratio): any number of first rows covers the depths evenly. Several
    needles lie at equal distances from each other, wrapping around.
    """

    def __init__(self, seed: int, row: int):
        super().__init__(seed)
        self.rng = random.Random(f"ruler-balanced/{seed}/{row}")
        self.np_rng = np.random.RandomState(self.rng.getrandbits(32))
        self._phase = (row + 0.5) * _GOLDEN_RATIO % 1

    def shuffle(self, items: list) -> None:
        self.rng.shuffle(items)

    def _depths(self, count: int) -> list[float]:
        return sorted((self._phase + j / count) % 1 for j in range(count))

    def sentence_positions(self, total: int, count: int) -> list[int]:
        return [int((total + 1) * depth) for depth in self._depths(count)]

    def line_positions(self, total: int, count: int) -> list[int]:
        if count > total:
            raise CannotBuild(f"{count} lines to insert among {total}")
        return [int(total * depth) for depth in self._depths(count)]

    def order_documents(self, documents: list[int], gold: Sequence[int]) -> None:
        gold = [document for document in dict.fromkeys(gold) if document in documents]
        others = [document for document in documents if document not in set(gold)]
        self.rng.shuffle(others)
        self.rng.shuffle(gold)
        total = len(gold) + len(others)
        slots = dict(zip((int(total * depth) for depth in self._depths(len(gold))), gold, strict=True)) if gold else {}
        rest = iter(others)
        documents[:] = [slots[i] if i in slots else next(rest) for i in range(total)]
