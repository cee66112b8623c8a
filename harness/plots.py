"""Figures of a section: score against budget, length, cache and latency, and task x method; PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from data import get_benchmark
from harness.errors import Problem
from harness.panels import FRONTS, OTHERS, Panel, Point, by_budget, make_panels, make_styles
from harness.summary import CONTROLS
from harness.tables import Line, Section, slug

FRONT = {"color": "#f3e2b3", "linestyle": "-", "linewidth": 5, "zorder": 0}
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.0}
RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tables",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "legend.handlelength": 3.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "lines.markeredgewidth": 0.3,
}


def plot_section(section: Section, output: Path) -> tuple[list[str], list[Problem]]:
    """Write every figure that the section has data for into `output`: (file names, what was left out of them)."""
    styles = make_styles(section)
    wanted, notes = make_panels(section)
    files = []
    with matplotlib.rc_context(RC):
        figures = {name: _figure(section, panels, styles, front=name in FRONTS) for name, panels in wanted.items()}
        for length in section.lengths:
            for group, lines in by_budget(section).items():
                name = "-".join(part for part in ("tasks", length, slug(group)) if part)
                figures[name] = _heat_map(section, length, group, lines)
        output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for kind, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
                files.append(f"{section.stem}-{name}.{kind}")
                figure.savefig(output / files[-1], **options)
    return files, notes


def _figure(section: Section, panels: Sequence[Panel], styles: Mapping[str, dict], front: bool) -> Figure:
    """Panels side by side with one legend; `front`: with the best score that each cost buys."""
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    handles = _legend(panels, styles, front)
    width = max(3.1 * columns, 5.5)
    # Below the panels, in as many columns as the longest label allows (inches a letter, at this font size).
    legend_columns = max(1, int(width / (0.062 * max(len(handle.get_label()) for handle in handles) + 0.6)))
    height = 2.4 * rows + 0.5 + 0.17 * -(-len(handles) // legend_columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for place, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        _draw(ax, panel, styles, front)
        if place % columns == 0:
            ax.set_ylabel("mean score")
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns)
    subsets = sorted({run.subset for line in section.lines for run in line.cells.values() if run.subset})
    words = [section.title(), *subsets] + ["bands: 95 % bootstrap intervals"] * (not front)
    title = textwrap.fill("; ".join(words), int(17 * figure.get_figwidth()))
    figure.suptitle(title, fontsize=7, color="#666666")
    return figure


def _draw(ax: Axes, panel: Panel, styles: Mapping[str, dict], front: bool) -> None:
    ax.set(title=panel.title, xlabel=panel.xlabel, xscale="log")
    ax.grid(True)
    curves: dict[str, list[Point]] = {}
    for point in panel.points:  # in the order of budgets and lengths, which that of costs need not be
        curves.setdefault(point.line.label, []).append(point)
    for label, points in curves.items():
        style = styles.get(label, OTHERS)
        x, y = [point.x for point in points], [point.cell.mean for point in points]
        low, high = [point.cell.low for point in points], [point.cell.high for point in points]
        ax.plot(x, y, **style | (HOLLOW if points[0].hollow else {}))
        if style is not OTHERS and not front:
            ax.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)
            if len(points) == 1:  # whose band has no width
                ax.vlines(x, low, high, color=style["color"], alpha=0.3, linewidth=3)
    # full last, on top: what is as good as it would hide it
    for point in reversed(panel.levels):
        ax.axhline(point.cell.mean, **{**styles.get(point.line.label, OTHERS), "marker": ""})
    if front:
        best = [point for point in panel.points if point.line.ranked or point.line.method in CONTROLS]
        best = sorted(best, key=lambda point: (point.x, -point.cell.mean))
        tops = np.maximum.accumulate([point.cell.mean for point in best])
        ax.step([point.x for point in best], tops, where="post", **FRONT)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    else:
        ticks = sorted({point.x for point in panel.points})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.margins(x=0.1)
    ax.xaxis.set_minor_locator(NullLocator())


def _legend(panels: Sequence[Panel], styles: Mapping[str, dict], front: bool) -> list[Line2D]:
    """The methods in the order of `styles`, then what grey, hollow and the broad line mean."""
    points = [point for panel in panels for point in (*panel.points, *panel.levels)]
    labels = {point.line.label for point in points}
    entries = [(label, style) for label, style in styles.items() if label in labels]
    if others := labels - styles.keys():
        entries.append((f"{len(others)} other methods", OTHERS))
    if front:
        entries.append(("best for its cost", FRONT))
    if any(point.hollow for point in points):
        entries.append(("hollow: simulated memory", {"color": "black", "marker": "o", "linestyle": ""} | HOLLOW))
    return [Line2D([], [], label=label, **style) for label, style in entries]


def _heat_map(section: Section, length: str, group: str, lines: Sequence[Line]) -> Figure:
    """Tasks across, methods down: those without a budget first, then the best first. Blank: missing."""
    tasks = section.tasks(length)
    short = get_benchmark(section.benchmark).short_names()
    columns = {short[task]: section.column(((length, task),)) for task in tasks}
    columns[list(section.averages(length))[-1]] = section.column(section.overall(length))

    def order(line: Line) -> tuple:
        cell = section.score(line, length)
        return line.group != "all", -cell.mean if cell else 1

    lines = sorted((line for line in lines if any(key[0] == length for key in line.cells)), key=order)
    places = [section.lines.index(line) for line in lines]
    values = np.array([[c[i].mean if c[i] else np.nan for c in columns.values()] for i in places])
    figure = Figure(figsize=(0.42 * len(columns) + 2.2, 0.19 * len(lines) + 1.2), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            ax.text(
                x, y, f"{value:.0f}", ha="center", va="center", fontsize=6, color="black" if value > 55 else "white"
            )
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(lines)), [line.label for line in lines])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    free = sum(line.group == "all" for line in lines)
    for edge in (free,) if 0 < free < len(lines) else ():
        ax.axhline(edge - 0.5, color="white", linewidth=3)
    ax.axvline(len(tasks) - 0.5, color="white", linewidth=3)
    ax.set_title(f"{section.title(length)}, budget {group}", color="#666666", fontsize=7)
    figure.colorbar(image, ax=ax, label="mean score", fraction=0.04, pad=0.02)
    return figure
