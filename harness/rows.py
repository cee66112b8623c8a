"""From a data set to the rows of a run and its metrics: what `eval.py` shares with scripts that answer in another way.

data = load_samples(run, pool, limit)
with open_writer(run) as writer:
    for sample in data.missing(writer):
        writer.append(make_row(run, sample, answer_of(sample), batch_size=1, branches=1))
    why_not = finish(run, data, writer)
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from data.benchmark import Sample
from harness.errors import UserError
from harness.metrics import run_metrics
from harness.models import Answer, ModelPool, encode
from harness.plan import Run
from harness.results import RunWriter

if TYPE_CHECKING:
    from draft_approx_llm.method import Kept


class DataError(UserError):
    """A run's samples cannot be had."""


@dataclass
class Samples:
    """A rendered data set, shared by all its runs: the samples and, made when first needed, their token ids."""

    samples: list[Sample]
    exhausted: bool
    """There are no more."""
    tokenizer: Any
    _ids: dict[int, np.ndarray] = field(default_factory=dict)
    _last_pieces: tuple[int, list[str]] = (-1, [])
    """Index and `pieces` of the last sample that was recorded: all its runs ask, one after another."""

    def ids(self, sample: Sample) -> np.ndarray:
        """int32 [prompt tokens]: a tenth of the memory of a list."""
        if sample.index not in self._ids:
            self._ids[sample.index] = np.asarray(encode(self.tokenizer, sample), dtype=np.int32)
        return self._ids[sample.index]

    def kept_record(self, sample: Sample, kept: Kept) -> dict:
        """What a method kept of a sample's prompt, as a line of kept.jsonl.

        `pieces` are the tokens' texts, which joined are the prompt; `share` is how much of each is left, 0 to 100
        over all layers and KV heads, 1 for anything below.
        """
        n = len(self.ids(sample))
        share = 100 * kept.share(n, len(kept.cache or [None])).mean(0)
        shares = [max(1, round(value)) if value else 0 for value in share.tolist()]
        return {"index": sample.index, "pieces": self._pieces(sample), "share": shares}

    def _pieces(self, sample: Sample) -> list[str]:
        if self._last_pieces[0] != sample.index:
            self._last_pieces = sample.index, self._cut(sample)
        return self._last_pieces[1]

    def _cut(self, sample: Sample) -> list[str]:
        if not getattr(self.tokenizer, "is_fast", False):  # it knows no offsets: as near as it gets
            return [self.tokenizer.decode([token]) for token in self.ids(sample).tolist()]
        encoded = self.tokenizer(
            sample.prompt, add_special_tokens=sample.add_special_tokens, return_offsets_mapping=True
        )
        # Up to where the next token starts; tokens that share a character leave it to the last of them.
        starts = accumulate([start for start, _ in encoded["offset_mapping"][1:]], max)
        return [sample.prompt[a:b] for a, b in pairwise([0, *starts, len(sample.prompt)])]

    def missing(self, writer: RunWriter) -> list[Sample]:
        """The samples that a run has no answer to yet."""
        return [sample for sample in self.samples if sample.index not in writer.good]


def load_samples(run: Run, pool: ModelPool, limit: int | None) -> Samples:
    """The samples of a run, at most `limit`; all runs of its data group have the same. Raises DataError."""
    config = run.config
    try:
        tokenizer = pool.tokenizer(config.tokenizer_spec)
        positions = pool.positions(config.tokenizer_spec)
        samples = run.benchmark.load(config.dataset, tokenizer, config.protocol, limit, positions)
    except Exception as exc:  # a benchmark may need files, a network, more tokens than fit …: its message says so
        # the benchmarks' own errors are written for a reader
        why = str(exc) if isinstance(exc, (ValueError, RuntimeError)) else _brief(exc)
        raise DataError(f"its data cannot be read: {why}") from exc
    if not samples:
        raise DataError("its data set is empty")
    asked = run.asked(limit)
    return Samples(samples, asked is None or len(samples) < asked, tokenizer)


def open_writer(run: Run, overwrite: bool = False) -> RunWriter:
    """The run's folder, to be entered for writing."""
    return RunWriter(run.folder, run.fingerprint, run.config.resolved, run.basis, overwrite)


def make_row(run: Run, sample: Sample, answer: Answer, batch_size: int, branches: int) -> dict:
    """An answer, scored, as predictions.jsonl holds it; a `failed_row` if the scorer fails.

    `batch_size` samples were answered by `branches` runs together: `answer.seconds` are its share of that call.
    """
    try:
        score = run.benchmark.score(sample, answer.text)
        extras = run.benchmark.extras(sample, answer.text)
    except Exception as exc:
        return failed_row(sample, exc)
    return {
        "index": sample.index,
        "prediction": answer.text,
        "references": list(sample.references),
        "score_official": score["official"],
        "score_paper": score["paper"],
        "extras": extras,
        "new_tokens": answer.new_tokens,
        "stats": answer.stats,
        "seconds": answer.seconds,
        "batch_size": batch_size,
        "branches": branches,
        "meta": sample.meta,
        "error": None,
    }


def failed_row(sample: Sample, exc: Exception) -> dict:
    """The row of a sample that could not be answered or scored; call it where `exc` is being handled."""
    return {"index": sample.index, "error": _brief(exc), "traceback": traceback.format_exc(limit=-4)}


def finish(run: Run, data: Samples, writer: RunWriter) -> str | None:
    """Write metrics.json if every sample is answered; if not, nothing is written and the answer is why."""
    rows = [writer.good[s.index] for s in data.samples if s.index in writer.good]
    if len(rows) == len(data.samples):
        subset = run.subset(len(rows), data.exhausted)
        config = run.config
        metrics = run_metrics(
            rows, data.samples, run.benchmark, config.protocol, data.exhausted, subset, config.simulated
        )
        writer.finish(metrics)
        return None
    errors = [row["error"] for row in writer.failed.values()]
    if not errors:
        return f"{len(data.samples) - len(rows)} of {len(data.samples)} samples are not answered yet"
    return f"{len(errors)} of {len(data.samples)} samples failed, the first with: {errors[0]}"


def _brief(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
