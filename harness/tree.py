"""A finished results tree -> results, from the run folders alone: no configuration tree, no model, no data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from data import get_benchmark
from data.benchmark import PROTOCOLS
from harness.config import read_yaml, show
from harness.errors import Problem, UserError
from harness.results import CONFIG, METRICS, PREDICTIONS, ResultsError, RunFolder
from harness.summary import Result, make_result


def read_tree(roots: Sequence[Path], methods: Collection[str] = ()) -> tuple[list[Result], list[Problem]]:
    """The finished runs below `roots`, and why the others are not among them.

    methods: only these (`sparse_type`); empty for all. Raises UserError for a root without runs, or an unknown method.
    """
    runs: dict[tuple, list[tuple[Result, Path]]] = {}
    problems, seen = [], set()
    for path in _folders(roots):
        try:
            resolved = _config(path / CONFIG)
            method = resolved["sparse_config"]["sparse_type"]
            seen.add(method)
            if not methods or method in methods:
                result = _read_run(path, resolved)
                runs.setdefault(tuple(sorted(result.options)), []).append((result, path))
        except ResultsError as error:
            where, _, text = str(error).partition(": ")
            problems.append(Problem(where, "", text))
    if unknown := sorted(set(methods) - seen):
        raise UserError(f"--methods: no runs of {', '.join(unknown)}. There are {', '.join(sorted(seen))}")
    results = []
    for same in runs.values():
        (kept, place), *others = sorted(same, key=lambda run: -len(run[0].scores))
        results.append(kept)
        for other, path in others:
            text = f"left out: it has {len(other.scores)} samples of a run that has {len(kept.scores)} in {show(place)}"
            problems.append(Problem(show(path), "", text))
    return results, problems


def _folders(roots: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for root in roots:
        below = sorted(path.parent.resolve() for path in root.rglob(CONFIG))
        if not below:
            raise UserError(f"{root}: no runs ({CONFIG}) below. Give folders that eval.py wrote, such as results/demo")
        found |= dict.fromkeys(below)
    return list(found)


def _config(path: Path) -> dict:
    """A run's resolved configuration, with what a result needs. Raises ResultsError."""
    remedy = "Delete the folder, or rerun it with eval.py --overwrite"
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
        tasks = get_benchmark(tree["dataset"]["dataset_name"]).short_names()
        if (task := tree["dataset"].get("task")) not in tasks:
            raise ValueError(f"dataset.task: {task!r} is not one of {', '.join(tasks)}")
        tree["sparse_config"]["sparse_type"]
        (tree.get("target_model") or tree["draft_model"])["model_name_or_path"]
        if tree["protocol"] not in PROTOCOLS:
            raise ValueError(f"protocol: {tree['protocol']!r} is not one of {', '.join(PROTOCOLS)}")
    except OSError as error:
        raise ResultsError(f"{show(path)}: cannot be read: {error.strerror}") from error
    except (TypeError, KeyError) as error:
        raise ResultsError(f"{show(path)}: not a run's configuration ({error} is missing). {remedy}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ResultsError(f"{show(path)}: {' '.join(str(error).split())}. {remedy}") from error
    return tree


def _read_run(path: Path, resolved: dict) -> Result:
    """A finished run: the samples that its metrics.json counts. Raises ResultsError where it is not finished."""
    folder = RunFolder(Path(show(path)))  # which its messages name
    metrics, rows = folder.metrics(), [row for row in folder.rows() if row["error"] is None]
    again = "Run it again: eval.py goes on where it stopped"
    if metrics is None:
        raise ResultsError(f"{show(path)}: not finished: {len(rows)} samples are answered, no {METRICS}. {again}")
    rows = [row for row in rows if row["fingerprint"] == metrics.get("fingerprint")][: metrics.get("n", 0)]
    if not rows or len(rows) < metrics["n"]:
        text = f"{METRICS} counts {metrics.get('n')} samples, {PREDICTIONS} has {len(rows)} of them. {again}"
        raise ResultsError(f"{show(path)}: {text}")
    try:
        simulated = metrics.get("memory") == "simulated"
        return replace(make_result(resolved, rows, metrics, simulated, metrics.get("subset")), folder=path)
    except KeyError as error:
        raise ResultsError(f"{show(path / PREDICTIONS)}: a row without {error}. {again}") from error
