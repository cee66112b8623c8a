"""The process that talks to W&B, started by harness/tracking.py: python -m harness.wandb_worker DIR PID

It reads a message a line (a run opened, a run ended), follows the predictions.jsonl of the open runs, and reports a
line for what the sweep should know. What is logged follows from the run's folder: a step for each sample, which is
logged once. A server says which steps it has; offline, a session has those of its own samples, numbered from 0, and
`wandb sync` puts them after what the server has by then. Figures and table are always those of all samples.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import wandb

from harness.tracking import kill_service

POLL = 5.0
"""Seconds between looks at the open runs' rows."""
INIT_TIMEOUT = 10
"""Seconds for a server to answer to a new run; after that, the session goes on offline."""
FINISHERS = 8
"""Runs that are sent to their end side by side."""
ORPHAN = 300
"""Seconds to finish in, once the sweep is gone."""
PHASES = ("draft_seconds", "prefill_seconds", "decode_seconds")


def main() -> int:
    """Serve the messages on standard input until it ends."""
    # what any library prints must not stand between the reports
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # each W&B run keeps a file open
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    session = Session(Path(sys.argv[1]), int(sys.argv[2]), reports)
    messages: queue.SimpleQueue[dict | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            messages.put(json.loads(line))
        messages.put(None)

    threading.Thread(target=read, daemon=True).start()
    looked = time.monotonic()
    while True:
        try:
            message = messages.get(timeout=POLL)
        except queue.Empty:
            message = {"event": "look"}
        if message is None:
            break
        session.handle(message)
        if time.monotonic() - looked > POLL:
            session.look()
            looked = time.monotonic()
    timer = threading.Timer(ORPHAN, give_up)
    timer.daemon = True
    timer.start()
    session.close()
    return 0


def give_up() -> None:
    """End at once."""
    kill_service(os.getpid())
    os._exit(1)


class Session:
    """The W&B runs of one sweep."""

    def __init__(self, folder: Path, sweep: int, reports: TextIO):
        self.folder, self.sweep, self.reports = folder, sweep, reports
        self.open: dict[str, Log] = {}
        self._ids: dict[str, str] = {}  # {W&B id: run name}
        self._online: bool | None = None  # not known before it was tried
        self._finishers = ThreadPoolExecutor(FINISHERS)
        self._reporting = threading.Lock()
        self._substitute: subprocess.Popen | None = None

    def report(self, **what: Any) -> None:
        """Tell the sweep."""
        with self._reporting, suppress(OSError):  # if it is gone, what is logged is finished all the same
            self.reports.write(json.dumps(what) + "\n")

    def handle(self, message: dict) -> None:
        """One message of the sweep's."""
        if message["event"] == "open":
            if log := self._start(message):
                self.open[message["name"]] = log
        elif message["event"] == "end":
            if log := self.open.pop(message["name"], None):
                status = "failed" if message["error"] else "finished"
                self._finishers.submit(self._finish, log, status, message["error"])
            elif self._substitute:
                self._forward(message)

    def look(self) -> None:
        """Log the rows that have come."""
        for name, log in list(self.open.items()):
            try:
                log.follow()
            except Exception as exc:  # W&B's service is gone, or the folder
                del self.open[name]
                self._finishers.submit(self._finish, log, "interrupted", _brief(exc))

    def close(self) -> None:
        """Finish everything."""
        for log in self.open.values():
            self._finishers.submit(self._finish, log, "interrupted", None)
        if self._substitute:
            self._substitute.communicate()
        self._finishers.shutdown()
        wandb.teardown()

    def _start(self, message: dict) -> Log | None:
        if self._ids.setdefault(message["id"], message["name"]) != message["name"]:
            # the same configuration under another path
            message["id"] += "-" + "".join(c if c.isalnum() else "-" for c in message["name"])[-40:]
        mode = message["options"].get("mode") or wandb.setup().settings.mode
        if mode == "disabled":  # by `wandb disabled`, in this folder or for this user
            return None
        online = mode == "online" and self._can_be_online()
        try:
            run = self._init(message, "online" if online else "offline")
        except Exception as exc:
            self.report(say=f"{message['name']}: {_brief(exc)}; {'going on offline' if online else 'not logged'}")
            if online:
                self._online = False
                self._forward(message | {"options": message["options"] | {"mode": "offline"}})
            return None
        # "on this machine only" until it has been sent
        self.report(name=message["name"], started=str(Path(run.dir).parent))
        if online and len(self._ids) == 1:
            self.report(say=f"logging to {run.project_url}")
        return Log(run, message)

    def _forward(self, message: dict) -> None:
        """Leave a run to a process like this one: W&B's service keeps the id of a run that it failed to start."""
        if self._substitute is None:
            command = [sys.executable, "-P", "-m", "harness.wandb_worker", *sys.argv[1:]]
            environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
            self._substitute = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=self.reports, text=True
            )
        with suppress(OSError):
            self._substitute.stdin.write(json.dumps(message) + "\n")
            self._substitute.stdin.flush()

    def _can_be_online(self) -> bool:
        if self._online is None:
            try:
                self._online = bool(wandb.login())
            except Exception as exc:
                self.report(say=f"{_brief(exc)} Logging offline")
                self._online = False
        return self._online

    def _init(self, message: dict, mode: str) -> wandb.Run:
        def option(name: str, variable: str, default: str | None) -> str | None:
            return os.environ.get(variable) or message["options"].get(name) or default

        tags = [*message["tags"], *(message["options"].get("tags") or ())]
        tags += [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        folder = Path(message["folder"])
        environment = json.loads((folder / "environment.json").read_text())["sessions"][-1]
        return wandb.init(
            id=message["id"],
            name=message["name"][-128:],  # W&B's limits
            project=option("project", "WANDB_PROJECT", message["project"]),
            entity=option("entity", "WANDB_ENTITY", None),
            group=option("group", "WANDB_RUN_GROUP", message["group"])[:128],
            job_type=message["job_type"],
            tags=[tag[:64] for tag in dict.fromkeys(tags)],
            config=message["config"] | {"environment": environment},
            mode=mode,
            dir=self.folder,
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_TIMEOUT,
                disable_code=True,
                save_code=False,
                git_commit=environment.get("commit"),
                program=" ".join(environment["command"][:1]),
                # versions are in the configuration; the list takes a while, for each of many runs
                x_save_requirements=False,
                # the machine's load is the same for runs side by side: the first of them has it
                x_disable_stats=bool(self.open),
                x_stats_pid=self.sweep,
                # so that a killed process loses a second's worth
                x_transaction_log_flush_interval=1,
            ),
        )

    def _finish(self, log: Log, status: str, error: str | None) -> None:
        name, sent = log.message["name"], not log.run.offline
        for part in (log.follow, partial(log.figures, status, error), log.table, log.artifact):
            try:
                part()
            except Exception as exc:
                sent = False
                self.report(say=f"{name}: {_brief(exc)}")
        try:
            log.run.finish(exit_code=0 if status == "finished" else 1)
            self.report(name=name, sent=sent)
        except Exception as exc:
            self.report(say=f"{name}: {_brief(exc)}")


