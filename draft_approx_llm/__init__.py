"""Draft-based approximate inference for Hugging Face causal language models (arXiv 2506.08373).

    from draft_approx_llm import SpecKVConfig, patch_model
    model = patch_model(model, draft_model, SpecKVConfig(max_capacity_prompt=256, window_size=32))
    model.generate(**inputs, max_new_tokens=64)

Importing the package loads neither torch nor transformers: a command line that only checks configurations stays fast.
"""

from importlib import import_module

from draft_approx_llm.configs import (
    FullConfig,
    MethodConfig,
    SpecKVConfig,
    SpecKVPCConfig,
    SpecPCConfig,
    config_from_dict,
)

__version__ = "0.1.0"

_LAZY = {
    "patch_model": "draft_approx_llm.patching",
    "unpatch_model": "draft_approx_llm.patching",
    "DraftApproxOutput": "draft_approx_llm.patching",
    "check_supported": "draft_approx_llm.compatibility",
    "check_same_tokenizer": "draft_approx_llm.compatibility",
}

__all__ = [
    "FullConfig",
    "MethodConfig",
    "SpecKVConfig",
    "SpecKVPCConfig",
    "SpecPCConfig",
    "config_from_dict",
    *_LAZY,
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
