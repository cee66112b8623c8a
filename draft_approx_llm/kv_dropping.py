"""KV dropping as three choices: whose queries score, how scores become importance, how the budget is shared out.

SpecKV (arXiv 2506.08373, section 4) is the draft's lookahead, the maximum, and even shares; other choices give SnapKV,
PyramidKV, Ada-KV, LAQ and combinations that nobody has tried. A method with a score of its own overrides `importance`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import torch

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.importance import kv_importance, pool
from draft_approx_llm.method import Generate, LookAhead, Method, Read, Request
from draft_approx_llm.prefill import KeptPositions, LayerView, first_visible, sparse_attention
from draft_approx_llm.selection import best, best_over_heads, pyramid


class KVDropping(Method):
    """The algorithm box: look ahead, read prompt and lookahead, drop in flight; the last prompt token is fed again."""

    def __init__(self, config: KVConfig) -> None:
        self.config = config

    def steps(self, prompt, request):
        n, wanted = len(prompt), self.config.lookahead_tokens or request.max_new_tokens
        if not self.acts_on(n, 0 if self.config.queries == "window" else wanted):
            return (yield Read(prompt))
        lookahead = yield from self._look_ahead(prompt, wanted, request)
        return (yield self.reading(prompt, lookahead))

    def acts_on(self, n: int, n_ahead: int) -> bool:
        """Whether a prompt of n tokens loses anything; where not, plain inference it is."""
        capacity = self.config.capacity(n)
        return n > capacity if capacity is not None else _is_sparse(self.config, n + n_ahead)

    def _look_ahead(self, prompt: torch.Tensor, wanted: int, request: Request) -> Generator:
        """Steps whose result is the lookahead tokens [L], or None."""
        queries = self.config.queries
        if queries == "draft":
            return (yield LookAhead(prompt, wanted)).tokens
        if queries in ("target", "oracle"):
            read = yield Read(prompt) if queries == "oracle" else self.reading(prompt, None)
            return (yield Generate(read, wanted))
        if queries == "random":
            generator = torch.Generator().manual_seed(self.config.seed + len(prompt))
            vocabulary = request.target.config.get_text_config().vocab_size
            return torch.randint(vocabulary, (wanted,), generator=generator).to(prompt)
        return prompt[-1:].expand(wanted) if queries == "dummy" else None

    def reading(
        self, prompt: torch.Tensor, lookahead: torch.Tensor | None, positions: torch.Tensor | None = None
    ) -> Read:
        """The step that reads and drops; `prompt` [N] exceeds the budget, `lookahead` [L] follows it."""
        config, n, n_ahead = self.config, len(prompt), 0 if lookahead is None else len(lookahead)
        pattern = None
        if _is_sparse(config, n + n_ahead):
            scoring = _Scoring(self, n, n_ahead, self._window(n))
            pattern = _Columns(scoring, config.prefill_window_size, config.prefill_vertical_size)
        return Read(prompt, partial(self.keep, n=n, n_ahead=n_ahead), lookahead, positions, pattern=pattern)

    def _window(self, n: int) -> int:
        capacity = self.config.capacity(n)
        return self.config.window_size if capacity is None else min(self.config.window_size, capacity)

    def importance(self, view: LayerView, n: int, n_ahead: int, window: int) -> torch.Tensor:
        """How much each prompt token before the window matters to each KV head, before pooling.

        Args:
            view: the layer, of n + n_ahead tokens.
            n: prompt tokens, the last one, which is fed again, included.
            n_ahead: lookahead tokens.
            window: prompt tokens before the last one that are kept anyway.

        Returns:
            [H, n - 1 - window] float32. Here: the attention of the last window + 1 + n_ahead queries, reduced.
        """
        scoring = min(window + 1 + n_ahead, n + n_ahead)
        scores = kv_importance(
            view.queries[:, -scoring:], view.keys, view.scaling, self.config.reduction_type, view.sliding_window
        )
        if self.config.head_reduction == "layer":
            over_heads = scores.amax(0) if self.config.reduction_type == "max" else scores.mean(0)
            scores = over_heads.expand_as(scores)
        return scores

    def scores(self, view: LayerView, n: int, n_ahead: int) -> torch.Tensor:
        """`importance` with the window that the budget allows, pooled: [H, n - 1 - window]. Computed once a layer."""
        return _Scoring(self, n, n_ahead, self._window(n))(view)

    def keep(self, view: LayerView, n: int, n_ahead: int) -> KeptPositions:
        """What one layer keeps of a prompt of n tokens: sorted positions below n - 1."""
        config, heads, device = self.config, view.keys.shape[0], view.keys.device
        # The next query is the last prompt token's, fed again at n - 1.
        first = first_visible(n - 1, view.sliding_window)
        capacity = config.capacity(n)
        if capacity is None:
            return torch.arange(first, n - 1, device=device).expand(heads, -1)
        window = self._window(n)
        scores = self.scores(view, n, n_ahead)
        if config.sink_size:
            scores = scores.clone()
            scores[:, : config.sink_size] = float("inf")
        # A sliding-window layer has left the rest behind.
        first = min(first, scores.shape[1])
        scores = scores[:, first:]
        share = capacity - window
        if config.allocation.startswith("pyramid"):
            share = pyramid(share, view.n_layers, n - 1 - window, config.pyramid_beta)[view.layer]
        recent = torch.arange(n - 1 - window, n - 1, device=device)
        if config.allocation.endswith("adaptive"):
            chosen = best_over_heads(scores, share, config.adaptive_floor)
            return [torch.cat([head + first, recent]) for head in chosen]
        chosen = best(scores, share).sort(dim=-1).values + first
        return torch.cat([chosen, recent.expand(heads, -1)], dim=-1)


def _is_sparse(config: KVConfig, n_read: int) -> bool:
    return config.prefill_window_size is not None and n_read > config.prefill_window_size + config.prefill_vertical_size


@dataclass(frozen=True)
class _Scoring:
    """Pooled importance, computed once a layer for all the methods and budgets that score alike."""

    method: KVDropping
    n: int
    n_ahead: int
    window: int

    def __call__(self, view: LayerView) -> torch.Tensor:
        return view.once(self, self._pooled, view)

    def _pooled(self, view: LayerView) -> torch.Tensor:
        config = self.method.config
        scores = self.method.importance(view, self.n, self.n_ahead, self.window)
        return pool(scores, config.pool_type, config.kernel_size)

    def _key(self) -> tuple:
        return (type(self.method), self.n, self.n_ahead, self.window, self.method.config.scoring)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Scoring) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class _Columns:
    """SpecKV's sparse prefill (step 7): a local band, and the best columns of each KV head."""

    scoring: _Scoring
    band: int
    n_columns: int

    def __call__(self, view: LayerView) -> torch.Tensor:
        vertical = best(self.scoring(view), self.n_columns)
        return sparse_attention(
            view.queries, view.keys, view.values, vertical, self.band, view.scaling, view.sliding_window
        )
