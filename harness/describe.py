"""A plan in words: what `--dry-run` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.plan import PairGroup, Plan, Run, chunks
from harness.results import Status


def describe(plan: Plan, listed: int = 40) -> str:
    """What `--dry-run` prints: runs, groups, progress, and an estimate of the work left."""
    count = {status: sum(s.status is status for s in plan.states.values()) for status in Status}
    kept = sum(s.rows for s in plan.states.values() if s.status is Status.PARTIAL)
    lines = [
        f"{_count(len(plan.runs), 'run')}: {count[Status.DONE]:,} done, {count[Status.PARTIAL]:,} partial "
        f"({_count(kept, 'prediction')} kept), {count[Status.EMPTY]:,} to do"
    ]
    if plan.skipped:
        lines[0] += f"; {len(plan.skipped)} files are only bases" if plan.skipped[1:] else "; 1 file is only a base"
    if plan.limit is not None:
        lines.append(f"limit: the first {_count(plan.limit, 'sample')} of each data set")
    for pair in plan.groups:
        lines.append(f"pair: {pair.label}: {_count(len(pair.runs), 'run')} over {_count(len(pair.data), 'data set')}")
        lines += _shared_work(plan, pair)
    if external := plan.left_to_tools():
        are = "run is of an external tool" if len(external) == 1 else "runs are of external tools"
        lines.append(f"{len(external):,} {are}: python scripts/run_external.py --cfg … (with the same arguments)")
    lines.append(f"work left: {_work_left(plan)}")
    if len(plan.runs) > listed:
        return "\n".join([*lines, *_table(plan)])
    for run in plan.runs:
        state = plan.states[run.name]
        rows = f", {_count(state.rows, 'prediction')}" if state.rows else ""
        lines.append(f"  {run.name}: {state.status.value}{rows}")
    return "\n".join(lines)


def _shared_work(plan: Plan, pair: PairGroup, listed: int = 4) -> list[str]:
    """What the runs of a data set share, a line for all data sets that are alike; none where a run is alone."""
    alike = Counter(
        work for group in pair.data if (work := _work(plan, pair, [run for run in group.runs if plan.to_do(run)]))
    )
    lines = []
    for (runs, calls, prefills, parts), sets in alike.most_common(listed):
        what = "; ".join(f"{what}: {_count(n, 'run')}" for what, n in parts)
        shared = f"is prefilled {_count(prefills, 'time')} instead of {runs:,} ({what})"
        lines.append(
            f"  {_count(sets, 'data set')} x {_count(runs, 'run')} in {_count(calls, 'chunk')}; "
            + (f"a sample's prompt {shared}" if prefills < runs else "no prefill is shared")
        )
    if others := sum(alike.values()) - sum(sets for _, sets in alike.most_common(listed)):
        lines.append(f"  and {_count(others, 'data set')} with other numbers of runs")
    return lines


def _work(plan: Plan, pair: PairGroup, runs: Sequence[Run]) -> tuple | None:
    """(runs, chunks, prefills of a sample, ((what is prefilled, runs), …)) of one data set."""
    if len(runs) < 2:
        return None
    parts: Counter[str] = Counter()
    prefills = 0
    found = chunks(runs, plan.branches)
    for chunk in found:
        keys = [run.config.prefill_key for run in chunk]
        prefills += len(set(keys))
        reader = "" if chunk[0].config.reader == pair.target else " (by the draft)"
        parts.update(key[0] + reader for key in keys)
    return len(runs), len(found), prefills, tuple(sorted(parts.items(), key=lambda part: (-part[1], part[0])))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _work_left(plan: Plan) -> str:
    """Runs, samples and prompt tokens that are left, as far as that is known before the data are read."""
    samples = tokens = unsized = unknown = 0
    about = ""
    for run in plan.unfinished():
        left = plan.samples_left(run)
        if run.rows is None and run.full_size is not None:
            # all rows there are: as many as were published, if the data are those
            published = max(0, run.full_size - plan.states[run.name].rows)
            left, about = (published if left is None else min(left, published)), "about "
        if left is None:
            unknown += 1
            continue
        samples += left
        length = run.config.dataset.get("seq_len")
        tokens += left * (length or 0)
        unsized += 0 if length else left
    parts = [f"up to {tokens:,} prompt tokens"] if tokens else []
    if unsized:
        parts.append(f"{_count(unsized, 'sample')} of texts whose length is known once they are read")
    if unknown:
        parts.append(f"{_count(unknown, 'run')} whose number of samples is known once their data are read")
    work = f"{_count(len(plan.unfinished()), 'run')}, {about}{_count(samples, 'sample')}"
    return ": ".join([work, " and ".join(parts)] if parts else [work])


def _table(plan: Plan) -> list[str]:
    """How many runs there are by method and data set, with how many of them are done where any is."""
    cells: dict[str, dict[tuple, list[bool]]] = {}
    for run in plan.runs:
        data = run.config.dataset["dataset_name"], run.config.dataset.get("seq_len") or 0
        cells.setdefault(run.config.sparse_type, {}).setdefault(data, []).append(
            plan.states[run.name].status is Status.DONE
        )
    columns = sorted({data for row in cells.values() for data in row})
    any_done = any(any(done) for row in cells.values() for done in row.values())
    rows = [["done/runs" if any_done else "runs", *(f"{name} {length or ''}".rstrip() for name, length in columns)]]
    for method, row in cells.items():
        counts = [row.get(column, []) for column in columns]
        rows.append([method, *(f"{sum(c)}/{len(c)}" if any_done and c else str(len(c) or "-") for c in counts)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        row[0].ljust(widths[0]) + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
