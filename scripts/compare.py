"""Every method on the built-in pair, RULER at two lengths, four budgets: python scripts/compare.py --processes 8

Writes sweeps/compare (scripts/make_cfg.py), runs it by several eval.py side by side (a data set at a time, all its runs
on one prefill) and ends with eval.py's table over everything. It can be stopped and started again as any sweep.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """The command line. Returns eval.py's exit code for the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="how many eval.py run side by side")
    parser.add_argument("--output", type=Path, default=Path("results"), help="as eval.py's")
    parser.add_argument("--limit", type=int, help="samples a task (default: 50, the configuration's)")
    parser.add_argument("--batch_size", type=int, default=1, help="samples read together")
    parser.add_argument("--branches", type=int, default=128, help="as eval.py's")
    parser.add_argument("--only", default="", help="only data sets whose name has this in it, such as 2048/vt")
    parser.add_argument("--kept", type=int, default=0, help="as eval.py's, but for the default: there are 2,442 runs")
    parser.add_argument("--no_log", action="store_true", help="as eval.py's")
    args = parser.parse_args()
    subprocess.run([sys.executable, ROOT / "scripts/make_cfg.py", "compare"], check=True)
    leaves = sorted((ROOT / "sweeps/compare").rglob("*/[!_]*.yaml"))
    sets = sorted({f"{leaf.relative_to(ROOT / 'sweeps/compare').parts[0]}/{leaf.stem}" for leaf in leaves})
    sets = [name for name in sets if args.only in name]
    common = ["--output", str(args.output), "--branches", str(args.branches), "--set", f"batch_size={args.batch_size}"]
    common += ["--kept", str(args.kept)]
    common += ["--limit", str(args.limit)] if args.limit else []
    common += ["--no_log"] if args.no_log else []
    args.output.mkdir(parents=True, exist_ok=True)

    def patterns(name: str) -> list[str]:
        length, _, task = name.partition("/")
        return [f"sweeps/compare/{length}/**/{task}.yaml"]

    def run(name: str) -> None:
        start, log = time.monotonic(), args.output / f"compare_{name.replace('/', '_')}.log"
        with log.open("w") as file:
            command = [sys.executable, "eval.py", "--cfg", *patterns(name), *common]
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
        print(f"{name}: exit {code} after {time.monotonic() - start:.0f} s, see {log}", flush=True)

    threads = max(1, (os.cpu_count() or 1) // args.processes)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    # The long ones first, so that none is left over at the end.
    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(run, sorted(sets, reverse=True)))
    every = [pattern for name in sets for pattern in patterns(name)]
    return subprocess.run([sys.executable, "eval.py", "--cfg", *every, *common], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
