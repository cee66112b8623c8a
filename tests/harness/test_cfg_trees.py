"""cfg/paper and cfg/baselines: the published runs, as published. (test_demo.py holds every tree to its script.)"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

import harness.config
from data.longbench.tasks import PAPER_TASKS
from data.ruler.tasks import TASKS
from harness.config import REPOSITORY, flatten, parse_overrides
from harness.plan import make_plan

CFG = REPOSITORY / "cfg"

MODELS = {
    "llama3_1b_8b": """
draft_model:
  model_name_or_path: meta-llama/Llama-3.2-1B-Instruct
  dtype: bfloat16
  attn_implementation: flash_attention_2
target_model:
  model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
  dtype: bfloat16
  attn_implementation: flash_attention_2
""",
    "qwen25_05b_14b": """
draft_model:
  model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
  dtype: bfloat16
  attn_implementation: flash_attention_2
target_model:
  model_name_or_path: Qwen/Qwen2.5-14B-Instruct
  dtype: bfloat16
  attn_implementation: flash_attention_2
""",
}
LONGBENCH = "dataset: {{dataset_name: longbench, task: {}}}\n"
RULER = "dataset: {{dataset_name: ruler, seq_len: {}, task: {}}}\n"
SPECKV = """
sparse_config:
  sparse_type: speckv
  max_capacity_prompt: {}
  window_size: 32
  pool_type: max
  kernel_size: 7
  reduction_type: max
  lookahead_tokens: null
  prefill_window_size: 2048
  prefill_vertical_size: 2048
"""
SPECPC = """
sparse_config:
  sparse_type: specpc
  max_capacity_prompt: {0}
  window_size: 64
  pool_type: max
  kernel_size: {1}
  neighbor_tokens: {1}
  reduction_type: max
  lookahead_tokens: 1
  starting_layer_index: 8
  weighted_query: true
"""
SPECKVPC = """
sparse_config:
  sparse_type: speckvpc
  specpc_config:
    max_capacity_prompt: 2048
    window_size: 64
    pool_type: max
    kernel_size: 32
    neighbor_tokens: 32
    reduction_type: max
    lookahead_tokens: null
    starting_layer_index: 8
    weighted_query: true
  speckv_config:
    max_capacity_prompt: {}
    window_size: 32
    pool_type: max
    kernel_size: 7
    reduction_type: max
    prefill_window_size: 2048
    prefill_vertical_size: 2048
"""
# (path below cfg/paper, the dataset and sparse_config that the reference implementation has there)
PUBLISHED = [
    ("speckv/longbench/llama3_1b_8b/cmax_0256/2wikimqa", LONGBENCH.format("2wikimqa") + SPECKV.format(256)),
    ("speckv/longbench/qwen25_05b_14b/cmax_1024/repobench-p", LONGBENCH.format("repobench-p") + SPECKV.format(1024)),
    ("speckv/ruler/04096/llama3_1b_8b/cmax_0512/cwe", RULER.format(4096, "cwe") + SPECKV.format(512)),
    ("speckv/ruler/32768/qwen25_05b_14b/cmax_0256/qa_1", RULER.format(32768, "qa_1") + SPECKV.format(256)),
    ("specpc/longbench/llama3_1b_8b/cmax_3072/2wikimqa", LONGBENCH.format("2wikimqa") + SPECPC.format(3072, 32)),
    ("specpc/longbench/qwen25_05b_14b/cmax_1024/lcc", LONGBENCH.format("lcc") + SPECPC.format(1024, 64)),
    ("specpc/ruler/65536/llama3_1b_8b/cmax_1024/cwe", RULER.format(65536, "cwe") + SPECPC.format(1024, 32)),
    ("specpc/ruler/32768/qwen25_05b_14b/cmax_2048/qa_2", RULER.format(32768, "qa_2") + SPECPC.format(2048, 64)),
    ("speckvpc2048/longbench/llama3_1b_8b/cmax_0256/trec", LONGBENCH.format("trec") + SPECKVPC.format(256)),
    ("speckvpc2048/longbench/qwen25_05b_14b/cmax_1024/qasper", LONGBENCH.format("qasper") + SPECKVPC.format(1024)),
    ("speckvpc2048/ruler/65536/llama3_1b_8b/cmax_1024/vt", RULER.format(65536, "vt") + SPECKVPC.format(1024)),
    ("speckvpc2048/ruler/16384/qwen25_05b_14b/cmax_0512/qa_1", RULER.format(16384, "qa_1") + SPECKVPC.format(512)),
]


def published(path: str, sections: str) -> str:
    """The reference implementation's leaf, whole."""
    return next(text for pair, text in MODELS.items() if pair in path) + sections


