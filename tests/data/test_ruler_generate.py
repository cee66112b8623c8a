"""What holds for every task, length and tokenizer: the budget, determinism, an end to every retry, even depths."""

import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from ruler_helpers import make_recipe, stub_count, tiny_tokenizer, write_questions

from data.ruler.draws import BalancedDraws, CannotBuild, Draws
from data.ruler.files import token_counter
from data.ruler.generate import generate_rows, make_generator
from data.ruler.qa import Qa
from data.ruler.sizing import Budget, BudgetError, Generator, Prompt, faithful_rows
from data.ruler.sources import KeyWords, SourceError, key_words, list_words, read_qa
from data.ruler.tasks import TASKS
from data.ruler.wording import Wording

NIAH_TASKS = [task for task in TASKS if task.startswith("niah")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def tiny_count():
    return token_counter(tiny_tokenizer())


@pytest.mark.parametrize("variant", ["ruler", "balanced"])
@pytest.mark.parametrize("seq_len", [512, 1024, 2048])
@pytest.mark.parametrize("task", TASKS)
def test_no_sample_exceeds_its_budget(task, seq_len, variant, sources):
    recipe = make_recipe(task, seq_len, variant=variant, sources=sources)
    try:
        rows = list(generate_rows(recipe, stub_count, 5))
    except BudgetError as error:
        assert seq_len == 512 and task in ("vt", "cwe", "qa_2"), error
        assert f"seq_len {seq_len}" in str(error)
        return
    for index, row in enumerate(rows):
        assert row["index"] == index
        assert row["length"] == stub_count(row["input"] + row["answer_prefix"]) + recipe.tokens_to_generate <= seq_len


@pytest.mark.parametrize("seq_len", [64, 128, 256])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_cannot_fit_says_so(task, seq_len, sources):
    try:
        rows = list(generate_rows(make_recipe(task, seq_len, sources=sources), stub_count, 3))
        assert all(row["length"] <= seq_len for row in rows)
    except BudgetError as error:
        assert task in str(error) and str(seq_len) in str(error)
        if seq_len == 64 and not task.startswith("fwe"):
            assert "smallest sample has" in str(error)
    else:
        assert seq_len > 64


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_2", "niah_multikey_3", "vt", "cwe", "fwe"])
def test_a_real_tokenizer_is_counted_exactly(task, tiny_count):
    tokenizer = tiny_tokenizer()
    recipe = make_recipe(task, 2048, template="tiny")
    for row in generate_rows(recipe, tiny_count, 3):
        ids = tokenizer(row["input"] + row["answer_prefix"], add_special_tokens=False)["input_ids"]
        assert row["length"] == len(ids) + recipe.tokens_to_generate <= 2048
        assert ids.count(tokenizer.bos_token_id) == (2 if task == "cwe" else 1)


@pytest.mark.parametrize("variant", ["ruler", "balanced"])
@pytest.mark.parametrize("task", TASKS)
def test_rows_depend_on_seed_and_number_only(task, variant, sources):
    def lines(count, **kwargs):
        recipe = make_recipe(task, 1024, variant=variant, sources=sources, **kwargs)
        return [json.dumps(row) for row in generate_rows(recipe, stub_count, count)]

    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    five = lines(5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # the global generators are not touched
    random.seed(2)
    assert lines(5) == five
    assert lines(2) == five[:2]
    assert len(set(five)) == 5
    assert lines(2, seed=7) != five[:2]


@pytest.mark.parametrize("task", NIAH_TASKS)
def test_needles_are_in_the_text_and_answers_belong_to_the_queries(task):
    for row in generate_rows(make_recipe(task, 1024), stub_count, 5):
        args = TASKS[task].args
        assert len(row["outputs"]) == args["queries"] * args["values"]
        question = row["input"].rsplit("\n", 1)[1]
        for value in row["outputs"]:
            sentence = next(s for s in row["input"].split("One of the special magic ") if f" is: {value}." in s)
            key = sentence.split(" for ")[1].split(" is: ")[0]
            assert f" {key}" in question and f" {key}" in row["answer_prefix"]
        text_before = row["input"][: row["input"].index(row["outputs"][0])]
        assert row["token_position_answer"] == stub_count(text_before)
        assert row["answer_prefix"].endswith(" is" if len(row["outputs"]) == 1 else " are")


def test_vt_chains_end_at_the_queried_value_and_examples_differ_by_row():
    examples = set()
    for row in generate_rows(make_recipe("vt", 2048), stub_count, 5):
        example, sample = row["input"].split("they are: ")
        value = sample.split("assigned the value ")[1].split(" ")[0]
        assigned = {value}
        for line in sample.splitlines():
            if line.startswith("VAR "):
                name, _, source = line.removeprefix("VAR ").partition(" = ")
                if source.removeprefix("VAR ").strip() in assigned:
                    assigned.add(name)
        assert assigned - {value} == set(row["outputs"]) and len(row["outputs"]) == 5
        assert "12345" not in example
        examples.add(example)
    assert len(examples) == 5


@pytest.mark.parametrize(("task", "answers"), [("cwe", 10), ("fwe", 3)])
def test_answers_are_the_most_frequent_words(task, answers):
    for row in generate_rows(make_recipe(task, 2048), stub_count, 3):
        if task == "cwe":
            words = row["input"].rsplit("Memorize the ones", 1)[1].split("\n")[1].split(" ")[1::2]
        else:
            words = row["input"].split("coded words. ")[1].split("\nQuestion")[0].split(" ")
        counts = {word: words.count(word) for word in set(words) - {"..."}}
        top = sorted(counts, key=counts.get, reverse=True)[:answers]
        assert set(top) == set(row["outputs"]) and len(row["outputs"]) == answers


def test_qa_keeps_the_questions_own_documents(sources):
    for row in generate_rows(make_recipe("qa_1", 1024, sources=sources), stub_count, 5):
        assert row["outputs"][0] in row["input"]
    for index, row in enumerate(generate_rows(make_recipe("qa_2", 2048, sources=sources), stub_count, 5)):
        assert all(f"Title {index} {d}\n" in row["input"] for d in range(10))


@pytest.mark.parametrize("size", range(1, 12))
def test_documents_are_chosen_as_upstream_does(size, sources):
    """Own paragraph, then a sample of its article; if that is too short, all of it and a sample of the rest."""
    data = read_qa("squad", sources.squad)
    data = replace(data, questions=(replace(data.questions[3], same_article=(7, 5, 9, 11)),))
    own, more, rng = data.questions[0].context[0], (7, 5, 9, 11), random.Random(42)
    if size - 1 > 4:
        rest = [i for i in range(len(data.documents)) if i not in (own, *more)]
        expected = [own, *more, *rng.sample(rest, size - 5)]
    else:
        expected = [own, *rng.sample(more, size - 1)]
    random.Random(42).shuffle(expected)
    generator = Qa(TASKS["qa_1"], Wording.of(TASKS["qa_1"].family), data)
    text = generator.build(size, 0, Draws(42)).text
    context = "\n\n".join(f"Document {i + 1}:\n{data.documents[d]}" for i, d in enumerate(expected))
    assert f"given documents.\n\n{context}\n\nAnswer" in text


@pytest.mark.parametrize(
    ("task", "short", "long"),
    [("niah_single_1", 5, 25), ("niah_multikey_2", 5, 25), ("niah_single_2", 500, 500), ("vt", 5, 10), ("cwe", 10, 10)],
)
def test_steps_are_upstreams(task, short, long):
    for seq_len, step in ((4095, short), (4096, long)):
        assert make_generator(make_recipe(task, seq_len), 1).step == step


def test_more_samples_than_questions_is_an_error(sources):
    with pytest.raises(SourceError, match="13 samples wanted.*12 questions"):
        list(generate_rows(make_recipe("qa_2", 4096, sources=sources), stub_count, 13))


# ------------------------------------------------- sizing


class _Toy(Generator):
    """A sample of `size` units is `size` tokens and a random number of extra ones."""

    name, step = "toy", 10

    def __init__(self, extra=(0, 8), minimum=3, smallest=1):
        self.extra, self.minimum, self.smallest = extra, minimum, smallest

    def build(self, size, row, draws):
        if size < self.smallest:
            raise CannotBuild("too small")
        return Prompt("x" * (size + draws.rng.randint(*self.extra)), "", [])


def upstream_row(toy, size, draws, budget):
    """The retry loop as upstream has it, which may not end."""
    while True:
        try:
            prompt = toy.build(size, 0, draws)
            if budget.length(prompt) <= budget.seq_len:
                return prompt.text
        except CannotBuild:
            pass
        if size > toy.step:
            size -= toy.step


@pytest.mark.parametrize("seed", range(20))
def test_shrinking_is_upstreams_where_upstream_ends(seed):
    # At the smallest size a sample fits only if it draws one of three extras out of 30, so most rows need redraws.
    toy, budget = _Toy(extra=(0, 30)), Budget(17, 5, len)
    ours, theirs = Draws(seed), Draws(seed)
    size = 14 + seed
    for _ in range(5):
        expected = upstream_row(toy, size, theirs, budget)
        assert toy.fit_row(0, size, ours, budget).prompt.text == expected
    assert ours.rng.getstate() == theirs.rng.getstate()


@pytest.mark.parametrize("smallest", [1, 7, 10])
def test_where_upstream_hangs_the_size_goes_down_to_what_fits(smallest):
    # 29, 19 too long, 9 either too long or impossible: the row must end between
    toy = _Toy(minimum=smallest, smallest=smallest)
    budget = Budget(smallest + 10, 2, len)
    fitted = toy.fit_row(0, 29, Draws(1), budget)
    assert smallest <= fitted.size and fitted.length <= budget.seq_len


def test_a_row_that_never_fits_names_the_shortest():
    with pytest.raises(BudgetError, match="toy: row 4 does not fit into seq_len 6.* has 7 tokens"):
        _Toy(extra=(0, 0), minimum=3).fit_row(4, 29, Draws(1), Budget(6, 4, len))


def test_the_search_finds_the_largest_size():
    toy = _Toy(extra=(0, 0))
    assert toy.find_size(Draws(0), Budget(137, 4, len)) == 133
    assert toy.find_size(Draws(0), Budget(12, 4, len)) == 10  # nothing fits: the step, as upstream
    first = next(faithful_rows(toy, 0, Budget(137, 4, len)))
    assert (first.size, first.length) == (133, 137)


# ------------------------------------------------- balanced


def depths_of(task, count, seq_len=1024, **kwargs):
    rows = generate_rows(make_recipe(task, seq_len, variant="balanced", **kwargs), stub_count, count)
    return [row["input"].index(row["outputs"][0]) / len(row["input"]) for row in rows]


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_3"])
def test_balanced_depths_cover_the_text_evenly(task):
    counts = np.histogram(depths_of(task, 40), bins=4, range=(0, 1))[0]
    assert counts.min() >= (7 if "multikey" not in task else 4), counts


def test_balanced_gold_documents_cover_the_prompt(sources):
    counts = np.histogram(depths_of("qa_1", 24, sources=sources), bins=6, range=(0, 1))[0]
    assert counts.min() >= 3, counts


def test_ruler_gold_documents_hardly_move(sources):
    """The defect that `balanced` answers: one shuffle for all rows of a length."""
    rows = generate_rows(make_recipe("qa_1", 1024, sources=sources), stub_count, 12)
    positions = {row["input"][: row["input"].index(row["outputs"][0])].count("Document ") for row in rows}
    assert len(positions) <= 3


@pytest.mark.parametrize("task", ["niah_single_2", "niah_multivalue"])
def test_balanced_fills_the_budget(task):
    rows = list(generate_rows(make_recipe(task, 2048, variant="balanced"), stub_count, 10))
    assert min(row["length"] for row in rows) >= 2048 - 8
    assert max(row["length"] for row in rows) <= 2048


@pytest.mark.parametrize("count", [1, 4, 5])
def test_balanced_positions_are_distinct_and_in_range(count):
    for row, total in itertools.product(range(30), (count, count + 1, 50)):
        draws = BalancedDraws(42, row)
        lines = draws.line_positions(total, count)
        assert len(set(lines)) == count and lines == sorted(lines) and lines[0] >= 0 and lines[-1] < total
        sentences = draws.sentence_positions(total, count)
        assert sentences == sorted(sentences) and sentences[0] >= 0 and sentences[-1] <= total
    with pytest.raises(CannotBuild):
        BalancedDraws(42, 0).line_positions(count - 1, count)


# ------------------------------------------------- words


def brute_force(adjectives, nouns):
    return sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})


@pytest.mark.parametrize("seed", range(20))
def test_key_words_are_the_sorted_product(seed):
    rng = random.Random(seed)
    parts = ["".join(rng.choices("ab-'zA", k=rng.randint(1, 4))) for _ in range(40)]
    adjectives, nouns = parts[:20] + ["a", "a-b", "a-b-z"], parts[20:] + ["b-z", "z"]
    words = KeyWords(adjectives, nouns)
    assert list(words) == brute_force(adjectives, nouns)
    with pytest.raises(IndexError):
        words[len(words)]


def test_wonderwords_lists_are_those_of_2_2_0():
    assert len(key_words()) == 6_175_260
    assert len(list_words()) == len(set(list_words()))


@pytest.mark.slow
def test_all_six_million_key_words():
    from data.ruler.sources import _wonderwords

    assert list(key_words()) == brute_force(_wonderwords("adjective"), _wonderwords("noun"))
