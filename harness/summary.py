"""The end of a sweep: method x budget against task, and what each method costs, for the terminal and as Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from data import get_benchmark
from harness.config import flatten
from harness.errors import Problem, format_problems
from harness.metrics import costs, interval, most_branches
from harness.plan import Plan, Run
from harness.results import ResultsError, RunFolder, Status, write_atomically

CAPACITY, RATIO = "max_capacity_prompt", "budget_ratio"
LAST_STAGE = "speckv_config."
"""Of a cascade: its budget is the last one. The order of keys does not tell: a results folder has them sorted."""
CONTROLS = ("full", "draft_only")
PHASES = ("draft", "prefill", "decode")


@dataclass(frozen=True)
class Result:
    """One finished run, reduced to what the tables need."""

    benchmark: str
    protocol: str
    task: str
    pair: str
    seq_len: str
    method: str
    budget: tuple[tuple[str, float], ...]
    """(key, value), one a stage of the method."""
    options: tuple[tuple[str, str], ...]
    """All of the configuration, to tell apart runs that would share a cell."""
    scores: tuple[float, ...]
    costs: Mapping[str, float]
    branches: int
    """The most runs that were answered together with it; above 1, seconds are shares."""
    simulated: bool
    """What the method drops stays in memory."""
    subset: str | None
    samples: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Index and references of each score's sample: what two runs must share to be paired."""
    folder: Path | None = None
    """Where it was read from."""

    @property
    def seconds(self) -> float:
        """Of a sample: draft, prefill and decode."""
        return sum(self.costs[f"{phase}_seconds"] for phase in PHASES)


@dataclass(frozen=True)
class Row:
    """One line of a table: a method at a budget."""

    pair: str
    seq_len: str
    method: str
    budget: tuple[tuple[str, float], ...]
    variant: str
    cells: Mapping[str, Result]
    """By task."""

    @property
    def label(self) -> str:
        return self.method + (f" {self.variant}" if self.variant else "")

    @property
    def budget_label(self) -> str:
        return budget_label(self.budget)

    @property
    def mark(self) -> str:
        """Follows figures of memory."""
        return "*" if any(cell.simulated for cell in self.cells.values()) else ""

    def average(self, tasks: Sequence[str]) -> str:
        """Mean over tasks with its interval; blank unless every task is there."""
        if any(task not in self.cells for task in tasks):
            return ""
        scores = [self.cells[task].scores for task in tasks]
        low, high = interval(*scores)
        return f"{fmean(map(fmean, scores)):.1f} [{low:.1f}, {high:.1f}]"

    def cost(self, name: str, form: str, scale: float = 1) -> str:
        """Mean over the tasks that are there, divided by `scale`; blank if one of them does not know."""
        if any(name not in cell.costs for cell in self.cells.values()):
            return ""
        return format(fmean(cell.costs[name] for cell in self.cells.values()) / scale, form)


@dataclass(frozen=True)
class Table:
    """A header and lines of cells, all text."""

    header: list[str]
    lines: list[list[str]]

    def text(self) -> str:
        """Aligned columns: the first is left-aligned, the others right."""
        rows = [self.header, *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        aligned = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])

    def markdown(self) -> str:
        """A Markdown table."""
        rules = ["---", *["---:"] * (len(self.header) - 1)]
        rows = [self.header, rules, *self.lines]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def summarise(plan: Plan, output: Path, failures: Mapping[str, str]) -> tuple[str, Path]:
    """Tables over the plan's finished runs: (text for the terminal, the Markdown file that was written)."""
    results, missing = [], []
    for run in plan.runs:
        try:
            result = read_result(run, plan.limit)
            unfinished = f"not finished{': python scripts/run_external.py' * run.config.external}"
            why = failures.get(run.name, unfinished)
        except ResultsError as exc:  # broken since the sweep began
            result, why = None, str(exc)
        if result:
            results.append(result)
        else:
            missing.append(Problem(run.name, "", why))
    prefix = os.path.commonpath([os.path.dirname(run.name) for run in plan.runs])
    text, markdown = [], [f"# Summary of {prefix or 'the sweep'}"]
    for key in sorted({(r.benchmark, r.protocol) for r in results}):
        members = [r for r in results if (r.benchmark, r.protocol) == key]
        for parts, wide in ((text, False), (markdown, True)):
            parts += _section(*key, members, wide)
    if missing:
        where = ", and blank above" if results else ""
        count = f"Missing{where}: {len(missing)} run{'s' * (len(missing) > 1)}"
        # the sweep tells of its failures itself
        untold = [problem for problem in missing if problem.where not in failures]
        text.append("\n".join([count, *([format_problems(untold)] if untold else [])]))
        markdown.append(f"{count}\n\n" + "\n".join(f"- {problem.where}: {problem.text}" for problem in missing))
    path = output / prefix / "summary.md"
    write_atomically(path, "\n\n".join(markdown) + "\n")
    return "\n\n".join(text), path


