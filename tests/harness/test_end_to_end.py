"""The whole path with nothing replaced: a small random pair, the library, RULER, the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, utils

import eval as cli
from data import get_benchmark
from data.benchmark import Sample
from data.builtin.prose import essay
from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.method import Kept
from harness.config import REPOSITORY, ConfigReader
from harness.models import Answerer, ModelError, ModelPool, encode
from harness.results import RunFolder
from harness.rows import Samples

SEQ_LEN = 512
METHODS = {
    "full": {"sparse_type": "full"},
    "draft_only": {"sparse_type": "draft_only"},
    "speckv": {"sparse_type": "speckv", "max_capacity_prompt": 64, "window_size": 16, "lookahead_tokens": 4},
    "specpc": {
        "sparse_type": "specpc",
        "max_capacity_prompt": 128,
        "window_size": 16,
        "kernel_size": 8,
        "starting_layer_index": 1,
    },
    "speckvpc": {
        "sparse_type": "speckvpc",
        "specpc_config": {
            "max_capacity_prompt": 128,
            "window_size": 16,
            "starting_layer_index": 1,
            "lookahead_tokens": 4,
        },
        "speckv_config": {"max_capacity_prompt": 64, "window_size": 16},
    },
}


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([essay(3000)], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A folder with `target`, `draft` and `stranger`, a draft with another tokenizer."""
    root = tmp_path_factory.mktemp("pair")
    for seed, (name, hidden, vocabulary) in enumerate([("target", 64, 600), ("draft", 32, 600), ("stranger", 32, 500)]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=600,
            hidden_size=hidden,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.3,  # large enough for answers that depend on the prompt
        )
        LlamaForCausalLM(config).save_pretrained(root / name)
        save_tokenizer(root / name, vocabulary)
    return root


