"""scripts/make_tables.py on run folders made here."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from data import get_benchmark
from data.longbench.tasks import PAPER_TASKS
from harness.panels import make_panels, make_styles
from harness.plots import _figure
from harness.published import PUBLISHED, read_published
from harness.tables import latex_text, make_sections, markdown_text
from harness.tree import read_tree
from scripts.make_tables import main

FULL_SIZE = 500
COSTS = {"cache_bytes": 3 << 20, "peak_cache_bytes": 6 << 20, "draft_seconds": 0.1}
COSTS |= {"prefill_seconds": 0.2, "decode_seconds": 0.3}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run("speckv", "vt", [100, 0]): a finished run's folder below results/; returns it."""
    monkeypatch.chdir(tmp_path)

    def run(
        method, task, scores, budget=64, benchmark="ruler", length=2048, protocol="official", target="o/target",
        draft=None, indices=None, salt="", subset="first", branches=1, memory="real", sparse=(), dataset=(), cost=1.0,
    ):  # fmt: skip
        sparse = {"sparse_type": method} | ({"max_capacity_prompt": budget} if budget else {}) | dict(sparse)
        data = {"dataset_name": benchmark, "task": task} | ({"seq_len": length} if length else {}) | dict(dataset)
        config = {"dataset": data, "protocol": protocol, "sparse_config": sparse, "batch_size": 1}
        config["target_model"] = {"model_name_or_path": target}
        if draft:
            config["draft_model"] = {"model_name_or_path": draft}
        path = Path("results") / str(len(list(Path().rglob("config.yaml")))) / method / task
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        rows = [
            {"index": i, "fingerprint": "f", "error": None, "references": [f"{task} {i}{salt}"], "branches": branches}
            | {"score_official": float(score), "score_paper": score / 2}
            for i, score in zip(indices or range(len(scores)), scores, strict=True)
        ]
        (path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        label = f"first {len(scores)} of {FULL_SIZE}" if subset == "first" else subset
        metrics = {"fingerprint": "f", "n": len(rows), "subset": label, "branches": branches, "memory": memory}
        metrics |= {name: value * cost for name, value in COSTS.items()}
        (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return run


def make(*options: str) -> str:
    """Run the command; the text of tables.md."""
    assert main(["results", *options]) == 0
    return Path("results/tables/tables.md").read_text()


def cells(markdown: str, line: str, table: int = 0) -> list[str]:
    """The numbers of a line that begins with these cells."""
    rows = [row for row in markdown.split("\n\n")[2 * table + 1].splitlines() if row.startswith(f"| {line} |")]
    assert len(rows) == 1, (line, markdown)
    return [cell.strip() for cell in rows[0].split("|")[1:-1]][line.count("|") + 1 :]


def records(**wanted: str) -> list[dict]:
    rows = csv.DictReader(Path("results/tables/tables.csv").read_text().splitlines())
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def four(run, **options):
    """Four methods of clearly different quality, and a control."""
    for task in ("vt", "cwe"):
        run("full", task, [100] * 20, budget=None, **options)
        run("speckv", task, [90] * 20, **options)
        run("snapkv", task, [90] * 19 + [80], **options)
        run("h2o", task, [30] * 20, **options)
        run("tova", task, [10] * 20, **options)


def test_best_second_best_and_noise_are_marked(run):
    four(run)
    text = make()
    assert cells(text, "full | all") == ["100.0", "100.0", "100.0 ±0.0"]
    assert cells(text, "speckv | 64") == ["**90.0**", "**90.0**", "**90.0 ±0.0**"]
    assert cells(text, "snapkv | 64") == ["<u>89.5</u> ≈", "<u>89.5</u> ≈", "<u>89.5 ±0.6</u> ≈"]
    assert cells(text, "h2o | 64") == ["30.0", "30.0", "30.0 ±0.0"]
    assert "Holm-corrected over the comparisons of a column" in text
    assert "Not ranked: full" in text
    assert "(first 20 of 500)" in text
    (record,) = records(method="h2o", column="mean of 2")
    assert (record["mean"], record["against"], record["effect"]) == ("30.0", "speckv 64", "-60.0")
    assert record["within_noise"] == "False"
    assert float(record["p_holm"]) > float(record["p"])
    (record,) = records(method="snapkv", column="mean of 2")
    assert record["rank"] == "2"
    assert float(record["low"]) < 89.5 <= float(record["high"])


def test_equal_bests_share_the_mark_and_leave_no_second(run):
    for method, score in (("speckv", 90), ("snapkv", 90.01), ("h2o", 30)):
        run(method, "vt", [score] * 9)
    text = make()
    assert [cells(text, f"{method} | 64")[0] for method in ("speckv", "snapkv", "h2o")] == [
        "**90.0**",
        "**90.0**",
        "30.0",
    ]


def test_lines_are_ranked_among_those_of_their_budget(run):
    run("speckv", "vt", [50] * 9)
    run("snapkv", "vt", [40] * 9)
    run("snapkv", "vt", [90] * 9, budget=128)
    nested = {"speckv_config": {"max_capacity_prompt": 64}, "specpc_config": {"max_capacity_prompt": 1024}}
    run("speckvpc", "vt", [60] * 9, budget=None, sparse=nested)
    text = make()
    assert cells(text, "speckvpc | 1024 > 64")[0] == "**60.0**"
    assert cells(text, "speckv | 64")[0] == "<u>50.0</u>"
    assert cells(text, "snapkv | 128")[0] == "90.0"  # alone at its budget


def test_bounds_are_shown_and_not_ranked(run):
    for method, score in (("oracle_lookahead", 99), ("speckv", 90), ("snapkv", 80)):
        run(method, "vt", [score] * 9)
    text = make()
    assert cells(text, "oracle_lookahead | 64")[0] == "99.0"
    assert cells(text, "speckv | 64")[0] == "**90.0**"
    assert records(method="snapkv", column="vt")[0]["against"] == "speckv 64"


def test_against_a_method_and_against_a_control(run):
    four(run)
    text = make("--against", "snapkv")
    assert "not told apart from snapkv at the same budget" in text
    assert cells(text, "speckv | 64")[0] == "**90.0** ≈"
    assert cells(text, "snapkv | 64")[0] == "<u>89.5</u>"
    assert records(method="h2o", column="vt")[0]["against"] == "snapkv 64"
    assert records(method="full", column="vt")[0]["against"] == ""
    make("--against", "full")
    assert records(method="h2o", column="vt")[0]["against"] == "full all"


def test_missing_runs_are_blank_and_listed(run, capsys):
    run("speckv", "vt", [90] * 9)
    run("speckv", "cwe", [80] * 9)
    run("snapkv", "vt", [40] * 9)
    text = make()
    assert cells(text, "snapkv | 64") == ["<u>40.0</u>", "", ""]
    assert cells(text, "speckv | 64") == ["**90.0**", "80.0", "85.0 ±0.0"]
    assert "Blank: runs are missing." in text
    assert "- ruler 2048: snapkv 64: no run of cwe" in text
    assert "ruler 2048: snapkv 64: no run of cwe" in capsys.readouterr().out
    (record,) = records(method="snapkv", column="cwe")
    assert record["mean"] == record["n"] == ""


def test_runs_that_are_not_finished_or_damaged_are_listed(run):
    run("speckv", "vt", [90] * 9)
    (run("snapkv", "vt", [40] * 9) / "metrics.json").unlink()
    short = run("h2o", "vt", [40] * 9) / "predictions.jsonl"
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:5]))
    (run("tova", "vt", [40] * 9) / "predictions.jsonl").write_text("{}\n")
    (run("laq", "vt", [40] * 9) / "config.yaml").write_text("dataset: [")
    run("keydiff", "vtt", [40] * 9)
    text = make()
    assert "results/1/snapkv/vt: not finished: 9 samples are answered" in text
    assert "results/2/h2o/vt: metrics.json counts 9 samples, predictions.jsonl has 5 of them" in text
    assert "- results/3/tova/vt/predictions.jsonl: line 1: not a row of predictions" in text
    assert "results/4/laq/vt/config.yaml: " in text
    assert "dataset.task: 'vtt' is not one of" in text
    assert text.count("\n- ") == 5
    assert {record["method"] for record in records()} == {"speckv"}


