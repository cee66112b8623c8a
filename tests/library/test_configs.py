"""Configurations: published names and defaults, the YAML form, and what is refused with which remedy."""

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest

from draft_approx_llm import (
    FullConfig,
    MethodConfig,
    SpecKVConfig,
    SpecKVPCConfig,
    SpecPCConfig,
    config_from_dict,
)


def test_defaults_are_valid_and_as_published():
    kv = SpecKVConfig()
    assert (kv.max_capacity_prompt, kv.window_size, kv.pool_type, kv.reduction_type) == (1024, 64, "max", "max")
    assert (kv.lookahead_tokens, kv.prefill_window_size, kv.prefill_vertical_size) == (None, 2048, 2048)
    assert kv.kernel_size % 2 == 1
    pc = SpecPCConfig()
    assert (pc.lookahead_tokens, pc.kernel_size, pc.starting_layer_index, pc.weighted_query) == (1, 64, 8, True)
    assert SpecKVPCConfig().specpc_config.max_capacity_prompt == 2048


@pytest.mark.parametrize("config", [FullConfig(), SpecKVConfig(), SpecPCConfig(neighbor_tokens=3), SpecKVPCConfig()])
def test_the_yaml_form_round_trips(config):
    assert config_from_dict(config.to_dict()) == config
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sparse_type: missing. Valid: .*full.*speckv"),
        ({"sparse_type": "spekcv"}, "sparse_type: unknown method 'spekcv'.*Did you mean 'speckv'"),
        ({"sparse_type": "speckv", "window": 3}, "window: unknown key.*Did you mean 'window_size'"),
        ({"sparse_type": "speckv", "kernel_size": 64}, "kernel_size: 64 is even.*Use 63 or 65"),
        ({"sparse_type": "speckv", "max_capacity_prompt": 64}, "window_size: 64 leaves no room.*Lower window_size"),
        ({"sparse_type": "specpc", "max_capacity_prompt": 8, "window_size": 9}, "window_size: 9 leaves no room"),
        ({"sparse_type": "speckv", "max_capacity_prompt": 0}, "max_capacity_prompt: must be at least 1"),
        (
            {"sparse_type": "speckv", "max_capacity_prompt": "256"},
            "max_capacity_prompt: must be a whole number or null",
        ),
        ({"sparse_type": "speckv", "lookahead_tokens": True}, "lookahead_tokens: must be a whole number or null"),
        ({"sparse_type": "speckv", "lookahead_tokens": 0}, "lookahead_tokens: must be at least 1"),
        ({"sparse_type": "speckv", "pool_type": "avg"}, "pool_type: must be one of max, mean, null"),
        ({"sparse_type": "speckv", "prefill_window_size": None}, "prefill_window_size: give it together"),
        ({"sparse_type": "specpc", "weighted_query": 1}, "weighted_query: must be true or false"),
        ({"sparse_type": "specpc", "position_ids": "kept"}, "position_ids: must be one of contiguous, original"),
        ({"sparse_type": "specpc", "neighbor_tokens": -1}, "neighbor_tokens: must be at least 0"),
        ({"sparse_type": "speckvpc", "specpc_config": {"kernel": 3}}, "specpc_config.kernel: unknown key"),
        ({"sparse_type": "speckvpc", "speckv_config": 3}, "speckv_config: must be a SpecKVConfig or a mapping"),
        (
            {"sparse_type": "speckvpc", "speckv_config": {"lookahead_tokens": 3}},
            "speckv_config.lookahead_tokens: 3 differs.*draft runs once",
        ),
        ({"sparse_type": "full", "window_size": 3}, "window_size: unknown key.*It has no settings"),
        ([], "must be a mapping"),
    ],
)
def test_impossible_values_are_refused_with_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        config_from_dict(settings)


def test_a_method_elsewhere_is_found_by_its_name():
    @dataclass(frozen=True)
    class ElsewhereConfig(MethodConfig):
        sparse_type: ClassVar[str] = "elsewhere"
        max_capacity_prompt: int

    assert config_from_dict({"sparse_type": "elsewhere", "max_capacity_prompt": 3}) == ElsewhereConfig(3)
    with pytest.raises(ValueError, match="max_capacity_prompt: missing"):
        config_from_dict({"sparse_type": "elsewhere"})


def test_checking_a_configuration_loads_no_torch():
    code = "import sys; from draft_approx_llm import config_from_dict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
