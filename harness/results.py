"""A run's folder: what is written, when, and what a later invocation makes of it. results/README.md describes it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from harness.config import REPOSITORY, flatten
from harness.errors import UserError

CONFIG, PREDICTIONS, METRICS, ENVIRONMENT = "config.yaml", "predictions.jsonl", "metrics.json", "environment.json"
PROMPT, KEPT = "prompt_of_sample_0.txt", "kept.jsonl"
LOCK = ".lock"


class ResultsError(UserError):
    """A results folder is not what it should be; nothing in it has been changed."""


class StorageError(UserError):
    """The disk refused a write; what was written before is intact."""


class Status(Enum):
    """How far a run is, judged from its folder alone."""

    EMPTY = "to do"
    PARTIAL = "partial"
    DONE = "done"
    CONFLICT = "conflict"
    """The folder holds another configuration's results."""


@dataclass(frozen=True)
class State:
    """What a folder holds for one configuration."""

    status: Status
    rows: int = 0
    """Good predictions on disk."""
    conflict: str = ""


class RunFolder:
    """Reads one run's folder. To write, `open` it."""

    def __init__(self, path: Path):
        self.path = path

    def metrics(self) -> dict | None:
        """metrics.json, or None where there is none. Raises ResultsError if it is not JSON."""
        return self._json(METRICS)

    def rows(self) -> list[dict]:
        """The rows of predictions.jsonl by index. A line cut off in mid-write is left out. Raises ResultsError."""
        path = self.path / PREDICTIONS
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise ResultsError(f"{path}: cannot be read: {exc.strerror}") from exc
        rows: dict[int, dict] = {}
        remedy = "Delete that line (its sample is then done again), or rerun with --overwrite to start the run afresh"
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                row = json.loads(line)
                index = row["index"]
                row["fingerprint"], row["error"]
            except (ValueError, KeyError, TypeError) as exc:
                raise ResultsError(f"{path}: line {number}: not a row of predictions. {remedy}") from exc
            if index in rows:
                raise ResultsError(f"{path}: line {number}: sample {index} is there already. {remedy}")
            rows[index] = row
        return [rows[index] for index in sorted(rows)]

    def kept(self) -> dict[int, dict]:
        """The records of kept.jsonl by index; a line that is not whole is left out. Raises ResultsError."""
        path = self.path / KEPT
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise ResultsError(f"{path}: cannot be read: {exc.strerror}") from exc
        records = {}
        for line in lines:
            try:
                record = json.loads(line)
                if len(record["pieces"]) == len(record["share"]):
                    records[record["index"]] = record
            except (ValueError, KeyError, TypeError):  # nothing depends on it
                continue
        return records

    def state(self, fingerprint: str, asked: int | None, basis: Mapping[str, Any]) -> State:
        """How far the run with this fingerprint is, when its first `asked` samples (None: all) are asked for.

        `basis` is what the fingerprint was made from; it serves to say what differs. Raises ResultsError.
        """
        metrics = self.metrics()
        if metrics is not None:
            if metrics.get("fingerprint") != fingerprint:
                return State(Status.CONFLICT, int(metrics.get("n", 0)), self._difference(basis))
            enough = metrics.get("exhausted") or (asked is not None and metrics["n"] >= asked)
            if enough and self._predictions_are_those_of(metrics):
                return State(Status.DONE, metrics["n"])
        rows = self.rows()
        if any(row["fingerprint"] != fingerprint for row in rows):
            return State(Status.CONFLICT, len(rows), self._difference(basis))
        good = sum(row["error"] is None for row in rows)
        return State(Status.PARTIAL if rows else Status.EMPTY, good)

    def _predictions_are_those_of(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the metrics' rows are still there. The size tells; only where it differs is the file read."""
        try:
            size = (self.path / PREDICTIONS).stat().st_size
        except OSError:
            size = 0
        return size == metrics.get("predictions_bytes") or sum(r["error"] is None for r in self.rows()) >= metrics["n"]

    def _difference(self, basis: Mapping[str, Any]) -> str:
        """What tells the folder's configuration from another, as `key: there -> here`."""
        environment = self._json(ENVIRONMENT) or {}
        there, here = flatten(environment.get("fingerprint_basis") or {}), flatten(json.loads(canonical(basis)))
        changed = [k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k)]
        if not there or not changed:
            return "the folder does not say of which configuration"
        return ", ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in changed)

    def _json(self, name: str) -> dict | None:
        path = self.path / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ResultsError(f"{path}: cannot be read: {exc.strerror}") from exc
        except ValueError as exc:
            raise ResultsError(f"{path}: not JSON. Delete it (it is made again), or rerun with --overwrite") from exc
        if not isinstance(value, dict):
            raise ResultsError(f"{path}: not a JSON object. Delete it (it is made again), or rerun with --overwrite")
        return value


