"""What a draft gives: lookahead tokens, and a record of its attention over the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from draft_approx_llm.attention import CompactAttention
from draft_approx_llm.cache import CompactCache, merge
from draft_approx_llm.importance import prompt_importance, reduce
from draft_approx_llm.method import Listen
from draft_approx_llm.prefill import Prefill, read, step


@dataclass
class Lookahead:
    """A model's view of one prompt [N].

    Attributes:
        tokens: [L] greedily generated ids, EOS included where the model stopped by itself.
        scores: [N] float32 importance of the prompt's tokens before pooling (SpecPC, steps 1 and 2); None if not asked.
        cache_tokens, cache_bytes: KV entries a head, and their bytes, that the model held of the prompt.
    """

    tokens: torch.Tensor
    scores: torch.Tensor | None
    cache_tokens: float
    cache_bytes: int


@dataclass
class LongestLookahead:
    """A lookahead from which shorter ones, listened to in several ways, are taken.

    Attributes:
        rows: for each way of listening, [N] scores of the prompt's own queries and of each token fed after it.
    """

    tokens: torch.Tensor
    rows: dict[Listen, list[torch.Tensor]]
    cache_tokens: float
    cache_bytes: int

    def first(self, n: int, listen: Listen | None = None) -> Lookahead:
        """What looking ahead by n tokens, and listening so, would have given: decoding is greedy and causal."""
        tokens, scores = self.tokens[:n], None
        if listen is not None:
            # The last token is never fed, so it attends to nothing.
            rows = torch.stack(self.rows[listen][: len(tokens)])
            scores = reduce(rows, 0, listen.step_reduction or listen.reduction_type).to(tokens.device)
        return Lookahead(tokens, scores, self.cache_tokens, self.cache_bytes)


def _importance(
    listen: Listen, queries: torch.Tensor, keys: torch.Tensor, scaling: float, sliding_window: int | None
) -> torch.Tensor:
    return prompt_importance(
        queries[:, -listen.window_size :],
        keys,
        scaling,
        listen.reduction_type,
        listen.weighted_query and queries.shape[1] > 1,
        sliding_window,
        listen.pool_type,
        listen.kernel_size,
    )


class _ListeningPrefill(Prefill):
    """Records what the prompt's last queries attend to, one [N] vector a layer and way of listening."""

    def __init__(self, listens: Sequence[Listen]) -> None:
        super().__init__()
        self.layers: dict[Listen, list[torch.Tensor]] = {listen: [] for listen in listens}

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        for listen, layers in self.layers.items():
            if module.layer_idx >= listen.starting_layer_index:
                window = kwargs.get("sliding_window")
                layers.append(_importance(listen, query[0], key[0], kwargs["scaling"], window))
        return super().__call__(delegate, module, query, key, value, attention_mask, **kwargs)


class _ListeningStep(CompactAttention):
    """Records what one decoded token a row attends to in its prompt: [N] a layer, row and way of listening."""

    def __init__(
        self,
        cache: CompactCache,
        index: torch.Tensor,
        newest: int,
        listens: Sequence[Sequence[Listen]],
        lengths: Sequence[int],
    ) -> None:
        super().__init__(cache, index, newest)
        self.lengths = lengths
        self.rows: list[dict[Listen, list[torch.Tensor]]] = [{listen: [] for listen in row} for row in listens]

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        for row, (n, layers) in enumerate(zip(self.lengths, self.rows, strict=True)):
            listens = [listen for listen in layers if module.layer_idx >= listen.starting_layer_index]
            if not listens:
                continue
            keys, positions = self.cache.layers[module.layer_idx].row(row)
            for listen in listens:
                score = _importance(listen, query[row], keys, kwargs["scaling"], kwargs.get("sliding_window"))
                # A sliding-window layer has forgotten the start of the prompt, which gets nothing.
                whole = score.new_zeros(n + len(score))
                whole[positions] = score
                layers[listen].append(whole[:n])
        return super().__call__(delegate, module, query, key, value, attention_mask, **kwargs)


def _over_layers(recorded: dict[Listen, list[torch.Tensor]]) -> dict[Listen, torch.Tensor]:
    return {listen: reduce(torch.stack(layers), 0, listen.reduction_type) for listen, layers in recorded.items()}


def look_ahead(
    model: PreTrainedModel,
    prompts: Sequence[torch.Tensor],
    n_tokens: Sequence[int],
    eos_token_ids: tuple[int, ...],
    listens: Sequence[Sequence[Listen]] | None = None,
) -> list[LongestLookahead]:
    """Lets a model read each prompt and generate greedily, all rows as one batch.

    Args:
        model: the draft, say.
        prompts: a [N] tensor of ids a row; results come back on the same device.
        n_tokens: a row's lookahead tokens at most, at least 1.
        eos_token_ids: ids after which a row stops.
        listens: ways of recording attention, distinct ones, for each row.

    Returns:
        One `LongestLookahead` a prompt.
    """
    listens = [()] * len(prompts) if listens is None else listens
    here = [prompt.to(model.device) for prompt in prompts]
    caches, logits, recorded = [], [], []
    for prompt, row_listens in zip(here, listens, strict=True):
        hook, row_logits = read(model, prompt, _ListeningPrefill(row_listens))
        caches.append(hook.branches[0].cache)
        logits.append(row_logits)
        recorded.append({listen: [score] for listen, score in _over_layers(hook.layers).items()})
    sizes = [(cache.entries_per_head(), cache.nbytes()) for cache in caches]
    tokens = _greedy(model, here, caches, torch.cat(logits), n_tokens, eos_token_ids, listens, recorded)
    return [
        LongestLookahead(torch.tensor(row, device=prompt.device), scores, *size)
        for row, scores, size, prompt in zip(tokens, recorded, sizes, prompts, strict=True)
    ]


def _greedy(model, prompts, caches, logits, n_tokens, eos_token_ids, listens, recorded) -> list[list[int]]:
    """Generates for all rows at once; `recorded` gains scores for every token that an unfinished row feeds."""
    tokens: list[list[int]] = [[] for _ in prompts]
    alive = [True] * len(prompts)
    cache = None
    lengths = [len(prompt) for prompt in prompts]
    index, newest = torch.tensor(lengths, device=logits.device), max(lengths)
    while True:
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if alive[row]:
                tokens[row].append(token)
                alive[row] = token not in eos_token_ids and len(tokens[row]) < n_tokens[row]
        if not any(alive):
            return tokens
        cache = merge(caches) if cache is None else cache
        # A row that has ended goes along, unheard.
        heard = [row_listens if alive[row] else () for row, row_listens in enumerate(listens)]
        hook = _ListeningStep(cache, index, newest, heard, lengths)
        logits = step(model, chosen, index, hook)
        index, newest = index + 1, newest + 1
        for row, scores in enumerate(hook.rows):
            for listen, score in _over_layers(scores).items():
                recorded[row][listen].append(score)
