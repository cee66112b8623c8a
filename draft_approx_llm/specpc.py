"""SpecPC: the draft's attention decides which prompt tokens the target reads (arXiv 2506.08373, section 5)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.importance import pool
from draft_approx_llm.lookahead import look_ahead
from draft_approx_llm.method import Kept, Method, read_all
from draft_approx_llm.selection import keep_prompt


class SpecPC(Method):
    """The algorithm box: let the draft read, pool its attention, keep the best tokens, read those with the target."""

    def __init__(self, config: SpecPCConfig) -> None:
        self.config = config

    def check(self, target, draft):
        check_starting_layer(draft, self.config)

    def prefill(self, target, draft, request):
        rows = [row for row, prompt in enumerate(request.prompts) if len(prompt) > self.config.max_capacity_prompt]
        n_lookahead = request.lookahead_tokens(self.config.lookahead_tokens)
        with request.timer("draft"):
            chosen = [request.prompts[row] for row in rows]
            found = look_ahead(draft, chosen, n_lookahead, request.eos_token_ids, self.config) if rows else []
            kept = {row: choose(lookahead.scores, self.config) for row, lookahead in zip(rows, found, strict=True)}
        lookaheads = dict(zip(rows, found, strict=True))
        results = []
        with request.timer("prefill"):
            for row, prompt in enumerate(request.prompts):
                if row not in kept:
                    results.append(read_all(target, prompt))
                    continue
                positions = kept[row] if self.config.position_ids == "original" else None
                next_position = len(prompt) if positions is not None else None
                result = read_all(target, prompt[kept[row]], len(prompt), positions, next_position)
                result.kept = Kept(prompt=kept[row])
                result.stats["lookahead_tokens"] = len(lookaheads[row].tokens)
                result.stats["draft_cache_bytes"] = lookaheads[row].cache_bytes
                results.append(result)
        return results


def choose(scores: torch.Tensor, config: SpecPCConfig) -> torch.Tensor:
    """Steps 3 to 5: importance [N], N above the capacity, to the sorted positions [C] that the target reads."""
    neighbours = config.kernel_size if config.neighbor_tokens is None else config.neighbor_tokens
    pooled = pool(scores, config.pool_type, config.kernel_size)
    return keep_prompt(pooled, config.max_capacity_prompt, config.window_size, neighbours)


def check_starting_layer(draft: PreTrainedModel, config: SpecPCConfig) -> None:
    """Raises ValueError where the draft has no layer to listen to."""
    layers = draft.config.get_text_config().num_hidden_layers
    if config.starting_layer_index >= layers:
        raise ValueError(
            f"starting_layer_index: {config.starting_layer_index} is past the draft's {layers} layers (0 to "
            f"{layers - 1}). Choose a lower one."
        )
