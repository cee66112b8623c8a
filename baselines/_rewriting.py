"""Prompt compressors that rewrite text, held to a budget in the target's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

TRIES = 8
"""Of a compressor, to meet the budget."""
CLOSE = 0.95
"""Share of the budget that is near enough."""

Compress = Callable[[str, str, int, int, float], str]
"""(passage, question, the passage's tokens, the tokens allowed, scale of these) -> the shortened passage."""


def rewrite(
    ids: list[int], capacity: int, window: int, tokenizer: Any, compress: Compress
) -> tuple[list[int], dict[str, float]]:
    """A prompt's token ids within the budget: (ids, stats). One within it already is left as it is, without stats.

    What is compressed is the longest stretch without special tokens, the last `window` tokens left out: chat markers
    and window stay token for token. A compressor counts with its own tokenizer, so it is asked again at another scale
    of the budget, until what it gives fits by the target's and leaves little unused. If none of `TRIES` answers fits,
    the shortest is cut.

    Args:
        ids: of the prompt, by the target's tokenizer; capacity: how many may remain.
        window: last tokens that stay; their text is the compressor's question.

    Returns:
        stats: `tries`, and `cut_tokens` if no answer fitted.

    Raises:
        ValueError: what stays fills the budget.
    """
    if len(ids) <= capacity:
        return ids, {}
    first, last = longest_stretch(ids[: len(ids) - window], set(tokenizer.all_special_ids))
    before, passage, after = ids[:first], ids[first:last], ids[last:]
    budget = capacity - len(before) - len(after)
    if budget < 1:
        raise ValueError(
            f"{len(before) + len(after)} of {len(ids)} tokens stay as they are (window, chat markers), "
            f"which leaves nothing of a budget of {capacity}"
        )
    text = tokenizer.decode(passage, clean_up_tokenization_spaces=False)
    question = tokenizer.decode(ids[len(ids) - window :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    scale, fitting, over = 1.0, {}, {}
    for _ in range(TRIES):
        shorter = compress(text, question, len(passage), budget, scale)
        tokens = tokenizer(shorter, add_special_tokens=False)["input_ids"]
        (fitting if len(tokens) <= budget else over)[scale] = tokens
        if CLOSE * budget <= len(tokens) <= budget:
            break
        if fitting and over:  # what comes of a scale can be a stair: halving the interval is sure
            scale = (max(fitting) + min(over)) / 2
        else:
            scale *= min(4.0, max(0.25, 0.98 * budget / max(1, len(tokens))))
    chosen = max(fitting.values(), key=len) if fitting else min(over.values(), key=len)
    stats = {"tries": len(fitting) + len(over), "cut_tokens": max(0, len(chosen) - budget)}
    return [*before, *chosen[:budget], *after], stats


def longest_stretch(ids: Sequence[int], special: set[int]) -> tuple[int, int]:
    """(first, past the last) of the longest run of tokens that are not special."""

    def stretches() -> Iterator[tuple[int, int]]:
        first = 0
        for at, token in enumerate(ids):
            if token in special:
                yield first, at
                first = at + 1
        yield first, len(ids)

    return max(stretches(), key=lambda stretch: stretch[1] - stretch[0])
