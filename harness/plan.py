"""Patterns -> runs -> groups: what there is to do, what is done, and what shares a model pair and a data set."""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from data import get_benchmark
from data.benchmark import Benchmark
from harness.config import REPOSITORY, ConfigReader, ModelSpec, RunConfig, local_folder, show
from harness.errors import Problem, ProblemsError
from harness.metrics import subset_label
from harness.results import CONFIG, ResultsError, RunFolder, State, Status, canonical, conflict_message

# How a run is executed, not what it computes: these may change between the two halves of a run. (The data set is
# there as the benchmark's identity.)
NOT_IN_FINGERPRINT = ("wandb", "batch_size", "dataset")
NOT_IN_FINGERPRINT_OF_MODELS = ("device",)


BRANCHES = 32
"""Runs that read a sample together, unless told otherwise."""


@dataclass(frozen=True)
class Run:
    """One leaf with its place under the output folder."""

    name: str
    config: RunConfig
    folder: Path

    @cached_property
    def benchmark(self) -> Benchmark:
        return get_benchmark(self.config.dataset["dataset_name"])

    @cached_property
    def identity(self) -> dict:
        """What determines the samples, given the tokenizer."""
        return self.benchmark.identity(self.config.dataset, self.config.protocol)

    @cached_property
    def basis(self) -> dict:
        """All that determines the predictions: what the fingerprint is made from."""
        tree = {key: value for key, value in self.config.resolved.items() if key not in NOT_IN_FINGERPRINT}
        for section in ("target_model", "draft_model"):
            if section in tree:
                model = {k: v for k, v in tree[section].items() if k not in NOT_IN_FINGERPRINT_OF_MODELS}
                tree[section] = model | {"files": folder_digest(local_folder(model["model_name_or_path"]))}
        method = self.config.method
        files = {name: folder_digest(local_folder(getattr(method, name))) for name in method.model_settings}
        if any(files.values()):
            tree["files_of_settings"] = files
        # More samples are the same ones and others after them: asking for more goes on, it does not begin again.
        return tree | {"benchmark": {key: value for key, value in self.identity.items() if key != "num_samples"}}

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(canonical(self.basis).encode()).hexdigest()[:16]

    @property
    def data_key(self) -> tuple[str, str]:
        """Runs with equal keys are given the same samples."""
        return canonical(self.identity), self.config.tokenizer_spec.tokenizer_source

    @property
    def rows(self) -> int | None:
        """How many samples the config asks for, where that is known before the data are read."""
        return self.identity.get("num_samples", self.config.dataset.get("num_samples"))

    def asked(self, limit: int | None) -> int | None:
        """How many samples are to be done, where that is known before the data are read; `limit` is the sweep's."""
        counts = [n for n in (limit, self.rows) if n is not None]
        return min(counts) if counts else None

    @property
    def full_size(self) -> int | None:
        """Rows of the published data set, where the benchmark says; a mean over fewer is labelled."""
        return self.benchmark.full_size(self.config.dataset) or self.rows

    def subset(self, n: int, exhausted: bool) -> str | None:
        """What a mean over the run's first n samples is labelled with; `exhausted`: there are no more."""
        return subset_label(n, exhausted, self.full_size, self.identity.get("shuffle_seed"))


@dataclass
class DataGroup:
    """Runs of one model pair over one data set; the samples are rendered once for all of them."""

    runs: list[Run] = field(default_factory=list)


@dataclass
class PairGroup:
    """Runs of one model pair, which is loaded once for all of them."""

    target: ModelSpec | None
    draft: ModelSpec | None
    data: list[DataGroup] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.data for run in group.runs]

    @property
    def label(self) -> str:
        models = [f"{role} {spec.label}" for role, spec in (("target", self.target), ("draft", self.draft)) if spec]
        spec = self.target or self.draft
        return f"{', '.join(models)} ({spec.dtype}, {spec.attn_implementation})"


