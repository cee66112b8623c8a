"""How well a lookahead's importance agrees with the true answer's, and what becomes of a draft that is worse."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from transformers import PreTrainedModel

from draft_approx_llm import SpecKVConfig
from draft_approx_llm.kv_dropping import KVDropping
from draft_approx_llm.method import Request
from draft_approx_llm.reading import read_prompts
from draft_approx_llm.timing import Timer

SOURCES = ("draft", "window", "random", "dummy")
"""Whose queries are compared with the oracle's: `KVConfig.queries`."""


class Recorder(KVDropping):
    """SpecKV that also remembers each layer's pooled importance, [H, N - 1 - window] a layer."""

    def __init__(self, config: SpecKVConfig) -> None:
        super().__init__(config)
        self.layers: list[np.ndarray] = []

    def keep(self, view, n, n_ahead):
        # the same memo serves `keep`: nothing is computed twice
        self.layers.append(self.scores(view, n, n_ahead).cpu().numpy())
        return super().keep(view, n, n_ahead)


@dataclass(frozen=True)
class Agreement:
    """With the oracle's importance, [layers] each, mean over KV heads.

    Attributes:
        correlation: Spearman's, over the prompt's tokens before the window.
        overlap: share of the oracle's k best that are among the source's k best.
    """

    correlation: np.ndarray
    overlap: np.ndarray


def agreements(
    target: PreTrainedModel,
    draft: PreTrainedModel | None,
    prompt: torch.Tensor,
    settings: SpecKVConfig,
    max_new_tokens: int,
    sources: Sequence[str] = SOURCES,
) -> dict[str, Agreement]:
    """{source: agreement} on one prompt [N]; all sources read it in one prefill a lookahead.

    `settings` say how queries become importance and give the budget, whose part outside the window is k. Raises
    ValueError if the prompt is not longer than the budget.
    """
    if len(prompt) <= (settings.max_capacity_prompt or 0):
        raise ValueError(f"a prompt of {len(prompt)} tokens is within the budget of {settings.max_capacity_prompt}")
    values = settings.to_dict()
    recorders = [Recorder(SpecKVConfig.from_dict({**values, "queries": queries})) for queries in ("oracle", *sources)]
    stops = target.generation_config.eos_token_id
    stops = () if stops is None else tuple(stops) if isinstance(stops, list) else (stops,)
    request = Request(max_new_tokens, stops, target, Timer(target.device))
    with torch.no_grad():
        read_prompts(target, draft, recorders, [prompt] * len(recorders), request)
    k = settings.max_capacity_prompt - settings.window_size
    oracle, *others = recorders
    return {
        source: Agreement(
            np.array([spearman(a, b).mean() for a, b in zip(one.layers, oracle.layers, strict=True)]),
            np.array([overlap(a, b, k).mean() for a, b in zip(one.layers, oracle.layers, strict=True)]),
        )
        for source, one in zip(sources, others, strict=True)
    }


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of [H, S] and [H, S]: [H]. Ties share their mean rank; a constant row has 0."""
    ranks = [rankdata(scores, axis=-1) for scores in (a, b)]
    x, y = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.divide((x * y).sum(-1), norm, out=np.zeros(len(norm)), where=norm > 0)


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """Share of b's k best that are among a's k best, for each row of [H, S]: [H]. Ties go to the lower position."""
    best = [np.argsort(-scores, axis=-1, kind="stable")[:, :k] for scores in (a, b)]
    return np.array([len(np.intersect1d(x, y)) / len(y) for x, y in zip(*best, strict=True)])


def noisy(model: PreTrainedModel, scale: float, seed: int) -> PreTrainedModel:
    """A copy whose matrices have normal noise of `scale` times their own standard deviation: a worse draft."""
    result = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in result.parameters():
            if weight.dim() > 1:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight += scale * weight.std() * noise
    return result


def token_agreement(guess: Sequence[int], answer: Sequence[int]) -> float:
    """Share of the answer's tokens that the guess has at the same place, 0 to 1."""
    return sum(a == b for a, b in zip(guess, answer, strict=False)) / len(answer)
