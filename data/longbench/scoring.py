"""LongBench's scorer (THUDM/LongBench 2e00731, metrics.py and eval.py), quirks included, under both protocols.

README.md beside this file says what the protocols are, and where other scorers differ.
"""

from __future__ import annotations

import functools
import re
import string
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from types import MappingProxyType

import numpy as np
from rapidfuzz.distance import Indel

from data.benchmark import Sample
from data.longbench.tasks import parse_task
from data.paper import keep_last
from data.scores import fractions, meta_of, references_of, total

# ------------------------------------------------- metrics: 0 to 1 for a prediction and one reference


def f1(prediction: str, reference: str) -> float:
    """Overlap of the words, without case, ASCII punctuation and articles."""
    ours, theirs = _words(prediction), _words(reference)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    # in this order: another one gives other last bits
    return 2 * precision * recall / (precision + recall)


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _words(text: str) -> list[str]:
    # punctuation first: "a-b" becomes "ab", in which no article stands by itself
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


# a row is scored under both protocols, mostly with equal texts, and a long summary takes half a second
@functools.lru_cache(maxsize=16)
def rouge(prediction: str, reference: str) -> float:
    """ROUGE-L's f by the `rouge` package, which published numbers rest on; 0 where the package raises anything.

    It raises on a text that is empty or has only full stops, and RecursionError on long sentences: its recursion is at
    most as deep as the longest sentences of the two texts are long together, in words. With 512 new tokens and the
    published references, whose longest sentence has 200 words, it stays below Python's limit of 1000 calls; a longer
    answer without full stops reaches it. Then the depth of the caller's own stack would decide: hence the thread.
    """
    scorer = _Rouge(prediction, reference)
    scorer.start()
    scorer.join()
    return scorer.f


class _Rouge(threading.Thread):
    """`get_scores` called from the third frame of a stack, as in THUDM's eval.py."""

    def __init__(self, prediction: str, reference: str):
        super().__init__()
        self.prediction, self.reference = prediction, reference
        self.f = 0.0
        from rouge import Rouge  # here, so that an absent package is an error and not a score

        self.package = Rouge(metrics=["rouge-l"])

    def run(self) -> None:
        try:
            scores = self.package.get_scores([self.prediction], [self.reference], avg=True)
        except Exception:
            return
        self.f = scores["rouge-l"]["f"]


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """1 / (classes named in the prediction) if the reference is one of them, else 0.

    A class whose name is part of the reference's does not count, unless it follows one that was just taken out: the
    list is shortened while it is walked.
    """
    named = [name for name in classes if name in prediction]
    for name in named:
        if name in reference and name != reference:
            named.remove(name)
    return 1 / len(named) if reference in named else 0.0


def count(prediction: str, reference: str) -> float:
    """Share of the prediction's numbers that are the reference, digit for digit."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, reference: str) -> float:
    """Share of the prediction's numbers that are the N of the reference "Paragraph N". Raises ValueError."""
    match = re.search(r"Paragraph (\d+)", reference)
    if match is None:
        raise ValueError(f"reference {reference!r}: no 'Paragraph N'")
    return count(prediction, match[1])


def code(prediction: str, reference: str, ratio: Callable[[str, str], float]) -> float:
    """Edit similarity in whole per cent of the first line that has neither a backtick nor a comment sign.

    Blank lines count as lines, but for empty ones at the start; spaces count as characters.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(sign in line for sign in ("`", "#", "//"))), "")
    # fuzzywuzzy answers 1 for equal strings and 0 for one empty one by itself; so do both ratios
    return round(100 * ratio(line, reference)) / 100


def _difflib_ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


METRICS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "f1": f1,
        "rouge": rouge,
        "classification": classification,
        "count": count,
        "retrieval": retrieval,
        "code": code,
    }
)
"""The names that `Task.metric` may have."""

RATIOS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {"official": _difflib_ratio, "paper": Indel.normalized_similarity}
)
"""Edit similarity per protocol: fuzzywuzzy's without and with python-Levenshtein, whatever is installed here."""


