"""What the figures of a section show: score against budget, length, cache and latency, and how methods are told apart.

A method has one colour, marker and line in all figures of a section. The colours are close to Okabe and Ito's, which
the colour-blind can tell apart; markers and lines differ as well, so that nothing is lost in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from harness.errors import Problem
from harness.summary import CONTROLS
from harness.tables import Cell, Line, Section

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B6D00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (2, 3)))
OTHERS = {"color": "#c4c4c4", "linestyle": "-", "marker": ".", "markersize": 3, "linewidth": 0.8, "zorder": 1}
UNRANKED_STYLES = {
    "full": {"color": "black", "linestyle": "-", "marker": "h"},
    "draft_only": {"color": "black", "linestyle": ":", "marker": "d"},
    "oracle_lookahead": {"color": "black", "linestyle": "--", "marker": "<"},
    "specpc_oracle": {"color": "black", "linestyle": "-.", "marker": ">"},
}
MIB = 2**20
FRONTS = ("cache", "latency")
"""Figures of what a score costs: the best score for each cost is drawn, and no bands."""


@dataclass(frozen=True)
class Point:
    """A line's score at a place on the x axis."""

    line: Line
    x: float
    cell: Cell
    hollow: bool = False
    """Its x is simulated."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    xlabel: str
    points: list[Point]
    levels: list[Point] = field(default_factory=list)
    """Lines that x does not concern."""


def make_panels(section: Section) -> tuple[dict[str, list[Panel]], list[Problem]]:
    """{figure: its panels} for all that the section has data for, and what was left out of them."""
    latency, notes = _latency_panels(section)
    panels = {
        "budget": _budget_panels(section, share=False),
        "budget-share": _budget_panels(section, share=True),
        "length": _length_panels(section),
        "cache": _cache_panels(section),
        "latency": latency,
    }
    return {name: found for name, found in panels.items() if found}, notes


def make_styles(section: Section) -> dict[str, dict]:
    """Of the methods that are told apart, best first: a large comparison has more than can be. The others are grey."""
    means: dict[str, list[float]] = {}
    for length in section.lengths:
        for line in section.lines:
            if line.ranked and (cell := section.score(line, length)):
                means.setdefault(line.label, []).append(cell.mean)
    fixed = {line.label for line in section.lines if line.group == "all"}
    order = sorted(means, key=lambda label: (label != section.against, label in fixed, -fmean(means[label])))
    told = [
        {"color": colour, "marker": marker, "linestyle": dash}
        for colour, marker, dash in zip(COLOURS, MARKERS, DASHES, strict=True)
    ]
    lines = {line.label: UNRANKED_STYLES[line.method] | {"linewidth": 1.0} for line in section.lines if not line.ranked}
    return lines | dict(zip(order, told, strict=False))


def by_budget(section: Section) -> dict[str, list[Line]]:
    """Lines by the budget that they are ranked at, those without one in each."""
    anywhere = [line for line in section.lines if line.group == "all"]
    groups = [group for group in section.groups if group != "all"] or ["all"]
    return {g: anywhere + [line for line in section.lines if line.group == g != "all"] for g in groups}


def _points(section: Section, places: Sequence[tuple[Line, str, float]]) -> list[Point]:
    """(line, length, x) -> points at the overall score; those of runs that are missing are left out."""
    return [Point(line, x, cell) for line, length, x in places if (cell := section.score(line, length))]


def _length_title(length: str) -> str:
    return f"length {length}" if length else ""


def _budget_panels(section: Section, share: bool) -> list[Panel]:
    """A panel a length; `share`: of the budgets that are shares of the prompt, else of those in entries."""
    budgets = {group: group.removesuffix(" N") for group in section.groups if group != "all"}
    budgets = {group: float(number) for group, number in budgets.items() if (number != group) == share}
    if len(budgets) < 2:
        return []
    label = "KV budget, share of the prompt" if share else "KV budget, entries per KV head"
    panels = []
    for length in section.lengths:
        places = [(line, length, budgets[line.group]) for line in section.lines if line.group in budgets]
        levels = [(line, length, 0.0) for line in section.lines if line.group == "all"]
        panels.append(Panel(_length_title(length), label, _points(section, places), _points(section, levels)))
    return panels


def _length_panels(section: Section) -> list[Panel]:
    """A panel a budget."""
    lengths = [length for length in section.lengths if length.isdigit()]
    if len(lengths) < 2:
        return []
    return [
        Panel(
            f"budget {group}",
            "prompt length, tokens",
            _points(section, [(line, length, float(length)) for line in lines for length in lengths]),
        )
        for group, lines in by_budget(section).items()
    ]


def _cache_panels(section: Section) -> list[Panel]:
    """For each length, the cache after the prefill and the most that was held on the way."""
    panels = []
    for name, label in (("cache_bytes", "after prefill"), ("peak_cache_bytes", "peak")):
        for length in section.lengths:
            points = []
            for line in section.lines:
                runs = [line.cells.get(key) for key in section.overall(length)]
                if (cell := section.score(line, length)) and all(run.costs.get(name) for run in runs):
                    size = fmean(run.costs[name] for run in runs) / MIB
                    points.append(Point(line, size, cell, any(run.simulated for run in runs)))
            title = ", ".join(part for part in (_length_title(length), label) if part)
            panels.append(Panel(title, f"KV cache of the reader, {label}, MiB", points))
    return [panel for panel in panels if panel.points]


def _latency_panels(section: Section) -> tuple[list[Panel], list[Problem]]:
    """A panel a length, of the lines whose runs were all answered alone: (panels, how many lines were not)."""
    panels, notes = [], []
    for length in section.lengths:
        scored = [(line, cell) for line in section.lines if (cell := section.score(line, length))]
        points = []
        for line, cell in scored:
            runs = [line.cells[key] for key in section.overall(length)]
            if all(run.branches == 1 for run in runs):
                points.append(Point(line, fmean(run.seconds for run in runs), cell))
        title = _length_title(length)
        if len(points) < len(scored):
            count = f"{len(scored) - len(points)} of {len(scored)} lines are not in the figure of latency"
            text = f"{count}: their runs were answered together, and share their seconds. Run with --branches 1"
            notes.append(Problem(f"{section.stem} {length}".strip(), "", text))
            title += f" (timed together, left out: {len(scored) - len(points)})"
        if any(point.line.method not in CONTROLS for point in points):
            panels.append(Panel(title.strip(), "draft + prefill + decode, seconds a sample", points))
    return panels, notes
