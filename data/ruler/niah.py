"""The eight needle-in-a-haystack tasks."""

from __future__ import annotations

import uuid

from data.ruler.draws import Draws
from data.ruler.sizing import Generator, Prompt
from data.ruler.sources import Prose, key_words
from data.ruler.tasks import NEEDLE, NOISE, Task
from data.ruler.wording import Wording


class Niah(Generator):
    """Needles ("One of the special magic numbers for KEY is: VALUE.") among essay sentences, noise lines or needles.

    A unit is a word of the essay, or a line.
    """

    def __init__(self, task: Task, wording: Wording, seq_len: int, prose: Prose | None):
        self.name = task.name
        self.haystack, self.key_type, self.value_type, self.keys, self.values, self.queries = (
            task.args[k] for k in ("haystack", "key_type", "value_type", "keys", "values", "queries")
        )
        self.prose = prose
        if self.haystack == "essay":
            self.step, self.minimum = 500, 1
        else:
            self.step, self.minimum = (5 if seq_len < 4096 else 25), self.keys * self.values
        one = self.queries * self.values == 1
        self.wording = wording.singular() if one else wording
        self.asked_type = self.value_type[:-1] if one else self.value_type

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        keys, values, needles = [], [], []
        for _ in range(self.keys):
            keys.append(_random_item(self.key_type, draws))
            values.append([])
            for _ in range(self.values):
                values[-1].append(_random_item(self.value_type, draws))
                needles.append(self._needle(keys[-1], values[-1][-1]))
        draws.shuffle(needles)
        context = self._among_sentences(needles, size, draws) if self.prose else self._among_lines(needles, size, draws)

        asked = draws.rng.sample(range(self.keys), self.queries)
        names = [keys[i] for i in asked]
        query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
        outputs = [value for i in asked for value in values[i]]
        return self.wording.prompt(outputs, type_needle_v=self.asked_type, context=context, query=query)

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(type_needle_v=self.value_type, key=key, value=value)

    def _among_sentences(self, needles: list[str], size: int, draws: Draws) -> str:
        sentences = self.prose.sentences(size)
        positions = draws.sentence_positions(len(sentences), len(needles))
        parts, last = [], 0
        for position, needle in zip(positions, needles, strict=True):
            parts += [" ".join(sentences[last:position]), needle]
            last = position
        return " ".join([*parts, " ".join(sentences[last:])])

    def _among_lines(self, needles: list[str], size: int, draws: Draws) -> str:
        if self.haystack == "noise":
            lines = [NOISE] * size
        else:
            lines = [
                self._needle(_random_item(self.key_type, draws), _random_item(self.value_type, draws))
                for _ in range(size)
            ]
        positions = draws.line_positions(size, len(needles))
        for position, needle in zip(reversed(positions), needles, strict=True):
            lines.insert(position, needle)
        return "\n".join(lines)


def _random_item(kind: str, draws: Draws) -> str:
    if kind == "numbers":
        return str(draws.rng.randint(10**6, 10**7 - 1))
    if kind == "words":
        return draws.rng.choice(key_words())
    return str(uuid.UUID(int=draws.rng.getrandbits(128), version=4))