# ------------------------------------------------- rows and means

_BUCKETS = (("0-4k", 4000), ("4-8k", 8000), ("8k+", float("inf")))


class LongBenchScoring:
    """The scoring half of a `data.benchmark.Benchmark`."""

    def score(self, sample: Sample, prediction: str) -> dict[str, float]:
        """100 * the best of a row's references: `official` as THUDM scores it, `paper` as the reference does."""
        return {
            "official": _score(sample, prediction, "official"),
            "paper": _score(sample, keep_last(prediction), "paper"),
        }

    def extras(self, sample: Sample, prediction: str) -> dict[str, float]:
        """For summaries `rouge_score_rougeL`: ROUGE-L by the rouge-score package, no stemmer, 0 to 100."""
        task, _ = parse_task(sample.meta["task"])
        if task.metric != "rouge":
            return {}
        text = _scored_part(task.first_line, prediction)
        best = max(_rouge_scorer().score(reference, text)["rougeL"].fmeasure for reference in sample.references)
        return {"rouge_score_rougeL": 100 * best}

    def mean(self, scores: Sequence[float]) -> float:
        """As THUDM's eval.py takes it, rounded to hundredths."""
        return round(100 * total(scores) / len(scores), 2)

    def breakdown(self, samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float | None]:
        """LongBench-E's means by the prompts' length in words; None where there are none (eval.py: nan)."""
        if not samples or not parse_task(samples[0].meta["task"])[1]:
            return {}
        buckets: dict[str, list[float]] = {name: [] for name, _ in _BUCKETS}
        for sample, fraction in zip(samples, fractions(scores), strict=True):
            name = next(name for name, end in _BUCKETS if sample.meta["length"] < end)
            buckets[name].append(fraction)
        # numpy's mean and rounding, as in eval.py: both can differ from Python's in the last digit
        return {name: float(round(100 * np.mean(values), 2)) if values else None for name, values in buckets.items()}

    def sample_of(self, task: str, index: int, row: Mapping) -> Sample:
        """What `score` needs, from a row {"pred", "answers", "all_classes", "length"} of THUDM's runner or one of ours.

        Raises ValueError that names the field which is missing or wrong.
        """
        try:
            known, is_e = parse_task(task)
        except KeyError:
            raise ValueError(f"task: {task!r} is not one of LongBench's English tasks") from None
        meta = meta_of(row)
        # eval.py takes the last row's classes for all rows, the reference the first row's: they are the same in each
        classes, length = meta.get("all_classes"), meta.get("length")
        if known.metric == "classification" and not _are_strings(classes):
            raise ValueError(f"all_classes: {classes!r} is not a list of strings, which {task} needs")
        if is_e and (isinstance(length, bool) or not isinstance(length, int)):
            raise ValueError(f"length: {length!r} is not a whole number (of words), which LongBench-E's means need")
        return Sample(
            index=index,
            prompt="",
            references=references_of(row, "answers"),
            max_new_tokens=known.max_new_tokens,
            add_special_tokens=True,
            meta={"task": task, "all_classes": classes, "length": length},
        )


def _score(sample: Sample, prediction: str, protocol: str) -> float:
    if not sample.references:
        raise ValueError("a sample without references cannot be scored")
    task, _ = parse_task(sample.meta["task"])
    text = _scored_part(task.first_line, prediction)
    metric = METRICS[task.metric]
    if task.metric == "classification":
        metric = functools.partial(metric, classes=sample.meta["all_classes"])
    elif task.metric == "code":
        metric = functools.partial(metric, ratio=RATIOS[protocol])
    return 100 * max(metric(text, reference) for reference in sample.references)


def _scored_part(first_line: bool, prediction: str) -> str:
    return prediction.lstrip("\n").split("\n")[0] if first_line else prediction


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


@functools.cache
def _rouge_scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