def read_result(run: Run, limit: int | None) -> Result | None:
    """A run's first `limit` samples (None: all), or None if they are not all there. Raises ResultsError."""
    folder = RunFolder(run.folder)
    asked = run.asked(limit)
    if folder.state(run.fingerprint, asked, run.basis).status is not Status.DONE:
        return None
    rows = [row for row in folder.rows() if row["error"] is None][:asked]
    exhausted = folder.metrics().get("exhausted") and len(rows) == folder.metrics()["n"]
    return make_result(run.config.resolved, rows, costs(rows), run.config.simulated, run.subset(len(rows), exhausted))


def make_result(
    resolved: Mapping, rows: Sequence[Mapping], spent: Mapping[str, float], simulated: bool, subset: str | None
) -> Result:
    """A run's resolved configuration and its rows without errors, in order, as what the tables need.

    spent: what `harness.metrics.costs` gives, other keys beside.
    """
    options = flatten({k: v for k, v in resolved.items() if k not in ("wandb", "batch_size")})
    dataset, protocol = resolved["dataset"], resolved["protocol"]
    return Result(
        benchmark=dataset["dataset_name"],
        protocol=protocol,
        task=str(dataset.get("task", dataset["dataset_name"])),
        pair=(resolved.get("target_model") or resolved["draft_model"])["model_name_or_path"].rstrip("/"),
        seq_len=str(dataset.get("seq_len", "")),
        method=resolved["sparse_config"]["sparse_type"],
        budget=budget_of(resolved),
        options=tuple((key.removeprefix("sparse_config."), str(value)) for key, value in options.items()),
        scores=tuple(row[f"score_{protocol}"] for row in rows),
        costs=spent,
        branches=most_branches(rows),
        simulated=simulated,
        subset=subset,
        samples=tuple((row["index"], tuple(row["references"])) for row in rows),
    )


def budget_of(resolved: Mapping) -> tuple[tuple[str, float], ...]:
    """(key, value) of a configuration's budgets, one a stage of the method; none where all is kept."""
    return tuple(
        (name, value)
        for key, value in sorted(flatten(resolved["sparse_config"]).items(), key=lambda item: LAST_STAGE in item[0])
        if (name := key.rpartition(".")[2]) in (CAPACITY, RATIO) and value is not None
    )


def budget_label(budget: Sequence[tuple[str, float]]) -> str:
    """A budget for a table, such as `512 > 64`."""
    return " > ".join(f"{value:g} N" if key == RATIO else str(value) for key, value in budget) or "all"


def make_rows(results: Sequence[Result]) -> list[Row]:
    """Results -> lines: by pair, length, method (controls first) and budget. Runs that would share a cell get lines of
    their own, labelled with the options in which they differ."""
    lines: dict[tuple, dict[str, list[Result]]] = {}
    for result in results:
        line = lines.setdefault((result.pair, result.seq_len, result.method, result.budget), {})
        line.setdefault(result.task, []).append(result)
    # by method, so that its lines are labelled alike at every length and budget
    varying: dict[tuple[str, str], set[str]] = {}
    for (pair, _, method, _), cells in lines.items():
        varying.setdefault((pair, method), set()).update(*map(_varying, cells.values()))
    rows = []
    for key, cells in lines.items():
        names = varying[key[0], key[2]]
        variants: dict[str, dict[str, Result]] = {}
        for task, same in cells.items():
            for result in same:
                label = ", ".join(f"{n}={v}" for n, v in result.options if n in names)
                variants.setdefault(label, {})[task] = result
        rows += [Row(*key, variant, found) for variant, found in variants.items()]

    def order(row: Row) -> tuple:
        control = CONTROLS.index(row.method) if row.method in CONTROLS else len(CONTROLS)
        return row.pair, len(row.seq_len), row.seq_len, control, row.method, row.budget, row.variant

    return sorted(rows, key=order)


