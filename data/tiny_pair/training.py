"""Trains one model of the pair: a curriculum that begins with dense recall at length 128.

Small models copy a needle long before they bind a value to its key, and then stay there. Dense recall (every pair is
asked for) at a short length breaks that; a phase is left when the *first* token of the answers is right often enough,
so the curriculum cannot run ahead of the model.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from data.tiny_pair.samples import FIRST, TASKS, Sampler, load_sampler, serve
from data.tiny_pair.tokenizer import BOS, END, MODEL_MAX_LENGTH, PAD

NIAH_MIX = {
    "niah_single_1": 1.0,
    "niah_single_2": 0.7,
    "niah_single_3": 1.0,
    "niah_multikey_1": 1.0,
    "niah_multikey_2": 2.0,
    "niah_multikey_3": 2.0,
    "niah_multivalue": 1.2,
    "niah_multiquery": 1.2,
}
RULER_MIX = NIAH_MIX | {"vt": 1.2, "cwe": 1.2, "fwe": 0.8}


@dataclass(frozen=True)
class Phase:
    """One step of the curriculum.

    `lengths` gives each length's share of the batches and `multi` the share of samples with many questions. The phase
    ends when the running share of right first tokens passes `until` on the tasks of `mix`, or after `cap` of the
    whole training.
    """

    name: str
    lengths: dict[int, float]
    mix: dict[str, float]
    multi: float
    until: float
    cap: float


CURRICULUM = (
    Phase("recall-256", {256: 1.0}, {"recall": 1.0, "niah_multikey_2": 1.0, "niah_single_1": 0.5}, 1.0, 0.90, 0.15),
    Phase("turns-512", {512: 1.0}, {"recall": 2.0} | NIAH_MIX, 1.0, 0.90, 0.20),
    Phase("turns-1024", {512: 0.4, 1024: 0.6}, {"recall": 1.0} | RULER_MIX, 0.9, 0.90, 0.20),
    Phase("ruler", {512: 0.10, 1024: 0.25, 2048: 0.40, 4096: 0.25}, RULER_MIX, 0.6, 2.0, 1.0),
)


@dataclass
class Settings:
    """What decides a training run, apart from when it is interrupted.

    `minutes` (or `steps`, if given) is the length of the whole run: the learning rate falls to zero over its last
    `decay` share.
    """

    model: dict
    minutes: float = 20.0
    steps: int | None = None
    optimizer: str = "muon"
    lr: float = 2e-3
    matrix_lr: float = 0.02
    warmup: int = 100
    decay: float = 0.35
    tokens: int = 65536
    first_weight: float = 4.0
    seed: int = 1
    workers: int = 6
    phases: tuple[Phase, ...] = CURRICULUM


ROPE_THETA = 1e6
MODELS = {
    "target": {
        "hidden_size": 384,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "heads": 6,
        "kv_heads": 2,
    },
    "draft": {
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "heads": 3,
        "kv_heads": 1,
    },
}
# Where the heads of layer 0 look at the start of training, by KV head: from a value back to its key's second word (3),
# from the end of a question back to it (6: "... mentioned in the provided text is"; 2: " is:"), likewise the first
# word (5, 8), and the token before (1).
_OFFSETS = {2: ((3, 6, 2), (5, 8, 1)), 1: ((3, 6, 1),)}


def build_model(shape: dict, vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    """A new Llama of the given shape (see `MODELS`), float32, embeddings tied."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_hidden_layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape.get("head_dim", 64),
        max_position_embeddings=MODEL_MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def wire(model: LlamaForCausalLM) -> None:
    """Starts the first layers as induction heads, which random weights take very long to find.

    Layer 0's heads look a fixed distance back (`_OFFSETS`) and write what they see into subspaces of their own. Layer
    1's heads compare a question's key with the key before a value, layer 2's the current token with the token before;
    both copy what they find. All of it is ordinary weights that training goes on to change.

    Raises:
        ValueError: the model has fewer than three layers, or heads that `_OFFSETS` says nothing about.
    """
    config, layers = model.config, model.model.layers
    if (
        len(layers) < 3
        or config.num_attention_heads != 3 * config.num_key_value_heads
        or config.num_key_value_heads not in _OFFSETS
    ):
        raise ValueError("only models of at least 3 layers with 3 query heads on each of 1 or 2 KV heads can be wired")
    d, kv, dim = config.hidden_size, config.num_key_value_heads, config.head_dim
    group, half = config.num_attention_heads // kv, dim // 2
    frequency = ROPE_THETA ** (-torch.arange(half) / half)
    # contents are compared where RoPE hardly turns over the distances that matter
    slow = torch.nonzero(frequency * MODEL_MAX_LENGTH / 2 < math.pi / 2).flatten()
    slow = torch.cat([slow, slow + half])
    content = len(slow)
    fast = torch.arange(8)

    # the residual stream: one direction that is the same for every token (what positional heads look at), a subspace
    # for what each head of layer 0 writes, and the rest for the tokens themselves
    basis = _orthonormal(d, d)
    constant, used = basis[0], 1 + kv * group * content
    written = [[basis[1 + (g * group + j) * content :][:content] for j in range(group)] for g in range(kv)]
    seen = [_orthonormal(content, d - used) @ basis[used:] for _ in range(kv)]
    embeddings = model.model.embed_tokens.weight
    size = embeddings.norm(dim=1).mean()
    own = embeddings @ basis[used:].T @ basis[used:]
    embeddings.copy_(F.normalize(own, dim=1) * size + 0.7 * size * constant)

    model.model.norm.weight.fill_(4.0)  # small embeddings, many tokens: sharp enough to be sure of a copy
    for layer in layers:  # nothing else writes yet
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    attention = layers[0].self_attn
    for g, offsets in enumerate(_OFFSETS[kv]):
        key = torch.zeros(dim)
        key[fast] = 1.0
        attention.k_proj.weight[g * dim : (g + 1) * dim] += torch.outer(key, constant) * 0.7
        attention.v_proj.weight[g * dim : g * dim + content] = seen[g]
        for j, offset in enumerate(offsets):
            query = torch.zeros(dim)
            angle = -offset * frequency[fast]
            query[fast], query[fast + half] = torch.cos(angle), torch.sin(angle)
            rows = slice((g * group + j) * dim, (g * group + j + 1) * dim)
            attention.q_proj.weight[rows] += torch.outer(query, constant) * 8.0
            out = attention.o_proj.weight[:, rows]
            out[:, :content] = written[g][j].T * (0.6 * size / math.sqrt(content))

    def compare(layer: int, g: int, queries: list[torch.Tensor | None], key: torch.Tensor) -> None:
        attention = layers[layer].self_attn
        attention.k_proj.weight[slow + g * dim] = key * 2.5
        value = _orthonormal(dim, d - used) @ basis[used:]
        attention.v_proj.weight[g * dim : (g + 1) * dim] = value
        for j, query in enumerate(queries):
            if query is not None:
                rows = (g * group + j) * dim
                attention.q_proj.weight[slow + rows] = query * 2.5
                attention.o_proj.weight[:, rows : rows + dim] = value.T * (4 * size / math.sqrt(dim))

    compare(1, 0, [None, written[0][1], written[0][2] if kv > 1 else None], written[0][0])
    if kv > 1:
        compare(1, 1, [None, written[1][1], None], written[1][0])
    compare(2, 0, [seen[-1], None, None], written[-1][2])


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(columns, rows))[0].T