def test_rows_that_metrics_do_not_count_are_not_taken(run):
    path = run("speckv", "vt", [90] * 9 + [0]) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n": 9}))
    assert cells(make(), "speckv | 64")[0] == "90.0"


def test_unequal_samples_are_said_and_only_the_common_ones_tested(run):
    run("speckv", "vt", [90] * 20)
    run("snapkv", "vt", [90] * 20)
    run("h2o", "vt", [0] * 4 + [90] * 4, indices=range(16, 24))
    text = make()
    assert cells(text, "h2o | 64")[0] == "45.0 ≈ (n=8)"
    assert "8 to 20 samples a task (first 20 of 500; first 8 of 500)" in text
    assert "comparisons are of methods with unequal samples and use the common ones, at worst 4 of 24" in text
    (record,) = records(method="h2o", column="vt")
    assert (record["effect"], record["common_samples"], record["all_samples"]) == ("-90.0", "4", "24")


def test_samples_of_other_data_are_not_paired(run):
    run("speckv", "vt", [90] * 9)
    run("snapkv", "vt", [80] * 9, salt=" of another data set")
    text = make()
    assert cells(text, "snapkv | 64")[0] == "<u>80.0</u> ?"
    assert "no samples in common" in text


@pytest.mark.parametrize(
    ("other", "titles"),
    [
        ({"protocol": "paper"}, ["protocol official", "protocol paper"]),
        ({"target": "o/other"}, ["o/target", "o/other"]),
        ({"dataset": {"haystack": "builtin"}}, ["haystack=builtin"]),
    ],
)
def test_what_cannot_be_compared_is_not_in_one_table(run, other, titles):
    run("speckv", "vt", [90] * 9)
    run("snapkv", "vt", [80] * 9, **other)
    text = make()
    tables = [part for part in text.split("\n\n") if part.startswith("| ") and "published" not in part]
    assert [("speckv" in table) + ("snapkv" in table) for table in tables[:2]] == [1, 1]
    assert all(title in text for title in titles)


