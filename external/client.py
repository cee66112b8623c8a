"""Our end of the line to a tool's worker: requests go in, answers come out. external/README.md has the protocol."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from harness.config import REPOSITORY
from harness.errors import UserError

EXTERNAL = REPOSITORY / "external"
ENVIRONMENTS = REPOSITORY / ".envs"
LOG_LINES = 15
"""Of a dead worker's last words."""
PATIENCE = 20
"""Seconds that a worker has to end by itself."""


class ToolError(UserError):
    """The tool cannot go on: it is not there, or its worker died."""


class AnswerError(Exception):
    """One sample has no answer; the tool can go on with the next."""


def python_of(tool: str) -> Path:
    """The interpreter of a tool's environment. Raises ToolError, which names the command that makes it."""
    worker = EXTERNAL / tool / "worker.py"
    if not worker.is_file():
        raise ToolError(f"{tool}: no such tool: there is no {worker}. external/README.md says how to add one")
    path = ENVIRONMENTS / tool / "bin" / "python"
    if not path.is_file():
        raise ToolError(f"{tool} needs an environment of its own, which is not here. Make it: make env-{tool}")
    return path


class Worker:
    """A tool's worker process; a context manager, on whose exit it is gone. It starts with the first question."""

    def __init__(self, tool: str):
        self.tool = tool
        self._command = [str(python_of(tool)), str(EXTERNAL / tool / "worker.py")]
        self._process: subprocess.Popen | None = None
        self._chatter: deque[str] = deque(maxlen=LOG_LINES)
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed on exit)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            try:
                self._process.stdin.close()  # the worker's loop over its input ends
                self._process.wait(PATIENCE)
            except (OSError, subprocess.TimeoutExpired):
                pass
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
        self._log.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises AnswerError if it says that there is none, ToolError if it dies."""
        if self._process is None:
            # a session of its own: Ctrl-C is for us, and what the worker has answered is then on disk
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it is dead, and its output says why
        for line in self._process.stdout:
            answer = _object(line)
            if answer is None or "index" not in answer:
                self._chatter.append(line)  # what a library printed
            elif answer["index"] != request["index"]:
                raise ToolError(f"{self.tool}'s worker answers {answer['index']} where {request['index']} was asked")
            elif answer.get("error"):
                raise AnswerError(answer["error"])
            else:
                return answer
        status = self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        raise ToolError(
            f"{self.tool}'s worker died ({how}) at sample {request['index']}. Its last words:\n{self._tail()}"
        )

    def _tail(self) -> str:
        self._log.seek(0)
        lines = self._log.read().splitlines()[-LOG_LINES:] or [line.rstrip() for line in self._chatter]
        return "\n".join(f"    {line}" for line in lines) or "    (none)"


def _object(line: str) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
