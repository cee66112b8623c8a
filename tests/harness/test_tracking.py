"""W&B with the real client: what an offline run file holds, what a server is sent, and what trouble costs a sweep."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy
import wandb_server

from harness import tracking
from harness.config import REPOSITORY, ConfigReader
from harness.errors import ProblemsError
from harness.plan import make_plan
from harness.runner import Runner
from harness.tracking import NoTracker, make_tracker
from harness.wandb_worker import summary_of

TOY = str(Path(__file__).with_name("toy.py"))
BIN = Path(sys.executable).parent
PROGRESS = {"cache_bytes", "fraction", "kept_fraction", "latency_seconds", "samples", "score"}
PRIVATE = {"_runtime", "_step", "_timestamp"}
SUMMARY = {
    **{"score": 100, "score_low": 100, "score_high": 100},
    **{"score_official": 100, "score_official_low": 100, "score_official_high": 100},
    **{"score_paper": 50, "score_paper_low": 50, "score_paper_high": 50},
    **{"task/add": 100, "category/average": 100, "n": 8, "subset": "first 8 of 500", "exhausted": False},
    **{"status": "finished", "failed_samples": 0, "protocol": "official", "memory": "real", "branches": 2},
    **{"prompt_tokens": 10, "read_tokens": 10, "kept_tokens": 5, "kept_fraction": 0.5, "lookahead_tokens": 2},
    **{"cache_bytes": 2048, "peak_cache_bytes": 4096, "draft_cache_bytes": 1024, "draft_tokens": 7},
    **{"draft_seconds": 0.1, "prefill_seconds": 0.2, "decode_seconds": 0.3, "latency_seconds": 0.6},
    **{"samples_per_second": 1 / 0.6, "new_tokens_per_second": 1 / 0.6, "new_tokens": 1, "length": 1},
}
"""What a run of the toy is logged with, but for the table; `length` is the toy's own extra figure."""


@pytest.fixture
def online(monkeypatch, workspace):
    """A stand-in for W&B's server, to which the environment points."""
    with wandb_server.Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", wandb_server.KEY)
        monkeypatch.setenv("WANDB_MODE", "")
        yield server


