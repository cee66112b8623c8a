"""What a benchmark is to the harness: a source of samples and a scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PROTOCOLS = ("official", "paper")


@dataclass(frozen=True)
class Sample:
    """One prompt with everything needed to answer and to score it."""

    index: int
    """Place in the run's order: the row number of the data set, unless the benchmark draws rows in another order."""
    prompt: str
    """Exactly the text that is tokenised."""
    references: tuple[str, ...]
    max_new_tokens: int
    add_special_tokens: bool
    """Whether the tokenizer adds its own BOS; False when the prompt's text carries one."""
    meta: dict = field(default_factory=dict)
    """JSON-able extras, such as the length in tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer besides the model's own; one of them cannot be the first."""
    clean_up_tokenization_spaces: bool | None = None
    """Whether spaces before punctuation are taken out of the decoded answer; None: as the tokenizer's setting says."""
    may_exceed_positions: bool = False
    """The configuration asks for prompts beyond the model's positions."""


class Benchmark(Protocol):
    """One object per `dataset_name`; find it with `data.get_benchmark`."""

    name: str
    length_option: str
    """What to tell the user to change when a prompt does not fit the model."""

    def validate(self, dataset: dict, protocol: str) -> None:
        """Refuse a bad `dataset:` section: ValueError with the key, the value and the valid ones. Reads no model."""

    def identity(self, dataset: dict, protocol: str) -> dict:
        """JSON-able: all that determines the samples, given a tokenizer; equal identities share their data."""

    def load(
        self, dataset: dict, tokenizer, protocol: str, limit: int | None = None, positions: int | None = None
    ) -> list[Sample]:
        """The first `limit` samples (all with None), creating data that is missing; deterministic.

        `positions`: how many tokens the model that reads the prompt has positions for, None if unknown.
        """

    def full_size(self, dataset: dict) -> int | None:
        """Rows of the published data set, so that a mean over fewer is labelled; None where nobody has said."""

    def short_names(self) -> Mapping[str, str]:
        """{task: name for narrow tables}, in the order of the published tables."""

    def averages(self, tasks: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """{title: tasks}: the published averages that a table over `tasks` shows, the overall one last."""

    def score(self, sample: Sample, prediction: str) -> dict[str, float]:
        """`{"official": s, "paper": s}`, each 0 to 100, for one prediction."""

    def extras(self, sample: Sample, prediction: str) -> dict[str, float]:
        """Further figures of one prediction, reported beside the score; often none."""

    def mean(self, scores: Sequence[float]) -> float:
        """Scores of `score` -> the number that the benchmark publishes: summed and rounded as its own scorer does."""

    def breakdown(self, samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float | None]:
        """{part of the data set: its mean} where the benchmark publishes parts (LongBench-E: lengths), else nothing."""

    def sample_of(self, task: str, index: int, row: Mapping) -> Sample:
        """A row of a predictions file (ours or the benchmark's own runner's) -> what `score` needs of its sample.

        Raises ValueError that says which field is missing.
        """
