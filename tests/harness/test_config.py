"""Reading leaves: bases, strictness, messages."""

from __future__ import annotations

import subprocess
import sys

import pytest
import toy
import yaml

import baselines
from harness.config import REPOSITORY, ConfigReader, parse_overrides
from harness.errors import Problem, ProblemsError, format_problems


def read(path, *overrides):
    return ConfigReader(parse_overrides(overrides)).leaf(path)


def problems(path, *overrides) -> str:
    with pytest.raises(ProblemsError) as info:
        read(path, *overrides)
    return str(info.value)


def test_leaf_has_its_values_and_the_defaults(write):
    config = read(write("cfg/a.yaml"))
    assert config.target.model_name_or_path == "toy/target"
    assert (config.target.dtype, config.target.attn_implementation, config.target.device) == ("auto", "sdpa", "auto")
    assert config.target.trust_remote_code is False
    assert (config.protocol, config.batch_size, config.sparse_type) == ("official", 1, "speckv")
    assert config.method.max_capacity_prompt == 64
    assert config.resolved["sparse_config"]["kernel_size"] == 7  # a default of the library, written out


def test_published_leaf_reads_unchanged(write):
    text = """
draft_model:
  {model_name_or_path: meta-llama/Llama-3.2-1B-Instruct, dtype: bfloat16, attn_implementation: flash_attention_2}
target_model:
  {model_name_or_path: meta-llama/Llama-3.1-8B-Instruct, dtype: bfloat16, attn_implementation: flash_attention_2}
dataset:      {dataset_name: toy, task: add, seq_len: 4096}
sparse_config: {sparse_type: speckv, max_capacity_prompt: 256, window_size: 32}
"""
    config = read(write("cfg/a.yaml", text))
    assert config.target.source == "meta-llama/Llama-3.1-8B-Instruct"
    assert config.dataset["seq_len"] == 4096


def test_bases_merge_left_to_right_and_the_child_wins(write):
    write("cfg/_one.yaml", {"sparse_config": {"sparse_type": "speckv", "window_size": 8, "kernel_size": 3}})
    write("cfg/_two.yaml", {"sparse_config": {"window_size": 16, "max_capacity_prompt": 32}})
    leaf = {k: v for k, v in toy.LEAF.items() if k != "sparse_config"}
    leaf |= {"base": ["../_one.yaml", "../_two.yaml"], "sparse_config": {"max_capacity_prompt": 48}}
    method = read(write("cfg/deep/a.yaml", leaf)).method
    assert (method.kernel_size, method.window_size, method.max_capacity_prompt) == (3, 16, 48)


def test_bases_of_bases_are_relative_to_their_own_file(write):
    write("cfg/x/_models.yaml", {k: toy.LEAF[k] for k in ("target_model", "draft_model")})
    write("cfg/x/_base.yaml", {"base": "_models.yaml", "dataset": toy.LEAF["dataset"]})
    config = read(write("cfg/y/a.yaml", {"base": "../x/_base.yaml", "sparse_config": {"sparse_type": "full"}}))
    assert config.target.model_name_or_path == "toy/target"


def test_merging_one_leaf_does_not_change_the_next(write):
    write("cfg/_base.yaml", toy.LEAF)
    reader = ConfigReader({"dataset.task": "sub"})
    first = reader.leaf(write("cfg/a.yaml", {"base": "_base.yaml", "sparse_config": {"window_size": 8}}))
    second = reader.leaf(write("cfg/b.yaml", {"base": "_base.yaml"}))
    assert (first.method.window_size, second.method.window_size) == (8, 16)
    assert reader.merged(write("cfg/c.yaml", {"base": "_base.yaml"}))["dataset"]["task"] == "add"


def test_a_circle_of_bases_is_named(write):
    write("cfg/_a.yaml", {"base": "_b.yaml"})
    write("cfg/_b.yaml", {"base": "_a.yaml"})
    assert "cfg/_a.yaml -> cfg/_b.yaml -> cfg/_a.yaml" in problems(write("cfg/a.yaml", {"base": "_a.yaml"}))