def test_where_the_data_lie_keeps_no_runs_apart(run):
    run("speckv", "vt", [90] * 9, dataset={"data_dir": "/a"})
    run("snapkv", "vt", [80] * 9, dataset={"data_dir": "/b"})
    assert cells(make(), "snapkv | 64")[0] == "<u>80.0</u>"


def test_variants_have_lines_of_their_own_at_every_budget(run):
    for window in (8, 16):
        run("speckv", "vt", [window] * 9, sparse={"window_size": window})
    run("speckv", "vt", [50] * 9, budget=128, sparse={"window_size": 8})
    text = make("--against", "speckv window_size=8")
    assert cells(text, "speckv window_size=16 | 64")[0] == "**16.0**"
    assert cells(text, "speckv window_size=8 | 128")[0] == "50.0"


def test_a_line_of_runs_with_different_settings_is_listed(run):
    run("speckv", "vt", [90] * 9, sparse={"window_size": 8})
    run("speckv", "cwe", [90] * 9, sparse={"window_size": 16})
    assert "- ruler: speckv 64: its runs are not all of the same window_size" in make()


def test_a_run_that_is_there_twice_counts_once(run):
    run("speckv", "vt", [90] * 5)
    run("speckv", "vt", [80] * 9)
    text = make()
    assert cells(text, "speckv | 64")[0] == "80.0"
    assert "results/0/speckv/vt: left out: it has 5 samples of a run that has 9 in results/1/speckv/vt" in text


def test_lengths_have_a_table_of_their_own(run):
    for length, score in ((2048, 90), (4096, 70)):
        for task in ("vt", "cwe"):
            run("speckv", task, [score] * 9, length=length)
    text = make()
    assert "| method | budget | 2048 | 4096 |" in text
    assert cells(text, "speckv | 64") == ["90.0 ±0.0", "70.0 ±0.0"]
    assert cells(text, "speckv | 64", table=2) == ["70.0", "70.0", "70.0 ±0.0"]


def longbench(run, method="speckv", **options):
    options = {"budget": 256, "protocol": "paper", "target": "Qwen/Qwen2.5-32B-Instruct", "subset": None} | options
    options.setdefault("draft", "Qwen/Qwen2.5-0.5B-Instruct")
    for place, task in enumerate(PAPER_TASKS):
        run(method, task, [2.0 * place] * 3, benchmark="longbench", length=None, **options)


def test_longbench_has_categories_and_all_and_the_tasks_apart(run):
    longbench(run)
    text = make()
    names = ["Single-doc QA", "Multi-doc QA", "Summarization", "Few-shot", "Code", "All"]
    assert "| " + " | ".join(["method", "budget", *names]) + " |" in text
    averages = get_benchmark("longbench").averages(PAPER_TASKS)
    expected = [sum(map(PAPER_TASKS.index, averages[name])) / len(averages[name]) for name in names]
    assert cells(text, "speckv | 256") == [f"{mean:.1f} ±0.0" for mean in expected]
    assert len(cells(text, "speckv | 256", table=1)) == 15
    assert "3 samples a task (all)" in text


