"""One page to look at results in: python scripts/report.py results/demo -o report.html

Tables to sort and filter, figures to point at, and every sample: what each method answered beside the reference, and
which tokens of the prompt it kept (of the samples that eval.py --kept recorded). The page is one file and needs no
network; it holds model output, prompts included, as text alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval import whole  # noqa: E402
from harness.errors import UserError, format_problems  # noqa: E402
from harness.report import page_data, render  # noqa: E402
from harness.results import write_atomically  # noqa: E402
from harness.tables import make_sections  # noqa: E402
from harness.tree import read_tree  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        results, problems = read_tree(args.results, args.methods)
        if not results:
            raise UserError(f"nothing to show: no run is finished.\n{format_problems(problems)}")
        sections = make_sections(results, args.against)
        problems += [problem for section in sections for problem in section.remarks()]
        data, problems = page_data(sections, problems, args.samples)
        page = render(data, args.title or " ".join(map(str, args.results)))
        write_atomically(args.output, page)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.output}: {len(results)} runs, {os.path.getsize(args.output) / 2**20:.1f} MiB")
    if problems:
        print(f"Missing, left out, or to be known ({len(problems)}):\n{format_problems(problems)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="folders with runs below")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--samples", type=whole, default=10, metavar="N", help="of each run to show (default: 10)")
    parser.add_argument("--title", help="default: the folders")
    parser.add_argument(
        "--against", metavar="METHOD", help="test against this one, not against the best of each budget"
    )
    parser.add_argument("--methods", nargs="+", default=(), metavar="METHOD", help="only these (sparse_type)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