def differences(path: str) -> dict[str, object]:
    """What cfg/paper says besides, so that the published files' results come out."""
    changes: dict[str, object] = {"protocol": "paper"}
    if "longbench/qwen" in path:
        changes["dataset.over_length"] = "allow"
    if "speckvpc" in path:
        changes["sparse_config.specpc_config.lookahead_tokens"] = 20
    return changes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The plan of everything below cfg/."""
    return make_plan([str(CFG)], {}, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("cfg/paper/{speckv,specpc,speckvpc2048}/longbench/{llama3_1b_8b,qwen25_05b_14b}/cmax_*/*.yaml", 252),
        ("cfg/paper/{speckv,specpc,speckvpc2048}/ruler/*/{llama3_1b_8b,qwen25_05b_14b}/cmax_*/*.yaml", 1053),
        ("cfg/paper/speckv/ruler/*/qwen25_05b_14b/cmax_*/*.yaml", 4 * 3 * 13),
        ("cfg/paper", 1305),
        ("cfg/baselines", 2 * 145),
    ],
)
def test_the_papers_commands_expand_to_the_published_runs(command, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plan = make_plan([command], {}, tmp_path)
    assert len(plan.runs) == runs
    assert [pair.target.label for pair in plan.groups] in (
        ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-14B-Instruct"],
        ["Qwen/Qwen2.5-14B-Instruct"],
    )


def test_every_method_has_its_budgets_tasks_and_lengths(whole):
    budgets = {"speckv": (256, 512, 1024), "specpc": (1024, 2048, 3072), "speckvpc2048": (256, 512, 1024)}
    data = {"longbench": (PAPER_TASKS, ("llama3_1b_8b", "qwen25_05b_14b"))}
    for length in ("04096", "08192", "16384", "32768"):
        data[f"ruler/{length}"] = (tuple(TASKS), ("llama3_1b_8b", "qwen25_05b_14b"))
    data["ruler/65536"] = (tuple(TASKS), ("llama3_1b_8b",))
    places = [(folder, pair, task) for folder, (tasks, pairs) in data.items() for pair in pairs for task in tasks]
    expected = {
        f"paper/{method}/{folder}/{pair}/cmax_{budget:04d}/{task}"
        for folder, pair, task in places
        for method in budgets
        for budget in budgets[method]
    }
    expected |= {
        f"baselines/{method}/{folder}/{pair}/{task}"
        for folder, pair, task in places
        for method in ("full", "draft_only")
    }
    runs = {run.name: run for run in whole.runs if not run.name.startswith("demo/")}
    assert runs.keys() == expected
    for name, run in runs.items():
        parts = name.split("/")
        assert run.config.protocol == "paper"
        assert run.config.dataset["task"] == parts[-1]
        if parts[2] == "ruler":
            assert (run.config.dataset["seq_len"], run.asked(None)) == (int(parts[3]), 500)
        else:
            assert run.asked(None) is None  # all rows
        if parts[0] == "paper":
            method = getattr(run.config.method, "speckv_config", run.config.method)
            assert method.max_capacity_prompt == int(parts[-2].removeprefix("cmax_"))


def test_controls_and_published_methods_share_models_and_prompts(whole):
    pairs = [pair for pair in whole.groups if "tiny_pair" not in pair.label]
    assert [len(pair.data) for pair in pairs] == [14 + 5 * 13, 14 + 4 * 13]
    for pair in pairs:
        for data in pair.data:
            methods = Counter(run.config.sparse_type for run in data.runs)
            assert methods == {"full": 1, "draft_only": 1, "speckv": 3, "specpc": 3, "speckvpc": 3}


def test_leaves_are_a_few_lines():
    for path in CFG.rglob("*.yaml"):
        if not path.name.startswith("_"):
            assert len(path.read_text().splitlines()) <= 4, path
            assert "cmax_" not in path.name
        else:  # eval.py leaves such files out of any pattern
            assert not path.parent.name.startswith("cmax_"), path


@pytest.mark.parametrize(("path", "sections"), PUBLISHED)
def test_leaves_say_what_the_published_ones_say(path, sections, whole):
    (run,) = (run for run in whole.runs if run.name == f"paper/{path}")
    ours, theirs = flatten(run.config.resolved), flatten(yaml.safe_load(published(path, sections)))
    assert {key: ours[key] for key in theirs} == theirs | {k: v for k, v in differences(path).items() if k in theirs}
    # what they leave to a default: ours are written out
    added = {"protocol", "batch_size", "dataset.over_length", "sparse_config.speckv_config.lookahead_tokens"}
    added |= {f"{role}_model.{key}" for role in ("target", "draft") for key in ("device", "trust_remote_code")}
    added |= {f"{role}_model.{key}" for role in ("target", "draft") for key in ("revision", "tokenizer")}
    added |= {"sparse_config.position_ids", "sparse_config.specpc_config.position_ids"}
    axes = ["sink_size", "queries", "head_reduction", "allocation", "pyramid_beta", "adaptive_floor", "seed"]
    for section in ("", "specpc_config.", "speckv_config."):
        added |= {f"sparse_config.{section}{key}" for key in ("budget_ratio", *axes)}
    assert ours.keys() - theirs.keys() <= added


@pytest.mark.parametrize(("path", "sections"), PUBLISHED)
def test_leaves_of_the_reference_implementation_run_unchanged(path, sections, write, whole):
    leaf = write("cfg/theirs.yaml", published(path, sections))
    assert len(make_plan([str(leaf)], {}, Path("results")).runs) == 1
    # and with what cfg/paper adds, it is the run of cfg/paper
    (theirs,) = make_plan([str(leaf)], differences(path), Path("results")).runs
    (ours,) = (run for run in whole.runs if run.name == f"paper/{path}")
    assert (theirs.fingerprint, theirs.data_key) == (ours.fingerprint, ours.data_key)


LLAMA = MODELS["llama3_1b_8b"]
SPELLINGS = [
    "dataset: {dataset_name: THUDM/LongBench, task: qasper, split: test, num_samples: null}",
    "dataset: {dataset_name: LongBench, task: qasper, split: null}",
    "dataset: {dataset_name: RULER, task: vt, seq_len: 4096, split: val, random_seed: 42, overwrite: false}",
    "dataset: {dataset_name: ruler, task: vt, seq_len: 4096, random_seed: null, shuffle_seed: null}",
    "dataset: {dataset_name: ruler, task: vt, seq_len: 4096, benchmark: synthetic, benchmark_config: synthetic}",
]


@pytest.mark.parametrize("dataset", SPELLINGS)
def test_spellings_of_the_reference_implementation_mean_the_same_run(dataset, write):
    plain = LONGBENCH.format("qasper") if "qasper" in dataset else RULER.format(4096, "vt")
    theirs = LLAMA.replace("dtype:", "torch_dtype:").replace("target_model:", "target_model:\n  device_map: auto")
    write("cfg/plain.yaml", LLAMA + plain + SPECKV.format(256))
    write("cfg/theirs.yaml", theirs + dataset + SPECKV.format(256))
    ours, theirs = make_plan(["cfg/plain.yaml", "cfg/theirs.yaml"], {}, Path("results")).runs
    assert (theirs.config.target, theirs.config.draft) == (ours.config.target, ours.config.draft)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.data_key == ours.data_key


def test_average_pooling_has_two_names(write):
    texts = [SPECKVPC.format(256).replace("pool_type: max", f"pool_type: {name}") for name in ("avg", "mean")]
    for i, text in enumerate(texts):
        write(f"cfg/{i}.yaml", LLAMA + RULER.format(4096, "vt") + text)
    first, second = make_plan(["cfg"], {}, Path("results")).runs
    assert first.fingerprint == second.fingerprint
    assert first.config.method.specpc_config.pool_type == "mean"


def test_the_whole_of_cfg_is_planned_with_each_file_read_once(monkeypatch, tmp_path):
    reads = Counter()
    load = harness.config._load_mapping
    monkeypatch.setattr(harness.config, "_load_mapping", lambda path: reads.update([path]) or load(path))
    plan = make_plan([str(CFG)], parse_overrides(["batch_size=2"]), tmp_path)
    assert len(plan.runs) + len(plan.skipped) == len(reads) == len(list(CFG.rglob("*.yaml")))
    assert set(reads.values()) == {1}
