"""SpecKV-PC: SpecPC shortens the prompt, SpecKV drops KV pairs of what is left (arXiv 2506.08373, section 6)."""

from __future__ import annotations

import torch

from draft_approx_llm.configs import SpecKVPCConfig
from draft_approx_llm.lookahead import look_ahead
from draft_approx_llm.method import Kept, Method, read_all
from draft_approx_llm.speckv import acts_on, read_compressed
from draft_approx_llm.specpc import check_starting_layer, choose


class SpecKVPC(Method):
    """The cascade; the draft runs once, and its lookahead serves both."""

    def __init__(self, config: SpecKVPCConfig) -> None:
        self.config = config

    def check(self, target, draft):
        check_starting_layer(draft, self.config.specpc_config)

    def prefill(self, target, draft, request):
        pc = self.config.specpc_config
        n_lookahead = request.lookahead_tokens(pc.lookahead_tokens)
        rows = [row for row, prompt in enumerate(request.prompts) if self._acts_on(len(prompt), n_lookahead)]
        with request.timer("draft"):
            chosen = [request.prompts[row] for row in rows]
            found = look_ahead(draft, chosen, n_lookahead, request.eos_token_ids, pc) if rows else []
        lookaheads = dict(zip(rows, found, strict=True))
        with request.timer("prefill"):
            return [self._read(target, prompt, lookaheads.get(row)) for row, prompt in enumerate(request.prompts)]

    def _acts_on(self, n: int, n_lookahead: int) -> bool:
        pc, kv = self.config.specpc_config, self.config.speckv_config
        return n > pc.max_capacity_prompt or acts_on(kv, n, n_lookahead)

    def _read(self, target, prompt, lookahead):
        if lookahead is None:
            return read_all(target, prompt)
        pc, kv = self.config.specpc_config, self.config.speckv_config
        n = len(prompt)
        read = choose(lookahead.scores, pc) if n > pc.max_capacity_prompt else torch.arange(n, device=prompt.device)
        positions = read if pc.position_ids == "original" else None
        if acts_on(kv, len(read), len(lookahead.tokens)):
            result = read_compressed(target, prompt[read], lookahead.tokens, kv, positions)
            result.kept = Kept(read, [read[positions_kept] for positions_kept in result.kept.cache])
        else:
            result = read_all(target, prompt[read], positions=positions, next_position=None if positions is None else n)
            result.kept = Kept(read)
        result.stats["prompt_tokens"] = n
        result.stats["lookahead_tokens"] = len(lookahead.tokens)
        result.stats["draft_cache_bytes"] = lookahead.cache_bytes
        return result
