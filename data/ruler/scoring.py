"""RULER's scorer (NVIDIA/RULER c3f5e3b, scripts/eval): case-insensitive substring tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from data.benchmark import Sample
from data.paper import keep_last
from data.ruler.tasks import TASKS
from data.scores import references_of, total

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


class RulerScoring:
    """The scoring half of a `data.benchmark.Benchmark`."""

    def score(self, sample: Sample, prediction: str) -> dict[str, float]:
        """RULER's score of one prediction, 0 to 100; under `paper` of what the reference keeps of it."""
        metric = TASKS[sample.meta["task"]].family.metric
        texts = {"official": prediction, "paper": keep_last(prediction)}
        return {key: string_match(metric, clean_prediction(text), sample.references) for key, text in texts.items()}

    def extras(self, sample: Sample, prediction: str) -> dict[str, float]:
        """Nothing."""
        return {}

    def mean(self, scores: Sequence[float]) -> float:
        """As RULER takes it, rounded to hundredths."""
        return round(total(scores) / len(scores) * 100, 2)

    def breakdown(self, samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float | None]:
        """Nothing: RULER publishes a file's mean only."""
        return {}

    def sample_of(self, task: str, index: int, row: Mapping) -> Sample:
        """What `score` needs, from a row {"pred", "outputs"} of RULER's runner or one of ours. Raises ValueError."""
        if task not in TASKS:
            raise ValueError(f"task: {task!r} is not known; valid: {', '.join(TASKS)}")
        return Sample(
            index=index,
            prompt="",
            references=references_of(row, "outputs"),
            max_new_tokens=0,
            add_special_tokens=False,
            meta={"task": task},
        )