@pytest.fixture
def offline(monkeypatch, workspace):
    """W&B in offline mode, with a home folder that knows of no key."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(workspace / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there


def sweep(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """eval.py with the toys in place."""
    command = [sys.executable, TOY, "--cfg", "cfg", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=100)


def here(pool: toy.ToyPool | None = None, limit: int | None = None, said: list | None = None, **changes):
    """A sweep in this process; the report."""
    plan = make_plan(["cfg"], changes, Path("results"), limit)
    tracker = make_tracker(plan, Path("results"), False, ([] if said is None else said).append)
    try:
        return Runner(plan, pool or toy.ToyPool(), False, tracker).run()
    finally:
        tracker.close()


def fingerprint(name: str) -> str:
    return json.loads(Path("results", name, "environment.json").read_text())["fingerprint"]


def session(run_id: str) -> Path:
    """The run's file of its latest session."""
    return max(Path("results/wandb").glob(f"*run-*-{run_id}/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def inspect(path: Path, *options: str) -> str:
    command = [BIN / "wandb", "leet", "inspect", "--json", *options, path]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def state(run_id: str) -> dict:
    """What the run's file comes to."""
    return json.loads(inspect(session(run_id), "--summary"))


def history(run_id: str) -> dict[int, dict]:
    rows = [json.loads(line) for line in inspect(session(run_id)).splitlines()]
    items = [row["history"]["item"] for row in rows if row["type"] == "history"]
    return {item["_step"]: item for item in items}


def test_an_offline_run_holds_everything(write, offline):
    options = {"project": "from-yaml", "entity": "team", "tags": ["mine"], "artifact": True, "predictions": 3}
    leaf = write("cfg/demo/a.yaml", wandb=options)
    write("cfg/demo/full.yaml", sparse_config={"sparse_type": "full"})
    said: list[str] = []
    assert here(said=said).finished == ["demo/a", "demo/full"]
    found = state(fingerprint("demo/a"))
    assert (found["run_id"], found["name"], found["exit_code"]) == (fingerprint("demo/a"), "demo/a", 0)
    assert (found["project"], found["entity"]) == ("from-yaml", "team")
    run = next(row["run"] for row in map(json.loads, inspect(session(found["run_id"])).splitlines()) if "run" in row)
    assert (run["run_group"], run["job_type"], run["resume"]) == ("toy/toy/target+toy/draft", "speckv", True)
    assert run["tags"] == ["speckv", "toy", "add", "official", "mine"]

    config = found["config"]
    environment = config.pop("environment")
    assert {"commit", "dirty", "devices", "torch", "transformers", "python", "command"} <= environment.keys()
    config.pop("_wandb", None)
    facets = {"name": "demo/a", "fingerprint": found["run_id"], "method": "speckv", "budget": "64"}
    facets |= {"max_capacity_prompt": 64, "benchmark": "toy", "task": "add", "seq_len": None}
    facets |= {"target": "toy/target", "draft": "toy/draft", "pair": "toy/target+toy/draft"}
    resolved = ConfigReader().leaf(leaf).resolved
    resolved.pop("wandb")
    assert config == resolved | facets

    summary = {key: value for key, value in found["summary"].items() if key not in PRIVATE | {"_wandb"}}
    table = summary.pop("predictions")
    progress = {key.removeprefix("progress/"): summary.pop(key) for key in list(summary) if key.startswith("progress/")}
    assert summary.pop("fingerprint") == found["run_id"]
    assert summary.pop("predictions_bytes") > 0
    assert summary == pytest.approx(SUMMARY) or summary == {key: _near(value) for key, value in SUMMARY.items()}
    assert progress.keys() == PROGRESS
    assert progress["samples"] == 8
    steps = history(found["run_id"])
    assert list(steps) == list(range(8))
    assert [steps[i]["progress/fraction"] for i in range(8)] == [(i + 1) / 8 for i in range(8)]
    assert all({f"progress/{key}" for key in PROGRESS} <= item.keys() for item in steps.values())

    content = json.loads((session(found["run_id"]).parent / "files" / table["path"]).read_text())
    assert content["columns"] == ["index", "prompt_tail", "output", "references", "score", "kept_fraction"]
    assert content["data"] == [[i, f"add {i}", str(i), f'["{i}"]', 100, 0.5] for i in range(3)]
    artifacts = [
        row["artifact"] for row in map(json.loads, inspect(session(found["run_id"])).splitlines()) if "artifact" in row
    ]
    (results,) = [artifact for artifact in artifacts if artifact["type"] == "results"]
    assert {entry["path"] for entry in results["manifest"]["contents"]} == {
        *("config.yaml", "environment.json", "metrics.json", "predictions.jsonl", "prompt_of_sample_0.txt"),
    }

    full = state(fingerprint("demo/full"))
    assert (full["config"]["budget"], full["project"]) == ("all", tracking.PROJECT)
    (command,) = [line for line in said if "wandb sync" in line]
    paths = shlex.split(command.partition("wandb sync ")[2])
    assert {Path(path).resolve() for path in paths} == {
        session(r).parent.resolve() for r in map(fingerprint, ("demo/a", "demo/full"))
    }
    assert not Path("home").exists()  # nothing is left in the home folder


def _near(value):
    return pytest.approx(value) if isinstance(value, float) else value


def test_the_environment_beats_the_yaml(write, offline, monkeypatch):
    write("cfg/a.yaml", wandb={"project": "p", "entity": "e", "group": "g", "mode": "online", "predictions": 0})
    monkeypatch.setenv("WANDB_PROJECT", "q")
    monkeypatch.setenv("WANDB_ENTITY", "f")
    monkeypatch.setenv("WANDB_RUN_GROUP", "h")
    monkeypatch.setenv("WANDB_TAGS", "x,y")
    monkeypatch.setenv("WANDB_RUN_ID", "not-for-many-runs")
    here()
    found = state(fingerprint("a"))
    run = next(row["run"] for row in map(json.loads, inspect(session(found["run_id"])).splitlines()) if "run" in row)
    assert (found["project"], found["entity"], run["run_group"]) == ("q", "f", "h")
    assert run["tags"][-2:] == ["x", "y"]
    assert "predictions" not in found["summary"]


def test_failed_runs_are_marked(write, offline):
    write("cfg/a.yaml")
    write("cfg/full.yaml", sparse_config={"sparse_type": "full"})
    report = here(toy.ToyPool(fail=[(3, "speckv")]))
    assert report.finished == ["full"]
    failed, good = state(fingerprint("a")), state(fingerprint("full"))
    assert (failed["exit_code"], good["exit_code"]) == (1, 0)
    assert failed["summary"]["status"] == "failed"
    assert failed["summary"]["error"].startswith("1 of 8 samples failed, the first with: RuntimeError: out of toys")
    assert failed["summary"]["failed_samples"] == 1
    assert "score" not in failed["summary"]


def test_many_runs_side_by_side_are_runs_of_their_own(write, offline):
    for capacity in range(20, 44):
        write(f"cfg/{capacity}.yaml", sparse_config=toy.LEAF["sparse_config"] | {"max_capacity_prompt": capacity})
    pool = toy.ToyPool()
    said: list[str] = []
    assert len(here(pool, said=said).finished) == 24
    assert len(pool.calls) == 8  # answered together
    ids = {fingerprint(str(capacity)) for capacity in range(20, 44)}
    assert {path.name[-16:] for path in Path("results/wandb").glob("offline-run-*")} == ids
    assert state(fingerprint("43"))["config"]["max_capacity_prompt"] == 43
    assert said[-1].endswith("wandb sync results/wandb/*run-*")


@pytest.mark.slow
def test_the_same_configuration_twice_is_two_runs(write, offline):
    write("cfg/a.yaml")
    write("cfg/b/c.yaml")
    here()
    names = {
        path.name.split("-", 3)[3]: state(path.name.split("-", 3)[3])["name"]
        for path in Path("results/wandb").glob("offline-run-*")
    }
    assert names == {fingerprint("a"): "a", fingerprint("a") + "-b-c": "b/c"}


def test_finished_runs_are_not_logged_again(write, offline):
    write("cfg/a.yaml")
    here()
    before = sorted(Path("results/wandb").iterdir())
    assert here().finished == []
    assert sorted(Path("results/wandb").iterdir()) == before


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on_as_itself(write, offline):
    write("cfg/a.yaml")
    done = sweep(TOY_DIE_AFTER="3", TOY_SIGNAL="SIGINT")
    assert done.returncode == 130
    found = state(fingerprint("a"))
    assert (found["exit_code"], found["summary"]["status"], found["summary"]["progress/samples"]) == (
        1,
        "interrupted",
        3,
    )
    time.sleep(1)  # W&B's folders are named by the second
    assert sweep().returncode == 0
    found = state(fingerprint("a"))
    assert (found["run_id"], found["exit_code"], found["summary"]["n"]) == (fingerprint("a"), 0, 8)
    assert [item["progress/samples"] for item in history(found["run_id"]).values()] == [4, 5, 6, 7, 8]


def test_a_killed_sweep_leaves_its_runs_as_interrupted(write, offline):
    write("cfg/a.yaml")
    assert sweep(TOY_DIE_AFTER="3").returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (
            list(Path("results/wandb").glob("offline-run-*/*.wandb"))
            and state(fingerprint("a"))["exit_code"] is not None
        ):
            break
        time.sleep(0.2)
    assert state(fingerprint("a"))["summary"]["status"] == "interrupted"


def test_no_log_imports_no_wandb_and_writes_nothing(write, workspace):
    write("cfg/a.yaml")
    done = sweep("--no_log", PYTHONPROFILEIMPORTTIME="1", WANDB_MODE="online")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "harness.tracking" in imported
    assert not {name for name in imported if name.split(".")[0] == "wandb"}
    assert sorted(p.name for p in workspace.iterdir()) == ["cfg", "results"]
    assert sorted(p.name for p in Path("results").iterdir()) == ["a", "summary.md"]


def test_without_the_package_it_is_said_once(write, monkeypatch, workspace):
    monkeypatch.setenv("WANDB_MODE", "")
    (workspace / "wandb").mkdir()  # as W&B leaves it: a namespace, no package
    find = importlib.util.find_spec
    missing = importlib.machinery.ModuleSpec("wandb", None, is_package=True)
    for answer in (None, missing):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, a=answer: a if name == "wandb" else find(name))
        write("cfg/a.yaml")
        write("cfg/b.yaml", sparse_config={"sparse_type": "full"})
        said: list[str] = []
        here(said=said)
        assert said == ["W&B: not installed, so nothing is logged. pip install wandb, or switch it off with --no_log"]


@pytest.mark.parametrize("mode", ["disabled", "onlin"])
def test_modes_of_the_environment(write, monkeypatch, mode):
    write("cfg/a.yaml")
    monkeypatch.setenv("WANDB_MODE", mode)
    plan = make_plan(["cfg"], {}, Path("results"))
    if mode == "disabled":
        assert isinstance(make_tracker(plan, Path("results"), False, print), NoTracker)
    else:
        with pytest.raises(ProblemsError, match="environment: WANDB_MODE: 'onlin' is not a mode. Use one of: online"):
            make_tracker(plan, Path("results"), False, print)


def test_a_mode_of_disabled_in_yaml_starts_nothing(write, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    write("cfg/a.yaml", wandb={"mode": "disabled"})
    assert here().finished == ["a"]
    assert not Path("results/wandb").exists()


def test_a_tracker_that_cannot_start_does_not_stop_the_sweep(write, offline):
    write("cfg/a.yaml")
    Path("results").mkdir()
    Path("results/wandb").write_text("in the way")
    said: list[str] = []
    assert here(said=said).finished == ["a"]
    (line,) = said
    assert line.startswith("W&B: off for the rest of this sweep. FileExistsError:")


def test_a_process_that_dies_does_not_stop_the_sweep(write, offline):
    write("cfg/a.yaml")
    said: list[str] = []
    plan = make_plan(["cfg"], {}, Path("results"))
    tracker = make_tracker(plan, Path("results"), False, said.append)
    pool = toy.ToyPool()
    pool.on_answer = lambda: tracker._worker.kill()
    assert Runner(plan, pool, False, tracker).run().finished == ["a"]
    tracker.close()
    (line,) = said
    assert "W&B: its process ended early; see" in line


def test_a_run_that_the_client_refuses_does_not_stop_the_sweep(write, offline, monkeypatch):
    write("cfg/a.yaml")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "no number")  # W&B's own settings refuse it
    said: list[str] = []
    assert here(said=said).finished == ["a"]
    (line,) = said
    assert line.startswith("W&B: a: 1 validation error for Settings")
    assert line.endswith("not logged")


def test_figures_of_a_run_with_parts(write):
    metrics = {"score": 40.0, "score_interval": [30.0, 50.0], "score_by_length": {"0-4k": 41.0, "8k+": None}}
    metrics |= {"draft_seconds": 0.0, "prefill_seconds": 0.0, "decode_seconds": 0.0, "new_tokens": 3.0, "subset": None}
    assert summary_of(metrics, "qasper", ["Single-doc QA", "All"]) == {
        **{"score": 40.0, "score_low": 30.0, "score_high": 50.0, "score_by_length/0-4k": 41.0, "new_tokens": 3.0},
        **{"task/qasper": 40.0, "category/Single-doc QA": 40.0, "category/All": 40.0, "latency_seconds": 0.0},
        **{"draft_seconds": 0.0, "prefill_seconds": 0.0, "decode_seconds": 0.0},
    }


def services() -> list[str]:
    """Process ids of W&B's services on this machine."""
    return subprocess.run(["pgrep", "-r", "R,S,D", "wandb-"], capture_output=True, text=True).stdout.split()


def report_script():
    spec = importlib.util.spec_from_file_location("wandb_report", REPOSITORY / "scripts" / "wandb_report.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


# A server


def test_a_server_gets_it_and_a_resumed_run_goes_on(write, online):
    write("cfg/a.yaml", wandb={"artifact": True})
    said: list[str] = []
    here(limit=3, said=said)
    run_id = fingerprint("a")
    assert said == [f"W&B: logging to {online.url}/ent/{tracking.PROJECT}"]
    assert (online.exit_codes, online.errors) == ({run_id: 0}, [])
    assert online.summary[run_id]["n"] == 3
    sent_once = dict(online.history[run_id])
    assert list(sent_once) == [0, 1, 2]
    here()
    assert list(online.history) == [run_id]
    assert list(online.history[run_id]) == list(range(8))
    assert {step: online.history[run_id][step] for step in sent_once} == sent_once  # sent once, and not again
    expected = SUMMARY | {"branches": 1}
    assert {key: online.summary[run_id][key] for key in expected} == {
        key: _near(value) for key, value in expected.items()
    }
    first = online.upserts[run_id][0]
    assert (first["displayName"], first["groupName"], first["jobType"]) == ("a", "toy/toy/target+toy/draft", "speckv")
    assert online.config(run_id)["sparse_config"]["max_capacity_prompt"] == 64
    assert online.config(run_id)["environment"]["commit"]
    assert {artifact["artifactTypeName"] for artifact in online.artifacts} == {"results", "run_table"}
    assert online.uploads["artifact/predictions.jsonl"] == Path("results/a/predictions.jsonl").read_bytes()
    requests = online.requests
    here()  # done: nothing is sent
    assert online.requests == requests


@pytest.mark.slow
def test_progress_is_sent_while_it_runs(write, online):
    write("cfg/a.yaml")
    process = subprocess.Popen(
        [sys.executable, TOY, "--cfg", "cfg"],
        env=os.environ | {"TOY_SLEEP": "4"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(online.history.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.poll() is None
        assert any(online.history.values())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def test_offline_sessions_are_synced_into_one_run(write, offline, monkeypatch):
    write("cfg/a.yaml")
    said: list[str] = []
    here(limit=3, said=said)
    time.sleep(1)  # W&B's folders are named by the second
    here(said=said)
    commands = [shlex.split(line.partition("To send it: ")[2]) for line in said if "To send it" in line]
    assert len(commands) == 2
    with wandb_server.Server() as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": wandb_server.KEY, "WANDB_MODE": "online"}
        for command in commands:
            command[0] = str(BIN / "wandb")
            subprocess.run(command, env=os.environ | environment, check=True, timeout=60)
        run_id = fingerprint("a")
        assert server.errors == []
        assert list(server.upserts) == [run_id]
        assert sorted(server.history[run_id]) == list(range(8))
        assert server.points == 8  # the second session follows the first
        assert [row["progress/samples"] for _, row in sorted(server.history[run_id].items())] == list(range(1, 9))
        assert server.summary[run_id]["n"] == 8
        assert server.exit_codes == {run_id: 0}


def test_a_key_that_is_refused_means_offline(write, online):
    online.trouble = lambda path: 401
    write("cfg/a.yaml")
    said: list[str] = []
    assert here(said=said).finished == ["a"]
    assert "Logging offline" in said[0]
    assert "wandb sync results/wandb/offline-run-" in said[1]
    assert state(fingerprint("a"))["summary"]["n"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [500, "hang"])
def test_a_server_in_trouble_means_offline_and_does_not_slow_the_sweep(write, online, trouble):
    online.trouble = lambda path: trouble
    write("cfg/a.yaml")
    write("cfg/b.yaml", dataset=toy.LEAF["dataset"] | {"task": "sub"})
    said: list[str] = []
    plan = make_plan(["cfg"], {}, Path("results"))
    tracker = make_tracker(plan, Path("results"), False, said.append)
    start = time.monotonic()
    assert Runner(plan, toy.ToyPool(), False, tracker).run().finished == ["a", "b"]
    assert time.monotonic() - start < 5  # the client alone waits for ten
    tracker.close()
    assert "Logging offline" in said[0]
    for name in ("a", "b"):
        assert state(fingerprint(name))["summary"]["n"] == 8


@pytest.mark.slow
def test_a_server_that_goes_while_runs_are_open(write, online):
    """The run that is open is left to `wandb sync`; the next is logged offline."""
    online.trouble = lambda path: "hang" if online.upserts else None
    write("cfg/a.yaml")
    write("cfg/b.yaml", dataset=toy.LEAF["dataset"] | {"task": "sub"})
    said: list[str] = []
    before = set(services())
    start = time.monotonic()
    assert here(said=said).finished == ["a", "b"]
    assert time.monotonic() - start < 60
    assert "no progress" in said[-2]
    assert not set(services()) - before  # nothing goes on in the background
    assert f"-{fingerprint('a')}" in said[-1]
    assert "offline-run-" in said[-1]
    for name in ("a", "b"):
        assert state(fingerprint(name))["summary"]["n"] == 8


def test_the_report_asks_for_what_is_logged(write, offline, workspace):
    script = report_script()
    for method in ("full", "speckv"):
        for length in (1024, 2048):
            sparse = {"sparse_type": method} | (toy.LEAF["sparse_config"] if method == "speckv" else {})
            write(
                f"cfg/{method}/{length}.yaml", sparse_config=sparse, dataset=toy.LEAF["dataset"] | {"seq_len": length}
            )
    assert script.main(["--cfg", "cfg", "-o", "report.json", "--project", "p"]) == 0
    here()
    found = state(fingerprint("speckv/1024"))
    spec = json.loads(Path("report.json").read_text())
    text = json.dumps(spec)
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 1 + 2 * 2  # lengths; a length: all runs, and those on their own
    titles = [p["config"]["chartTitle"] for grid in grids for p in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    for title in ("Score against length", "Score by method and budget", "Score against budget", "By task"):
        assert title in titles
    assert titles.count("Pareto: score against KV cache bytes") == titles.count("Pareto: score against latency") == 2
    keys = set()
    for grid in grids:
        for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]:
            config = panel["config"]
            keys |= {config[axis] for axis in ("xAxis", "yAxis") if axis in config}
            keys |= set(config.get("metrics", []))
        (runset,) = grid["metadata"]["runSets"]
        wanted = {f["key"]["name"]: f["value"] for f in runset["filters"]["filters"] if f["key"]["section"] == "config"}
        assert wanted.items() <= found["config"].items() or wanted["seq_len"] == 2048
        groups = {group["name"].removesuffix(".value") for group in runset["grouping"]}
        assert {"method", "budget"} <= groups <= found["config"].keys()
    for key in keys:
        section, _, name = key.replace("summary_metrics.", "summary:").rpartition(":")
        where = found["config"] if section == "config" else found["summary"]
        assert name.removesuffix(".value") in where, key
    assert "entityName" not in text  # the runs are those of the report's own project


def test_the_report_is_saved_where_asked(write, workspace, capsys, monkeypatch):
    script = report_script()
    write("cfg/a.yaml")
    with pytest.raises(SystemExit):
        script.main(["--cfg", "cfg", "--save"])
    assert "--save needs --entity" in capsys.readouterr().err
    assert script.main(["--cfg", "nope"]) == 2
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert script.main(["--cfg", "cfg", "--entity", "ent", "--save"]) == 1
    assert "W&B did not take it" in capsys.readouterr().err
    assert Path("results/wandb_report.json").exists()


def test_the_report_is_sent(write, online, capsys):
    script = report_script()
    write("cfg/a.yaml")
    assert script.main(["--cfg", "cfg", "--entity", "ent", "--project", "p", "--title", "T", "--save"]) == 0
    (view,) = online.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("ent", "p", "T")
    assert "Pareto: score against latency" in view["spec"]
    assert f"{online.url}/ent/p/reports/T--v" in capsys.readouterr().out
