"""vt: which variables hold a value, through a chain of assignments hidden among noise lines."""

from __future__ import annotations

import string

from data.ruler.draws import CannotBuild, Draws
from data.ruler.sizing import Budget, Generator, Prompt
from data.ruler.tasks import NOISE, VARIABLE_TRACKING, Task
from data.ruler.wording import Wording

_HOPS = 4
_EXAMPLE_VALUE = "12345"
_EXAMPLE_TOKENS = 500


class _Chains(Generator):
    """Samples without an example before them. A unit is a noise line."""

    minimum = _HOPS + 1
    name_length = 5

    def __init__(self, name: str, wording: Wording, step: int):
        self.name, self.wording, self.step = name, wording, step

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        return self.chain_prompt(size, draws)

    def chain_prompt(self, size: int, draws: Draws, example: str | None = None) -> Prompt:
        """A sample of `size` noise lines. `example`, if any, is renamed and put before the task's text."""
        names, value = self._draw_chain(draws)
        lines = [NOISE] * size
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {new} = VAR {old} " for old, new in zip(names, names[1:], strict=False)]
        for inserted, position in enumerate(draws.line_positions(size, len(chain))):
            lines.insert(position + inserted, chain[inserted])
        before = _rename(example, draws) + "\n" if example else ""
        values = {"context": "\n".join(lines), "query": value, "num_v": _HOPS + 1}
        return self.wording.prompt(names, before_body=before, **values)

    def draw_value(self, draws: Draws) -> str:
        return str(draws.np_rng.randint(10000, 99999))

    def _draw_chain(self, draws: Draws) -> tuple[list[str], str]:
        names = [_letters(self.name_length, draws) for _ in range(_HOPS + 1)]
        repeated = len(set(names)) <= _HOPS
        while len(set(names)) <= _HOPS:
            names.append(_letters(self.name_length, draws))
        value = self.draw_value(draws)
        if repeated:
            self.draw_value(draws)  # upstream begins a second chain with the spare names, and fails on it
            raise CannotBuild("two variables of one name")
        return names, value


class _Example(_Chains):
    """The solved example that stands before every sample, without a chat template."""

    name_length = 3

    def __init__(self):
        super().__init__("vt's example", Wording.of(VARIABLE_TRACKING), step=5)

    def draw_value(self, draws: Draws) -> str:
        return _EXAMPLE_VALUE


class VariableTracking(_Chains):
    """vt itself: a renamed copy of one example, then the sample."""

    def __init__(self, task: Task, wording: Wording, seq_len: int):
        super().__init__(task.name, wording, step=5 if seq_len < 4096 else 10)
        self.example = ""

    def prepare(self, draws: Draws, budget: Budget) -> None:
        generator = _Example()
        own_budget = Budget(_EXAMPLE_TOKENS, 0, budget.count)
        prompt = generator.fit_row(0, generator.find_size(draws, own_budget), draws, own_budget).prompt
        self.example = prompt.text + " " + " ".join(prompt.outputs) + "\n"
        self.overhead = budget.count(self.example)

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        return self.chain_prompt(size, draws, self.example)

    def build_for_sizing(self, size: int, draws: Draws) -> Prompt:
        return self.chain_prompt(size, draws)


def _letters(count: int, draws: Draws) -> str:
    return "".join(draws.rng.choices(string.ascii_uppercase, k=count))


def _rename(example: str, draws: Draws) -> str:
    """The example with other variable names and another value, replaced as plain strings."""
    for name in example.split()[-_HOPS - 1 :]:
        example = example.replace(name, _letters(len(name), draws))
    return example.replace(_EXAMPLE_VALUE, str(draws.np_rng.randint(10000, 99999)))
