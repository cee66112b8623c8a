"""RULER's scorer (NVIDIA/RULER c3f5e3b, scripts/eval): case-insensitive substring tests."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean_prediction(prediction: str) -> str:
    """Strip, turn every control character (tab and newline too) into a newline, strip again."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def string_match(metric: str, prediction: str, references: Sequence[str]) -> float:
    """0 to 100 for one cleaned prediction: "all" is the share of references contained, "part" whether any is."""
    if not references:
        raise ValueError("a sample without references cannot be scored")
    found = [reference.lower() in prediction.lower() for reference in references]
    return 100.0 * (sum(found) / len(found) if metric == "all" else any(found))
