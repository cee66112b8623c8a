"""Stand-ins for what is slow: a benchmark of a few short prompts, and a pool whose models answer by rule.

Run as a script it is eval.py with these in place: `python tests/harness/toy.py --cfg …`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import data
from data.benchmark import Sample
from harness.models import Answer, ModelError

ROWS = 8
KEYS = ("dataset_name", "task", "seq_len", "num_samples")
LEAF = {
    "target_model": {"model_name_or_path": "toy/target"},
    "draft_model": {"model_name_or_path": "toy/draft"},
    "dataset": {"dataset_name": "toy", "task": "add", "num_samples": ROWS},
    "sparse_config": {"sparse_type": "speckv", "max_capacity_prompt": 64, "window_size": 16},
}


class ToyBenchmark:
    """`num_samples` prompts "<task> <i>" whose answer is `i`."""

    name = "toy"
    length_option = "lower the toy's length"

    def __init__(self):
        self.loads: list[str] = []

    def validate(self, dataset: dict, protocol: str) -> None:
        for key in dataset:
            if key not in KEYS:
                raise ValueError(f"{key}: unknown key. Valid: {', '.join(KEYS)}")
        if dataset.get("task") not in ("add", "sub"):
            raise ValueError(f"task: {dataset.get('task')!r} is not one of add, sub")

    def identity(self, dataset: dict, protocol: str) -> dict:
        return {**dataset, "version": 1}

    def full_size(self, dataset: dict) -> int:
        return 500

    def short_names(self) -> dict:
        return {"add": "a", "sub": "s"}

    def averages(self, tasks) -> dict:
        return {"average": tuple(tasks)}

    def load(self, dataset: dict, tokenizer, protocol: str, limit=None, positions=None) -> list[Sample]:
        self.loads.append(dataset["task"])
        count = min(dataset.get("num_samples", ROWS), ROWS)
        return [
            Sample(i, f"{dataset['task']} {i}", (str(i),), max_new_tokens=4 + i % 2, add_special_tokens=True, meta={})
            for i in range(count)
        ][:limit]

    def score(self, sample: Sample, prediction: str) -> dict[str, float]:
        right = prediction == sample.references[0]
        return {"official": 100.0 * right, "paper": 50.0 * right}

    def extras(self, sample: Sample, prediction: str) -> dict[str, float]:
        return {"length": float(len(prediction))}

    def mean(self, scores) -> float:
        return round(sum(scores) / len(scores), 2)

    def breakdown(self, samples, scores) -> dict:
        return {}


class ToyPool:
    """A ModelPool without models. Prompt "add 3" is answered "3"; the rest of it makes it misbehave.

    fail: samples that cannot be answered, as numbers, or (number, sparse_type) where only that method cannot.
    room: rows of a call, above which it is out of memory.
    unfit: methods that do not fit the models.
    """

    def __init__(self, fail=(), positions=4096, room=10**6, unfit=()):
        self.fail, self.limit, self.room, self.unfit = set(fail), positions, room, set(unfit)
        self.loaded: list[str] = []
        """Methods, as they were put on a model."""
        self.refusals: list[str] = []
        """Methods that did not fit, each time that they were tried on their own."""
        self.patches = 0
        """Of models that have one at present."""
        self.calls: list[tuple[list[int], list[str]]] = []
        """Samples and methods of each call, the failing ones too."""
        self.retained: list[tuple] = []
        self.on_answer = lambda: None

    @property
    def batches(self) -> list[int]:
        """Samples of each call."""
        return [len(samples) for samples, _ in self.calls]

    def tokenizer(self, spec):
        return lambda text, add_special_tokens: {"input_ids": list(text.encode())}

    def layers(self, spec):
        return 4

    def positions(self, spec):
        return self.limit

    def check_pair(self, target, draft):
        pass

    def check_attention(self, spec):
        pass

    def retain(self, specs):
        self.retained.append(tuple(spec and spec.label for spec in specs))

    @contextmanager
    def patched(self, configs):
        assert len({config.reader for config in configs}) == 1
        methods = [config.sparse_type for config in configs]
        if bad := self.unfit & set(methods):
            self.refusals += methods if len(methods) == 1 else []
            raise ModelError(f"{bad.pop()} does not fit")
        self.loaded += methods
        self.patches += 1
        try:
            yield ToyAnswerer(self, configs)
        finally:
            self.patches -= 1


class ToyAnswerer:
    """Answers for the runs with these configs."""

    def __init__(self, pool, configs):
        self.pool, self.configs = pool, configs

    def answer(self, prompts, sample):
        pool = self.pool
        texts = [bytes(map(int, ids)).decode().split()[-1] for ids in prompts]
        methods = [config.sparse_type for config in self.configs]
        pool.calls.append(([int(text) for text in texts], methods))
        pool.on_answer()
        cells = {(int(text), method) for text in texts for method in methods}
        if pool.fail & (cells | {number for number, _ in cells}):
            raise RuntimeError("out of toys")
        if len(texts) * len(methods) > pool.room:
            raise MemoryError(f"no room for {len(texts) * len(methods)} rows")
        stats = {"prompt_tokens": 10, "kept_tokens": 5.0, "read_tokens": 10, "lookahead_tokens": 2}
        stats |= {"cache_bytes": 2048, "peak_cache_bytes": 4096, "draft_cache_bytes": 1024, "draft_tokens": 7.0}
        seconds = {"draft": 0.1, "prefill": 0.2, "decode": 0.3}
        return [
            Answer(text, 1, stats | {"method": repr(config.method)}, seconds)
            for text in texts
            for config in self.configs
        ]


def install() -> ToyBenchmark:
    """Register the benchmark `toy`; returns it."""
    module = types.ModuleType("toy_benchmark")
    module.BENCHMARK = ToyBenchmark()
    sys.modules["toy_benchmark"] = module
    data._MODULES["toy"] = "toy_benchmark"
    return module.BENCHMARK


if __name__ == "__main__":
    import eval as command
    import harness.joint
    import harness.models
    import harness.results

    install()
    pool = ToyPool(fail=[int(i) for i in os.environ.get("TOY_FAIL", "").split()])
    die_after = int(os.environ.get("TOY_DIE_AFTER", 0))
    how = getattr(signal, os.environ.get("TOY_SIGNAL", "SIGKILL"))

    def on_answer():
        if die_after and len(pool.calls) > die_after:
            os.kill(os.getpid(), how)
            time.sleep(1)
        time.sleep(float(os.environ.get("TOY_SLEEP", 0)))

    pool.on_answer = on_answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with Ctrl-C ignored
    harness.models.ModelPool = lambda: pool
    # these two import torch, a second in each of many processes
    harness.results.session_record = lambda: {"command": sys.argv}
    harness.joint.free_memory = lambda: None
    sys.exit(command.main())
