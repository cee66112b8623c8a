"""SpecKV: the draft's guess at the answer decides which KV pairs the target keeps (arXiv 2506.08373, section 4)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from draft_approx_llm.configs import SpecKVConfig
from draft_approx_llm.draft_guided import DraftGuided
from draft_approx_llm.importance import kv_importance, pool
from draft_approx_llm.method import Prefilled, read_dropping
from draft_approx_llm.prefill import LayerPlan, LayerView, first_visible
from draft_approx_llm.selection import best


class SpecKV(DraftGuided):
    """The algorithm box: look ahead, read prompt and lookahead, drop in flight, feed the last prompt token again."""

    def __init__(self, config: SpecKVConfig) -> None:
        self.config = config
        self.lookahead_tokens = config.lookahead_tokens

    def acts_on(self, n, n_lookahead):
        return drops(self.config, n, n_lookahead)

    def read(self, target, prompt, lookahead):
        return read_compressed(target, prompt, lookahead.tokens, self.config)


def drops(config: SpecKVConfig, n: int, n_lookahead: int) -> bool:
    """Whether a prompt of n tokens is touched at all (step 2)."""
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
    return read_dropping(
        target,
        prompt,
        n_queries=min(config.window_size + n_lookahead + 1, n + n_lookahead),
        plan=lambda view: plan_layer(view, n, n_lookahead, config),
        lookahead=lookahead,
        positions=positions,
    )


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
