"""What a method is: a generator of the steps that a prompt's reading takes, with a cache to decode from at its end.

A method never calls a model. It yields what it wants done, `LookAhead`, `Read` or `Generate`, and is sent the result;
so it reads like the paper's algorithm box, and `reading.read_prompts` can do equal steps of many methods once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from draft_approx_llm.cache import CompactCache
from draft_approx_llm.prefill import KeptPositions, LayerView
from draft_approx_llm.timing import Timer


@dataclass(frozen=True)
class Request:
    """One call of `generate`.

    Attributes:
        max_new_tokens: what the caller asked for at most.
        eos_token_ids: ids after which a row ends.
        target: the model that will answer, for its configuration and its name; a method does not call it.
        timer: seconds by phase.
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    target: PreTrainedModel
    timer: Timer


@dataclass(frozen=True)
class Listen:
    """How the attention over a prompt is recorded while it is read and looked ahead of (SpecPC, steps 1 and 2).

    Attributes:
        window_size: how many of the prompt's last queries are listened to.
        starting_layer_index: first layer that is listened to.
        reduction_type: "max" or "mean", over heads, queries and layers.
        step_reduction: the same over the prompt's row and those of the lookahead steps; None means reduction_type.
        weighted_query: scale the window's rows by linspace(0, 1).
        pool_type, kernel_size: smooth every head's attention along positions before anything is reduced.
    """

    window_size: int = 1
    starting_layer_index: int = 0
    reduction_type: str = "max"
    step_reduction: str | None = None
    weighted_query: bool = False
    pool_type: str | None = None
    kernel_size: int = 1


class Pattern(Protocol, Hashable):
    """A sparse prefill. Equal ones are the same work, and are shared between methods."""

    def __call__(self, view: LayerView) -> torch.Tensor | None:
        """A layer's attention output [Hq, N, D], or None for dense attention."""


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Step: a model reads the prompt and generates greedily. The result is a `lookahead.Lookahead`.

    Attributes:
        prompt: [N].
        n_tokens: at most so many, at least 1; fewer where the model ends by itself.
        listen: also record attention over the prompt.
        by: "draft" or "target".
    """

    prompt: torch.Tensor
    n_tokens: int
    listen: Listen | None = None
    by: str = "draft"


@dataclass(frozen=True, eq=False)
class Read:
    """Step: the target reads tokens. The result is a `Prefilled`.

    Attributes:
        tokens: [N].
        keep: given a layer's view, the positions kept of it, below N - 1: each layer is compacted in flight, and the
            last token is fed again. None keeps everything.
        lookahead: [L] tokens read after the others for `keep` to see; their keys are dropped.
        positions: [N] RoPE positions, 0 ... N - 1 unless given; next_position: that of the first new token, the last
            one's successor unless given.
        pattern: how attention is computed in the prefill; None is densely.
    """

    tokens: torch.Tensor
    keep: Callable[[LayerView], KeptPositions] | None = None
    lookahead: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    next_position: int | None = None
    pattern: Pattern | None = None


@dataclass(frozen=True, eq=False)
class Generate:
    """Step: the target generates up to `n_tokens` tokens greedily from what it has read (and uses that up).

    The result is a tensor of ids [n], EOS included where the model ended by itself.
    """

    prefilled: Prefilled
    n_tokens: int


Steps = Generator[LookAhead | Read | Generate, Any, "Prefilled"]


@dataclass
class Kept:
    """What a method kept of one prompt, as sorted positions in the caller's prompt.

    Attributes:
        prompt: [C] tokens that the target read; None means all, or tokens that are none of the prompt's.
        cache: KV pairs kept for each KV head (the last prompt token, which is fed again, not among them), for each
            layer a [H, K] tensor, or a list of H tensors [K_h] where heads keep unequally many; None means those of all
            tokens.
    """

    prompt: torch.Tensor | None = None
    cache: list[KeptPositions] | None = None

    def share(self, n: int, n_layers: int) -> torch.Tensor:
        """How much of each prompt token is left: the share of a layer's KV heads that keep it.

        Args:
            n: tokens of the caller's prompt; n_layers: layers of the target.

        Returns:
            [n_layers, n] float32 on the CPU. The last prompt token, which is fed again, counts as kept.
        """
        shares = torch.zeros(n_layers, n)
        if self.cache is None:
            shares[:, slice(None) if self.prompt is None else self.prompt.cpu()] = 1
            return shares
        for row, heads in zip(shares, self.cache, strict=True):
            row += torch.bincount(torch.cat([head.cpu() for head in heads]), minlength=n) / len(heads)
        shares[:, -1] = 1
        return shares


@dataclass
class Prefilled:
    """One prompt, read: ready to decode.

    Attributes:
        cache: the target's keys and values, a batch of one.
        token: [1], the last prompt token where it is yet to be fed again; else None, and `logits` is there.
        logits: [1, vocabulary] of the first new token.
        index: place in the sequence of the next token (`token` or the first new one); position: its RoPE position.
            They differ where a shortened prompt keeps its original positions.
        stats: prompt_tokens, read_tokens, kept_tokens (KV entries a head, mean over layers and heads),
            lookahead_tokens, cache_bytes and peak_cache_bytes (target), draft_tokens (KV entries a head of the draft)
            and draft_cache_bytes.
    """

    cache: CompactCache
    token: torch.Tensor | None
    logits: torch.Tensor | None
    index: int
    position: int
    kept: Kept = field(default_factory=Kept)
    stats: dict[str, float] = field(default_factory=dict)


def read_kept(prompt: torch.Tensor, kept: torch.Tensor, original: bool = False) -> Steps:
    """The last step of prompt compression: the target reads the tokens at `kept` [C], sorted positions in the prompt.

    `original`: they keep their positions; else they are read as an ordinary prompt.
    """
    result = yield Read(
        prompt[kept], positions=kept if original else None, next_position=len(prompt) if original else None
    )
    result.kept = Kept(prompt=kept)
    return result


class Method:
    """Base of all methods. Nothing is remembered between calls."""

    def check(self, target: PreTrainedModel, draft: PreTrainedModel | None) -> None:
        """Raises ValueError if this method cannot run on these models; called when a model is patched."""

    def steps(self, prompt: torch.Tensor, request: Request) -> Steps:
        """Reads one prompt [N], on the target's device: yields steps and returns a `Prefilled`."""
        raise NotImplementedError


class Full(Method):
    """Plain inference: everything is read, nothing is dropped."""

    def steps(self, prompt, request):
        return (yield Read(prompt))


def check_listened_layer(first: int, model: PreTrainedModel, role: str) -> None:
    """Raises ValueError if a model has no layer `first` to listen to."""
    layers = model.config.get_text_config().num_hidden_layers
    if first >= layers:
        raise ValueError(
            f"starting_layer_index: {first} is past the {role}'s {layers} layers (0 to {layers - 1}). "
            "Choose a lower one."
        )
