"""Executing a plan: what is computed, what is not computed again, what happens when something fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import toy

from data.benchmark import Sample
from harness.errors import ProblemsError
from harness.metrics import costs
from harness.models import ModelError
from harness.plan import make_plan
from harness.results import RunFolder
from harness.runner import Runner, batches, preflight
from harness.summary import summarise

STATS = ("kept_tokens", "read_tokens", "lookahead_tokens", "cache_bytes", "peak_cache_bytes", "draft_cache_bytes")
SECONDS = {"draft": 1.0, "prefill": 2.0, "decode": 3.0}


def run(pool=None, limit=None, overwrite=False, overrides=None, branches=32):
    plan = make_plan(["cfg"], overrides or {}, Path("results"), limit, overwrite, branches)
    return Runner(plan, pool or toy.ToyPool(), overwrite).run()


def rows(name="a") -> list[dict]:
    return RunFolder(Path("results") / name).rows()


def metrics(name="a") -> dict:
    return RunFolder(Path("results") / name).metrics()


def test_a_run_leaves_predictions_and_metrics(write):
    write("cfg/a.yaml")
    assert run().finished == ["a"]
    assert [(r["index"], r["prediction"], r["score_official"], r["score_paper"]) for r in rows()] == [
        (i, str(i), 100.0, 50.0) for i in range(8)
    ]
    found = metrics()
    assert found["score"] == found["score_official"] == 100.0
    assert found["score_paper"] == 50.0
    assert found["score_interval"] == [100.0, 100.0]
    assert (found["n"], found["exhausted"], found["subset"]) == (8, False, "first 8 of 500")
    assert (found["branches"], found["memory"]) == (1, "real")
    assert (found["kept_fraction"], found["cache_bytes"], found["peak_cache_bytes"]) == (0.5, 2048, 4096)
    assert (found["draft_seconds"], found["prefill_seconds"], found["decode_seconds"]) == pytest.approx((0.1, 0.2, 0.3))


def test_the_protocol_decides_the_headline(write):
    write("cfg/a.yaml", protocol="paper")
    run()
    assert (metrics()["score"], metrics()["score_official"], metrics()["score_paper"]) == (50.0, 100.0, 50.0)


def test_rerunning_does_nothing(write, benchmark):
    write("cfg/a.yaml")
    run()
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in Path("results/a").iterdir()}
    benchmark.loads.clear()
    pool = toy.ToyPool()
    assert run(pool).finished == []
    assert (pool.batches, pool.loaded, benchmark.loads) == ([], [], [])
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in Path("results/a").iterdir()} == before


def test_a_limit_is_a_prefix_that_grows_and_never_shrinks(write):
    write("cfg/a.yaml")
    run(limit=3)
    assert (metrics()["n"], metrics()["exhausted"], metrics()["subset"]) == (3, False, "first 3 of 500")
    first = rows()
    pool = toy.ToyPool()
    run(pool, limit=5)
    assert len(pool.batches) == 2
    assert rows()[:3] == first
    run()
    assert (metrics()["n"], metrics()["exhausted"]) == (8, False)
    pool = toy.ToyPool()
    run(pool, limit=2)
    assert pool.batches == []
    assert metrics()["n"] == 8


def test_asking_for_more_samples_goes_on_and_for_fewer_takes_the_first(write):
    dataset = dict(toy.LEAF["dataset"])
    write("cfg/a.yaml", dataset=dataset | {"num_samples": 3})
    run()
    first = rows()
    write("cfg/a.yaml", dataset=dataset | {"num_samples": 5})
    pool = toy.ToyPool()
    run(pool)
    assert len(pool.batches) == 2
    assert rows()[:3] == first
    assert (metrics()["n"], metrics()["exhausted"]) == (5, False)
    write("cfg/a.yaml", dataset=dataset | {"num_samples": 2})
    pool = toy.ToyPool()
    run(pool)
    assert pool.batches == []
    assert metrics()["n"] == 5


@pytest.mark.parametrize(("asked", "limit"), [(100, None), (100, 50), (None, 100), (None, None)])
def test_asking_for_more_than_there_are_is_asking_for_all(write, asked, limit):
    dataset = {"dataset_name": "toy", "task": "add"} | ({} if asked is None else {"num_samples": asked})
    write("cfg/a.yaml", dataset=dataset)
    assert run(limit=limit).finished == ["a"]
    assert (metrics()["n"], metrics()["exhausted"]) == (8, True)
    pool = toy.ToyPool()
    for more in (limit, None, 1000):
        assert not make_plan(["cfg"], {}, Path("results"), more).unfinished()
        run(pool, limit=more)
    assert pool.batches == []


def test_asking_for_all_goes_on_from_a_number(write):
    dataset = {"dataset_name": "toy", "task": "add"}
    write("cfg/a.yaml", dataset=dataset | {"num_samples": 3})
    run()
    write("cfg/a.yaml", dataset=dataset)
    pool = toy.ToyPool()
    run(pool)
    assert len(pool.batches) == 5
    assert (metrics()["n"], metrics()["exhausted"]) == (8, True)


@pytest.mark.parametrize("damage", ["the last line cut off", "a row deleted", "the file deleted"])
def test_a_finished_run_that_lost_predictions_is_mended(write, damage):
    write("cfg/a.yaml")
    run()
    path = Path("results/a/predictions.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "the file deleted":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines)[:-100] if "cut" in damage else b"".join(lines[:3] + lines[4:]))
    before = metrics()
    pool = toy.ToyPool()
    assert run(pool).finished == ["a"]
    assert len(pool.batches) == (8 if damage == "the file deleted" else 1)
    assert {r["index"] for r in rows()} == set(range(8))
    assert metrics() == before | {"predictions_bytes": path.stat().st_size}


def test_metrics_are_made_from_complete_predictions_without_a_model(write):
    write("cfg/a.yaml")
    run()
    Path("results/a/metrics.json").unlink()
    pool = toy.ToyPool()
    assert run(pool).finished == ["a"]
    assert pool.loaded == []


def test_overwrite_starts_afresh(write):
    write("cfg/a.yaml")
    run()
    pool = toy.ToyPool()
    run(pool, overwrite=True)
    assert len(pool.batches) == 8


def test_a_data_set_is_rendered_once_for_all_its_runs(write, benchmark):
    for method in ("full", "speckv", "draft_only"):
        for task in ("add", "sub"):
            dataset = {"dataset_name": "toy", "task": task, "num_samples": 2}
            write(f"cfg/{method}/{task}.yaml", sparse_config={"sparse_type": method}, dataset=dataset)
    pool = toy.ToyPool()
    run(pool)
    assert benchmark.loads == ["add", "sub"]
    assert len(pool.loaded) == 6


def test_only_the_models_of_the_pair_at_work_are_kept(write):
    write("cfg/a.yaml")
    write("cfg/b.yaml", target_model={"model_name_or_path": "toy/second"})
    pool = toy.ToyPool()
    run(pool)
    assert pool.retained == [("toy/target", "toy/draft"), ("toy/second", "toy/draft")]


def test_costs_are_means_but_the_peak():
    rows = [
        {"stats": dict.fromkeys(STATS, x) | {"prompt_tokens": 8}, "new_tokens": x, "seconds": SECONDS} for x in (2, 4)
    ]
    found = costs(rows)
    assert (found["kept_fraction"], found["cache_bytes"], found["new_tokens"], found["decode_seconds"]) == (
        0.375,
        3,
        3,
        3,
    )
    assert found["peak_cache_bytes"] == 4
    assert "draft_tokens" not in found
    rows[0]["stats"]["draft_tokens"] = 8
    assert "draft_tokens" not in costs(rows)  # a run begun before there were any: a mean over some would mislead
    rows[1]["stats"]["draft_tokens"] = 4
    assert costs(rows)["draft_tokens"] == 6


def test_a_batch_predicts_what_singles_do(write):
    write("cfg/one.yaml")
    write("cfg/many.yaml", batch_size=3)
    pool = toy.ToyPool()
    run(pool)
    assert [r["prediction"] for r in rows("one")] == [r["prediction"] for r in rows("many")]
    assert max(pool.batches) == 1  # the toy's samples alternate in length to generate, so they cannot share a batch


def test_batches_hold_samples_of_one_length_to_generate(benchmark):
    samples = benchmark.load({"task": "add"}, None, "official")
    even = [s for s in samples if s.index % 2 == 0]
    assert [[s.index for s in b] for b in batches(even, 3)] == [[0, 2, 4], [6]]
    assert [len(b) for b in batches(samples, 3)] == [1] * 8


def test_a_failing_sample_is_recorded_and_tried_again_next_time(write):
    write("cfg/a.yaml")
    write("cfg/b.yaml")
    report = run(toy.ToyPool(fail={2, 5}))
    assert report.failures["a"] == "2 of 8 samples failed, the first with: RuntimeError: out of toys"
    assert set(report.failures) == {"a", "b"}  # the sweep went on
    bad = rows()[2]
    assert bad["error"] == "RuntimeError: out of toys"
    assert "raise RuntimeError" in bad["traceback"]
    assert metrics() is None
    pool = toy.ToyPool()
    assert run(pool).finished == ["a", "b"]
    assert pool.calls == [([2], ["speckv"] * 2), ([5], ["speckv"] * 2)]
    assert [r["error"] for r in rows()] == [None] * 8
    assert metrics()["n"] == 8


def test_a_failing_batch_costs_only_the_sample_that_fails(write, benchmark, monkeypatch):
    load = type(benchmark).load
    monkeypatch.setattr(type(benchmark), "load", lambda self, *args: [s for s in load(self, *args) if s.index % 2 == 0])
    write("cfg/a.yaml", batch_size=4)
    pool = toy.ToyPool(fail={2})
    run(pool)
    assert pool.batches == [4, 2, 1, 1, 2]
    assert [(r["index"], r["error"] is None) for r in rows()] == [(0, True), (2, False), (4, True), (6, True)]


def test_a_scorer_that_fails_is_a_failed_sample(write, benchmark, monkeypatch):
    monkeypatch.setattr(type(benchmark), "score", lambda self, sample, prediction: 1 / 0)
    write("cfg/a.yaml")
    assert "ZeroDivisionError" in run().failures["a"]


def test_data_that_cannot_be_read_fail_their_runs_only(write, benchmark, monkeypatch):
    load = type(benchmark).load

    def broken(self, dataset, *args):
        if dataset["task"] == "sub":
            raise FileNotFoundError("put dev-v2.0.json into data/ruler/")
        return load(self, dataset, *args)

    monkeypatch.setattr(type(benchmark), "load", broken)
    write("cfg/a.yaml", dataset={"dataset_name": "toy", "task": "sub"})
    write("cfg/b.yaml")
    report = run()
    assert report.finished == ["b"]
    assert "put dev-v2.0.json into data/ruler/" in report.failures["a"]


@pytest.mark.parametrize("branches", [1, 32])
def test_a_model_or_a_method_that_cannot_be_had_fails_its_runs_only(write, branches):
    write("cfg/a.yaml", sparse_config={"sparse_type": "full"})
    write("cfg/b.yaml")
    write("cfg/c.yaml", sparse_config={"sparse_type": "specpc"})
    pool = toy.ToyPool(unfit=["full"])
    report = run(pool, branches=branches)
    assert report.finished == ["b", "c"]
    assert report.failures == {"a": "full does not fit"}
    assert pool.refusals == ["full"]  # not asked again for every sample
    assert rows("a") == []
    assert {tuple(methods) for _, methods in pool.calls} <= {("speckv",), ("specpc",), ("speckv", "specpc")}
    assert (("speckv", "specpc") in {tuple(methods) for _, methods in pool.calls[1:]}) == (branches > 1)


def test_a_prompt_beyond_the_positions_is_refused_before_anything_is_generated(write):
    write("cfg/a.yaml")
    pool = toy.ToyPool(positions=9)  # "add 0" and 4 tokens fit exactly, "add 1" has 5 to generate
    why = run(pool).failures["a"]
    assert why.startswith("sample 1 has 5 prompt tokens and 5 to generate, more than the 9 positions of toy/target")
    assert pool.batches == []


def test_a_length_beyond_the_positions_is_refused_before_any_model_loads(write):
    write("cfg/a.yaml", dataset={"dataset_name": "toy", "task": "add", "seq_len": 8192})
    plan = make_plan(["cfg"], {}, Path("results"))
    with pytest.raises(
        ProblemsError, match=r"cfg/a.yaml: dataset.seq_len: 8192 exceeds the 4096 positions of toy/target"
    ):
        preflight(plan, toy.ToyPool())


def test_a_draft_with_another_tokenizer_is_refused_before_any_model_loads(write, monkeypatch):
    def differ(self, target, draft):
        raise ModelError("toy/draft cannot be a draft for toy/target")

    monkeypatch.setattr(toy.ToyPool, "check_pair", differ)
    write("cfg/a.yaml")
    with pytest.raises(ProblemsError, match="cfg/a.yaml: toy/draft cannot be a draft for toy/target"):
        preflight(make_plan(["cfg"], {}, Path("results")), toy.ToyPool())


def test_a_broken_file_fails_its_run_and_the_sweep_goes_on(write):
    write("cfg/a.yaml")
    write("cfg/b.yaml")
    plan = make_plan(["cfg"], {}, Path("results"))
    write("results/a/predictions.jsonl", "nonsense\n")  # broken after the plan was made
    report = Runner(plan, toy.ToyPool()).run()
    assert report.finished == ["b"]
    assert "line 1" in report.failures["a"]
    text, _ = summarise(plan, Path("results"), {})
    assert "a: results/a/predictions.jsonl: line 1" in text


def test_rows_can_be_read_by_anyone(write):
    write("cfg/a.yaml")
    run()
    row = json.loads(Path("results/a/predictions.jsonl").read_text().splitlines()[3])
    assert row["references"] == ["3"]
    assert row["new_tokens"] == 1
    assert row["stats"]["kept_tokens"] == 5.0
    assert (row["batch_size"], row["branches"]) == (1, 1)


def test_a_first_layer_that_the_draft_lacks_is_found_before_any_model_loads(write):
    sparse = {"sparse_type": "specpc", "max_capacity_prompt": 64, "window_size": 16}
    write("cfg/a.yaml", sparse_config=sparse | {"starting_layer_index": 4})
    pool = toy.ToyPool()
    with pytest.raises(ProblemsError, match="starting_layer_index: 4 is past the 4 layers of toy/draft"):
        preflight(make_plan(["cfg"], {}, Path("results")), pool)
    assert pool.loaded == []
    write("cfg/a.yaml", sparse_config=sparse | {"starting_layer_index": 3})
    preflight(make_plan(["cfg"], {}, Path("results")), pool)


def test_the_first_prompt_is_kept_as_it_is_rendered(write):
    write("cfg/a.yaml")
    run(limit=2)
    assert Path("results/a/prompt_of_sample_0.txt").read_text() == "add 0"


def test_a_batch_is_answered_in_one_way(write):
    plain = [Sample(i, "", (), 8, True) for i in range(6)]
    other = [
        plain[0],
        plain[1],
        replace(plain[2], stop_token_ids=(7,)),
        replace(plain[3], clean_up_tokenization_spaces=True),
        replace(plain[4], max_new_tokens=9),
        plain[5],
    ]
    assert [len(batch) for batch in batches(plain, 4)] == [4, 2]
    assert [len(batch) for batch in batches(other, 4)] == [2, 1, 1, 1, 1]


def test_parts_extras_and_the_order_are_in_the_metrics(write, benchmark, monkeypatch):
    kind = type(benchmark)
    monkeypatch.setattr(kind, "breakdown", lambda self, samples, scores: {"0-4k": scores[0], "8k+": None})
    plain = kind.identity
    monkeypatch.setattr(kind, "identity", lambda self, *args: plain(self, *args) | {"shuffle_seed": 42})
    write("cfg/a.yaml")
    run(limit=2)
    assert metrics()["score_official_by_length"] == {"0-4k": 100.0, "8k+": None}
    assert metrics()["score_paper_by_length"] == {"0-4k": 50.0, "8k+": None}
    assert metrics()["length"] == 1.0
    assert metrics()["subset"] == "first 2 of 500, shuffled with seed 42"


def test_a_configuration_may_ask_for_prompts_beyond_the_models_positions(write, benchmark, monkeypatch):
    write("cfg/a.yaml")
    (why,) = run(toy.ToyPool(positions=6)).failures.values()
    assert "lower the toy's length" in why
    plain = type(benchmark).load
    allowed = [
        replace(sample, may_exceed_positions=True) for sample in plain(benchmark, {"task": "add"}, None, "official")
    ]
    monkeypatch.setattr(type(benchmark), "load", lambda self, *args: allowed)
    assert run(toy.ToyPool(positions=6)).finished == ["a"]
