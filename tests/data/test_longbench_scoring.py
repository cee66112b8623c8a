"""LongBench's scores: every quirk by hand, and thousands of generated strings against other implementations."""

import difflib
import importlib.util
import random
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from fuzzywuzzy import fuzz
from rouge import Rouge

from data.benchmark import Sample
from data.longbench.scoring import METRICS, RATIOS, LongBenchScoring, classification, code, count, f1, retrieval, rouge
from data.longbench.tasks import TASKS, parse_task
from data.paper import SYSTEM_PROMPTS, keep_last
from data.ruler.scoring import RulerScoring
from data.scores import fractions

ROOT = Path(__file__).resolve().parents[2]
LONGBENCH, RULER = LongBenchScoring(), RulerScoring()


def sample(task, *references, classes=None, length=100):
    row = {"answers": list(references), "all_classes": classes, "length": length}
    return LONGBENCH.sample_of(task, 0, row)


def score(task, prediction, *references, classes=None):
    return LONGBENCH.score(sample(task, *references, classes=classes), prediction)


def official(task, prediction, *references, classes=None):
    return score(task, prediction, *references, classes=classes)["official"]


# ------------------------------------------------- by hand: metrics


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("The Paris", "paris.", 1.0),
        ("Paris France", "Paris", 2 / 3),
        ("a b b", "b b c", 4 / 5),  # "a" is an article; b counts as often as both have it
        ("b b", "b c", 1 / 2),
        ("an apple, the pear", "apple pear", 1.0),
        ("The-Hague", "thehague", 1.0),  # punctuation goes first, so no article is left
        ("well-known", "well known", 0.0),
        ("“Paris”", "Paris", 0.0),  # only ASCII punctuation goes
        ("1,000", "1000", 1.0),
        ("THEATRE", "theatre", 1.0),
        ("Paris\n\tFrance", "paris france", 1.0),
        ("", "Paris", 0.0),
        ("the", "the", 0.0),  # nothing is left of either
        ("", "", 0.0),
    ],
)
def test_f1(prediction, reference, value):
    assert f1(prediction, reference) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("the cat sat", "the cat sat", 1),
        ("the cat", "the cat sat", 0.8),
        ("The cat", "the cat", 0.5),  # case counts
        ("the cat.", "the cat", 1),  # a full stop separates sentences, and counts for nothing
        ("the cat. ", "the cat", 0.8),  # but what follows it is a sentence of one empty word
        ("the cat, sat", "the cat sat", 2 / 3),  # other punctuation is part of its word
        ("sat the. the sat", "the sat", 1),  # each word once: sets, not sequences
        ("", "the cat", 0),
        ("the cat", "", 0),
        ("...", "the cat", 0),  # the package raises ValueError
        (" ", " ", 1),  # the empty word again
    ],
)
def test_rouge(prediction, reference, value):
    assert rouge(prediction, reference) == pytest.approx(value, abs=1e-7)


