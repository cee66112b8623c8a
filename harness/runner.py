"""Executes a plan: group by group, run by run, batch by batch, every answer on disk before the next is asked for."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from data.benchmark import Sample
from harness.config import ModelSpec, show
from harness.errors import Problem, ProblemsError
from harness.metrics import run_metrics
from harness.models import ModelError, ModelPool, encode, free_memory
from harness.plan import Plan, Run
from harness.results import ResultsError, RunWriter, Status


@dataclass
class Report:
    """What a sweep came to."""

    finished: list[str] = field(default_factory=list)
    """Names of the runs that this invocation completed."""
    failures: dict[str, str] = field(default_factory=dict)
    """Run name -> why it is not complete."""


@dataclass
class Samples:
    """A rendered data set, shared by all its runs: the samples and, made when first needed, their token ids."""

    samples: list[Sample]
    exhausted: bool
    """There are no more."""
    tokenizer: Any
    _ids: dict[int, np.ndarray] = field(default_factory=dict)

    def ids(self, sample: Sample) -> np.ndarray:
        """int32 [prompt tokens]: a tenth of the memory of a list."""
        if sample.index not in self._ids:
            self._ids[sample.index] = np.asarray(encode(self.tokenizer, sample), dtype=np.int32)
        return self._ids[sample.index]


def preflight(plan: Plan, pool: ModelPool) -> None:
    """What tokenizers and model configs tell, for all pairs, before any model loads. Raises ProblemsError."""
    problems = []
    for pair in plan.groups:
        runs = [run for run in pair.runs if plan.states[run.name].status is not Status.DONE]
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


class Runner:
    """Runs a plan's unfinished runs. A sample or a run that fails is recorded, and the rest goes on.

    Raises StorageError if the disk refuses a write: everything after that would be lost too.
    """

    def __init__(self, plan: Plan, pool: ModelPool, overwrite: bool = False):
        self.plan, self.pool, self.overwrite = plan, pool, overwrite
        self.report = Report()

    def run(self) -> Report:
        """Execute and report."""
        total = sum(self.plan.samples_left(run) or 0 for run in self.plan.unfinished())
        every = 0.5 if sys.stderr.isatty() else 10  # seconds: a log file wants fewer lines
        with tqdm(total=total, unit="sample", dynamic_ncols=True, mininterval=every) as self.bar:
            for pair in self.plan.groups:
                for group in pair.data:
                    runs = [run for run in group.runs if self.plan.states[run.name].status is not Status.DONE]
                    if runs:
                        self.pool.retain((pair.target, pair.draft))
                        self._data_group(runs)
        return self.report

    def _data_group(self, runs: Sequence[Run]) -> None:
        first = runs[0]
        limit = self.plan.limit
        self.bar.set_postfix_str(f"making or reading the data of {first.name}", refresh=False)
        try:
            tokenizer = self.pool.tokenizer(first.config.tokenizer_spec)
            positions = self.pool.positions(first.config.tokenizer_spec)
            loaded = first.benchmark.load(first.config.dataset, tokenizer, first.config.protocol, limit, positions)
        except Exception as exc:  # a benchmark may need files, a network, more tokens than fit …: its message says so
            # the benchmarks' own errors are written for a reader
            why = str(exc) if isinstance(exc, (ValueError, RuntimeError)) else _brief(exc)
            self._fail(runs, f"its data cannot be read: {why}")
            return
        if not loaded:
            self._fail(runs, "its data set is empty")
            return
        asked = first.asked(limit)
        data = Samples(loaded, asked is None or len(loaded) < asked, tokenizer)
        for run in runs:
            self._run(run, data)

    def _run(self, run: Run, data: Samples) -> None:
        try:
            with RunWriter(run.folder, run.fingerprint, run.config.resolved, run.basis, self.overwrite) as writer:
                missing = [sample for sample in data.samples if sample.index not in writer.good]
                self.bar.total += len(missing) - (self.plan.samples_left(run) or 0)  # what the plan could only guess
                writer.keep_prompt(data.samples[0].prompt)
                if too_long := self._too_long(run, missing, data):
                    self._fail([run], too_long)
                    return
                if missing:
                    self._generate(run, missing, data, writer)
                rows = [writer.good[s.index] for s in data.samples if s.index in writer.good]
                if len(rows) == len(data.samples):
                    subset = run.subset(len(rows), data.exhausted)
                    protocol = run.config.protocol
                    writer.finish(run_metrics(rows, data.samples, run.benchmark, protocol, data.exhausted, subset))
                    self.report.finished.append(run.name)
                else:
                    errors = [row["error"] for row in writer.failed.values()]
                    text = f"{len(errors)} of {len(data.samples)} samples failed, the first with: {errors[0]}"
                    self.report.failures[run.name] = text
        except (ResultsError, ModelError) as exc:
            self._fail([run], str(exc))

    def _generate(self, run: Run, missing: Sequence[Sample], data: Samples, writer: RunWriter) -> None:
        scores = [row[f"score_{run.config.protocol}"] for row in writer.good.values()]
        with self.pool.patched(run.config) as answerer:
            for batch in batches(missing, run.config.batch_size):
                rows = self._answer(run, batch, data, answerer)
                for row in rows:
                    writer.append(row)
                    if row["error"] is None:
                        scores.append(row[f"score_{run.config.protocol}"])
                running = f"{np.mean(scores):.1f}" if scores else "-"
                self.bar.set_postfix_str(f"{run.name}, score {running}", refresh=False)
                self.bar.update(len(rows))

    def _answer(self, run: Run, batch: Sequence[Sample], data: Samples, answerer: Any) -> list[dict]:
        """A row for each sample. The samples of a batch that fails are tried one by one: the good ones are saved."""
        try:
            answers = answerer.answer([data.ids(sample) for sample in batch], batch[0])
            rows = []
            for sample, answer in zip(batch, answers, strict=True):
                score = run.benchmark.score(sample, answer.text)
                rows.append(
                    {
                        "index": sample.index,
                        "prediction": answer.text,
                        "references": list(sample.references),
                        "score_official": score["official"],
                        "score_paper": score["paper"],
                        "extras": run.benchmark.extras(sample, answer.text),
                        "new_tokens": answer.new_tokens,
                        "stats": answer.stats,
                        "seconds": answer.seconds,
                        "batch_size": len(batch),
                        "meta": sample.meta,
                        "error": None,
                    }
                )
            return rows
        except Exception as exc:  # out of memory, a defect in a method: recorded, and the sweep goes on
            failure = {"error": _brief(exc), "traceback": traceback.format_exc(limit=-4)}
        free_memory()
        if len(batch) > 1:
            return [row for sample in batch for row in self._answer(run, [sample], data, answerer)]
        return [{"index": batch[0].index, **failure}]

    def _too_long(self, run: Run, missing: Sequence[Sample], data: Samples) -> str | None:
        """Why a sample cannot fit its models' positions, or None."""
        for spec in _readers_of_prompt(run):
            positions = self.pool.positions(spec)
            for sample in missing:
                tokens = len(data.ids(sample))
                if positions and not sample.may_exceed_positions and tokens + sample.max_new_tokens > positions:
                    return (
                        f"sample {sample.index} has {tokens} prompt tokens and {sample.max_new_tokens} to generate, "
                        f"more than the {positions} positions of {spec.label}. "
                        f"In the configuration, {run.benchmark.length_option}; or take another model"
                    )
        return None

    def _fail(self, runs: Sequence[Run], why: str) -> None:
        # the bar cannot know what these runs would have taken: it stays short of its end, as the sweep does
        for run in runs:
            self.report.failures[run.name] = why


def batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """In order, at most `size` together, all of a batch to be answered in the same way."""

    def way(sample: Sample) -> tuple:
        return sample.max_new_tokens, sample.stop_token_ids, sample.clean_up_tokenization_spaces

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


def _brief(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
