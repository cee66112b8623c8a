"""SpecKV-PC: SpecPC shortens the prompt, SpecKV drops KV pairs of what is left (arXiv 2506.08373, section 6)."""

from __future__ import annotations

import torch

from draft_approx_llm.configs import SpecKVPCConfig
from draft_approx_llm.draft_guided import DraftGuided
from draft_approx_llm.method import Kept, read_all
from draft_approx_llm.speckv import drops, read_compressed
from draft_approx_llm.specpc import choose


class SpecKVPC(DraftGuided):
    """The cascade; the draft runs once, and its lookahead serves both."""

    def __init__(self, config: SpecKVPCConfig) -> None:
        self.config = config
        self.listen = config.specpc_config
        self.lookahead_tokens = config.specpc_config.lookahead_tokens

    def acts_on(self, n, n_lookahead):
        return n > self.config.specpc_config.max_capacity_prompt or drops(self.config.speckv_config, n, n_lookahead)

    def read(self, target, prompt, lookahead):
        pc, kv = self.config.specpc_config, self.config.speckv_config
        n = len(prompt)
        kept = choose(lookahead.scores, pc) if n > pc.max_capacity_prompt else torch.arange(n, device=prompt.device)
        positions = kept if pc.position_ids == "original" else None
        if not drops(kv, len(kept), len(lookahead.tokens)):
            result = read_all(target, prompt[kept], positions, None if positions is None else n)
            result.kept = Kept(prompt=kept)
            return result
        result = read_compressed(target, prompt[kept], lookahead.tokens, kv, positions)
        # Positions in what was read become positions in the caller's prompt.
        result.kept = Kept(kept, [kept[layer] for layer in result.kept.cache])
        return result
