"""The notebooks run top to bottom, find their needles, and are committed as they run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytest.importorskip("nbclient")
spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts" / "run_notebooks.py")
run_notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_notebooks)


def printed(notebook) -> list[str]:
    """What each cell prints, pictures as the kind that they are."""

    def shown(output) -> str:
        return output.get("text", "") or ",".join(sorted(output.get("data", {})))

    return ["".join(map(shown, cell.get("outputs", []))) for cell in notebook.cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_is_committed(path):
    fresh = run_notebooks.execute(path)
    found = printed(fresh)
    assert any("found 1 of 1" in text or "found 4 of 4" in text for text in found)
    assert sum("image/png" in text for text in found) >= 1 and sum("text/html" in text for text in found) == 1
    assert found == printed(run_notebooks.nbformat.read(path, as_version=4))


def test_there_is_a_notebook_for_each_method():
    assert [path.stem for path in NOTEBOOKS] == [f"example_usage_{name}" for name in ("speckv", "speckvpc", "specpc")]
