"""How large a sample may be: RULER's search for a size, its shrinking, and what replaces its endless retry.

A generator builds a sample of `size` units (words, lines, documents). `find_size` and `fit_row` follow upstream draw
for draw wherever upstream ends; where it would retry for ever, the size goes down one unit at a time to the task's
minimum, and then a `BudgetError` says what the smallest sample needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.ruler.draws import BalancedDraws, CannotBuild, Draws

# Upstream redraws at its smallest size until a sample fits. One that did not in so many redraws is taken for one that
# never will; after a few, so is one that is too long by several times what redraws differ by.
_REDRAWS = 100
_FEW_REDRAWS = 8
_HOPELESS = 3


class BudgetError(ValueError):
    """The task has no sample as short as asked."""


@dataclass(frozen=True)
class Prompt:
    """A built sample: the whole text including the answer prefix."""

    text: str
    answer_prefix: str
    outputs: list[str]


@dataclass(frozen=True)
class Budget:
    """At most `seq_len` tokens for prompt (without a BOS that the tokenizer adds) and answer together."""

    seq_len: int
    tokens_to_generate: int
    count: Callable[[str], int]
    """Tokens of a text."""

    def length(self, prompt: Prompt) -> int:
        return self.count(prompt.text) + self.tokens_to_generate


@dataclass(frozen=True)
class Fitted:
    """A sample and its length in tokens, answer included."""

    prompt: Prompt
    length: int
    size: int


class Generator:
    """Base of the task generators: upstream's sizing over a `build` that subclasses provide."""

    name = "task"
    step = 10
    """By how many units upstream shrinks; also its smallest size."""
    minimum = 1
    """The smallest size at which the task makes sense."""
    overhead = 0
    """Tokens that samples have beyond what `build_for_sizing` shows."""

    def prepare(self, draws: Draws, budget: Budget) -> None:
        """Draw what all samples of the task share; called once, first."""

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        """A sample of `size` units for row `row`. Raises CannotBuild if there is none of that size."""
        raise NotImplementedError

    def build_for_sizing(self, size: int, draws: Draws) -> Prompt:
        """What upstream measures in its search."""
        return self.build(size, 0, draws)

    def search_bounds(self, draws: Draws, budget: Budget) -> tuple[int, int]:
        """Lowest and highest size of the search, from one probe of `step` units."""
        per_unit = budget.count(self._sizing_prompt(self.step, draws).text) / self.step
        return self.step, max(int(budget.seq_len / per_unit * 3), self.step * 2)

    def find_size(self, draws: Draws, budget: Budget) -> int:
        """The size that samples start from: upstream's binary search, every probe drawn anew."""
        low, high = self.search_bounds(draws, budget)
        best = self.step
        while low <= high:
            middle = (low + high) // 2
            length = budget.length(self._sizing_prompt(middle, draws)) + self.overhead
            if length <= budget.seq_len:
                best, low = middle, middle + 1
            else:
                high = middle - 1
        return best

    def fit_row(self, row: int, size: int, draws: Draws, budget: Budget) -> Fitted:
        """A sample within the budget, from `size` downwards. Raises BudgetError if even the smallest is too long."""
        used, redrawn, too_long = size, [], []
        while True:
            fitted = self.try_build(row, used, draws, budget)
            if fitted and fitted.length <= budget.seq_len:
                return fitted
            if fitted:
                too_long.append(fitted)
            if used > self.step:
                used -= self.step
            elif fitted and not _gives_up(redrawn, budget):
                redrawn.append(fitted.length)
            else:
                break  # from here upstream repeats the same for ever
        used = too_long[-1].size if too_long else size
        while used > self.minimum:
            # By one unit, but far from the budget by half of what overflow x size / length calls too many (fewer than
            # there are, as part of the length is fixed): a long way is a few steps, and the last ones are single.
            excess = (too_long[-1].length - budget.seq_len) * used // too_long[-1].length if too_long else 0
            used = max(self.minimum, used - max(1, excess // 2))
            fitted = self.try_build(row, used, draws, budget)
            if fitted and fitted.length <= budget.seq_len:
                return fitted
            if fitted:
                too_long.append(fitted)
        raise self.too_long(row, budget, min((f.length for f in too_long), default=None))

    def too_long(self, row: int, budget: Budget, shortest: int | None) -> BudgetError:
        """The error for a row whose shortest sample has `shortest` tokens (None: none could be built)."""
        need = "cannot be built" if shortest is None else f"has {shortest} tokens"
        return BudgetError(
            f"{self.name}: row {row} does not fit into seq_len {budget.seq_len}: its smallest sample {need} "
            f"({budget.tokens_to_generate} of them for the answer). Use a longer seq_len, or leave this task out"
        )

    def try_build(self, row: int, size: int, draws: Draws, budget: Budget) -> Fitted | None:
        """The sample of this size, whether it fits or not; None if it cannot be built."""
        try:
            prompt = self.build(size, row, draws)
        except CannotBuild:
            return None
        return Fitted(prompt, budget.length(prompt), size)

    def _sizing_prompt(self, size: int, draws: Draws) -> Prompt:
        # upstream does not survive a probe that cannot be built (two equal variable names in vt): draw again
        for _ in range(_REDRAWS):
            try:
                return self.build_for_sizing(size, draws)
            except CannotBuild as error:
                reason = error
        raise BudgetError(f"{self.name}: no sample of {size} units can be built ({reason})")


def _gives_up(lengths: list[int], budget: Budget) -> bool:
    """Whether samples of these lengths, redrawn at one size, say that none of that size will fit."""
    if len(lengths) < _FEW_REDRAWS:
        return False
    overflow, spread = min(lengths) - budget.seq_len, max(lengths) - min(lengths)
    return len(lengths) >= _REDRAWS or overflow > _HOPELESS * spread


def faithful_rows(generator: Generator, seed: int, budget: Budget) -> Iterator[Fitted]:
    """NVIDIA's samples, one after the other. Row r does not depend on how many rows are taken."""
    draws = Draws(seed)
    generator.prepare(draws, budget)
    size = generator.find_size(draws, budget)
    row = 0
    while True:
        yield generator.fit_row(row, size, draws, budget)
        row += 1


def balanced_rows(generator: Generator, seed: int, budget: Budget) -> Iterator[Fitted]:
    """Samples that fill the budget to the unit, with evenly spread depths (`BalancedDraws`)."""
    draws = Draws(seed)
    generator.prepare(draws, budget)
    size = generator.find_size(draws, budget)
    row = 0
    while True:  # every search starts from the same size: rows do not depend on each other
        yield _largest(generator, row, size, seed, budget)
        row += 1


def _largest(generator: Generator, row: int, start: int, seed: int, budget: Budget) -> Fitted:
    """The largest sample of a row that fits, searched outwards from `start`; the same draws at every size."""
    shortest = None

    def attempt(size: int) -> Fitted | None:
        nonlocal shortest
        fitted = generator.try_build(row, size, BalancedDraws(seed, row), budget)
        if fitted is None:
            return None
        shortest = fitted.length if shortest is None else min(shortest, fitted.length)
        return fitted if fitted.length <= budget.seq_len else None

    best, stride, too_large = None, 1, None
    size = max(start, generator.minimum)
    while True:  # bracket: one size that fits and one that does not
        fitted = attempt(size)
        if fitted:
            best = fitted
            if too_large is not None:
                break
            size += stride
        else:
            too_large = size
            if best:
                break
            if size == generator.minimum:
                raise generator.too_long(row, budget, shortest)
            size = max(generator.minimum, size - stride)
        stride *= 2
    while too_large - best.size > 1:
        middle = (best.size + too_large) // 2
        fitted = attempt(middle)
        if fitted:
            best = fitted
        else:
            too_large = middle
    return best