@dataclass
class Plan:
    """A sweep: every run, how far it is, and the groups in which they are executed."""

    runs: list[Run]
    states: dict[str, State]
    """By run name."""
    groups: list[PairGroup]
    limit: int | None
    skipped: list[Path]
    """Files that are only bases of others."""
    branches: int = BRANCHES
    """The most runs that read a sample together."""

    def to_do(self, run: Run) -> bool:
        """Whether eval.py has something to do for the run."""
        return self.states[run.name].status is not Status.DONE and not run.config.external

    def unfinished(self) -> list[Run]:
        """The runs that eval.py has something to do for."""
        return [run for run in self.runs if self.to_do(run)]

    def left_to_tools(self) -> list[Run]:
        """The unfinished runs whose answers come from another tool."""
        return [run for run in self.runs if run.config.external and self.states[run.name].status is not Status.DONE]

    def samples_left(self, run: Run) -> int | None:
        """Samples still to do, or None if that is known only once the data are read."""
        state = self.states[run.name]
        if state.status is Status.DONE:
            return 0
        asked = run.asked(self.limit)
        return None if asked is None else max(0, asked - state.rows)


def make_plan(
    patterns: Sequence[str],
    overrides: Mapping[str, Any],
    output: Path,
    limit: int | None = None,
    overwrite: bool = False,
    branches: int = BRANCHES,
) -> Plan:
    """Expand, read, check and group; no model is touched. Raises ProblemsError with everything that is wrong."""
    files, problems = expand(patterns)
    reader = ConfigReader(overrides)
    trees: dict[Path, dict] = {}
    for path in files:
        if path.name.startswith("_"):
            continue
        try:
            trees[path] = reader.merged(path)
        except ProblemsError as exc:
            problems += exc.problems
    leaves = dict.fromkeys(path for path, tree in trees.items() if not _only_a_base(path, tree, reader))
    runs: dict[str, Run] = {}
    for path in leaves:
        try:
            config = reader.leaf(path)
        except ProblemsError as exc:
            problems += exc.problems
            continue
        name = run_name(path, output)
        if name in runs:
            other = show(runs[name].config.path)
            problems.append(Problem(show(path), "", f"would share the results folder of {other}. Rename one of them"))
        runs[name] = Run(name, config, output / name)
    skipped = [path for path in files if path not in leaves]
    if files and not leaves and not problems:
        text = "no runs, only bases (files named _*.yaml, or without dataset: and sparse_config:). Name the leaves"
        problems.append(Problem("--cfg", ", ".join(patterns), text))

    states: dict[str, State] = {}
    for name, run in runs.items():
        states[name] = State(Status.EMPTY)
        if overwrite:
            continue
        try:
            state = RunFolder(run.folder).state(run.fingerprint, run.asked(limit), run.basis)
        except ResultsError as exc:
            where, _, text = str(exc).partition(": ")
            problems.append(Problem(where, "", text))
            continue
        states[name] = state
        if state.status is Status.CONFLICT:
            where, _, text = conflict_message(run.folder, state).partition(": ")
            problems.append(Problem(where, "", text))
    if problems:
        raise ProblemsError(problems)
    return Plan(list(runs.values()), states, group(runs.values()), limit, skipped, branches)


def expand(patterns: Sequence[str]) -> tuple[list[Path], list[Problem]]:
    """Files, folders (all the .yaml below) and globs (`**`, `{a,b}`) -> files in order, each once; what is wrong."""
    found: dict[Path, None] = {}
    problems = []
    for pattern in patterns:
        matches: list[Path] = []
        for name in [pattern] if Path(pattern).exists() else _braces(pattern):
            paths = [Path(name)] if Path(name).exists() else [Path(p) for p in sorted(glob.glob(name, recursive=True))]
            for path in paths:
                below = sorted(itertools.chain(path.rglob("*.yaml"), path.rglob("*.yml"))) if path.is_dir() else [path]
                matches += [p for p in below if p.is_file() and p.suffix in (".yaml", ".yml")]
        if not matches:
            text = "matches no .yaml file. Check the path; it is relative to the working directory"
            problems.append(Problem("--cfg", pattern, text))
        found |= dict.fromkeys(path.resolve() for path in matches)
    return list(found), problems


