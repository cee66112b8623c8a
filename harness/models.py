"""Models and tokenizers: loaded once, shared by all the runs of a pair, and asked for answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.benchmark import Sample
from harness.config import ModelSpec, RunConfig
from harness.errors import UserError

if TYPE_CHECKING:
    from draft_approx_llm.method import Kept


class ModelError(UserError):
    """A model or a tokenizer cannot be loaded or cannot be used."""


@dataclass(frozen=True)
class Answer:
    """What a model said to one sample, and what it cost."""

    text: str
    new_tokens: int
    stats: dict[str, float]
    """The library's per-prompt figures: prompt_tokens, kept_tokens, cache_bytes, …"""
    seconds: dict[str, float]
    """draft, prefill, decode; a batch's time is shared out evenly among its rows."""
    kept: Kept | None = None
    """What is left of the prompt; None where the model read tokens that are none of it."""


class ModelPool:
    """Loads what is asked for, once, and lets go of what the current group does not need."""

    def __init__(self) -> None:
        self._tokenizers: dict[ModelSpec, Any] = {}
        self._configs: dict[ModelSpec, Any] = {}
        self._models: dict[ModelSpec, Any] = {}
        self._broken: dict[ModelSpec, ModelError] = {}

    def tokenizer(self, spec: ModelSpec) -> Any:
        """The tokenizer of a model. Raises ModelError."""
        if spec not in self._tokenizers:
            from transformers import AutoTokenizer

            # a tokenizer of its own has its own history: the model's revision says nothing about it
            revision = spec.revision if spec.tokenizer is None else None
            with _readable(f"the tokenizer {spec.tokenizer_source}"):
                tokenizer = AutoTokenizer.from_pretrained(
                    spec.tokenizer_source, revision=revision, trust_remote_code=spec.trust_remote_code
                )
            # transformers would warn of every text that is yet to be truncated; lengths are checked before a model runs
            tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
            self._tokenizers[spec] = tokenizer
        return self._tokenizers[spec]

    def positions(self, spec: ModelSpec) -> int | None:
        """How many tokens the model has positions for, by its config; None if it does not say. Raises ModelError."""
        return getattr(self._config(spec), "max_position_embeddings", None)

    def layers(self, spec: ModelSpec) -> int | None:
        """How many layers the model has, by its config; None if it does not say. Raises ModelError."""
        return getattr(self._config(spec), "num_hidden_layers", None)

    def _config(self, spec: ModelSpec) -> Any:
        if spec not in self._configs:
            from transformers import AutoConfig

            with _readable(f"the config of {spec.source}"):
                self._configs[spec] = AutoConfig.from_pretrained(
                    spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
                )
        return self._configs[spec].get_text_config()

    def model(self, spec: ModelSpec) -> Any:
        """The model, on its device, in evaluation mode. Raises ModelError, at once if it failed before."""
        if spec in self._broken:
            raise self._broken[spec]
        if spec not in self._models:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # the sweep has one of its own
            device = spec.device
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    spec.source,
                    revision=spec.revision,
                    trust_remote_code=spec.trust_remote_code,
                    dtype=spec.dtype,
                    attn_implementation=spec.attn_implementation,
                )
                self._models[spec] = model.to(device).eval()
            except Exception as exc:  # transformers, the hub and the device raise many kinds
                text = f"the model {spec.source} cannot be loaded: {type(exc).__name__}: {exc}"
                self._broken[spec] = ModelError(text)
                raise self._broken[spec] from exc
        return self._models[spec]

    def retain(self, specs: Sequence[ModelSpec | None]) -> None:
        """Free every model that is not among `specs`."""
        unwanted = [spec for spec in self._models if spec not in specs]
        for spec in unwanted:
            del self._models[spec]
        if unwanted:
            free_memory()

    def check_pair(self, target: ModelSpec | None, draft: ModelSpec | None) -> None:
        """Both tokenizers load and agree. Raises ModelError."""
        tokenizers = [self.tokenizer(spec) for spec in (target, draft) if spec]
        if len(tokenizers) == 2:
            from draft_approx_llm import check_same_tokenizer

            try:
                check_same_tokenizer(*tokenizers)
            except ValueError as exc:
                raise ModelError(f"{draft.label} cannot be a draft for {target.label}: {exc}") from exc

    def check_attention(self, spec: ModelSpec) -> None:
        """The model's attention implementation is installed. Raises ModelError: loading would too, but late."""
        name = spec.attn_implementation
        if not name.startswith("flash_attention_"):
            return
        from transformers import utils

        # transformers takes a kernel of the hub where the package is absent
        installed = getattr(utils, f"is_flash_attn_{name[-1]}_available")() or utils.is_kernels_available()
        if not installed:
            raise ModelError(
                f"{name}, which {spec.label} asks for, needs a GPU and the package flash-attn (or kernels). One is "
                "not here. Install it, or take another: --set target_model.attn_implementation=sdpa "
                "draft_model.attn_implementation=sdpa"
            )

    @contextmanager
    def patched(self, configs: Sequence[RunConfig]) -> Iterator[Answerer]:
        """The methods of runs with one reader, ready to answer together; then the models are as they were.

        Raises ModelError: a model cannot be loaded, or a method does not fit the models.
        """
        from draft_approx_llm import patch_model, unpatch_model

        reader = self.model(configs[0].reader)
        drafts = [config.helper for config in configs if config.helper]
        helper = self.model(drafts[0]) if drafts else None
        try:
            patch_model(reader, helper, [config.method for config in configs])
        except Exception as exc:
            # the library's own errors are written for a reader; a method's package may raise others
            raise ModelError(str(exc) if isinstance(exc, ValueError) else f"{type(exc).__name__}: {exc}") from exc
        try:
            yield Answerer(reader, self.tokenizer(configs[0].tokenizer_spec), len(configs))
        finally:
            unpatch_model(reader)


