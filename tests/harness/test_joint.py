"""Runs that are answered together: who reads with whom, what each run is left with, what a failure costs the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import toy

from draft_approx_llm.configs import FullConfig, SpecKVConfig
from harness.describe import describe
from harness.joint import Joint
from harness.plan import chunks, make_plan
from harness.results import RunFolder, StorageError
from harness.rows import load_samples
from harness.runner import Runner

METHODS = ("full", "speckv", "speckvpc", "specpc")


def run(pool, branches=32, limit=None, changes=None):
    return Runner(make_plan(["cfg"], changes or {}, Path("results"), limit, branches=branches), pool).run()


def rows(name: str) -> list[dict]:
    return RunFolder(Path("results") / name).rows()


def errors(name: str) -> list[int]:
    return [row["index"] for row in rows(name) if row["error"]]


@pytest.fixture
def tree(write):
    """Four methods, one a run, over one data set."""
    for method in METHODS:
        write(f"cfg/{method}.yaml", sparse_config={"sparse_type": method})


@pytest.fixture
def evenly(benchmark, monkeypatch):
    """Samples 0, 2, 4, 6: they are answered in one way, so that a batch can hold them."""
    load = type(benchmark).load
    monkeypatch.setattr(type(benchmark), "load", lambda self, *args: [s for s in load(self, *args) if s.index % 2 == 0])


def test_a_sample_is_answered_for_all_runs_before_the_next(tree):
    pool = toy.ToyPool()
    assert run(pool).finished == list(METHODS)
    assert pool.calls == [([i], list(METHODS)) for i in range(8)]
    assert pool.loaded == list(METHODS)  # built once, not for every sample
    for method in METHODS:
        assert [(row["index"], row["prediction"]) for row in rows(method)] == [(i, str(i)) for i in range(8)]
        assert {type_of(row) for row in rows(method)} == {method}  # the row is its own run's
        assert {(row["branches"], row["batch_size"]) for row in rows(method)} == {(4, 1)}
        assert RunFolder(Path("results") / method).metrics()["branches"] == 4


def type_of(row: dict) -> str:
    return row["stats"]["method"].partition("Config")[0].lower()


def test_batches_and_branches_multiply_and_rows_stay_with_their_run(tree, evenly):
    pool = toy.ToyPool()
    run(pool, changes={"batch_size": 3})
    assert pool.calls == [([0, 2, 4], list(METHODS)), ([6], list(METHODS))]
    for method in METHODS:
        assert [(row["index"], row["prediction"], type_of(row)) for row in rows(method)] == [
            (i, str(i), method) for i in (0, 2, 4, 6)
        ]
        assert [row["batch_size"] for row in rows(method)] == [3, 3, 3, 1]


@pytest.mark.parametrize(("branches", "calls"), [(1, 4), (3, 2), (4, 1)])
def test_the_most_branches_can_be_said(tree, branches, calls):
    pool = toy.ToyPool()
    run(pool, branches, limit=1)
    assert [len(methods) for _, methods in pool.calls] == [min(branches, 4)] * (calls - (branches == 3)) + [1] * (
        branches == 3
    )


def test_every_row_is_on_disk_before_the_next_sample_is_asked_for(tree):
    pool = toy.ToyPool()
    seen = []
    pool.on_answer = lambda: seen.append([len(rows(method)) for method in METHODS])
    run(pool)
    assert seen == [[i] * 4 for i in range(8)]


def test_runs_go_on_where_each_of_them_stopped(tree, write):
    run(toy.ToyPool())
    before = {method: rows(method) for method in METHODS}
    for method, lost in {"speckv": {0, 5}, "specpc": {5, 6}, "speckvpc": set()}.items():
        folder = Path("results") / method
        kept = [row for row in before[method] if row["index"] not in lost]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        (folder / "metrics.json").unlink()
    done = (Path("results/full/predictions.jsonl").stat().st_mtime_ns, before["full"])
    pool = toy.ToyPool()
    assert run(pool).finished == ["speckv", "speckvpc", "specpc"]
    assert pool.calls == [([0], ["speckv"]), ([5], ["speckv", "specpc"]), ([6], ["specpc"])]
    for method in METHODS:
        same = [(row["index"], row["prediction"], row["score_official"], type_of(row)) for row in rows(method)]
        assert same == [(i, str(i), 100.0, method) for i in range(8)]
    assert (Path("results/full/predictions.jsonl").stat().st_mtime_ns, rows("full")) == done


def test_a_batch_holds_samples_that_the_same_runs_miss(tree, evenly):
    run(toy.ToyPool())
    for method, lost in {"speckv": {0, 2, 4}, "specpc": {2, 4, 6}}.items():
        folder = Path("results") / method
        kept = [row for row in rows(method) if row["index"] not in lost]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    pool = toy.ToyPool()
    assert run(pool, changes={"batch_size": 4}).finished == ["speckv", "specpc"]
    assert pool.calls == [([0], ["speckv"]), ([2, 4], ["speckv", "specpc"]), ([6], ["specpc"])]


def test_one_readers_runs_and_one_batch_size_at_a_time(tree, write):
    write("cfg/draft.yaml", sparse_config={"sparse_type": "draft_only"})
    write("cfg/wide.yaml", batch_size=2)
    pool = toy.ToyPool()
    assert len(run(pool, limit=1).finished) == 6
    assert [methods for _, methods in pool.calls] == [["draft_only"], list(METHODS), ["speckv"]]


def test_a_locked_folder_fails_its_run_only(tree, write):
    from harness.rows import open_writer

    plan = make_plan(["cfg"], {}, Path("results"))
    (locked,) = [run for run in plan.runs if run.name == "speckv"]
    with open_writer(locked):
        pool = toy.ToyPool()
        report = Runner(plan, pool).run()
    assert report.finished == ["full", "speckvpc", "specpc"]
    assert "another process" in report.failures["speckv"]
    assert pool.calls == [([i], ["full", "speckvpc", "specpc"]) for i in range(8)]


def test_only_the_folders_of_a_chunk_are_open(write):
    for i in range(40):
        write(f"cfg/{i:02}.yaml", sparse_config={"sparse_type": "speckv", "max_capacity_prompt": 100 + i})
    pool = toy.ToyPool()
    opened = []
    pool.on_answer = lambda: opened.append(len(os.listdir("/proc/self/fd")))
    before = len(os.listdir("/proc/self/fd"))
    assert len(run(pool, branches=5, limit=1).finished) == 40
    assert len(opened) == 8
    assert max(opened) <= before + 2 * 5 + 4
    assert not list(Path("results").rglob(".lock"))


def test_a_full_disk_ends_the_sweep_and_releases_every_folder(tree, monkeypatch):
    from harness import results

    append = results.RunWriter.append

    def full(self, row, kept):
        if self.path.name == "specpc" and row["index"] == 2:
            raise StorageError("no space left")
        append(self, row, kept)

    monkeypatch.setattr(results.RunWriter, "append", full)
    with pytest.raises(StorageError):
        run(toy.ToyPool())
    assert [len(rows(method)) for method in METHODS] == [3, 3, 3, 2]
    assert not list(Path("results").rglob(".lock"))


def test_one_methods_defect_costs_the_others_nothing_and_does_not_slow_them_down(tree):
    pool = toy.ToyPool(fail={(i, "specpc") for i in range(8)})
    report = run(pool)
    assert report.finished == ["full", "speckv", "speckvpc"]
    assert report.failures == {"specpc": "8 of 8 samples failed, the first with: RuntimeError: out of toys"}
    assert errors("specpc") == list(range(8))
    rest = ["full", "speckv", "speckvpc"]
    assert [methods for _, methods in pool.calls[:5]] == [
        list(METHODS),
        ["full", "speckv"],
        ["speckvpc", "specpc"],
        ["speckvpc"],
        ["specpc"],
    ]
    assert [methods for _, methods in pool.calls[5:]] == [rest, ["specpc"]] * 7  # it no longer makes the others fail


def test_a_sample_that_fails_for_all_is_recorded_for_all_and_parts_nobody(tree, evenly):
    pool = toy.ToyPool(fail={2})
    report = run(pool, changes={"batch_size": 2})
    assert {errors(method)[0] for method in METHODS} == {2}
    assert {len(errors(method)) for method in METHODS} == {1}
    assert set(report.failures) == set(METHODS)
    assert pool.calls[-1] == ([4, 6], list(METHODS))


def test_out_of_memory_together_is_no_failure_where_less_fits(tree, evenly):
    pool = toy.ToyPool(room=3)
    assert run(pool, changes={"batch_size": 4}).finished == list(METHODS)
    assert [errors(method) for method in METHODS] == [[]] * 4
    sizes = [len(samples) * len(methods) for samples, methods in pool.calls]
    assert sizes == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]  # what is too much is found out once
    assert {(row["branches"], row["batch_size"]) for row in rows("full")} == {(2, 1)}


def test_a_run_that_needs_more_memory_than_there_is_fails_alone(tree, monkeypatch):
    answer = toy.ToyAnswerer.answer

    def heavy(self, prompts, sample):
        if any(config.sparse_type == "full" for config in self.configs):
            raise MemoryError("the full cache does not fit")
        return answer(self, prompts, sample)

    monkeypatch.setattr(toy.ToyAnswerer, "answer", heavy)
    pool = toy.ToyPool()
    assert run(pool).finished == ["speckv", "speckvpc", "specpc"]
    assert errors("full") == list(range(8))
    assert pool.calls[-1] == ([7], ["speckv", "speckvpc", "specpc"])


def test_a_scorer_that_fails_costs_its_own_row_and_no_answer(tree, benchmark, monkeypatch):
    score = type(benchmark).score

    def broken(self, sample, prediction):
        return 1 / 0 if sample.index == 3 else score(self, sample, prediction)

    monkeypatch.setattr(type(benchmark), "score", broken)
    pool = toy.ToyPool()
    run(pool)
    assert [errors(method) for method in METHODS] == [[3]] * 4
    assert len(pool.calls) == 8


def test_a_method_is_put_on_again_only_where_the_runs_change(tree):
    plan = make_plan(["cfg"], {}, Path("results"))
    pool = toy.ToyPool()
    data = load_samples(plan.runs[0], pool, None)
    with Joint(pool, data) as joint:  # leaves the models as they were
        for runs in (plan.runs[:2], plan.runs[:2], plan.runs[1:2], plan.runs[:2]):
            found = list(joint.answer(data.samples[:1], runs))
            assert [(run.name, row["prediction"]) for run, row, _ in found] == [(run.name, "0") for run in runs]
            assert pool.patches == 1
    full, other = (run.config.sparse_type for run in plan.runs[:2])
    assert pool.patches == 0
    assert pool.loaded == [full, other, other, full, other]


def test_chunks_keep_equal_prefills_together(write, monkeypatch):
    monkeypatch.setattr(FullConfig, "prefill_key", property(lambda self: ("own", id(self))))
    monkeypatch.setattr(SpecKVConfig, "prefill_key", property(lambda self: (f"lookahead {self.lookahead_tokens}",)))
    for i, ahead in enumerate([1, 2, 1, 2, 1, 2, 2]):
        sparse = {"sparse_type": "speckv", "max_capacity_prompt": 100 + i, "lookahead_tokens": ahead}
        write(f"cfg/{i}.yaml", sparse_config=sparse)
    write("cfg/8.yaml", sparse_config={"sparse_type": "full"})
    write("cfg/9.yaml", sparse_config={"sparse_type": "full"}, protocol="paper")
    plan = make_plan(["cfg"], {}, Path("results"))

    def names(branches):
        return ["".join(run.name for run in chunk) for chunk in chunks(plan.runs, branches)]

    assert names(32) == ["024135689"]
    assert names(4) == ["0248", "1356", "9"]
    assert names(3) == ["024", "135", "689"]
    assert sorted(names(1)) == list("012345689")

    plan.branches = 4
    text = describe(plan)
    assert (
        "  1 data set x 9 runs in 3 chunks; a sample's prompt is prefilled 4 times instead of 9 "
        "(lookahead 2: 4 runs; lookahead 1: 3 runs; own: 2 runs)"
    ) in text
    plan.branches = 32
    assert "in 1 chunk; a sample's prompt is prefilled 4 times instead of 9 (" in describe(plan)
    plan.branches = 1
    assert "  1 data set x 9 runs in 9 chunks; no prefill is shared" in describe(plan)


def test_the_draft_reads_for_itself_and_equal_data_sets_are_one_line(write, monkeypatch):
    monkeypatch.setattr(SpecKVConfig, "prefill_key", ("prompt",))
    for task in ("add", "sub"):
        for method in ("full", "draft_only", "speckv"):
            dataset = {"dataset_name": "toy", "task": task}
            write(f"cfg/{task}/{method}.yaml", sparse_config={"sparse_type": method}, dataset=dataset)
    assert (
        "  2 data sets x 3 runs in 2 chunks; a sample's prompt is prefilled 2 times instead of 3 "
        "(prompt: 2 runs; prompt (by the draft): 1 run)"
    ) in describe(make_plan(["cfg"], {}, Path("results")))
