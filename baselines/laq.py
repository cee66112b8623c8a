"""LAQ++ (Lookahead Q-Cache, arXiv 2505.20334): the target's own lookahead, over a cache that SnapKV compressed.

First the prompt is read and compressed to the same budget by the window (`first_window_size`), and the target generates
up to `lookahead_tokens` tokens from that; their queries, and the last `window_size` ones of the prompt, then score all
keys.

Defaults: 8 lookahead tokens, first window 32, second window 8 (LAQ, without the ++, has 0); mean, as SnapKV. Different
here: the lookahead tokens are read again after the whole prompt, so that their queries have seen all of it, and the
prompt is prefilled twice; LAQ keeps the queries that they had over the compressed cache.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import KVConfig
from draft_approx_llm.kv_dropping import KVDropping
from draft_approx_llm.method import Generate


@dataclass(frozen=True)
class LAQConfig(KVConfig):
    """The target's own lookahead; see the module."""

    sparse_type: ClassVar[str] = "laq"

    window_size: int = 8
    queries: str = "target"
    lookahead_tokens: int | None = 8
    pool_type: str | None = "mean"
    kernel_size: int = 5
    first_window_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if self.queries != "target":
            raise ValueError(f"queries: {self.queries!r} is not LAQ's. Take sparse_type snapkv for that.")
        self.first_stage()

    def first_stage(self) -> KVConfig:
        """How the cache is compressed over which the lookahead is generated."""
        try:
            return KVConfig(
                self.max_capacity_prompt,
                self.budget_ratio,
                self.first_window_size,
                pool_type=self.pool_type,
                kernel_size=self.kernel_size,
                reduction_type=self.reduction_type,
            )
        except ValueError as error:
            raise ValueError(f"first_{error}") from None

    def build(self):
        return LAQ(self)


class LAQ(KVDropping):
    """Two stages; see the module."""

    def steps(self, prompt, request):
        first, second = KVDropping(self.config.first_stage()), KVDropping(self.config)
        if not self.acts_on(len(prompt), 0):
            return (yield from first.steps(prompt, request))
        compressed = yield first.reading(prompt, None)
        lookahead = yield Generate(compressed, self.config.lookahead_tokens or request.max_new_tokens)
        return (yield second.reading(prompt, lookahead))