class Log:
    """One run's rows and figures on their way to W&B."""

    def __init__(self, run: wandb.Run, message: dict):
        self.run, self.message = run, message
        self.folder = Path(message["folder"])
        self._read = 0  # bytes of predictions.jsonl
        self._sums: dict[str, float] = {}
        self._table: dict[int, list] = {}
        self._good = self._failed = 0
        self._before = message["answered"] if run.offline else 0

    def follow(self) -> None:
        """Log what was appended since the last time: a step a sample, with the means so far."""
        with (self.folder / "predictions.jsonl").open("rb") as file:
            file.seek(self._read)
            data = file.read()
        lines = data[: data.rfind(b"\n") + 1]
        self._read += len(lines)
        for line in lines.splitlines():
            row = json.loads(line)
            if row["error"] is None:
                self._add(row)
            else:
                self._failed += 1

    def _add(self, row: dict) -> None:
        stats = row["stats"]
        kept = stats["kept_tokens"] / stats["prompt_tokens"]
        score = row[f"score_{self.message['protocol']}"]
        if (tail := self.message["prompts"].get(str(row["index"]))) is not None:
            references = json.dumps(row["references"], ensure_ascii=False)
            self._table[row["index"]] = [row["index"], tail, row["prediction"], references, score, kept]
        values = {"score": score, "kept_fraction": kept, "cache_bytes": stats["cache_bytes"]}
        values["latency_seconds"] = sum(row["seconds"].values())
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._good += 1
        if (step := self._step()) >= self.run.starting_step:
            means = {f"progress/{key}": total / self._good for key, total in self._sums.items()}
            done = {"progress/samples": self._good, "progress/fraction": self._good / self.message["samples"]}
            self.run.log(means | done, step=step)

    def _step(self) -> int:
        return self._good - 1 - self._before

    def figures(self, status: str, error: str | None) -> None:
        """How the run ended, and what came out."""
        summary: dict[str, Any] = {"status": status, "failed_samples": self._failed}
        if status == "finished":
            metrics = json.loads((self.folder / "metrics.json").read_text())
            summary |= summary_of(metrics, self.message["task"], self.message["categories"])
        if error:
            summary["error"] = error
        self.run.summary.update(summary)

    def table(self) -> None:
        """The first predictions, to be read."""
        if self._table:
            columns = ["index", "prompt_tail", "output", "references", "score", "kept_fraction"]
            rows = [self._table[index] for index in sorted(self._table)]
            table = wandb.Table(columns=columns, data=rows)
            self.run.log({"predictions": table}, step=max(self._step(), self.run.starting_step))

    def artifact(self) -> None:
        """The run's folder, where that is asked for."""
        if self.message["options"].get("artifact"):
            artifact = wandb.Artifact(f"results-{self.run.id}", type="results", metadata={"run": self.message["name"]})
            for path in sorted(self.folder.iterdir()):
                if path.is_file() and path.name != ".lock":
                    artifact.add_file(str(path), name=path.name)
            self.run.log_artifact(artifact)


def summary_of(metrics: dict, task: str, categories: list[str]) -> dict[str, Any]:
    """metrics.json as W&B's summary: flat, intervals as `_low` and `_high`, and what follows from the costs.

    `task/…` and `category/…` repeat the score: W&B's mean over a group of runs then is the task's, or the category's.
    """
    summary: dict[str, Any] = {}
    for key, value in metrics.items():
        if key.endswith("_interval"):
            stem = key.removesuffix("_interval")
            summary[f"{stem}_low"], summary[f"{stem}_high"] = value
        elif isinstance(value, dict):
            summary |= {f"{key}/{part}": mean for part, mean in value.items()}
        else:
            summary[key] = value
    summary |= {f"task/{task}": metrics["score"]} | {f"category/{title}": metrics["score"] for title in categories}
    latency = sum(metrics[phase] for phase in PHASES)
    summary["latency_seconds"] = latency
    if latency:
        summary["samples_per_second"] = 1 / latency
        summary["new_tokens_per_second"] = metrics["new_tokens"] / latency
    return {key: value for key, value in summary.items() if value is not None}


def _brief(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


if __name__ == "__main__":
    sys.exit(main())