@pytest.fixture
def tree(pair, workspace, monkeypatch):
    """cfg/<method>/<task>.yaml for all methods and two RULER tasks; no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = {"dtype": "float32", "attn_implementation": "sdpa", "device": "cpu"}
    base = {f"{role}_model": {"model_name_or_path": str(pair / role), **model} for role in ("target", "draft")} | {
        "dataset": {
            "dataset_name": "ruler",
            "seq_len": SEQ_LEN,
            "num_samples": 2,
            "haystack": "builtin",
            "model_template": "base",
            "data_dir": str(workspace / "ruler"),
        }
    }
    cfg = workspace / "cfg"
    cfg.mkdir()
    (cfg / "_base.yaml").write_text(yaml.safe_dump(base))
    for method, sparse in METHODS.items():
        (cfg / method).mkdir()
        for task in ("niah_single_2", "fwe"):
            leaf = {"base": "../_base.yaml", "dataset": {"task": task}, "sparse_config": sparse}
            (cfg / method / f"{task}.yaml").write_text(yaml.safe_dump(leaf))
    return cfg


def command(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "eval.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows(name: str, output: str = "results") -> list[dict]:
    return [json.loads(line) for line in Path(output, name, "predictions.jsonl").read_text().splitlines()]


def test_every_method_from_yaml_to_table(tree):
    done = command("--cfg", "cfg")
    assert done.returncode == 0, done.stderr
    assert "10 runs over 2 data sets" in done.stdout
    for method in METHODS:
        found = rows(f"{method}/fwe")
        assert [row["index"] for row in found] == [0, 1]
        for row in found:
            assert row["stats"]["prompt_tokens"] <= SEQ_LEN
            assert len(row["references"]) == 3
            assert 1 <= row["new_tokens"] <= 50
    metrics = {m: json.loads(Path(f"results/{m}/fwe/metrics.json").read_text()) for m in METHODS}
    assert metrics["full"]["kept_fraction"] == metrics["draft_only"]["kept_fraction"] == 1
    assert metrics["speckv"]["kept_tokens"] == metrics["speckvpc"]["kept_tokens"] == 64
    assert metrics["speckv"]["read_tokens"] == metrics["full"]["read_tokens"] == metrics["full"]["prompt_tokens"]
    assert metrics["specpc"]["read_tokens"] == metrics["speckvpc"]["read_tokens"] == 128
    assert metrics["draft_only"]["cache_bytes"] == metrics["full"]["cache_bytes"] / 2
    assert metrics["speckv"]["cache_bytes"] < metrics["full"]["cache_bytes"] / 4
    assert metrics["full"]["draft_cache_bytes"] == 0 < metrics["speckv"]["draft_cache_bytes"]
    assert Path("results/summary.md").exists()

    again = command("--cfg", "cfg", "--dry-run")
    assert "10 runs: 10 done" in again.stdout
    batched = command("--cfg", "cfg/*/fwe.yaml", "--set", "batch_size=2", "--output", "batched")
    assert batched.returncode == 0, batched.stderr
    for method in METHODS:
        singles = [(row["index"], row["prediction"]) for row in rows(f"{method}/fwe")]
        assert [(row["index"], row["prediction"]) for row in rows(f"{method}/fwe", "batched")] == singles
        assert {row["batch_size"] for row in rows(f"{method}/fwe", "batched")} == {2}


def test_runs_that_are_answered_together_predict_what_each_does_alone(tree, monkeypatch):
    for budget in (96, 300):
        leaf = yaml.safe_load(Path("cfg/speckv/fwe.yaml").read_text())
        leaf["sparse_config"]["max_capacity_prompt"] = budget
        Path(f"cfg/speckv/fwe_{budget}.yaml").write_text(yaml.safe_dump(leaf))
    patterns = ["cfg/*/fwe*.yaml", "--set", "dataset.num_samples=4", "--kept", "3"]
    assert cli.main(["--cfg", *patterns, "--branches", "1", "--output", "alone"]) == 0
    assert cli.main(["--cfg", "cfg/full/fwe.yaml", *patterns[1:]]) == 0  # one is finished
    assert cli.main(["--cfg", "cfg/speckv/fwe.yaml", *patterns[1:], "--limit", "2"]) == 0  # one is ahead
    calls, answer = [], Answerer.answer

    def interrupted(self, prompts, sample):
        calls.append((len(prompts), self.methods))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(self, prompts, sample)

    monkeypatch.setattr(Answerer, "answer", interrupted)
    assert cli.main(["--cfg", *patterns, "--set", "batch_size=2"]) == 130
    names = [*(f"{method}/fwe" for method in METHODS), "speckv/fwe_96", "speckv/fwe_300"]
    counts = {name: len(rows(name)) for name in names}
    assert counts["full/fwe"] == 4
    assert set(counts.values()) == {2, 4}  # in the middle
    assert cli.main(["--cfg", *patterns, "--branches", "4"]) == 0
    assert (2, 4) in calls  # a batch of two samples was answered by four runs
    for name in names:
        for here, there in zip(rows(name), rows(name, "alone"), strict=True):
            assert there["branches"] == 1
            for key in ("index", "prediction", "new_tokens", "stats", "score_official", "error"):
                assert here[key] == there[key], (name, key)
        kept = RunFolder(Path("results", name)).kept()
        assert kept == RunFolder(Path("alone", name)).kept()
        assert list(kept) == [0, 1, 2]
    assert len({rows(name)[0]["prediction"] for name in names}) > 3  # a row with another's answer would show
    assert {row["branches"] for name in names for row in rows(name)} == {1, 4}


def test_what_is_kept_of_the_first_prompts_is_recorded(tree):
    assert cli.main(["--cfg", "cfg/*/fwe.yaml", "--kept", "1"]) == 0
    kept = {method: RunFolder(Path(f"results/{method}/fwe")).kept() for method in METHODS}
    for method, records in kept.items():
        (record,) = records.values()
        n = rows(f"{method}/fwe")[0]["stats"]["prompt_tokens"]
        assert record["index"] == 0
        assert "".join(record["pieces"]) == Path(f"results/{method}/fwe/prompt_of_sample_0.txt").read_text()
        assert len(record["share"]) == len(record["pieces"]) == n
        assert record["share"][-1] == 100
    shares = {method: records[0]["share"] for method, records in kept.items()}
    assert set(shares["full"]) == set(shares["draft_only"]) == {100}
    assert sorted(set(shares["specpc"])) == [0, 100]
    assert sum(shares["specpc"]) == 128 * 100
    # 2 layers x 2 KV heads keep 64 each of the tokens before the last
    assert set(shares["speckv"]) <= {0, 25, 50, 75, 100}
    assert sum(shares["speckv"][:-1]) == sum(shares["speckvpc"][:-1]) == 64 * 100
    assert cli.main(["--cfg", "cfg/*/fwe.yaml", "--kept", "0", "--overwrite"]) == 0
    assert not list(Path("results").rglob("kept.jsonl"))


def test_a_method_that_cannot_be_built_fails_its_own_run(tree, monkeypatch, capsys):
    def build(self):
        raise ImportError("pip install its-package")

    monkeypatch.setattr(SpecPCConfig, "build", build)
    assert cli.main(["--cfg", "cfg/full/fwe.yaml", "cfg/specpc/fwe.yaml", "cfg/speckv/fwe.yaml", "--limit", "1"]) == 1
    assert "results/specpc/fwe: ImportError: pip install its-package" in capsys.readouterr().err
    assert len(rows("full/fwe")) == len(rows("speckv/fwe")) == 1
    assert rows("specpc/fwe") == []


def test_a_run_predicts_what_transformers_does(tree, pair):
    """`full`, by hand: the prompt's ids in, the new ids decoded."""
    assert cli.main(["--cfg", "cfg/full/fwe.yaml"]) == 0
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    pool = ModelPool()
    tokenizer = pool.tokenizer(config.target)
    model = AutoModelForCausalLM.from_pretrained(pair / "target", dtype=torch.float32)
    samples = get_benchmark("ruler").load(config.dataset, tokenizer, "official")
    for sample, row in zip(samples, rows("full/fwe"), strict=True):
        ids = torch.tensor([encode(tokenizer, sample)])
        assert row["stats"]["prompt_tokens"] == ids.shape[1]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=50, do_sample=False)
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == row["prediction"]


