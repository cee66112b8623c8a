"""A run's folder: durability, resuming, and what is refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from harness import results
from harness.results import ResultsError, RunFolder, RunWriter, Status, StorageError, write_atomically

BASIS = {"sparse_config": {"window_size": 8}}


def row(index: int, error: str | None = None) -> dict:
    return {"index": index, "prediction": f"text {index}", "error": error}


def writer(path: Path, fingerprint: str = "f1", **options) -> RunWriter:
    return RunWriter(path, fingerprint, {"protocol": "official"}, BASIS, **options)


@pytest.fixture
def folder(tmp_path):
    """A folder with three finished samples and no metrics."""
    path = tmp_path / "results" / "run"
    with writer(path) as out:
        for index in range(3):
            out.append(row(index))
    return path


def test_rows_survive_and_the_folder_explains_itself(folder):
    assert [r["prediction"] for r in RunFolder(folder).rows()] == ["text 0", "text 1", "text 2"]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"protocol": "official"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["fingerprint"] == "f1"
    session = environment["sessions"][0]
    assert {"python", "torch", "transformers", "devices", "commit", "dirty", "command", "started"} <= session.keys()
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "environment.json", "predictions.jsonl"]


def test_each_row_is_on_disk_before_the_next_is_asked_for(tmp_path):
    with writer(tmp_path) as out:
        for index in range(3):
            out.append(row(index))
            assert len((tmp_path / "predictions.jsonl").read_bytes().splitlines()) == index + 1


def test_what_was_kept_is_there_for_every_row_and_once(tmp_path):
    record = {"pieces": ["a\u2028", "\ud800"], "share": [0, 100]}
    with writer(tmp_path) as out:
        for index in range(2):
            out.append(row(index), {"index": index} | record)
    path = tmp_path / "kept.jsonl"
    whole = path.read_text()
    assert RunFolder(tmp_path).kept() == {index: {"index": index} | record for index in range(2)}
    # killed after a record and in the middle of the next, before their rows
    path.write_text(whole + json.dumps({"index": 2} | record) + "\n" + '{"index": 3, "pie')
    with writer(tmp_path) as out:
        assert path.read_text() == whole
        out.append(row(2), {"index": 2} | record)
        out.append(row(3))
    assert list(RunFolder(tmp_path).kept()) == [0, 1, 2]
    with writer(tmp_path, overwrite=True):
        assert not path.exists()


def test_text_with_odd_characters_stays_one_line(tmp_path):
    text = "a\u2028b\nc\r\x85\ud800"
    with writer(tmp_path) as out:
        out.append(row(0) | {"prediction": text})
    assert RunFolder(tmp_path).rows()[0]["prediction"] == text


def test_a_line_cut_off_in_mid_write_is_dropped_and_done_again(folder):
    path = folder / "predictions.jsonl"
    whole = path.read_bytes()
    for cut in (1, 10, len(whole.splitlines()[-1])):  # the last one leaves a good line without its end
        path.write_bytes(whole[:-cut])
        assert [r["index"] for r in RunFolder(folder).rows()] == [0, 1]
        with writer(folder) as out:
            assert sorted(out.good) == [0, 1]
            out.append(row(2))
        assert [r["index"] for r in map(json.loads, path.read_text().splitlines())] == [0, 1, 2]


@pytest.mark.parametrize("bad", ["{broken", '{"index": 1}', "[]", "", "\x00\x00"])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_touched(folder, bad):
    path = folder / "predictions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], bad, lines[2], ""]))
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=r"predictions.jsonl: line 2: .*Delete that line .* --overwrite"):
        RunFolder(folder).rows()
    with pytest.raises(ResultsError, match="line 2"), writer(folder):
        pass
    assert path.read_bytes() == before


def test_a_sample_cannot_be_there_twice(folder):
    with writer(folder) as out, pytest.raises(ValueError, match="sample 1 is already in"):
        out.append(row(1))
    path = folder / "predictions.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ResultsError, match="line 4: sample 0 is there already"):
        RunFolder(folder).rows()


def test_failed_samples_are_kept_until_the_next_invocation_and_then_done_again(folder):
    with writer(folder) as out:
        out.append(row(3, error="out of memory"))
    assert RunFolder(folder).rows()[3]["error"] == "out of memory"
    assert RunFolder(folder).state("f1", None, BASIS).rows == 3
    with writer(folder) as out:
        assert sorted(out.good) == [0, 1, 2]
        out.append(row(3))
    assert [r["error"] for r in RunFolder(folder).rows()] == [None] * 4


def test_states(folder):
    def status(fingerprint="f1"):
        return RunFolder(folder).state(fingerprint, None, BASIS).status

    assert RunFolder(folder / "none").state("f1", None, BASIS).status is Status.EMPTY
    assert status() is Status.PARTIAL
    assert status("f2") is Status.CONFLICT
    with writer(folder) as out:
        out.finish({"n": 3, "exhausted": True})
    assert status() is Status.DONE
    assert status("f2") is Status.CONFLICT


def test_another_configuration_does_not_get_in(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = RunWriter(folder, "f2", {}, {"sparse_config": {"window_size": 16}})
    with (
        pytest.raises(ResultsError, match=r"3 predictions of another .*window_size: 8 there, 16 here.*--overwrite"),
        other,
    ):
        pass
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with writer(folder, "f2", overwrite=True) as out:
        assert not out.good
    assert RunFolder(folder).rows() == []


def test_overwriting_leaves_other_files_alone(folder):
    (folder / "notes.txt").write_text("mine")
    with writer(folder, overwrite=True):
        pass
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_broken_metrics_are_named(folder, content):
    (folder / "metrics.json").write_text(content)
    with pytest.raises(ResultsError, match=r"metrics.json: not .*Delete it"):
        RunFolder(folder).state("f1", None, BASIS)


def test_a_full_disk_leaves_whole_lines_and_says_how_to_go_on(folder, monkeypatch):
    path = folder / "predictions.jsonl"
    before = path.read_bytes()
    write = os.write

    def full_disk(fd, data):
        if len(data) > 20:
            return write(fd, data[:20])  # the disk takes the beginning, as a real one does …
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with writer(folder) as out:
        monkeypatch.setattr(results.os, "write", full_disk)
        with pytest.raises(StorageError, match=r"No space left on device.*run the same command again"):
            out.append({"index": 3, "error": None, "prediction": ""})
        monkeypatch.undo()
        assert path.read_bytes() == before
        out.append(row(3))
    assert len(RunFolder(folder).rows()) == 4


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")

    def full_disk(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results.os, "fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(StorageError, match="results/run: cannot be written"), writer(tmp_path / "results" / "run"):
        pass


def _hold(path, ready, go):
    with writer(path):
        ready.set()
        go.wait(20)


def test_two_processes_cannot_write_one_folder_and_a_dead_one_is_no_obstacle(folder):
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(folder, ready, go))
    process.start()
    assert ready.wait(20)
    with pytest.raises(ResultsError, match=rf"another process \(pid {process.pid} on .*--output"), writer(folder):
        pass
    process.kill()
    process.join()
    assert (folder / ".lock").exists()
    with writer(folder) as out:
        assert len(out.good) == 3
    assert not (folder / ".lock").exists()


def test_the_lock_is_freed_when_the_folder_is_refused(folder):
    with pytest.raises(ResultsError, match="another configuration"), writer(folder, "f2"):
        pass
    with writer(folder):
        pass
