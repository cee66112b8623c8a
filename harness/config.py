"""YAML files -> validated runs.

A leaf holds `target_model`, `draft_model`, `dataset`, `sparse_config` (the published schema) and, optionally,
`protocol`, `batch_size`, `wandb` and `base`: parent files, relative to the file, merged left to right, the child last.
A leaf of the reference implementation (furiosa-ai/draft-based-approx-llm) runs unchanged: see `normalise`.
Nothing here imports torch: a thousand leaves are read and checked in seconds.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import baselines
from data import get_benchmark
from data.benchmark import PROTOCOLS
from draft_approx_llm.configs import MethodConfig, config_from_dict
from harness.errors import Problem, ProblemsError, nearest

REPOSITORY = Path(__file__).resolve().parents[1]
TOP_KEYS = ("base", "target_model", "draft_model", "dataset", "sparse_config", "protocol", "batch_size", "wandb")
SECTIONS = ("target_model", "draft_model", "dataset", "sparse_config", "wandb")
WANDB_KEYS = ("project", "entity", "mode", "tags", "group", "predictions", "artifact")
WANDB_MODES = ("online", "offline", "disabled")
DTYPES = ("auto", "bfloat16", "float16", "float32")
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")

# The reference implementation's spellings, for `normalise`: {section: {its key: ours}}, {dataset key: values that
# change nothing}, {lower-case dataset_name: ours}
RENAMED = {
    "target_model": {"torch_dtype": "dtype", "device_map": "device"},
    "draft_model": {"torch_dtype": "dtype", "device_map": "device"},
    "dataset": {"random_seed": "seed"},
}
WITHOUT_EFFECT = {
    "split": ("test", "val", "validation", None),
    "overwrite": (False, None),
    "benchmark": ("synthetic", None),
    "benchmark_config": ("synthetic", None),
}
DATASET_NAMES = {"thudm/longbench": "longbench"}


@dataclass(frozen=True)
class ModelSpec:
    """How to load one model. Equal specs share one loaded model."""

    model_name_or_path: str
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    device: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer, where it is not the model's own."""

    @property
    def source(self) -> str:
        """What `from_pretrained` gets: a folder, if there is one of that name, else the hub name."""
        return _source(self.model_name_or_path)

    @property
    def tokenizer_source(self) -> str:
        """What `AutoTokenizer.from_pretrained` gets."""
        return _source(self.tokenizer or self.model_name_or_path)

    @property
    def label(self) -> str:
        """A short name for tables."""
        return self.model_name_or_path.rstrip("/")


MODEL_KEYS = tuple(f.name for f in dataclasses.fields(ModelSpec))


@dataclass(frozen=True)
class RunConfig:
    """One validated leaf."""

    path: Path
    target: ModelSpec | None
    """None only for `draft_only` without a target."""
    draft: ModelSpec | None
    """None where the method needs no draft."""
    dataset: dict
    sparse_type: str
    """The YAML's own, so `draft_only` where `method` is `full`."""
    method: Any
    """What `patch_model` gets: a config object of the library."""
    protocol: str
    batch_size: int
    wandb: dict
    resolved: dict = field(repr=False)
    """The whole configuration as plain data, bases merged and the method's defaults filled in."""

    @property
    def reader(self) -> ModelSpec:
        """The model that answers: the target, or under `draft_only` the draft."""
        # validated: the one that answers is there
        return self.draft if self.sparse_type == "draft_only" else self.target

    @property
    def helper(self) -> ModelSpec | None:
        """The draft that `patch_model` gets, if the method needs one."""
        return None if self.sparse_type == "draft_only" else self.draft

    @property
    def prefill_key(self) -> tuple[Hashable, ...]:
        """What the reader prefills: in words, and what else decides about it. Runs of one reader and key share it."""
        return self.method.prefill_key

    @property
    def external(self) -> bool:
        """Whether the answers come from another tool (scripts/run_external.py), not from eval.py."""
        return getattr(self.method, "external", False)

    @property
    def simulated(self) -> bool:
        """Whether what the method drops stays in memory, so that its cache figures are what it would save."""
        return getattr(self.method, "simulated", False)

    @property
    def tokenizer_spec(self) -> ModelSpec:
        """Whose tokenizer renders the data: the target's, so that `draft_only` answers the same prompts."""
        return self.target or self.reader


