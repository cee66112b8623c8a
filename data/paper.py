"""What the paper's reference implementation (furiosa-ai/draft-based-approx-llm) adds to both benchmarks.

The strings are its wire format: they decide whether a score compares with the paper's.
"""

from __future__ import annotations

SYSTEM_PROMPTS = {
    "llama": "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "qwen": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}
"""Model family -> the system prompt of the published runs."""

# "<think/>" is the reference's own spelling: no model writes it, so thoughts stay in
_TAGS = ("<think/>", "Answer:", "Summary:", "The final answer is:", "The answer is:", "Next line of code:")


def keep_last(prediction: str) -> str:
    """What the reference scores of a prediction, in either benchmark: what follows the last of the tags, stripped.

    In code the strip also takes the first line's indentation away, which is why its code scores are some 10 points
    below LongBench's.
    """
    for tag in _TAGS:
        prediction = prediction.rpartition(tag)[2]
    return prediction.strip()
