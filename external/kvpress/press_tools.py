"""What kvpress's worker and the position helper share. Runs in `.envs/kvpress` (transformers < 5.3), never in ours."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import kvpress
import torch
from transformers import DynamicCache


class PressError(ValueError):
    """A press that cannot be made or cannot keep to the budget; the text is for the user."""


def build_press(name: str, args: dict[str, Any]) -> kvpress.BasePress:
    """The press of that class name. A value of `args` of the form {press: Name, press_args: {...}} is a press itself,
    as wrappers such as AdaKVPress take one. Raises PressError."""
    kind = getattr(kvpress, name, None)
    if not (isinstance(kind, type) and issubclass(kind, kvpress.BasePress)):
        known = sorted(n for n in kvpress.__all__ if n.endswith("Press"))
        raise PressError(f"press: kvpress has no {name!r}. Valid: {', '.join(known)}")
    try:
        return kind(**{key: _nested(value) for key, value in args.items()})
    except (TypeError, AssertionError) as exc:
        raise PressError(f"press_args: {name} does not take {args}: {exc}") from exc


def _nested(value: Any) -> Any:
    if isinstance(value, dict) and "press" in value:
        return build_press(value["press"], value.get("press_args") or {})
    return [_nested(item) for item in value] if isinstance(value, list) else value


def ratio_for(kept: int, length: int) -> float:
    """The compression ratio at which presses keep exactly `kept` of `length` entries; 0 where nothing is to go.

    Presses keep `int(length * (1 - ratio))`, or `round` of it: 1 - kept / length itself often comes out one short.
    """
    if kept >= length:
        return 0.0
    ratio = 1 - kept / length
    while int(length * (1 - ratio)) < kept:
        ratio = math.nextafter(ratio, 0.0)
    return ratio


def set_ratio(press: kvpress.BasePress, ratio: float) -> None:
    """Gives the press its compression ratio. Raises PressError for a press without one."""
    try:
        if "compression_ratio" not in dir(press):  # hasattr would ask for its value
            raise AttributeError("it has none")
        press.compression_ratio = ratio
    except AttributeError as exc:
        raise PressError(
            f"{type(press).__name__} takes no compression ratio ({exc}). "
            "Leave max_capacity_prompt and budget_ratio out, and set its own parameters in press_args"
        ) from exc


def attention_layers(model: Any) -> list[torch.nn.Module]:
    """The model's attention modules, in order."""
    inner = getattr(model.model, "language_model", model.model)
    return [layer.self_attn for layer in inner.layers]


@contextlib.contextmanager
def before_compression(model: Any, look: Any) -> Iterator[None]:
    """Calls `look(layer index, cache)` when a layer's keys are all there and the press has not compressed them yet.

    To be entered before the press: hooks run in the order in which they were registered.
    """

    def hook(module, args, kwargs, output):
        look(module.layer_idx, kwargs["past_key_values"])

    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in attention_layers(model)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def prefill(model: Any, press: kvpress.BasePress, ids: torch.Tensor, look: Any) -> DynamicCache:
    """Reads ids [1, N] under the press; `look` as in `before_compression`. The cache is what the press left of it."""
    for module in attention_layers(model):
        module.masked_key_indices = None  # head-wise presses leave theirs behind
    cache = DynamicCache()
    # a DecodingPress compresses while tokens are generated, not here
    pressing = contextlib.nullcontext() if isinstance(press, kvpress.DecodingPress) else press(model)
    with before_compression(model, look), pressing:
        model.model(input_ids=ids, past_key_values=cache)
    return cache


def cache_bytes(cache: DynamicCache, model: Any = None) -> int:
    """Bytes of all keys and values held. With a model, those that a press masked there are left out."""
    masked = masked_entries(model) if model else [0] * len(cache.layers)
    held = [layer for layer in cache.layers if layer.is_initialized]
    entries = [layer.keys.shape[1] * layer.keys.shape[2] for layer in held]
    return sum(
        (layer.keys.nbytes + layer.values.nbytes) * (n - gone) // n
        for layer, n, gone in zip(held, entries, masked, strict=False)
    )


def kept_tokens(model: Any, cache: DynamicCache) -> float:
    """KV entries a head, mean over layers and heads; those that a press masks do not count."""
    shapes = [layer.keys.shape for layer in cache.layers]
    kept = [heads * n - gone for (_, heads, n, _), gone in zip(shapes, masked_entries(model), strict=True)]
    return sum(kept) / sum(heads for _, heads, _, _ in shapes)


def masked_entries(model: Any) -> list[int]:
    """How many of each layer's entries a head-wise press masks: they are held, and not attended to."""
    masked = [getattr(module, "masked_key_indices", None) for module in attention_layers(model)]
    return [0 if indices is None else len(indices[0]) for indices in masked]
