"""Methods that ask the draft first: which prompts it is asked about, and what becomes of the answer."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from draft_approx_llm.configs import SpecPCConfig
from draft_approx_llm.lookahead import Lookahead, look_ahead
from draft_approx_llm.method import Method, Prefilled, Request, read_all


class DraftGuided(Method):
    """Base: the draft looks ahead for every prompt that loses anything (one batch), then the target reads each.

    Attributes:
        lookahead_tokens: how many tokens the draft generates; None means the request's max_new_tokens.
        listen: whether, and how, the draft's attention over the prompt is recorded.
    """

    lookahead_tokens: int | None = None
    listen: SpecPCConfig | None = None

    def acts_on(self, n: int, n_lookahead: int) -> bool:
        """Whether a prompt of n tokens loses anything; where not, plain inference it is, and the draft rests."""
        raise NotImplementedError

    def read(self, target: PreTrainedModel, prompt: torch.Tensor, lookahead: Lookahead) -> Prefilled:
        """Reads one prompt [N] with what the draft found."""
        raise NotImplementedError

    def check(self, target, draft):
        layers = draft.config.get_text_config().num_hidden_layers
        if self.listen is not None and self.listen.starting_layer_index >= layers:
            raise ValueError(
                f"starting_layer_index: {self.listen.starting_layer_index} is past the draft's {layers} layers (0 to "
                f"{layers - 1}). Choose a lower one."
            )

    def prefill(self, target: PreTrainedModel, draft: PreTrainedModel | None, request: Request) -> list[Prefilled]:
        wanted = request.max_new_tokens if self.lookahead_tokens is None else self.lookahead_tokens
        rows = [row for row, prompt in enumerate(request.prompts) if self.acts_on(len(prompt), wanted)]
        with request.timer("draft"):
            asked = [request.prompts[row] for row in rows]
            found = look_ahead(draft, asked, wanted, request.eos_token_ids, self.listen) if rows else []
        lookaheads = dict(zip(rows, found, strict=True))
        with request.timer("prefill"):
            return [self._read(target, prompt, lookaheads.get(row)) for row, prompt in enumerate(request.prompts)]

    def _read(self, target: PreTrainedModel, prompt: torch.Tensor, lookahead: Lookahead | None) -> Prefilled:
        if lookahead is None:
            return read_all(target, prompt)
        result = self.read(target, prompt, lookahead)
        result.stats |= {
            "prompt_tokens": len(prompt),
            "lookahead_tokens": len(lookahead.tokens),
            "draft_cache_bytes": lookahead.cache_bytes,
        }
        return result
