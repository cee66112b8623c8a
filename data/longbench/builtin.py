"""Generated rows in LongBench's format, for runs without a download: needles in the project's own prose.

They exercise the whole path (prompts, templates, stops, every metric but the synthetic tasks') and say nothing about
LongBench. The questions are RULER's, since the built-in model pair knows no others.
"""

from __future__ import annotations

import re
from random import Random

from data.builtin.prose import essay
from data.longbench.tasks import Task
from data.ruler.tasks import NEEDLE, NIAH
from data.ruler.wording import Wording

VERSION = 1
TASKS = ("qasper", "hotpotqa", "trec", "triviaqa", "samsum", "repobench-p")
ROWS = 20
_KEYS = ("quiet-harbor", "golden-window", "patient-miller", "early-train", "narrow-bridge", "silver-lamp")
_WORDS = (600, 1200)
_NEEDLES = 4


def rows(task: Task) -> list[dict]:
    """The `ROWS` rows of one of `TASKS`, always the same."""
    draw = Random(f"{VERSION} {task.name}")
    values = [str(1_000_000 + int(draw.random() * 9_000_000)) for _ in _KEYS]
    prose = re.split(r"(?<=[.!?]) ", essay(2 * ROWS * _WORDS[1], seed=0))
    return [_row(task, draw, values, prose) for _ in range(ROWS)]


def _row(task: Task, draw: Random, values: list[str], prose: list[str]) -> dict:
    length = _WORDS[0] + int(draw.random() * (_WORDS[1] - _WORDS[0]))
    at = int(draw.random() * len(prose) / 2)
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < length:
        sentences.append(prose[at + len(sentences)])
    # a key's value differs from row to row; the values themselves are trec's classes
    keys = sorted(_KEYS, key=lambda _: draw.random())[:_NEEDLES]
    found = dict(zip(keys, sorted(values, key=lambda _: draw.random()), strict=False))
    for key, value in found.items():
        needle = NEEDLE.format(type_needle_v="numbers", key=key, value=value)
        sentences.insert(int(draw.random() * len(sentences)), needle)
    asked = keys[0]
    context, answer = " ".join(sentences), found[asked]
    question, prefix = _question(asked)
    if not task.chat:  # the model goes on from here
        question += prefix
    if task.metric == "code":
        answer = f" {answer}."
    return {
        "input": question,
        "context": context,
        "answers": [answer],
        "length": len(context.split()),
        "dataset": task.name,
        "language": "en",
        "all_classes": values if task.metric == "classification" else None,
        "_id": None,
    }


def _question(key: str) -> tuple[str, str]:
    """RULER's question for one value of one key, and how its answer begins."""
    wording = Wording.of(NIAH).singular()
    texts = (wording.body.rpartition("\n")[2], wording.answer_prefix)
    question, prefix = (text.format(type_needle_v="number", query=key) for text in texts)
    return question, prefix
