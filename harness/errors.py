"""Errors that a user can act on: shown as a message, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class UserError(Exception):
    """Something the user can fix. Its text says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input."""

    where: str
    """A file, or `--set`, `--cfg`."""
    key: str
    text: str
    """What is wrong and how to mend it."""


class ProblemsError(UserError):
    """Everything that is wrong with a sweep, told at once."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = list(problems)
        super().__init__(format_problems(self.problems))


def format_problems(problems: Iterable[Problem], shown: int = 3) -> str:
    """One line a problem, `where: key: text`; the same problem in many files is one line that counts them."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        where = places.setdefault((problem.key, problem.text), [])
        if problem.where not in where:
            where.append(problem.where)
    lines = []
    for (key, text), where in places.items():
        more = f" and {len(where) - shown} more" if len(where) > shown else ""
        lines.append(f"{', '.join(where[:shown])}{more}: " + (f"{key}: " if key else "") + text)
    return "\n".join(lines)


def nearest(name: object, valid: Iterable[str]) -> str:
    """The valid name closest to a mistyped one."""
    return difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.0)[0]
