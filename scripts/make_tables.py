"""The paper's tables, and its plots, from finished results.

    python scripts/make_tables.py results/demo
    python scripts/make_tables.py results/paper results/baselines --against speckv --plots --output paper/tables

Writes tables.md, tables.tex (booktabs, longtable), tables.csv (a row a cell, with intervals and p values) and, with
--plots, PNG and SVG. Reads run folders alone, so it cannot miss runs that were never begun. Blank is what
other lines have and a line has not; it is listed at the end of tables.md, and printed.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.errors import Problem, UserError, format_problems  # noqa: E402
from harness.published import PUBLISHED, Joined, join, published_tables, read_published  # noqa: E402
from harness.results import write_atomically  # noqa: E402
from harness.tables import PlainTable, ScoreTable, make_sections, make_tables, markdown_text  # noqa: E402
from harness.tree import read_tree  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 for bad input."""
    args = _parser().parse_args(argv)
    output = args.output or args.results[0] / "tables"
    try:
        results, problems = read_tree(args.results, args.methods)
        sections = make_sections(results, args.against)
        problems += [problem for section in sections for problem in section.remarks()]
        joined, apart = join(read_published(args.published), sections)
        scores = [table for section in sections for table in make_tables(section)]
        tables = [*scores, *published_tables(joined, apart)]
        written = ["tables.md", "tables.tex", "tables.csv"]
        if args.plots:
            from harness.plots import plot_section  # matplotlib takes a second to import

            for section in sections:
                files, notes = plot_section(section, output)
                written += files
                problems += notes
        write_atomically(output / "tables.md", _markdown(tables, problems))
        write_atomically(output / "tables.tex", "\n\n".join(table.latex() for table in tables) + "\n")
        write_atomically(output / "tables.csv", _csv(scores, joined))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(results)} runs, {len(tables)} tables; in {output}:\n" + "\n".join(f"  {name}" for name in written))
    if problems:
        print(f"{_heading(problems)}:\n{format_problems(problems)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="folders with runs below")
    parser.add_argument("--output", type=Path, help="default: tables/ in the first of RESULTS")
    parser.add_argument(
        "--against", metavar="METHOD", help="test against this one, not against the best of each budget"
    )
    parser.add_argument("--methods", nargs="+", default=(), metavar="METHOD", help="only these (sparse_type)")
    parser.add_argument("--plots", action="store_true", help="figures too")
    parser.add_argument("--published", type=Path, default=PUBLISHED, metavar="FILE", help="published scores")
    return parser


def _heading(problems: Sequence[Problem]) -> str:
    return f"Missing (blank above), left out, or to be known ({len(problems)})"


def _markdown(tables: Sequence[ScoreTable | PlainTable], problems: Sequence[Problem]) -> str:
    parts = [table.markdown() for table in tables]
    if problems:
        listed = "\n".join(f"- {markdown_text(f'{problem.where}: {problem.text}')}" for problem in problems)
        parts.append(f"{_heading(problems)}:\n\n{listed}")
    return "\n\n".join(parts) + "\n"


def _csv(scores: Sequence[ScoreTable], joined: Sequence[Joined]) -> str:
    """A row a cell; published scores are in rows of their own."""
    records = [record for table in scores for record in table.records()]
    records += [one.record() for one in joined]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
