"""Shortens texts with LLMLingua-1 or LongLLMLingua. Runs in .envs/llmlingua; external/README.md has the protocol."""

from __future__ import annotations

import json
import re
import sys
import traceback
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from llmlingua import PromptCompressor

# what the authors' example of LongLLMLingua passes
LONG = {
    "rank_method": "longllmlingua",
    "condition_in_question": "after_condition",
    "reorder_context": "sort",
    "dynamic_context_compression_ratio": 0.3,
    "condition_compare": True,
    "context_budget": "+100",
}


class Words:
    """Stands in for OpenAI's tokenizer, whose table would be downloaded: it only counts tokens for figures that are not
    used here."""

    def encode(self, text: str) -> list[str]:
        return text.split()


@lru_cache(maxsize=1)
def load(name: str, dtype: str, device: str, trust_remote_code: bool) -> PromptCompressor:
    """The compressor; one is held."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"trust_remote_code": trust_remote_code}
    if dtype != "auto":  # which PromptCompressor takes for itself, and does not understand
        options["torch_dtype"] = getattr(torch, dtype)
    with mock.patch("tiktoken.encoding_for_model", lambda name: Words()):
        return PromptCompressor(name, device_map=device, model_config=options)


def compress(request: dict[str, Any]) -> dict[str, Any]:
    """One request -> its answer. Raises whatever the compressor raises."""
    settings, target = request["settings"], request["target"]
    compressor = load(
        settings["compressor"], settings["compressor_dtype"], target["device"], target["trust_remote_code"]
    )
    passage = request["passage"]
    tokens = length(compressor, passage)
    # the budget is in the target's tokens, LLMLingua's in the compressor's
    wanted = request["scale"] * request["budget_tokens"] * tokens / request["passage_tokens"]
    options = LONG if settings["variant"] == "longllmlingua" else {}
    answer = compressor.compress_prompt(
        parts(compressor, passage, settings["chunk_tokens"]),
        question=request["question"],
        concate_question=False,
        target_token=max(1, round(wanted)),
        **{**options, **settings["options"]},
    )
    # its cache is cut to the positions that the model has
    held = min(tokens, compressor.max_position_embeddings)
    stats = {"draft_tokens": held, "draft_cache_bytes": held * bytes_of_token(compressor.model)}
    return {"text": answer["compressed_prompt"], "stats": stats}


def length(compressor: PromptCompressor, text: str) -> int:
    """Tokens of the compressor."""
    return compressor.get_token_length(text, add_special_tokens=False)


def parts(compressor: PromptCompressor, text: str, size: int | None) -> list[str]:
    """The text in parts of about `size` tokens, or more where a sentence or line is longer; None: whole."""
    if size is None:
        return [text]
    found, room = [""], size
    for piece in re.findall(r".*?(?:[.!?]\s+|\n+|\Z)", text, flags=re.DOTALL):
        tokens = length(compressor, piece)
        if found[-1] and tokens > room:
            found.append("")
            room = size
        found[-1] += piece
        room -= tokens
    return [part for part in found if part.strip()]


def bytes_of_token(model: Any) -> int:
    """Of a token's keys and values in all layers."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = compress(request)
        except Exception as exc:  # this prompt's: the next may do
            traceback.print_exc()
            result = {"error": f"{type(exc).__name__}: {exc}"}
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        sys.stdout.write(json.dumps({"index": request["index"], **result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
