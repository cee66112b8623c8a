"""LongBench (THUDM/LongBench 2e00731, MIT License): 16 English tasks and LongBench-E, under two protocols."""

from data.longbench.benchmark import LongBenchBenchmark

BENCHMARK = LongBenchBenchmark()

__all__ = ["BENCHMARK", "LongBenchBenchmark"]
