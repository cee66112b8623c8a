"""Results -> the paper's tables: means, what is best, what is within noise; as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from data import get_benchmark
from harness.errors import Problem, UserError
from harness.metrics import interval
from harness.statistics import ALPHA, Comparison, compare
from harness.summary import CONTROLS, Result, Table, make_rows

UNRANKED = (*CONTROLS, "oracle_lookahead", "specpc_oracle")
"""Controls and bounds: they save nothing, or use what only a full run of the target knows."""
SHARED = ("dataset_name", "task", "seq_len", "num_samples")
"""Keys of `dataset:` that may differ within a section, and those that only say where the data lie."""
PLACES = ("data_dir", "data_files", "essays", "squad", "hotpotqa", "english_words")
PAGE = 45
"""Lines of a LaTeX table that fit on one."""
Key = tuple[str, str]
"""(length, task) of a run in its line."""
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {"±": r"$\pm$", "≈": r"$\approx$"}


@dataclass(frozen=True)
class Line:
    """A method at a budget, at every length."""

    label: str
    method: str
    budget: str
    group: str
    """The budget that lines are ranked at: a cascade's last."""
    cells: Mapping[Key, Result]

    @property
    def name(self) -> str:
        return f"{self.label} {self.budget}"

    @property
    def ranked(self) -> bool:
        return self.method not in UNRANKED

    def scores(self, keys: Sequence[Key]) -> list[dict] | None:
        """{sample: score} of each run, or None if one is missing."""
        if any(key not in self.cells for key in keys):
            return None
        return [dict(zip(self.cells[key].samples, self.cells[key].scores, strict=True)) for key in keys]


@dataclass(frozen=True)
class Cell:
    """What a line scores in a column."""

    mean: float
    low: float
    high: float
    """95 % bootstrap interval of the mean."""
    n: int
    """Samples, over all tasks."""
    rank: int = 0
    """1: best of its group, 2: second best (none where several are best), judged by what is printed; 0: neither."""
    against: Line | None = None
    """What it was compared with."""
    comparison: Comparison | None = None


