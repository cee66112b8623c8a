"""Make RULER's data files for some models and lengths, in parallel; files that are there already are left alone.

    python scripts/create_data.py --data ruler --seq_len 4096 8192 --model meta-llama/Llama-3.1-8B-Instruct
    python scripts/create_data.py --data ruler --seq_len 2048 --model data/tiny_pair/target --haystack builtin

A file is `<data_dir>/<model>/<seq_len>/<task>.jsonl`. The models' weights are not needed, only their tokenizers.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from data import get_benchmark  # noqa: E402
from data.benchmark import PROTOCOLS  # noqa: E402
from data.ruler.files import TokenizerId, data_path, ensure_rows, rows_ready  # noqa: E402
from data.ruler.generate import VARIANTS, fetch_sources  # noqa: E402
from data.ruler.tasks import TASKS  # noqa: E402
from data.ruler.templates import TEMPLATES  # noqa: E402


@dataclass
class Job:
    """One file to make."""

    model: str
    dataset: dict
    protocol: str
    state: str = "pending"
    """made, skipped (it was there) or failed."""
    detail: str = ""
    seconds: float = field(default=0.0)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    jobs = [
        Job(model, _dataset(args, task, seq_len), args.protocol)
        for model in args.model
        for seq_len in args.seq_len
        for task in args.task
    ]
    for job in jobs:
        _plan(job)
    _run([job for job in jobs if job.state == "pending"], args.jobs)
    _print_table(jobs)
    return 1 if any(job.state == "failed" for job in jobs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["ruler"], default="ruler")
    parser.add_argument("--model", nargs="+", required=True, help="names or paths of models (or of their tokenizers)")
    parser.add_argument("--seq_len", nargs="+", type=int, required=True, help="tokens of prompt and answer together")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="TASK")
    parser.add_argument("--num_samples", type=int, default=500)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official", help="decides the answers' lengths")
    parser.add_argument("--variant", choices=VARIANTS, default="ruler")
    parser.add_argument("--haystack", default="essay", help="essay, builtin, or the path of a text")
    parser.add_argument("--model_template", choices=list(TEMPLATES), help="default: the one known for each model")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--data_dir", help="default: data/ruler")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    for name, what in (("essays", "Paul Graham's essays"), ("squad", "SQuAD dev-v2.0"), ("hotpotqa", "HotpotQA dev")):
        parser.add_argument(f"--{name}", metavar="PATH", help=f"{what}, JSON; default: downloaded once")
    return parser


def _dataset(args: argparse.Namespace, task: str, seq_len: int) -> dict:
    keys = ("num_samples", "variant", "haystack", "model_template", "seed", "data_dir", "essays", "squad", "hotpotqa")
    given = {key: getattr(args, key) for key in keys}
    return {"dataset_name": args.data, "task": task, "seq_len": seq_len, **given}


@functools.cache
def _tokenizer(model: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@functools.cache
def _tokenizer_id(model: str) -> TokenizerId:
    return TokenizerId.of(_tokenizer(model))


def _plan(job: Job) -> None:
    """See whether a job's file is there, and get its texts if not: here, so that no two processes download."""
    try:
        recipe = get_benchmark("ruler").recipe(job.dataset, _tokenizer(job.model), job.protocol)
        where = job.dataset["data_dir"]
        if rows_ready(recipe, _tokenizer_id(job.model), job.dataset["num_samples"], where):
            job.state, job.detail = "skipped", str(data_path(recipe, _tokenizer_id(job.model), where))
        else:
            fetch_sources(recipe)
    except (OSError, ValueError, RuntimeError) as error:
        job.state, job.detail = "failed", str(error)


def _make(job: Job) -> Job:
    started = time.perf_counter()
    try:
        tokenizer = _tokenizer(job.model)
        recipe = get_benchmark("ruler").recipe(job.dataset, tokenizer, job.protocol)
        path, _ = ensure_rows(recipe, tokenizer, job.dataset["num_samples"], job.dataset["data_dir"])
        job.state, job.detail = "made", str(path)
    except (OSError, ValueError, RuntimeError) as error:
        job.state, job.detail = "failed", str(error)
    job.seconds = time.perf_counter() - started
    return job


def _run(jobs: list[Job], processes: int) -> None:
    from tqdm import tqdm

    # the longest first, so that none is left running alone at the end
    jobs = sorted(jobs, key=lambda job: -job.dataset["seq_len"])
    with tqdm(total=len(jobs), unit="file", disable=not jobs) as bar:
        if processes <= 1 or len(jobs) <= 1:
            for job in jobs:
                _make(job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
            futures = {pool.submit(_make, job): job for job in jobs}
            for future in as_completed(futures):
                job = futures[future]
                try:
                    done = future.result()
                    job.state, job.detail, job.seconds = done.state, done.detail, done.seconds
                except Exception as error:  # a killed process, or a bug: the table must still say what was made
                    job.state, job.detail = "failed", f"{type(error).__name__}: {error}"
                bar.update()


def _print_table(jobs: list[Job]) -> None:
    rows = [("model", "seq_len", "task", "state", "seconds", "")]
    for job in jobs:
        seconds = f"{job.seconds:.1f}" if job.seconds else "-"
        rows.append((job.model, str(job.dataset["seq_len"]), job.dataset["task"], job.state, seconds, job.detail))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip())
    states = [job.state for job in jobs]
    print("; ".join(f"{states.count(state)} {state}" for state in ("made", "skipped", "failed")))


if __name__ == "__main__":
    sys.exit(main())