def local_folder(name: str) -> Path | None:
    """The folder that a model path means, below the working directory or the repository, or None for a hub name."""
    for root in (Path.cwd(), REPOSITORY):
        if (root / name).is_dir():
            return root / name
    return None


def _source(name: str) -> str:
    # as it was written where possible: RULER's files are filed under the tokenizer's name
    return name if Path(name).is_dir() else str(local_folder(name) or name)


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> {dotted key: value}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML that refuses a key written twice (YAML itself would silently take the last)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    problem = f"key {key!r} is written twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Parse YAML safely. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def normalise(tree: dict) -> dict[str, str]:
    """Rewrite the reference implementation's spellings in place; returns {dotted key: why it cannot be rewritten}.

    It is applied to every file and every `--set` before anything else looks at them, so that equal runs have equal
    fingerprints:
    - models: `torch_dtype` is `dtype`, `device_map` is `device`;
    - dataset: `dataset_name` in any case, `THUDM/LongBench` for `longbench`; `random_seed` is `seed`; `split`,
      `overwrite`, `benchmark` and `benchmark_config` are left out at their usual values, and refused at others;
    - sparse_config: `pool_type: avg` is `mean`.
    """
    problems = {}
    sections = {name: value for name, value in tree.items() if isinstance(value, dict)}
    for section, names in RENAMED.items():
        values = sections.get(section, {})
        for theirs, ours in names.items():
            if theirs in values and ours in values:
                problems[f"{section}.{theirs}"] = f"is another name of {ours}, which is there too. Keep one of them"
            elif theirs in values:
                values[ours] = values.pop(theirs)
    dataset = sections.get("dataset", {})
    for key, usual in WITHOUT_EFFECT.items():
        if key in dataset:
            value = dataset.pop(key)
            if value not in usual:
                problems[f"dataset.{key}"] = f"{value!r} is not possible here. Leave the key out"
    if isinstance(name := dataset.get("dataset_name"), str):
        dataset["dataset_name"] = DATASET_NAMES.get(name.lower(), name.lower())
    sparse = sections.get("sparse_config", {})
    for values in (sparse, *(value for value in sparse.values() if isinstance(value, dict))):
        if values.get("pool_type") == "avg":
            values["pool_type"] = "mean"
    return problems


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """`key.path=value` strings -> {dotted key: YAML value}. Raises ProblemsError for keys that cannot exist."""
    overrides, problems = {}, []
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        parts = key.split(".")
        if not equals or not all(parts):
            problems.append(Problem("--set", item, "write it as key.path=value, for example dataset.seq_len=2048"))
            continue
        try:
            value = read_yaml(text)
        except yaml.YAMLError:
            problems.append(Problem("--set", key, f"{text!r} is not valid YAML. Quote it"))
            continue
        ours, value, wrong = _normalise_override(parts, value)
        problems += [Problem("--set", dotted, why) for dotted, why in wrong.items()]
        if len(ours) < len(parts):
            continue  # left out: it has no effect here
        parts, key = ours, ".".join(ours)
        if parts[0] == "base":
            problems.append(Problem("--set", key, "bases belong in the file. Write a small leaf with `base:` instead"))
        elif parts[0] not in TOP_KEYS:
            problems.append(_unknown_top("--set", key, parts[0]))
        elif len(parts) > 1 and parts[0] not in SECTIONS:
            problems.append(Problem("--set", key, f"{parts[0]} is a single value. Write {parts[0]}=…"))
        elif len(parts) > 1 and parts[1] not in (valid := _section_keys(parts[0]) or (parts[1],)):
            problems.append(_unknown("--set", key, parts[1], valid))
        else:
            overrides[key] = value
    if problems:
        raise ProblemsError(problems)
    return overrides


def _normalise_override(parts: list[str], value: Any) -> tuple[list[str], Any, dict[str, str]]:
    """`normalise` for one `--set`: (parts of the key, value, problems). A key that is left out loses its last part."""
    tree = value
    for part in reversed(parts):
        tree = {part: tree}
    problems = normalise(tree)
    names: list[str] = []
    while len(names) < len(parts) and tree:
        ((name, tree),) = tree.items()
        names.append(name)
    return names, tree, problems


