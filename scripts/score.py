"""Score predictions files of LongBench or RULER, whoever wrote them, under both protocols.

    python scripts/score.py --dataset longbench --task qasper predictions.jsonl
    python scripts/score.py --dataset longbench pred/llama3-8b-instruct/*.jsonl
    python scripts/score.py --dataset ruler --json results/demo/speckv/cmax_0064/*/predictions.jsonl

A file has a JSON object a line: ours (prediction, references, meta, error), LongBench's own (pred, answers,
all_classes, length) or RULER's own (pred, outputs). All scores are 0 to 100.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import benchmark_names, get_benchmark  # noqa: E402
from data.benchmark import Benchmark  # noqa: E402
from data.scores import prediction_of  # noqa: E402
from harness.errors import UserError, nearest  # noqa: E402


@dataclass
class Scored:
    """One file's results."""

    file: str
    task: str
    n: int
    failed: int
    """Rows with an error, which are not scored."""
    official: float
    paper: float
    extras: dict[str, float] = field(default_factory=dict)
    by_length: dict[str, float | None] = field(default_factory=dict)
    """The official score of each part; None where a part has no rows."""

    def as_json(self) -> str:
        parts = {"score_official_by_length": self.by_length} if self.by_length else {}
        scores = {"score_official": self.official, "score_paper": self.paper, **self.extras, **parts}
        return json.dumps({"task": self.task, "n": self.n, **scores, "failed": self.failed, "file": self.file})


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    benchmark = get_benchmark(args.dataset)
    try:
        files = tqdm(args.files, unit="file", leave=False, disable=None)  # None: only on a terminal
        results = [score_file(benchmark, Path(file), args.task, args.e) for file in files]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for result in results:
        if result.failed:
            print(f"{result.file}: {result.failed} rows with an error were not scored", file=sys.stderr)
    if args.json:
        for result in results:
            print(result.as_json())
    else:
        _print_table(benchmark, results)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=benchmark_names(), required=True)
    parser.add_argument("--task", help="of all files; default: meta.task of our rows, else the file's name")
    parser.add_argument("--e", action="store_true", help="LongBench-E, whose files are named like LongBench's")
    parser.add_argument("--json", action="store_true", help="a JSON object a file")
    parser.add_argument("files", nargs="+", metavar="FILE")
    return parser


def score_file(benchmark: Benchmark, file: Path, task: str | None, is_e: bool = False) -> Scored:
    """Scores of one predictions file. `task` None: the one that the file is of. Raises UserError."""
    rows = list(_rows(file))
    good = [(line, row) for line, row in rows if row.get("error") is None]
    if not good:
        what = f"all {len(rows)} rows have an error" if rows else "no rows"
        raise UserError(f"{file}: {what}: there is nothing to score. Give a file with predictions")
    task = _task(benchmark, file, task or _own_task(good[0][1]) or file.stem, is_e)
    if all("fingerprint" in row for _, row in good):
        good = _in_order(file, good)
    samples, scores, extras = [], [], []
    for place, (line, row) in enumerate(good):
        try:
            own = _own_task(row)
            if own and own.removesuffix("_e") != task.removesuffix("_e"):
                raise ValueError(f"meta.task: {own!r}, not {task!r}; give the right --task, or none")
            prediction = prediction_of(row)
            samples.append(benchmark.sample_of(task, place, row))
            scores.append(benchmark.score(samples[-1], prediction))
            extras.append(benchmark.extras(samples[-1], prediction))
        except ValueError as error:
            raise UserError(f"{file}: line {line}: {error}. Mend or delete that row") from error
    official = [score["official"] for score in scores]
    return Scored(
        file=str(file),
        task=task,
        n=len(scores),
        failed=len(rows) - len(good),
        official=benchmark.mean(official),
        paper=benchmark.mean([score["paper"] for score in scores]),
        extras={key: round(fmean(extra[key] for extra in extras), 2) for key in extras[0]},  # as in metrics.json
        by_length=benchmark.breakdown(samples, official),
    )


def _rows(file: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, row) of each line that is not blank."""
    try:
        lines = file.read_bytes().splitlines()  # bytes: a text's would also split at Unicode's line separators
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}. Give the path of a predictions file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: line {number}: not JSON ({error}). Mend or delete that line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}: line {number}: not a JSON object. Mend or delete that line")
        yield number, row


def _in_order(file: Path, rows: list[tuple[int, dict]]) -> list[tuple[int, dict]]:
    """Our rows in the order of the samples, in which metrics.json adds up; a run's sessions may have mixed it."""
    seen: dict[int, tuple[int, dict]] = {}
    for line, row in rows:
        index = row.get("index")
        if type(index) is not int:
            raise UserError(f"{file}: line {line}: index: {index!r} is not a whole number. Mend or delete that row")
        if index in seen:
            raise UserError(f"{file}: line {line}: index: {index} is there already. Delete one of the two rows")
        seen[index] = (line, row)
    return [seen[index] for index in sorted(seen)]


def _own_task(row: dict) -> str | None:
    """The task that a row of ours names."""
    meta = row.get("meta")
    task = meta.get("task") if isinstance(meta, dict) else None
    return task if isinstance(task, str) else None


def _task(benchmark: Benchmark, file: Path, name: str, is_e: bool) -> str:
    task = f"{name.removesuffix('_e')}_e" if is_e else name
    valid = benchmark.short_names()
    if task not in valid:
        text = f"{task!r} is not a task of {benchmark.name} (did you mean {nearest(task, valid)!r}?)"
        raise UserError(f"{file}: --task: {text}. Give one of {', '.join(valid)}")
    return task


def _print_table(benchmark: Benchmark, results: Sequence[Scored]) -> None:
    by_task = {result.task: result for result in results}
    names_tell = len(by_task) == len(results)
    extra_keys = list(dict.fromkeys(key for result in results for key in (*result.extras, *result.by_length)))
    table = [["task", "n", "official", "paper", *extra_keys]]
    for result in results:
        more = {**result.extras, **result.by_length}
        size = benchmark.full_size({"task": result.task})
        table.append(
            [
                result.task if names_tell else f"{result.task} {result.file}",
                str(result.n) if size in (None, result.n) else f"{result.n} (of {size})",
                *(_cell(value) for value in (result.official, result.paper, *(more.get(key) for key in extra_keys))),
            ]
        )
    if names_tell and len(results) > 1:
        tasks = [task for task in benchmark.short_names() if task in by_task]
        for title, members in benchmark.averages(tasks).items():
            means = (fmean(getattr(by_task[task], key) for task in members) for key in ("official", "paper"))
            table.append([title, f"{len(members)} tasks", *map(_cell, means), *[""] * len(extra_keys)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *padded]).rstrip())


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
