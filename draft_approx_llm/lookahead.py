"""What the draft gives: lookahead tokens, and a record of its attention over the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.cache import CompactCache, merge
from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.importance import prompt_importance, reduce
from draft_approx_llm.prefill import Prefill, read, step


@dataclass
class Lookahead:
    """A draft's view of one prompt [N].

    Attributes:
        tokens: [L] greedily generated ids, EOS included where the draft stopped by itself.
        scores: [N] float32 importance of the prompt's tokens before pooling (SpecPC, steps 1 and 2); None if not asked.
        cache_bytes: the draft's keys and values of the prompt.
    """

    tokens: torch.Tensor
    scores: torch.Tensor | None
    cache_bytes: int


class _ListeningPrefill(Prefill):
    """Records what the prompt's last `window_size` queries attend to, one [N] vector a layer."""

    def __init__(self, config: SpecPCConfig) -> None:
        self.config = config
        self.layers: list[torch.Tensor] = []

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        config = self.config
        if module.layer_idx >= config.starting_layer_index:
            score = prompt_importance(
                query[0, :, -config.window_size :],
                key[0],
                kwargs["scaling"],
                config.reduction_type,
                config.weighted_query,
                kwargs.get("sliding_window"),
            )
            self.layers.append(score)
        return super().__call__(delegate, module, query, key, value, attention_mask, **kwargs)

    def score(self) -> torch.Tensor:
        return reduce(torch.stack(self.layers), 0, self.config.reduction_type)


class _ListeningStep(CompactAttention):
    """Records what one decoded token a row attends to in its prompt, one [N] vector a layer and row."""

    def __init__(
        self, cache: CompactCache, index: torch.Tensor, newest: int, config: SpecPCConfig, prompts: list[torch.Tensor]
    ) -> None:
        super().__init__(cache, index, newest)
        self.config, self.prompts = config, prompts
        self.rows: list[list[torch.Tensor]] = [[] for _ in prompts]

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        if module.layer_idx >= self.config.starting_layer_index:
            for row, prompt in enumerate(self.prompts):
                entries, positions = self.cache.layers[module.layer_idx].entries(row)
                score = prompt_importance(
                    query[row],
                    key[row, :, entries],
                    kwargs["scaling"],
                    self.config.reduction_type,
                    weighted=False,
                    sliding_window=kwargs.get("sliding_window"),
                )
                # A sliding-window layer has forgotten the start of the prompt, which gets nothing.
                whole = score.new_zeros(len(prompt) + len(score))
                whole[positions] = score
                self.rows[row].append(whole[: len(prompt)])
        return super().__call__(delegate, module, query, key, value, attention_mask, **kwargs)

    def scores(self) -> list[torch.Tensor]:
        return [reduce(torch.stack(layers), 0, self.config.reduction_type) for layers in self.rows]


def look_ahead(
    draft: PreTrainedModel,
    prompts: list[torch.Tensor],
    n_tokens: int,
    eos_token_ids: tuple[int, ...],
    listen: SpecPCConfig | None = None,
) -> list[Lookahead]:
    """Lets the draft read each prompt and generate up to `n_tokens` tokens greedily, all rows as one batch.

    Args:
        draft: the draft model.
        prompts: a [N] tensor of ids a row; results come back on the same device.
        n_tokens: lookahead tokens, at least 1.
        eos_token_ids: ids after which a row stops.
        listen: also record attention, as this configuration says.

    Returns:
        One `Lookahead` a prompt.
    """
    device = draft.device
    here = [prompt.to(device) for prompt in prompts]
    caches, logits, recorded = [], [], []
    for prompt in here:
        hook = None if listen is None else _ListeningPrefill(listen)
        cache, row_logits = read(draft, prompt, hook)
        caches.append(cache)
        logits.append(row_logits)
        recorded.append([] if hook is None else [hook.score()])
    cache_bytes = [cache.nbytes() for cache in caches]
    tokens = _greedy(draft, here, caches, torch.cat(logits), n_tokens, eos_token_ids, listen, recorded)
    return [
        Lookahead(
            torch.tensor(row, device=prompt.device),
            None if listen is None else reduce(torch.stack(scores), 0, listen.reduction_type).to(prompt.device),
            n_bytes,
        )
        for row, scores, n_bytes, prompt in zip(tokens, recorded, cache_bytes, prompts, strict=True)
    ]


def _greedy(draft, prompts, caches, logits, n_tokens, eos_token_ids, listen, recorded) -> list[list[int]]:
    """Generates for all rows at once; `recorded` gains a score for every token an unfinished row decodes."""
    tokens: list[list[int]] = [[] for _ in prompts]
    alive = [True] * len(prompts)
    cache = None
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=logits.device)
    longest = max(len(prompt) for prompt in prompts)
    for n_done in range(n_tokens):
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if alive[row]:
                tokens[row].append(token)
                alive[row] = token not in eos_token_ids
        if n_done + 1 == n_tokens or not any(alive):
            return tokens
        cache = merge(caches) if cache is None else cache
        index, newest = lengths + n_done, longest + n_done
        if listen is None:
            logits = step(draft, chosen, index, CompactAttention(cache, index, newest))
            continue
        hook = _ListeningStep(cache, index, newest, listen, prompts)
        logits = step(draft, chosen, index, hook)
        for row, score in enumerate(hook.scores()):
            if alive[row]:
                recorded[row].append(score)
    return tokens
