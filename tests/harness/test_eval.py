"""The command itself, in processes of its own: exit codes, messages, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config import REPOSITORY

TOY = str(Path(__file__).with_name("toy.py"))


@pytest.fixture
def command(workspace):
    """command("--cfg", …, TOY_FAIL="3"): eval.py with the toys in place, in the workspace."""

    def command(*arguments: str, script: str = TOY, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, script, *arguments],
            cwd=workspace,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return command


def lines(name: str = "a") -> list[dict]:
    return [json.loads(line) for line in Path(f"results/{name}/predictions.jsonl").read_text().splitlines()]


def test_runs_then_reruns(write, command):
    write("cfg/demo/a.yaml")
    first = command("--cfg", "cfg/**/*.yaml", "--no_log")
    assert first.returncode == 0, first.stderr
    assert "1 run: 0 done, 0 partial (0 predictions kept), 1 to do" in first.stdout
    assert "written to results/demo/summary.md" in first.stdout
    again = command("--cfg", "cfg/demo")
    assert again.returncode == 0
    assert "everything is done already" in again.stdout
    assert "speckv" in again.stdout  # the table is shown all the same
    assert "Traceback" not in first.stderr + again.stderr


def test_dry_run_writes_nothing(write, command, workspace):
    write("cfg/a.yaml")
    done = command("--cfg", "cfg", "--dry-run")
    assert done.returncode == 0
    assert "work left: 1 run, 8 samples" in done.stdout
    assert sorted(p.name for p in workspace.iterdir()) == ["cfg"]


@pytest.mark.parametrize("script", ["eval.py", "scripts/run_external.py"])
def test_a_dry_run_whose_reader_has_gone_says_nothing(workspace, script):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, REPOSITORY / script, "--cfg", REPOSITORY / "cfg/demo", "--dry-run"]
    done = subprocess.run(command, cwd=workspace, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_killed_and_resumed_at_the_first_missing_sample(write, command):
    write("cfg/a.yaml")
    write("cfg/b.yaml")
    killed = command("--cfg", "cfg", "--branches", "1", TOY_DIE_AFTER="11")
    assert killed.returncode == -signal.SIGKILL
    assert [row["index"] for row in lines("a")] == list(range(8))
    assert [row["index"] for row in lines("b")] == [0, 1, 2]
    assert not Path("results/b/metrics.json").exists()
    kept = Path("results/b/predictions.jsonl").read_bytes()
    plan = command("--cfg", "cfg", "--dry-run")
    assert "2 runs: 1 done, 1 partial (3 predictions kept), 0 to do" in plan.stdout
    assert "work left: 1 run, 5 samples" in plan.stdout
    resumed = command("--cfg", "cfg", TOY_DIE_AFTER="5")  # would die if more than five were asked for
    assert resumed.returncode == 0, resumed.stderr
    assert Path("results/b/predictions.jsonl").read_bytes().startswith(kept)
    assert [row["index"] for row in lines("b")] == list(range(8))
    assert len(json.loads(Path("results/b/environment.json").read_text())["sessions"]) == 2


def test_runs_that_are_answered_together_are_killed_and_resumed_sample_by_sample(write, command):
    write("cfg/a.yaml")
    assert command("--cfg", "cfg", "--limit", "2").returncode == 0
    for name in ("b", "c"):
        write(f"cfg/{name}.yaml")
    assert command("--cfg", "cfg", TOY_DIE_AFTER="4").returncode == -signal.SIGKILL
    assert {len(lines(name)) for name in "abc"} == {4}  # a was two samples ahead
    assert [row["branches"] for row in lines("a")] == [1, 1, 3, 3]
    assert [row["branches"] for row in lines("b")] == [2, 2, 3, 3]
    resumed = command("--cfg", "cfg", TOY_DIE_AFTER="4")
    assert resumed.returncode == 0, resumed.stderr
    for name in "abc":
        assert [(row["index"], row["prediction"]) for row in lines(name)] == [(i, str(i)) for i in range(8)]
        assert json.loads(Path(f"results/{name}/metrics.json").read_text())["branches"] == 3
        assert not Path(f"results/{name}/.lock").exists()


def test_killed_again_and_again_at_any_moment(write, workspace):
    write("cfg/a.yaml")
    for wait in (0.0, 0.02, 0.04, 0.06):
        process = subprocess.Popen(
            [sys.executable, TOY, "--cfg", "cfg"],
            cwd=workspace,
            env=os.environ | {"TOY_SLEEP": "0.02"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        seen = len(lines()) if Path("results/a/predictions.jsonl").exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            path = Path("results/a/predictions.jsonl")
            if path.exists() and path.read_bytes().count(b"\n") > seen:
                break
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
    assert len(lines()) >= 4
    assert [row["index"] for row in lines()] == list(range(len(lines())))


def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(write, command):
    write("cfg/a.yaml")
    done = command("--cfg", "cfg", TOY_DIE_AFTER="3", TOY_SIGNAL="SIGINT")
    assert done.returncode == 130
    assert "Run the same command to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines()) == 3
    assert not Path("results/a/.lock").exists()


def test_failed_samples_make_the_exit_code(write, command):
    write("cfg/a.yaml")
    write("cfg/b.yaml")
    done = command("--cfg", "cfg", TOY_FAIL="3")
    assert done.returncode == 1
    assert "results/a, results/b: 1 of 8 samples failed, the first with: RuntimeError: out of toys" in done.stderr
    assert "Missing: 2 runs" in done.stdout
    assert command("--cfg", "cfg").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cfg", "nope/*.yaml"], "--cfg: nope/*.yaml: matches no .yaml file"),
        (["--cfg", "cfg", "--set", "datset.task=add"], "--set: datset.task: unknown key. Did you mean 'dataset'?"),
        (["--cfg", "cfg", "--set", "dataset.task=mul"], "--set: dataset.task: 'mul' is not one of add, sub"),
        (["--cfg", "bad"], "bad/a.yaml: sparse_config: missing"),
        (["--cfg", "cfg", "--limit", "0"], "must be a whole number of at least 1"),
        (["--cfg", "cfg", "--branches", "0"], "must be a whole number of at least 1"),
        (["--cfg", "cfg", "--branches", "1000"], "must be at most 256, not 1000"),
    ],
)
def test_bad_input_is_told_without_a_traceback(write, command, arguments, expected):
    write("cfg/a.yaml")
    write("bad/a.yaml", sparse_config=None)
    done = command(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("results").exists()


def test_other_results_in_the_folder_are_left_alone(write, command):
    write("cfg/a.yaml")
    assert command("--cfg", "cfg").returncode == 0
    before = Path("results/a/predictions.jsonl").read_bytes()
    done = command("--cfg", "cfg", "--set", "sparse_config.window_size=8")
    assert done.returncode == 2
    assert "sparse_config.window_size: 16 there, 8 here" in done.stderr
    assert Path("results/a/predictions.jsonl").read_bytes() == before
    assert command("--cfg", "cfg", "--set", "sparse_config.window_size=8", "--output", "other").returncode == 0
    assert command("--cfg", "cfg", "--set", "sparse_config.window_size=8", "--overwrite").returncode == 0
    assert Path("results/a/predictions.jsonl").read_bytes() != before


def test_a_broken_line_stops_the_sweep_before_it_starts(write, command):
    write("cfg/a.yaml")
    assert command("--cfg", "cfg", "--limit", "4").returncode == 0
    path = Path("results/a/predictions.jsonl")
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], "oops", *rows[2:], ""]))
    done = command("--cfg", "cfg")
    assert done.returncode == 2
    assert "results/a/predictions.jsonl: line 2: not a row of predictions. Delete that line" in done.stderr
    assert command("--cfg", "cfg", "--limit", "4").returncode == 2  # although that much was done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_and_what_was_written_stays(write, command):
    write("cfg/a.yaml")
    assert command("--cfg", "cfg", "--limit", "4").returncode == 0
    Path("results/a/environment.json").unlink()
    Path("results/a/.environment.json.tmp").symlink_to("/dev/full")
    done = command("--cfg", "cfg")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines()) == 4


def test_help_works_without_the_heavy_imports(command):
    done = command("--help", script=str(REPOSITORY / "eval.py"))
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