def test_published_scores_stand_beside_equal_runs(run):
    longbench(run)
    text = make()
    assert "ours and published. Published: arXiv 2506.08373" in text
    assert "Second-hand." in text
    assert "| speckv | 256 | All | 6.5 | 46.06 | -39.6 |" in text
    apart = text.split("not comparable with runs here")[1]
    assert "| snapkv | 256 | 52.54 |" in apart
    assert "| speckv |" not in apart.split("\n\n")[1]
    (record,) = records(table="published", column="All")
    assert (record["published"], record["mean"], record["method"]) == ("46.06", "6.5", "speckv")


@pytest.mark.parametrize(
    "change",
    [
        {"target": "Qwen/Qwen2.5-14B-Instruct"},
        {"draft": "Qwen/Qwen2.5-1.5B-Instruct"},
        {"protocol": "official"},
        {"budget": 512},
        {"subset": "first"},
        {"dataset": {"over_length": "truncate"}},
        {"dataset": {"data_files": "builtin"}},
    ],
)
def test_published_scores_of_anything_else_stand_apart(run, change):
    longbench(run, **change)
    text = make()
    assert "ours and published" not in text
    assert "| speckv | 256 | 53.48 |" in text.split("not comparable with runs here")[1]
    assert not records(table="published")


def test_published_scores_need_all_tasks_of_an_average(run):
    longbench(run)
    next(Path("results").rglob("lcc/metrics.json")).unlink()
    text = make()
    assert {record["column"] for record in records(table="published")} == {
        *("Single-doc QA", "Multi-doc QA", "Summarization", "Few-shot")
    }
    assert "| speckv | 256 |  |  |  |  | 44.8 | 46.06 |" in text.split("not comparable with runs here")[1]


def test_published_scores_are_those_of_their_sources():
    sources = read_published()
    notes = PUBLISHED.parents[3] / "shared/published.md"
    for source in sources:
        assert source.source
        assert source.caveat
    if not notes.exists():
        pytest.skip("the notes with the sources are not part of this repository")
    text = notes.read_text()
    figures = set(re.findall(r"\d+\.\d+", text))
    for source in sources:
        for row in source.rows:
            assert {f"{score:.{2 if f'{score:.2f}' in figures else 1}f}" for score in row.scores} <= figures, row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": []}, "source 1: colums: unknown key. Did you mean 'columns'?"),
        ({"target": None}, "source 1: target: missing"),
        ({"columns": ["a", "b"]}, "source 1: row 1: scores: there must be one for each of columns"),
        (
            {"rows": [{"method": "full", "budget": 64, "scores": ["1"]}]},
            "source 1: row 1: scores: must be a list of numbers",
        ),
        ({"rows": [{"method": "full"}]}, "source 1: row 1: budget: missing"),
    ],
)
def test_a_broken_file_of_published_scores_is_an_error(run, capsys, change, message):
    run("speckv", "vt", [90])
    source = {"source": "s", "benchmark": "ruler", "protocol": "p", "target": "t", "samples": None, "columns": ["a"]}
    source |= {"rows": [{"method": "full", "budget": "all", "scores": [1]}]} | change
    Path("p.yaml").write_text(
        yaml.safe_dump([{key: v for key, v in source.items() if v is not None or key == "samples"}])
    )
    assert main(["results", "--published", "p.yaml"]) == 2
    assert f"p.yaml: {message}" in capsys.readouterr().err


def test_latex_is_well_formed(run):
    for budget in range(64, 64 + 46):
        run("snapkv", "vt", [90] * 4, budget=budget)
    run("speckv", "vt", [50] * 4, sparse={"note": r"a_b & 50% #1 {x} \y ~ ^ $ < > |"})
    run("speckv", "vt", [40] * 4, sparse={"note": "b"})
    run("speckv", "vt", [40] * 4, length=4096)
    make()
    text = Path("results/tables/tables.tex").read_text()
    tables = re.findall(r"\\begin\{(longtable|tabular)\}\{(l+r+)\}(.*?)\\end\{\1\}", text, re.DOTALL)
    assert {kind for kind, _, _ in tables} == {"longtable", "tabular"}
    for name in ("table*", "tabular", "longtable"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    for _, columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    # what is left after LaTeX's own commands are taken out needs no escape
    left = re.sub(r"\\[a-zA-Z]+|\\[&%$#_{}\\]|\$\\?[a-z]*\$", "", text)
    assert not re.search(r"[%#_^~$\\<>|±≈]", left)
    assert left.count("{") == left.count("}")
    assert r"\textbf{90.0}" in text
    assert r"\underline{50.0}" in text


def test_words_are_escaped():
    assert latex_text(r"a_b\ 5%") == r"a\_b\textbackslash{} 5\%"
    assert markdown_text("a_b *c* _d_ <e> `f`") == r"a_b \*c\* \_d\_ \<e> \`f\`"


def test_a_bar_in_a_label_breaks_no_markdown(run):
    for note in ("x|y", "z"):
        run("speckv", "vt", [50] * 4, sparse={"note": note})
    assert "| speckv note=x\\|y | 64 | " in make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no runs (config.yaml) below"),
        (["results", "--against", "spekv"], "--against: no runs of 'spekv'. There are speckv"),
        (["results", "--methods", "full"], "--methods: no runs of full. There are speckv"),
        (["results", "--against", "speckv"], "--against: speckv has several lines at budget 64"),
    ],
)
def test_bad_input_is_an_error(run, capsys, arguments, message):
    for window in (8, 16):
        run("speckv", "vt", [50], sparse={"window_size": window})
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def svg(name: str) -> list[str]:
    """The words of a figure."""
    text = Path(f"results/tables/{name}.svg").read_text()
    assert Path(f"results/tables/{name}.png").read_bytes().startswith(b"\x89PNG")
    return re.findall(r"<text[^>]*>([^<]*)</text>", text)


