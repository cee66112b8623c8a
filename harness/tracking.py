"""Tracking of runs: what the runner tells, and Weights & Biases as one that listens.

W&B lives in a process of its own (harness/wandb_worker.py), which is told when a run begins and ends and reads the rest
from the run's folder, where every row is anyway. So nothing that W&B does, an import, a hanging server, a crash, can
raise in a sweep or hold it up: the sweep puts a message into a queue, and at its end waits while there is progress.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from data.benchmark import Sample
from harness.config import REPOSITORY, WANDB_MODES
from harness.errors import Problem, ProblemsError
from harness.plan import PairGroup, Plan, Run
from harness.summary import budget_label, budget_of

PROJECT = "draft-approx-llm"
"""Where runs go, unless WANDB_PROJECT or `wandb.project` says otherwise."""
PREDICTIONS = 50
"""Rows of the table of predictions, unless `wandb.predictions` says otherwise."""
PROMPT_TAIL = 300
"""Characters of a prompt in that table."""
PATIENCE = 15
"""Seconds that the end of a sweep waits for W&B, from the last sign that it gets on."""
ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's former names


class Tracker(Protocol):
    """What the runner tells as it goes. No method may raise, or take long."""

    def opened(self, run: Run, samples: Sequence[Sample], answered: int) -> None:
        """The run's folder is open, and these are all its samples, `answered` of them by earlier invocations."""

    def ended(self, run: Run, why_not: str | None = None) -> None:
        """The run is complete, or failed with `why_not`; of no effect for a run that was not opened."""

    def close(self) -> None:
        """The sweep is over. Runs that were opened and did not end were interrupted."""


class NoTracker:
    """Listens to nothing."""

    def opened(self, run: Run, samples: Sequence[Sample], answered: int) -> None: ...

    def ended(self, run: Run, why_not: str | None = None) -> None: ...

    def close(self) -> None: ...


def make_tracker(plan: Plan, output: Path, no_log: bool, say: Callable[[str], None]) -> Tracker:
    """The tracker that the command line and the environment ask for; `say` shows the user a line.

    Raises ProblemsError if WANDB_MODE is not one of W&B's.
    """
    mode = os.environ.get("WANDB_MODE", "")
    mode = ALIASES.get(mode, mode)
    if mode not in ("", *WANDB_MODES):
        text = f"{mode!r} is not a mode. Use one of: {', '.join(WANDB_MODES)}; or --no_log"
        raise ProblemsError([Problem("environment", "WANDB_MODE", text)])
    if no_log or mode == "disabled":
        return NoTracker()
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder wandb/, which W&B itself leaves behind, is no package
        say("W&B: not installed, so nothing is logged. pip install wandb, or switch it off with --no_log")
        return NoTracker()
    return WandbTracker(plan, output, mode, say)


def facets_of(run: Run, pair: PairGroup) -> dict[str, Any]:
    """What runs are compared by, as W&B's configuration has it beside the run's own; `pair` is the run's."""
    budget = budget_of(run.config.resolved)
    return {
        "name": run.name,
        "fingerprint": run.fingerprint,
        "method": run.config.sparse_type,
        "budget": budget_label(budget),
        # what is kept in the end, as a number to plot over
        **dict(budget[-1:]),
        "benchmark": run.benchmark.name,
        "task": run.config.dataset.get("task", run.benchmark.name),
        "seq_len": run.config.dataset.get("seq_len"),
        "target": (run.config.target or run.config.reader).label,
        "draft": run.config.draft.label if run.config.draft else None,
        "pair": "+".join(spec.label for spec in (pair.target, pair.draft) if spec),
    }


def kill_service(worker: int) -> None:
    """End what W&B started in a worker: it is in a session of its own, and would go on trying for days."""
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(["pgrep", "-P", str(worker)], capture_output=True, text=True, timeout=5)
        for child in found.stdout.split():
            if os.getpgid(int(child)) == int(child):
                os.killpg(int(child), signal.SIGKILL)


