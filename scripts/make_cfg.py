"""Write the trees of experiments from their grids: python scripts/make_cfg.py [TREE ...]

A test holds the trees to what this writes: change the grid here, run this, commit both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data.longbench.builtin import TASKS as BUILTIN_TASKS  # noqa: E402
from data.longbench.tasks import PAPER_TASKS  # noqa: E402
from data.ruler.tasks import TASKS as RULER_TASKS  # noqa: E402

CFG = ROOT / "cfg"
SWEEPS = ROOT / "sweeps"
COMMENT = "#"
"""The key of a file's comment, which becomes its first line."""

NIAH = [
    *(f"niah_single_{i}" for i in (1, 2, 3)),
    *(f"niah_multikey_{i}" for i in (1, 2, 3)),
    "niah_multivalue",
    "niah_multiquery",
]


def demo() -> dict[str, dict]:
    """The built-in pair on 11 RULER tasks at 2048 tokens and on generated rows of LongBench's format: {path: content}.

    Hyperparameters are the published ones, scaled to prompts a sixteenth as long. RULER's two QA tasks are left out:
    they need downloads, and are beyond a model of this size.
    """
    model = {"dtype": "float32", "attn_implementation": "sdpa"}
    speckv = {"window_size": 16, "pool_type": "max", "kernel_size": 7, "reduction_type": "max"}
    specpc = {
        "window_size": 32,
        "pool_type": "max",
        "kernel_size": 32,
        "neighbor_tokens": 32,
        "reduction_type": "max",
        "starting_layer_index": 1,
        "weighted_query": True,
        "lookahead_tokens": 1,
    }
    methods: dict[str, dict] = {
        "full": {},
        "draft_only": {},
        "speckv": speckv,
        "specpc": specpc,
        # 20 lookahead tokens are what the published runs had
        "speckvpc": {
            "specpc_config": {**specpc, "lookahead_tokens": 20, "max_capacity_prompt": 512},
            "speckv_config": speckv,
        },
    }
    # folder, `dataset:` without the task, tasks, {method: budgets}
    ruler = {"dataset_name": "ruler", "seq_len": 2048, "num_samples": 6, "haystack": "builtin"}
    all_budgets = {"full": (), "draft_only": (), "speckv": (64, 128), "specpc": (256, 512), "speckvpc": (64,)}
    longbench = {"dataset_name": "longbench", "data_files": "builtin", "num_samples": 4}
    grids = [
        ("demo", ruler, (*NIAH, "vt", "cwe", "fwe"), all_budgets),
        ("demo/longbench", longbench, BUILTIN_TASKS, {"full": (), "speckv": (64,), "specpc": (256,)}),
    ]
    pair = {role: {"model_name_or_path": f"data/tiny_pair/{role}", **model} for role in ("target", "draft")}
    files: dict[str, dict] = {
        "demo/_pair.yaml": {"target_model": pair["target"], "draft_model": pair["draft"]},
    }
    for folder, dataset, tasks, budgets in grids:
        up = "../" * folder.count("/")
        files[f"{folder}/_base.yaml"] = {"base": f"{up}_pair.yaml", "dataset": dataset}
        for method, capacities in budgets.items():
            sparse = {"sparse_type": method, **methods[method]}
            files[f"{folder}/{method}/_base.yaml"] = {"base": "../_base.yaml", "sparse_config": sparse}
            files |= _leaves(f"{folder}/{method}", tasks, capacities, "speckv_config" in sparse)
    return files


PAIRS = {
    "llama3_1b_8b": ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    "qwen25_05b_14b": ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-14B-Instruct"),
}
"""The published pairs: {name in paths: (draft, target)}."""

RULER_LENGTHS = {
    "llama3_1b_8b": (4096, 8192, 16384, 32768, 65536),
    "qwen25_05b_14b": (4096, 8192, 16384, 32768),
}


