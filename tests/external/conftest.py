"""What the tests of external tools share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment() -> Callable[[str], str]:
    """tool -> its environment's Python; the test is skipped where the environment is not made."""

    def python(tool: str) -> str:
        path = REPOSITORY / ".envs" / tool / "bin" / "python"
        if not path.exists():
            pytest.skip(f"{tool} has no environment: make env-{tool}")
        return str(path)

    return python
