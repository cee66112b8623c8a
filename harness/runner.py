"""Executes a plan: group by group, sample by sample, every answer on disk before the next is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from data.benchmark import Sample
from harness.config import ModelSpec, show
from harness.errors import Problem, ProblemsError
from harness.joint import Joint
from harness.models import ModelError, ModelPool
from harness.plan import Plan, Run, chunks
from harness.results import ResultsError, RunWriter
from harness.rows import DataError, Samples, finish, load_samples, open_writer
from harness.tracking import NoTracker, Tracker


@dataclass
class Report:
    """What a sweep came to."""

    finished: list[str] = field(default_factory=list)
    """Names of the runs that this invocation completed."""
    failures: dict[str, str] = field(default_factory=dict)
    """Run name -> why it is not complete."""


def preflight(plan: Plan, pool: ModelPool) -> None:
    """What tokenizers and model configs tell, for all pairs, before any model loads. Raises ProblemsError."""
    problems = []
    for pair in plan.groups:
        runs = [run for run in pair.runs if plan.to_do(run)]
        if not runs:
            continue
        needs_draft = any(run.config.draft for run in runs)
        try:
            for spec in dict.fromkeys(spec for run in runs for spec in _readers_of_prompt(run)):
                pool.check_attention(spec)
            pool.check_pair(pair.target, pair.draft if needs_draft else None)
            for run in runs:
                helper, first = run.config.helper, run.config.method.first_draft_layer
                if helper and first and first >= (layers := pool.layers(helper) or first + 1):
                    text = f"{first} is past the {layers} layers of {helper.label}. Choose a lower one"
                    problems.append(Problem(show(run.config.path), "sparse_config … starting_layer_index", text))
                seq_len = run.config.dataset.get("seq_len")
                for spec in _readers_of_prompt(run):
                    positions = pool.positions(spec)
                    if seq_len and positions and seq_len > positions:
                        text = f"{seq_len} exceeds the {positions} positions of {spec.label}. Lower it"
                        problems.append(Problem(show(run.config.path), "dataset.seq_len", text))
        except ModelError as exc:
            problems += [Problem(show(run.config.path), "", str(exc)) for run in runs]
    if problems:
        raise ProblemsError(problems)


@dataclass
class Branch:
    """One of the runs that read a sample together: its open folder, and the samples that it began without."""

    run: Run
    writer: RunWriter
    missing: set[int]
    """Indices."""


class Runner:
    """Runs a plan's unfinished runs. A sample or a run that fails is recorded, and the rest goes on.

    Of the first `kept` samples of a run, what its method kept of the prompt is recorded, too.
    Raises StorageError if the disk refuses a write: everything after that would be lost too.
    """

    def __init__(
        self, plan: Plan, pool: ModelPool, overwrite: bool = False, tracker: Tracker | None = None, kept: int = 0
    ):
        self.plan, self.pool, self.overwrite, self.kept = plan, pool, overwrite, kept
        self.tracker = tracker or NoTracker()
        self.report = Report()

    def run(self) -> Report:
        """Execute and report."""
        total = sum(self.plan.samples_left(run) or 0 for run in self.plan.unfinished())
        every = 0.5 if sys.stderr.isatty() else 10  # seconds: a log file wants fewer lines
        with tqdm(total=total, unit="sample", dynamic_ncols=True, mininterval=every) as self.bar:
            for pair in self.plan.groups:
                for group in pair.data:
                    runs = [run for run in group.runs if self.plan.to_do(run)]
                    if runs:
                        self.pool.retain((pair.target, pair.draft))
                        self._data_group(runs)
        return self.report

    def _data_group(self, runs: Sequence[Run]) -> None:
        self.bar.set_postfix_str(f"making or reading the data of {runs[0].name}", refresh=False)
        try:
            data = load_samples(runs[0], self.pool, self.plan.limit)
        except DataError as exc:
            for run in runs:
                self._fail(run, str(exc))
            return
        with Joint(self.pool, data) as joint:
            for chunk in chunks(runs, self.plan.branches):
                # only this chunk's folders are open: a system's limit of open files can be as low as 256
                with ExitStack() as folders:
                    opened = [self._open(run, data, folders) for run in chunk]
                    branches = [branch for branch in opened if branch]
                    self._answer(branches, data, joint)
                    for branch in branches:
                        self._finish(branch, data, joint)

    def _open(self, run: Run, data: Samples, folders: ExitStack) -> Branch | None:
        """The run, ready to be written; None where it is refused, which costs the other runs nothing."""
        try:
            writer = folders.enter_context(open_writer(run, self.overwrite))
            missing = data.missing(writer)
            self.bar.total += len(missing) - (self.plan.samples_left(run) or 0)  # what the plan could only guess
            writer.keep_prompt(data.samples[0].prompt)
            self.tracker.opened(run, data.samples, len(writer.good))
            why = too_long(run, missing, data, self.pool)
        except (ResultsError, ModelError) as exc:
            self._fail(run, str(exc))
            return None
        if why:
            self._fail(run, why)
            return None
        return Branch(run, writer, {sample.index for sample in missing})

    def _answer(self, branches: Sequence[Branch], data: Samples, joint: Joint) -> None:
        """Every batch of samples is answered for all the runs that miss it before the next is looked at."""

        def missed_by(sample: Sample) -> tuple[str, ...]:
            return tuple(branch.run.name for branch in branches if sample.index in branch.missing)

        writers = {branch.run.name: branch.writer for branch in branches}
        shown = {sample.index: sample for sample in data.samples[: self.kept]}
        samples = [sample for sample in data.samples if missed_by(sample)]
        size = branches[0].run.config.batch_size if branches else 1
        for batch in batches(samples, size, missed_by):
            runs = [branch.run for branch in branches if batch[0].index in branch.missing]
            for run, row, kept in joint.answer(batch, runs):
                shows = kept and not row["error"] and shown.get(row["index"])
                writers[run.name].append(row, data.kept_record(shows, kept) if shows else None)
                self.bar.update()
            self.bar.set_postfix_str(_at_work(runs, writers[runs[0].name]), refresh=False)

    def _finish(self, branch: Branch, data: Samples, joint: Joint) -> None:
        run = branch.run
        if why_not := joint.refused.get(run.name) or finish(run, data, branch.writer):
            self._fail(run, why_not)
        else:
            self.report.finished.append(run.name)
            self.tracker.ended(run)

    def _fail(self, run: Run, why: str) -> None:
        # the bar cannot know what the run would have taken: it stays short of its end, as the sweep does
        self.report.failures[run.name] = why
        self.tracker.ended(run, why)


def too_long(run: Run, missing: Sequence[Sample], data: Samples, pool: ModelPool) -> str | None:
    """Why a sample cannot fit its models' positions, or None."""
    for spec in _readers_of_prompt(run):
        positions = pool.positions(spec)
        for sample in missing:
            tokens = len(data.ids(sample))
            if positions and not sample.may_exceed_positions and tokens + sample.max_new_tokens > positions:
                return (
                    f"sample {sample.index} has {tokens} prompt tokens and {sample.max_new_tokens} to generate, "
                    f"more than the {positions} positions of {spec.label}. "
                    f"In the configuration, {run.benchmark.length_option}; or take another model"
                )
    return None