def test_a_missing_rouge_package_is_an_error_and_not_a_score(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge", None)
    with pytest.raises(ImportError):
        rouge("said only", "here")


def test_rouge_gives_up_on_long_sentences_where_eval_py_does_however_deep_the_caller():
    # one call a word: the recursion starts at the last one and ends at the first; no comprehension, which is a frame
    script = """
import sys
from rouge import Rouge
def rouge_score(prediction, reference):
    try:
        return Rouge().get_scores([prediction], [reference], avg=True)["rouge-l"]["f"]
    except:
        return 0.0
def scorer(lengths):
    for n in lengths:
        print(rouge_score("w", " ".join(["w", *["x"] * n])))
scorer(range(960, 1000))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    eval_py = [float(line) for line in done.stdout.split()]
    assert eval_py[0] > 0 == eval_py[-1]

    def at_depth(depth, words):
        if depth:
            return at_depth(depth - 1, words)
        rouge.cache_clear()
        return rouge("w", " ".join(["w", *["x"] * words]))

    for depth in (0, 500):
        assert [at_depth(depth, words) for words in range(960, 1000)] == eval_py


@pytest.mark.parametrize(
    ("prediction", "reference", "classes", "value"),
    [
        ("It is a Date", "Date", ["Date", "City"], 1),
        ("City", "Date", ["Date", "City"], 0),
        ("Date or City", "Date", ["Date", "City"], 1 / 2),
        ("date", "Date", ["Date", "City"], 0),  # case counts
        ("none", "Date", ["Date"], 0),
        ("", "Date", ["Date"], 0),
        ("Other location", "Other location", ["location", "Other location"], 1),  # part of the truth: does not count
        ("Other location", "location", ["location", "Other location"], 1 / 2),  # the truth is part of it: counts
        # "b" is skipped: the list got shorter while it was walked
        ("a b abc", "abc", ["a", "b", "abc"], 1 / 2),
        ("a b c abc", "abc", ["a", "b", "c", "abc"], 1 / 2),
        ("a b abc", "abc", ["abc", "a", "b"], 1 / 2),
        ("a x b abc", "abc", ["a", "x", "b", "abc"], 1 / 2),  # x is skipped and stays anyway, b is seen and goes
        ("a", "a", ["a", "a"], 1 / 2),
        ("Datum", "Datum", ["Date"], 0),  # no class at all is named: no guessing by similarity
    ],
)
def test_classification(prediction, reference, classes, value):
    assert classification(prediction, reference, classes) == value
    assert classes == list(classes)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("There are 5.", "5", 1),
        ("5 of 12", "5", 1 / 2),
        ("5 5 5", "5", 1),
        ("15", "5", 0),
        ("05", "5", 0),
        ("5.5", "5", 1),
        ("five", "5", 0),
        ("", "5", 0),
    ],
)
def test_count(prediction, reference, value):
    assert count(prediction, reference) == value


@pytest.mark.parametrize(
    ("prediction", "value"),
    [("Paragraph 12", 1), ("12", 1), ("Paragraph 1", 0), ("Paragraphs 12 and 3", 1 / 2), ("paragraph twelve", 0)],
)
def test_retrieval(prediction, value):
    assert retrieval(prediction, "Paragraph 12") == value


def test_retrieval_takes_the_references_first_paragraph_and_needs_one():
    assert retrieval("3", "Paragraph 3, Paragraph 4") == 1
    with pytest.raises(ValueError, match="'passage 3': no 'Paragraph N'"):
        retrieval("3", "passage 3")


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("return x\nmore", "return x", 1.0),
        ("\n\nreturn x", "return x", 1.0),
        ("```python\nreturn x\n```", "return x", 1.0),
        ("# why\nreturn x", "return x", 1.0),
        ("// why\nreturn x", "return x", 1.0),
        ("call() // why\nreturn x", "return x", 1.0),
        ("a / b", "a / b", 1.0),
        ("foo()\r", "foo()", 0.91),  # only \n ends a line
        ("    foo()", "foo()", 0.71),  # leading spaces count
        ("    foo()", "    foo()", 1.0),
        ("   \nfoo()", "foo()", 0.0),  # a blank line is a line
        ("# why\n\nfoo()", "foo()", 0.0),  # an empty one too, but at the start
        ("# why\n`x`", "foo()", 0.0),  # no line is left
        ("# why", "", 1.0),  # and "" equals ""
        ("", "", 1.0),
        ("", "foo()", 0.0),
        ("foo()", "", 0.0),
        ("x = 1; " * 60, "x = 1; " * 60, 1.0),  # where every character is frequent
        ("xa", "abcdefgh" + "xyzuvwrs"[:6], 0.12),  # 12.5 %: to the even number
    ],
)
def test_code(prediction, reference, value):
    assert code(prediction, reference, RATIOS["official"]) == value


def test_edit_similarity_is_each_protocols_own():
    a, b = "qabxcd", "abycdf"
    values = {name: code("bcaabb", "cabbca", ratio) for name, ratio in RATIOS.items()}
    assert values == {"official": 0.5, "paper": 0.67}
    assert {name: code(a, b, ratio) for name, ratio in RATIOS.items()} == {"official": 0.67, "paper": 0.67}
    # difflib's is not symmetric
    assert code("tide", "diet", RATIOS["official"]) == 0.25
    assert code("diet", "tide", RATIOS["official"]) == 0.5


# ------------------------------------------------- by hand: rows


def test_every_task_has_a_metric():
    assert {task.metric for task in TASKS.values()} == set(METRICS)


@pytest.mark.parametrize(
    ("task", "prediction", "references", "value"),
    [
        ("qasper", "yes", ["no", "yes", "maybe yes"], 100),  # the best of the references
        ("qasper_e", "Paris France", ["Paris"], 200 / 3),
        ("qasper", "\nParis\nFrance", ["Paris France"], 100),  # no first-line rule here
        ("triviaqa", "\n\nParis\nQuestion: x", ["Paris"], 100),
        ("triviaqa", " \nParis", ["Paris"], 0),  # a line of spaces is a line
        ("samsum", "\nTom left\nDialogue: x", ["Tom left"], 100),
        ("passage_count", "5, perhaps 6", ["5"], 50),
        ("passage_retrieval_en", "Paragraph 7", ["Paragraph 7"], 100),
        ("repobench-p", "x = 1  # set\ny = 2", ["y = 2"], 100),
        ("lcc", "x = 1", ["x = 10"], 91),
    ],
)
def test_official_rows(task, prediction, references, value):
    assert official(task, prediction, *references) == pytest.approx(value, abs=1e-5)


def test_official_and_paper_differ_where_the_reference_cleans():
    assert score("lcc", "    return x", "    return x") == {"official": 100, "paper": 80}
    assert score("lcc", "   \nreturn x", "return x") == {"official": 18, "paper": 100}
    assert score("qasper", "Paris. Answer: Rome", "Rome") == {"official": 50, "paper": 100}
    # the tags first, then the first line
    by_line = score("samsum", "old\nSummary: new\nolder", "new")
    assert by_line == {"official": 0, "paper": pytest.approx(100)}
    assert score("triviaqa", "  \n Paris \nx", "Paris") == {"official": 0, "paper": 100}
    # the tags come before LongBench-E's tasks as well
    assert score("lcc_e", "x()\nNext line of code:\ny()", "y()") == {"official": 67, "paper": 100}


@pytest.mark.parametrize(
    ("prediction", "kept"),
    [
        ("  one\n", "one"),
        ("Answer: one", "one"),
        ("Answer: one Answer: two", "two"),
        ("answer: one", "answer: one"),
        ("thought<think/> one", "one"),
        ("<think>thought</think> one", "<think>thought</think> one"),
        ("The answer is: 3 Summary: x", "x"),
        ("Summary: x The answer is: 3", "3"),
        ("Next line of code:\n    foo()", "foo()"),
        ("The final answer is: 5 Answer: 6 Summary:", ""),
        ("", ""),
    ],
)
def test_keep_last(prediction, kept):
    assert keep_last(prediction) == kept


def test_system_prompts():
    assert SYSTEM_PROMPTS["llama"].endswith("polite answers to the human's questions.")
    assert SYSTEM_PROMPTS["qwen"].startswith("You are Qwen, created by Alibaba Cloud.")


def test_rouge_score_is_beside_and_of_the_official_text():
    assert LONGBENCH.extras(sample("qmsum", "the cat", "no"), "the cat sat") == {
        "rouge_score_rougeL": pytest.approx(80)
    }
    assert LONGBENCH.extras(sample("qmsum", "The cat!"), "the cat") == {"rouge_score_rougeL": 100}
    assert LONGBENCH.extras(sample("qmsum", "cats"), "cat") == {"rouge_score_rougeL": 0}  # no stemmer
    assert LONGBENCH.extras(sample("samsum_e", "b"), "\nb\na") == {"rouge_score_rougeL": 100}
    assert LONGBENCH.extras(sample("qmsum", "b"), "b Summary: c") == {"rouge_score_rougeL": pytest.approx(50)}
    assert LONGBENCH.extras(sample("qmsum", "b"), "") == {"rouge_score_rougeL": 0}
    assert LONGBENCH.extras(sample("qasper", "b"), "b") == {}


# ------------------------------------------------- means


def eval_py_mean(values):
    total = 0.0
    for value in values:
        total += value
    return round(100 * total / len(values), 2)


def ruler_mean(values):
    total = 0.0
    for value in values:
        total += value
    return round(total / len(values) * 100, 2)


def test_shares_survive_the_hundredfold_to_the_last_bit():
    shares = [p / q for q in range(1, 501) for p in range(q + 1)]
    assert any(100 * x / 100 != x for x in shares)  # why fractions() is more than a division
    assert fractions([100 * x for x in shares]) == shares


def test_a_fraction_always_has_its_score():
    rng = random.Random(1)
    scores = [100 * rng.random() for _ in range(5000)]
    assert all(abs(x - s / 100) < 1e-15 for x, s in zip(fractions(scores), scores, strict=True))


def f1_value(rng):
    ours, theirs = rng.randint(1, 12), rng.randint(1, 6)
    shared = rng.randint(0, min(ours, theirs))
    return f1(" ".join(["w"] * shared + ["x"] * (ours - shared)), " ".join(["w"] * shared + ["y"] * (theirs - shared)))


@pytest.mark.parametrize(
    ("draw", "sizes"),
    [
        (lambda rng: rng.randint(0, 100) / 100, (1, 2, 8, 40, 200, 500)),
        (lambda rng: rng.choice((0.0, 1.0, 1 / 2, 1 / 3, 1 / 4)), (1, 2, 8, 40, 200)),
        (lambda rng: rng.randint(0, 10) / 10, (1, 8, 40, 500)),
        (f1_value, (1, 100, 200)),  # a handful of F1 can round the other way: see fractions()
        (lambda rng: rng.random(), (1, 200)),
    ],
)
def test_means_are_the_published_scorers_to_the_last_digit(draw, sizes):
    rng = random.Random(2)
    for size in sizes:
        for _ in range(max(20, 2000 // size)):
            values = [draw(rng) for _ in range(size)]
            scores = [100 * value for value in values]
            assert LONGBENCH.mean(scores) == eval_py_mean(values)
            assert RULER.mean(scores) == ruler_mean(values)
            assert type(LONGBENCH.mean(scores)) is float


def test_longbench_e_is_told_by_length():
    lengths = [0, 3999, 4000, 7999, 8000, 20000]
    samples = [sample("qasper_e", "x", length=length) for length in lengths]
    assert LONGBENCH.breakdown(samples, [0, 50, 10, 30, 70, 90]) == {"0-4k": 25, "4-8k": 20, "8k+": 80}
    assert LONGBENCH.breakdown(samples[:2], [0, 50]) == {"0-4k": 25, "4-8k": None, "8k+": None}
    assert LONGBENCH.breakdown([sample("qasper", "x", length=1)], [50]) == {}
    assert LONGBENCH.breakdown([], []) == {}


def test_longbench_es_means_are_numpys():
    values = [0.77, 0.87, 0.09, 0.03, 0.15, 0.81, 0.24, 0.77]
    assert round(100 * np.mean(values), 2) == 46.63 != eval_py_mean(values)
    samples = [sample("lcc_e", "x", length=1)] * len(values)
    assert LONGBENCH.breakdown(samples, [100 * value for value in values])["0-4k"] == 46.63
    rng = random.Random(3)
    for _ in range(200):
        values = [rng.randint(0, 100) / 100 for _ in range(rng.choice((8, 40, 200)))]
        samples = [sample("lcc_e", "x", length=9000)] * len(values)
        scores = [100 * value for value in values]
        assert LONGBENCH.breakdown(samples, scores)["8k+"] == round(100 * np.mean(values), 2)


# ------------------------------------------------- rows of files


def test_rows_of_either_kind_become_the_same_sample():
    theirs = {"pred": "x", "answers": ["a", "b"], "all_classes": ["a"], "length": 7}
    ours = {"prediction": "x", "references": ["a", "b"], "meta": {"all_classes": ["a"], "length": 7, "row": 3}}
    first, second = (LONGBENCH.sample_of("trec_e", 4, row) for row in (theirs, ours))
    assert first == second
    assert isinstance(first, Sample)
    assert first.index == 4
    assert first.references == ("a", "b")
    assert first.meta == {"task": "trec_e", "all_classes": ["a"], "length": 7}
    theirs, ours = {"pred": "x", "outputs": ["a"]}, {"prediction": "x", "references": ["a"], "meta": {"task": "vt"}}
    assert RULER.sample_of("vt", 0, theirs) == RULER.sample_of("vt", 0, ours)
    assert RULER.extras(RULER.sample_of("vt", 0, ours), "x") == {}
    assert RULER.breakdown([], []) == {}


@pytest.mark.parametrize(
    ("benchmark", "task", "row", "message"),
    [
        (LONGBENCH, "qasper", {"pred": "x"}, "answers: missing"),
        (LONGBENCH, "qasper", {"prediction": "x", "meta": {}}, "answers: missing .our rows call it references"),
        (LONGBENCH, "qasper", {"pred": "x", "answers": "yes"}, "answers: 'yes' is not a list"),
        (LONGBENCH, "qasper", {"pred": "x", "answers": []}, "answers: .* is not a list of one or more strings"),
        (LONGBENCH, "qasper", {"pred": "x", "answers": [5]}, "answers: .5. is not a list of one or more strings"),
        (LONGBENCH, "trec", {"pred": "x", "answers": ["a"]}, "all_classes: None is not a list of strings"),
        (LONGBENCH, "trec", {"prediction": "x", "references": ["a"], "meta": None}, "all_classes: None"),
        (LONGBENCH, "lcc_e", {"pred": "x", "answers": ["a"]}, "length: None is not a whole number"),
        (LONGBENCH, "lcc_e", {"pred": "x", "answers": ["a"], "length": "9"}, "length: '9' is not a whole number"),
        (LONGBENCH, "musique_e", {"pred": "x", "answers": ["a"]}, "task: 'musique_e' is not one of"),
        (LONGBENCH, "lsht", {"pred": "x", "answers": ["a"]}, "task: 'lsht' is not one of"),
        (RULER, "vt", {"pred": "x"}, "outputs: missing"),
        (RULER, "vx", {"pred": "x", "outputs": ["a"]}, "task: 'vx' is not known; valid: niah_single_1"),
    ],
)
def test_rows_that_cannot_be_scored_say_why(benchmark, task, row, message):
    with pytest.raises(ValueError, match=message):
        benchmark.sample_of(task, 0, row)


def test_a_row_without_references_cannot_be_scored():
    with pytest.raises(ValueError, match="without references"):
        LONGBENCH.score(Sample(0, "", (), 1, True, meta={"task": "qasper"}), "x")


def test_rulers_paper_score_is_of_what_the_reference_keeps():
    vt = RULER.sample_of("vt", 0, {"pred": "", "outputs": ["ABCDE", "FGHIJ"]})
    assert RULER.score(vt, "abcde Answer: fghij") == {"official": 100, "paper": 50}
    assert RULER.score(vt, " ABCDE\tFGHIJ ") == {"official": 100, "paper": 100}


# ------------------------------------------------- generated strings

WORDS = [
    "the",
    "a",
    "An",
    "cat",
    "Cats",
    "sat",
    "on",
    "Mat",
    "x",
    "co-op",
    "U.S.",
    "naïve",
    "猫",
    "5",
    "12",
    "é",
    "—",
    "'s",
]
CLASSES = ["Date", "Other", "Other date", "Other location", "location", "loc", "cat", "city", "Individual", "a", ""]
CODE = [
    "def f(x):",
    "return",
    "x",
    "=",
    "+",
    "  ",
    "    ",
    "\t",
    "#",
    "//",
    "`",
    "self.",
    "foo()",
    "[i]",
    "é",
    "/",
    "''",
]


def prose(rng, words=30):
    separators = [" "] * 12 + [".", ". ", "\n", "  ", ".\n", ", ", "..", "\n\n", "\t"]
    parts = [rng.choice(WORDS) + rng.choice(separators) for _ in range(rng.randint(0, words))]
    return rng.choice(["", "", "\n", " ", "\n\n"]) + "".join(parts) + rng.choice(["", "", ".", " ", "\n"])


def answer(rng):
    return prose(rng, rng.choice([0, 1, 3, 8])) + rng.choice(["", " 5", " 12 5", " Paragraph 5", "!", "?"])


def class_text(rng):
    return rng.choice(["", "\n", " "]) + rng.choice([" ", ", ", "\n"]).join(rng.choices(CLASSES, k=rng.randint(0, 5)))


def code_line(rng, parts=8):
    return "".join(rng.choice(CODE) for _ in range(rng.randint(0, rng.choice([parts, parts, 80]))))


def code_text(rng):
    return rng.choice(["", "\n", "\n\n"]) + "\n".join(code_line(rng) for _ in range(rng.randint(1, 4)))


def near(rng, text):
    """The text with some characters changed."""
    letters = list(text)
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(letters))
        letters[place : place + rng.randint(0, 3)] = rng.choice(["", "x", "  ", "foo"])
    return "".join(letters)


def pairs(draw, n, seed):
    rng = random.Random(seed)
    for _ in range(n):
        text = draw(rng)
        yield text, rng.choice([draw(rng), near(rng, text), near(rng, text).strip()])


def only_line(text):
    """The text as a line that `code` compares whole."""
    return text.translate(str.maketrans("", "", "#`/\n"))


@pytest.fixture
def lm_eval(monkeypatch):
    """lm-eval's LongBench metrics, from their file: the package itself needs much more."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        pytest.skip("lm-eval is not installed: pip install --no-deps -r requirements-peers.txt")
    monkeypatch.setitem(sys.modules, "jieba", types.ModuleType("jieba"))  # cuts Chinese
    monkeypatch.setattr(fuzz, "SequenceMatcher", difflib.SequenceMatcher)
    path = Path(spec.submodule_search_locations[0]) / "tasks" / "longbench" / "metrics.py"
    spec = importlib.util.spec_from_file_location("lm_eval_longbench_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_f1_count_and_retrieval_equal_lm_evals(lm_eval):
    found = 0
    for prediction, reference in pairs(answer, 4000, 10):
        value = f1(prediction, reference)
        assert value == lm_eval.qa_f1_score(prediction, reference)
        found += 0 < value < 1
        for number in ("5", "12", reference):
            assert count(prediction, number) == lm_eval.count_score(prediction, number)
        assert retrieval(prediction, "Paragraph 12") == lm_eval.retrieval_score(prediction, "Paragraph 12")
    assert found > 1000


def test_classification_equals_lm_evals(lm_eval):
    rng = random.Random(11)
    found = 0
    for _ in range(4000):
        prediction, reference = class_text(rng), rng.choice(CLASSES)
        classes = rng.sample(CLASSES, k=rng.randint(1, len(CLASSES)))
        value = classification(prediction, reference, classes)
        assert value == lm_eval.classification_score(prediction, reference, all_classes=list(classes))
        found += 0 < value < 1
    assert found > 400


def test_code_equals_lm_evals_where_no_line_is_blank(lm_eval):
    compared = 0
    for prediction, line in pairs(code_text, 4000, 12):
        reference = only_line(line)
        if all(part.strip() for part in prediction.lstrip("\n").split("\n")):
            assert code(prediction, reference, RATIOS["official"]) == lm_eval.code_sim_score(prediction, reference)
            compared += 1
    assert compared > 1500


def test_rouge_equals_lm_evals_and_the_packages(lm_eval):
    def package(prediction, reference):
        try:
            return Rouge().get_scores([prediction], [reference], avg=True)["rouge-l"]["f"]
        except Exception:
            return 0.0

    found = 0
    for prediction, reference in pairs(prose, 2000, 13):
        value = rouge(prediction, reference)
        assert value == package(prediction, reference) == lm_eval.rouge_score(prediction, reference)
        found += 0 < value < 0.999
    assert found > 800


@pytest.mark.parametrize("protocol", ["official", "paper"])
def test_edit_similarity_equals_fuzzywuzzys(protocol, monkeypatch):
    if protocol == "paper":
        pytest.importorskip("Levenshtein", reason="pip install --no-deps -r requirements-peers.txt")
        from fuzzywuzzy.StringMatcher import StringMatcher as Matcher
    else:
        Matcher = difflib.SequenceMatcher
    monkeypatch.setattr(fuzz, "SequenceMatcher", Matcher)
    found = long = 0
    for a, b in pairs(code_line, 6000, 14):
        a, b = only_line(a), only_line(b)
        value = code(a, b, RATIOS[protocol])
        assert value == fuzz.ratio(a, b) / 100
        found += 0 < value < 1
        long += len(b) >= 200  # from here difflib takes frequent characters for junk
    assert found > 1500
    assert long > 20


def test_the_protocols_edit_similarities_differ_on_generated_lines():
    lines = [(only_line(a), only_line(b)) for a, b in pairs(code_line, 2000, 15)]
    values = [[code(a, b, ratio) for ratio in RATIOS.values()] for a, b in lines]
    assert sum(a != b for a, b in values) > 100
    assert max(b - a for a, b in values) > 0.1


def test_odd_characters_are_scored():
    for text in ("\ud83d", "\x00", "\u2028", "𝒳", "İ"):
        for task in ("qasper", "samsum", "trec", "passage_count", "lcc"):
            assert set(score(task, text, text, classes=[text])) == {"official", "paper"}


# ------------------------------------------------- where lm-eval differs: README.md's table

LM_EVAL_DIFFERS = [
    ("lcc", "   \nfoo()", "foo()", None, 0, 100),
    ("lcc", "# why\n\nfoo()", "foo()", None, 0, 100),
    ("trec", " \nDate", "Date", ["Date", "City"], 0, 100),
    ("trec", "  Date\nCity", "Date", ["Date", "City"], 100, 50),
    ("triviaqa", "\n Paris\nQuestion: x", "Paris", None, 100, 50),
    ("samsum", "\n\nTom is ill\nDialogue: none", "Tom is ill", None, 100, 75),
    ("gov_report", "The budget rose.\n", "The budget rose", None, 85.71, 100),
]


@pytest.mark.parametrize(("task", "prediction", "reference", "classes", "ours", "theirs"), LM_EVAL_DIFFERS)
def test_where_lm_eval_differs(lm_eval, task, prediction, reference, classes, ours, theirs):
    assert official(task, prediction, reference, classes=classes) == pytest.approx(ours, abs=0.005)
    rows = {
        "f1": lm_eval.get_qa_f1_score,
        "rouge": lm_eval.get_rouge_score,
        "classification": lm_eval.get_classification_score,
        "code": lm_eval.get_code_sim_score,
    }
    document = {"answers": [reference], "all_classes": classes}
    (value,) = rows[parse_task(task)[0].metric](document, [prediction]).values()
    assert 100 * value == pytest.approx(theirs, abs=0.005)
    cells = (task, f"`{prediction!r}`", f"`{reference!r}`", f"{ours}", f"{theirs}")
    assert f"| {' | '.join(cells)} |" in (ROOT / "data" / "longbench" / "README.md").read_text(encoding="utf-8")


def test_lm_eval_takes_an_indented_line_as_we_do(lm_eval):
    assert lm_eval.get_code_sim_score({"answers": ["    return x"]}, ["    return x"]) == {"code_sim_score": 1}
    assert official("lcc", "    return x", "    return x") == 100
