"""Benchmarks, and the built-in tiny model pair."""

from __future__ import annotations

import difflib
import importlib

from data.benchmark import Benchmark, Sample

# name -> module with a `BENCHMARK` object; imported on demand so that one benchmark's needs do not burden the others
_MODULES = {"longbench": "data.longbench", "ruler": "data.ruler"}

__all__ = ["Benchmark", "Sample", "benchmark_names", "get_benchmark"]


def benchmark_names() -> list[str]:
    """The names that `dataset_name` may have."""
    return sorted(_MODULES)


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`. Raises ValueError listing the valid names."""
    if name not in _MODULES:
        near = difflib.get_close_matches(str(name), _MODULES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"dataset_name: unknown benchmark {name!r}{hint}; valid: {', '.join(benchmark_names())}")
    return importlib.import_module(_MODULES[name]).BENCHMARK
