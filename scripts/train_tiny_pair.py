"""Makes the built-in target/draft pair (data/tiny_pair): tokenizer, training, evaluation.

    python scripts/train_tiny_pair.py tokenizer
    python scripts/train_tiny_pair.py train --model target --minutes 16 --out DIR [--resume] [--call_minutes 9]
    python scripts/train_tiny_pair.py eval --model data/tiny_pair/target --data DIR [--limit 50]

`tokenizer` needs wonderwords; it writes the tokenizer into both folders of data/tiny_pair, and RULER's word lists and
strings into .pair/material.json, which is all that `train` reads (a training machine need not have wonderwords).
`train --resume` goes on from DIR/MODEL.pt (weights, optimiser, phase, step); the trained weights are exported to
DIR/MODEL. `eval` reads RULER rows from DIR/LENGTH/TASK.jsonl, as scripts/create_data.py writes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAIR = ROOT / "data" / "tiny_pair"
MATERIAL = ROOT / ".pair" / "material.json"
# prose for the tokenizer's merges: its own seed, as evaluations read seed 0
_PROSE_WORDS, _PROSE_SEED = 60_000, 1


def say(text: str) -> None:
    print(text, flush=True)


def make_tokenizer(args: argparse.Namespace) -> None:
    from wonderwords import RandomWord

    from data.builtin.prose import essay
    from data.tiny_pair.tokenizer import build_tokenizer, ruler_wording

    words = RandomWord()  # gives its words in another order each time
    material = {
        "adjectives": sorted(words.filter(include_categories=["adjective"])),
        "nouns": sorted(words.filter(include_categories=["noun"])),
        "verbs": sorted(words.filter(include_categories=["verb"])),
        "wording": ruler_wording(),
    }
    MATERIAL.parent.mkdir(exist_ok=True)
    MATERIAL.write_text(json.dumps(material), encoding="utf-8")
    tokenizer = build_tokenizer(material, essay(_PROSE_WORDS, _PROSE_SEED))
    for name in ("target", "draft"):
        tokenizer.save_pretrained(PAIR / name)
    say(f"{len(tokenizer)} tokens -> {PAIR}/{{target,draft}}")


def _changes(text: str, phase: str) -> dict:
    changes = json.loads(text).get(phase, {})
    if "lengths" in changes:
        changes["lengths"] = {int(length): share for length, share in changes["lengths"].items()}
    return changes


def train(args: argparse.Namespace) -> None:
    import torch

    from data.tiny_pair.tokenizer import read_material
    from data.tiny_pair.training import CURRICULUM, MODELS, Run, Settings

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(
        model=MODELS[args.model] | json.loads(args.shape),
        minutes=args.minutes,
        optimizer=args.optimizer,
        lr=args.lr,
        matrix_lr=args.matrix_lr,
        decay=args.decay,
        tokens=args.tokens,
        workers=args.workers,
        seed=args.seed,
        phases=tuple(replace(phase, **_changes(args.phase, phase.name)) for phase in CURRICULUM),
    )
    began = time.monotonic()
    run = Run(settings, PAIR / args.model, read_material(MATERIAL), device, args.init)
    checkpoint = args.out / f"{args.name or args.model}.pt"
    if args.resume and checkpoint.exists():
        run.resume(checkpoint)
    run.progress.phase = max(run.progress.phase, args.first_phase)
    if device == "cuda":
        run.compile()
    parameters = sum(p.numel() for p in run.model.parameters())
    say(f"{args.model}: {parameters / 1e6:.2f}M parameters, ready after {time.monotonic() - began:.0f}s")
    left = args.call_minutes * 60 - (time.monotonic() - began)
    prefix, exports = args.name or args.model, args.export or args.out
    due = [seconds for seconds in sorted(args.snapshots) if seconds > run.progress.seconds]

    def snapshot() -> None:
        if due and run.progress.seconds >= due[0]:
            run.export(exports / f"{prefix}_{due.pop(0)}")

    try:
        run.train(left, lambda text: say(f"{prefix} {text}"), args.every, args.steps, snapshot)
    finally:
        run.feed.close()
        run.save(checkpoint)
        run.export(exports / prefix)
    say(f"{prefix}: step {run.progress.step}, {run.progress.seconds:.0f}s trained, saved to {checkpoint}")


def evaluate(args: argparse.Namespace) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data.tiny_pair.training import evaluate as score
    from data.tiny_pair.training import iterate_rows

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    table = {}
    for path in sorted(args.data.glob("*/*.jsonl")):
        task, length = path.stem, path.parent.name
        if (args.lengths and int(length) not in args.lengths) or (args.tasks and task not in args.tasks):
            continue
        rows = list(iterate_rows(path))[: args.limit]
        new = 30 if task == "vt" else 50 if task == "fwe" else 120 if task == "cwe" else 128
        began = time.monotonic()
        table[f"{length}/{task}"] = round(score(model, tokenizer, rows, new, args.batch), 1)
        say(f"{args.model} {length} {task} {table[f'{length}/{task}']} n={len(rows)} {time.monotonic() - began:.1f}s")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(table, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    mode = modes.add_parser("tokenizer", help="build the tokenizer")
    mode.set_defaults(run=make_tokenizer)

    mode = modes.add_parser("train", help="train one model")
    mode.add_argument("--model", choices=("target", "draft"), required=True)
    mode.add_argument("--minutes", type=float, default=20, help="length of the whole training (decides the decay)")
    mode.add_argument("--call_minutes", type=float, default=1e9, help="stop this call by then (compiling included)")
    mode.add_argument("--steps", type=int, help="stop this call after so many steps")
    mode.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    mode.add_argument("--export", type=Path, help="folder of the exported weights (default: --out)")
    mode.add_argument("--name", help="name of checkpoint and export (default: --model)")
    mode.add_argument("--snapshots", type=int, nargs="*", default=[], help="export also after these many seconds")
    mode.add_argument("--resume", action="store_true")
    mode.add_argument("--init", type=Path, help="exported weights to start from")
    mode.add_argument("--first_phase", type=int, default=0)
    mode.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    mode.add_argument("--lr", type=float, default=2e-3)
    mode.add_argument("--matrix_lr", type=float, default=0.02, help="Muon's")
    mode.add_argument("--decay", type=float, default=0.35)
    mode.add_argument("--tokens", type=int, default=65536, help="per batch")
    mode.add_argument("--workers", type=int, default=6)
    mode.add_argument("--seed", type=int, default=1)
    mode.add_argument("--every", type=int, default=100, help="steps between two log lines")
    mode.add_argument("--shape", default="{}", help="JSON: changes to the model's shape")
    mode.add_argument("--phase", default="{}", help="JSON: changes to the curriculum, by phase name")
    mode.set_defaults(run=train)

    mode = modes.add_parser("eval", help="score RULER rows with the full cache")
    mode.add_argument("--model", required=True, help="folder of a model")
    mode.add_argument("--tokenizer", help="folder of the tokenizer (default: --model)")
    mode.add_argument("--data", type=Path, required=True)
    mode.add_argument("--limit", type=int, default=50)
    mode.add_argument("--lengths", type=int, nargs="*")
    mode.add_argument("--tasks", nargs="*")
    mode.add_argument("--batch", type=int, default=1)
    mode.add_argument("--out", type=Path, help="JSON file for the scores")
    mode.set_defaults(run=evaluate)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
