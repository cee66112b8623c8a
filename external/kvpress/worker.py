"""Answers prompts under a press of kvpress. Runs in .envs/kvpress; external/README.md has the protocol."""

from __future__ import annotations

import json
import sys
import time
import traceback
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import kvpress
import torch
from press_tools import build_press, cache_bytes, kept_tokens, prefill, ratio_for, set_ratio
from transformers import AutoModelForCausalLM, RepetitionPenaltyLogitsProcessor
from transformers.utils.logging import disable_progress_bar

DECODING = (kvpress.DecodingPress, kvpress.PrefillDecodingPress)


@lru_cache(maxsize=1)
def load(spec: str) -> Any:
    """The model of a request's `target`, as JSON; one is held."""
    target = json.loads(spec)
    device = target["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        target["model_name_or_path"],
        revision=target["revision"],
        trust_remote_code=target["trust_remote_code"],
        dtype=target["dtype"],
        attn_implementation=target["attn_implementation"],
    )
    return model.to(device).eval()


@torch.no_grad()
def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One request -> its answer. Raises whatever the model or the press raises."""
    model = load(json.dumps(request["target"]))
    settings = request["settings"]
    ids = torch.tensor([request["ids"]], device=model.device)
    later = settings["question_tokens"]
    n = ids.shape[1] - later
    if n < 1:
        raise ValueError(f"question_tokens: {later} of a prompt of {ids.shape[1]} leave nothing to compress")
    press = build_press(settings["press"], settings["press_args"])
    if request["capacity"] is not None:
        # of the question, all but the last token count: it is the one that is fed to get the first answer token
        kept = request["capacity"] - (later - 1)
        if kept < 1:
            raise ValueError(f"question_tokens: {later} leave nothing of a budget of {request['capacity']}")
        set_ratio(press, ratio_for(kept, n))
    peak = 0

    def look(index, cache):
        nonlocal peak
        peak = max(peak, cache_bytes(cache))

    clock = Clock(model.device)
    cache = prefill(model, press, ids[:, :n], look)
    # keys that were rotated anew stand at 0 … kept - 1
    rotated = isinstance(press, kvpress.KeyRerotationPress) or getattr(press, "rerotate_keys", False)
    reader = Reader(model, cache, cache.get_seq_length() if rotated else n)
    presses_on = isinstance(press, DECODING) or getattr(press, "decoding", False)
    with press(model) if presses_on else nullcontext():
        *question, last = ids[0, n:].tolist()
        for token in question:
            reader.read(token)
        stats = {"kept_tokens": kept_tokens(model, cache), "cache_bytes": cache_bytes(cache, model)}
        stats["peak_cache_bytes"] = max(peak, cache_bytes(cache))
        seconds = {"prefill": clock.lap()}
        tokens = decode(reader, last, ids, request)
    return {"tokens": tokens, "stats": stats, "seconds": seconds | {"decode": clock.lap()}}


class Reader:
    """Feeds a model from a compressed cache on, at the positions that follow the prompt's.

    Token by token, the question too: layers may hold unequally many entries, and one mask would serve them all.
    """

    def __init__(self, model: Any, cache: Any, position: int):
        self.model, self.cache, self.position = model, cache, position

    def read(self, token: int) -> torch.Tensor:
        """Logits [1, vocabulary] of what follows."""
        device = self.model.device
        step, at = torch.tensor([[token]], device=device), torch.tensor([[self.position]], device=device)
        self.position += 1
        return self.model(input_ids=step, past_key_values=self.cache, position_ids=at).logits[:, -1].float()


def decode(reader: Reader, token: int, ids: torch.Tensor, request: dict[str, Any]) -> list[int]:
    """Greedy tokens after `token`, the prompt's last; ids [1, N] is the prompt."""
    penalty = RepetitionPenaltyLogitsProcessor(request["repetition_penalty"])
    stops = request["stop_token_ids"]
    new: list[int] = []
    while len(new) < request["max_new_tokens"] and token not in (stops if new else ()):
        logits = reader.read(token)
        so_far = torch.cat([ids, torch.tensor([new], dtype=ids.dtype, device=ids.device)], dim=1)
        logits = penalty(so_far, logits)
        if len(new) < request["min_new_tokens"]:
            logits[:, stops] = -torch.inf
        token = logits.argmax(-1).item()
        new.append(token)
    return new


class Clock:
    """Seconds between laps, waiting for the device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.lap()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        passed, self.start = now - getattr(self, "start", now), now
        return passed


def main() -> None:
    disable_progress_bar()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = answer(request)
        except Exception as exc:  # this prompt's: the next may do
            traceback.print_exc()
            result = {"error": f"{type(exc).__name__}: {exc}"}
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        sys.stdout.write(json.dumps({"index": request["index"], **result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
