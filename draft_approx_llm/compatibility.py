"""Which models and pairs can be patched; each refusal names what is wrong and what to do."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBE = "Ünïcode, café 12345 and a\ttab\n\n  def f(x):\n\treturn x  # 東京 🙂"


def check_supported(model: PreTrainedModel) -> None:
    """Raises ValueError, naming the architecture, for a model whose attention cannot be observed."""
    name = type(model).__name__
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder; only decoder-only causal language models can be patched")
    others = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"})
    if model._is_stateful or others:
        kinds = ", ".join(others) or "recurrent"
        raise ValueError(f"{name} has {kinds} layers, which keep no key for each token: nothing there can be selected")
    if not any(m._can_set_attn_implementation() for m in model.modules() if isinstance(m, PreTrainedModel)) or not any(
        hasattr(module, "layer_idx") for module in model.modules()
    ):
        raise ValueError(
            f"{name} does not use transformers' attention registry, so its attention cannot be observed. "
            "Use an architecture that accepts set_attn_implementation."
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ValueError(f"{name} caps its attention logits (attn_logit_softcapping), which is not implemented here")
    if any(hasattr(module, "sinks") for module in model.modules()):
        raise ValueError(f"{name} has attention sinks as parameters, which are not implemented here")


def check_same_tokenizer(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase) -> None:
    """Raises ValueError unless both tokenizers give every token the same id.

    Vocabularies and a probe text are compared, never `vocab_size`: models of one family pad their embeddings to
    different sizes (Qwen2.5 0.5B and 14B do).
    """
    ours, theirs = target.get_vocab(), draft.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if different:
        examples = ", ".join(f"{token!r} ({ours.get(token)} and {theirs.get(token)})" for token in different[:3])
        raise ValueError(
            f"target and draft have different tokenizers: {len(different)} tokens differ, such as {examples}. "
            "Choose a draft of the target's family."
        )
    if target.encode(_PROBE, add_special_tokens=False) != draft.encode(_PROBE, add_special_tokens=False):
        raise ValueError(
            "target and draft have the same vocabulary but split text differently. "
            "Choose a draft of the target's family."
        )