@dataclass
class Section:
    """The runs of one benchmark, protocol, model pair and data: what may share a table."""

    benchmark: str
    protocol: str
    pair: str
    data: str
    """What is special about the data, such as `haystack=builtin`."""
    lines: list[Line]
    against: str | None = None
    """The line or method that the others are tested against; None: each group's best."""
    stem: str = ""
    """Of file names and labels: the benchmark, and what else it takes to tell the sections apart."""
    _columns: dict[tuple[Key, ...], list[Cell | None]] = field(default_factory=dict)

    @property
    def keys(self) -> list[Key]:
        """Every (length, task) that a line has, in the order of the published tables."""
        order = list(get_benchmark(self.benchmark).short_names())
        keys = {key for line in self.lines for key in line.cells}
        return sorted(keys, key=lambda key: (len(key[0]), key[0], order.index(key[1])))

    @property
    def lengths(self) -> list[str]:
        return list(dict.fromkeys(length for length, _ in self.keys))

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(line.group for line in self.lines))

    def tasks(self, length: str) -> list[str]:
        return [task for at, task in self.keys if at == length]

    def averages(self, length: str) -> dict[str, tuple[Key, ...]]:
        """{title: runs} of the published averages, the overall one last."""
        averages = get_benchmark(self.benchmark).averages(self.tasks(length))
        return {title: tuple((length, task) for task in tasks) for title, tasks in averages.items()}

    def overall(self, length: str) -> tuple[Key, ...]:
        return list(self.averages(length).values())[-1]

    def remarks(self) -> list[Problem]:
        """Runs that other lines have, and lines whose runs are not all of the same settings."""
        remarks = []
        for line in self.lines:
            for length in self.lengths:
                if absent := [task for task in self.tasks(length) if (length, task) not in line.cells]:
                    where = f"{self.stem} {length}".strip()
                    remarks.append(Problem(f"{where}: {line.name}", "", "no run of " + ", ".join(absent)))
            settings = [{o for o in run.options if not o[0].startswith("dataset.")} for run in line.cells.values()]
            if differ := sorted({o[0] for o in set.union(*settings) - set.intersection(*settings)}):
                text = f"its runs are not all of the same {', '.join(differ)}"
                remarks.append(Problem(f"{self.stem}: {line.name}", "", text))
        return remarks

    def title(self, length: str = "") -> str:
        parts = [self.benchmark, f"length {length}" * bool(length), self.pair, f"protocol {self.protocol}", self.data]
        return ", ".join(part for part in parts if part)

    def record(self, line: Line) -> dict[str, str]:
        """What a line is of, for CSV."""
        words = {"benchmark": self.benchmark, "protocol": self.protocol, "pair": self.pair, "data": self.data}
        return words | {"method": line.label, "budget": line.budget}

    def score(self, line: Line, length: str) -> Cell | None:
        """A line's overall score at a length."""
        return self.column(self.overall(length))[self.lines.index(line)]

    def column(self, keys: tuple[Key, ...]) -> list[Cell | None]:
        """The cell of every line; None where a run is missing, which is never guessed."""
        if keys not in self._columns:
            self._columns[keys] = self._make_column(keys)
        return self._columns[keys]

    def reference(self, group: str) -> Line | None:
        """The line of `against` that a group is tested against: the one at its budget, or a control."""
        named = [line for line in self.lines if self.against in (line.label, line.method)]
        found = [line for line in named if line.group == group] or [line for line in named if line.method in CONTROLS]
        if len(found) > 1:
            text = f"{self.against} has several lines at budget {group}"
            raise UserError(f"--against: {text}. Name one: {', '.join(repr(line.label) for line in found)}")
        return found[0] if found else None

    def _make_column(self, keys: tuple[Key, ...]) -> list[Cell | None]:
        scores = [line.scores(keys) for line in self.lines]
        cells: list[Cell | None] = []
        for tasks in scores:
            if tasks is None:
                cells.append(None)
                continue
            values = [list(task.values()) for task in tasks]
            cells.append(Cell(fmean(map(fmean, values)), *interval(*values), sum(map(len, values))))
        places, references = [], []
        for group in self.groups:
            ranked = [i for i, line in enumerate(self.lines) if line.group == group and line.ranked and cells[i]]
            printed = {i: round(cells[i].mean, 1) for i in ranked}
            for i in ranked if len(ranked) > 1 else ():
                better = sum(mean > printed[i] for mean in printed.values())
                cells[i] = replace(cells[i], rank=(1, 2, 0)[min(better, 2)])
            if self.against is None:
                best = max(ranked, key=lambda i: cells[i].mean) if len(ranked) > 1 else None
                others = ranked
            else:
                line = self.reference(group)
                best = self.lines.index(line) if line else None
                others = [i for i, line in enumerate(self.lines) if line.group == group and cells[i]]
            if best is not None and cells[best]:
                others = [i for i in others if i != best]
                places += others
                references += [best] * len(others)
        family = compare([(scores[b], scores[i]) for i, b in zip(places, references, strict=True)])
        for i, best, comparison in zip(places, references, family, strict=True):
            cells[i] = replace(cells[i], against=self.lines[best], comparison=comparison)
        return cells


def make_sections(results: Sequence[Result], against: str | None = None) -> list[Section]:
    """Results by what may share a table. Raises UserError for a reference that no section has."""
    apart: dict[tuple, list[Result]] = {}
    for result in results:
        options = [
            (name.removeprefix("dataset."), value) for name, value in result.options if name.startswith("dataset.")
        ]
        data = [f"{name}={value}" for name, value in options if name not in SHARED + PLACES or value == "builtin"]
        key = (result.benchmark, result.protocol, result.pair, ", ".join(sorted(data)))
        apart.setdefault(key, []).append(result)
    sections = [Section(*key, _lines(members), against) for key, members in sorted(apart.items())]
    shared = Counter(section.benchmark for section in sections)
    for section in sections:
        section.stem = slug(section.title() if shared[section.benchmark] > 1 else section.benchmark)
    lines = [line for section in sections for line in section.lines]
    if against and not any(against in (line.label, line.method) for line in lines):
        there = ", ".join(dict.fromkeys(line.label for line in lines))
        raise UserError(f"--against: no runs of {against!r}. There are {there}")
    for section in sections if against else ():
        for group in section.groups:
            section.reference(group)
    return sections


def _lines(results: Sequence[Result]) -> list[Line]:
    """The lines of a section: controls first, then by budget, then by method."""
    merged: dict[tuple, dict[Key, Result]] = {}
    orders: dict[tuple, tuple] = {}
    for row in make_rows(results):
        line = (row.label, row.method, row.budget_label)
        control = CONTROLS.index(row.method) if row.method in CONTROLS else len(CONTROLS)
        orders[line] = (control, row.budget[-1:], row.label, row.budget)
        merged.setdefault(line, {}).update({(row.seq_len, task): result for task, result in row.cells.items()})
    return [
        Line(label, method, budget, budget.rpartition(" > ")[2], merged[label, method, budget])
        for label, method, budget in sorted(orders, key=orders.get)
    ]


