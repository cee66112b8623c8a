"""Run experiments: python eval.py --cfg cfg/demo

Expands YAML files into runs, groups them by model pair and data set, keeps every prediction under results/, and ends
with a table. Stop it at any time: the same command goes on where it stopped. See results/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from harness.config import parse_overrides
from harness.describe import describe
from harness.errors import Problem, UserError, format_problems
from harness.plan import BRANCHES, Plan, make_plan

# Two busy cores would make OpenMP's spinning threads slow each other down tenfold. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MAX_BRANCHES = 256
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Parse, plan, run, summarise. Returns 0 (all done), 1 (some run failed), 2 (bad input) or 130 (interrupted)."""
    args = parse(argv)
    try:
        overrides = parse_overrides(args.set)
        plan = make_plan(args.cfg, overrides, args.output, args.limit, args.overwrite, args.branches)
    except UserError as exc:
        print(exc, file=sys.stderr)
        return EXIT_USAGE
    if args.dry_run:
        return show_only(describe(plan))
    print(describe(plan))
    try:
        return execute(plan, args)
    except UserError as exc:
        print(exc, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        again = "Run the same command" + (" without --overwrite" if args.overwrite else "") + " to go on"
        print(f"\ninterrupted; what was predicted is in {args.output}/. {again}", file=sys.stderr)
        return EXIT_INTERRUPTED


def show_only(text: str) -> int:
    """Prints what a dry run has to say; a reader that has seen enough (`| head -3`) is no error to tell of."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still buffered would be written, and fail again, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg", nargs="+", action="extend", required=True, help="YAML files, folders or globs (quoted or not)"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override, for all runs"
    )
    parser.add_argument("--limit", type=positive, help="only the first N samples of each data set")
    parser.add_argument(
        "--branches",
        type=branches,
        default=BRANCHES,
        metavar="N",
        help="the most runs that read a sample together, sharing what is equal; times `batch_size` are the rows that "
        f"are decoded together (default: {BRANCHES}). 1: every run on its own, which timings want",
    )
    parser.add_argument(
        "--kept",
        type=whole,
        default=2,
        metavar="N",
        help="record for the first N samples of a run what its method kept of the prompt, for scripts/report.py "
        "(default: 2; some 10 bytes a prompt token)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; loads no model")
    parser.add_argument("--overwrite", action="store_true", help="start the runs afresh, replacing their results")
    parser.add_argument("--no_log", action="store_true", help="do not log to Weights & Biases")
    parser.add_argument("--output", type=Path, default=Path("results"), help="where results go (default: results/)")
    return parser.parse_args(argv)


def whole(text: str) -> int:
    """argparse type: a whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}")
    return int(text)


def positive(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def branches(text: str) -> int:
    """argparse type: how many runs' folders may be open at once, two files each."""
    if positive(text) > MAX_BRANCHES:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_BRANCHES}, not {text}: each keeps two files open")
    return int(text)


def tell(text: str) -> None:
    """A line on standard error that leaves the progress bar whole."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def execute(plan: Plan, args: argparse.Namespace) -> int:
    """Run what is not done, then the summary. Raises UserError."""
    failures: dict[str, str] = {}
    if plan.unfinished():
        # torch takes seconds to import: not before the plan stands
        from harness.models import ModelPool
        from harness.runner import Runner, preflight
        from harness.tracking import make_tracker

        pool = ModelPool()
        try:
            tracker = make_tracker(plan, args.output, args.no_log, tell)
            preflight(plan, pool)
        except UserError as exc:
            print(exc, file=sys.stderr)
            return EXIT_USAGE
        try:
            failures = Runner(plan, pool, args.overwrite, tracker, args.kept).run().failures
        finally:
            tracker.close()
    elif plan.left_to_tools():
        print("nothing to run here: what is left is for external tools")
    else:
        print("everything is done already; nothing to run")
    from harness.summary import summarise

    text, path = summarise(plan, args.output, failures)
    print(f"\n{text}\n\nwritten to {path}")
    if failures:
        problems = [Problem(str(args.output / name), "", why) for name, why in failures.items()]
        print(format_problems(problems), file=sys.stderr)
    return EXIT_FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