def test_a_base_that_is_not_there_is_named(write):
    assert "cfg/a.yaml: base: no such file: _nope.yaml" in problems(write("cfg/a.yaml", {"base": "_nope.yaml"}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sparse_confg": {}}, "cfg/a.yaml: sparse_confg: unknown key. Did you mean 'sparse_config'?"),
        (
            {"target_model": {"model_name": "x"}},
            "cfg/a.yaml: target_model.model_name: unknown key. Did you mean 'model_name_or_path'?",
        ),
        ({"wandb": {"projct": "x"}}, "wandb.projct: unknown key. Did you mean 'project'?"),
        ({"wandb": {"tags": "x"}}, "wandb.tags: must be a list of strings"),
        ({"wandb": {"project": ["x"]}}, "wandb.project: must be a string"),
        ({"wandb": {"mode": "onlin"}}, "wandb.mode: must be one of online, offline, disabled, not 'onlin'"),
        ({"wandb": {"predictions": -1}}, "wandb.predictions: must be a whole number of rows, 0 for none, not -1"),
        ({"wandb": {"artifact": "yes"}}, "wandb.artifact: must be true or false, not 'yes'"),
        ({"sparse_config": {"sparse_type": "speckv", "windw_size": 3}}, "sparse_config.windw_size: unknown key"),
        ({"sparse_config": {"sparse_type": "spekv"}}, "sparse_config.sparse_type: unknown method 'spekv'"),
        ({"sparse_config": {"window_size": 3}}, "sparse_config.sparse_type: missing"),
        ({"sparse_config": {"sparse_type": "draft_only", "window_size": 3}}, "sparse_config.window_size: unknown key"),
        ({"dataset": {"dataset_name": "toy", "task": "mul"}}, "dataset.task: 'mul' is not one of add, sub"),
        ({"dataset": {"dataset_name": "toy", "task": "add", "tsk": 1}}, "dataset.tsk: unknown key"),
        (
            {"dataset": {"dataset_name": "rular"}},
            "dataset.dataset_name: unknown benchmark 'rular' (did you mean 'ruler'?)",
        ),
        ({"dataset": {"task": "add"}}, "dataset.dataset_name: missing"),
        ({"dataset": None}, "dataset: missing"),
        ({"target_model": None}, "target_model.model_name_or_path: missing"),
        ({"draft_model": None}, "draft_model.model_name_or_path: missing. speckv needs a draft model"),
        (
            {"target_model": {"model_name_or_path": "a/b", "dtype": "fp16"}},
            "target_model.dtype: 'fp16' is not one of auto",
        ),
        ({"target_model": {"model_name_or_path": "a/b", "attn_implementation": "sdap"}}, "attn_implementation: 'sdap'"),
        ({"target_model": {"model_name_or_path": "a/b", "device": "gpu"}}, "target_model.device: 'gpu'"),
        ({"target_model": {"model_name_or_path": "a/b", "trust_remote_code": "yes"}}, "must be true or false"),
        ({"target_model": {"model_name_or_path": 3}}, "target_model.model_name_or_path: must be a string"),
        ({"target_model": {"model_name_or_path": "data/no/such"}}, "no such folder: data/no/such"),
        (
            {"sparse_config": {"sparse_type": "llmlingua", "compressor": "/no/such", "max_capacity_prompt": 99}},
            "sparse_config.compressor: no such folder: /no/such. Give a model's folder, or a hub name",
        ),
        ({"target_model": "a/b"}, "target_model: must hold `key: value` pairs"),
        ({"protocol": "papers"}, "protocol: 'papers' is not a protocol"),
        ({"batch_size": 0}, "batch_size: must be a whole number of at least 1"),
        ({"batch_size": True}, "batch_size: must be a whole number of at least 1"),
        ({"kernel_size": 7}, "kernel_size: belongs to a section: sparse_config.kernel_size"),
        ({"dtype": "float32"}, "dtype: belongs to a section: target_model.dtype or draft_model.dtype"),
        ({"dataset": {"dataset_name": "toy", "task": ["add", "sub"]}}, "dataset.task: a run has one task"),
        (
            {"target_model": {"model_name_or_path": "a/b", "dtype": "float32", "torch_dtype": "float32"}},
            "target_model.torch_dtype: is another name of dtype, which is there too. Keep one",
        ),
        ({"dataset": {"dataset_name": "toy", "split": "train"}}, "dataset.split: 'train' is not possible here"),
        ({"dataset": {"dataset_name": "toy", "overwrite": True}}, "dataset.overwrite: True is not possible here"),
    ],
)
def test_mistakes_are_named_with_file_and_key(write, changes, expected):
    text = problems(write("cfg/a.yaml", **changes))
    assert text.startswith("cfg/a.yaml: ")
    assert expected in text