@dataclass(frozen=True)
class ScoreTable:
    """Lines of a section against columns, ready to be written."""

    slug: str
    caption: str
    section: Section
    columns: Mapping[str, tuple[Key, ...]]
    """{header: runs that are averaged}."""

    def rows(self, mark: Callable[[Cell, str], str], text: Callable[[str], str]) -> Table:
        """`mark` writes a cell's number, `text` escapes words."""
        columns = {title: self.section.column(keys) for title, keys in self.columns.items()}
        usual = {title: Counter(c.n for c in cells if c).most_common(1) for title, cells in columns.items()}
        lines = []
        for i, line in enumerate(self.section.lines):
            words = [text(line.label), text(line.budget)]
            for title, cells in columns.items():
                cell = cells[i]
                if cell is None:
                    words.append("")
                    continue
                number = f"{cell.mean:.1f}"
                if len(self.columns[title]) > 1:
                    number += f" ±{(cell.high - cell.low) / 2:.1f}"
                few = f" (n={cell.n})" if cell.n != usual[title][0][0] else ""
                words.append(mark(cell, text(number)) + text(few))
            lines.append(words)
        return Table([text("method"), text("budget"), *map(text, columns)], lines)

    def markdown(self) -> str:
        """The best is bold, the second best underlined."""

        def mark(cell: Cell, number: str) -> str:
            return {0: number, 1: f"**{number}**", 2: f"<u>{number}</u>"}[cell.rank] + noise_mark(cell)

        return _markdown(self.caption, self.rows(mark, markdown_text))

    def latex(self) -> str:
        """The same; a line above each group of budgets."""

        def mark(cell: Cell, number: str) -> str:
            marked = {0: number, 1: rf"\textbf{{{number}}}", 2: rf"\underline{{{number}}}"}[cell.rank]
            return marked + latex_text(noise_mark(cell))

        groups = [(line.method in CONTROLS, line.group) for line in self.section.lines]
        starts = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
        return _latex(self.slug, self.caption, self.rows(mark, latex_text), starts)

    def records(self) -> list[dict]:
        """A flat row a cell, missing ones too, for CSV."""
        section, records = self.section, []
        for title, keys in self.columns.items():
            for line, cell in zip(section.lines, section.column(keys), strict=True):
                record = {"table": self.slug, **section.record(line), "column": title}
                record["lengths"] = " ".join(dict.fromkeys(length for length, _ in keys))
                record["tasks"] = " ".join(dict.fromkeys(task for _, task in keys))
                if cell:
                    subsets = sorted({line.cells[key].subset for key in keys} - {None})
                    record |= {"n": cell.n, "subset": "; ".join(subsets), "mean": cell.mean}
                    record |= {"low": cell.low, "high": cell.high, "rank": cell.rank or None}
                    record["against"] = cell.against and cell.against.name
                    if found := cell.comparison:
                        record |= {"effect": found.effect, "effect_low": found.low, "effect_high": found.high}
                        record |= {"p": found.p, "p_holm": found.p_holm, "within_noise": found.within_noise}
                        record |= {"common_samples": found.common, "all_samples": found.all}
                records.append(record)
        return records


@dataclass(frozen=True)
class PlainTable:
    """A table of words."""

    slug: str
    caption: str
    table: Table

    def markdown(self) -> str:
        return _markdown(self.caption, self._escaped(markdown_text))

    def latex(self) -> str:
        return _latex(self.slug, self.caption, self._escaped(latex_text), [])

    def _escaped(self, text: Callable[[str], str]) -> Table:
        return Table([*map(text, self.table.header)], [[*map(text, line)] for line in self.table.lines])


def noise_mark(cell: Cell) -> str:
    """What follows a number: ≈ within noise of the reference, ? where nothing could be compared."""
    if cell.against is None:
        return ""
    return " ?" if cell.comparison is None else " ≈" if cell.comparison.within_noise else ""


def _markdown(caption: str, table: Table) -> str:
    return f"{markdown_text(caption)}\n\n{table.markdown()}"