class ConfigReader:
    """Reads leaves, each file parsed once however many leaves stand on it."""

    def __init__(self, overrides: Mapping[str, Any] | None = None):
        self.overrides = dict(overrides or {})
        self.bases: set[Path] = set()
        """Files that another file names as its base."""
        self._merged: dict[Path, tuple[dict, dict[str, str]]] = {}

    def merged(self, path: Path) -> dict:
        """The file on top of its bases, `--set` not yet applied; not to be changed. Raises ProblemsError."""
        return self._read(path.resolve(), ())[0]

    def leaf(self, path: Path) -> RunConfig:
        """One leaf, validated. Raises ProblemsError with everything that is wrong with it."""
        tree, origins = self._read(path.resolve(), ())
        tree, origins = copy.deepcopy(tree), dict(origins)
        for key, value in self.overrides.items():
            *parents, last = key.split(".")
            node = tree
            for depth, parent in enumerate(parents):
                if node.get(parent) is None:
                    node[parent] = {}
                node = node[parent]
                if not isinstance(node, dict):
                    dotted = ".".join(parents[: depth + 1])
                    raise ProblemsError([Problem("--set", key, f"{dotted} is a single value, it has no keys")])
            node[last] = value
            origins[key] = "--set"
        return _validate(path, tree, origins)

    def _read(self, path: Path, chain: tuple[Path, ...]) -> tuple[dict, dict[str, str]]:
        """(merged tree, {dotted key: the file it comes from})."""
        if path in chain:
            names = " -> ".join(show(p) for p in (*chain[chain.index(path) :], path))
            text = f"the files stand on each other: {names}. Break the circle"
            raise ProblemsError([Problem(show(chain[-1]), "base", text)])
        if path not in self._merged:
            raw = _load_mapping(path)
            parents = raw.pop("base", None) or []
            parents = [parents] if isinstance(parents, str) else parents
            if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
                raise ProblemsError([Problem(show(path), "base", "must be a file name or a list of them")])
            tree: dict = {}
            origins: dict[str, str] = {}
            for name in parents:
                parent = (path.parent / name).resolve()
                if not parent.is_file():
                    text = f"no such file: {name} (looked for {show(parent)}). It is relative to the file that names it"
                    raise ProblemsError([Problem(show(path), "base", text)])
                self.bases.add(parent)
                base_tree, base_origins = self._read(parent, (*chain, path))
                tree = _deep_merge(tree, base_tree)
                origins |= base_origins
            tree = _deep_merge(tree, raw)
            origins |= dict.fromkeys(flatten(raw), show(path))
            self._merged[path] = tree, origins
        return self._merged[path]


