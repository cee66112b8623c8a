"""LongBench as a `data.benchmark.Benchmark`: the published prompts, rendered for the model at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from data.benchmark import Sample
from data.chat import model_name, needs_special_tokens, render_chat
from data.checks import check_choice, check_keys, check_whole
from data.longbench import builtin
from data.longbench.files import HUB_REPOSITORY, DataError, check_files, digest, read_rows
from data.longbench.scoring import LongBenchScoring
from data.longbench.tasks import E_TASKS, PAPER_TASKS, TASKS, Task, parse_task
from data.paper import SYSTEM_PROMPTS

DEFAULTS = {
    "num_samples": None,
    "shuffle_seed": None,
    "over_length": None,
    "max_length": None,
    "chat_template": None,
    "system_prompt": None,
    "data_files": None,
}
OVER_LENGTH = ("error", "truncate", "allow")
BUILTIN = "builtin"
# the order in which the reference implementation takes its first num_samples rows
_PAPER_SHUFFLE = 42


class LongBenchBenchmark(LongBenchScoring):
    """The 16 English tasks, and the 13 of LongBench-E as `<task>_e`.

    Keys of `dataset:`: task; optional
    - num_samples: how many rows (null: all). shuffle_seed: draw them in the order of `datasets`' shuffle with this
      seed (null: in file order; under `paper`, where num_samples is given, 42, as the reference implementation does).
    - over_length: what becomes of a prompt that is too long. truncate: cut its middle out, to max_length tokens; error;
      allow: run it beyond the model's positions. null: `truncate` under `official`, `error` under `paper`.
    - max_length: tokens before the chat template; null: what LongBench's table gives a model of that many positions.
    - chat_template: true, false, or null for the protocol's rule. system_prompt: a text, "" for none, or null for the
      protocol's.
    - data_files: a .jsonl file, a folder of them or LongBench's data.zip; `builtin` for generated rows that need no
      download; null: the hub's archive.
    """

    name = "longbench"
    length_option = "set dataset.over_length to truncate (or lower dataset.max_length), or to allow"

    def validate(self, dataset: dict, protocol: str) -> None:
        """Refuse a `dataset:` section that cannot work, with a ValueError that names the key."""
        check_keys(dataset, ("dataset_name", "task", *DEFAULTS))
        if "task" not in dataset:
            raise ValueError("dataset.task: missing")
        check_choice("dataset.task", dataset["task"], self.short_names())
        values = {**DEFAULTS, **dataset}
        for key, least in (("num_samples", 1), ("shuffle_seed", 0), ("max_length", 2)):
            check_whole(f"dataset.{key}", values[key], least, optional=True)
        if values["over_length"] not in (None, *OVER_LENGTH):
            raise ValueError(f"dataset.over_length: {values['over_length']!r} is not one of {', '.join(OVER_LENGTH)}")
        if values["max_length"] is not None and _over_length(values, protocol) != "truncate":
            raise ValueError("dataset.max_length: has no effect unless dataset.over_length is truncate")
        if values["chat_template"] not in (None, True, False):
            raise ValueError(f"dataset.chat_template: {values['chat_template']!r} is not true, false or null")
        if values["system_prompt"] and values["chat_template"] is False:
            raise ValueError("dataset.system_prompt: has no effect while dataset.chat_template is false")
        for key in ("system_prompt", "data_files"):
            if values[key] is not None and not isinstance(values[key], str):
                raise ValueError(f"dataset.{key}: {values[key]!r} is not a text")
        if values["data_files"] == BUILTIN:
            if dataset["task"] not in builtin.TASKS:
                text = f"there are no generated rows of {dataset['task']}, only of {', '.join(builtin.TASKS)}"
                raise ValueError(f"dataset.data_files: {text}")
        elif values["data_files"] is not None:
            check_files(values["data_files"], dataset["task"])

    def identity(self, dataset: dict, protocol: str) -> dict:
        """What determines the samples, given a tokenizer and the model's positions. Local files count by content."""
        values = {**DEFAULTS, **dataset}
        source = values["data_files"] or f"hub {HUB_REPOSITORY}"
        if values["data_files"] == BUILTIN:
            source = f"{BUILTIN} {builtin.VERSION}"
        elif values["data_files"] is not None:
            source = digest(values["data_files"], values["task"])
        identity = {"benchmark": self.name, "protocol": protocol, "task": values["task"], "data": source}
        identity |= {key: values[key] for key in ("max_length", "chat_template", "system_prompt")}
        identity |= {"over_length": _over_length(values, protocol), "shuffle_seed": _shuffle_seed(values, protocol)}
        return identity | ({} if values["num_samples"] is None else {"num_samples": values["num_samples"]})

    def full_size(self, dataset: dict) -> int:
        """Rows of the published test set, or of the generated ones."""
        if dataset.get("data_files") == BUILTIN:
            return builtin.ROWS
        task, is_e = parse_task(dataset["task"])
        return task.rows_e if is_e else task.rows

    def short_names(self) -> dict[str, str]:
        """The tasks in the order of the paper's tables, LongBench-E's after them."""
        short = {name: task.short for name, task in TASKS.items()}
        return short | {f"{name}_e": f"{short[name]}_e" for name in E_TASKS}

    def averages(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The categories that are complete, and the paper's All: the mean over its 14 tasks. Over fewer, the title says
        so. The two synthetic tasks, which the paper leaves out, count in no average beside theirs.
        """
        averages: dict[str, tuple[str, ...]] = {}
        for category in dict.fromkeys(task.category for task in TASKS.values()):
            members = tuple(name for name, task in TASKS.items() if task.category == category)
            if set(members) <= set(tasks):
                averages[category] = members
        counted = tuple(name for name in tasks if name in PAPER_TASKS)
        if len(counted) == len(PAPER_TASKS):
            averages["All"] = counted
        elif counted:
            averages[f"mean of {len(counted)}"] = counted
        lengths = tuple(name for name in tasks if name not in TASKS)
        if lengths:
            part = "" if len(lengths) == len(E_TASKS) else f", mean of {len(lengths)}"
            averages[f"LongBench-E{part}"] = lengths
        return averages

    def load(
        self, dataset: dict, tokenizer, protocol: str, limit: int | None = None, positions: int | None = None
    ) -> list[Sample]:
        """The first `limit` (default: num_samples) samples.

        Raises ValueError for a bad `dataset` or a template that cannot be had, DataError if rows are missing or broken.
        """
        self.validate(dataset, protocol)
        values = {**DEFAULTS, **dataset}
        task, _ = parse_task(values["task"])
        rows = (
            builtin.rows(task) if values["data_files"] == BUILTIN else read_rows(values["data_files"], values["task"])
        )
        order: Sequence[int] = range(len(rows))
        seed = _shuffle_seed(values, protocol)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(len(rows)).tolist()  # as datasets.Dataset.shuffle does
        counts = [count for count in (limit, values["num_samples"]) if count is not None]
        rendering = _Rendering(task, values, tokenizer, protocol, positions)
        chosen = order[: min(counts)] if counts else order
        for number in chosen:
            self._check_row(task, values, number, rows[number])
        return [rendering.sample(place, number, rows[number]) for place, number in enumerate(chosen)]

    def _check_row(self, task: Task, values: Mapping, number: int, row: Mapping) -> None:
        """Refuse a row that could be answered and then not be scored. Raises DataError."""
        where = f"{values['data_files'] or HUB_REPOSITORY}: row {number}"
        told = str(row.get("dataset", task.name)).removesuffix("_e")
        if told in TASKS and told != task.name:
            raise DataError(f"{where}: is one of {told}, not of {values['task']}. Give the task's own file")
        try:
            self.score(self.sample_of(values["task"], number, row), "")
        except ValueError as error:
            raise DataError(f"{where}: {error}. LongBench's rows of {values['task']} have it") from error


class _Rendering:
    """How one task's rows become prompts for one model."""

    def __init__(self, task: Task, values: Mapping, tokenizer, protocol: str, positions: int | None):
        self.task, self.name, self.tokenizer, self.protocol = task, values["task"], tokenizer, protocol
        self.over_length = _over_length(values, protocol)
        self.max_length = None
        if self.over_length == "truncate":
            self.max_length = values["max_length"] or published_max_length(positions)
            if positions and self.max_length > positions:
                text = f"{self.max_length} is more than the {positions} positions of the model. Lower it"
                raise ValueError(f"dataset.max_length: {text}")
        self.chat = _uses_chat(task, values["chat_template"], tokenizer, protocol)
        self.system_prompt = values["system_prompt"]
        if self.system_prompt is None and protocol == "paper":
            self.system_prompt = paper_system_prompt(tokenizer)
        self.stops: tuple[int, ...] = ()
        if task.newline_stops and protocol == "official":
            self.stops = (tokenizer.encode("\n", add_special_tokens=False)[-1],)

    def sample(self, index: int, number: int, row: Mapping) -> Sample:
        prompt = self.task.prompt.format(**row)
        cut = None if self.max_length is None else middle_cut(self.tokenizer, prompt, self.max_length)
        text = prompt if cut is None else cut
        if self.chat:
            text = render_chat(self.tokenizer, text, self.system_prompt)
        meta = {"task": self.name, "row": number, "length": row.get("length"), "all_classes": row.get("all_classes")}
        return Sample(
            index=index,
            prompt=text,
            references=tuple(row["answers"]),
            max_new_tokens=self.task.max_new_tokens,
            add_special_tokens=needs_special_tokens(self.tokenizer, text),
            stop_token_ids=self.stops,
            # as the reference implementation decodes; changes the spaces of code where the tokenizer's setting is off
            clean_up_tokenization_spaces=True if self.protocol == "paper" else None,
            may_exceed_positions=self.over_length == "allow",
            meta=meta | {"truncated": cut is not None, "chat_template": self.chat},
        )


def middle_cut(tokenizer, prompt: str, max_length: int) -> str | None:
    """A prompt of more than `max_length` tokens without its middle, None for one that fits.

    LongBench's pred.py: the tokenizer's defaults count (its BOS too), and both halves are decoded without special
    tokens. Tokenised again the text may be a few tokens longer or shorter.
    """
    ids = tokenizer(prompt, truncation=False)["input_ids"]
    if len(ids) <= max_length:
        return None
    half = max_length // 2
    head, tail = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:half], ids[-half:]))
    return head + tail


