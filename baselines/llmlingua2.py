"""LLMLingua-2 (arXiv 2403.12968), through the `llmlingua` package: an encoder scores words; the target reads the best.

    p(word) = mean over its tokens of P(keep | chunk of 512 tokens);  in every chunk, words above the (1 - rate)
    quantile stay

The package's defaults, but for two: words are weighted by the *target's* tokens (its own are GPT-3.5's, whose table
would be downloaded), and the last `window_size` tokens and chat markers stay as they are, within the budget, as in
`_rewriting.py`. Not conditioned on the question. The shortened text is tokenised anew and read at contiguous positions.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar

import torch

from baselines._llmlingua_package import load, tokenizer_of, undisturbed
from baselines._rewriting import rewrite
from draft_approx_llm.configs import MethodConfig, capacity_of, check_budget, check_choice, check_int, check_window
from draft_approx_llm.method import Method, Read

FAMILIES = ("xlm-roberta-large", "bert-base-multilingual-cased")
"""The package tells its encoders apart by these parts of their names."""


@dataclass(frozen=True)
class LLMLingua2Config(MethodConfig):
    """Args: max_capacity_prompt or budget_ratio, prompt tokens read at most, the last `window_size` among them;
    compressor, the encoder's folder or hub name, with one of `FAMILIES` in it; the others are `compress_prompt`'s."""

    sparse_type: ClassVar[str] = "llmlingua2"
    model_settings: ClassVar[tuple[str, ...]] = ("compressor",)

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None
    window_size: int = 64
    compressor: str = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
    token_to_word: str = "mean"
    force_tokens: list[str] = field(default_factory=list, hash=False)
    force_reserve_digit: bool = False
    drop_consecutive: bool = False

    def __post_init__(self):
        check_budget(self)
        check_int(self, "window_size", 1)
        check_window(self)
        check_choice(self, "token_to_word", ("mean", "first"))
        if not any(name in str(self.compressor) for name in FAMILIES):
            raise ValueError(f"compressor: {self.compressor!r} must have {' or '.join(FAMILIES)} in its name")
        if not isinstance(self.force_tokens, list) or not all(isinstance(one, str) for one in self.force_tokens):
            raise ValueError(f"force_tokens: must be a list of strings, not {self.force_tokens!r}")
        for name in ("force_reserve_digit", "drop_consecutive"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: must be true or false, not {getattr(self, name)!r}")
        if find_spec("llmlingua") is None:
            raise ValueError("sparse_type: 'llmlingua2' needs a package that is not here: pip install llmlingua==0.2.2")

    def build(self):
        return LLMLingua2(self)


class LLMLingua2(Method):
    """Reads the shortened text."""

    def __init__(self, config):
        self.config = config

    def check(self, target, draft):
        try:
            tokenizer = tokenizer_of(target.name_or_path)
        except (OSError, ValueError) as exc:
            name = target.name_or_path
            raise ValueError(f"llmlingua2 rewrites text, and {name!r}, the target, has no tokenizer: {exc}") from exc
        try:
            load(self.config.compressor, str(target.device), tokenizer)
        except (OSError, ValueError) as exc:
            raise ValueError(f"compressor: {self.config.compressor!r} cannot be loaded: {exc}") from exc

    def steps(self, prompt, request):
        config = self.config
        tokenizer = tokenizer_of(request.target.name_or_path)
        compressor = load(config.compressor, str(prompt.device), tokenizer)
        options = {name: getattr(config, name) for name in ("token_to_word", "force_reserve_digit", "drop_consecutive")}

        def compress(passage: str, question: str, length: int, budget: int, scale: float) -> str:
            wanted = {"target_token": max(1, round(scale * budget)), "force_tokens": list(config.force_tokens)}
            with undisturbed():
                return compressor.compress_prompt_llmlingua2([passage], **wanted, **options)["compressed_prompt"]

        capacity = capacity_of(len(prompt), config.max_capacity_prompt, config.budget_ratio)
        ids, stats = rewrite(prompt.tolist(), capacity, config.window_size, tokenizer, compress)
        result = yield Read(torch.tensor(ids, device=prompt.device))
        result.stats |= stats
        return result