def batches(
    samples: Sequence[Sample], size: int, missed_by: Callable[[Sample], Hashable] = lambda _: None
) -> list[list[Sample]]:
    """In order, at most `size` together, all of a batch missed by the same runs and to be answered in the same way."""

    def way(sample: Sample) -> tuple:
        return sample.max_new_tokens, sample.stop_token_ids, sample.clean_up_tokenization_spaces, missed_by(sample)

    result: list[list[Sample]] = []
    for sample in samples:
        if result and len(result[-1]) < size and way(result[-1][0]) == way(sample):
            result[-1].append(sample)
        else:
            result.append([sample])
    return result


def _readers_of_prompt(run: Run) -> list[ModelSpec]:
    """The models that a run's prompt passes through."""
    return [spec for spec in (run.config.reader, run.config.helper) if spec]


def _at_work(runs: Sequence[Run], first: RunWriter) -> str:
    """What the bar shows: a run with its score so far, or how many runs are answered together."""
    config = runs[0].config
    if len(runs) > 1:
        dataset = config.dataset
        return f"{len(runs)} runs of {'/'.join(str(dataset[k]) for k in ('dataset_name', 'task') if k in dataset)}"
    scores = [row[f"score_{config.protocol}"] for row in first.good.values()]
    return f"{runs[0].name}, score {np.mean(scores):.1f}" if scores else f"{runs[0].name}, score -"
