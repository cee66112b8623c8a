"""Chat templates around a task's text, and which one a tokenizer gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from data.chat import model_name, render_chat

_PLACEHOLDER = "RULERTASKTEXT"


@dataclass(frozen=True)
class ModelTemplate:
    """What stands before and after the task's text; the answer prefix comes after both."""

    name: str
    before: str
    after: str


# base, meta-chat, Phi3 and meta-llama3 are NVIDIA/RULER c3f5e3b's (Apache-2.0); the others are the models' own.
_TEXTS = {
    "base": "{task_template}",
    "meta-chat": "[INST] {task_template} [/INST]",
    "Phi3": "<|user|>\n{task_template}<|end|>\n<|assistant|>\n",
    "meta-llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{task_template}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{task_template}<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\n{task_template}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "tiny": "<|bos|><|user|>\n{task_template}<|end|>\n<|assistant|>\n",
}
TEMPLATES: Mapping[str, ModelTemplate] = MappingProxyType(
    {name: ModelTemplate(name, *text.split("{task_template}")) for name, text in _TEXTS.items()}
)

# Model names whose chat template is known; Qwen3's "2507" models have others, so theirs is asked of the tokenizer.
_KNOWN_NAMES = (
    (re.compile(r"llama-?3.*instruct"), "meta-llama3"),
    (re.compile(r"llama-?2.*chat"), "meta-chat"),
    (re.compile(r"phi-?3.*instruct"), "Phi3"),
    (re.compile(r"qwen2\.?5.*instruct"), "qwen"),
    (re.compile(r"qwen3-\d+(\.\d+)?b(?!.*(base|2507|instruct|thinking))"), "qwen3"),
    (re.compile(r"tiny_pair"), "tiny"),
)


def resolve_template(tokenizer, name: str | None = None) -> ModelTemplate:
    """The template called `name`; without a name the one known for the tokenizer's model, else its own chat template,
    else `base`.

    Raises ValueError for an unknown name, or for one whose markers this tokenizer doesn't have.
    """
    if name is not None:
        if name not in TEMPLATES:
            raise ValueError(f"model_template: unknown template {name!r}; valid: {', '.join(TEMPLATES)}")
        missing = _missing_markers(TEMPLATES[name], tokenizer)
        if missing:
            raise ValueError(
                f"model_template: {name!r} uses {', '.join(missing)}, which the tokenizer {model_name(tokenizer)!r} "
                "does not have; leave model_template out to use the tokenizer's own chat template"
            )
        return TEMPLATES[name]
    model = model_name(tokenizer).lower()
    for pattern, known in _KNOWN_NAMES:
        if pattern.search(model) and not _missing_markers(TEMPLATES[known], tokenizer):
            return TEMPLATES[known]
    return _own_template(tokenizer) if getattr(tokenizer, "chat_template", None) else TEMPLATES["base"]


def _missing_markers(template: ModelTemplate, tokenizer) -> list[str]:
    markers = re.findall(r"<\|\w+\|>", template.before + template.after)
    if not markers:
        return []
    vocabulary = tokenizer.get_vocab()
    return [marker for marker in dict.fromkeys(markers) if marker not in vocabulary]


def _own_template(tokenizer) -> ModelTemplate:
    text = render_chat(tokenizer, _PLACEHOLDER)
    parts = text.split(_PLACEHOLDER)
    if len(parts) != 2:
        raise ValueError(
            f"the chat template of {model_name(tokenizer)!r} shows a user's message {len(parts) - 1} times; "
            f"set model_template to one of {', '.join(TEMPLATES)}"
        )
    return ModelTemplate("chat_template", *parts)
