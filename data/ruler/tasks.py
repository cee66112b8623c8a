"""The 13 tasks: their arguments, wording and answer lengths.

The English strings are the wire format of NVIDIA/RULER c3f5e3b (Apache-2.0, scripts/synthetic.yaml and
scripts/data/synthetic/constants.py): they decide whether a score is comparable with a published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DOCUMENT = "Document {i}:\n{document}"


@dataclass(frozen=True)
class Family:
    """Tasks that share a generator, their wording and their scorer."""

    name: str
    body: str
    answer_prefix: str
    tokens_to_generate: Mapping[str, int]
    """Answer length per protocol."""
    metric: str
    """"all" (share of references found) or "part" (any reference found)."""


NIAH = Family(
    name="niah",
    body="Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type_needle_v} afterwards.\n{context}\n"
    "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?",
    answer_prefix=" The special magic {type_needle_v} for {query} mentioned in the provided text are",
    tokens_to_generate=MappingProxyType({"official": 128, "paper": 128}),
    metric="all",
)
VARIABLE_TRACKING = Family(
    name="variable_tracking",
    body="Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
    "Question: Find all variables that are assigned the value {query} in the text above.",
    answer_prefix=" Answer: According to the chain(s) of variable assignment in the text above, "
    "{num_v} variables are assigned the value {query}, they are: ",
    tokens_to_generate=MappingProxyType({"official": 30, "paper": 64}),
    metric="all",
)
COMMON_WORDS = Family(
    name="common_words_extraction",
    body="Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\n"
    "Question: What are the 10 most common words in the above list?",
    answer_prefix=" Answer: The top 10 words that appear most often in the list are:",
    tokens_to_generate=MappingProxyType({"official": 120, "paper": 120}),
    metric="all",
)
FREQUENT_WORDS = Family(
    name="freq_words_extraction",
    body="Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. {context}\n"
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?",
    answer_prefix=" Answer: According to the coded text above, the three most frequently appeared words are:",
    tokens_to_generate=MappingProxyType({"official": 50, "paper": 64}),
    metric="all",
)
QA = Family(
    name="qa",
    body="Answer the question based on the given documents. Only give me the answer and do not output any other words."
    "\n\nThe following are given documents.\n\n{context}\n\n"
    "Answer the question based on the given documents. Only give me the answer and do not output any other words."
    "\n\nQuestion: {query}",
    answer_prefix=" Answer:",
    tokens_to_generate=MappingProxyType({"official": 32, "paper": 64}),
    metric="part",
)


@dataclass(frozen=True)
class Task:
    """One of the 13: a family and the arguments of its generator."""

    name: str
    short: str
    """A name for narrow tables."""
    family: Family
    args: Mapping[str, object] = field(default_factory=dict)

    @property
    def uses_essays(self) -> bool:
        """Whether the task's haystack is prose (essays, built-in prose or a text of the user's)."""
        return self.args.get("haystack") == "essay"


def _niah(
    name: str,
    short: str,
    haystack: str,
    key_type: str,
    value_type: str,
    keys: int = 1,
    values: int = 1,
    queries: int = 1,
):
    types = {"haystack": haystack, "key_type": key_type, "value_type": value_type}
    return Task(name, short, NIAH, MappingProxyType({**types, "keys": keys, "values": values, "queries": queries}))


_ALL = (
    _niah("niah_single_1", "sngl1", "noise", "words", "numbers"),
    _niah("niah_single_2", "sngl2", "essay", "words", "numbers"),
    _niah("niah_single_3", "sngl3", "essay", "words", "uuids"),
    _niah("niah_multikey_1", "mkey1", "essay", "words", "numbers", keys=4),
    _niah("niah_multikey_2", "mkey2", "needle", "words", "numbers"),
    _niah("niah_multikey_3", "mkey3", "needle", "uuids", "uuids"),
    _niah("niah_multivalue", "mval", "essay", "words", "numbers", values=4),
    _niah("niah_multiquery", "mqry", "essay", "words", "numbers", keys=4, queries=4),
    Task("vt", "vt", VARIABLE_TRACKING),
    Task("cwe", "cwe", COMMON_WORDS),
    Task("fwe", "fwe", FREQUENT_WORDS),
    Task("qa_1", "qa1", QA, MappingProxyType({"dataset": "squad"})),
    Task("qa_2", "qa2", QA, MappingProxyType({"dataset": "hotpotqa"})),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
