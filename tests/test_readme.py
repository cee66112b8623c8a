"""The README's library example runs as it stands, and does what the README says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_library_example_finds_the_needle(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    code = re.search(r"## The library in ten lines\n\n```python\n(.*?)```", text, re.S)[1]
    names: dict = {}
    exec(code, names)
    (reference,) = names["sample"].references
    assert reference in capsys.readouterr().out.split("[")[1]
    assert names["output"].stats[0]["kept_tokens"] == 64
    assert 1800 < names["output"].stats[0]["prompt_tokens"] < 2048