class WandbTracker:
    """Tells a process that talks to W&B what happens; it is started with the first run."""

    def __init__(self, plan: Plan, output: Path, mode: str, say: Callable[[str], None]):
        self.output, self.mode, self.say = output.resolve(), mode, say
        self._pairs = {run.name: pair for pair in plan.groups for run in pair.runs}
        self._opened: set[str] = set()
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._worker: subprocess.Popen | None = None
        self._broken = self._killed = False
        self._heard = 0.0  # when the worker last got on with a run
        self._unsent: dict[str, str] = {}  # {run name: W&B's folder} of what the server does not have

    def opened(self, run: Run, samples: Sequence[Sample], answered: int) -> None:
        """See Tracker."""
        if (self.mode or run.config.wandb.get("mode")) != "disabled":
            self._safely(self._open, run, samples, answered)

    def ended(self, run: Run, why_not: str | None = None) -> None:
        """See Tracker."""
        if run.name in self._opened:
            self._opened.discard(run.name)
            self._safely(self._send, {"event": "end", "name": run.name, "error": why_not})

    def close(self) -> None:
        """See Tracker. Waits for W&B while there is progress, then says what is left to be sent, and how."""
        if self._worker is None:
            return
        self._messages.put(None)
        self._heard = time.monotonic()
        try:
            while self._listener.is_alive() and time.monotonic() - self._heard < PATIENCE:
                self._listener.join(0.1)
            if self._listener.is_alive():
                self.say(f"W&B: no progress for {PATIENCE} s, so the sweep ends without it")
        finally:
            # in its own session, so that Ctrl-C does not reach it: it is the group's leader
            if self._worker.poll() is None:
                self._kill()
            if self._unsent:
                self.say(f"W&B: logged on this machine only. To send it: {self._sync_command()}")

    def _kill(self) -> None:
        self._killed = True
        kill_service(self._worker.pid)
        with suppress(OSError):
            os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()

    def _safely(self, do: Callable[..., None], *arguments: Any) -> None:
        if self._broken:
            return
        try:
            do(*arguments)
        except Exception as exc:  # tracking is never worth a sweep
            self._broken = True
            self.say(f"W&B: off for the rest of this sweep. {type(exc).__name__}: {exc}")

    def _open(self, run: Run, samples: Sequence[Sample], answered: int) -> None:
        if self._worker is None:
            self._start()
        self._opened.add(run.name)
        self._send(self._description(run, samples, answered))

    def _start(self) -> None:
        folder = Path(os.environ.get("WANDB_DIR") or self.output) / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # what would give all runs one identity, or another process's service, is not for the worker
        alien = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_RESUME", "WANDB_SERVICE", "WANDB_MODE")
        environment = {key: value for key, value in os.environ.items() if key not in alien}
        # W&B's copies of what it sends; by default, they pile up in the home folder
        environment |= {"WANDB_DATA_DIR": str(folder / "data"), "WANDB_CACHE_DIR": str(folder / "cache")}
        environment["WANDB_ERROR_REPORTING"] = "false"
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        with (folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.wandb_worker", str(folder.parent), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        threading.Thread(target=self._write, daemon=True).start()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _send(self, message: dict) -> None:
        self._messages.put(json.dumps(message) + "\n")

    def _write(self) -> None:
        # a thread, since a pipe that nobody reads blocks its writer
        try:
            with self._worker.stdin as pipe:
                for message in iter(self._messages.get, None):
                    pipe.write(message.encode())
                    pipe.flush()
        except OSError:  # the worker is gone: the listener says so
            pass

    def _listen(self) -> None:
        for line in self._worker.stdout:
            report = json.loads(line)
            if text := report.get("say"):
                self.say(f"W&B: {text}")
            if "name" in report:
                self._heard = time.monotonic()
            if folder := report.get("started"):
                self._unsent[report["name"]] = folder
            if report.get("sent"):
                self._unsent.pop(report["name"], None)
        if self._worker.wait() and not self._killed:
            self.say(f"W&B: its process ended early; see {self.output / 'wandb' / 'worker.log'}")

    def _sync_command(self, named: int = 3) -> str:
        folders = [os.path.relpath(folder) for folder in self._unsent.values()]
        if len(folders) <= named:
            return shlex.join(["wandb", "sync", *folders])
        (parent,) = {os.path.dirname(folder) for folder in folders}
        online = " --include-online" if any("/run-" in folder for folder in folders) else ""
        return f"wandb sync{online} {shlex.quote(parent)}/*run-*"

    def _description(self, run: Run, samples: Sequence[Sample], answered: int) -> dict:
        """What the worker is told of a run: plain data."""
        config, options = run.config, run.config.wandb
        facets = facets_of(run, self._pairs[run.name])
        task = facets["task"]
        shown = samples[: options.get("predictions", PREDICTIONS)]
        averages = run.benchmark.averages(list(run.benchmark.short_names()))
        length = [f"length {facets['seq_len']}"] * bool(facets["seq_len"])
        return {
            "event": "open",
            "name": run.name,
            "id": run.fingerprint,
            "folder": str(run.folder.resolve()),
            "options": options | ({"mode": self.mode} if self.mode else {}),
            "project": PROJECT,
            "group": f"{facets['benchmark']}/{facets['pair']}",
            "job_type": config.sparse_type,
            "tags": [config.sparse_type, facets["benchmark"], task, *length, config.protocol],
            "config": {k: v for k, v in config.resolved.items() if k != "wandb"} | facets,
            "protocol": config.protocol,
            "task": task,
            "categories": [title for title, tasks in averages.items() if task in tasks],
            "samples": len(samples),
            "answered": answered,
            "prompts": {sample.index: sample.prompt[-PROMPT_TAIL:] for sample in shown},
        }