def test_models_are_left_as_they_were_and_loaded_once(tree):
    config = ConfigReader().leaf(Path("cfg/speckv/fwe.yaml"))
    pool = ModelPool()
    model = pool.model(config.target)
    attention, generate = model.config._attn_implementation, model.generate
    with pool.patched([config]) as answerer:
        assert answerer.model is model
        assert model.generate != generate
    assert model.generate == generate
    assert model.config._attn_implementation == attention
    pool.retain([config.target])
    assert pool.model(config.target) is model
    pool.retain([config.draft])
    assert pool.model(config.target) is not model


def test_a_model_that_cannot_be_loaded_is_tried_once(tree, pair, workspace, monkeypatch):
    shutil.copytree(pair / "target", workspace / "broken")
    (workspace / "broken" / "model.safetensors").write_bytes(b"cut off")
    spec = replace(ConfigReader().leaf(Path("cfg/full/fwe.yaml")).target, model_name_or_path="broken")
    pool = ModelPool()
    with pytest.raises(ModelError, match="the model broken cannot be loaded"):
        pool.model(spec)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("tried again"))
    with pytest.raises(ModelError, match="the model broken cannot be loaded"):
        pool.model(spec)


def test_an_attention_that_is_not_installed_is_found_before_any_model_loads(tree, monkeypatch, capsys):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for there in (utils.is_flash_attn_2_available(), utils.is_kernels_available()):
        if there:
            pytest.skip("flash attention can be had here")
    assert cli.main(["--cfg", "cfg", "--set", "target_model.attn_implementation=flash_attention_2"]) == 2
    message = capsys.readouterr().err
    assert "flash_attention_2, which" in message
    assert "target_model.attn_implementation=sdpa" in message


