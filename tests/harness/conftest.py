"""Fixtures of the harness's tests: a working directory of their own and the toy benchmark."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

import toy

import data


@pytest.fixture
def benchmark(monkeypatch):
    """The toy benchmark, registered for one test."""
    monkeypatch.setattr(data, "_MODULES", dict(data._MODULES))
    return toy.install()


@pytest.fixture
def workspace(tmp_path, monkeypatch, benchmark):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(workspace):
    """write("cfg/a.yaml", {…} or text): a file below the working directory, by default a valid leaf."""

    def write(name: str, content: dict | str | None = None, **changes) -> Path:
        if content is None:
            content = copy.deepcopy(toy.LEAF) | changes
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write
