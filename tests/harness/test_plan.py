"""Patterns, names, fingerprints, groups."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import toy

from harness.config import parse_overrides
from harness.describe import describe
from harness.errors import ProblemsError
from harness.plan import expand, folder_digest, make_plan, run_name
from harness.results import Status

FINISHED = {"n": 8, "exhausted": True, "predictions_bytes": 0}


def plan(*patterns, overrides=(), **options):
    return make_plan(patterns or ["cfg"], parse_overrides(overrides), Path("results"), **options)


def fingerprint(path, *overrides) -> str:
    return plan(str(path), overrides=overrides).runs[0].fingerprint


def test_patterns_are_expanded_here_too(write, workspace):
    paths = [write(f"cfg/{name}.yaml") for name in ("a/x/1", "a/y/2", "b/x/3", "b/z/deep/4")]

    def found(*patterns):
        files, problems = expand(patterns)
        assert not problems
        return [int(path.stem) for path in files]

    assert found("cfg/*/x/*.yaml") == [1, 3]
    assert found("cfg/**/*.yaml") == [1, 2, 3, 4]
    assert found("cfg/{b,a}/x/*.yaml") == [3, 1]
    assert found("cfg/b") == [3, 4]
    assert found(str(paths[1]), "cfg/a") == [2, 1]  # each once


def test_a_pattern_that_matches_nothing_is_an_error_even_beside_one_that_does(write):
    write("cfg/a.yaml")
    write("cfg/readme.txt", "")
    with pytest.raises(ProblemsError) as info:
        plan("cfg/a.yaml", "cfg/nope/*.yaml", "cfg/*.txt")
    assert "--cfg: cfg/nope/*.yaml: matches no .yaml file" in str(info.value)
    assert "--cfg: cfg/*.txt: matches no .yaml file" in str(info.value)


def test_problems_of_all_files_are_told_together(write):
    write("cfg/a.yaml", protocol="x")
    write("cfg/b.yaml", batch_size=0)
    with pytest.raises(ProblemsError) as info:
        plan("cfg", "nope.yaml")
    assert [p.where for p in info.value.problems] == ["--cfg", "cfg/a.yaml", "cfg/b.yaml"]


def test_a_base_without_a_task_is_no_run_a_leaf_without_one_is_a_mistake(write):
    write("cfg/base.yaml", dataset={"dataset_name": "toy"})
    write("cfg/a.yaml", {"base": "base.yaml", "dataset": {"task": "add"}})
    assert [run.name for run in plan().runs] == ["a"]
    write("cfg/b.yaml", {"base": "base.yaml"})
    with pytest.raises(ProblemsError, match=r"cfg/b.yaml: dataset.task"):
        plan()


def test_names_are_paths_below_cfg(workspace, tmp_path_factory):
    assert run_name(Path("cfg/a/b.yaml")) == "a/b"
    assert run_name(Path("mine/b c!.yaml")) == "mine/b_c_"
    outside = tmp_path_factory.mktemp("else") / "b.yaml"
    assert run_name(outside) == str(outside.with_suffix(""))[1:]


def test_two_configs_may_not_share_a_folder(write):
    write("cfg/a.yaml")
    write("cfg/a.yml")
    with pytest.raises(ProblemsError, match=r"cfg/a.yml: would share the results folder of cfg/a.yaml"):
        plan()


def test_bases_are_no_runs_but_a_leaf_that_lost_a_section_is_a_mistake(write):
    write("cfg/_base.yaml", toy.LEAF)
    write("cfg/models.yaml", {"target_model": toy.LEAF["target_model"]})
    write("cfg/data.yaml", {"base": "models.yaml", "dataset": toy.LEAF["dataset"]})
    write("cfg/a.yaml", {"base": "data.yaml", "sparse_config": {"sparse_type": "full"}})
    found = plan()
    assert [run.name for run in found.runs] == ["a"]
    assert len(found.skipped) == 3
    write("cfg/b.yaml", {"base": "models.yaml", "dataset": toy.LEAF["dataset"]})
    with pytest.raises(ProblemsError, match=r"cfg/b.yaml: sparse_config: missing"):
        plan()
    with pytest.raises(ProblemsError, match="no runs, only bases"):
        plan("cfg/_base.yaml")


def test_the_fingerprint_tells_what_is_computed_not_how(write):
    leaf = write("cfg/a.yaml")
    first = fingerprint(leaf)
    same = [
        fingerprint(write("cfg/b.yaml")),
        fingerprint(leaf, "sparse_config.kernel_size=7"),  # the default, written out
        fingerprint(leaf, "batch_size=4", "wandb.project=p", "target_model.device=cpu", "draft_model.device=cpu"),
    ]
    assert set(same) == {first}
    other = [
        fingerprint(leaf, change)
        for change in (
            "sparse_config.kernel_size=5",
            "dataset.task=sub",
            "protocol=paper",
            "target_model.dtype=float32",
            "draft_model.model_name_or_path=toy/other",
        )
    ]
    assert len({first, *other}) == 6


def test_the_benchmarks_identity_is_in_the_fingerprint(write, benchmark, monkeypatch):
    leaf = write("cfg/a.yaml")
    first = fingerprint(leaf)
    monkeypatch.setattr(type(benchmark), "identity", lambda self, dataset, protocol: {**dataset, "version": 2})
    assert fingerprint(leaf) != first


@pytest.mark.parametrize(
    "changes",
    [
        {"target_model": {"model_name_or_path": "model"}},
        {"sparse_config": {"sparse_type": "llmlingua", "compressor": "model", "max_capacity_prompt": 99}},
    ],
)
def test_a_retrained_local_checkpoint_has_another_fingerprint(write, workspace, changes):
    leaf = write("cfg/a.yaml", **changes)
    prints = []
    for name, weights in (
        ("one", b"1"),
        ("two", b"2"),
    ):  # folders of their own: digests are kept for the process's life
        folder = workspace / name / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        (workspace / "model").unlink(missing_ok=True)
        (workspace / "model").symlink_to(folder)
        folder_digest.cache_clear()  # digests are kept for the life of a process
        prints.append(fingerprint(leaf))
    assert prints[0] != prints[1]


def test_runs_are_grouped_by_pair_and_data(write):
    for method in ("full", "speckv", "draft_only"):
        for task in ("add", "sub"):
            sparse = {"sparse_type": method}
            write(f"cfg/{method}/{task}.yaml", sparse_config=sparse, dataset={"dataset_name": "toy", "task": task})
    write("cfg/other.yaml", target_model={"model_name_or_path": "toy/second"})
    groups = plan().groups
    assert [len(g.runs) for g in groups] == [6, 1]
    first = groups[0]
    assert (first.target.label, first.draft.label) == ("toy/target", "toy/draft")
    assert [sorted(run.name for run in data.runs) for data in first.data] == [
        ["draft_only/add", "full/add", "speckv/add"],
        ["draft_only/sub", "full/sub", "speckv/sub"],
    ]


def test_a_folder_of_another_configuration_is_refused_with_what_differs(write):
    leaf = write("cfg/a.yaml")
    run = plan().runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "environment.json").write_text(json.dumps({"fingerprint_basis": run.basis}))
    (run.folder / "metrics.json").write_text(json.dumps({"fingerprint": run.fingerprint} | FINISHED))
    assert plan().states["a"].status is Status.DONE
    with pytest.raises(ProblemsError) as info:
        plan(str(leaf), overrides=["sparse_config.window_size=8"])
    text = str(info.value)
    assert text.startswith("results/a: holds 8 predictions of another configuration")
    assert "sparse_config.window_size: 16 there, 8 here" in text
    assert "--output" in text
    assert "--overwrite" in text
    assert plan(str(leaf), overrides=["sparse_config.window_size=8"], overwrite=True).unfinished()


@pytest.mark.parametrize(
    ("metrics", "limit", "status"),
    [
        ({"n": 8, "exhausted": True, "predictions_bytes": 0}, None, Status.DONE),
        ({"n": 8, "exhausted": True, "predictions_bytes": 0}, 20, Status.DONE),
        ({"n": 5, "exhausted": False, "predictions_bytes": 0}, 5, Status.DONE),
        ({"n": 5, "exhausted": False, "predictions_bytes": 0}, 3, Status.DONE),
        ({"n": 5, "exhausted": False, "predictions_bytes": 0}, 6, Status.EMPTY),
        ({"n": 5, "exhausted": False, "predictions_bytes": 0}, None, Status.EMPTY),
    ],
)
def test_done_depends_on_what_is_asked(write, metrics, limit, status):
    write("cfg/a.yaml")
    run = plan().runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.json").write_text(json.dumps({"fingerprint": run.fingerprint, **metrics}))
    assert plan(limit=limit).states["a"].status is status


def test_describe_counts_the_work(write, benchmark, monkeypatch):
    write("cfg/a.yaml", dataset={"dataset_name": "toy", "task": "add", "num_samples": 8, "seq_len": 100})
    write("cfg/b.yaml", dataset={"dataset_name": "toy", "task": "sub", "num_samples": 4})
    text = describe(plan(limit=3))
    assert "2 runs: 0 done, 0 partial (0 predictions kept), 2 to do" in text
    assert "pair: target toy/target, draft toy/draft (auto, sdpa): 2 runs over 2 data sets" in text
    unsized = "samples of texts whose length is known once they are read"
    assert f"work left: 2 runs, 6 samples: up to 300 prompt tokens and 3 {unsized}" in text
    # without num_samples: as many as were published
    write("cfg/b.yaml", dataset={"dataset_name": "toy", "task": "sub"})
    assert f"work left: 2 runs, about 508 samples: up to 800 prompt tokens and 500 {unsized}" in describe(plan())
    assert f"work left: 2 runs, about 508 samples: up to 800 prompt tokens and 500 {unsized}" in describe(
        plan(limit=1000)
    )
    monkeypatch.setattr(type(benchmark), "full_size", lambda self, dataset: None)
    more = "up to 800 prompt tokens and 1 run whose number of samples is known once their data are read"
    assert f"work left: 2 runs, 8 samples: {more}" in describe(plan())


def test_describe_counts_one_as_one(write):
    write("cfg/_base.yaml", toy.LEAF)
    write("cfg/a.yaml", {"base": "_base.yaml", "dataset": {"num_samples": 1, "seq_len": 10}})
    text = describe(plan())
    assert text.startswith("1 run: 0 done, 0 partial (0 predictions kept), 1 to do; 1 file is only a base\n")
    assert ": 1 run over 1 data set\nwork left: 1 run, 1 sample: up to 10 prompt tokens" in text


def test_describe_tabulates_a_long_sweep(write):
    for length in (50, 100):
        dataset = {"dataset_name": "toy", "task": "add", "seq_len": length}
        for i in range(2):
            sparse = {"sparse_type": "speckv", "max_capacity_prompt": 100 + i}
            write(f"cfg/speckv/{length}/{i}.yaml", dataset=dataset, sparse_config=sparse)
    write("cfg/full.yaml", sparse_config={"sparse_type": "full"}, dataset={"dataset_name": "toy", "task": "add"})
    lines = describe(plan(), listed=4).splitlines()
    assert lines[-3:] == [
        "runs    toy  toy 50  toy 100",
        "full      1       -        -",
        "speckv    -       2        2",
    ]
    (done,) = plan("cfg/speckv/50/1.yaml").runs
    done.folder.mkdir(parents=True)
    (done.folder / "metrics.json").write_text(json.dumps({"fingerprint": done.fingerprint} | FINISHED))
    lines = describe(plan(), listed=4).splitlines()
    assert lines[-3:] == [
        "done/runs  toy  toy 50  toy 100",
        "full       0/1       -        -",
        "speckv       -     1/2      0/2",
    ]


def test_a_saved_config_is_the_run_that_saved_it(write):
    write("cfg/x/a.yaml")
    run = plan().runs[0]
    write("results/x/a/config.yaml", run.config.resolved)
    (run.folder / "metrics.json").write_text(json.dumps({"fingerprint": run.fingerprint} | FINISHED))
    again = plan("results/x/a/config.yaml")
    assert again.states["x/a"].status is Status.DONE
    assert run_name(Path("results/x/a/config.yaml"), Path("elsewhere")) == "results/x/a/config"


def test_a_thousand_leaves_are_planned_in_seconds(write):
    write("cfg/_base.yaml", toy.LEAF)
    write("cfg/_speckv.yaml", {"base": "_base.yaml", "sparse_config": {"window_size": 8}})
    for i in range(1305):
        write(f"cfg/{i % 90}/{i}.yaml", f"base: ../_speckv.yaml\nsparse_config: {{max_capacity_prompt: {64 + i}}}\n")
    start = time.process_time()
    found = plan()
    assert len(found.runs) == 1305
    assert time.process_time() - start < 15  # takes 2 to 3; --dry-run has 20 s
