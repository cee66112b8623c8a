"""SpecKV-PC: SpecPC shortens the prompt, SpecKV drops KV pairs of what is left (arXiv 2506.08373, section 6)."""

from __future__ import annotations

import torch

from draft_approx_llm.configs import SpecKVPCConfig
from draft_approx_llm.kv_dropping import KVDropping
from draft_approx_llm.method import Kept, Method, Read, check_listened_layer, read_kept
from draft_approx_llm.specpc import ask, choose


class SpecKVPC(Method):
    """The cascade; the draft runs once, and its lookahead serves both."""

    def __init__(self, config: SpecKVPCConfig) -> None:
        self.config, self.speckv = config, KVDropping(config.speckv_config)

    def check(self, target, draft):
        check_listened_layer(self.config.specpc_config.starting_layer_index, draft, "draft")

    def steps(self, prompt, request):
        pc, n = self.config.specpc_config, len(prompt)
        wanted = pc.lookahead_tokens or request.max_new_tokens
        if n <= pc.capacity(n) and not self.speckv.acts_on(n, wanted):
            return (yield Read(prompt))
        ahead = yield ask(prompt, request, pc)
        kept = torch.arange(n, device=prompt.device)
        if n > pc.capacity(n):
            kept = choose(ahead.scores, pc)
        original = pc.position_ids == "original"
        if not self.speckv.acts_on(len(kept), len(ahead.tokens)):
            return (yield from read_kept(prompt, kept, original))
        result = yield self.speckv.reading(prompt[kept], ahead.tokens, kept if original else None)
        # Positions in what was read become positions in the caller's prompt.
        in_prompt = [
            kept[layer] if isinstance(layer, torch.Tensor) else [kept[head] for head in layer]
            for layer in result.kept.cache
        ]
        result.kept = Kept(kept, in_prompt)
        return result
