"""Published scores beside ours, where they are of the same thing, and apart where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import yaml

from harness.config import REPOSITORY, read_yaml
from harness.errors import UserError, nearest
from harness.summary import Table
from harness.tables import Key, Line, PlainTable, Section

PUBLISHED = REPOSITORY / "data/published/scores.yaml"


@dataclass(frozen=True)
class PublishedRow:
    """A method at a budget."""

    method: str
    budget: str
    scores: list[float | None]
    """One a column; None where it stands beside ours."""
    caveat: str = ""


@dataclass(frozen=True)
class Source:
    """Where scores were seen, and what they are of. data/published/scores.yaml describes the fields."""

    source: str
    benchmark: str
    protocol: str
    target: str
    samples: str | int | None
    columns: list[str]
    rows: list[PublishedRow]
    caveat: str = ""
    draft: str = ""
    seq_len: str = ""
    data: str = ""


@dataclass(frozen=True)
class Joined:
    """A published score and ours of the same thing."""

    section: Section
    line: Line
    column: str
    ours: float
    published: float
    source: str
    caveat: str

    def record(self) -> dict:
        """A flat row for CSV."""
        words = {"table": "published", **self.section.record(self.line), "column": self.column, "mean": self.ours}
        return words | {"published": self.published, "source": self.source, "caveat": self.caveat}


def read_published(path: Path = PUBLISHED) -> list[Source]:
    """The sources of a file. Raises UserError that says where it is wrong."""
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Give a file like {PUBLISHED.name}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, list):
        raise UserError(f"{path}: must be a list of sources. See {PUBLISHED.name}")
    sources = []
    for number, item in enumerate(tree, start=1):
        where = f"{path}: source {number}"
        values = _checked(where, item, Source)
        for key in ("columns", "rows"):
            if not isinstance(values[key], list):
                raise UserError(f"{where}: {key}: must be a list")
        rows = []
        for i, row in enumerate(values["rows"], start=1):
            row = _checked(f"{where}: row {i}", row, PublishedRow)
            scores = row["scores"]
            if not isinstance(scores, list) or [type(score) for score in scores if type(score) not in (int, float)]:
                raise UserError(f"{where}: row {i}: scores: must be a list of numbers")
            if len(scores) != len(values["columns"]):
                raise UserError(f"{where}: row {i}: scores: there must be one for each of columns")
            rows.append(PublishedRow(**row | {"budget": str(row["budget"])}))
        sources.append(Source(**values | {"rows": rows, "seq_len": str(values.get("seq_len", ""))}))
    return sources


def _checked(where: str, item: object, kind: type) -> dict:
    """A mapping with the fields of a dataclass."""
    if not isinstance(item, dict):
        raise UserError(f"{where}: must hold `key: value` pairs, not {item!r}")
    known = [f.name for f in fields(kind)]
    for key in item:
        if key not in known:
            raise UserError(f"{where}: {key}: unknown key. Did you mean {nearest(key, known)!r}?")
    for f in fields(kind):
        if f.name not in item and f.default is MISSING:
            raise UserError(f"{where}: {f.name}: missing. Say it, or leave the source out")
    return item


def join(sources: Sequence[Source], sections: Sequence[Section]) -> tuple[list[Joined], list[Source]]:
    """The scores whose pair, protocol, length, method, budget and number of samples are those of runs here, and what is
    left of the sources of the benchmarks that there are runs of."""
    joined, apart = [], []
    for source in sources:
        left = []
        for row in source.rows:
            found = [one for section in sections for one in _join_row(source, row, section)]
            joined += found
            there = {one.column for one in found}
            rest = [None if c in there else score for c, score in zip(source.columns, row.scores, strict=True)]
            if any(score is not None for score in rest):
                left.append(replace(row, scores=rest))
        if left and any(section.benchmark == source.benchmark for section in sections):
            apart.append(replace(source, rows=left))
    return joined, apart


def _join_row(source: Source, row: PublishedRow, section: Section) -> list[Joined]:
    if (source.benchmark, source.protocol, source.target) != (section.benchmark, section.protocol, section.pair):
        return []
    if section.data not in ("", source.data) or source.seq_len not in section.lengths:
        return []
    columns: dict[str, tuple[Key, ...]] = {task: ((source.seq_len, task),) for task in section.tasks(source.seq_len)}
    columns |= section.averages(source.seq_len)
    caveat = " ".join(part for part in (source.caveat, row.caveat and row.caveat + ".") if part)
    result = []
    for title, published in zip(source.columns, row.scores, strict=True):
        keys = columns.get(title, ())
        cells = section.column(keys) if keys else [None] * len(section.lines)
        for line, cell in zip(section.lines, cells, strict=True):
            if cell and (line.method, line.budget) == (row.method, row.budget) and _agrees(source, line, keys):
                result.append(Joined(section, line, title, cell.mean, published, source.source, caveat))
    return result


def _agrees(source: Source, line: Line, keys: tuple[Key, ...]) -> bool:
    """Whether the line's runs have the source's draft, if any, and its number of samples."""
    runs = [line.cells[key] for key in keys]
    drafts = {dict(run.options).get("draft_model.model_name_or_path", source.draft) for run in runs}
    samples = {"all" if run.subset is None else len(run.scores) for run in runs}
    return drafts == {source.draft} and samples == {source.samples}


def published_tables(joined: Sequence[Joined], apart: Sequence[Source]) -> list[PlainTable]:
    """Ours beside published, then the published scores that nothing here can be compared with, by source."""
    tables = []
    for source in dict.fromkeys(one.source for one in joined):
        members = [one for one in joined if one.source == source]
        header = ["method", "budget", "column", "ours", "published", "ours - published"]
        lines = [
            [one.line.label, one.line.budget, one.column]
            + [f"{one.ours:.1f}", f"{one.published:g}", f"{one.ours - one.published:+.1f}"]
            for one in members
        ]
        caveats = " ".join(dict.fromkeys(one.caveat for one in members))
        caption = f"{members[0].section.title()}: ours and published. Published: {source}. {caveats}"
        tables.append(PlainTable(f"published-{len(tables) + 1}", caption.strip(), Table(header, lines)))
    for source in apart:
        noted = any(row.caveat for row in source.rows)
        lines = [
            [
                row.method,
                row.budget,
                *("" if score is None else f"{score:g}" for score in row.scores),
                *[row.caveat] * noted,
            ]
            for row in source.rows
        ]
        models = f"{source.target}{f' with draft {source.draft}' * bool(source.draft)}"
        length = f", length {source.seq_len}" * bool(source.seq_len)
        caption = (
            f"Published, not comparable with runs here (none of the same pair, protocol, budget and samples): "
            f"{source.source}. {source.benchmark}{length}, {models}, protocol {source.protocol}. {source.caveat}"
        )
        table = Table(["method", "budget", *source.columns, *["note"] * noted], lines)
        tables.append(PlainTable(f"published-{len(tables) + 1}", caption.strip(), table))
    return tables
