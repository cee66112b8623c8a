"""`generate` on a patched model behaves like transformers', and unpatching leaves nothing behind."""

import pytest
import torch
from families import DEVICE, left_padded, prompt, tiny_model, tiny_pair
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from draft_approx_llm import FullConfig, SpecKVConfig, SpecPCConfig, check_supported, patch_model, unpatch_model

KV = SpecKVConfig(max_capacity_prompt=32, window_size=8, lookahead_tokens=4)
PC = SpecPCConfig(max_capacity_prompt=32, window_size=8, kernel_size=4, starting_layer_index=1)
ROOMY = SpecKVConfig(max_capacity_prompt=512, window_size=8)
IDS = prompt(80, 1)
MASK = torch.ones_like(IDS)


@pytest.fixture
def pair():
    return tiny_pair("llama")


def test_a_tensor_by_default_and_an_output_on_request(pair):
    target, draft = pair
    assert patch_model(target, draft, KV) is target
    plain = target.generate(IDS, attention_mask=MASK, max_new_tokens=5)
    output = target.generate(inputs=IDS, attention_mask=MASK, max_new_tokens=5, return_dict_in_generate=True)
    assert plain.tolist() == output.sequences.tolist()
    assert output.sequences[:, :80].tolist() == IDS.tolist()
    assert output.output_ids.tolist() == plain[:, 80:].tolist()
    assert set(output.timings) == {"draft", "prefill", "decode"}
    assert all(seconds > 0 for seconds in output.timings.values())
    assert len(output.kept) == len(output.stats) == 1
    assert output.scores is None


def test_unpatching_restores_the_model_exactly(pair):
    target, draft = pair
    before = {name: value for name, value in vars(target).items() if not name.startswith("_")}
    keys, settings = list(target.state_dict()), target.config.to_dict()
    expected = target.generate(IDS, attention_mask=MASK, max_new_tokens=5)
    implementation = target.config._attn_implementation
    patch_model(target, draft, KV)
    target.generate(IDS, attention_mask=MASK, max_new_tokens=5)
    assert list(target.state_dict()) == keys
    assert unpatch_model(target) is target
    assert {name: value for name, value in vars(target).items() if not name.startswith("_")} == before
    assert target.generate.__func__ is type(target).generate
    assert target.config._attn_implementation == draft.config._attn_implementation == implementation
    assert target.config.to_dict() == settings
    assert target.generate(IDS, attention_mask=MASK, max_new_tokens=5).tolist() == expected.tolist()
    assert unpatch_model(target) is target


def test_the_attention_implementation_survives_an_error(pair):
    target, draft = pair

    def broken(*args, **kwargs):
        raise RuntimeError("no memory")

    AttentionInterface.register("test_broken", broken)
    AttentionMaskInterface.register("test_broken", sdpa_mask)
    draft.set_attn_implementation("test_broken")
    patch_model(target, draft, KV)
    with pytest.raises(RuntimeError, match="no memory"):
        target.generate(IDS, attention_mask=MASK, max_new_tokens=5)
    assert draft.config._attn_implementation == "test_broken"
    assert target.config._attn_implementation == "sdpa"


def test_patching_again_takes_the_new_configuration(pair):
    target, draft = pair
    patch_model(target, draft, KV)
    once = target.generate(IDS, attention_mask=MASK, max_new_tokens=5, return_dict_in_generate=True)
    patch_model(target, draft, PC)
    other = target.generate(IDS, attention_mask=MASK, max_new_tokens=5, return_dict_in_generate=True)
    assert once.kept[0].prompt is None and other.kept[0].cache is None
    patch_model(target, draft, KV)
    again = target.generate(IDS, attention_mask=MASK, max_new_tokens=5)
    assert again.tolist() == once.sequences.tolist()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_attention_implementation_gives_the_same(pair, implementation):
    target, draft = pair
    patch_model(target, draft, KV)
    ids, mask = left_padded([IDS, prompt(50, 2)])
    expected = target.generate(ids, attention_mask=mask, max_new_tokens=5)
    target.set_attn_implementation(implementation)
    draft.set_attn_implementation(implementation)
    assert target.generate(ids, attention_mask=mask, max_new_tokens=5).tolist() == expected.tolist()


def test_the_delegate_sees_its_own_name_and_no_foreign_positions(pair):
    """Flash attention finds its kernels by the name in the config, and takes position gaps for packed sequences."""
    target, draft = pair
    seen = []

    def looking(module, *args, **kwargs):
        seen.append((module.config._attn_implementation, "position_ids" in kwargs))
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("test_looking", looking)
    AttentionMaskInterface.register("test_looking", sdpa_mask)
    target.set_attn_implementation("test_looking")
    patch_model(target, draft, KV)
    target.generate(IDS, attention_mask=MASK, max_new_tokens=2)
    assert set(seen) == {("test_looking", False)}


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6, "temperature": 2.0}])
def test_sampling_draws_what_transformers_draws(pair, options):
    target, draft = pair
    unpatch_model(target)
    ids, mask = left_padded([IDS, prompt(50, 2)])
    options = {"do_sample": True, "max_new_tokens": 8, "attention_mask": mask, **options}
    torch.manual_seed(0)
    expected = target.generate(ids, **options)
    patch_model(target, draft, ROOMY)
    torch.manual_seed(0)
    assert target.generate(ids, **options).tolist() == expected.tolist()


