"""cwe and fwe: the most common words of a list, and of a coded text."""

from __future__ import annotations

import math
import string

import numpy as np

from data.ruler.draws import Draws
from data.ruler.sizing import Budget, Fitted, Generator, Prompt
from data.ruler.sources import Sources, english_words, list_words
from data.ruler.tasks import Task
from data.ruler.wording import Wording

_COMMON = 10
_PROBE_WORDS = 4096


class CommonWords(Generator):
    """cwe: ten words that appear more often than others, after a solved example. A unit is a distinct word."""

    step = 10
    minimum = _COMMON

    def __init__(self, task: Task, wording: Wording, seq_len: int, seed: int, sources: Sources):
        self.name, self.wording, self.sources = task.name, wording, sources
        self.words = list_words()
        Draws(seed).shuffle(self.words)
        # words and repetitions (common, others) of the example, repetitions of the sample
        self.example_words, self.example_repeats, self.repeats = (
            (20, (3, 1), (6, 1)) if seq_len < 4096 else (40, (10, 3), (30, 3))
        )

    def search_bounds(self, draws: Draws, budget: Budget) -> tuple[int, int]:
        per_word = budget.count(self.build(_PROBE_WORDS, 0, draws).text) / _PROBE_WORDS
        return self.step, max(int(budget.seq_len // per_word) * 2, self.step * 2)

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        example, example_answer = self._word_list(self.example_words, self.example_repeats, draws)
        context, answer = self._word_list(size, self.repeats, draws)
        # upstream repeats the whole template, chat markers included, around the example
        solved = self.wording.prompt([], context=example).text + " " + _numbered(example_answer) + "\n"
        return self.wording.prompt(answer, before_all=solved, context=context)

    def _word_list(self, count: int, repeats: tuple[int, int], draws: Draws) -> tuple[str, list[str]]:
        words = self.words if count <= len(self.words) else english_words(self.sources, count)
        chosen = draws.rng.sample(words, count)
        common, others = chosen[:_COMMON], chosen[_COMMON:]
        listed = common * repeats[0] + others * repeats[1]
        draws.shuffle(listed)
        return _numbered(listed), common


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i + 1}. {word}" for i, word in enumerate(words))


class FrequentWords(Generator):
    """fwe: coded words whose frequencies fall with the square of their rank; the first rank is shown as dots.

    A unit is a word of the text (before rounding). Upstream keeps a row's vocabulary while it shrinks, and finds the
    first size by growing, so this generator has its own sizing.
    """

    word_length = 6
    minimum = 27  # fewer words and the third answer does not appear

    def __init__(self, task: Task, wording: Wording, seq_len: int, tokens_to_generate: int):
        self.name, self.wording = task.name, wording
        self.text_tokens = seq_len - tokens_to_generate
        self.vocabulary_size = self.text_tokens // 50
        self.step = self.text_tokens // 32
        if self.vocabulary_size < 4 or self.step < 1:
            raise self.too_long(0, Budget(seq_len, tokens_to_generate, len), None)

    def find_size(self, draws: Draws, budget: Budget) -> int:
        vocabulary = self._draw_vocabulary(draws)
        size = self.text_tokens // self.word_length
        while budget.count(self._prompt(size, vocabulary, draws).text) < self.text_tokens:
            size += self.step
        return size - self.step

    def fit_row(self, row: int, size: int, draws: Draws, budget: Budget) -> Fitted:
        vocabulary, length = self._draw_vocabulary(draws), None
        coarse = list(range(size, self.minimum - 1, -self.step)) or [self.minimum]
        for used in (*coarse, *range(coarse[-1] - 1, self.minimum - 1, -1)):
            prompt = self._prompt(used, vocabulary, draws)
            length = budget.length(prompt)
            if length <= budget.seq_len:
                return Fitted(prompt, length, used)
        raise self.too_long(row, budget, length)

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        return self._prompt(size, self._draw_vocabulary(draws), draws)

    def _draw_vocabulary(self, draws: Draws) -> list[str]:
        def draw() -> str:
            return "".join(draws.rng.choices(string.ascii_lowercase, k=self.word_length))

        words = [draw() for _ in range(self.vocabulary_size)]
        while len(set(words)) < self.vocabulary_size:
            words.append(draw())
        words = sorted(set(words))
        draws.shuffle(words)
        return ["...", *words[1:]]

    def _prompt(self, size: int, vocabulary: list[str], draws: Draws) -> Prompt:
        ranks = np.arange(1, len(vocabulary) + 1)
        counts = (size * ranks**-2.0 / (math.pi**2 / 6)).astype(int)  # pi^2 / 6 = zeta(2)
        words = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
        draws.shuffle(words)
        return self.wording.prompt(vocabulary[1:4], context=" ".join(words))
