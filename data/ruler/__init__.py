"""RULER (NVIDIA/RULER c3f5e3b, Apache-2.0): 13 synthetic long-context tasks at any length, for any tokenizer."""

from data.ruler.benchmark import RulerBenchmark

BENCHMARK = RulerBenchmark()

__all__ = ["BENCHMARK", "RulerBenchmark"]
