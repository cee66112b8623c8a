"""The tables at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
import yaml

from draft_approx_llm.configs import SpecKVConfig, SpecPCConfig
from harness.describe import describe
from harness.metrics import interval, subset_label
from harness.models import Answer
from harness.plan import make_plan
from harness.results import RunFolder
from harness.rows import finish, load_samples, make_row, open_writer
from harness.runner import Runner
from harness.summary import Result, Table, make_rows, summarise


def sweep(limit=None, pool=None, output="results", branches=32):
    plan = make_plan(["cfg"], {}, Path(output), limit, branches=branches)
    report = Runner(plan, pool or toy.ToyPool()).run()
    return summarise(plan, Path(output), report.failures)


def line(text: str, start: str) -> list[str]:
    """The cells of the first line that begins with these words."""
    return next(part for part in text.splitlines() if part.split()[: len(start.split())] == start.split()).split()


@pytest.fixture
def tree(write):
    """Two methods and a control over two tasks."""
    for task in ("add", "sub"):
        dataset = {"dataset_name": "toy", "task": task, "num_samples": 4, "seq_len": 128}
        write(f"cfg/demo/full/{task}.yaml", sparse_config={"sparse_type": "full"}, dataset=dataset)
        for budget in (64, 128):
            sparse = {"sparse_type": "speckv", "max_capacity_prompt": budget, "window_size": 8}
            write(f"cfg/demo/speckv/{budget}/{task}.yaml", sparse_config=sparse, dataset=dataset)
        nested = {"specpc_config": {"max_capacity_prompt": 99}, "speckv_config": {"max_capacity_prompt": 77}}
        write(f"cfg/demo/pc/{task}.yaml", sparse_config={"sparse_type": "speckvpc", **nested}, dataset=dataset)


def test_table_has_methods_by_budget_against_tasks(tree, benchmark, monkeypatch):
    def score(self, sample, prediction):
        wrong = sample.prompt.startswith("sub") and sample.index == 0
        return dict.fromkeys(("official", "paper"), 0.0 if wrong else 100.0)

    monkeypatch.setattr(type(benchmark), "score", score)
    text, path = sweep()
    assert path == Path("results/demo/summary.md")
    heads = [part.split()[:5] for part in text.splitlines() if part.startswith("method")]
    assert heads[0] == ["method", "budget", "a", "s", "average"]
    starts = [row.split()[:2] for row in text.split("average\n")[1].splitlines()[1:5]]
    assert starts == [["full", "all"], ["speckv", "64"], ["speckv", "128"], ["speckvpc", "99"]]
    assert line(text, "speckv 64")[2:5] == ["100.0", "75.0", "87.5"]
    assert "99 > 77" in text
    assert "toy, length 128, protocol official: mean score, n = 4 samples per cell (first 4 of 500)" in text
    assert "with their 95 % bootstrap intervals (samples drawn within each task)." in text
    assert "Missing" not in text
    markdown = path.read_text()
    assert "| speckv | 64 | 100.0 | 75.0 | 87.5 [62.5, 100.0] |" in markdown


def test_costs_are_a_second_table(tree):
    text, _ = sweep()
    second = text.split("Means per sample")[1]
    header = "kept prompt tok kept tok draft tok cache KiB peak KiB draft KiB draft s prefill s decode s"
    assert " ".join(line(second, "method")[2:]) == header
    assert line(second, "speckv 64")[2:] == ["0.500", "10", "5", "7", "2", "4", "1", "0.100", "0.200", "0.300"]


def test_seconds_that_are_shares_are_said_to_be(tree):
    text, path = sweep(branches=1)
    assert "--branches" not in text + path.read_text()
    text, path = sweep(output="together")
    note = "Up to 4 runs were answered in one call, whose seconds are shared out evenly among its rows"
    assert note in text
    assert note in path.read_text()
    assert "Those need --branches 1." in text


def test_rows_of_before_there_were_branches_count_as_answered_alone(write):
    write("cfg/demo/a.yaml")
    sweep(limit=2)
    path = Path("results/demo/a/predictions.jsonl")
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    for row in rows:
        del row["branches"], row["stats"]["draft_tokens"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, _ = sweep(limit=2)
    assert "--branches" not in text
    assert line(text.split("Means per sample")[1], "speckv 64")[2:6] == ["0.500", "10", "5", "2"]  # no draft tok
    sweep()
    assert RunFolder(path.parent).metrics()["branches"] == 1


def test_simulated_memory_is_marked(tree, monkeypatch):
    monkeypatch.setattr(SpecKVConfig, "simulated", True, raising=False)
    text, path = sweep()
    spent = text.split("Means per sample")[1]
    assert line(spent, "speckv 64")[6:9] == ["2*", "4*", "1"]
    assert line(spent, "full all")[6:9] == ["2", "4", "1"]
    assert "*: simulated" in text
    assert "*: simulated" in path.read_text()
    memory = {
        name: RunFolder(Path("results/demo") / name).metrics()["memory"] for name in ("speckv/64/add", "full/add")
    }
    assert memory == {"speckv/64/add": "simulated", "full/add": "real"}
    monkeypatch.setattr(SpecKVConfig, "simulated", False)
    assert "simulated" not in sweep()[0]


def test_a_budget_may_be_a_share_of_the_prompt():
    result = Result("toy", "official", "add", "t", "", "m", (("budget_ratio", 0.1),), (), (100.0,), {}, 1, False, None)
    row = replace(result, budget=(("max_capacity_prompt", 64),))
    assert [r.budget_label for r in make_rows([row, result])] == ["0.1 N", "64"]


def test_runs_of_external_tools_are_left_alone_and_tabulated_like_any_other(tree, monkeypatch):
    monkeypatch.setattr(SpecPCConfig, "external", True, raising=False)
    write_pc = yaml.safe_load(Path("cfg/demo/speckv/64/add.yaml").read_text())
    write_pc["sparse_config"]["sparse_type"] = "specpc"
    Path("cfg/demo/tool.yaml").write_text(yaml.safe_dump(write_pc))
    plan = make_plan(["cfg"], {}, Path("results"))
    assert "1 run is of an external tool: python scripts/run_external.py --cfg" in describe(plan)
    pool = toy.ToyPool()
    text, _ = sweep(pool=pool)
    assert "specpc" not in pool.loaded
    assert not Path("results/demo/tool").exists()
    assert "demo/tool: not finished: python scripts/run_external.py" in text
    assert "Missing, and blank above: 1 run" in text
    (tool,) = [run for run in plan.runs if run.config.external]
    data = load_samples(tool, toy.ToyPool(), None)
    answer = Answer("0", 1, toy_stats(), {"draft": 0.0, "prefill": 0.0, "decode": 0.0})
    with open_writer(tool) as writer:
        assert finish(tool, data, writer) == "4 of 4 samples are not answered yet"
        for sample in data.missing(writer):
            writer.append(make_row(tool, sample, answer, batch_size=1, branches=1))
        assert finish(tool, data, writer) is None
    text, _ = sweep()
    assert "Missing" not in text
    assert line(text, "specpc 64")[2] == "25.0"


def toy_stats() -> dict[str, float]:
    names = ("prompt_tokens", "kept_tokens", "read_tokens", "lookahead_tokens", "draft_tokens")
    return dict.fromkeys((*names, "cache_bytes", "peak_cache_bytes", "draft_cache_bytes"), 1.0)


def test_missing_runs_are_blank_and_listed_and_spoil_the_average(tree):
    text, path = sweep(pool=toy.ToyPool(fail={3}), limit=3)
    assert "Missing" not in text
    text, path = sweep(pool=toy.ToyPool(fail={3}))
    assert "Missing: 8 runs" in text
    assert "demo/full/add: 1 of 4 samples failed" in path.read_text()


def test_one_missing_run_leaves_the_rest_of_its_line(tree):
    sweep()
    Path("results/demo/speckv/64/sub/metrics.json").unlink()
    text, path = summarise(make_plan(["cfg"], {}, Path("results")), Path("results"), {})
    assert "demo/speckv/64/sub: not finished" in text
    assert "| speckv | 64 | 100.0 |  |  |" in path.read_text()  # neither the task nor the average


def test_a_table_under_a_limit_counts_the_first_samples_of_every_run(write):
    write("cfg/demo/a.yaml", sparse_config={"sparse_type": "full"})
    sweep()
    write("cfg/demo/b.yaml")
    text, _ = sweep(limit=2)
    assert "n = 2 samples per cell (first 2 of 500)" in text
    text, _ = sweep()
    assert "n = 8 samples per cell (first 8 of 500)" in text


def test_different_counts_stand_in_the_cells(write):
    write("cfg/demo/a.yaml", sparse_config={"sparse_type": "full"})
    write("cfg/demo/b.yaml", dataset=toy.LEAF["dataset"] | {"num_samples": 3})
    text, _ = sweep()
    assert "n in brackets (first 3 of 500; first 8 of 500)" in text
    assert line(text, "full all")[2:4] == ["100.0", "(8)"]
    assert line(text, "speckv 64")[2:4] == ["100.0", "(3)"]


def test_runs_that_would_share_a_cell_are_told_apart(write):
    for window in (8, 16):
        sparse = {"sparse_type": "speckv", "max_capacity_prompt": 64, "window_size": window}
        write(f"cfg/demo/{window}.yaml", sparse_config=sparse)
    text, _ = sweep()
    assert line(text, "speckv window_size=8 64")
    assert line(text, "speckv window_size=16 64")


def test_drafts_of_one_target_are_told_apart(write):
    for name in ("one", "two"):
        write(f"cfg/demo/{name}.yaml", draft_model={"model_name_or_path": f"toy/{name}"})
    text, _ = sweep()
    assert line(text, "speckv draft_model.model_name_or_path=toy/one 64")
    assert line(text, "speckv draft_model.model_name_or_path=toy/two 64")


def test_protocols_are_never_mixed_in_a_table(write):
    write("cfg/demo/a.yaml")
    write("cfg/demo/b.yaml", protocol="paper")
    text, _ = sweep()
    official, paper = text.split("protocol paper")
    assert "protocol official" in official
    assert line(official, "speckv 64")[2] == "100.0"
    assert line(paper, "speckv 64")[2] == "50.0"


def test_table_text_and_markdown():
    table = Table(["method", "x"], [["a|b", "1.0"], ["c", ""]])
    assert table.text().splitlines() == ["method    x", "-----------", "a|b     1.0", "c          "]
    assert table.markdown().splitlines() == ["| method | x |", "| --- | ---: |", "| a\\|b | 1.0 |", "| c |  |"]


def test_interval_is_seeded_and_covers_the_mean():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = interval(rng.normal(50, 10, size=60))
        covered += low <= 50 <= high
    assert 180 <= covered <= 199  # 95 % of 200, give or take
    assert interval([0, 100, 100]) == interval([0, 100, 100])
    assert interval([70.0]) == (70.0, 70.0)


def test_interval_over_tasks_resamples_within_each():
    assert interval([100.0] * 9, [0.0] * 9) == (50.0, 50.0)  # resampling over all samples would not stay at 50
    one = interval([0.0, 100.0] * 20)
    two = interval([0.0, 100.0] * 20, [0.0, 100.0] * 20)
    assert two[1] - two[0] < one[1] - one[0]


@pytest.mark.parametrize(
    ("n", "whole", "size", "seed", "label"),
    [
        (5, False, 500, None, "first 5 of 500"),
        (20, True, 500, None, "first 20 of 500"),
        (500, True, 500, None, None),
        (5, False, None, None, "first 5"),
        (5, True, 200, 42, "first 5 of 200, shuffled with seed 42"),
    ],
)
def test_subset_labels(n, whole, size, seed, label):
    assert subset_label(n, whole, size, seed) == label
