"""Sections of results -> one HTML page that needs no network: tables, figures, and every sample with what was kept.

The page is `report.html` with `report.css`, `report.js` and the data in it. The script makes no HTML from text: what a
model said reaches the page as text nodes. A content security policy with the hashes of script and style is the second
barrier.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Hashable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from string import Template

from harness.errors import Problem
from harness.panels import COLOURS, DASHES, FRONTS, MARKERS, OTHERS, Panel, make_panels, make_styles
from harness.results import RunFolder
from harness.summary import PHASES, Result
from harness.tables import Cell, Line, ScoreTable, Section, make_tables, noise_mark

SVG_DASHES = dict(zip(DASHES, ("", "6 3", "6 3 1.5 3", "1.5 3", "9 2", "5 2 1.5 2 1.5 2", "12 5", "3 4"), strict=True))
SVG_DASHES |= {":": "1.5 3"}
FIGURES = {
    "budget": "score against budget",
    "budget-share": "score against budget, shares of the prompt",
    "length": "score against length",
    "cache": "score against cache",
    "latency": "score against latency",
}


class Interned:
    """Values that are stored once and named by their place."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}

    def place(self, value: Hashable) -> int:
        return self._places.setdefault(value, len(self._places))

    def values(self) -> list:
        return list(self._places)


def page_data(sections: Sequence[Section], problems: Sequence[Problem], samples: int) -> tuple[dict, list[Problem]]:
    """What the page shows, JSON-able, and the problems with those of its own.

    samples: how many of each run are shown. Raises ResultsError where a run's rows cannot be read.
    """
    prompts, references = Interned(), Interned()
    described, noted = [], list(problems)
    for section in sections:
        figures, notes = make_panels(section)
        noted += notes
        styles = make_styles(section)
        described.append(
            {
                "title": section.title(),
                "lines": [_line(line, styles.get(line.label, OTHERS)) for line in section.lines],
                "tables": [_table(table) for table in make_tables(section)],
                "figures": [
                    {"name": FIGURES[name], "front": name in FRONTS, "panels": [_panel(section, p) for p in panels]}
                    for name, panels in figures.items()
                ],
                "runs": _runs(section, samples, prompts, references),
            }
        )
    data = {
        "sections": described,
        "palette": [
            {"color": colour, "marker": marker, "dash": SVG_DASHES[dash]}
            for colour, marker, dash in zip(COLOURS, MARKERS, DASHES, strict=True)
        ],
        "prompts": prompts.values(),
        "references": references.values(),
        "problems": [[problem.where, problem.text] for problem in noted],
    }
    return data, noted


def render(data: dict, title: str) -> str:
    """The page, which UTF-8 can hold whatever the data are."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    # No "<" may end the element early; JSON's own escapes see to lone surrogates and to what HTML cannot hold.
    safe = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template((here / "report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        style=style,
        script=script,
        data=safe,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _line(line: Line, style: dict) -> dict:
    return {
        "label": line.label,
        "method": line.method,
        "budget": line.budget,
        "group": line.group,
        "ranked": line.ranked,
        "color": style["color"],
        "marker": style["marker"],
        "dash": SVG_DASHES[style["linestyle"]],
        "told": style is not OTHERS,
    }


def _table(table: ScoreTable) -> dict:
    section = table.section
    columns = [{"title": title, "keys": ["|".join(key) for key in keys]} for title, keys in table.columns.items()]
    cells = [section.column(keys) for keys in table.columns.values()]
    keys = list(dict.fromkeys(key for keys in table.columns.values() for key in keys))
    one_length = len({length for length, _ in keys}) == 1
    costs = [_costs([line.cells.get(key) for key in keys]) if one_length else None for line in section.lines]
    return {
        "name": table.slug,
        "caption": table.caption,
        "columns": columns,
        "cells": [[_cell(column[i]) for column in cells] for i in range(len(section.lines))],
        "costs": costs if one_length else None,
    }


def _cell(cell: Cell | None) -> dict | None:
    if cell is None:
        return None
    shown = {"mean": round(cell.mean, 2), "low": round(cell.low, 2), "high": round(cell.high, 2), "n": cell.n}
    shown |= {"rank": cell.rank, "mark": noise_mark(cell)}
    if found := cell.comparison:
        shown |= {"against": cell.against.name, "effect": round(found.effect, 2), "p": float(f"{found.p_holm:.3g}")}
        shown |= {"effect_low": round(found.low, 2), "effect_high": round(found.high, 2)}
    return shown


def _costs(runs: Sequence[Result | None]) -> dict | None:
    """Means over a table's tasks, as the tables of a sweep; None where a run is missing."""
    if any(run is None for run in runs):
        return None
    names = ("kept_fraction", "kept_tokens", "cache_bytes", "peak_cache_bytes", "draft_cache_bytes")
    costs = {name: fmean(run.costs[name] for run in runs) for name in names}
    costs["seconds"] = fmean(run.seconds for run in runs)
    return costs | {"simulated": any(run.simulated for run in runs), "shared": max(run.branches for run in runs) > 1}


def _panel(section: Section, panel: Panel) -> dict:
    def points(found: Sequence) -> list[dict]:
        return [{"line": section.lines.index(p.line), "x": p.x, "hollow": p.hollow, **_cell(p.cell)} for p in found]

    return {
        "title": panel.title,
        "xlabel": panel.xlabel,
        "points": points(panel.points),
        "levels": points(panel.levels),
    }


def _runs(section: Section, samples: int, prompts: Interned, references: Interned) -> dict[str, dict]:
    """{length|task: {"title": …, "lines": {line: [its first samples]}}}"""
    runs: dict[str, dict] = {}
    for number, line in enumerate(section.lines):
        for (length, task), result in line.cells.items():
            shown = runs.setdefault(f"{length}|{task}", {"title": f"{task} {length}".strip(), "lines": {}})
            shown["lines"][str(number)] = _samples(result, samples, prompts, references)
    return {"|".join(key): runs["|".join(key)] for key in section.keys}


def _samples(result: Result, samples: int, prompts: Interned, references: Interned) -> list[dict]:
    folder = RunFolder(result.folder)
    counted = {index for index, _ in result.samples}
    rows = [row for row in folder.rows() if row["index"] in counted and row["error"] is None][:samples]
    kept = folder.kept() if rows else {}
    shown = []
    for row in rows:
        stats = row["stats"]
        sample = {
            "index": row["index"],
            "output": row["prediction"],
            "score": row[f"score_{result.protocol}"],
            "references": references.place(tuple(row["references"])),
            "new_tokens": row["new_tokens"],
            "seconds": round(sum(row["seconds"][phase] for phase in PHASES), 4),
        }
        sample |= {name: stats[name] for name in ("prompt_tokens", "read_tokens", "kept_tokens", "cache_bytes")}
        if record := kept.get(row["index"]):
            sample["prompt"] = prompts.place(tuple(record["pieces"]))
            sample["kept"] = [[value, len(list(same))] for value, same in groupby(record["share"])]
        shown.append(sample)
    return shown