def _varying(results: Sequence[Result]) -> set[str]:
    seen = [dict(r.options) for r in results]
    return {name for options in seen for name in options if len({o.get(name) for o in seen}) > 1}


def _section(benchmark: str, protocol: str, results: Sequence[Result], wide: bool) -> list[str]:
    """The captions and tables of one benchmark, as Markdown if `wide`, else for the terminal."""
    rows = make_rows(results)
    short = get_benchmark(benchmark).short_names()
    known = list(short)
    tasks = sorted({r.task for r in results}, key=known.index)
    averages = get_benchmark(benchmark).averages(tasks)
    counts = {len(r.scores) for r in results}
    each = len(counts) > 1
    leading = [("pair", "pair"), ("length", "seq_len")]
    shared = {name: getattr(rows[0], name) for _, name in leading if len({getattr(row, name) for row in rows}) == 1}
    leading = [(title, name) for title, name in leading if name not in shared]
    head = ["method", "budget", *(title for title, _ in leading)]

    def start(row: Row) -> list[str]:
        return [row.label, row.budget_label, *(getattr(row, name) for _, name in leading)]

    def cell(row: Row, task: str) -> str:
        result = row.cells.get(task)
        return "" if result is None else f"{fmean(result.scores):.1f}" + (f" ({len(result.scores)})" if each else "")

    overall = list(averages)[-1:]
    scores = Table(
        [*head, *(task if wide else short[task] for task in tasks), *overall],
        [
            [*start(row), *(cell(row, task) for task in tasks), *(row.average(averages[title]) for title in overall)]
            for row in rows
        ],
    )
    tables = [scores]
    if len(averages) > 2:  # one category and the overall mean say what the columns say
        tables.append(Table([*head, *averages], [[*start(row), *map(row.average, averages.values())] for row in rows]))
    cost_columns = {
        "kept": lambda row: row.cost("kept_fraction", ".3f"),
        "prompt tok": lambda row: row.cost("prompt_tokens", ".0f"),
        "kept tok": lambda row: row.cost("kept_tokens", ".0f"),
        "draft tok": lambda row: row.cost("draft_tokens", ".0f"),
        "cache KiB": lambda row: row.cost("cache_bytes", ".0f", 1024) + row.mark,
        "peak KiB": lambda row: row.cost("peak_cache_bytes", ".0f", 1024) + row.mark,
        "draft KiB": lambda row: row.cost("draft_cache_bytes", ".0f", 1024),
        "draft s": lambda row: row.cost("draft_seconds", ".3f"),
        "prefill s": lambda row: row.cost("prefill_seconds", ".3f"),
        "decode s": lambda row: row.cost("decode_seconds", ".3f"),
    }
    spent = Table(
        [*head, *cost_columns], [[*start(row), *(show(row) for show in cost_columns.values())] for row in rows]
    )
    subsets = sorted({r.subset for r in results if r.subset})
    n = f"n = {counts.pop()} samples per cell" if not each else "n in brackets"
    what = ", ".join(
        [benchmark, *([f"length {shared['seq_len']}"] if shared.get("seq_len") else []), f"protocol {protocol}"]
    )
    caption = (
        f"{what}: mean score, {n}"
        + (f" ({'; '.join(subsets)})" if subsets else "")
        + ". Averages: over tasks, with their 95 % bootstrap intervals (samples drawn within each task)."
        + (f" Target: {shared['pair']}." if shared.get("pair") else "")
    )
    cost_caption = "Means per sample over the same tasks; kept: KV entries per head / prompt tokens; KiB of KV cache."
    together = max(r.branches for r in results)
    if together > 1:
        cost_caption += (
            f" Up to {together} runs were answered in one call, whose seconds are shared out evenly among its rows, "
            "whatever each took: no timings of a method. Those need --branches 1."
        )
    if any(r.simulated for r in results):
        cost_caption += " *: simulated, the bytes of what is kept; what is dropped was masked, and stayed in memory."
    if wide:
        return [caption, *(table.markdown() for table in tables), cost_caption, spent.markdown()]
    return ["\n\n".join([caption, *(table.text() for table in tables)]), cost_caption + "\n\n" + spent.text()]