class Method(NamedTuple):
    """A method's runs over the published data: its settings, and the budgets that they are run at."""

    sparse: dict
    """The `sparse_config` without the budget."""
    budgets: tuple[int, ...] = ()
    """`max_capacity_prompt`; none for a method without a budget, whose leaves then have no cmax_ folder."""
    by_pair: dict[str, dict] = {}  # never changed
    """Settings that differ between pairs: {pair: part of the `sparse_config`}."""
    comment: str = ""


SPECKV = {
    "window_size": 32,
    "pool_type": "max",
    "kernel_size": 7,
    "reduction_type": "max",
    "prefill_window_size": 2048,
    "prefill_vertical_size": 2048,
}
SPECPC = {
    "window_size": 64,
    "pool_type": "max",
    "kernel_size": 32,
    "neighbor_tokens": 32,
    "reduction_type": "max",
    "starting_layer_index": 8,
    "weighted_query": True,
}

# The published runs. Everything is written out, so that a default that changes does not change them.
PAPER = {
    "speckv": Method({"sparse_type": "speckv", **SPECKV, "lookahead_tokens": None}, (256, 512, 1024)),
    "specpc": Method(
        {"sparse_type": "specpc", **SPECPC, "lookahead_tokens": 1},
        (1024, 2048, 3072),
        by_pair={"qwen25_05b_14b": {"kernel_size": 64, "neighbor_tokens": 64}},
    ),
    "speckvpc2048": Method(
        {
            "sparse_type": "speckvpc",
            "specpc_config": {"max_capacity_prompt": 2048, **SPECPC, "lookahead_tokens": 20},
            "speckv_config": SPECKV,
        },
        (256, 512, 1024),
        comment="lookahead_tokens: the published files say null, for which the published code generates 20",
    ),
}

# The controls over the same data.
BASELINES = {
    "full": Method({"sparse_type": "full"}),
    "draft_only": Method({"sparse_type": "draft_only"}),
}

SNAPKV = {"window_size": 32, "pool_type": "max", "kernel_size": 7}


def others() -> dict[str, Method]:
    """Every other method, at the published methods' budgets; what is not said here are its own defaults.

    Window and smoothing are the published SpecKV's (and those of SnapKV's own LongBench runs), so that methods
    differ in whose queries score, and in allocation.
    """
    kv, pc = PAPER["speckv"].budgets, PAPER["specpc"].budgets
    speckv, specpc = PAPER["speckv"].sparse, PAPER["specpc"].sparse
    settings: dict[str, dict] = {
        **dict.fromkeys(("snapkv", "pyramidkv", "ada_snapkv"), SNAPKV),
        **dict.fromkeys(("h2o", "random_kv"), {"window_size": 32}),
        **dict.fromkeys(("streaming_llm", "tova", "keydiff", "expected_attention", "laq"), {}),
        **dict.fromkeys(("ada_speckv", "pyramid_speckv"), speckv),
        **dict.fromkeys(("oracle_lookahead", "random_lookahead", "dummy_lookahead"), speckv),
    }
    found = {name: Method({**sparse, "sparse_type": name}, kv) for name, sparse in settings.items()}
    settings = {
        **{f"truncation_{cut}": {"sparse_type": "truncation", "cut": cut} for cut in ("head", "middle", "tail")},
        "specpc_oracle": {**specpc, "sparse_type": "specpc_oracle"},
        **{name: {"sparse_type": name} for name in ("random_prompt", "speculative_prefill", "llmlingua2")},
    }
    found |= {name: Method(sparse, pc) for name, sparse in settings.items()}
    found["specpc_oracle"] = found["specpc_oracle"]._replace(by_pair=PAPER["specpc"].by_pair)
    return found | {"minference": Method({"sparse_type": "minference"})}


def paper() -> dict[str, dict]:
    """The published runs, at their published paths, and the bases of models and data that the baselines share."""
    files: dict[str, dict] = {
        "paper/_base.yaml": {
            COMMENT: "prompts and headline as in the published runs; metrics.json has the official score as well",
            "protocol": "paper",
        }
    }
    for pair, (draft, target) in PAIRS.items():
        model = {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}
        files[f"paper/_{pair}.yaml"] = {
            "base": "_base.yaml",
            "draft_model": {"model_name_or_path": draft, **model},
            "target_model": {"model_name_or_path": target, **model},
        }
    for folder, pair, dataset, _ in _data():
        content = {"base": f"_{pair}.yaml", "dataset": dataset}
        if "over_length" in dataset:
            content = {COMMENT: "over_length: the published runs let prompts exceed the 32,768 positions", **content}
        files[f"paper/{_data_base(folder, pair)}"] = content
    return files | _grid("paper", PAPER)


