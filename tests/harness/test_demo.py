"""What scripts/make_cfg.py writes: the committed trees, cfg/demo valid, and all methods in the trees on demand."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

import baselines
from harness.config import REPOSITORY
from harness.plan import make_plan

OURS = {"full", "draft_only", "speckv", "specpc", "speckvpc"}
spec = importlib.util.spec_from_file_location("make_cfg", REPOSITORY / "scripts" / "make_cfg.py")
make_cfg = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cfg)


@pytest.mark.parametrize("name", make_cfg.TREES)
def test_the_tree_is_what_the_script_writes(name, tmp_path):
    make_cfg.write_tree(name, tmp_path)
    written, committed = (
        {str(path.relative_to(root)): path.read_text() for path in (root / name).rglob("*.yaml")}
        for root in (tmp_path, REPOSITORY / "cfg")
    )
    assert written == committed


def test_files_that_left_the_grid_are_deleted(tmp_path):
    make_cfg.write_tree("demo", tmp_path)
    stale = tmp_path / "demo" / "speckv" / "cmax_9999" / "vt.yaml"
    stale.parent.mkdir()
    stale.write_text("")
    make_cfg.write_tree("demo", tmp_path)
    assert not stale.exists()


@pytest.mark.parametrize("name, leaf", [("compare", "vt"), ("published", "qasper")])
def test_trees_on_demand_are_valid_and_leave_no_native_method_out(name, leaf, tmp_path):
    (tmp_path / "cfg").symlink_to(REPOSITORY / "cfg")
    make_cfg.write_tree(name, tmp_path / "sweeps")
    configs = [run.config for run in make_plan([f"{tmp_path}/sweeps/{name}/**/{leaf}.yaml"], {}, tmp_path).runs]
    tools = {"kvpress", "llmlingua"}
    no_weights = {"llmlingua2"} if name == "compare" else set()  # the comparison was run: there is no encoder
    assert set(baselines.available()) - tools - no_weights == {c.sparse_type for c in configs} - OURS
    budgets = {c.method.max_capacity_prompt for c in configs if c.sparse_type == "snapkv"}
    assert budgets == {"compare": {64, 128, 256, 512}, "published": {256, 512, 1024}}[name]


def test_the_demo_is_one_valid_sweep_of_one_pair(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plan = make_plan(["cfg/demo/**/*.yaml"], {}, tmp_path)
    methods = Counter((run.benchmark.name, run.config.sparse_type) for run in plan.runs)
    ruler = {"full": 11, "draft_only": 11, "speckv": 22, "specpc": 22, "speckvpc": 11}
    longbench = {"full": 6, "speckv": 6, "specpc": 6}
    assert methods == {("ruler", m): n for m, n in ruler.items()} | {("longbench", m): n for m, n in longbench.items()}
    assert len(plan.groups) == 1
    assert len(plan.groups[0].data) == 11 + 6
    for run in plan.runs:
        assert run.name.endswith("/" + run.config.dataset["task"])
        assert run.config.dataset.get("seq_len") == (2048 if run.benchmark.name == "ruler" else None)
        if "cmax_" in run.name:
            method = getattr(run.config.method, "speckv_config", run.config.method)
            assert f"cmax_{method.max_capacity_prompt:04d}" in run.name
