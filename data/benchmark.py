"""What a benchmark is to the harness: a source of samples and a scorer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

PROTOCOLS = ("official", "paper")


@dataclass(frozen=True)
class Sample:
    """One prompt with everything needed to answer and to score it."""

    index: int
    """Row number in the data set."""
    prompt: str
    """Exactly the text that is tokenised."""
    references: tuple[str, ...]
    max_new_tokens: int
    add_special_tokens: bool
    """Whether the tokenizer adds its own BOS; False when the prompt's text carries one."""
    meta: dict = field(default_factory=dict)
    """JSON-able extras, such as the length in tokens."""


class Benchmark(Protocol):
    """One object per `dataset_name`; find it with `data.get_benchmark`."""

    name: str

    def validate(self, dataset: dict, protocol: str) -> None:
        """Refuse a bad `dataset:` section: ValueError with the key, the value and the valid ones. Reads no model."""

    def identity(self, dataset: dict, protocol: str) -> dict:
        """JSON-able: all that determines the samples, given a tokenizer; equal identities share their data."""

    def load(self, dataset: dict, tokenizer, protocol: str, limit: int | None = None) -> list[Sample]:
        """The first `limit` samples (all with None), creating data that is missing; deterministic."""

    def full_size(self, dataset: dict) -> int | None:
        """Rows of the published data set, so that a mean over fewer is labelled; None where nobody has said."""

    def score(self, sample: Sample, prediction: str) -> dict[str, float]:
        """`{"official": s, "paper": s}`, each 0 to 100, for one prediction."""
