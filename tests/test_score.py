"""scripts/score.py: published predictions, both kinds of rows, and what it says of files it cannot score."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data import get_benchmark
from data.longbench.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data" / "longbench_predictions"
RUNS = ("llama2-7b", "llama3-8b-instruct")
SLOW = {("gov_report", run) for run in RUNS} | {("qmsum", RUNS[0]), ("multi_news", RUNS[1])}
# the table "Effect of the prediction rule" of the project's notes on the benchmarks
PAPER = {
    "llama2-7b": {"lcc": 55.59, "repobench-p": 51.81, "samsum": 40.87, "triviaqa": 86.67},
    "llama3-8b-instruct": {"lcc": 53.89, "repobench-p": 49.19, "samsum": 42.33, "triviaqa": 91.34},
}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    import score

    yield score
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def write(tmp_path):
    def write(rows, name="predictions.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def run(script, capsys):
    """Arguments -> exit code, stdout, stderr."""

    def run(*args):
        code = script.main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def theirs(pred, *answers, **more):
    return {"pred": pred, "answers": list(answers), "all_classes": None, "length": 100, **more}


def ours(index, prediction, *references, task="qasper", **meta):
    row = {"index": index, "fingerprint": "f", "prediction": prediction, "references": list(references)}
    return {**row, "score_official": 0, "meta": {"task": task, **meta}, "error": None}


# ------------------------------------------------- published predictions


def published_sets():
    for name in RUNS:
        for task in TASKS:
            marks = [pytest.mark.slow] if (task, name) in SLOW else []
            yield pytest.param(task, name, marks=marks, id=f"{name}-{task}")


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(("task", "name"), list(published_sets()))
def test_published_predictions_score_what_was_published(script, task, name):
    published = json.loads((SHARED / name / "result.json").read_text())
    result = script.score_file(get_benchmark("longbench"), SHARED / name / f"{task}.jsonl", None)
    assert result.official == published[task]
    assert result.paper == PAPER[name].get(task, result.paper)
    assert result.failed == 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_longbench_es_buckets_are_eval_pys(script):
    # what THUDM's eval.py --e prints for this file
    result = script.score_file(get_benchmark("longbench"), SHARED / RUNS[1] / "samsum.jsonl", None, is_e=True)
    assert result.by_length == {"0-4k": 41.99, "4-8k": 48.21, "8k+": 42.92}


# ------------------------------------------------- what it prints


def test_json_has_a_line_a_file(run, write):
    first = write([theirs("Paris", "Paris"), theirs("Rome. Answer: Paris", "Paris")], "qasper.jsonl")
    Path(first).write_text(Path(first).read_text().replace("Rome", "\u2028Rome"), encoding="utf-8")
    second = write([theirs("the cat", "the cat sat"), theirs("", "x")], "samsum.jsonl")
    code, out, err = run("--dataset", "longbench", "--json", first, second)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"task": "qasper", "n": 2, "score_official": 75, "score_paper": 100, "failed": 0, "file": first},
        {
            **{"task": "samsum", "n": 2, "score_official": 40, "score_paper": 40, "rouge_score_rougeL": 40},
            **{"failed": 0, "file": second},
        },
    ]


def test_longbench_e_is_told_by_length(run, write):
    file = write([theirs("a b", "b", length=3999), theirs("x", "b", length=4000)], "hotpotqa.jsonl")
    by_length = {"0-4k": 100, "4-8k": 0, "8k+": None}
    for args in (["--e", file], ["--task", "hotpotqa_e", file], ["--e", "--task", "hotpotqa_e", file]):
        code, out, _ = run("--dataset", "longbench", "--json", *args)
        assert code == 0
        row = json.loads(out)
        assert (row["task"], row["score_official_by_length"]) == ("hotpotqa_e", by_length)
    code, out, _ = run("--dataset", "longbench", "--e", file)
    assert out.splitlines() == [
        "task                 n  official  paper    0-4k  4-8k  8k+",
        "hotpotqa_e  2 (of 300)     50.00  50.00  100.00  0.00",
    ]


def test_the_table_has_averages_of_complete_categories(run, write):
    files = [write([theirs(p, "x = 1")], f"{t}.jsonl") for t, p in (("repobench-p", "x = 1"), ("lcc", "y"))]
    code, out, err = run("--dataset", "longbench", *files)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["task", "n", "official", "paper"],
        ["repobench-p", "1", "(of", "500)", "100.00", "100.00"],
        ["lcc", "1", "(of", "500)", "0.00", "0.00"],
        ["Code", "2", "tasks", "50.00", "50.00"],
        ["mean", "of", "2", "2", "tasks", "50.00", "50.00"],
    ]


def test_all_14_tasks_have_the_papers_average(run, write):
    rows = {"trec": theirs("a", "a", all_classes=["a"]), "samsum": theirs("the cat", "the cat sat")}
    names = [name for name, task in TASKS.items() if task.category != "Synthetic"]
    files = [write([rows.get(name, theirs("x", "x"))], f"{name}.jsonl") for name in names]
    code, out, _ = run("--dataset", "longbench", *files)
    assert code == 0
    last = out.splitlines()[-1].split()
    assert last[:3] == ["All", "14", "tasks"]
    assert float(last[3]) == pytest.approx((13 * 100 + 80) / 14, abs=0.01)


def test_files_of_one_task_are_told_apart_and_not_averaged(run, write):
    files = [write([theirs("x", "x")], f"{name}/lcc.jsonl") for name in "ab"]
    code, out, _ = run("--dataset", "longbench", *files)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["lcc", file] for file in files]


def test_rulers_rows(run, write):
    rows = [{"pred": "ABCDE", "outputs": ["abcde", "fghij"]}, {"pred": "fghij abcde Answer:", "outputs": ["abcde"]}]
    file = write([{**row, "index": 7, "input": "…", "others": {}} for row in rows], "vt.jsonl")
    code, out, _ = run("--dataset", "ruler", "--json", file)
    assert code == 0
    expected = {"task": "vt", "n": 2, "score_official": 75, "score_paper": 25, "failed": 0, "file": file}
    assert json.loads(out) == expected
    code, out, _ = run("--dataset", "ruler", file, write(rows, "niah_single_1.jsonl"))
    assert out.splitlines()[-1].split() == ["mean", "of", "2", "2", "tasks", "75.00", "25.00"]


def test_our_rows_name_their_task_and_failed_ones_are_counted(run, write):
    failed = {"index": 1, "fingerprint": "f", "error": "out of memory", "traceback": "…"}
    file = write([ours(2, "Rome", "Paris"), failed, ours(0, "Paris", "Paris", length=12), "", ours(3, "x", "y", "x")])
    code, out, err = run("--dataset", "longbench", "--json", file)
    assert code == 0
    assert json.loads(out) == {
        **{"task": "qasper", "n": 3, "score_official": 66.67, "score_paper": 66.67, "failed": 1, "file": file}
    }
    assert err == f"{file}: 1 rows with an error were not scored\n"
    assert run("--dataset", "longbench", "--task", "qasper", file)[0] == 0
    file = write([ours(0, "abcde", "ABCDE", task="vt", seq_len=4096)])
    assert json.loads(run("--dataset", "ruler", "--json", file)[1])["score_official"] == 100


def test_our_rows_are_added_up_in_the_order_of_the_samples(run, write, script, monkeypatch):
    seen = []
    benchmark = get_benchmark("longbench")
    monkeypatch.setattr(benchmark, "mean", lambda scores: seen.append(list(scores)) or 0.0)
    script.score_file(benchmark, Path(write([ours(2, "x", "x"), ours(0, "y", "x"), ours(1, "x", "x y")])), None)
    assert seen[0] == [0, pytest.approx(200 / 3), 100]


# ------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("rows", "args", "parts"),
    [
        (["{"], [], ["line 1: not JSON", "Mend or delete"]),
        ([theirs("x", "x"), '{"pred": "x'], [], ["line 2: not JSON"]),
        ([theirs("x", "x"), "", "[]"], [], ["line 3: not a JSON object"]),
        (["[" * 100_000], [], ["line 1: not JSON"]),
        ([], [], ["no rows", "Give a file"]),
        (["", ""], [], ["no rows"]),
        ([{"index": 0, "fingerprint": "f", "error": "e"}], ["--task", "lcc"], ["all 1 rows have an error"]),
        ([theirs("x", "x"), {"answers": ["x"]}], [], ["line 2: pred: missing"]),
        ([theirs(None, "x")], [], ["line 1: pred: None is not a string"]),
        ([theirs(["x"], "x")], [], ["line 1: pred: ['x'] is not a string"]),
        ([{"pred": "x"}], [], ["line 1: answers: missing (our rows call it references)"]),
        ([{"pred": "x", "answers": "x"}], [], ["line 1: answers: 'x' is not a list"]),
        ([theirs("x", "x")], ["--task", "trec"], ["line 1: all_classes: None is not a list"]),
        ([theirs("x", "x", length=None)], ["--e"], ["line 1: length: None is not a whole number"]),
        ([theirs("3", "three")], ["--task", "passage_retrieval_en"], ["line 1: reference 'three': no 'Paragraph N'"]),
        (
            [theirs("x", "x")],
            ["--task", "qaspr"],
            ["--task: 'qaspr'", "did you mean 'qasper'", "Give one of narrativeqa"],
        ),
        ([theirs("x", "x")], ["--task", "musique", "--e"], ["--task: 'musique_e' is not a task of longbench"]),
        ([ours(0, "x", "x")], ["--task", "lcc"], ["line 1: meta.task: 'qasper', not 'lcc'", "--task, or none"]),
        ([ours(0, "x", "x"), ours(1, "x", "x", task="lcc")], [], ["line 2: meta.task: 'lcc', not 'qasper'"]),
        ([ours(0, "x", "x"), ours(0, "x", "x")], [], ["line 2: index: 0 is there already", "Delete one"]),
        ([ours("0", "x", "x")], [], ["line 1: index: '0' is not a whole number"]),
    ],
)
def test_files_that_cannot_be_scored(run, write, rows, args, parts):
    file = write(rows, "qasper.jsonl")
    code, out, err = run("--dataset", "longbench", *args, file)
    assert (code, out) == (2, "")
    assert err.startswith(f"{file}: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_ruler_has_no_e(run, write):
    code, _, err = run("--dataset", "ruler", "--e", write([{"pred": "x", "outputs": ["x"]}], "vt.jsonl"))
    assert code == 2 and "--task: 'vt_e' is not a task of ruler (did you mean 'vt'?)" in err


def test_a_bad_file_among_good_ones_prints_no_scores(run, write):
    good, bad = write([theirs("x", "x")], "lcc.jsonl"), write(["nonsense"], "qasper.jsonl")
    code, out, err = run("--dataset", "longbench", good, bad)
    assert (code, out) == (2, "") and err.startswith(f"{bad}: line 1: ")


def test_files_that_cannot_be_read(run, tmp_path):
    code, _, err = run("--dataset", "ruler", tmp_path / "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl: cannot be read: No such file or directory. Give the path" in err
    code, _, err = run("--dataset", "ruler", tmp_path)
    assert code == 2 and "cannot be read: Is a directory" in err
    (tmp_path / "vt.jsonl").write_bytes(b'{"pred": "\xff"}\n')
    code, _, err = run("--dataset", "ruler", tmp_path / "vt.jsonl")
    assert code == 2 and "vt.jsonl: line 1: not JSON ('utf-8' codec" in err


def test_the_command_runs_from_anywhere(tmp_path, write):
    file = write([theirs("x", "x")], "qasper.jsonl")
    command = [sys.executable, ROOT / "scripts" / "score.py", "--dataset"]
    done = subprocess.run([*command, "longbench", file], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "qasper" in done.stdout and not done.stderr
    done = subprocess.run([*command, "longbnch", file], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "invalid choice" in done.stderr and "Traceback" not in done.stderr