def test_an_answer_ends_with_its_first_stop_and_takes_its_share_of_the_time(tree, monkeypatch):
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    pool = ModelPool()
    with pool.patched([config]) as answerer:
        sample = Sample(0, "Some text to go on from", (), 8, True)
        ids = encode(answerer.tokenizer, sample)
        free = answerer.answer([ids], sample)[0]
        generate, outputs = answerer.model.generate, []

        def record(**arguments):
            outputs.append(generate(**arguments))
            return outputs[-1]

        new = generate(input_ids=torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
        answerer.stops, answerer.pad = [new[2]], new[0]  # padding that decoding would not leave out by itself
        monkeypatch.setattr(answerer.model, "generate", record)
        stopped, other = answerer.answer([ids, ids[:-3]], sample)
        monkeypatch.undo()
    assert free.new_tokens == 8
    assert stopped.new_tokens == new.index(new[2]) + 1 < other.new_tokens
    assert stopped.text == answerer.tokenizer.decode(new[: stopped.new_tokens], skip_special_tokens=True)
    for phase, seconds in outputs[0].timings.items():
        assert stopped.seconds[phase] + other.seconds[phase] == pytest.approx(seconds)


@pytest.mark.parametrize(("configured", "stops"), [([5, 6], [5, 6]), (7, [7]), (None, ["the tokenizer's"])])
def test_stops_are_the_generation_configs(tree, configured, stops):
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    pool = ModelPool()
    pool.model(config.reader).generation_config.eos_token_id = configured
    with pool.patched([config]) as answerer:
        own = answerer.tokenizer.eos_token_id
        assert own is not None
        assert answerer.stops == [own if stop == "the tokenizer's" else stop for stop in stops]


def test_a_samples_own_stop_ends_the_answer_but_cannot_be_its_first_token(tree):
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    with ModelPool().patched([config]) as answerer:
        sample = Sample(0, "Some text to go on from", (), 8, True)
        ids = encode(answerer.tokenizer, sample)
        output = answerer.model.generate(input_ids=torch.tensor([ids]), max_new_tokens=8, do_sample=False)
        new = output[0, len(ids) :].tolist()
        later = next(token for token in new if token != new[0])
        stopped = answerer.answer([ids], replace(sample, stop_token_ids=(later,)))[0]
        assert stopped.new_tokens == new.index(later) + 1
        barred = answerer.answer([ids], replace(sample, stop_token_ids=(new[0],)))[0]
        assert barred.new_tokens > 1
        assert answerer.answer([ids], sample)[0].new_tokens == 8  # the sample before has left nothing behind


def test_a_tokenizer_without_offsets_has_its_tokens_decoded_one_by_one():
    class Slow:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": list(text.encode())}

        def decode(self, ids):
            return chr(ids[0])

    sample = Sample(3, "abc", (), 1, True)
    record = Samples([sample], True, Slow()).kept_record(sample, Kept(torch.tensor([0, 2])))
    assert record == {"index": 3, "pieces": ["a", "b", "c"], "share": [100, 0, 100]}


def test_a_little_is_not_nothing():
    sample = Sample(0, "a b c", (), 1, True)
    tokenizer = types.SimpleNamespace(decode=str)
    data = Samples([sample], True, tokenizer, {0: torch.arange(3).numpy()})
    kept = Kept(cache=[torch.tensor([[1]]), *[torch.tensor([[0]])] * 399])
    assert data.kept_record(sample, kept)["share"] == [100, 1, 100]


def test_nothing_is_said_to_be_kept_of_a_prompt_that_was_rewritten(tree, monkeypatch):
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    with ModelPool().patched([config]) as answerer:
        stats = [{"read_tokens": 7, "prompt_tokens": 9}, {"read_tokens": 9, "prompt_tokens": 9}]
        output = types.SimpleNamespace(
            output_ids=torch.tensor([[5], [5]]), stats=stats, kept=[Kept(), Kept()], timings={}
        )
        monkeypatch.setattr(answerer.model, "generate", lambda **_: output)
        rewritten, whole = answerer.answer([[1] * 9] * 2, Sample(0, "", (), 1, True))
    assert rewritten.kept is None
    assert whole.kept.share(9, 1).tolist() == [[1] * 9]


@pytest.mark.parametrize(
    ("sample_says", "tokenizer_says", "text"),
    [(None, False, "a , b ."), (None, True, "a, b."), (True, False, "a, b."), (False, True, "a , b .")],
)
def test_the_sample_says_how_its_answer_is_decoded(tree, monkeypatch, sample_says, tokenizer_says, text):
    config = ConfigReader().leaf(Path("cfg/full/fwe.yaml"))
    with ModelPool().patched([config]) as answerer:
        ids = torch.tensor([answerer.tokenizer("a , b .", add_special_tokens=False)["input_ids"]])
        output = types.SimpleNamespace(output_ids=ids, stats=[{}], kept=[Kept(torch.tensor([0]))], timings={})
        monkeypatch.setattr(answerer.model, "generate", lambda **_: output)
        monkeypatch.setattr(answerer.tokenizer, "clean_up_tokenization_spaces", tokenizer_says)
        sample = Sample(0, "", (), 8, True, clean_up_tokenization_spaces=sample_says)
        assert answerer.answer([[1]], sample)[0].text == text


@pytest.mark.parametrize("adds", [True, False])
def test_the_sample_says_whether_the_tokenizer_adds_its_own_bos(adds):
    asked = []

    def tokenizer(text, add_special_tokens):
        asked.append(add_special_tokens)
        return {"input_ids": [len(text)]}

    assert encode(tokenizer, Sample(0, "abc", (), 8, adds)) == [3]
    assert asked == [adds]


@pytest.mark.parametrize(
    ("override", "code", "expected"),
    [
        ("draft_model.model_name_or_path={pair}/stranger", 2, "cannot be a draft for"),
        ("target_model.model_name_or_path={pair}", 2, "cannot be loaded"),
        ("dataset.seq_len=2048", 2, "dataset.seq_len: 2048 exceeds the 1024 positions of"),
        ("dataset.task=niah_single", 2, "'niah_single' is not known (did you mean 'niah_single_"),
        ("sparse_config.kernel_size=8", 2, "sparse_config.kernel_size: 8 is even"),
        ("dataset.seq_len=64", 1, "its smallest sample cannot be built"),
        ("target_model.model_name_or_path=nobody/nothing", 2, "the tokenizer nobody/nothing cannot be loaded"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tree, pair, capsys, override, code, expected):
    assert cli.main(["--cfg", "cfg/speckv/fwe.yaml", "--set", override.format(pair=pair)]) == code
    assert expected in capsys.readouterr().err
    assert not Path("results/speckv/fwe/predictions.jsonl").exists()


def test_a_method_that_does_not_fit_the_models_stops_the_sweep_before_it_starts(tree, capsys):
    leaf = yaml.safe_load(Path("cfg/specpc/fwe.yaml").read_text())
    leaf["sparse_config"]["starting_layer_index"] = 7
    Path("cfg/specpc/deep.yaml").write_text(yaml.safe_dump(leaf))
    assert cli.main(["--cfg", "cfg/specpc/deep.yaml", "cfg/full/fwe.yaml", "--limit", "1"]) == 2
    assert "cfg/specpc/deep.yaml: sparse_config … starting_layer_index: 7" in capsys.readouterr().err
    assert not Path("results/full/fwe").exists()