def show(path: Path) -> str:
    """A path as a user would type it: relative to the working directory where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _load_mapping(path: Path) -> dict:
    """Parse one file and check the keys that belong to the harness, so that an error names the file that holds them."""
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ProblemsError([Problem(show(path), "", f"cannot be read: {exc.strerror}")]) from exc
    except UnicodeDecodeError as exc:
        raise ProblemsError([Problem(show(path), "", "is not UTF-8 text")]) from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        text = (f"line {mark.line + 1}: " if mark else "") + f"not valid YAML: {getattr(exc, 'problem', exc)}"
        raise ProblemsError([Problem(show(path), "", text)]) from exc
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ProblemsError([Problem(show(path), "", f"must hold `key: value` pairs, not a {type(raw).__name__}")])
    problems = [Problem(show(path), key, why) for key, why in normalise(raw).items()]
    problems += [_unknown_top(show(path), str(key), key) for key in raw if key not in TOP_KEYS]
    for section in SECTIONS:
        value = raw.get(section)
        if value is not None and not isinstance(value, dict):
            problems.append(Problem(show(path), section, f"must hold `key: value` pairs, not {value!r}"))
            continue
        valid = _section_keys(section)
        if value and valid:
            problems += [_unknown(show(path), f"{section}.{key}", key, valid) for key in value if key not in valid]
    if problems:
        raise ProblemsError(problems)
    return raw


def _section_keys(section: str) -> tuple[str, ...]:
    """The keys of a section that the harness itself knows; the benchmark and the library check theirs."""
    return {"target_model": MODEL_KEYS, "draft_model": MODEL_KEYS, "wandb": WANDB_KEYS}.get(section, ())


def _unknown(where: str, dotted: str, key: object, valid: Sequence[str]) -> Problem:
    return Problem(where, dotted, f"unknown key. Did you mean {nearest(key, valid)!r}? Valid: {', '.join(valid)}")


def _unknown_top(where: str, dotted: str, key: object) -> Problem:
    """A key that is not one of TOP_KEYS: it belongs to a section, or nowhere."""
    keys = {
        "sparse_config": {f.name for config in MethodConfig.__subclasses__() for f in dataclasses.fields(config)},
        "dataset": {"dataset_name", "task", "seq_len", "num_samples"},
        "target_model": MODEL_KEYS,
        "draft_model": MODEL_KEYS,
        "wandb": WANDB_KEYS,
    }
    homes = [f"{section}.{dotted}" for section in SECTIONS if key in keys[section]]
    if homes:
        return Problem(where, dotted, f"belongs to a section: {' or '.join(homes)}")
    return _unknown(where, dotted, key, TOP_KEYS)


def _deep_merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _deep_merge(merged[key], value) if both else value
    return merged


def _validate(path: Path, tree: dict, origins: Mapping[str, str]) -> RunConfig:
    problems: list[Problem] = []

    def add(key: str, text: str) -> None:
        problems.append(Problem(_blame(path, key, origins), key, text))

    def add_error(section: str, exc: ValueError) -> None:
        # the library and the benchmarks begin their messages with the key: `window_size: …`, `dataset.task: …`
        match = re.match(rf"(?:{section}\.)?([A-Za-z_][\w.]*): (.*)", str(exc), re.DOTALL)
        add(*((f"{section}.{match[1]}", match[2]) if match else (section, str(exc))))

    protocol = tree.get("protocol", "official")
    if protocol not in PROTOCOLS:
        add("protocol", f"{protocol!r} is not a protocol. Use one of: {', '.join(PROTOCOLS)}")
        protocol = PROTOCOLS[0]
    batch_size = tree.get("batch_size", 1)
    if type(batch_size) is not int or batch_size < 1:
        add("batch_size", f"must be a whole number of at least 1, not {batch_size!r}")
    wandb = tree.get("wandb") or {}
    wandb = {key: value for key, value in wandb.items() if value is not None}
    for key, text in _wandb_problems(wandb):
        add(f"wandb.{key}", text)

    # null is the default, written out; left out, so that it cannot tell apart runs that are the same
    dataset = {key: value for key, value in (tree.get("dataset") or {}).items() if value is not None}
    if not dataset:
        add("dataset", "missing. Write dataset: {dataset_name: …, task: …}")
    elif "dataset_name" not in dataset:
        add("dataset.dataset_name", "missing. Name the benchmark, for example `ruler`")
    elif isinstance(dataset.get("task"), list):
        add("dataset.task", "a run has one task. Write a leaf for each")
    else:
        try:
            get_benchmark(dataset["dataset_name"]).validate(dataset, protocol)
        except ValueError as exc:
            add_error("dataset", exc)

    sparse = tree.get("sparse_config")
    method, sparse_type = None, None
    if not sparse:
        add("sparse_config", "missing. Write sparse_config: {sparse_type: …}, for example `full`")
    elif "sparse_type" not in sparse:
        add("sparse_config.sparse_type", "missing. Name the method, for example `full` or `speckv`")
    else:
        sparse_type = sparse["sparse_type"]
        baselines.load(str(sparse_type))
        try:
            method = config_from_dict({**sparse, "sparse_type": "full"} if sparse_type == "draft_only" else sparse)
        except ValueError as exc:
            if str(exc).startswith("sparse_type: unknown"):  # the library knows only its own
                names = _method_names()
                hint = f"Did you mean {nearest(sparse_type, names)!r}? Valid: {', '.join(names)}"
                add("sparse_config.sparse_type", f"unknown method {sparse_type!r}. {hint}")
            else:
                add_error("sparse_config", exc)
        for key in method.model_settings if method else ():
            if text := _missing_folder(getattr(method, key)):
                add(f"sparse_config.{key}", text)

    draft_only = sparse_type == "draft_only"
    wanted = {"target_model": not draft_only, "draft_model": draft_only or (method is not None and method.needs_draft)}
    specs: dict[str, ModelSpec | None] = {"target_model": None, "draft_model": None}
    for section, required in wanted.items():
        # an unused draft may stay in a shared base: it is dropped, so that it cannot tell apart runs that are the same
        if required or (section == "target_model" and tree.get(section)):
            specs[section] = _model_spec(section, tree.get(section) or {}, str(sparse_type), add)
    if problems:
        raise ProblemsError(problems)

    resolved = {section: dataclasses.asdict(spec) for section, spec in specs.items() if spec}
    resolved |= {
        "dataset": dataset,
        "sparse_config": method.to_dict() | {"sparse_type": sparse_type},
        "protocol": protocol,
        "batch_size": batch_size,
    }
    if wandb:
        resolved["wandb"] = wandb
    return RunConfig(
        path=path,
        target=specs["target_model"],
        draft=specs["draft_model"],
        dataset=dataset,
        sparse_type=sparse_type,
        method=method,
        protocol=protocol,
        batch_size=batch_size,
        wandb=wandb,
        resolved=resolved,
    )


def _wandb_problems(options: dict) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of a `wandb:` section without nulls."""
    forms = {
        "mode": (f"one of {', '.join(WANDB_MODES)}", lambda value: value in WANDB_MODES),
        "tags": ("a list of strings", lambda value: isinstance(value, list) and all(isinstance(s, str) for s in value)),
        "predictions": ("a whole number of rows, 0 for none", lambda value: type(value) is int and value >= 0),
        "artifact": ("true or false", lambda value: isinstance(value, bool)),
    }
    problems = []
    for key, value in options.items():
        form, fits = forms.get(key, ("a string", lambda value: isinstance(value, str)))
        if not fits(value):
            problems.append((key, f"must be {form}, not {value!r}"))
    return problems


