"""scripts/run_external.py from the command line to results/, with toys for tools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eval as eval_command
from scripts import run_external

DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [{repository!r}, {repository!r} + "/tests/harness"]
import toy
from external import client
from scripts import run_external
toy.install()
client.EXTERNAL, client.ENVIRONMENTS = Path("external").resolve(), Path(".envs").resolve()
sys.exit(run_external.main(["--cfg", "cfg"]))
"""


def rows(name: str = "a") -> list[dict]:
    text = Path("results", name, "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def metrics(name: str = "a") -> dict:
    return json.loads(Path("results", name, "metrics.json").read_text())


def run(*args: str) -> int:
    return run_external.main(["--cfg", "cfg", *args])


def test_a_tools_answers_are_scored_and_tabulated_like_ours(toys, leaf, capsys):
    leaf()
    assert run() == 0
    assert [row["prediction"] for row in rows()] == ["0", "1", "2", "3"]
    assert (metrics()["score"], metrics()["n"]) == (100.0, 4)
    assert (metrics()["kept_tokens"], metrics()["cache_bytes"], metrics()["peak_cache_bytes"]) == (2.0, 64.0, 64)
    assert metrics()["memory"] == "real"
    row = rows()[0]
    assert (row["stats"]["prompt_tokens"], row["stats"]["draft_tokens"], row["new_tokens"]) == (3, 0, 1)
    assert row["seconds"]["decode"] > 0 == row["seconds"]["prefill"]
    request = toys()[0]
    assert request["prompt"] == "add 0"
    assert (request["capacity"], request["max_new_tokens"], request["repetition_penalty"]) == (2, 4, 1.0)
    assert request["settings"]["press"] == "TextPress"
    assert Path(request["target"]["model_name_or_path"]).is_dir()
    assert "kvpress       2  100.0" in capsys.readouterr().out


def test_tokens_are_cut_and_decoded_as_ours(toys, leaf):
    leaf(press="TokensPress")
    assert run() == 0
    assert [row["prediction"] for row in rows()] == ["add 0", "add 1", "add 2", "add 3"]
    assert {row["new_tokens"] for row in rows()} == {4}  # with the stop, which the tool went on after


def test_what_is_done_is_not_asked_again(toys, leaf, capsys):
    leaf()
    assert run("--limit", "1") == 0
    assert run() == 0
    assert run() == 0
    assert [request["index"] for request in toys()] == [0, 1, 2, 3]
    assert "nothing to run here" in capsys.readouterr().out
    assert run("--overwrite", "--limit", "2") == 0
    assert [request["index"] for request in toys()[4:]] == [0, 1]


def test_one_worker_serves_all_runs_of_a_tool(toys, leaf):
    leaf("cfg/a.yaml")
    leaf("cfg/b.yaml", press="TokensPress")
    assert run() == 0
    assert len({request["pid"] for request in toys()}) == 1
    assert len(toys()) == 8


def test_a_sample_that_fails_does_not_hold_up_the_others(toys, leaf, monkeypatch, capsys):
    leaf()
    monkeypatch.setenv("TOY_FAIL", "1")
    assert run() == 1
    assert "1 of 4 samples failed, the first with: AnswerError: ToyError: this prompt does not suit me" in (
        capsys.readouterr().err
    )
    assert [row["prediction"] for row in rows() if row["error"] is None] == ["0", "2", "3"]
    monkeypatch.delenv("TOY_FAIL")
    assert run() == 0
    assert [request["index"] for request in toys()[4:]] == [1]


def test_a_dead_workers_last_words_are_shown_and_the_next_run_has_a_new_one(toys, leaf, monkeypatch, capsys):
    leaf("cfg/a.yaml")
    leaf("cfg/b.yaml")
    monkeypatch.setenv("TOY_DIE", "2")
    assert run() == 1
    message = capsys.readouterr().err
    assert "kvpress's worker died (exit status 1) at sample 2" in message
    assert "    the toy is out of memory" in message
    assert [row["prediction"] for row in rows()] == ["0", "1"]
    assert [row["prediction"] for row in rows("b")] == ["0", "1"]
    monkeypatch.delenv("TOY_DIE")
    assert run() == 0
    assert [request["index"] for request in toys()[6:]] == [2, 3, 2, 3]


@pytest.mark.parametrize("kept, said", [("4", "kept 4.0 entries a head of a budget of 2"), ("3", None)])
def test_a_tool_must_keep_to_the_budget(toys, leaf, monkeypatch, capsys, kept, said):
    leaf()
    monkeypatch.setenv("TOY_KEPT", kept)
    assert run() == (1 if said else 0)
    assert (said or "") in capsys.readouterr().err


def test_a_missing_environment_is_told_with_the_command_before_anything_runs(toys, leaf, capsys):
    leaf()
    Path(".envs/kvpress/bin/python").unlink()
    assert run() == 2
    assert "make env-kvpress" in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_dry_run_starts_nothing(toys, leaf, capsys):
    leaf()
    Path(".envs/kvpress/bin/python").unlink()
    assert run("--dry-run") == 0
    assert "a (kvpress): to do" in capsys.readouterr().out
    assert not toys()
    assert not Path("results").exists()


def test_each_command_leaves_the_others_runs_alone(toys, leaf, capsys):
    leaf("cfg/a.yaml")
    leaf("cfg/b.yaml", sparse_type="full")
    assert run() == 0
    assert "eval.py's runs, left to it: 1" in capsys.readouterr().out
    assert not Path("results/b").exists()
    Path("results/a/metrics.json").unlink()
    Path("cfg/b.yaml").unlink()
    assert eval_command.main(["--cfg", "cfg"]) == 0
    assert "scripts/run_external.py" in capsys.readouterr().out
    assert not Path("results/a/metrics.json").exists()


def test_killed_it_goes_on_where_it_stopped(toys, leaf, monkeypatch):
    leaf()
    driver = DRIVER.format(repository=str(Path(__file__).resolve().parents[2]))
    environment = {**os.environ, "TOY_SLEEP": "0.4"}
    process = subprocess.Popen([sys.executable, "-c", driver], env=environment, stderr=subprocess.PIPE, text=True)
    predictions = Path("results/a/predictions.jsonl")
    deadline = time.monotonic() + 60
    while not (predictions.exists() and predictions.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(rows())
    assert 1 <= done < 4
    before = len(toys())
    assert run() == 0
    assert [request["index"] for request in toys()[before:]] == list(range(done, 4))
    assert metrics()["n"] == 4


def test_a_rewritten_prompt_is_read_by_our_own_target(toys, leaf):
    settings = {"sparse_type": "llmlingua", "compressor": "some/model", "window_size": 8}
    for name, budget in (("cfg/a.yaml", 40), ("cfg/b.yaml", 4000)):
        path = leaf(name, **settings, max_capacity_prompt=budget)
        path.write_text(
            path.read_text().replace(
                "dataset_name: toy", "dataset_name: ruler\n  haystack: builtin\n  seq_len: 512"
            ).replace("task: add", "task: niah_single_1").replace("num_samples: 4", "num_samples: 1")
        )  # fmt: skip
    assert run() == 0
    (short,), (whole,) = rows("a"), rows("b")
    assert all(request["passage"] for request in toys())
    assert short["stats"]["prompt_tokens"] == whole["stats"]["prompt_tokens"] == whole["stats"]["kept_tokens"]
    assert 36 <= short["stats"]["read_tokens"] == short["stats"]["kept_tokens"] <= 40
    assert short["stats"]["draft_tokens"] == 7
    assert short["seconds"]["draft"] > 0 < short["seconds"]["prefill"]
    assert metrics("b")["score"] == 100.0


def test_runs_are_logged_like_ours(toys, leaf, monkeypatch):
    leaf()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run("--no_log", "--limit", "1") == 0
    assert not Path("results/wandb").exists()
    assert run() == 0
    (folder,) = Path("results/wandb").glob("offline-run-*")
    fingerprint = json.loads(Path("results/a/environment.json").read_text())["fingerprint"]
    assert folder.name.endswith(f"-{fingerprint}")
    assert list(folder.glob("files/media/table/predictions_*"))