def baselines() -> dict[str, dict]:
    """The published data with other methods, on the bases of cfg/paper: equal prompts, read once for both."""
    return _grid("baselines", BASELINES)


def published() -> dict[str, dict]:
    """The published data with every other method, on the bases of cfg/paper."""
    return _grid("published", others(), "../../../cfg/paper")


def _data() -> list[tuple[str, str, dict, tuple[str, ...]]]:
    """The published data: (folder, pair, `dataset:` without the task, tasks)."""
    grid = []
    for pair in PAIRS:
        longbench = {"dataset_name": "longbench"}
        if pair == "qwen25_05b_14b":
            longbench["over_length"] = "allow"
        grid.append(("longbench", pair, longbench, PAPER_TASKS))
        for length in RULER_LENGTHS[pair]:
            ruler = {"dataset_name": "ruler", "seq_len": length}
            grid.append((f"ruler/{length:05d}", pair, ruler, tuple(RULER_TASKS)))
    return grid


def _data_base(folder: str, pair: str) -> str:
    return f"_{folder.replace('/', '_')}_{pair}.yaml"


def _grid(tree: str, methods: dict[str, Method], shared: str = "../../paper") -> dict[str, dict]:
    """Methods x data x budgets: a base for each method and pair, one for each folder of budgets, and the leaves.

    `shared`: the way from a method's folder to the bases of models and data.
    """
    files: dict[str, dict] = {}
    for name, method in methods.items():
        for pair in PAIRS:
            comment = {COMMENT: method.comment} if method.comment else {}
            sparse = method.sparse | method.by_pair.get(pair, {})
            files[f"{tree}/{name}/_{pair}.yaml"] = {**comment, "sparse_config": sparse}
        for data, pair, _, tasks in _data():
            folder = f"{tree}/{name}/{data}/{pair}"
            up = "../" * (data.count("/") + 2)  # to the method's folder
            bases = [f"{up}{shared}/{_data_base(data, pair)}", f"{up}_{pair}.yaml"]
            files[f"{folder}/_base.yaml"] = {"base": bases}
            files |= _leaves(folder, tasks, method.budgets, "speckv_config" in method.sparse)
    return files


def _leaves(folder: str, tasks: Iterable[str], budgets: Sequence[int], nested: bool) -> dict[str, dict]:
    """The leaves on a folder's `_base.yaml`: a task, at each budget; `nested`: the budget is SpecKV-PC's second."""
    files: dict[str, dict] = {}
    for task in tasks:
        if not budgets:
            files[f"{folder}/{task}.yaml"] = {"base": "_base.yaml", "dataset": {"task": task}}
        for budget in budgets:
            capacity = {"max_capacity_prompt": budget}
            files[f"{folder}/cmax_{budget:04d}/{task}.yaml"] = {
                "base": "../_base.yaml",
                "dataset": {"task": task},
                "sparse_config": {"speckv_config": capacity} if nested else capacity,
            }
    return files