class Muon:
    """Muon for the matrices: momentum, orthogonalised by Newton-Schulz in bfloat16, equal shapes in one batch.

    After Keller Jordan's optimizer (2024); the step has the size of lr * sqrt(max(1, rows / columns)).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float = 0.95):
        self.momentum = momentum
        shapes = {p.shape for p in parameters}
        self.groups = [[p for p in parameters if p.shape == shape] for shape in sorted(shapes)]
        self.buffers = [torch.zeros((len(g), *g[0].shape), device=g[0].device) for g in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([p.grad for p in group])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = _orthogonal(gradient.lerp(buffer, self.momentum))
            scale = lr * max(1.0, buffer.shape[1] / buffer.shape[2]) ** 0.5
            torch._foreach_mul_(group, 1 - lr * 0.01)
            torch._foreach_add_(group, list((update * scale).unbind(0)))

    def state_dict(self) -> dict:
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict) -> None:
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(saved)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices (roughly), negated: the direction of descent. [n, rows, columns]"""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return -(x.mT if tall else x).float()


class Optimizer:
    """AdamW for all parameters, or Muon for the matrices inside the layers and AdamW for the rest."""

    def __init__(self, model: LlamaForCausalLM, settings: Settings):
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        use_muon = settings.optimizer == "muon"
        self.muon = Muon(matrices) if use_muon else None
        taken = {id(p) for p in matrices} if use_muon else set()
        rest = [p for p in model.parameters() if id(p) not in taken]
        fused = next(model.parameters()).is_cuda
        self.adam = torch.optim.AdamW(rest, lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        self.settings = settings

    def step(self, scale: float) -> None:
        self.adam.param_groups[0]["lr"] = self.settings.lr * scale
        self.adam.step()
        if self.muon:
            self.muon.step(self.settings.matrix_lr * scale)
        self.adam.zero_grad(set_to_none=True)
        if self.muon:
            for group in self.muon.groups:
                for parameter in group:
                    parameter.grad = None

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            self.muon.load_state_dict(state["muon"])


class Feed:
    """Batches by step, made ahead by worker processes (or here, with no workers). A step's batch is always the same."""

    def __init__(self, settings: Settings, make: Callable[[], Sampler]):
        self.settings = settings
        self.phase = -1
        self._next = 0
        self._workers: list = []
        self._local = None if settings.workers else make()
        context = mp.get_context("spawn")
        for _ in range(settings.workers):
            requests, results = context.SimpleQueue(), context.Queue()
            process = context.Process(target=serve, args=(requests, results, make), daemon=True)
            process.start()
            self._workers.append((process, requests, results))

    def length(self, phase: int, step: int) -> int:
        lengths = self.settings.phases[phase].lengths
        rng = Random((self.settings.seed * 1009 + phase) * 1_000_003 + step)
        return rng.choices(list(lengths), list(lengths.values()))[0]

    def _request(self, phase: int, step: int) -> tuple:
        spec, length = self.settings.phases[phase], self.length(phase, step)
        mix = {task: weight for task, weight in spec.mix.items() if length >= 1024 or task != "cwe"}
        seed = (self.settings.seed * 977 + phase) * 1_000_000_007 + step
        return (phase, step), seed, (mix, length, max(self.settings.tokens // length, 1), spec.multi)

    def get(self, phase: int, step: int):
        """(ids, learn, tasks) of a step."""
        if self._local:
            _, seed, arguments = self._request(phase, step)
            return self._local.batch(*arguments, rng=Random(seed))
        if phase != self.phase:
            self.phase, self._next = phase, step
        while self._next < step + 4 * len(self._workers):
            self._workers[self._next % len(self._workers)][1].put(self._request(phase, self._next))
            self._next += 1
        while True:
            tag, arrays = self._workers[step % len(self._workers)][2].get(timeout=120)
            if tag == (phase, step):  # else a batch asked for before the phase changed
                return arrays

    def close(self) -> None:
        for process, requests, _ in self._workers:
            requests.put(None)
            process.terminate()


class Meter:
    """Running shares of right first tokens and of wholly right samples, by task and length; kept on the device."""

    def __init__(self, device: str):
        self.sums = torch.zeros(len(TASKS), 16, 4, device=device)
        self.recent: dict[tuple[str, int], list[float]] = {}

    @torch.no_grad()
    def add(self, right: torch.Tensor, first: torch.Tensor, rows: torch.Tensor, tasks: torch.Tensor, length: int):
        """`right`, `first` [n] for the n learnt tokens of `rows` [n]; `tasks` [B] of the batch."""
        column = int(math.log2(length))
        by_token = tasks[rows]
        self.sums[:, column, 0].index_add_(0, by_token, (right & first).float())
        self.sums[:, column, 1].index_add_(0, by_token, first.float())
        wrong = torch.zeros(len(tasks), device=right.device).index_add_(0, rows, (~right).float())
        self.sums[:, column, 2].index_add_(0, tasks, (wrong == 0).float())
        self.sums[:, column, 3].index_add_(0, tasks, torch.ones_like(wrong))

    def read(self) -> None:
        """Moves the sums since the last call into `recent`: (first, whole) shares by (task, length)."""
        sums = self.sums.cpu()
        self.sums.zero_()
        for i, task in enumerate(TASKS):
            for column in range(16):
                right, first, whole, rows = sums[i, column].tolist()
                if rows:
                    self.recent[task, 2**column] = [right / max(first, 1), whole / rows]

    def first(self, tasks) -> float:
        """Mean share of right first tokens over `tasks` (all lengths of the phase)."""
        shares = [v[0] for (task, _), v in self.recent.items() if task in tasks]
        return sum(shares) / len(shares) if shares else 0.0

    def line(self) -> str:
        short = {task: task.replace("niah_", "").replace("single_", "s").replace("multi", "m") for task in TASKS}
        by_length: dict[int, list[str]] = {}
        for (task, length), (first, whole) in self.recent.items():
            by_length.setdefault(length, []).append(f"{short[task]} {first:.2f}/{whole:.2f}")
        return "".join(f"\n    {length}: " + "  ".join(parts) for length, parts in sorted(by_length.items()))


def loss_and_hits(model, ids: torch.Tensor, row: torch.Tensor, column: torch.Tensor, weight: torch.Tensor):
    """The weighted loss of the learnt tokens, and which of them the model gets right.

    Args:
        ids: [B, T].
        row, column, weight: [n], the learnt tokens and their weights. (Found on the CPU: no wait for the GPU.)

    Returns:
        loss, right [n] (bool).
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = F.linear(hidden[row, column - 1], model.lm_head.weight).float()
    wanted = ids[row, column]
    loss = (F.cross_entropy(logits, wanted, reduction="none") * weight).sum() / weight.sum()
    return loss, logits.argmax(-1) == wanted


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    phase: int = 0
    seconds: float = 0.0
    phase_start: float = 0.0
    history: list = field(default_factory=list)

    def share(self, settings: Settings) -> float:
        """The share of the whole run that is done."""
        return self.step / settings.steps if settings.steps else self.seconds / (60 * settings.minutes)


class Run:
    """A training run that can be saved, resumed and exported.

    Args:
        tokenizer_dir: folder with tokenizer.json.
        init: weights to start from instead of random ones (a folder as `export` writes it).
    """

    def __init__(self, settings: Settings, tokenizer_dir: Path, material: dict, device: str, init: Path | None = None):
        self.settings, self.device = settings, device
        with open(tokenizer_dir / "tokenizer.json", encoding="utf-8") as file:
            tokenizer = json.load(file)
        self.model = build_model(settings.model, len(tokenizer["model"]["vocab"]), settings.seed)
        wire(self.model)
        if init:
            self.model.load_state_dict(LlamaForCausalLM.from_pretrained(init, dtype=torch.float32).state_dict())
        self.model.to(device).train()
        self.optimizer = Optimizer(self.model, settings)
        self.progress, self.meter = Progress(), Meter(device)
        self.feed = Feed(settings, _Maker(str(tokenizer_dir / "tokenizer.json"), material))

    def compile(self) -> None:
        """Compiles the layers (one graph serves all of them) and runs each shape once, before any clock starts."""
        torch.set_float32_matmul_precision("high")
        torch._dynamo.config.cache_size_limit = 32
        for layer in self.model.model.layers:
            layer.compile(dynamic=False)
        for length in sorted({n for phase in self.settings.phases[self.progress.phase :] for n in phase.lengths}):
            ids = torch.full((max(self.settings.tokens // length, 1), length), BOS, device=self.device)
            row = torch.arange(len(ids), device=self.device)
            with torch.autocast(self.device, torch.bfloat16):
                loss_and_hits(self.model, ids, row, row * 0 + 1, row.float() + 1)[0].backward()
            self.optimizer.adam.zero_grad(set_to_none=True)
            self.model.zero_grad(set_to_none=True)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else tensor

    def train_step(self) -> torch.Tensor:
        """One step; returns its loss (on the device: reading it waits for the GPU)."""
        settings, progress = self.settings, self.progress
        ids, learn, tasks = self.feed.get(progress.phase, progress.step)
        row, column = np.nonzero(learn)
        first = learn[row, column] == FIRST
        weight = np.where(first, settings.first_weight, 1.0).astype(np.float32)
        arrays = (ids.astype(np.int64), row, column, weight, first, tasks.astype(np.int64))
        ids, row, column, weight, first, tasks = (self._send(array) for array in arrays)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss, right = loss_and_hits(self.model, ids, row, column, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizer.adam.param_groups[0]["params"], 1.0)
        share = progress.share(settings)
        self.optimizer.step(min(1.0, (progress.step + 1) / settings.warmup) * _decay(share, settings.decay))
        self.meter.add(right, first, row, tasks, ids.shape[1])
        progress.step += 1
        return loss

    def advance(self) -> bool:
        """Moves to the next phase if this one is done; True if it did."""
        progress, settings = self.progress, self.settings
        phase = settings.phases[progress.phase]
        spent = progress.share(settings) - progress.phase_start
        done = self.meter.first(phase.mix) >= phase.until or spent >= phase.cap
        if not done or progress.phase + 1 == len(settings.phases):
            return False
        progress.phase += 1
        progress.phase_start = progress.share(settings)
        self.meter.recent.clear()
        return True

    def train(
        self,
        seconds: float,
        log: Callable[[str], None],
        every: int = 100,
        steps: int | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains until the run is over, or `seconds` (of this call) or `steps` have passed.

        `log` gets a line every `every` steps; then `after` is called.
        """
        start = mark = time.monotonic()
        before, first_step, tokens = self.progress.seconds, self.progress.step, 0
        while self.progress.share(self.settings) < 1 and time.monotonic() - start < seconds:
            if steps is not None and self.progress.step - first_step >= steps:
                break
            loss = self.train_step()
            tokens += self.settings.tokens
            self.progress.seconds = before + time.monotonic() - start
            if self.progress.step % every:
                continue
            self.meter.read()
            rate, mark, tokens = tokens / (time.monotonic() - mark) / 1e6, time.monotonic(), 0
            name = self.settings.phases[self.progress.phase].name
            first = self.meter.first(self.settings.phases[self.progress.phase].mix)
            self.progress.history.append((self.progress.step, self.progress.seconds, name, round(first, 4)))
            text = f"{self.progress.step} {self.progress.seconds:.0f}s {name} loss {loss.item():.3f} "
            detail = self.meter.line() if len(self.progress.history) % 5 == 0 else ""
            log(text + f"first {first:.3f} {rate:.2f}M/s{detail}")
            if self.advance():
                log(f"-> {self.settings.phases[self.progress.phase].name}")
            after()

    def save(self, path: Path) -> None:
        """A checkpoint from which `resume` goes on exactly."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "recent": self.meter.recent,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self, path: Path) -> None:
        """Goes on where `save` left off."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.meter.recent = state["recent"]

    def export(self, folder: Path) -> None:
        """The weights in bfloat16, in shards under 16 MiB."""
        export(self.model, folder)


class _Maker:
    """Makes a worker's sampler (a picklable callable)."""

    def __init__(self, tokenizer_path: str, material: dict):
        self.tokenizer_path, self.material = tokenizer_path, material

    def __call__(self) -> Sampler:
        return load_sampler(self.tokenizer_path, self.material)


def export(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config.json, generation_config.json and bfloat16 shards under 16 MiB."""
    copy = LlamaForCausalLM(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.config.dtype = torch.bfloat16
    copy.save_pretrained(folder, max_shard_size="15MB")


def _decay(share: float, decay: float) -> float:
    """1, then a straight fall to zero over the last `decay` share."""
    return min(1.0, max(0.0, (1 - share) / decay)) if decay else 1.0


def iterate_rows(path: Path) -> Iterator[dict]:
    """The rows of a JSON-lines file."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


@torch.no_grad()
def evaluate(model, tokenizer, rows: list[dict], max_new_tokens: int, batch: int) -> float:
    """RULER's string_match_all, 0 to 100, of greedy answers with the full cache.

    Args:
        rows: RULER rows with `input`, `answer_prefix` and `outputs`.
    """
    scores = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        prompts = [row["input"] + row["answer_prefix"] for row in part]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        for row, text in zip(
            part, tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True), strict=True
        ):
            scores.append(sum(ref.lower() in text.lower() for ref in row["outputs"]) / len(row["outputs"]))
    return 100 * sum(scores) / max(len(scores), 1)
