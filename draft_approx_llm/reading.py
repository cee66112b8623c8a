"""Carrying out the steps of methods: for one row or many, and equal steps once.

Rows of a batch, and several methods on one prompt, are read at the same time. What they ask for is done in rounds, and
two rows that ask for the same work share it: the draft's lookahead (a shorter one is the beginning of a longer one),
and the target's prefill where tokens, positions and attention pattern are equal. Each prompt is prefilled by itself, so
a row's result does not depend on what it shares: only the decoding is batched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.cache import CompactCache, merge
from draft_approx_llm.lookahead import Lookahead, look_ahead
from draft_approx_llm.method import Generate, Kept, LookAhead, Method, Prefilled, Read, Request
from draft_approx_llm.prefill import Branch, Prefill, read, step


def read_prompts(
    target: PreTrainedModel,
    draft: PreTrainedModel | None,
    methods: Sequence[Method],
    prompts: Sequence[torch.Tensor],
    request: Request,
) -> list[Prefilled]:
    """Reads each prompt [N] with the method of the same place; rows come back in order, ready to decode."""
    same: dict[bytes, torch.Tensor] = {}
    with request.timer("draft"):
        rows = [
            _Row(method, same.setdefault(_content(prompt), prompt), request)
            for method, prompt in zip(methods, prompts, strict=True)
        ]
    while any(row.asked is not None for row in rows):
        for kind, carry_out in ((LookAhead, _look_ahead), (Read, _read), (Generate, _generate)):
            asking = [row for row in rows if isinstance(row.asked, kind)]
            if asking:
                with request.timer("draft" if kind is LookAhead else "prefill"):
                    results = carry_out(target, draft, [row.asked for row in asking], request)
                with request.timer("draft"):  # a compressor that is not a step works in here
                    for row, result in zip(asking, results, strict=True):
                        row.send(result)
                break
    return [row.result for row in rows]


class _Row:
    """One method at work on one prompt: what it asks for next, and what it has cost so far."""

    def __init__(self, method: Method, prompt: torch.Tensor, request: Request) -> None:
        self.result: Prefilled | None = None
        self.n, self.peak_bytes = len(prompt), 0
        self.costs = {"lookahead_tokens": 0, "draft_tokens": 0, "draft_cache_bytes": 0}
        self.steps = method.steps(prompt, request)
        self.asked = None
        self.send(None)

    def send(self, result: object) -> None:
        """Hands over what was asked for, and learns what is wanted next."""
        if isinstance(result, Lookahead):
            self.costs["lookahead_tokens"] = len(result.tokens)
            if self.asked.by == "draft":
                self.costs |= {"draft_tokens": result.cache_tokens, "draft_cache_bytes": result.cache_bytes}
        elif isinstance(self.asked, Generate):
            self.costs["lookahead_tokens"] = len(result)
        elif isinstance(self.asked, Read):
            self.peak_bytes = result.stats["peak_cache_bytes"] = max(self.peak_bytes, result.stats["peak_cache_bytes"])
        try:
            self.asked = self.steps.send(result)
        except StopIteration as stop:
            self.asked, self.result = None, stop.value
            self.result.stats |= {"prompt_tokens": self.n, **self.costs}


def _content(*tensors: torch.Tensor | None) -> bytes:
    """Equal for equal whole numbers in equally many tensors."""
    return b"|".join(b"" if t is None else t.long().cpu().numpy().tobytes() for t in tensors)


def _look_ahead(target, draft, asked: list[LookAhead], request: Request) -> list[Lookahead]:
    found: dict[str, dict[int, Lookahead]] = {}
    for by in {one.by for one in asked}:
        mine = [one for one in asked if one.by == by]
        prompts = {id(one.prompt): one.prompt for one in mine}
        groups = [[one for one in mine if id(one.prompt) == key] for key in prompts]
        longest = look_ahead(
            draft if by == "draft" else target,
            list(prompts.values()),
            [max(one.n_tokens for one in group) for group in groups],
            request.eos_token_ids,
            [list(dict.fromkeys(one.listen for one in group if one.listen)) for group in groups],
        )
        found[by] = dict(zip(prompts, longest, strict=True))
    return [found[one.by][id(one.prompt)].first(one.n_tokens, one.listen) for one in asked]


def _read(target, draft, asked: list[Read], request: Request) -> list[Prefilled]:
    groups: dict[tuple, list[int]] = {}
    for i, one in enumerate(asked):
        key = _content(one.tokens, one.lookahead, one.positions), one.pattern
        groups.setdefault(key, []).append(i)
    results: list[Prefilled | None] = [None] * len(asked)
    for members in groups.values():
        for i, result in zip(members, _read_once(target, [asked[i] for i in members]), strict=True):
            results[i] = result
    return results


def _read_once(target: PreTrainedModel, asked: list[Read]) -> list[Prefilled]:
    """Carries out reads of the same tokens, in the same way, by one prefill."""
    first = asked[0]
    n, device = len(first.tokens), first.tokens.device
    positions = torch.arange(n, device=device) if first.positions is None else first.positions
    last = int(positions[-1])
    tokens = first.tokens
    if first.lookahead is not None:
        ahead = torch.arange(last + 1, last + 1 + len(first.lookahead), device=device)
        tokens, positions = torch.cat([tokens, first.lookahead]), torch.cat([positions, ahead])
    hook, logits = read(target, tokens, Prefill([Branch(one.keep) for one in asked], first.pattern), positions)
    results = []
    for one, branch in zip(asked, hook.branches, strict=True):
        stats = {
            "read_tokens": n,
            "kept_tokens": branch.cache.entries_per_head(),
            "cache_bytes": branch.cache.nbytes(),
            "peak_cache_bytes": branch.peak_bytes,
        }
        if one.keep is None:
            position = last + 1 if one.next_position is None else one.next_position
            results.append(Prefilled(branch.cache, None, logits, n, position, stats=stats))
        else:
            # Its key is gone, and so is all that was read after it: fed again where it stood, it sees what remains.
            kept = Kept(cache=branch.kept)
            results.append(Prefilled(branch.cache, one.tokens[-1:], None, n - 1, last, kept, stats))
    return results


class Decoding:
    """Rows that have been read, being decoded as one batch.

    Attributes:
        logits: [B, vocabulary] of each row's next token.
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[Prefilled]) -> None:
        """Merges the rows' caches (and empties them), and feeds the tokens that are to be fed again."""
        self.model, device = model, model.device
        ready = [i for i, row in enumerate(rows) if row.token is None]
        waiting = [i for i, row in enumerate(rows) if row.token is not None]
        parts, logits = [], []
        self.index = torch.tensor([row.index for row in rows], device=device)
        self.positions = torch.tensor([row.position for row in rows], device=device)
        self.newest = max(row.index for row in rows)
        if waiting:
            cache = merge([rows[i].cache for i in waiting])
            index, newest = self.index[waiting], max(rows[i].index for i in waiting)
            tokens = torch.cat([rows[i].token for i in waiting])
            logits.append(step(model, tokens, self.positions[waiting], CompactAttention(cache, index, newest)))
            parts.append(cache)
            again = torch.tensor([row.token is not None for row in rows], device=device).long()
            self.index, self.positions, self.newest = self.index + again, self.positions + again, self.newest + 1
        if ready:
            parts += [rows[i].cache for i in ready]
            logits += [rows[i].logits for i in ready]
        joined = [*waiting, *ready]
        order = sorted(range(len(rows)), key=joined.__getitem__)
        self.cache: CompactCache = merge(parts, order)
        self.logits = torch.cat(logits)[order]

    def feed(self, tokens: torch.Tensor) -> None:
        """Feeds one token a row, [B]; `logits` are then those of the next."""
        hook = CompactAttention(self.cache, self.index, self.newest)
        self.logits = step(self.model, tokens.to(self.model.device), self.positions, hook)
        self.index, self.positions, self.newest = self.index + 1, self.positions + 1, self.newest + 1


def _generate(target, draft, asked: list[Generate], request: Request) -> list[torch.Tensor]:
    """Greedy tokens [n] a row, all rows as one batch."""
    decoding = Decoding(target, [one.prefilled for one in asked])
    rows: list[list[int]] = [[] for _ in asked]
    alive = [True] * len(asked)
    while True:
        chosen = decoding.logits.argmax(-1)
        for i, token in enumerate(chosen.tolist()):
            if alive[i]:
                rows[i].append(token)
                alive[i] = token not in request.eos_token_ids and len(rows[i]) < asked[i].n_tokens
        if not any(alive):
            return [torch.tensor(row, device=target.device) for row in rows]
        decoding.feed(chosen)
