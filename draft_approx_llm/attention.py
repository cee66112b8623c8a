"""Seeing every layer's post-RoPE queries, keys and values, in any family, through transformers' attention registry.

`hooked(model, hook)` is a context: while it lasts the model's attention calls go to `hook`, which may delegate to the
implementation that the user chose. No forward is copied, no class is patched, and nothing stays behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from draft_approx_llm.cache import CompactCache, RaggedLayer

PREFIX = "draft_approx_"

_hook: ContextVar[AttentionHook] = ContextVar("draft_approx_hook")


class AttentionHook:
    """What happens at each attention call of a forward. Subclasses override `__call__`.

    Attributes:
        own_mask: True where the hook makes its masks from the cache, so that transformers need not build one.
        cache: the cache that the forward fills.
    """

    own_mask = False
    cache: CompactCache

    def __call__(
        self,
        delegate: Callable[..., tuple[torch.Tensor, Any]],
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        """One layer's attention: query [B, Hq, n, D], key and value [B, H, S, D], to output [B, n, Hq, D].

        `delegate` is the user's attention implementation, with transformers' signature.
        """
        raise NotImplementedError


@contextmanager
def hooked(model: PreTrainedModel, hook: AttentionHook) -> Iterator[None]:
    """Sends the model's attention calls to `hook` for the duration of the context."""
    chosen = model.config._attn_implementation
    name = _registered_name(chosen, hook.own_mask)
    token = _hook.set(hook)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
        _hook.reset(token)


def _registered_name(chosen: str, own_mask: bool) -> str:
    """The name under which the hook stands in for the implementation `chosen`; registered at its first use."""
    name = f"{PREFIX}{'own_mask_' if own_mask else ''}{chosen}"
    if name not in ALL_ATTENTION_FUNCTIONS:

        def attention(module, query, key, value, attention_mask, **kwargs):
            def delegate(*args, **delegate_kwargs):
                # Flash attention reads the implementation's name off the config to find its kernels.
                module.config._attn_implementation_internal = chosen
                try:
                    return _implementation(chosen, module)(*args, **delegate_kwargs)
                finally:
                    module.config._attn_implementation_internal = name

            # Flash attention would take positions with gaps for several packed sequences.
            kwargs.pop("position_ids", None)
            return _hook.get()(delegate, module, query, key, value, attention_mask, **kwargs)

        AttentionInterface.register(name, attention)
        # Without a mask function of the same name, transformers would silently ignore padding.
        AttentionMaskInterface.register(name, _no_mask if own_mask else AttentionMaskInterface._global_mapping[chosen])
    return name


def _implementation(chosen: str, module: torch.nn.Module) -> Callable[..., tuple[torch.Tensor, Any]]:
    if chosen == "eager":  # not in the registry: each family brings its own
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[chosen]


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


class CompactAttention(AttentionHook):
    """Attention of one new token a row over a compacted cache, whatever each row and head has kept."""

    own_mask = True

    def __init__(self, cache: CompactCache, index: torch.Tensor, newest: int) -> None:
        """`index` [B]: place in the sequence of each row's token; `newest`: its maximum, as a number."""
        self.cache, self.index, self.newest = cache, index, newest

    def __call__(self, delegate, module, query, key, value, attention_mask, **kwargs):
        layer, sliding_window = self.cache.layers[module.layer_idx], kwargs.pop("sliding_window", None)
        if isinstance(layer, RaggedLayer):
            output = layer.attend(query[:, :, 0], kwargs["scaling"], self.index, self.newest, sliding_window)
            return output[:, None], None
        seen = layer.visible(self.index, self.newest, sliding_window)
        if seen is None:
            return delegate(module, query, key, value, None, **kwargs)
        if seen.shape[1] > 1:
            seen = seen.repeat_interleave(query.shape[1] // seen.shape[1], dim=1)
        return sdpa_attention_forward(module, query, key, value, seen[:, :, None, :], **kwargs)
