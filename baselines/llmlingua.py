"""LLMLingua-1 (arXiv 2310.05736) and LongLLMLingua (2310.06839), in their own environment: scripts/run_external.py.

    sparse_config: {sparse_type: llmlingua, variant: longllmlingua, compressor: meta-llama/Llama-2-7b-hf,
                    max_capacity_prompt: 1024}

A small causal model's perplexity decides which tokens of the prompt stay; the target then reads the shortened text
under `full`. What is compressed is the longest stretch of the prompt without special tokens, the last `window_size`
tokens not included; the rest (chat markers, window) stays as it is. The budget is counted with the target's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from baselines._external import ExternalConfig

VARIANTS = ("llmlingua", "longllmlingua")
DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class LLMLinguaConfig(ExternalConfig):
    """The compressor and its budget.

    Args:
        compressor: folder or hub name of a causal model that transformers 4.47 can load, its tokenizer included.
        variant: "llmlingua", or "longllmlingua": conditioned on the question (the window's text), its parts sorted by
            relevance, with the settings of its authors' example.
        window_size: last tokens of the prompt that stay as they are.
        chunk_tokens: the text is given as parts of about so many of the compressor's tokens, cut where a sentence or
            line ends; whole parts are dropped before tokens are. None: one part.
        options: further arguments of `PromptCompressor.compress_prompt`.
        compressor_dtype: how the compressor is loaded.
    """

    sparse_type: ClassVar[str] = "llmlingua"
    tool: ClassVar[str] = "llmlingua"
    rewrites: ClassVar[bool] = True
    model_settings: ClassVar[tuple[str, ...]] = ("compressor",)

    compressor: str = ""
    variant: str = "llmlingua"
    window_size: int = 64
    chunk_tokens: int | None = 256
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    compressor_dtype: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_capacity_prompt is None and self.budget_ratio is None:
            raise ValueError("max_capacity_prompt: missing; or give budget_ratio, a share of each prompt's tokens")
        if not isinstance(self.compressor, str) or not self.compressor:
            raise ValueError(f"compressor: must be a model's folder or hub name, not {self.compressor!r}")
        for name, choices in (("variant", VARIANTS), ("compressor_dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        self.check_whole("window_size", 1)
        if self.chunk_tokens is not None:
            self.check_whole("chunk_tokens", 1)
        self.check_mapping("options")
        if self.max_capacity_prompt is not None and self.window_size >= self.max_capacity_prompt:
            raise ValueError(
                f"window_size: {self.window_size} leaves no room in max_capacity_prompt {self.max_capacity_prompt}, "
                "which includes the window. Lower window_size or raise max_capacity_prompt."
            )
