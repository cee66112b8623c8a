"""The built-in pair: its tokenizer, its training samples, its training loop, and what the shipped weights can do."""

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from wonderwords import RandomWord

from data.builtin.prose import essay
from data.ruler import tasks as ruler_tasks
from data.ruler.templates import TEMPLATES
from data.tiny_pair.samples import ANSWER, FIRST, TASKS, Sampler, load_sampler
from data.tiny_pair.tokenizer import (
    BOS,
    END,
    MODEL_MAX_LENGTH,
    PAD,
    SPECIAL_TOKENS,
    build_tokenizer,
    read_material,
    ruler_wording,
)
from data.tiny_pair.training import CURRICULUM, MODELS, Phase, Run, Settings, build_model, wire

PAIR = Path(__file__).resolve().parents[2] / "data" / "tiny_pair"
MIB = 2**20
UUID = "3713b466-3da0-4476-b778-c676750d112e"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(PAIR / "target")


@pytest.fixture(scope="module")
def target():
    return AutoModelForCausalLM.from_pretrained(PAIR / "target", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def material():
    """A few words are enough; the wording is RULER's."""
    words = {"adjectives": ["jittery", "faithful", "ad hoc"], "nouns": ["commitment", "brother-in-law", "eagle"]}
    words["nouns"] += ["turtle", "garden", "window", "letter", "harbor", "candle", "mirror", "bottle", "ticket"]
    verbs = ["carry", "open", "measure", "remember", "follow", "describe", "repair", "watch", "paint", "move"]
    return words | {
        "verbs": verbs + [f"{verb}ing" for verb in verbs] + list("abcdefghijklmnopq"),
        "wording": ruler_wording(),
    }


@pytest.fixture(scope="module")
def sampler(material) -> Sampler:
    return load_sampler(str(PAIR / "target" / "tokenizer.json"), material)


# ---------------------------------------------------------------- what is shipped


def test_sizes():
    shards = list(PAIR.rglob("*.safetensors"))
    assert {shard.parent.name for shard in shards} == {"target", "draft"}
    assert max(shard.stat().st_size for shard in shards) < 16 * MIB
    files = [path for folder in ("target", "draft") for path in (PAIR / folder).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 60 * MIB


def test_models_are_a_pair(target):
    draft = AutoModelForCausalLM.from_pretrained(PAIR / "draft")
    assert draft.dtype == torch.bfloat16
    assert 10e6 <= target.num_parameters() <= 25e6
    assert 1e6 <= draft.num_parameters() <= 4e6
    assert target.config.num_key_value_heads >= 2
    assert target.config.num_hidden_layers >= 4
    for model in (target, draft):
        assert model.config.max_position_embeddings == MODEL_MAX_LENGTH
        assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (PAD, BOS, END)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (PAIR / "target" / name).read_bytes() == (PAIR / "draft" / name).read_bytes()


def test_special_tokens(tokenizer):
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.model_max_length >= 4096
    assert tokenizer("One")["input_ids"] == tokenizer("One", add_special_tokens=False)["input_ids"]


def test_chat_template_is_the_one_of_ruler_prompts(tokenizer):
    text = tokenizer.apply_chat_template([{"role": "user", "content": "X"}], add_generation_prompt=True, tokenize=False)
    assert text == "<|bos|><|user|>\nX<|end|>\n<|assistant|>\n"
    assert text == TEMPLATES["tiny"].before + "X" + TEMPLATES["tiny"].after


@pytest.mark.parametrize(
    "text",
    [
        f"One of the special magic uuids for {UUID} is: {UUID}.\nOne",
        "VAR HFUPI = 70263\nVAR LRNUY = VAR HFUPI \nThe grass is green.",
        "they are:  SSB KOK FKX\n\nMemorize",
        " 1. gall-bladder 2. creme brulee 3. brother-in-law",
        "dots '....'. ... ... ufnllw  \t end é 漢",
        "<|bos|><|user|>\nhi<|end|>\n<|assistant|>\n",
    ],
)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_values_are_cut_alike_everywhere(tokenizer):
    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False)

    assert len(ids(f" {UUID}")) == 16
    assert ids(f"for {UUID} is: {UUID}.").count(ids(f" {UUID}")[0]) == 2
    assert tokenizer.convert_ids_to_tokens(ids(" 5437923")) == ["Ġ543", "792", "3"]
    assert tokenizer.convert_ids_to_tokens(ids(" HFUPI")) == ["ĠHF", "UP", "I"]
    assert len(ids(" jittery-commitment")) == 3


def test_tokenizer_can_be_built_again():
    words = RandomWord()
    lists = {name: sorted(words.filter(include_categories=[name[:-1]])) for name in ("adjectives", "nouns", "verbs")}
    built = build_tokenizer(lists | {"wording": ruler_wording()}, essay(60_000, 1))
    shipped = json.loads((PAIR / "target" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    again = json.loads(built.backend_tokenizer.to_str())["model"]
    assert again["vocab"] == shipped["vocab"]
    assert again["merges"] == shipped["merges"]


# ---------------------------------------------------------------- training samples


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("turns", [1, 8])
def test_sample_ids_are_those_of_its_text(sampler, tokenizer, task, turns):
    for length in (512, 1024, 2048):
        if task == "cwe":
            continue
        row = sampler.sample(task, length, turns, Random(length + turns))
        text = tokenizer.decode(row.ids)
        assert tokenizer.encode(text, add_special_tokens=False) == row.ids
        assert len(row.ids) == len(row.learn) <= length
        assert len(row.ids) > 0.9 * length
        assert FIRST in row.learn


def test_cwe_sample(sampler, tokenizer):
    sampler.words = [f"{a}{b}" for a in ("sun", "moon", "star", "rain") for b in map(str, sampler.words)]
    row = sampler.sample("cwe", 1024, 1, Random(3))
    text = tokenizer.decode(row.ids)
    assert tokenizer.encode(text, add_special_tokens=False) == row.ids
    assert text.count("<|bos|>") == 2, "RULER puts the whole template around the example"
    listed = re.findall(r"\d+\. (\S+)", text.split("most often.\n")[-1].split("\nQuestion")[0])
    answers = re.findall(r"\d+\. (\S+?)(?=$| |<)", text.split("list are:")[-1])
    assert len(answers) == 10
    assert min(listed.count(word) for word in answers) == 6


@pytest.mark.parametrize(
    ("task", "kind", "asked"),
    [("niah_single_1", "number", 1), ("niah_single_3", "uuid", 1), ("niah_multiquery", "numbers", 4)],
)
def test_niah_sample_has_rulers_wording(sampler, tokenizer, task, kind, asked):
    text = tokenizer.decode(sampler.sample(task, 700, 1, Random(1)).ids)
    family, single = ruler_tasks.NIAH, asked == 1
    body, prefix = family.body, family.answer_prefix
    if single:
        for old, new in (("Some", "A"), ("are all", "is"), ("are", "is")):
            body, prefix = body.replace(old, new), prefix.replace(old, new)
    template = TEMPLATES["tiny"].before + body + TEMPLATES["tiny"].after + prefix
    pattern = re.escape(template.replace("{type_needle_v}", kind))
    pattern = pattern.replace(r"\{context\}", "(?P<context>.*)").replace(r"\{query\}", "(?P<query>.*)", 1)
    pattern = pattern.replace(r"\{query\}", "(?P=query)")
    found = re.fullmatch(pattern + r" (?P<answer>.*)\.<\|end\|>", text, re.DOTALL)
    assert found, text[:200] + text[-300:]
    keys = re.split(r", and |, ", found["query"])
    values = re.split(r", and |, ", found["answer"])
    assert len(keys) == len(values) == asked
    for key, value in zip(keys, values, strict=True):
        needle = ruler_tasks.NEEDLE.format(type_needle_v=kind.rstrip("s") + "s", key=key, value=value)
        assert found["context"].count(needle) == 1


def test_vt_sample(sampler, tokenizer):
    text = tokenizer.decode(sampler.sample("vt", 1024, 1, Random(2)).ids)
    assert text.endswith("<|end|>")
    value = re.search(r"assigned the value (\d+), they are:  ([A-Z]{5})[^\n]*<\|end\|>$", text)
    assert f"VAR {value[2]} = {value[1]}\n" in text


def test_batches_do_not_depend_on_who_makes_them(sampler, material):
    other = load_sampler(str(PAIR / "draft" / "tokenizer.json"), material)
    arguments = ({"niah_single_2": 1.0, "vt": 1.0, "recall": 1.0}, 512, 4, 0.5)
    for a, b in zip(sampler.batch(*arguments, Random(5)), other.batch(*arguments, Random(5)), strict=True):
        assert np.array_equal(a, b)
    assert set(np.unique(sampler.batch(*arguments, Random(5))[1])) == {0, ANSWER, FIRST}


# ---------------------------------------------------------------- training


def _settings(**changes) -> Settings:
    phases = (
        Phase("one", {64: 1.0}, {"recall": 1.0}, 1.0, 2.0, 0.5),
        Phase("two", {64: 0.5, 256: 0.5}, {"recall": 1.0, "niah_single_1": 1.0}, 1.0, 2.0, 1.0),
    )
    shape = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2, "heads": 2, "kv_heads": 1}
    settings = Settings(model=shape, steps=8, tokens=512, workers=0, warmup=2, phases=phases)
    return replace(settings, **changes)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_training_is_the_same_training(tmp_path, material, optimizer, monkeypatch):
    monkeypatch.setattr("data.tiny_pair.training.wire", lambda model: None)  # too small to be wired

    def run():
        return Run(_settings(optimizer=optimizer), PAIR / "target", material, "cpu")

    through = run()
    through.train(1e9, lambda line: None, every=2)
    assert through.progress.step == 8
    assert through.progress.phase == 1

    first = run()
    first.train(1e9, lambda line: None, every=2, steps=6)
    first.save(tmp_path / "checkpoint.pt")
    second = run()
    second.resume(tmp_path / "checkpoint.pt")
    assert second.progress.step == 6
    second.train(1e9, lambda line: None, every=2)
    for a, b in zip(through.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(second.model.lm_head.weight, run().model.lm_head.weight)


def test_export_loads(tmp_path, material, monkeypatch):
    monkeypatch.setattr("data.tiny_pair.training.wire", lambda model: None)
    run = Run(_settings(), PAIR / "target", material, "cpu")
    run.export(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.lm_head.weight, run.model.lm_head.weight.bfloat16())


def test_wired_heads_look_where_they_should():
    model = build_model(MODELS["draft"], 200, seed=3)
    wire(model)
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 200, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = model.model(input_ids=ids, output_attentions=True).attentions[0][0]  # [heads, queries, keys]
    for head, offset in enumerate((3, 6, 1)):
        assert (attention[head, 20:].argmax(-1) == torch.arange(20, 60) - offset).all()
    assert all(p.isfinite().all() for p in model.parameters())


def test_curriculum_begins_with_short_recall():
    assert "recall" in CURRICULUM[0].mix
    assert max(CURRICULUM[0].lengths) <= 256
    assert max(CURRICULUM[-1].lengths) == 4096


def test_material_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="tokenizer"):
        read_material(tmp_path / "material.json")


# ---------------------------------------------------------------- what the target can do


def test_target_finds_a_needle(sampler, tokenizer, target):
    right = 0
    for seed in range(4):
        row = sampler.sample("niah_single_1", 512, 1, Random(seed))
        start = row.learn.index(FIRST)
        prompt = torch.tensor([row.ids[:start]])
        with torch.no_grad():
            out = target.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        right += out[0, start:].tolist() == row.ids[start:]
    assert right == 4
