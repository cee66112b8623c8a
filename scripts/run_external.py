"""Run the runs whose method is another tool's: python scripts/run_external.py --cfg cfg/…

Samples are rendered here, answered by the tool in an environment of its own (external/README.md), and scored and
tabulated here: results/ holds them like eval.py's, which leaves these runs out. Stop it at any time: the same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Two busy cores would make OpenMP's spinning threads slow each other down tenfold. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from data.benchmark import Sample  # noqa: E402
from eval import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, positive, show_only, tell  # noqa: E402
from external.answering import Answerer, Desk  # noqa: E402
from external.client import ToolError, python_of  # noqa: E402
from harness.config import parse_overrides  # noqa: E402
from harness.errors import Problem, UserError, format_problems  # noqa: E402
from harness.models import ModelError, ModelPool  # noqa: E402
from harness.plan import Plan, Run, make_plan  # noqa: E402
from harness.results import ResultsError, RunWriter  # noqa: E402
from harness.rows import DataError, Samples, failed_row, finish, load_samples, make_row, open_writer  # noqa: E402
from harness.runner import too_long  # noqa: E402
from harness.summary import summarise  # noqa: E402
from harness.tracking import Tracker, make_tracker  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Parse, plan, run, summarise. Returns 0 (all done), 1 (some run failed), 2 (bad input) or 130 (interrupted)."""
    args = parse(argv)
    try:
        plan = make_plan(args.cfg, parse_overrides(args.set), args.output, args.limit, args.overwrite)
        runs = plan.left_to_tools()
        if args.dry_run:
            return show_only(describe(plan, runs))
        print(describe(plan, runs))
        for tool in dict.fromkeys(run.config.method.tool for run in runs):
            python_of(tool)
        tracker = make_tracker(plan, args.output, args.no_log, tell)
    except UserError as exc:
        print(exc, file=sys.stderr)
        return EXIT_USAGE
    try:
        failures = run_all(plan, runs, args.overwrite, tracker)
    except UserError as exc:
        print(exc, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        again = "Run the same command" + (" without --overwrite" if args.overwrite else "") + " to go on"
        print(f"\ninterrupted; what was predicted is in {args.output}/. {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        tracker.close()
    text, path = summarise(plan, args.output, failures)
    print(f"\n{text}\n\nwritten to {path}")
    if failures:
        problems = [Problem(str(args.output / name), "", why) for name, why in failures.items()]
        print(format_problems(problems), file=sys.stderr)
    return EXIT_FAILED if failures else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line: eval.py's, as far as it applies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", action="extend", required=True, help="YAML files, folders or globs")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override, for all runs"
    )
    parser.add_argument("--limit", type=positive, help="only the first N samples of each data set")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; starts no tool")
    parser.add_argument("--overwrite", action="store_true", help="start the runs afresh, replacing their results")
    parser.add_argument("--no_log", action="store_true", help="do not log to Weights & Biases")
    parser.add_argument("--output", type=Path, default=Path("results"), help="where results go (default: results/)")
    return parser.parse_args(argv)


def describe(plan: Plan, runs: Sequence[Run], listed: int = 40) -> str:
    """What there is to do for tools; the plan's other runs are eval.py's."""
    external = [run for run in plan.runs if run.config.external]
    others = len(plan.runs) - len(external)
    lines = [f"runs of external tools: {len(external)}, {len(runs)} of them not done"]
    if others:
        lines.append(f"eval.py's runs, left to it: {others}")
    for run in external[:listed]:
        state = plan.states[run.name]
        rows = f", predictions: {state.rows}" if state.rows else ""
        lines.append(f"  {run.name} ({run.config.method.tool}): {state.status.value}{rows}")
    if external[listed:]:
        lines.append(f"  and {len(external) - listed} more")
    return "\n".join(lines)


def run_all(plan: Plan, runs: Sequence[Run], overwrite: bool, tracker: Tracker) -> dict[str, str]:
    """Do the runs, {name: why not} of those that failed. Raises UserError if nothing more can be done."""
    if not runs:
        print("nothing to run here")
        return {}
    total = sum(plan.samples_left(run) or 0 for run in runs)
    every = 0.5 if sys.stderr.isatty() else 10  # seconds: a log file wants fewer lines
    with tqdm(total=total, unit="sample", dynamic_ncols=True, mininterval=every) as bar, Desk(ModelPool()) as desk:
        return Sweep(plan, desk, bar, overwrite, tracker).run(runs)


class Sweep:
    """Runs, one after another; a sample or a run that fails is recorded, and the rest goes on."""

    def __init__(self, plan: Plan, desk: Desk, bar: tqdm, overwrite: bool, tracker: Tracker):
        self.plan, self.desk, self.bar, self.overwrite, self.tracker = plan, desk, bar, overwrite, tracker
        self.failures: dict[str, str] = {}

    def run(self, runs: Sequence[Run]) -> dict[str, str]:
        """{name: why not} of the runs that are not complete."""
        tools = dict.fromkeys(run.config.method.tool for run in runs)
        groups = [group.runs for pair in self.plan.groups for group in pair.data]
        # tool by tool: only one worker is alive at a time
        for tool, members in product(tools, groups):
            data = None
            for run in (run for run in runs if run in members and run.config.method.tool == tool):
                self.bar.set_postfix_str(run.name, refresh=False)
                try:
                    data = data or load_samples(run, self.desk.pool, self.plan.limit)
                    with open_writer(run, self.overwrite) as writer:
                        why = self._run(run, data, writer)
                except (DataError, ModelError, ResultsError, ToolError) as exc:
                    why = str(exc)
                if why:
                    self.failures[run.name] = why
                self.tracker.ended(run, why)
        return self.failures

    def _run(self, run: Run, data: Samples, writer: RunWriter) -> str | None:
        """Why the run is not complete, or None."""
        missing = data.missing(writer)
        self.bar.total += len(missing) - (self.plan.samples_left(run) or 0)  # what the plan could only guess
        writer.keep_prompt(data.samples[0].prompt)
        self.tracker.opened(run, data.samples, len(writer.good))
        # what a tool rewrites is within the budget when it is read
        if not run.config.method.rewrites and (why := too_long(run, missing, data, self.desk.pool)):
            return why
        if missing:
            with ExitStack() as stack:
                self._answer(run, missing, data, writer, self.desk.answerer(run, data.tokenizer, stack))
        return finish(run, data, writer)

    def _answer(self, run: Run, missing: Sequence[Sample], data: Samples, writer: RunWriter, answer: Answerer) -> None:
        for sample in missing:
            try:
                row = make_row(run, sample, answer(sample, data.ids(sample).tolist()), batch_size=1, branches=1)
            except ToolError:  # no answer to be had for the others either
                raise
            except Exception as exc:  # out of memory, a press that does not fit the prompt …
                row = failed_row(sample, exc)
            writer.append(row)
            self.bar.update()


if __name__ == "__main__":
    sys.exit(main())
