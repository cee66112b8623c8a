"""The comparison dashboard in Weights & Biases, over the runs that eval.py logged: a W&B report.

python scripts/wandb_report.py --cfg cfg/demo -o report.json                    # its spec, to look at; no network
python scripts/wandb_report.py --cfg cfg/demo --entity TEAM --save              # the report itself; prints its address

A section for every benchmark, target model, protocol and length of --cfg: score by method and budget, score against
budget, and score against bytes and against latency with their Pareto fronts. Runs are found by their configuration, so
it can be made before they are done. Latency is plotted for runs that were answered on their own (eval.py --branches 1).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import wandb_workspaces.expr as expr  # noqa: E402
import wandb_workspaces.reports.v2 as wr  # noqa: E402

from harness.config import parse_overrides  # noqa: E402
from harness.errors import UserError  # noqa: E402
from harness.plan import Plan, make_plan  # noqa: E402
from harness.results import write_atomically  # noqa: E402
from harness.summary import CAPACITY  # noqa: E402
from harness.tracking import PROJECT, facets_of  # noqa: E402

SECTION = ("benchmark", "target", "protocol", "seq_len")
PHASES = ("draft", "prefill", "decode")
METHOD = ["config.method", "config.budget"]
EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 (W&B refuses the report) or 2 (bad input)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", action="extend", required=True, help="as eval.py's")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as eval.py's")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT") or PROJECT)
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team; --save needs it")
    parser.add_argument("--title", default="Methods, budgets and lengths")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/wandb_report.json"), help="the spec's file")
    parser.add_argument("--save", action="store_true", help="also make the report in W&B")
    args = parser.parse_args(argv)
    if args.save and not args.entity:
        parser.error("--save needs --entity (or WANDB_ENTITY): the user or team whose project it is")
    try:
        plan = make_plan(args.cfg, parse_overrides(args.set), Path("results"), overwrite=True)
        report = build(plan, args.entity or "", args.project, args.title)
        write_atomically(args.output, spec(report))
    except UserError as exc:
        print(exc, file=sys.stderr)
        return EXIT_USAGE
    print(f"written to {args.output}")
    if args.save:
        try:
            report.save()
        except Exception as exc:  # no key, no network, no such project, …
            print(f"W&B did not take it: {exc}\nLog in with `wandb login`, or see {args.output}", file=sys.stderr)
            return EXIT_FAILED
        print(report.url)
    return 0


def spec(report: wr.Report) -> str:
    """What `report.save()` would send, as JSON."""
    return report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"


def build(plan: Plan, entity: str, project: str, title: str) -> wr.Report:
    """The report over a plan's runs. Asks no server."""
    facets = [
        facets_of(run, pair) | {"protocol": run.config.protocol, "run": run}
        for pair in plan.groups
        for run in pair.runs
    ]
    blocks: list = [
        wr.P("Scores are 0 to 100, means over tasks where a group holds several. Bytes are those of the KV cache.")
    ]
    lengths = {facet["seq_len"] for facet in facets if facet["seq_len"]}
    if len(lengths) > 1:
        x = wr.Config("seq_len")
        by_length = wr.ScatterPlot(title="Score against length", x=x, y=wr.SummaryMetric("score"), log_x=True)
        runset = _runset("all lengths", {}, [*METHOD, "config.seq_len"])
        blocks += [wr.H2("Lengths"), _grid([runset], [by_length])]
    for key in sorted({tuple(facet[name] for name in SECTION) for facet in facets}, key=str):
        section = {name: value for name, value in zip(SECTION, key, strict=True) if value is not None}
        members = [facet for facet in facets if tuple(facet[name] for name in SECTION) == key]
        blocks += _section(section, members)
    return wr.Report(entity=entity, project=project, title=title, blocks=blocks, width="fluid")


def _section(section: dict, members: Iterable[dict]) -> list:
    members = list(members)
    benchmark = members[0]["run"].benchmark
    tasks = sorted({facet["task"] for facet in members}, key=list(benchmark.short_names()).index)
    averages = benchmark.averages(list(benchmark.short_names()))
    titles = [title for title, named in averages.items() if set(named) & set(tasks)]
    score = wr.SummaryMetric("score")

    def front(title: str, metric: str) -> wr.ScatterPlot:
        return wr.ScatterPlot(title=title, x=wr.SummaryMetric(metric), y=score, log_x=True, running_ymax=True)

    def bars(title: str, prefix: str, names: list[str]) -> wr.BarPlot:
        return wr.BarPlot(title=title, metrics=[wr.SummaryMetric(f"{prefix}/{name}") for name in names])

    name = ", ".join(f"length {value}" if key == "seq_len" else str(value) for key, value in section.items())
    panels = [
        wr.BarPlot(title="Score by method and budget", metrics=[score]),
        wr.ScatterPlot(title="Score against budget", x=wr.Config(CAPACITY), y=score, log_x=True),
        front("Pareto: score against KV cache bytes", "cache_bytes"),
        front("Pareto: score against peak KV cache bytes", "peak_cache_bytes"),
        bars("By category", "category", titles),
        bars("By task", "task", tasks),
    ]
    latency = [
        front("Pareto: score against latency", "latency_seconds"),
        wr.BarPlot(title="Seconds a phase", metrics=[wr.SummaryMetric(f"{p}_seconds") for p in PHASES]),
    ]
    progress = wr.LinePlot(title="Score while it runs", x="progress/samples", y=["progress/score"])
    groupby = METHOD + ["config.draft"] * (len({facet["draft"] for facet in members} - {None}) > 1)
    alone = expr.Summary("branches") == 1
    return [
        wr.H2(name),
        _grid([_runset(name, section, groupby)], [*panels, progress]),
        wr.P("Seconds, of runs that were answered on their own (--branches 1):"),
        _grid([_runset(f"{name}, on its own", section, groupby, alone)], latency),
    ]


def _runset(name: str, section: dict, groupby: list[str], *filters: expr.FilterExpr) -> wr.Runset:
    """Finished runs of a section. No entity and project: the report's own, and no server is asked for its number."""
    wanted = [expr.Metric("State") == "finished", *(expr.Config(key) == value for key, value in section.items())]
    return wr.Runset(name=name, filters=expr.And(*wanted, *filters), groupby=groupby)


def _grid(runsets: list, panels: list, across: int = 3) -> wr.PanelGrid:
    """Panels side by side."""
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (number % across), y=6 * (number // across), w=8, h=6)
    return wr.PanelGrid(runsets=runsets, panels=panels)


if __name__ == "__main__":
    sys.exit(main())