def test_all_problems_of_a_leaf_are_told_together(write):
    text = problems(write("cfg/a.yaml", protocol="x", batch_size=0, dataset={}))
    assert [line.split(": ")[1] for line in text.splitlines()] == ["protocol", "batch_size", "dataset"]


def test_a_mistake_in_a_base_blames_the_base(write):
    write("cfg/_base.yaml", toy.LEAF | {"sparse_config": {"sparse_type": "speckv", "kernel_size": 4}})
    leaf = write("cfg/a.yaml", {"base": "_base.yaml"})
    assert problems(leaf).startswith("cfg/_base.yaml (base of cfg/a.yaml): sparse_config.kernel_size: 4 is even")
    write("cfg/_base.yaml", {"wanbd": {}})
    assert problems(leaf).startswith("cfg/_base.yaml: wanbd: unknown key. Did you mean 'wandb'?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("protocol: paper\nprotocol: official\n", "line 2: not valid YAML: key 'protocol' is written twice"),
        ("dataset: {task: a, task: b}\n", "key 'task' is written twice"),
        ("a: [1, 2\n", "not valid YAML"),
        ("- a\n- b\n", "must hold `key: value` pairs, not a list"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(write, text, expected):
    message = problems(write("cfg/a.yaml", text))
    assert message.startswith("cfg/a.yaml: ")
    assert expected in message


def test_full_needs_no_draft_and_forgets_one(write):
    with_draft = read(write("cfg/a.yaml", sparse_config={"sparse_type": "full"}))
    without = read(write("cfg/b.yaml", sparse_config={"sparse_type": "full"}, draft_model=None))
    assert with_draft.draft is None
    assert with_draft.resolved == without.resolved


def test_draft_only_reads_with_the_draft_and_renders_for_the_target(write):
    config = read(write("cfg/a.yaml", sparse_config={"sparse_type": "draft_only"}))
    assert config.reader.model_name_or_path == "toy/draft"
    assert config.helper is None
    assert config.tokenizer_spec.model_name_or_path == "toy/target"
    assert config.method.sparse_type == "full"
    assert config.resolved["sparse_config"] == {"sparse_type": "draft_only"}


def test_a_file_of_baselines_is_a_method(write, workspace, monkeypatch):
    code = """
from dataclasses import dataclass
from draft_approx_llm.configs import MethodConfig
@dataclass(frozen=True)
class HarnessTestConfig(MethodConfig):
    sparse_type = "harness_test"
    sinks: int = 4
"""
    write("harness_test.py", code)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(workspace)])
    config = read(write("cfg/a.yaml", sparse_config={"sparse_type": "harness_test"}))
    assert config.resolved["sparse_config"] == {"sparse_type": "harness_test", "sinks": 4}
    text = problems(write("cfg/a.yaml", sparse_config={"sparse_type": "harness_tst"}))
    assert "unknown method 'harness_tst'. Did you mean 'harness_test'? Valid: " in text
    assert all(f" {name}," in text for name in ("draft_only", "full", "harness_test"))


