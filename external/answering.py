"""Answers of external tools, made comparable with ours: same stops, same decoding, same budget, same figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from baselines import _rewriting as rewriting
from data.benchmark import Sample
from draft_approx_llm.configs import FullConfig
from external.client import AnswerError, ToolError, Worker
from harness.config import ModelSpec, local_folder
from harness.models import Answer, ModelPool, decode
from harness.plan import Run

STATS = ("kept_tokens", "cache_bytes")
"""What a worker that answers must say of each answer."""

Answerer = Callable[[Sample, list[int]], Answer]
"""A sample and its token ids -> a run's answer. Raises AnswerError, ToolError."""


class Desk:
    """Answers samples with the help of the tools' workers, one of which is alive at a time; a context manager."""

    def __init__(self, pool: ModelPool):
        self.pool = pool
        self._worker: Worker | None = None

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._worker:
            self._worker.__exit__()
            self._worker = None

    def worker(self, tool: str) -> Worker:
        """The tool's worker; another tool's makes room for it. Raises ToolError."""
        if self._worker is None or self._worker.tool != tool:
            self._let_go()
            self._worker = Worker(tool)
        return self._worker

    def ask(self, run: Run, request: Mapping[str, Any]) -> dict[str, Any]:
        """A worker's answer to a request about a run. Raises AnswerError, ToolError (the next one has a new worker)."""
        method = run.config.method
        settings = method.to_dict()
        for name in method.model_settings:
            settings[name] = str(local_folder(settings[name]) or settings[name])
        target = asdict(run.config.reader) | {"model_name_or_path": run.config.reader.source}
        try:
            return self.worker(method.tool).ask({**request, "settings": settings, "target": target})
        except ToolError:
            self._let_go()
            raise

    def answerer(self, run: Run, tokenizer: Any, stack: ExitStack) -> Answerer:
        """What answers the run's samples until `stack` ends. Raises ModelError, if our own target is to read."""
        if not run.config.method.rewrites:
            self.pool.retain([])  # the tool loads the target itself
            generation = generation_settings(run.config.reader, tokenizer)
            return lambda sample, ids: answer_of_tool(self, run, tokenizer, generation, sample, ids)
        self.pool.retain([run.config.reader])
        full = replace(run.config, method=FullConfig(), sparse_type="full")
        ours = stack.enter_context(self.pool.patched([full]))

        def answer(sample: Sample, ids: list[int]) -> Answer:
            shorter, stats, seconds = rewrite(self, run, tokenizer, sample, ids)
            (read,) = ours.answer([shorter], sample)
            stats = {**read.stats, **stats, "prompt_tokens": len(ids)}
            return replace(read, stats=stats, seconds={**read.seconds, "draft": seconds}, kept=None)

        return answer


@cache
def generation_settings(spec: ModelSpec, tokenizer: Any) -> dict[str, Any]:
    """How the model itself ends and penalises, by its generation config, as `transformers` would without the tool."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(spec.source, revision=spec.revision)
    except OSError:  # it has none
        options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(spec.source, **options))
    stops = tokenizer.eos_token_id if config.eos_token_id is None else config.eos_token_id
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    return {"stop_token_ids": stops, "repetition_penalty": config.repetition_penalty or 1.0}


def answer_of_tool(
    desk: Desk, run: Run, tokenizer: Any, generation: Mapping[str, Any], sample: Sample, ids: list[int]
) -> Answer:
    """A tool's answer to a prompt, its tokens cut and decoded as ours. Raises AnswerError, ToolError."""
    stops = list(dict.fromkeys([*generation["stop_token_ids"], *sample.stop_token_ids]))
    capacity = run.config.method.capacity(len(ids))
    request = {
        "index": sample.index,
        "prompt": sample.prompt,
        "ids": ids,
        "capacity": capacity,
        "max_new_tokens": sample.max_new_tokens,
        "min_new_tokens": 1 if sample.stop_token_ids else 0,
        "stop_token_ids": stops,
        "repetition_penalty": generation["repetition_penalty"],
    }
    start = time.perf_counter()
    answer = desk.ask(run, request)
    elapsed = time.perf_counter() - start
    stats = answer.get("stats") or {}
    if absent := [name for name in STATS if name not in stats]:
        raise AnswerError(f"the worker's answer has no stats.{absent[0]}")
    if capacity is not None and stats["kept_tokens"] > capacity + 1:
        raise AnswerError(f"it kept {stats['kept_tokens']:.1f} entries a head of a budget of {capacity}")
    nothing = dict.fromkeys(("lookahead_tokens", "draft_tokens", "draft_cache_bytes"), 0)
    held = {"prompt_tokens": len(ids), "read_tokens": len(ids), "peak_cache_bytes": stats["cache_bytes"]}
    seconds = answer.get("seconds") or {"decode": elapsed}
    if "tokens" in answer:
        tokens = answer["tokens"][: sample.max_new_tokens]
        tokens = tokens[: next((at + 1 for at, token in enumerate(tokens) if token in stops), None)]
        text = decode(tokenizer, sample, tokens)
    elif "text" in answer:
        text = answer["text"]
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        raise AnswerError("the worker's answer has neither tokens nor text")
    return Answer(text, len(tokens), nothing | held | stats, {"draft": 0.0, "prefill": 0.0, "decode": 0.0} | seconds)


def rewrite(
    desk: Desk, run: Run, tokenizer: Any, sample: Sample, ids: list[int]
) -> tuple[list[int], dict[str, float], float]:
    """A prompt within the budget: (token ids, stats, the tool's seconds).

    Raises AnswerError, ToolError, and ValueError if what is not compressed fills the budget."""
    method, start = run.config.method, time.perf_counter()
    costs = {"draft_tokens": 0, "draft_cache_bytes": 0}

    def compress(passage: str, question: str, length: int, budget: int, scale: float) -> str:
        request = {"index": sample.index, "passage": passage, "question": question, "passage_tokens": length}
        answer = desk.ask(run, {**request, "budget_tokens": budget, "scale": scale})
        costs.update(answer.get("stats") or {})
        return answer["text"]

    shorter, stats = rewriting.rewrite(ids, method.capacity(len(ids)), method.window_size, tokenizer, compress)
    return shorter, stats | costs, time.perf_counter() - start