class Answerer:
    """Turns prompts into answers with one patched model, under each of its methods."""

    def __init__(self, model: Any, tokenizer: Any, methods: int):
        self.model, self.tokenizer, self.methods = model, tokenizer, methods
        stops = model.generation_config.eos_token_id
        stops = tokenizer.eos_token_id if stops is None else stops
        self.stops: list[int] = [] if stops is None else list(stops) if isinstance(stops, list) else [stops]
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None else self.stops[0] if self.stops else 0

    def answer(self, prompts: Sequence[Sequence[int]], sample: Sample) -> list[Answer]:
        """Greedy answers to token ids, one list a prompt, as one left-padded batch of prompts x methods.

        Answers come prompt by prompt, one for each method. `sample` says how, for all of them: how many new tokens,
        what else ends an answer, how it is decoded.
        """
        import torch

        stops = [*self.stops, *(stop for stop in sample.stop_token_ids if stop not in self.stops)]

        prompts = [prompt for prompt in prompts for _ in range(self.methods)]  # row i is method i % methods's
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask[row, longest - len(prompt) :] = 1
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=sample.max_new_tokens,
            min_new_tokens=1 if sample.stop_token_ids else None,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=self.pad,
            eos_token_id=stops or None,
        )
        seconds = {phase: value / len(prompts) for phase, value in out.timings.items()}
        answers = []
        for row, stats, kept in zip(out.output_ids.tolist(), out.stats, out.kept, strict=True):
            # what follows the first stop is padding
            end = next((at + 1 for at, token in enumerate(row) if token in stops), len(row))
            rewritten = kept.prompt is None and stats["read_tokens"] != stats["prompt_tokens"]
            text = decode(self.tokenizer, sample, row[:end])
            answers.append(Answer(text, end, dict(stats), seconds, None if rewritten else kept))
        return answers


def encode(tokenizer: Any, sample: Sample) -> list[int]:
    """A sample's prompt as token ids."""
    return tokenizer(sample.prompt, add_special_tokens=sample.add_special_tokens)["input_ids"]


def decode(tokenizer: Any, sample: Sample, ids: Sequence[int]) -> str:
    """An answer's token ids as the text that is scored."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cleans_up = sample.clean_up_tokenization_spaces
    if cleans_up is None:
        cleans_up = tokenizer.clean_up_tokenization_spaces
    # not by decode: transformers 5 ignores the setting for BPE, and published numbers were decoded with it
    return tokenizer.clean_up_tokenization(text) if cleans_up else text


def free_memory() -> None:
    """Give back what deleted models and failed batches held."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Any failure to load, as a message that names what could not be loaded."""
    try:
        yield
    except Exception as exc:  # transformers and the hub raise many kinds
        remedy = "Give a folder or a hub name that is right; without a network, one that the hub's cache has"
        raise ModelError(f"{what} cannot be loaded. {remedy}. {type(exc).__name__}: {exc}") from exc