class RunWriter(RunFolder):
    """The one process that writes a run's folder; use it as a context manager, which holds the folder's lock.

    On entering, a line cut off in mid-write and the rows of failed samples are dropped (those samples are done again),
    so no index ever stands twice in the file.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        resolved: Mapping[str, Any],
        basis: Mapping[str, Any],
        overwrite: bool = False,
    ):
        super().__init__(path)
        self.fingerprint = fingerprint
        self.good: dict[int, dict] = {}
        """Rows on disk without an error, by index."""
        self.failed: dict[int, dict] = {}
        """Rows of this invocation's failures, by index."""
        self._resolved, self._basis, self._overwrite = resolved, basis, overwrite
        self._file: int | None = None
        self._lock: int | None = None

    def __enter__(self) -> RunWriter:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise _storage_error(self.path, exc) from exc
        self._lock = _lock(self.path / LOCK)
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> None:
        if self._overwrite:
            for name in (METRICS, PREDICTIONS, CONFIG, ENVIRONMENT, PROMPT, KEPT):
                (self.path / name).unlink(missing_ok=True)
        state = self.state(self.fingerprint, None, self._basis)
        if state.status is Status.CONFLICT:
            raise ResultsError(conflict_message(self.path, state))
        predictions = self.path / PREDICTIONS
        rows = self.rows()
        self.good = {row["index"]: row for row in rows if row["error"] is None}
        clean = "".join(_line(row) for row in self.good.values())
        if not predictions.exists() or predictions.read_bytes() != clean.encode():
            write_atomically(predictions, clean)
        if (self.path / KEPT).exists():
            left = "".join(_line(record) for index, record in self.kept().items() if index in self.good)
            write_atomically(self.path / KEPT, left)
        environment = self._json(ENVIRONMENT) or {}
        sessions = [*environment.get("sessions", []), session_record()]
        record = {"fingerprint": self.fingerprint, "fingerprint_basis": self._basis, "sessions": sessions}
        write_atomically(self.path / CONFIG, yaml.safe_dump(json.loads(canonical(self._resolved)), sort_keys=False))
        write_atomically(self.path / ENVIRONMENT, json.dumps(record, indent=2) + "\n")
        self._file = os.open(predictions, os.O_WRONLY | os.O_APPEND)

    def keep_prompt(self, prompt: str) -> None:
        """Leave the rendered text of the first sample, chat template and all, for a human to look at."""
        write_atomically(self.path / PROMPT, prompt)

    def append(self, row: dict, kept: dict | None = None) -> None:
        """Add one sample's row and make it durable. Raises StorageError, the file then ends as it did before.

        `kept` is its record of kept.jsonl: written first, so that no row on disk lacks it.
        """
        index = row["index"]
        if index in self.good or index in self.failed:
            raise ValueError(f"sample {index} is already in {self.path / PREDICTIONS}")
        row = {"index": index, "fingerprint": self.fingerprint, **row}
        if kept is not None:
            try:
                with (self.path / KEPT).open("a") as file:
                    file.write(_line(kept))
            except OSError as exc:
                raise _storage_error(self.path / KEPT, exc) from exc
        before = os.fstat(self._file).st_size
        try:
            data = _line(row).encode()
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as exc:
            os.ftruncate(self._file, before)
            raise _storage_error(self.path / PREDICTIONS, exc) from exc
        (self.good if row["error"] is None else self.failed)[index] = row

    def finish(self, metrics: dict) -> None:
        """Write metrics.json: from now on the run is done."""
        size = (self.path / PREDICTIONS).stat().st_size
        record = {"fingerprint": self.fingerprint, **metrics, "predictions_bytes": size}
        write_atomically(self.path / METRICS, json.dumps(record, indent=2) + "\n")


def conflict_message(path: Path, state: State) -> str:
    """Why a run may not use the folder, and the two ways out."""
    return (
        f"{path}: holds {state.rows} predictions of another configuration ({state.conflict}). Nothing was touched. "
        "Use --output DIR to keep them, or --overwrite to replace them"
    )


def canonical(tree: Mapping[str, Any]) -> str:
    """JSON that does not depend on the order of keys."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old file or the new one. Raises StorageError."""
    if path.is_dir():
        raise StorageError(f"{path}: is a folder. Give a file, such as {path / 'NAME'}")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as exc:
        with suppress(OSError):  # there may be no folder for it to be in
            temporary.unlink()
        raise _storage_error(path, exc) from exc


def _line(row: Mapping[str, Any]) -> str:
    # ensure_ascii keeps lone surrogates and U+2028 from breaking a line
    return json.dumps(row) + "\n"


def _storage_error(path: Path, exc: OSError) -> StorageError:
    remedy = "give --output a folder that can be written"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "make room (or give --output another disk) and run the same command again to go on"
    return StorageError(f"{path}: cannot be written: {exc.strerror}. What was written before is intact: {remedy}")


def _lock(path: Path) -> int:
    """Take the folder's lock and return its file descriptor. Raises ResultsError if another process holds it.

    The kernel frees the lock when its process dies, however it dies: a file left behind by a killed one is no obstacle.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise _storage_error(path, exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.read(fd, 200).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            remedy = "Wait for it or stop it, or use --output DIR"
            raise ResultsError(f"{path.parent}: another process ({owner}) is writing this run. {remedy}") from exc
        # the holder before may have deleted the file between our open and our lock: then nobody else sees what we hold
        if path.exists() and os.stat(path).st_ino == os.fstat(fd).st_ino:
            os.ftruncate(fd, 0)
            os.write(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
            return fd
        os.close(fd)


@cache
def session_record() -> dict:
    """What produced the rows of this invocation: versions, device, commit, command, start time (UTC)."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("draft_approx_llm", "torch", "transformers", "tokenizers", "numpy")},
        "platform": platform.platform(),
        "devices": gpus or [f"cpu, {torch.get_num_threads()} threads"],
        **_git(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return getattr(sys.modules.get(name), "__version__", None)


def _git() -> dict:
    """{"commit", "dirty"} of the repository, None where there is no git."""

    def git(*words: str) -> str | None:
        try:
            command = ["git", "-C", str(REPOSITORY), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
