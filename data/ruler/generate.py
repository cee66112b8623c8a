"""Rows of a task: from a recipe and a token counter to dictionaries in NVIDIA's layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.ruler.niah import Niah
from data.ruler.qa import Qa
from data.ruler.sizing import Budget, Fitted, Generator, balanced_rows, faithful_rows
from data.ruler.sources import Prose, SourceError, Sources, builtin_prose, prose_from_file, read_qa
from data.ruler.tasks import NIAH, QA, TASKS, VARIABLE_TRACKING
from data.ruler.templates import ModelTemplate
from data.ruler.variable_tracking import VariableTracking
from data.ruler.word_extraction import CommonWords, FrequentWords
from data.ruler.wording import Wording

VARIANTS = ("ruler", "balanced")
HAYSTACKS = ("essay", "builtin")


@dataclass(frozen=True)
class Recipe:
    """All that determines a task's rows, but for the tokenizer and the contents of the source files."""

    task: str
    seq_len: int
    tokens_to_generate: int
    template: ModelTemplate
    seed: int = 42
    variant: str = "ruler"
    """"ruler": NVIDIA's samples; "balanced": full budget, even depths."""
    haystack: str = "essay"
    """"essay" (Paul Graham), "builtin" (generated prose) or the path of a text; for tasks with prose."""
    sources: Sources = Sources()


def generate_rows(recipe: Recipe, count: Callable[[str], int], num_rows: int) -> Iterator[dict]:
    """The first `num_rows` rows: dictionaries with index, input, outputs, length, ... in NVIDIA's order of keys.

    `count` gives a text's tokens without any that the tokenizer adds. Row r is the same whatever `num_rows` is.
    Raises BudgetError if a row does not fit, SourceError if a text is missing or has too few questions.
    """
    generator = make_generator(recipe, num_rows)
    budget = Budget(recipe.seq_len, recipe.tokens_to_generate, count)
    rows = {"ruler": faithful_rows, "balanced": balanced_rows}[recipe.variant](generator, recipe.seed, budget)
    is_niah = TASKS[recipe.task].family is NIAH
    for index, fitted in enumerate(itertools.islice(rows, num_rows)):
        yield _row(index, fitted, count if is_niah else None)


def fetch_sources(recipe: Recipe) -> None:
    """Find or download the texts of a recipe, so that processes started later need not. Raises SourceError."""
    task = TASKS[recipe.task]
    if task.uses_essays:
        _prose(recipe)
    elif task.family is QA:
        recipe.sources.get(task.args["dataset"])


def _prose(recipe: Recipe) -> Prose:
    if recipe.haystack == "builtin":
        return builtin_prose()
    return prose_from_file(str(recipe.sources.get("essays")) if recipe.haystack == "essay" else recipe.haystack)


def make_generator(recipe: Recipe, num_rows: int) -> Generator:
    """What builds a recipe's samples. Raises SourceError if its texts are missing or have too few questions."""
    task = TASKS[recipe.task]
    wording = Wording.of(task.family, recipe.template)
    if task.family is NIAH:
        return Niah(task, wording, recipe.seq_len, _prose(recipe) if task.uses_essays else None)
    if task.family is VARIABLE_TRACKING:
        return VariableTracking(task, wording, recipe.seq_len)
    if task.name == "cwe":
        return CommonWords(task, wording, recipe.seq_len, recipe.seed, recipe.sources)
    if task.name == "fwe":
        return FrequentWords(task, wording, recipe.seq_len, recipe.tokens_to_generate)
    dataset = task.args["dataset"]
    path = recipe.sources.get(dataset)
    data = read_qa(dataset, str(path))
    if num_rows > len(data.questions):
        raise SourceError(f"{task.name}: {num_rows} samples wanted, but {path} has {len(data.questions)} questions")
    return Qa(task, wording, data)


def _row(index: int, fitted: Fitted, count: Callable[[str], int] | None) -> dict:
    prompt = fitted.prompt
    text = prompt.text[: len(prompt.text) - len(prompt.answer_prefix)]
    row = {
        "index": index,
        "input": text,
        "outputs": prompt.outputs,
        "length": fitted.length,
        "length_w_model_temp": fitted.length,
        "answer_prefix": prompt.answer_prefix,
    }
    if count:
        row["token_position_answer"] = count(text[: text.find(prompt.outputs[0])])
    return row
