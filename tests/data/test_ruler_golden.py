"""Rows equal to NVIDIA/RULER's own output, byte for byte."""

import json

import pytest
from ruler_helpers import SHARED, SHARED_SOURCES, make_recipe, stub_count

from data.ruler.generate import generate_rows
from data.ruler.tasks import TASKS

pytestmark = pytest.mark.skipif(not (SHARED / "ruler_golden").exists(), reason="needs ../shared/data")


@pytest.fixture(autouse=True)
def nltk_tables(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(SHARED / "nltk")])


def golden_recipe(task):
    return make_recipe(task, 4096, haystack="essay", sources=SHARED_SOURCES)


def golden_lines(task):
    """Upstream's lines; its niah rows have a character offset for an index, ours the row number."""
    lines = (SHARED / "ruler_golden" / "4096" / task / "validation.jsonl").read_text().splitlines()
    return [json.dumps({**json.loads(line), "index": row}) for row, line in enumerate(lines)]


@pytest.mark.parametrize("task", TASKS)
def test_rows_equal_upstreams(task):
    expected = golden_lines(task)
    assert len(expected) == (4 if task == "qa_2" else 10)
    rows = list(generate_rows(golden_recipe(task), stub_count, len(expected)))
    for row, line in zip(rows, expected, strict=True):
        assert json.dumps(row) == line


@pytest.mark.parametrize("task", ["niah_multivalue", "vt", "qa_1"])
def test_fewer_rows_are_the_first_rows(task):
    rows = generate_rows(golden_recipe(task), stub_count, 3)
    assert [json.dumps(row) for row in rows] == golden_lines(task)[:3]


def test_qa_2_goes_on_where_upstream_hangs():
    rows = list(generate_rows(golden_recipe("qa_2"), stub_count, 60))
    assert [json.dumps(row) for row in rows[:4]] == golden_lines("qa_2")
    for row in rows:
        assert row["length"] == stub_count(row["input"] + row["answer_prefix"]) + 32 <= 4096
        assert row["input"].count("\nDocument ") >= 10  # its own ten documents at least


@pytest.mark.parametrize("task", ["niah_single_2", "vt", "qa_1"])
def test_a_chat_template_surrounds_the_text_and_counts(task):
    recipe = make_recipe(task, 4096, template="meta-llama3", haystack="essay", sources=SHARED_SOURCES)
    for row in generate_rows(recipe, stub_count, 3):
        assert row["input"].startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
        assert row["input"].endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
        assert row["length"] == stub_count(row["input"] + row["answer_prefix"]) + recipe.tokens_to_generate <= 4096
