"""Prompts for chat models: the tokenizer's own template, and exactly one BOS."""

from __future__ import annotations

# Llama 3's chat templates print a date; without one they print today's, and yesterday's data would not fit today's.
FIXED_DATE = "26 Jul 2024"


def render_chat(tokenizer, text: str, system_prompt: str | None = None) -> str:
    """A user's message in the tokenizer's own chat template, up to where the answer begins; thinking is off.

    Raises ValueError if the template refuses a system prompt.
    """
    messages = [{"role": "user", "content": text}]
    if system_prompt:
        messages.insert(0, {"role": "system", "content": system_prompt})
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=FIXED_DATE
        )
    except Exception as error:  # templates raise jinja2's errors
        what = "a system prompt" if system_prompt else "a user's message"
        raise ValueError(f"the chat template of {model_name(tokenizer)!r} refuses {what}: {error}") from error


def model_name(tokenizer) -> str:
    """Where the tokenizer was loaded from: a hub name or a path."""
    return str(getattr(tokenizer, "name_or_path", "") or "")


def needs_special_tokens(tokenizer, text: str) -> bool:
    """How to tokenise `text` (its beginning is enough) so that it has exactly one BOS (none for a model without)."""
    bos = getattr(tokenizer, "bos_token", None)
    return not (bos and text.startswith(bos)) and adds_bos_itself(tokenizer)


def adds_bos_itself(tokenizer) -> bool:
    """Whether the tokenizer puts a BOS before a text."""
    if getattr(tokenizer, "bos_token_id", None) is None:
        return False
    return tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
