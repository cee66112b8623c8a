"""Write the trees of experiments under cfg/ from their grids: python scripts/make_cfg.py

A test holds the trees to what this writes: change the grid here, run this, commit both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

CFG = Path(__file__).resolve().parents[1] / "cfg"

NIAH = [
    *(f"niah_single_{i}" for i in (1, 2, 3)),
    *(f"niah_multikey_{i}" for i in (1, 2, 3)),
    "niah_multivalue",
    "niah_multiquery",
]


def demo() -> dict[str, dict]:
    """The built-in pair on 11 RULER tasks at 2048 tokens: {path below cfg/: content}.

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
    budgets = {"speckv": (64, 128), "specpc": (256, 512), "speckvpc": (64,)}
    files: dict[str, dict] = {
        "demo/_base.yaml": {
            "target_model": {"model_name_or_path": "data/tiny_pair/target", **model},
            "draft_model": {"model_name_or_path": "data/tiny_pair/draft", **model},
            "dataset": {"dataset_name": "ruler", "seq_len": 2048, "num_samples": 6, "haystack": "builtin"},
        }
    }
    for method, settings in methods.items():
        sparse = {"sparse_type": method, **settings}
        files[f"demo/{method}/_base.yaml"] = {"base": "../_base.yaml", "sparse_config": sparse}
        for task in (*NIAH, "vt", "cwe", "fwe"):
            if method not in budgets:
                files[f"demo/{method}/{task}.yaml"] = {"base": "_base.yaml", "dataset": {"task": task}}
            for budget in budgets.get(method, ()):
                capacity = {"max_capacity_prompt": budget}
                files[f"demo/{method}/cmax_{budget:04d}/{task}.yaml"] = {
                    "base": "../_base.yaml",
                    "dataset": {"task": task},
                    "sparse_config": {"speckv_config": capacity} if method == "speckvpc" else capacity,
                }
    return files


TREES = {"demo": demo}


def render(content: dict) -> str:
    """A file's text."""
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)


def write_tree(name: str, root: Path = CFG) -> int:
    """Write one tree below `root` and delete its .yaml files that left the grid. Returns the number of files."""
    files = {root / path: render(content) for path, content in TREES[name]().items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (root / name).rglob("*.yaml"):
        if path not in files:
            path.unlink()
    return len(files)


def main() -> int:
    """The command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name in TREES:
        print(f"cfg/{name}: {write_tree(name)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
