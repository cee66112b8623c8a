"""The `llmlingua` package, offline and without its traces on the process."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoTokenizer


class Counter:
    """Stands where the package has OpenAI's tokenizer: counts the target's tokens."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


@lru_cache(maxsize=1)
def tokenizer_of(name: str) -> Any:
    """The target's tokenizer; one is held."""
    return AutoTokenizer.from_pretrained(name)


@lru_cache(maxsize=1)
def load(name: str, device: str, tokenizer: Any) -> Any:
    """The package's compressor in float32, counting with `tokenizer`; one is held."""
    from llmlingua import PromptCompressor

    with undisturbed(), mock.patch("tiktoken.encoding_for_model", lambda model: Counter(tokenizer)):
        return PromptCompressor(
            name, device, {"trust_remote_code": False, "torch_dtype": torch.float32}, use_llmlingua2=True
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts the process's generators back: the package seeds them when it is made, and draws when it compresses."""
    python, numpy, seed = random.getstate(), np.random.get_state(), os.environ.get("PYTHONHASHSEED")
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        os.environ.pop("PYTHONHASHSEED", None)
        if seed is not None:
            os.environ["PYTHONHASHSEED"] = seed
