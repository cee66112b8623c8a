"""What a method is: something that reads prompts with target and draft and leaves a cache to decode from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from draft_approx_llm.cache import CompactCache
from draft_approx_llm.prefill import read
from draft_approx_llm.timing import Timer


@dataclass(frozen=True)
class Request:
    """One call of `generate`: prompts without padding, one [N] tensor a row, on the target's device."""

    prompts: list[torch.Tensor]
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    timer: Timer

    def lookahead_tokens(self, wanted: int | None) -> int:
        """How many tokens a draft generates: as configured, or as many as the request wants."""
        return self.max_new_tokens if wanted is None else wanted


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


def read_all(
    target: PreTrainedModel,
    tokens: torch.Tensor,
    prompt_tokens: int | None = None,
    positions: torch.Tensor | None = None,
    next_position: int | None = None,
) -> Prefilled:
    """Reads `tokens` [N] densely and keeps all of it.

    `prompt_tokens` is the caller's prompt length where `tokens` is a part of it; `positions` [N] and `next_position`
    are RoPE positions other than 0 ... N.
    """
    n = len(tokens)
    cache, logits = read(target, tokens, positions=positions)
    stats = cache_stats(cache, prompt_tokens or n, n)
    return Prefilled(cache, logits, n, n if next_position is None else next_position, stats=stats)


def cache_stats(cache: CompactCache, prompt_tokens: int, read_tokens: int) -> dict[str, float]:
    """The entries of `Prefilled.stats` that the target's cache decides; a method with a draft adds the draft's."""
    return {
        "prompt_tokens": prompt_tokens,
        "read_tokens": read_tokens,
        "kept_tokens": cache.entries_per_head(),
        "lookahead_tokens": 0,
        "cache_bytes": cache.nbytes(),
        "peak_cache_bytes": cache.peak_bytes,
        "draft_cache_bytes": 0,
    }