def _method_names() -> list[str]:
    """Every `sparse_type`: the library's, the harness's own control, and those of baselines/."""
    known = {config.sparse_type for config in MethodConfig.__subclasses__()} - {None}
    return sorted(known | {"draft_only"} | set(baselines.available()))


def _blame(path: Path, key: str, origins: Mapping[str, str]) -> str:
    """The leaf that a problem is in and, where the key was set elsewhere (a base, `--set`), that place."""
    leaf, origin = show(path.resolve()), origins.get(key)
    if origin == "--set":
        return origin
    return leaf if origin in (None, leaf) else f"{origin} (base of {leaf})"


def _model_spec(section: str, values: dict, sparse_type: str, add) -> ModelSpec | None:
    """Check one model's section. Reports through `add(key, text)` and returns None where something is wrong."""
    clean = {key: value for key, value in values.items() if value is not None}
    name = clean.get("model_name_or_path")
    if name is None:
        add(f"{section}.model_name_or_path", f"missing. {sparse_type} needs a {section.removesuffix('_model')} model")
        return None
    wrong = []
    for key in (key for key in MODEL_KEYS if key != "trust_remote_code"):
        if key in clean and (not isinstance(clean[key], str) or not clean[key]):
            wrong.append((key, f"must be a string, not {clean[key]!r}"))
    if not isinstance(clean.get("trust_remote_code", False), bool):
        wrong.append(("trust_remote_code", f"must be true or false, not {clean['trust_remote_code']!r}"))
    if not wrong:
        spec = ModelSpec(**clean)
        if spec.dtype not in DTYPES:
            wrong.append(("dtype", f"{spec.dtype!r} is not one of {', '.join(DTYPES)}"))
        if spec.attn_implementation not in ATTENTION and "/" not in spec.attn_implementation:
            wrong.append(("attn_implementation", f"{spec.attn_implementation!r} is not one of {', '.join(ATTENTION)}"))
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", spec.device):
            wrong.append(("device", f"{spec.device!r} is not one of auto, cpu, mps, cuda, cuda:N"))
        for key, path in (("model_name_or_path", spec.model_name_or_path), ("tokenizer", spec.tokenizer)):
            if path and (text := _missing_folder(path)):
                wrong.append((key, text))
    for key, text in wrong:
        add(f"{section}.{key}", text)
    return None if wrong else spec


def _missing_folder(path: str) -> str | None:
    """What is wrong with a model's name that can only be a folder, and is none."""
    if not local_folder(path) and (path.count("/") > 1 or path.startswith((".", "/", "~"))):
        return f"no such folder: {path}. Give a model's folder, or a hub name like owner/name"
    return None