def compare() -> dict[str, dict]:
    """Every method on the built-in pair, RULER at 2048 and 4096 tokens, at four budgets.

    Windows are the published 32 and 64 halved, since the smallest budget is 64; all prefills are dense, so that equal
    ones are shared. What is not said here are the methods' own defaults.
    """
    kv, pc = {"window_size": 16}, {"window_size": 32}
    speckv = {**kv, "prefill_window_size": None, "prefill_vertical_size": None}
    specpc = {**pc, "kernel_size": 32, "neighbor_tokens": 32, "starting_layer_index": 1, "lookahead_tokens": 1}
    settings: dict[str, dict] = {
        **dict.fromkeys(("streaming_llm", "tova", "keydiff", "expected_attention"), {}),
        **dict.fromkeys(("random_kv", "snapkv", "pyramidkv", "ada_snapkv", "h2o"), kv),
        "laq": {"first_window_size": 16},
        **dict.fromkeys(("speckv", "ada_speckv", "pyramid_speckv"), speckv),
        **dict.fromkeys(("oracle_lookahead", "random_lookahead", "dummy_lookahead"), speckv),
        **dict.fromkeys(("specpc", "specpc_oracle"), specpc),
        "speckvpc": {
            "specpc_config": {**specpc, "lookahead_tokens": 20, "max_capacity_prompt": 1024},
            "speckv_config": speckv,
        },
        "speculative_prefill": {},
        "random_prompt": pc,
    }
    # By their own defaults, methods differ in more than whose queries score: these three tell the reduction's share.
    maxima = {"reduction_type": "max", "pool_type": "max", "kernel_size": 7}  # SpecKV's
    settings |= {
        "snapkv_max": {"sparse_type": "snapkv", **kv, **maxima},
        "laq_max": {"sparse_type": "laq", "first_window_size": 16, **maxima},
        "specpc_oracle_mean": {"sparse_type": "specpc_oracle", **specpc, "reduction_type": "mean"},
    }
    methods = {name: Method({"sparse_type": name, **sparse}, (64, 128, 256, 512)) for name, sparse in settings.items()}
    for cut in ("head", "middle", "tail"):
        methods[f"truncation_{cut}"] = Method({"sparse_type": "truncation", "cut": cut}, (64, 128, 256, 512))
    methods |= {name: Method({"sparse_type": name}) for name in ("full", "draft_only")}
    methods["minference"] = Method({"sparse_type": "minference", "vertical_size": 128, "slash_size": 512})
    model = {"dtype": "float32", "attn_implementation": "sdpa"}
    files: dict[str, dict] = {
        "compare/_base.yaml": {
            f"{role}_model": {"model_name_or_path": f"data/tiny_pair/{role}", **model} for role in ("target", "draft")
        }
    }
    for length in (2048, 4096):
        ruler = {"dataset_name": "ruler", "seq_len": length, "num_samples": 50, "haystack": "builtin"}
        files[f"compare/{length}/_base.yaml"] = {"base": "../_base.yaml", "dataset": ruler}
        for name, method in methods.items():
            folder = f"compare/{length}/{name}"
            files[f"{folder}/_base.yaml"] = {"base": "../_base.yaml", "sparse_config": method.sparse}
            files |= _leaves(folder, (*NIAH, "vt", "cwe", "fwe"), method.budgets, "speckv_config" in method.sparse)
    return files


TREES = {"demo": demo, "paper": paper, "baselines": baselines}
ON_DEMAND = {"compare": compare, "published": published}
"""Trees that are too large to keep in the repository: written below sweeps/ by naming them."""


def render(content: dict) -> str:
    """A file's text."""
    comment = f"# {content[COMMENT]}\n" if COMMENT in content else ""
    content = {key: value for key, value in content.items() if key != COMMENT}
    flow = None if any(isinstance(value, (dict, list)) for value in content.values()) else False
    return comment + yaml.safe_dump(content, sort_keys=False, default_flow_style=flow, width=110)


def write_tree(name: str, root: Path = CFG) -> int:
    """Write one tree below `root` and delete its .yaml files that left the grid. Returns the number of files."""
    files = {root / path: render(content) for path, content in (TREES | ON_DEMAND)[name]().items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (root / name).rglob("*.yaml"):
        if path not in files:
            path.unlink()
    return len(files)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", default=list(TREES), metavar="TREE", help=", ".join(TREES | ON_DEMAND))
    trees = parser.parse_args().trees
    if unknown := set(trees) - set(TREES | ON_DEMAND):
        parser.error(f"no tree is called {', '.join(sorted(unknown))}; there are {', '.join(TREES | ON_DEMAND)}")
    for name in trees:
        root = CFG if name in TREES else SWEEPS
        print(f"{(root / name).relative_to(ROOT)}: {write_tree(name, root)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
