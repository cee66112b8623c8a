"""A rewriting tool is held to the budget in the target's tokens; the settings of external methods."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import baselines
from baselines._rewriting import TRIES, longest_stretch
from draft_approx_llm.configs import config_from_dict
from external.answering import rewrite

SPECIAL = 0


class Numbers:
    """A tokenizer of numbers: the text "7 8" is the ids [7, 8]."""

    all_special_ids = [SPECIAL]

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=None):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i == SPECIAL))


@pytest.fixture(autouse=True)
def methods():
    baselines.load("kvpress")
    baselines.load("llmlingua")


def rewritten(prompt, tool, capacity=20, window=4):
    """(ids, stats, what the tool was asked) of a prompt of ids whose tool turns (passage, request) into a text."""
    asked = []

    def ask(run, request):
        asked.append(request)
        return {"text": tool(request["passage"].split(), request)}

    settings = {"sparse_type": "llmlingua", "compressor": "x", "window_size": window, "max_capacity_prompt": capacity}
    run = SimpleNamespace(config=SimpleNamespace(method=config_from_dict(settings)))
    ids, stats, seconds = rewrite(SimpleNamespace(ask=ask), run, Numbers(), SimpleNamespace(index=3), prompt)
    assert seconds >= 0
    return ids, stats, asked


PROMPT = [SPECIAL, 1, SPECIAL, *range(10, 60), SPECIAL, 2, 3, 4, 5]
"""58 tokens: markers at both ends, the last of them in a window of 4."""


def shorten(by):
    """A tool whose own count of tokens is `by` times the target's."""
    return lambda words, request: " ".join(words[: round(by * request["scale"] * request["budget_tokens"])])


@pytest.mark.parametrize("by", [1.0, 0.3, 2.5, 0.05])
def test_a_tool_that_counts_otherwise_is_asked_again_until_it_fits(by):
    ids, stats, asked = rewritten(PROMPT, shorten(by), capacity=50)
    assert ids[:3] == PROMPT[:3]
    assert ids[-5:] == PROMPT[-5:]
    assert 42 * 0.95 <= len(ids) - 8 <= 42
    assert ids[3:-5] == PROMPT[3 : 3 + len(ids) - 8]
    assert stats["cut_tokens"] == 0
    assert stats["tries"] == len(asked) <= TRIES
    assert (by == 1.0) == (len(asked) == 1)
    assert {(request["index"], request["budget_tokens"], request["passage_tokens"]) for request in asked} == {
        (3, 42, 50)
    }
    assert asked[0]["passage"].split() == [str(i) for i in range(10, 60)]
    assert asked[0]["question"] == "2 3 4 5"


def test_a_tool_whose_answers_are_a_stair_is_taken_at_the_step_below():
    ids, stats, asked = rewritten(
        PROMPT, lambda words, request: " ".join(words[: 50 if request["scale"] > 0.61 else 30]), 50
    )
    assert len(ids) - 8 == 30
    assert stats["tries"] == TRIES
    assert 0.6 < max(request["scale"] for request in asked[-2:]) < 0.63  # closing in on the step


def test_a_tool_that_never_fits_is_cut():
    lengths = iter([32, 31, 30, 35, 34, 33, 36, 37])
    ids, stats, _ = rewritten(PROMPT, lambda words, request: " ".join(words[: next(lengths)]))
    assert ids == [*PROMPT[:15], *PROMPT[-5:]]
    assert (stats["cut_tokens"], stats["tries"]) == (30 - 12, TRIES)


def test_the_best_of_what_fits_is_taken():
    lengths = iter([30, 8, 3, 9, 2, 1, 5, 14])
    ids, stats, _ = rewritten(PROMPT, lambda words, request: " ".join(words[: next(lengths)]))
    assert len(ids) == 8 + 9
    assert (stats["cut_tokens"], stats["tries"]) == (0, TRIES)