def _latex(slug: str, caption: str, table: Table, starts: Sequence[int]) -> str:
    r"""A `table*`, or a `longtable` where it is longer than a page; needs booktabs (and longtable).

    starts: the lines that begin a group, and have a rule above them.
    """
    body = []
    for i, words in enumerate(table.lines):
        body += [r"\midrule"] * (i in starts) + [" & ".join(words) + r" \\"]
    columns = "ll" + "r" * (len(table.header) - 2)
    title = rf"\caption{{{latex_text(caption)}}}\label{{tab:{slug}}}"
    head = [r"\toprule", " & ".join(table.header) + r" \\", r"\midrule"]
    if len(table.lines) > PAGE:
        top = [rf"\begin{{longtable}}{{{columns}}}", title + r" \\", *head, r"\endfirsthead", *head, r"\endhead"]
        return "\n".join([*top, *body, r"\bottomrule", r"\end{longtable}"])
    top = [r"\begin{table*}", r"\centering", title, rf"\begin{{tabular}}{{{columns}}}", *head]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}", r"\end{table*}"])


def make_tables(section: Section) -> list[ScoreTable]:
    """Overall score by length, then for each length the averages and the tasks."""
    stem = section.stem
    short = get_benchmark(section.benchmark).short_names()
    tables = []
    titles = {length: list(section.averages(length))[-1] for length in section.lengths}
    if len(section.lengths) > 1:
        same = len(set(titles.values())) == 1
        columns = {
            length if same else f"{length} ({title})": section.overall(length) for length, title in titles.items()
        }
        what = f"by length ({next(iter(titles.values()))} tasks)" if same else "by length"
        tables.append(ScoreTable(f"{stem}-lengths", _caption(section, what, columns), section, columns))
    for length in section.lengths:
        averages = section.averages(length)
        tail = f"-{length}" if length else ""
        if len(averages) > 2:  # one category and the overall mean say what the tasks' table says
            caption = _caption(section, "averages", averages, length)
            tables.append(ScoreTable(f"{stem}{tail}", caption, section, averages))
        columns = {short[task]: ((length, task),) for task in section.tasks(length)}
        columns |= {titles[length]: section.overall(length)}
        tables.append(
            ScoreTable(f"{stem}{tail}-tasks", _caption(section, "by task", columns, length), section, columns)
        )
    return tables


def _caption(section: Section, what: str, columns: Mapping[str, tuple[Key, ...]], length: str = "") -> str:
    """What is shown, how it is marked, and what a reader has to be told about the runs."""
    keys = dict.fromkeys(key for keys in columns.values() for key in keys)
    results = [line.cells[key] for line in section.lines for key in keys if key in line.cells]
    counts = sorted({len(result.scores) for result in results})
    subsets = sorted({result.subset or "all" for result in results})
    n = f"{counts[0]} samples a task" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} samples a task"
    parts = [f"{section.title(length)}: mean score {what}, {n} ({'; '.join(subsets)})."]
    parts.append("±: half the width of the average's 95 % bootstrap interval (samples drawn within each task).")
    parts.append("Bold, underlined: best and second best at a budget.")
    if bounds := [m for m in UNRANKED if any(line.method == m for line in section.lines)]:
        parts.append(f"Not ranked: {', '.join(bounds)}.")
    reference = section.against or "the best"
    reference += " at the same budget" * (reference not in CONTROLS)
    parts.append(
        f"≈: not told apart from {reference}: paired sign-flip permutation test by sample, "
        f"Holm-corrected over the comparisons of a column, p ≥ {ALPHA}."
    )
    if section.against is None:
        parts.append("The best is picked from these very scores, which makes its lead look a little larger.")
    cells = [cell for column in columns.values() for cell in section.column(column) if cell]
    tested = [cell.comparison for cell in cells if cell.comparison]
    if partial := [c for c in tested if c.common < c.all]:
        least = min(partial, key=lambda c: c.common / c.all)
        parts.append(
            f"{len(partial)} of {len(tested)} comparisons are of methods with unequal samples and use the common ones, "
            f"at worst {least.common} of {least.all}."
        )
    if any(cell.against and cell.comparison is None for cell in cells):
        parts.append("?: no samples in common with the reference.")
    if any(not cell for column in columns.values() for cell in section.column(column)):
        parts.append("Blank: runs are missing.")
    if simulated := sorted({r.method for r in results if r.simulated}):
        parts.append(f"Simulated (masks what it drops, frees nothing): {', '.join(simulated)}.")
    return " ".join(parts)


def slug(text: str) -> str:
    """Words as a file's name or a label."""
    return re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-")


def markdown_text(text: str) -> str:
    """Words that Markdown shows as they are. `Table.markdown` sees to the bars."""
    text = re.sub(r"([\\`*<\[\]])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def latex_text(text: str) -> str:
    """Words that LaTeX shows as they are."""
    return "".join(LATEX.get(character, character) for character in text)
