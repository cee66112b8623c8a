"""What a method is: something that reads prompts with target and draft and leaves a cache to decode from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from transformers import PreTrainedModel

from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.cache import CompactCache
from draft_approx_llm.prefill import CompactingPrefill, LayerPlan, LayerView, read, step
from draft_approx_llm.timing import Timer


@dataclass(frozen=True)
class Request:
    """One call of `generate`: prompts without padding, one [N] tensor a row, on the target's device."""

    prompts: list[torch.Tensor]
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    timer: Timer


@dataclass
class Kept:
    """What a method kept of one prompt, as sorted positions in the caller's prompt.

    Attributes:
        prompt: [C] tokens that the target read; None means all.
        cache: a [H, K] tensor a layer, KV pairs kept for each KV head (the last prompt token, which is fed again, not
            among them); None means those of all tokens read.
    """

    prompt: torch.Tensor | None = None
    cache: list[torch.Tensor] | None = None


@dataclass
class Prefilled:
    """One prompt, read: ready to decode.

    Attributes:
        cache: the target's keys and values, a batch of one.
        logits: [1, vocabulary] of the first new token.
        index: place in the sequence of the next token; position: its RoPE position. They differ where a shortened
            prompt keeps its original positions.
        stats: prompt_tokens, read_tokens, kept_tokens (KV entries a head, mean over layers), lookahead_tokens,
            cache_bytes and peak_cache_bytes (target), draft_cache_bytes.
    """

    cache: CompactCache
    logits: torch.Tensor
    index: int
    position: int
    kept: Kept = field(default_factory=Kept)
    stats: dict[str, float] = field(default_factory=dict)


class Method:
    """Base of all methods. `prefill` does the work; nothing is remembered between calls."""

    def check(self, target: PreTrainedModel, draft: PreTrainedModel | None) -> None:
        """Raises ValueError if this method cannot run on these models; called when a model is patched."""

    def prefill(self, target: PreTrainedModel, draft: PreTrainedModel | None, request: Request) -> list[Prefilled]:
        """Reads every prompt of the request. A row's result must not depend on the other rows."""
        raise NotImplementedError


class Full(Method):
    """Plain inference: everything is read, nothing is dropped."""

    def prefill(self, target, draft, request):
        with request.timer("prefill"):
            return [read_all(target, prompt) for prompt in request.prompts]


class Alternating(Method):
    """Several methods in one batch: row i is read by methods[i % len(methods)]."""

    def __init__(self, methods: list[Method]) -> None:
        self.methods = methods

    def prefill(self, target, draft, request):
        rows: list[Prefilled | None] = [None] * len(request.prompts)
        for i, method in enumerate(self.methods):
            mine = slice(i, None, len(self.methods))
            if request.prompts[mine]:
                rows[mine] = method.prefill(target, draft, replace(request, prompts=request.prompts[mine]))
        return rows


def read_all(
    target: PreTrainedModel,
    tokens: torch.Tensor,
    positions: torch.Tensor | None = None,
    next_position: int | None = None,
) -> Prefilled:
    """Reads `tokens` [N] densely and keeps all of it.

    `positions` [N] and `next_position` are RoPE positions other than 0 ... N.
    """
    n = len(tokens)
    cache, logits = read(target, tokens, positions=positions)
    return Prefilled(cache, logits, n, n if next_position is None else next_position, stats=cache_stats(cache, n))


def read_dropping(
    target: PreTrainedModel,
    prompt: torch.Tensor,
    n_queries: int,
    plan: Callable[[LayerView], LayerPlan],
    lookahead: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> Prefilled:
    """Reads `prompt` [N], dropping KV pairs layer by layer as `plan` says, and feeds the last prompt token again.

    Args:
        n_queries: how many queries, the last ones read, `plan` is shown.
        plan: what a layer keeps; its positions must not include the last prompt token's, N - 1, nor later ones.
        lookahead: [L] tokens read after the prompt, for `plan` to see; never kept.
        positions: [N] the prompt's RoPE positions where they are not 0 ... N - 1.
    """
    device, n = prompt.device, len(prompt)
    positions = torch.arange(n, device=device) if positions is None else positions
    last = int(positions[-1])
    n_ahead = 0 if lookahead is None else len(lookahead)
    tokens = prompt if lookahead is None else torch.cat([prompt, lookahead])
    hook = CompactingPrefill(n_queries, plan)
    cache, _ = read(target, tokens, hook, torch.cat([positions, last + 1 + torch.arange(n_ahead, device=device)]))
    stats = cache_stats(cache, n)
    # What was read after the last prompt token is gone, and so is its own key: fed again where it stood, it sees what
    # remains and gives the first new token's logits.
    index = torch.tensor([n - 1], device=device)
    logits = step(target, prompt[-1:], positions[-1:], CompactAttention(cache, index, n - 1))
    return Prefilled(cache, logits, n, last + 1, Kept(cache=hook.kept), stats)


class KVDropping(Method):
    """Base of methods that look at one layer of the target at a time and need no draft.

    A subclass sets `n_queries` and defines `acts_on` and `plan`.
    """

    n_queries = 1

    def acts_on(self, n: int) -> bool:
        """Whether a prompt of n tokens loses anything; where not, plain inference it is."""
        raise NotImplementedError

    def plan(self, view: LayerView, n: int) -> LayerPlan:
        """What one layer keeps of a prompt of n tokens: positions below n - 1."""
        raise NotImplementedError

    def prefill(self, target, draft, request):
        with request.timer("prefill"):
            return [
                read_dropping(target, prompt, self.n_queries, partial(self.plan, n=len(prompt)))
                if self.acts_on(len(prompt))
                else read_all(target, prompt)
                for prompt in request.prompts
            ]


def cache_stats(cache: CompactCache, n: int) -> dict[str, float]:
    """`Prefilled.stats` for a prompt of n tokens; methods that ask a draft correct and complete them."""
    return {
        "prompt_tokens": n,
        "read_tokens": n,
        "kept_tokens": cache.entries_per_head(),
        "lookahead_tokens": 0,
        "cache_bytes": cache.nbytes(),
        "peak_cache_bytes": cache.peak_bytes,
        "draft_cache_bytes": 0,
    }
