"""What the tests of external tools share: real environments, and toys in their place."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "harness"))

import toy  # noqa: E402

import data  # noqa: E402
from external import client  # noqa: E402

WORKER = Path(__file__).parent / "toy_worker.py"
LEAF = {
    "target_model": {"model_name_or_path": "data/tiny_pair/target", "dtype": "float32"},
    "dataset": {"dataset_name": "toy", "task": "add", "num_samples": 4},
    "sparse_config": {"sparse_type": "kvpress", "press": "TextPress", "max_capacity_prompt": 2},
}


@pytest.fixture
def environment() -> Callable[[str], str]:
    """tool -> its environment's Python; the test is skipped where the environment is not made."""

    def python(tool: str) -> str:
        path = REPOSITORY / ".envs" / tool / "bin" / "python"
        if not path.exists():
            pytest.skip(f"{tool} has no environment: make env-{tool}")
        return str(path)

    return python


def install_toys(root: Path) -> None:
    """Toy workers as external/kvpress and external/llmlingua, this Python as their environments, below root."""
    for tool in ("kvpress", "llmlingua"):
        (root / "external" / tool).mkdir(parents=True)
        (root / "external" / tool / "worker.py").write_text(WORKER.read_text())
        (root / ".envs" / tool / "bin").mkdir(parents=True)
        (root / ".envs" / tool / "bin" / "python").symlink_to(sys.executable)


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Callable[[], list[dict]]:
    """Toy tools, the toy benchmark and an empty working directory; called, it tells what the workers were asked."""
    asked = tmp_path / "asked.jsonl"
    install_toys(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "_MODULES", dict(data._MODULES))
    monkeypatch.setattr(client, "EXTERNAL", tmp_path / "external")
    monkeypatch.setattr(client, "ENVIRONMENTS", tmp_path / ".envs")
    monkeypatch.setenv("TOY_ASKED", str(asked))
    toy.install()
    return lambda: [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


@pytest.fixture
def leaf(toys, tmp_path) -> Callable[..., Path]:
    """leaf("cfg/a.yaml", sparse_type=…): a run of a toy tool, with changes to its sparse_config."""

    def write(name: str = "cfg/a.yaml", **sparse_config) -> Path:
        content = copy.deepcopy(LEAF)
        new = sparse_config.get("sparse_type", "kvpress") != "kvpress"
        content["sparse_config"] = sparse_config if new else content["sparse_config"] | sparse_config
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    return write
