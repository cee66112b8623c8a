"""RULER as a `data.benchmark.Benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.benchmark import PROTOCOLS, Sample
from data.chat import needs_special_tokens
from data.checks import check_choice, check_keys, check_whole
from data.ruler.files import GENERATOR_VERSION, DataFileError, ensure_rows, read_rows
from data.ruler.generate import HAYSTACKS, VARIANTS, Recipe
from data.ruler.scoring import RulerScoring
from data.ruler.sources import Sources
from data.ruler.tasks import TASKS
from data.ruler.templates import TEMPLATES, resolve_template

DEFAULTS = {
    "num_samples": 500,
    "seed": 42,
    "variant": "ruler",
    "haystack": "essay",
    "model_template": None,
    "answer_prefix": True,
    "data_dir": None,
    "essays": None,
    "squad": None,
    "hotpotqa": None,
    "english_words": None,
}
_REQUIRED = ("dataset_name", "task", "seq_len")
_PATHS = ("essays", "squad", "hotpotqa", "english_words")


class RulerBenchmark(RulerScoring):
    """Samples of one RULER task at one length, made on demand for the tokenizer of the model at hand.

    Keys of `dataset:`: task, seq_len; optional num_samples, seed, variant (ruler | balanced), haystack (essay | builtin
    | path of a text), model_template (a name of `data.ruler.templates.TEMPLATES`), answer_prefix, data_dir, and the
    paths essays, squad, hotpotqa, english_words.
    """

    name = "ruler"
    length_option = "lower dataset.seq_len"

    def validate(self, dataset: dict, protocol: str) -> None:
        """Refuse a `dataset:` section that cannot work, with a ValueError that names the key."""
        check_keys(dataset, (*_REQUIRED, *DEFAULTS))
        for key in ("task", "seq_len"):
            if key not in dataset:
                raise ValueError(f"dataset.{key}: missing")
        check_choice("protocol", protocol, PROTOCOLS)
        check_choice("dataset.task", dataset["task"], TASKS)
        check_whole("dataset.seq_len", dataset["seq_len"], least=1)
        values = {**DEFAULTS, **dataset}
        check_whole("dataset.num_samples", values["num_samples"], least=1)
        check_whole("dataset.seed", values["seed"], least=0)
        check_choice("dataset.variant", values["variant"], VARIANTS)
        if not isinstance(values["answer_prefix"], bool):
            raise ValueError(f"dataset.answer_prefix: {values['answer_prefix']!r} is not true or false")
        if values["model_template"] is not None:
            check_choice("dataset.model_template", values["model_template"], TEMPLATES)
        haystack = values["haystack"]
        if haystack not in HAYSTACKS and not (isinstance(haystack, str) and Path(haystack).is_file()):
            raise ValueError(f"dataset.haystack: {haystack!r} is none of {', '.join(HAYSTACKS)}, nor a file")
        for key in _PATHS:
            if values[key] is not None and not Path(str(values[key])).is_file():
                raise ValueError(f"dataset.{key}: no file {values[key]!r}")

    def identity(self, dataset: dict, protocol: str) -> dict:
        """What determines the samples, given a tokenizer. Where the files are kept does not matter."""
        values = {**DEFAULTS, **dataset}
        task = TASKS[values["task"]]
        irrelevant = {"data_dir", "dataset_name", *_PATHS}
        if not task.uses_essays:
            irrelevant.add("haystack")
        identity = {key: values[key] for key in sorted(values) if key not in irrelevant}
        used = {"english_words"} if task.name == "cwe" else {task.args.get("dataset")}
        if task.uses_essays and values["haystack"] == "essay":
            used = {"essays"}
        identity |= {key: str(values[key]) for key in _PATHS if key in used and values[key] is not None}
        identity["generator_version"] = GENERATOR_VERSION
        return {"benchmark": self.name, **identity, "tokens_to_generate": task.family.tokens_to_generate[protocol]}

    def full_size(self, dataset: dict) -> int:
        """RULER's own number of samples a task."""
        return DEFAULTS["num_samples"]

    def short_names(self) -> dict[str, str]:
        """The 13 tasks, in RULER's order."""
        return {task.name: task.short for task in TASKS.values()}

    def averages(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """RULER's score is the mean over its 13 tasks; over fewer, the title says so."""
        whole = set(tasks) == set(TASKS)
        return {"average" if whole else f"mean of {len(tasks)}": tuple(tasks)}

    def recipe(self, dataset: dict, tokenizer, protocol: str) -> Recipe:
        """How the samples of a `dataset:` section are made for a tokenizer. Raises ValueError as `validate` does."""
        self.validate(dataset, protocol)
        values = {**DEFAULTS, **dataset}
        return Recipe(
            task=values["task"],
            seq_len=values["seq_len"],
            tokens_to_generate=TASKS[values["task"]].family.tokens_to_generate[protocol],
            template=resolve_template(tokenizer, values["model_template"]),
            seed=values["seed"],
            variant=values["variant"],
            haystack=str(values["haystack"]),
            sources=Sources(**{key: values[key] and str(values[key]) for key in _PATHS}),
        )

    def load(
        self, dataset: dict, tokenizer, protocol: str, limit: int | None = None, positions: int | None = None
    ) -> list[Sample]:
        """The first `limit` (default: num_samples) samples; rows that are missing are made and kept.

        Raises ValueError for a bad `dataset`, BudgetError (a ValueError) if seq_len is too short for the task,
        SourceError if a text is missing, DataFileError if the file there is another's.
        """
        recipe = self.recipe(dataset, tokenizer, protocol)
        values = {**DEFAULTS, **dataset}
        wanted = values["num_samples"] if limit is None else min(limit, values["num_samples"])
        path, _ = ensure_rows(recipe, tokenizer, wanted, values["data_dir"])
        adds = needs_special_tokens(tokenizer, recipe.template.before)
        samples = []
        for row in read_rows(path, wanted):
            try:
                samples.append(_sample(row, recipe, protocol, values["answer_prefix"], adds))
            except KeyError as error:
                raise DataFileError(f"{path}: a row has no {error}; delete the file to make it anew") from error
        return samples


def _sample(row: dict, recipe: Recipe, protocol: str, with_prefix: bool, adds_special_tokens: bool) -> Sample:
    meta = {"task": recipe.task, "seq_len": recipe.seq_len, "length": row["length"]}
    if "token_position_answer" in row:
        meta["token_position_answer"] = row["token_position_answer"]
    return Sample(
        index=row["index"],
        prompt=row["input"] + (row["answer_prefix"] if with_prefix else ""),
        references=tuple(row["outputs"]),
        max_new_tokens=recipe.tokens_to_generate,
        add_special_tokens=adds_special_tokens,
        meta=meta,
        clean_up_tokenization_spaces=True if protocol == "paper" else None,  # as the reference implementation decodes
    )
