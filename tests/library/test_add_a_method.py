"""The recipe in README.md, "Add a method", works as it stands: in the library and by its name in a configuration."""

import re
import sys
from pathlib import Path

import pytest
import torch
from families import DEVICE, prompt, tiny_pair

import baselines
from draft_approx_llm import config_from_dict, patch_model, unpatch_model

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    code = re.search(r"```python\n# (baselines/\w+\.py)\n(.*?)```", README.read_text(), re.S)
    path = tmp_path / Path(code[1]).name
    path.write_text(code[2])
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    yield path.stem
    sys.modules.pop(f"baselines.{path.stem}", None)


def test_the_recipe_works(recipe):
    assert recipe in baselines.available()
    baselines.load(recipe)
    target, _ = tiny_pair("llama")
    config = config_from_dict({"sparse_type": recipe, "max_capacity_prompt": 24})
    patch_model(target, None, config)
    ids = prompt(90, 1)
    output = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, return_dict_in_generate=True)
    assert config.window_size == 16
    with torch.no_grad():
        unpatch_model(target)
        cache = target(ids, use_cache=True).past_key_values
    for layer, full in zip(output.kept[0].cache, cache.layers, strict=True):
        largest = full.values[0, :, :73].norm(dim=-1).topk(8).indices.sort().values
        assert layer[:, :8].tolist() == largest.tolist()
        assert layer[:, 8:].tolist() == [list(range(73, 89))] * 2
    assert output.stats[0]["kept_tokens"] == 24
    assert output.sequences.device.type == DEVICE.type


def test_a_name_that_is_not_there_is_left_to_the_configuration():
    baselines.load("no_such_method")
    with pytest.raises(ValueError, match="unknown method 'no_such_method'"):
        config_from_dict({"sparse_type": "no_such_method"})
