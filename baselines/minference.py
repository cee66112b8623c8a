"""MInference's vertical-slash prefill (arXiv 2407.02490): sparse attention in the prefill; every KV pair is kept.

The prompt's last 64 queries estimate, for each query head, which columns and which diagonals carry the attention.
Defaults: the paper's 1000 columns and 6096 diagonals, of which the first 30 columns and the nearest 100 diagonals are
forced, as in the official code. The official code picks a pattern and sizes for each head by a search on the model, and
runs on blocks of 64: here every head has this pattern, exactly, by masked dense attention. So the scores are the
pattern's, and the time is not.
"""

from dataclasses import dataclass
from typing import ClassVar

from draft_approx_llm.configs import MethodConfig, check_int
from draft_approx_llm.method import Method, Read
from draft_approx_llm.vertical_slash import choose_vertical_slash, vertical_slash_attention


@dataclass(frozen=True)
class MInferenceConfig(MethodConfig):
    """Args: columns and diagonals each query head sees, how many of them are forced, and the queries that choose."""

    sparse_type: ClassVar[str] = "minference"

    vertical_size: int = 1000
    slash_size: int = 6096
    first_size: int = 30
    recent_size: int = 100
    window_size: int = 64

    def __post_init__(self):
        for name in ("vertical_size", "slash_size", "window_size"):
            check_int(self, name, 1)
        for name, size in (("first_size", self.vertical_size), ("recent_size", self.slash_size)):
            check_int(self, name, 0)
            if getattr(self, name) > size:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is more than the {size} there are to choose. Lower it."
                )
        if self.recent_size < 1:
            raise ValueError("recent_size: must be at least 1, or a query might see nothing")

    def build(self):
        return MInference(self)


class MInference(Method):
    """Reads everything through the pattern."""

    def __init__(self, config):
        self.config = config

    def steps(self, prompt, request):
        return (yield Read(prompt, pattern=VerticalSlash(self.config)))


@dataclass(frozen=True)
class VerticalSlash:
    """The pattern as a prefill's attention: a layer's view to its output [Hq, N, D]."""

    config: MInferenceConfig

    def __call__(self, view):
        config = self.config
        vertical, slash = choose_vertical_slash(
            view.queries[:, -config.window_size :],
            view.keys,
            view.scaling,
            config.vertical_size,
            config.slash_size,
            config.first_size,
            config.recent_size,
            view.sliding_window,
        )
        return vertical_slash_attention(
            view.queries, view.keys, view.values, vertical, slash, view.scaling, view.sliding_window
        )