def test_processors_see_the_whole_prompt(pair):
    target, draft = pair
    options = {"attention_mask": MASK, "max_new_tokens": 8, "repetition_penalty": 5.0, "do_sample": False}
    expected = target.generate(IDS, **options)
    patch_model(target, draft, ROOMY)
    assert target.generate(IDS, **options).tolist() == expected.tolist()


def test_rows_stop_at_eos_and_are_padded(pair):
    target, draft = pair
    ids, mask = left_padded([IDS, prompt(70, 2), prompt(60, 3)])
    patch_model(target, draft, KV)
    free = target.generate(ids, attention_mask=mask, max_new_tokens=8)[:, 80:]
    eos = int(free[0, 2])
    output = target.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=8,
        eos_token_id=[eos],
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    for row, prompt_ids in zip(output.output_ids.tolist(), [IDS, prompt(70, 2), prompt(60, 3)], strict=True):
        alone = target.generate(
            prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=8, eos_token_id=[eos]
        )
        said = alone[0, prompt_ids.shape[1] :].tolist()
        assert row == said + [0] * (len(row) - len(said))
    assert output.output_ids[0].tolist()[: free[0].tolist().index(eos) + 1][-1] == eos


def test_the_streamer_gets_every_token_and_the_end(pair):
    target, draft = pair

    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Streamer()
    patch_model(target, draft, KV)
    output = target.generate(IDS, attention_mask=MASK, max_new_tokens=5, streamer=streamer)
    assert streamer.tokens == output[0].tolist()
    assert streamer.ended


def test_several_sequences_a_prompt(pair):
    target, draft = pair
    patch_model(target, draft, KV)
    options = {"attention_mask": MASK, "max_new_tokens": 6, "do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(0)
    assert target.generate(IDS, **options).shape == (3, 86)


def test_without_a_mask_padding_is_found_as_transformers_finds_it(pair):
    target, draft = pair
    patch_model(target, draft, KV)
    ids, mask = left_padded([IDS, prompt(50, 2)])
    target.generation_config.pad_token_id, target.generation_config.eos_token_id = 0, 2
    with_mask = target.generate(ids, attention_mask=mask, max_new_tokens=4)
    assert target.generate(ids, max_new_tokens=4).tolist() == with_mask.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"inputs_embeds": torch.zeros(1, 2, 48, device=DEVICE)}, "inputs_embeds: not supported"),
        ({"attention_mask": MASK.index_fill(1, torch.tensor([79], device=DEVICE), 0)}, "padded on the left"),
        ({"attention_mask": torch.zeros_like(MASK)}, "all padding"),
        ({"stop_strings": ["x"]}, "pass the tokenizer"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
    ],
)
def test_what_a_patched_model_cannot_do_is_refused(pair, options, message):
    target, draft = pair
    target.set_attn_implementation("eager")
    patch_model(target, draft, KV)
    with pytest.raises(ValueError, match=message):
        target.generate(IDS, **{"attention_mask": MASK, "max_new_tokens": 4, **options})


def test_patching_refuses_what_cannot_work(pair):
    target, draft = pair
    with pytest.raises(ValueError, match="speckv needs a draft model"):
        patch_model(target, None, KV)
    with pytest.raises(TypeError, match="must be a MethodConfig"):
        patch_model(target, draft, {"sparse_type": "speckv"})
    with pytest.raises(ValueError, match="starting_layer_index: 8 is past the draft's 3 layers"):
        patch_model(target, draft, SpecPCConfig())
    assert patch_model(target, None, FullConfig()) is target


def unsupported():
    small = {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 50}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "head_dim": 16}
    yield "linear_attention", MambaForCausalLM(MambaConfig(**small, state_size=4))
    yield (
        "linear_attention",
        Qwen3NextForCausalLM(
            Qwen3NextConfig(
                **small,
                **attention,
                layer_types=["linear_attention", "full_attention"],
                num_experts=2,
                num_experts_per_tok=1,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                linear_num_key_heads=2,
                linear_num_value_heads=2,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
            )
        ),
    )
    yield "attention registry", BloomForCausalLM(BloomConfig(n_layer=2, hidden_size=32, n_head=2, vocab_size=50))
    yield (
        "encoder-decoder",
        T5ForConditionalGeneration(T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50)),
    )
    yield "caps its attention logits", Gemma2ForCausalLM(Gemma2Config(**small, **attention))


@pytest.mark.parametrize(("reason", "model"), list(unsupported()))
def test_architectures_that_cannot_be_observed_are_refused_by_name(reason, model):
    with pytest.raises(ValueError, match=f"{type(model).__name__}.*{reason}"):
        check_supported(model)
    with pytest.raises(ValueError, match=type(model).__name__):
        patch_model(tiny_model("llama"), model, KV)