def _braces(pattern: str) -> list[str]:
    """`a/{b,c}/d` -> `a/b/d`, `a/c/d`, as a shell does with an unquoted pattern."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [whole for choice in match[1].split(",") for whole in _braces(before + choice + after)]


def _only_a_base(path: Path, tree: Mapping[str, Any], reader: ConfigReader) -> bool:
    """Whether a file is no run of its own. A leaf that has lost a section is a mistake to report, not a base."""
    missing = [key for key in ("dataset", "sparse_config") if not tree.get(key)]
    incomplete = bool(missing) or "task" not in tree["dataset"]
    return len(missing) == 2 or (incomplete and path in reader.bases)


def run_name(path: Path, output: Path | None = None) -> str:
    """The config's path below cfg/ (else below the working directory, else from the root), without its suffix.

    A config.yaml that a run left in the output folder is that run again.
    """
    path = path.resolve()
    if output and path.name == CONFIG and path.is_relative_to(output.resolve()):
        return path.parent.relative_to(output.resolve()).as_posix()
    for root in (Path.cwd() / "cfg", REPOSITORY / "cfg", Path.cwd()):
        if path.is_relative_to(root):
            relative = path.relative_to(root)
            break
    else:
        relative = path.relative_to(path.anchor)
    return "/".join(re.sub(r"[^\w.=+,-]", "_", part) for part in relative.with_suffix("").parts)


def group(runs: Sequence[Run]) -> list[PairGroup]:
    """Runs by model pair, then by data set, in order of appearance. A run without a draft joins its target's pair."""
    pairs: dict[tuple, PairGroup] = {}
    for run in runs:
        if run.config.draft:
            pairs.setdefault((run.config.target, run.config.draft), PairGroup(run.config.target, run.config.draft))
    groups: dict[int, dict[tuple, DataGroup]] = {}
    for run in runs:
        config = run.config
        if config.draft:
            pair = pairs[config.target, config.draft]
        else:
            pair = next((p for p in pairs.values() if p.target == config.target), None)
            pair = pair or pairs.setdefault((config.target, None), PairGroup(config.target, None))
        data = groups.setdefault(id(pair), {})
        if run.data_key not in data:
            data[run.data_key] = DataGroup()
            pair.data.append(data[run.data_key])
        data[run.data_key].runs.append(run)
    return list(pairs.values())


def chunks(runs: Sequence[Run], branches: int) -> list[list[Run]]:
    """Runs of one data group -> those that read its samples together: at most `branches`, all with one reader and
    one batch size. Runs with equal prefills stand side by side, and in one chunk as far as they fit."""
    alike: dict[tuple, dict[tuple, list[Run]]] = {}
    for run in runs:
        config = run.config
        prefills = alike.setdefault((config.reader, config.tokenizer_spec, config.batch_size), {})
        prefills.setdefault(config.prefill_key, []).append(run)
    result = []
    for prefills in alike.values():
        found: list[list[Run]] = []
        for members in prefills.values():
            for start in range(0, len(members), branches):
                part = members[start : start + branches]
                chunk = next((chunk for chunk in found if len(chunk) + len(part) <= branches), None)
                if chunk is None:
                    found.append(chunk := [])
                chunk += part
        result += found
    return result


@cache
def folder_digest(folder: Path | None) -> str | None:
    """Tells a retrained checkpoint from the one before at its path: sizes, beginnings and ends of its files."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json", ".jinja")):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1 << 20)
            file.seek(max(0, size - (1 << 20)))
            digest.update(f"{path.name} {size}".encode() + head + file.read())
    return digest.hexdigest()[:16]
