"""SpecKV: the draft's guess at the answer decides which KV pairs the target keeps (arXiv 2506.08373, section 4)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.configs import SpecKVConfig
from draft_approx_llm.importance import kv_importance, pool
from draft_approx_llm.lookahead import look_ahead
from draft_approx_llm.method import Kept, Method, Prefilled, cache_stats, read_all
from draft_approx_llm.prefill import CompactingPrefill, LayerPlan, LayerView, first_visible, read, step
from draft_approx_llm.selection import best


class SpecKV(Method):
    """The algorithm box: look ahead, read prompt and lookahead, drop in flight, feed the last prompt token again."""

    def __init__(self, config: SpecKVConfig) -> None:
        self.config = config

    def prefill(self, target, draft, request):
        n_lookahead = request.lookahead_tokens(self.config.lookahead_tokens)
        rows = [row for row, prompt in enumerate(request.prompts) if acts_on(self.config, len(prompt), n_lookahead)]
        with request.timer("draft"):
            chosen = [request.prompts[row] for row in rows]
            found = look_ahead(draft, chosen, n_lookahead, request.eos_token_ids) if rows else []
        lookaheads = dict(zip(rows, found, strict=True))
        results = []
        with request.timer("prefill"):
            for row, prompt in enumerate(request.prompts):
                if row not in lookaheads:
                    results.append(read_all(target, prompt))
                    continue
                result = read_compressed(target, prompt, lookaheads[row].tokens, self.config)
                result.stats["draft_cache_bytes"] = lookaheads[row].cache_bytes
                results.append(result)
        return results


def acts_on(config: SpecKVConfig, n: int, n_lookahead: int) -> bool:
    """Whether a prompt of n tokens is touched at all; where nothing would be dropped, plain generation it is."""
    if config.max_capacity_prompt is not None:
        return n > config.max_capacity_prompt
    return _is_sparse(config, n + n_lookahead)


def _is_sparse(config: SpecKVConfig, n_read: int) -> bool:
    return config.prefill_window_size is not None and n_read > config.prefill_window_size + config.prefill_vertical_size


def read_compressed(
    target: PreTrainedModel,
    prompt: torch.Tensor,
    lookahead: torch.Tensor,
    config: SpecKVConfig,
    positions: torch.Tensor | None = None,
) -> Prefilled:
    """Steps 3 to 7 for one prompt [N] and its lookahead [L]; N exceeds the capacity.

    `positions` [N] are the prompt's RoPE positions where they are not 0 ... N - 1.
    """
    n, n_lookahead = len(prompt), len(lookahead)
    positions = torch.arange(n, device=prompt.device) if positions is None else positions
    last = int(positions[-1])
    ahead = torch.arange(last + 1, last + 1 + n_lookahead, device=prompt.device)
    hook = CompactingPrefill(
        n_queries=min(config.window_size + n_lookahead + 1, n + n_lookahead),
        plan=lambda view: plan_layer(view, n, n_lookahead, config),
    )
    cache, _ = read(target, torch.cat([prompt, lookahead]), hook, torch.cat([positions, ahead]))
    stats = cache_stats(cache, n, n) | {"lookahead_tokens": n_lookahead}
    # The lookahead is gone and the last prompt token was not kept: fed again where it stood, it sees what remains.
    index = torch.tensor([n - 1], device=prompt.device)
    logits = step(target, prompt[-1:], positions[-1:], CompactAttention(cache, index, n - 1))
    return Prefilled(cache, logits, n, last + 1, Kept(cache=hook.kept), stats)


def plan_layer(view: LayerView, n: int, n_lookahead: int, config: SpecKVConfig) -> LayerPlan:
    """What one layer keeps of a prompt of n tokens, and which columns its sparse prefill sees (steps 3 to 5 and 7)."""
    heads, device = view.keys.shape[0], view.keys.device
    sparse = _is_sparse(config, n + n_lookahead)
    # The next query is the last prompt token's, fed again at n - 1.
    first = first_visible(n - 1, view.sliding_window)
    everything = torch.arange(first, n - 1, device=device).expand(heads, -1)
    if config.max_capacity_prompt is None and not sparse:
        return LayerPlan(everything)
    importance = kv_importance(view.queries, view.keys, view.scaling, config.reduction_type, view.sliding_window)
    importance = pool(importance, config.pool_type, config.kernel_size)
    vertical = best(importance, config.prefill_vertical_size) if sparse else None
    keep = everything if config.max_capacity_prompt is None else _keep(importance, n, first, config)
    return LayerPlan(keep, vertical, config.prefill_window_size or 0)


def _keep(importance: torch.Tensor, n: int, first: int, config: SpecKVConfig) -> torch.Tensor:
    """[H, K] sorted positions: the best columns from `first` on, and the window. K is the capacity, or less in a
    sliding-window layer that has left the rest behind."""
    first = min(first, importance.shape[1])
    chosen = best(importance[:, first:], config.max_capacity_prompt - config.window_size) + first
    window = torch.arange(n - config.window_size - 1, n - 1, device=importance.device)
    return torch.cat([chosen.sort(dim=-1).values, window.expand(len(importance), -1)], dim=-1)
