"""Whose queries find what the answer needs? python scripts/analyze_importance.py

On the built-in pair and RULER: how far the importance that SpecKV gets from the draft's lookahead, from the prompt's
window, and from controls agrees with that of the target's own answer (the oracle); and how SpecKV's score depends on
the lookahead's length, on the window, and on the draft's quality. Writes tables.md, the figures' numbers as .csv and
the figures as .png and .svg.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import get_benchmark  # noqa: E402
from data.benchmark import Sample  # noqa: E402
from draft_approx_llm import SpecKVConfig, patch_model, unpatch_model  # noqa: E402
from harness.config import REPOSITORY  # noqa: E402
from harness.importance_study import SOURCES, agreements, noisy, token_agreement  # noqa: E402
from harness.metrics import interval  # noqa: E402
from harness.models import Answerer, encode  # noqa: E402
from harness.panels import COLOURS, DASHES, MARKERS  # noqa: E402
from harness.plots import RC  # noqa: E402
from harness.summary import Table  # noqa: E402

TASKS = ("niah_single_3", "niah_multikey_3", "niah_multivalue", "vt")
LENGTHS = (1, 2, 4, 8, 16, 32)
WINDOWS = (1, 4, 8, 16, 32)
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)
DENSE = {"prefill_window_size": None, "prefill_vertical_size": None}
Scores = dict[str, dict[str, list[float]]]
"""{setting: {task: a figure a sample}}."""


class Study:
    """The models and the samples, {task: samples}."""

    def __init__(self, args: argparse.Namespace):
        disable_progress_bar()
        self.args, pair = args, REPOSITORY / "data/tiny_pair"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.target, self.draft = (
            AutoModelForCausalLM.from_pretrained(pair / role).to(device).eval() for role in ("target", "draft")
        )
        self.tokenizer = AutoTokenizer.from_pretrained(pair / "target")
        self.samples: dict[str, list[Sample]] = {}
        for task in args.tasks:
            dataset = {"task": task, "seq_len": args.length, "haystack": "builtin"}
            self.samples[task] = get_benchmark("ruler").load(dataset, self.tokenizer, "official", limit=args.samples)
        self.settings = {"max_capacity_prompt": args.budget, "window_size": args.window, **DENSE}
        steps = 4 + len(NOISE)  # agreement, lengths, windows and the target as its own draft; the drafts
        self.bar = tqdm(total=steps * args.samples * len(args.tasks), unit="sample", mininterval=1)

    def agreement(self) -> tuple[Scores, Scores, dict[str, list[list[float]]]]:
        """(correlation, overlap) by source and task, and {source: overlap by layer, a list a sample}."""
        correlation, overlap = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list))
        layers = defaultdict(list)
        for task, samples in self.samples.items():
            for sample in samples:
                ids = torch.tensor(encode(self.tokenizer, sample), device=self.target.device)
                config = SpecKVConfig(**self.settings)
                found = agreements(self.target, self.draft, ids, config, sample.max_new_tokens)
                for source, one in found.items():
                    correlation[source][task].append(float(one.correlation.mean()))
                    overlap[source][task].append(float(one.overlap.mean()))
                    layers[source].append(one.overlap.tolist())
                self.bar.update()
        return correlation, overlap, layers

    def scores(self, configs: dict[str, SpecKVConfig], draft: torch.nn.Module) -> Scores:
        """Scores of several settings of SpecKV, each sample answered for all of them at once."""
        result = defaultdict(lambda: defaultdict(list))
        patch_model(self.target, draft, list(configs.values()))
        try:
            answerer = Answerer(self.target, self.tokenizer, len(configs))
            for task, samples in self.samples.items():
                for sample in samples:
                    answers = answerer.answer([encode(self.tokenizer, sample)], sample)
                    for name, answer in zip(configs, answers, strict=True):
                        score = get_benchmark("ruler").score(sample, answer.text)["official"]
                        result[name][task].append(score)
                    self.bar.update()
        finally:
            unpatch_model(self.target)
        return result

    def quality(self, draft: torch.nn.Module) -> float:
        """Token agreement of a draft's greedy continuation with the target's, mean over all samples."""
        found = []
        for samples in self.samples.values():
            for sample in samples:
                ids = torch.tensor([encode(self.tokenizer, sample)], device=self.target.device)
                options = {"max_new_tokens": sample.max_new_tokens, "do_sample": False}
                guess, answer = (
                    model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
                    for model in (draft, self.target)
                )
                found.append(token_agreement(guess, answer))
        return fmean(found)


def table(title: str, first: str, scores: Scores, tasks: Sequence[str], form: str) -> str:
    """A Markdown table: a line a setting, a column a task, the mean with its interval last."""
    lines = []
    for name, by_task in scores.items():
        low, high = interval(*by_task.values())
        cells = [format(fmean(by_task[task]), form) for task in tasks]
        mean = fmean(map(fmean, by_task.values()))
        lines.append([name, *cells, f"{mean:{form}} [{low:{form}}, {high:{form}}]"])
    return f"{title}\n\n{Table([first, *tasks, f'mean of {len(tasks)}'], lines).markdown()}"


def figure(layers: dict[str, list], sweeps: dict[str, tuple[str, dict[float, Scores]]], output: Path) -> None:
    """Overlap by layer, and a panel a sweep: {title: (x label, {x: {task: scores}})}."""
    with rc_context(RC):
        drawing = Figure(figsize=(10.5, 2.9), layout="constrained")
        axes = drawing.subplots(1, 1 + len(sweeps))
        for i, (source, rows) in enumerate(layers.items()):
            means = torch.tensor(rows).mean(0)
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
            axes[0].plot(range(len(means)), means, label=source, **style)
        axes[0].set(
            title="overlap with the oracle's choice", xlabel="layer", ylabel="share of the oracle's", ylim=(0, 1)
        )
        axes[0].legend()
        for ax, (title, (label, by_x)) in zip(axes[1:], sweeps.items(), strict=True):
            xs = list(by_x)
            means = [fmean(map(fmean, by_task.values())) for by_task in by_x.values()]
            bounds = [interval(*by_task.values()) for by_task in by_x.values()]
            ax.plot(xs, means, color=COLOURS[0], marker=MARKERS[0])
            ax.fill_between(xs, *zip(*bounds, strict=True), color=COLOURS[0], alpha=0.15, linewidth=0)
            ax.set(title=title, xlabel=label, ylim=(0, 102))
            if "token" in label:
                ax.set_xscale("log", base=2)
                ax.set_xticks(xs, [str(x) for x in xs])
            ax.grid(True)
        axes[1].set_ylabel("mean score of SpecKV")
        for ending in ("png", "svg"):
            drawing.savefig(output / f"importance.{ending}", dpi=110)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10, help="a task (default: 10)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--length", type=int, default=2048, help="RULER's length (default: 2048)")
    parser.add_argument("--budget", type=int, default=64, help="entries a KV head, window included (default: 64)")
    parser.add_argument("--window", type=int, default=16, help="where it is not what varies (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise in the drafts")
    parser.add_argument("--output", type=Path, default=Path("results/analysis"))
    args = parser.parse_args()
    study = Study(args)
    correlation, overlap, layers = study.agreement()

    def config(**changes: int) -> SpecKVConfig:
        return SpecKVConfig(**{**study.settings, **changes})

    lengths = study.scores({str(n): config(lookahead_tokens=n) for n in LENGTHS}, study.draft)
    windows = [window for window in WINDOWS if window < args.budget]
    by_window = study.scores({str(n): config(window_size=n) for n in windows}, study.draft)
    drafts = {f"noise {scale:g}": noisy(study.draft, scale, args.seed) for scale in NOISE}
    drafts["the target itself"] = study.target
    by_draft, quality = {}, {}
    for name, draft in drafts.items():
        # the target cannot look ahead for itself while it is patched: its own answer is the oracle
        own = draft is study.target
        settings = config() if not own else SpecKVConfig(**study.settings, queries="oracle")
        found = study.scores({name: settings}, None if own else draft)[name]
        quality[name] = 1.0 if own else study.quality(draft)
        by_draft[f"{name} ({quality[name]:.2f})"] = found
    study.bar.close()

    args.output.mkdir(parents=True, exist_ok=True)
    n = f"{args.samples} samples a task, RULER at {args.length}, budget {args.budget}, window {args.window}"
    texts = [
        table(f"Spearman's correlation with the oracle's importance, mean over layers and KV heads; {n}.",
              "whose queries", correlation, args.tasks, ".2f"),
        table(f"Share of the oracle's {args.budget - args.window} best tokens that are found.",
              "whose queries", overlap, args.tasks, ".2f"),
        table("SpecKV's score by lookahead tokens.", "lookahead", lengths, args.tasks, ".1f"),
        table("SpecKV's score by window.", "window", by_window, args.tasks, ".1f"),
        table("SpecKV's score by draft (in brackets: share of its greedy tokens that are the target's).",
              "draft", by_draft, args.tasks, ".1f"),
    ]  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    texts.append(f"Commit {commit.stdout.strip() or 'unknown'}, torch {torch.__version__}, {study.target.device}.")
    (args.output / "tables.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    with (args.output / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "setting", "task", "sample", "value"])
        named = {"correlation": correlation, "overlap": overlap, "lookahead": lengths, "window": by_window}
        for name, scores in {**named, "draft": by_draft}.items():
            for setting, by_task in scores.items():
                for task, values in by_task.items():
                    writer.writerows([name, setting, task, i, value] for i, value in enumerate(values))
    ordered = sorted(zip(quality.values(), by_draft.values(), strict=True), key=lambda pair: pair[0])
    sweeps = {
        "lookahead": ("lookahead tokens", {int(name): found for name, found in lengths.items()}),
        "window": ("window, tokens", {int(name): found for name, found in by_window.items()}),
        "draft": ("the draft's agreement with the target", dict(ordered)),
    }
    figure({source: layers[source] for source in SOURCES}, sweeps, args.output)
    print("\n\n".join(texts))
    print(f"\nwritten to {args.output}/")


if __name__ == "__main__":
    main()