def test_overrides_are_yaml_and_reach_any_depth(write):
    sparse = {"sparse_type": "speckvpc"}
    leaf = write("cfg/a.yaml", sparse_config=sparse)
    config = read(
        leaf, "sparse_config.speckv_config.max_capacity_prompt=128", "dataset.seq_len=99", "wandb.tags=[a, b]"
    )
    assert config.method.speckv_config.max_capacity_prompt == 128
    assert config.dataset["seq_len"] == 99
    assert config.wandb == {"tags": ["a", "b"]}
    assert read(write("cfg/b.yaml"), "sparse_config.lookahead_tokens=null").method.lookahead_tokens is None


def test_overrides_may_be_spelled_as_in_the_reference_implementation(write):
    items = ("dataset.dataset_name=TOY", "dataset.split=test", "target_model.torch_dtype=float32")
    config = read(write("cfg/a.yaml"), *items)
    assert config.target.dtype == "float32"
    assert config.dataset == toy.LEAF["dataset"]
    assert read(write("cfg/a.yaml"), "sparse_config.pool_type=avg").method.pool_type == "mean"
    assert read(write("cfg/a.yaml"), "dataset={dataset_name: Toy, task: sub}").dataset["dataset_name"] == "toy"


def test_another_spelling_in_a_leaf_wins_over_its_base(write):
    write("cfg/_base.yaml", toy.LEAF | {"target_model": {"model_name_or_path": "toy/target", "dtype": "float32"}})
    leaf = write("cfg/a.yaml", {"base": "_base.yaml", "target_model": {"torch_dtype": "float16"}})
    assert read(leaf).target.dtype == "float16"


def test_null_in_the_dataset_is_its_default(write):
    config = read(write("cfg/a.yaml"), "dataset.num_samples=null")
    assert "num_samples" not in config.dataset


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("sparse_confg.window_size=3", "--set: sparse_confg.window_size: unknown key. Did you mean 'sparse_config'?"),
        ("target_model.dtyp=float32", "--set: target_model.dtyp: unknown key. Did you mean 'dtype'?"),
        ("protocol", "write it as key.path=value"),
        ("protocol.x=1", "protocol is a single value"),
        ("protocol=[", "not valid YAML"),
        ("base=x.yaml", "bases belong in the file"),
        ("kernel_size=9", "--set: kernel_size: belongs to a section: sparse_config.kernel_size"),
        ("dataset.split=train", "--set: dataset.split: 'train' is not possible here"),
    ],
)
def test_bad_overrides_are_refused_before_any_file_is_read(item, expected):
    with pytest.raises(ProblemsError) as info:
        parse_overrides([item])
    assert expected in str(info.value)


def test_an_override_that_a_section_refuses_blames_set(write):
    leaf = write("cfg/a.yaml")
    assert problems(leaf, "sparse_config.windw_size=3").startswith("--set: sparse_config.windw_size: unknown key")
    assert problems(leaf, "dataset.task.x=3").startswith("--set: dataset.task.x: dataset.task is a single value")


def test_resolved_config_can_be_run_again(write):
    resolved = read(write("cfg/a.yaml", sparse_config={"sparse_type": "speckvpc"}, wandb={"project": "p"})).resolved
    assert read(write("cfg/b.yaml", yaml.safe_dump(resolved))).resolved == resolved


def test_the_same_problem_in_many_files_is_one_line():
    text = format_problems([Problem(f"{i}.yaml", "k", "wrong") for i in range(9)])
    assert text == "0.yaml, 1.yaml, 2.yaml and 6 more: k: wrong"


def test_reading_configs_imports_no_torch():
    code = "import sys, eval; assert not {'torch', 'transformers', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
