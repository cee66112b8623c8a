"""`patch_model` and the `generate` that users call.

Everything around the method is transformers' own `generate`: its arguments, defaults, logits processors, stopping
criteria and streamers; it calls `_decode` here as its decoding method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation import StoppingCriteriaList, StopStringCriteria
from transformers.utils import ModelOutput

from draft_approx_llm.compatibility import check_supported
from draft_approx_llm.configs import MethodConfig
from draft_approx_llm.method import Kept, Method, Request
from draft_approx_llm.reading import Decoding, read_prompts
from draft_approx_llm.timing import Timer

# What transformers itself hands to a decoding method; anything else would be input that the method does not read.
_KNOWN_INPUTS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "token_type_ids"}


@dataclass
class DraftApproxOutput(ModelOutput):
    """What `generate(..., return_dict_in_generate=True)` returns on a patched model.

    Attributes:
        sequences: [B, N + new] the caller's whole prompt and the new tokens.
        output_ids: [B, new] the new tokens only; rows that ended early are filled with the pad token.
        scores, logits: [B, vocabulary] a new token, as in transformers; None unless asked for.
        kept: a `Kept` a row: positions in that row's prompt (padding not counted).
        stats: a dictionary a row, see `draft_approx_llm.method.Prefilled`.
        timings: seconds of the whole call spent in "draft", "prefill" and "decode".
    """

    sequences: torch.LongTensor | None = None
    output_ids: torch.LongTensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    kept: list[Kept] | None = None
    stats: list[dict[str, float]] | None = None
    timings: dict[str, float] | None = None


def patch_model(
    model: PreTrainedModel, draft_model: PreTrainedModel | None, config: MethodConfig | Sequence[MethodConfig]
) -> PreTrainedModel:
    """Gives `model.generate` a method; patching again replaces the method.

    Args:
        model: the target, any decoder-only causal language model on transformers' attention registry.
        draft_model: the draft; it must share the target's tokenizer (`check_same_tokenizer`). None for methods that
            need none.
        config: `SpecKVConfig`, `SpecPCConfig`, `SpecKVPCConfig`, `FullConfig`, or another `MethodConfig`. Or several:
            then row i of a batch is read by the method of config[i % len(config)], so that one prompt, repeated, is
            answered by all of them at once, and work that they have in common is done once.

    Returns:
        The same model. Its weights, configuration and state dict are untouched, and so is the draft.

    Raises:
        ValueError: the draft is missing, a model cannot be observed, or the method does not fit the models.
        TypeError: `config` is not a method's configuration.
    """
    configs = [config] if isinstance(config, MethodConfig) else config
    if not isinstance(configs, Sequence) or not configs or not all(isinstance(c, MethodConfig) for c in configs):
        raise TypeError(f"config must be a MethodConfig such as SpecKVConfig(), or several, not {config!r}")
    for one in configs:
        if one.needs_draft and draft_model is None:
            raise ValueError(f"{one.sparse_type} needs a draft model, and draft_model is None")
    for one in (model, draft_model):
        if one is not None:
            check_supported(one)
    methods = [one.build() for one in configs]
    for one in methods:
        one.check(model, draft_model)
    unpatch_model(model)
    # An instance attribute shadows the class's method; a partial keeps the draft from becoming a submodule.
    model.generate = partial(_generate, model, draft_model, methods)
    return model


def unpatch_model(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the model exactly; a model that is not patched stays as it is."""
    model.__dict__.pop("generate", None)
    return model


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    draft: PreTrainedModel | None,
    methods: list[Method],
    inputs: torch.Tensor | None = None,
    generation_config: Any = None,
    streamer: Any = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    **kwargs: Any,
) -> torch.LongTensor | DraftApproxOutput:
    """The `generate` of a patched model: transformers' arguments, greedy or sampled; see `patch_model`."""
    for name in ("past_key_values", "inputs_embeds", "position_ids", "assistant_model", "custom_generate"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{name}: not supported on a patched model. Call unpatch_model first, or leave it out.")
    stop_strings, tokenizer = kwargs.pop("stop_strings", None), kwargs.pop("tokenizer", None)
    if stop_strings is not None:
        # transformers drops the tokenizer on its way to a custom decoding method.
        if tokenizer is None:
            raise ValueError("stop_strings: pass the tokenizer as well, generate(..., tokenizer=tokenizer)")
        criterion = StopStringCriteria(tokenizer=tokenizer, stop_strings=stop_strings)
        stopping_criteria = StoppingCriteriaList([*(stopping_criteria or []), criterion])
    return type(model).generate(
        model,
        inputs,
        generation_config,
        streamer=streamer,
        stopping_criteria=stopping_criteria,
        custom_generate=partial(_decode, draft=draft, methods=methods, token_streamer=streamer),
        **kwargs,
    )


def _decode(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    draft,
    methods,
    token_streamer,
    **model_kwargs,
):
    """Reads the prompts with their methods, then decodes all rows as one batch."""
    _check_request(model, generation_config, model_kwargs)
    timer = Timer(model.device)
    eos = generation_config._eos_token_tensor
    prompts = _rows(input_ids, model_kwargs.get("attention_mask"))
    request = Request(
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        eos_token_ids=() if eos is None else tuple(eos.tolist()),
        target=model,
        timer=timer,
    )
    in_turn = [methods[i % len(methods)] for i in range(len(prompts))]
    rows = read_prompts(model, draft, in_turn, prompts, request)
    with timer("decode"):
        sequences, scores, raw_logits = _sample(
            model, input_ids, rows, logits_processor, stopping_criteria, generation_config, token_streamer
        )
    if not generation_config.return_dict_in_generate:
        return sequences
    return DraftApproxOutput(
        sequences=sequences,
        output_ids=sequences[:, input_ids.shape[1] :],
        scores=tuple(scores) if generation_config.output_scores else None,
        logits=tuple(raw_logits) if generation_config.output_logits else None,
        kept=[row.kept for row in rows],
        stats=[row.stats for row in rows],
        timings=timer.seconds,
    )


def _check_request(model, generation_config, model_kwargs) -> None:
    if generation_config.num_beams > 1:
        raise ValueError(f"num_beams: {generation_config.num_beams} is not supported on a patched model; use 1")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(generation_config, name):
            raise ValueError(f"{name}: not supported on a patched model, whose prompt is not read in one forward")
    unread = sorted(key for key in model_kwargs.keys() - _KNOWN_INPUTS if isinstance(model_kwargs[key], torch.Tensor))
    if unread:
        raise ValueError(f"{unread[0]}: a patched {type(model).__name__} reads token ids only")


def _rows(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[torch.Tensor]:
    """The prompts [N] without their left padding."""
    if attention_mask is None:
        return list(input_ids)
    mask = attention_mask.bool()
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise ValueError("attention_mask: prompts must be padded on the left. Set tokenizer.padding_side = 'left'.")
    if not bool(mask[:, -1].all()):
        raise ValueError("attention_mask: a row is all padding; every prompt needs at least one token")
    return [row[row_mask] for row, row_mask in zip(input_ids, mask, strict=True)]


def _sample(model, input_ids, rows, logits_processor, stopping_criteria, generation_config, token_streamer):
    """Decodes from the rows' caches, greedily or by sampling, until the stopping criteria hold for every row."""
    device = input_ids.device
    pad = generation_config._pad_token_tensor
    decoding = Decoding(model, rows)
    unfinished = torch.ones(len(rows), dtype=torch.bool, device=device)
    all_scores, all_logits = [], []
    while True:
        raw = decoding.logits.to(device, torch.float32, copy=True)
        scores = logits_processor(input_ids, raw)
        if generation_config.output_scores:
            all_scores.append(scores)
        if generation_config.output_logits:
            all_logits.append(raw)
        if generation_config.do_sample:
            tokens = torch.multinomial(scores.softmax(-1), 1)[:, 0]
        else:
            tokens = scores.argmax(-1)
        if pad is not None:
            tokens = torch.where(unfinished, tokens, pad)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        if token_streamer is not None:
            token_streamer.put(tokens.cpu())
        unfinished = unfinished & ~stopping_criteria(input_ids, all_scores)
        if not bool(unfinished.any()):
            break
        decoding.feed(tokens)
    if token_streamer is not None:
        token_streamer.end()
    return input_ids, all_scores, all_logits