def test_a_prompt_within_the_budget_is_left_as_it_is():
    assert rewritten(PROMPT[:20], None) == (PROMPT[:20], {"draft_tokens": 0, "draft_cache_bytes": 0}, [])


def test_a_budget_that_what_stays_fills_is_told():
    with pytest.raises(ValueError, match="8 of 58 tokens stay as they are .* nothing of a budget of 8"):
        rewritten(PROMPT, None, capacity=8)


def test_the_longest_stretch_is_between_special_tokens():
    assert longest_stretch([0, 1, 0, 2, 3, 4, 0, 5, 6], {0}) == (3, 6)
    assert longest_stretch([1, 2], {0}) == (0, 2)
    assert longest_stretch([0, 1, 2], {0}) == (1, 3)


SNAPKV = {"press": "SnapKVPress", "press_args": {"window_size": 32}}


@pytest.mark.parametrize(
    "settings, simulated",
    [
        (SNAPKV, False),
        ({"press": "AdaKVPress", "press_args": {"press": SNAPKV}}, True),
        ({"press": "ComposedPress", "press_args": {"presses": [SNAPKV, {"press": "ThinKPress"}]}}, True),
        ({"press": "ChunkPress", "press_args": {"press": SNAPKV}}, False),
        ({"press": "KVComposePress"}, False),
        ({"press": "KVComposePress", "press_args": {"structured": False}}, True),
    ],
)
def test_presses_that_mask_are_simulated(settings, simulated):
    config = config_from_dict({"sparse_type": "kvpress", **settings})
    assert config.simulated is simulated
    assert config.external
    assert config_from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"sparse_type": "kvpress"}, "^press: must be the class name"),
        ({"sparse_type": "kvpress", **SNAPKV, "press_args": [1]}, "^press_args: must hold"),
        ({"sparse_type": "kvpress", **SNAPKV, "max_capacity_prompt": 0}, "^max_capacity_prompt: .* at least 1"),
        ({"sparse_type": "kvpress", **SNAPKV, "budget_ratio": 1.5}, "^budget_ratio: .* at most 1"),
        (
            {"sparse_type": "kvpress", **SNAPKV, "budget_ratio": 0.5, "max_capacity_prompt": 9},
            "^budget_ratio: give it or",
        ),
        (
            {"sparse_type": "kvpress", **SNAPKV, "question_tokens": 9, "max_capacity_prompt": 8},
            "^question_tokens: 9 leave",
        ),
        (
            {"sparse_type": "kvpress", "press": "A", "press_args": {"compression_ratio": 0.5}, "budget_ratio": 0.5},
            "^press_",
        ),
        ({"sparse_type": "llmlingua", "compressor": "x"}, "^max_capacity_prompt: missing"),
        ({"sparse_type": "llmlingua", "max_capacity_prompt": 99}, "^compressor: must be"),
        ({"sparse_type": "llmlingua", "compressor": "x", "max_capacity_prompt": 64}, "^window_size: 64 leaves no room"),
        (
            {"sparse_type": "llmlingua", "compressor": "x", "budget_ratio": 0.5, "variant": "2"},
            "^variant: must be one of",
        ),
    ],
)
def test_settings_that_cannot_be_are_told_by_their_key(settings, said):
    with pytest.raises(ValueError, match=said):
        config_from_dict(settings)


def test_a_budget_is_counted_as_for_other_methods():
    ratio = config_from_dict({"sparse_type": "kvpress", **SNAPKV, "budget_ratio": 0.25})
    assert [ratio.capacity(n) for n in (1, 10, 100)] == [1, 3, 25]
    assert config_from_dict({"sparse_type": "kvpress", **SNAPKV, "max_capacity_prompt": 9}).capacity(100) == 9
    assert config_from_dict({"sparse_type": "kvpress", **SNAPKV}).capacity(100) is None


def test_patching_a_model_with_one_names_the_script():
    with pytest.raises(NotImplementedError, match="scripts/run_external.py.*make env-kvpress"):
        config_from_dict({"sparse_type": "kvpress", **SNAPKV}).build()
