"""The real tools in their environments, on the built-in pair: `make test-peers`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

import eval as eval_command
from scripts import run_external

pytestmark = pytest.mark.peers
DATASET = {"dataset_name": "ruler", "task": "niah_single_1", "seq_len": 512, "num_samples": 2, "haystack": "builtin"}
SNAPKV = {"press": "SnapKVPress", "press_args": {"window_size": 16, "kernel_size": 5}}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """sweep({name: sparse_config}): run them, {name: (exit status, rows)}; eval.py those that are its own."""
    monkeypatch.chdir(tmp_path)

    def run(**runs):
        for name, sparse_config in runs.items():
            leaf = {
                "target_model": {"model_name_or_path": "data/tiny_pair/target", "dtype": "float32"},
                "dataset": DATASET,
                "sparse_config": sparse_config,
            }
            Path("cfg").mkdir(exist_ok=True)
            Path("cfg", f"{name}.yaml").write_text(yaml.safe_dump(leaf))
        result = {}
        for name, sparse_config in runs.items():
            own = sparse_config["sparse_type"] in ("full", "snapkv")
            status = (eval_command if own else run_external).main(["--cfg", f"cfg/{name}.yaml"])
            text = Path("results", name, "predictions.jsonl").read_text()
            result[name] = status, [json.loads(line) for line in text.splitlines()]
        return result

    return run


def test_kvpress_answers_within_the_budget(sweep, environment):
    environment("kvpress")
    kvpress = {"sparse_type": "kvpress", "max_capacity_prompt": 64}
    result = sweep(
        snapkv={**kvpress, **SNAPKV},
        question={**kvpress, **SNAPKV, "question_tokens": 8},
        pyramid={**kvpress, "press": "PyramidKVPress", "press_args": {"window_size": 8, "beta": 5}},
        ada={**kvpress, "press": "AdaKVPress", "press_args": {"press": SNAPKV}},
        rotated={**kvpress, "press": "KeyRerotationPress", "press_args": {"press": SNAPKV}},
        ours={"sparse_type": "snapkv", "max_capacity_prompt": 64, "window_size": 16},
    )
    assert [status for status, _ in result.values()] == [0] * 6
    for name, (_, rows) in result.items():
        for row, ours in zip(rows, result["ours"][1], strict=True):
            for stat in ("prompt_tokens", "read_tokens", "kept_tokens", "cache_bytes"):
                assert row["stats"][stat] == ours["stats"][stat], (name, stat)
    # the needle is found from what is left, which needs each key's own position
    assert {row["score_official"] for _, rows in result.values() for row in rows} == {100.0}
    # what a head-wise press masks stays in memory
    ada, snapkv = (result[name][1][0]["stats"]["peak_cache_bytes"] for name in ("ada", "snapkv"))
    assert ada > 3 * snapkv
    memory = {name: json.loads(Path("results", name, "metrics.json").read_text())["memory"] for name in result}
    assert {name for name, kind in memory.items() if kind == "simulated"} == {"ada"}


def test_a_press_that_drops_nothing_answers_as_our_full_prefill(sweep, environment):
    environment("kvpress")
    result = sweep(
        all={"sparse_type": "kvpress", **SNAPKV, "max_capacity_prompt": 4000},
        question={"sparse_type": "kvpress", **SNAPKV, "max_capacity_prompt": 4000, "question_tokens": 20},
        full={"sparse_type": "full"},
    )
    answers = [[(row["prediction"], row["new_tokens"]) for row in rows] for _, rows in result.values()]
    assert answers[0] == answers[1] == answers[2]
    assert all(row["score_official"] == 100 for row in result["all"][1])


def test_a_press_that_does_not_exist_is_told(sweep, environment, capsys):
    environment("kvpress")
    ((status, _),) = sweep(none={"sparse_type": "kvpress", "press": "NoSuchPress", "max_capacity_prompt": 64}).values()
    assert status == 1
    assert "kvpress has no 'NoSuchPress'. Valid: AdaKVPress, " in capsys.readouterr().err


@pytest.mark.parametrize("variant", ["llmlingua", "longllmlingua"])
def test_llmlinguas_prompt_is_read_within_the_budget(sweep, environment, tmp_path, variant):
    maker = Path(__file__).parent / "tiny_compressor.py"
    subprocess.run([environment("llmlingua"), maker, tmp_path / "compressor"], check=True, capture_output=True)
    settings = {"sparse_type": "llmlingua", "variant": variant, "compressor": str(tmp_path / "compressor")}
    ((status, rows),) = sweep(run={**settings, "max_capacity_prompt": 200, "window_size": 32}).values()
    assert status == 0
    for row in rows:
        assert 0.8 * 200 <= row["stats"]["read_tokens"] <= 200 < row["stats"]["prompt_tokens"]
        assert row["stats"]["kept_tokens"] == row["stats"]["read_tokens"]
        assert row["stats"]["draft_cache_bytes"] == row["stats"]["draft_tokens"] * 2 * 2 * 2 * 8 * 4
        assert row["seconds"]["draft"] > 0