def test_plots(run):
    for length in (2048, 4096):
        run("full", "vt", [99] * 9, budget=None, length=length, cost=4)
        for budget in (64, 128):
            run("speckv", "vt", [budget / 2] * 9, budget=budget, length=length)
            simulated = "simulated" if budget == 64 else "real"
            run("snapkv", "vt", [budget / 3] * 9, budget=budget, length=length, memory=simulated, branches=budget - 63)
    text = make("--plots")
    assert {"full", "speckv", "snapkv", "length 2048", "64", "128", "mean score"} <= set(svg("ruler-budget"))
    assert {"budget 64", "budget 128", "2048", "4096", "speckv"} <= set(svg("ruler-length"))
    assert {"hollow: simulated memory", "best for its cost"} <= set(svg("ruler-cache"))
    words = svg("ruler-latency")
    assert {"full", "speckv", "snapkv"} <= set(words)
    assert "length 2048 (timed together, left out: 1)" in words
    assert {"speckv", "vt", "32"} <= set(svg("ruler-tasks-2048-64"))
    assert "Simulated (masks what it drops, frees nothing): snapkv." in text
    assert "first 9 of 500" in " ".join(words)


def test_points_are_joined_by_budget_where_costs_are_in_another_order(run):
    for budget, cost in ((64, 3), (128, 1), (256, 2)):
        run("speckv", "vt", [budget / 4] * 9, budget=budget, cost=cost)
    (section,) = make_sections(read_tree([Path("results")])[0])
    panels, notes = make_panels(section)
    figure = _figure(section, panels["latency"], make_styles(section), front=True)
    method, front = figure.axes[0].lines
    assert method.get_ydata().tolist() == [16, 32, 64]
    assert method.get_xdata() == pytest.approx([1.8, 0.6, 1.2])
    assert front.get_ydata().tolist() == [32, 64, 64]
    assert not notes


def test_methods_without_a_budget_are_drawn_once(run):
    for length in (1024, 2048):
        run("full", "vt", [90] * 9, budget=None, length=length)
    (section,) = make_sections(read_tree([Path("results")])[0])
    (panel,) = make_panels(section)[0]["length"]
    assert [(point.x, point.cell.mean) for point in panel.points] == [(1024, 90), (2048, 90)]


def test_there_is_no_latency_without_timings_of_their_own(run, capsys):
    run("speckv", "vt", [90] * 9, branches=2)
    run("snapkv", "vt", [90] * 9, branches=2)
    make("--plots")
    assert not Path("results/tables/ruler-latency.svg").exists()
    assert "not in the figure of latency" in Path("results/tables/tables.md").read_text()
    assert "ruler 2048: 2 of 2 lines are not in the figure of latency" in capsys.readouterr().out


def test_of_many_methods_the_best_and_the_reference_are_told_apart(run):
    names = ["speckv", "snapkv", "h2o", "tova", "laq", "keydiff", "pyramidkv", "ada_snapkv", "specpc", "random_kv"]
    for place, name in enumerate(names):
        for budget in (64, 128):
            run(name, "vt", [90 - 5 * place] * 4, budget=budget)
    make("--plots", "--against", "random_kv")
    words = svg("ruler-budget")
    assert {"random_kv", "speckv", "pyramidkv", "2 other methods"} <= set(words)
    assert "specpc" not in words


def test_only_the_named_methods(run):
    four(run)
    text = make("--methods", "speckv", "h2o")
    assert "snapkv" not in text.split("Published")[0]
    assert cells(text, "h2o | 64")[0] == "<u>30.0</u>"