def published_max_length(positions: int | None) -> int | None:
    """LongBench's config/model2maxlen.json by rule: 4k positions 3500, 8k 7500, 16k 15500, 32k 31500, 128k 127500."""
    if positions is None:
        return None
    thousands = positions // 1024
    return 1000 * thousands - 500 if thousands > 1 else positions // 2


def paper_system_prompt(tokenizer) -> str | None:
    """The system prompt that the published runs gave the tokenizer's family; None for families they did not run."""
    name = model_name(tokenizer).lower()
    return next((prompt for family, prompt in SYSTEM_PROMPTS.items() if family in name), None)


def _uses_chat(task: Task, wanted: bool | None, tokenizer, protocol: str) -> bool:
    """Whether the prompt is wrapped. A model without a chat template is a base model: it reads the prompt as it is."""
    has_one = bool(getattr(tokenizer, "chat_template", None))
    if wanted and not has_one:
        raise ValueError(f"dataset.chat_template: the tokenizer {model_name(tokenizer)!r} has none; set it to false")
    if wanted is not None:
        return wanted
    # the reference implementation always wraps for Qwen3, which would otherwise begin to think
    always = protocol == "paper" and re.search(r"qwen-?3", model_name(tokenizer).lower()) is not None
    return has_one and (task.chat or always)


def _over_length(values: Mapping, protocol: str) -> str:
    return values["over_length"] or {"official": "truncate", "paper": "error"}[protocol]


def _shuffle_seed(values: Mapping, protocol: str) -> int | None:
    if values["shuffle_seed"] is None and protocol == "paper" and values["num_samples"] is not None:
        return _PAPER_SHUFFLE
    return values["shuffle_seed"]
