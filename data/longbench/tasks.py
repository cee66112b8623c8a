"""LongBench's 16 English tasks: wording, answer lengths, metrics, categories.

The strings are the wire format of THUDM/LongBench 2e00731 (MIT License; config/dataset2prompt.json, with its
misspellings): they decide whether a score is comparable with a published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Task:
    """One task of LongBench."""

    name: str
    category: str
    prompt: str
    """With `{context}` and `{input}`, fields of a row."""
    max_new_tokens: int
    metric: str
    """A name of `data.longbench.scoring.METRICS`."""
    short: str
    """A name for narrow tables."""
    rows: int = 200
    """Rows of the published test set."""
    rows_e: int | None = None
    """Rows of the task's LongBench-E set; None where it has none."""
    chat: bool = True
    """Whether chat models get their template around the prompt."""
    first_line: bool = False
    """Whether only a prediction's first line is scored."""
    newline_stops: bool = False
    """Whether generation ends at a newline as well (official protocol only)."""


SINGLE_DOC, MULTI_DOC, SUMMARY = "Single-doc QA", "Multi-doc QA", "Summarization"
FEW_SHOT, SYNTHETIC, CODE = "Few-shot", "Synthetic", "Code"

_PASSAGES_QA = (
    "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "The following are given passages.\n{context}\n\n"
    "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "Question: {input}\nAnswer:"
)
_ALL = (
    Task(
        "narrativeqa",
        SINGLE_DOC,
        "You are given a story, which can be either a novel or a movie script, and a question. Answer the question "
        "asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n"
        "Story: {context}\n\n"
        "Now, answer the question based on the story asconcisely as you can, using a single phrase if possible. "
        "Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
        max_new_tokens=128,
        metric="f1",
        short="nrtv",
    ),
    Task(
        "qasper",
        SINGLE_DOC,
        "You are given a scientific article and a question. Answer the question as concisely as you can, using a "
        "single phrase or sentence if possible. If the question cannot be answered based on the information in the "
        'article, write "unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". '
        "Do not provide any explanation.\n\nArticle: {context}\n\n"
        " Answer the question based on the above article as concisely as you can, using a single phrase or sentence "
        "if possible. If the question cannot be answered based on the information in the article, write "
        '"unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". '
        "Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
        max_new_tokens=128,
        metric="f1",
        short="qspr",
        rows_e=224,
    ),
    Task(
        "multifieldqa_en",
        SINGLE_DOC,
        "Read the following text and answer briefly.\n\n{context}\n\n"
        "Now, answer the following question based on the above text, only give me the answer and do not output any "
        "other words.\n\nQuestion: {input}\nAnswer:",
        max_new_tokens=64,
        metric="f1",
        short="mfqa",
        rows=150,
        rows_e=150,
    ),
    Task("hotpotqa", MULTI_DOC, _PASSAGES_QA, max_new_tokens=32, metric="f1", short="hpqa", rows_e=300),
    Task("2wikimqa", MULTI_DOC, _PASSAGES_QA, max_new_tokens=32, metric="f1", short="2wiki", rows_e=300),
    Task("musique", MULTI_DOC, _PASSAGES_QA, max_new_tokens=32, metric="f1", short="musq"),
    Task(
        "gov_report",
        SUMMARY,
        "You are given a report by a government agency. Write a one-page summary of the report.\n\n"
        "Report:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:",
        max_new_tokens=512,
        metric="rouge",
        short="gov",
        rows_e=300,
    ),
    Task(
        "qmsum",
        SUMMARY,
        "You are given a meeting transcript and a query containing a question or instruction. Answer the query in one "
        "or more sentences.\n\nTranscript:\n{context}\n\n"
        "Now, answer the query based on the above meeting transcript in one or more sentences.\n\n"
        "Query: {input}\nAnswer:",
        max_new_tokens=512,
        metric="rouge",
        short="qmsm",
    ),
    Task(
        "multi_news",
        SUMMARY,
        "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n{context}\n\n"
        "Now, write a one-page summary of all the news.\n\nSummary:",
        max_new_tokens=512,
        metric="rouge",
        short="mnews",
        rows_e=294,
    ),
    Task(
        "trec",
        FEW_SHOT,
        "Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}",
        max_new_tokens=64,
        metric="classification",
        short="trec",
        rows_e=300,
        chat=False,
        first_line=True,
    ),
    Task(
        "triviaqa",
        FEW_SHOT,
        "Answer the question based on the given passage. Only give me the answer and do not output any other words. "
        "The following are some examples.\n\n{context}\n\n{input}",
        max_new_tokens=32,
        metric="f1",
        short="trvqa",
        rows_e=300,
        chat=False,
        first_line=True,
    ),
    Task(
        "samsum",
        FEW_SHOT,
        "Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n\n{input}",
        max_new_tokens=128,
        metric="rouge",
        short="smsm",
        rows_e=300,
        chat=False,
        first_line=True,
        newline_stops=True,
    ),
    Task(
        "passage_count",
        SYNTHETIC,
        "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read "
        "these paragraphs and determine how many unique paragraphs there are after removing duplicates. In other "
        "words, how many non-repeating paragraphs are there in total?\n\n{context}\n\n"
        "Please enter the final count of unique paragraphs after removing duplicates. The output format should only "
        "contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
        max_new_tokens=32,
        metric="count",
        short="count",
        rows_e=300,
    ),
    Task(
        "passage_retrieval_en",
        SYNTHETIC,
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract "
        "is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\n"
        "Please enter the number of the paragraph that the abstract is from. The answer format must be like "
        '"Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
        max_new_tokens=32,
        metric="retrieval",
        short="retr",
        rows_e=300,
    ),
    Task(
        "lcc",
        CODE,
        "Please complete the code given below. \n{context}Next line of code:\n",
        max_new_tokens=64,
        metric="code",
        short="lcc",
        rows=500,
        rows_e=300,
        chat=False,
    ),
    Task(
        "repobench-p",
        CODE,
        "Please complete the code given below. \n{context}{input}Next line of code:\n",
        max_new_tokens=64,
        metric="code",
        short="repo",
        rows=500,
        rows_e=300,
        chat=False,
    ),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks by name, in the order of the paper's tables."""

PAPER_TASKS = tuple(task.name for task in _ALL if task.category != SYNTHETIC)
"""The 14 tasks of the SpecKV/SpecPC paper, over which its "All" column averages."""

E_TASKS = tuple(task.name for task in _ALL if task.rows_e is not None)
"""The 13 tasks of LongBench-E, whose sets are called `<task>_e`."""


def parse_task(name: str) -> tuple[Task, bool]:
    """A `task:` value -> (task, whether it means the LongBench-E set). Raises KeyError for an unknown one."""
    if name in TASKS:
        return TASKS[name], False
    task = TASKS[name.removesuffix("_e")]
    if task.rows_e is None or not name.endswith("_e"):
        raise KeyError(name)
    return task, True
