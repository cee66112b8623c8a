"""LLMLingua-2 is what the `llmlingua` package gives, within the budget in the target's tokens."""

import random
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForTokenClassification, BertTokenizerFast

import baselines
from baselines import _rewriting
from baselines._llmlingua_package import load
from draft_approx_llm import config_from_dict, patch_model, unpatch_model

pytest.importorskip("llmlingua")
PAIR = Path(__file__).parents[2] / "data/tiny_pair/target"
CAPACITY, WINDOW = 60, 12
WORDS = ["the", "grass", "is", "green", "sky", "sun", "yellow", "here", "we", "go", "there", "and", "back", "again"]


@pytest.fixture(scope="module")
def compressor(tmp_path_factory):
    """A random encoder that keeps or drops a token by what it is."""
    folder = tmp_path_factory.mktemp("compressor") / "tiny-bert-base-multilingual-cased"
    letters = [mark + chr(code) for code in range(33, 127) for mark in ("", "##")]
    vocabulary = folder.parent / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]))
    tokenizer = BertTokenizerFast(str(vocabulary), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=0, num_labels=2, initializer_range=0.5, **sizes)
    BertForTokenClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def target():
    return AutoModelForCausalLM.from_pretrained(PAIR).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(PAIR)


def text(words, seed):
    """Sentences of random words, as plain as the encoder's vocabulary."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + ("." if i % 9 == 8 else "") for i in range(words))


def ids_of(tokenizer, words, seed):
    return tokenizer(text(words, seed), return_tensors="pt", add_special_tokens=False)["input_ids"]


def config(compressor, changes=()):
    baselines.load("llmlingua2")
    settings = {"max_capacity_prompt": CAPACITY, "window_size": WINDOW, "compressor": compressor}
    return config_from_dict({"sparse_type": "llmlingua2", **settings, **dict(changes)})


def generate(target, ids, mask=None):
    mask = torch.ones_like(ids) if mask is None else mask
    return target.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )


@pytest.mark.parametrize("changes", [{}, {"drop_consecutive": True, "force_tokens": ["."]}, {"token_to_word": "first"}])
def test_the_target_reads_what_the_package_gives(target, tokenizer, compressor, changes):
    from llmlingua import PromptCompressor

    class TargetTokens:
        def encode(self, words):
            return tokenizer.encode(words, add_special_tokens=False)

    with mock.patch("tiktoken.encoding_for_model", lambda name: TargetTokens()):
        package = PromptCompressor(compressor, "cpu", use_llmlingua2=True)
    asked = []

    def compress(passage, question, length, budget, scale):
        asked.append(passage)
        return package.compress_prompt([passage], target_token=round(scale * budget), **changes)["compressed_prompt"]

    ids = ids_of(tokenizer, 700, 1)  # two chunks of the encoder's 512 tokens
    expected, stats = _rewriting.rewrite(ids[0].tolist(), CAPACITY, WINDOW, tokenizer, compress)
    patch_model(target, None, config(compressor, changes))
    got = generate(target, ids)
    unpatch_model(target)
    short = generate(target, torch.tensor([expected]))
    assert torch.equal(got.logits[0], short.logits[0])
    assert got.output_ids.tolist() == short.sequences[:, len(expected) :].tolist()
    (told,) = got.stats
    assert told["read_tokens"] == len(expected) and CAPACITY * 0.8 < len(expected) <= CAPACITY
    assert (told["tries"], told["prompt_tokens"]) == (stats["tries"], ids.shape[1])
    assert expected[-WINDOW:] == ids[0, -WINDOW:].tolist()
    assert asked[0] == tokenizer.decode(ids[0, :-WINDOW])
    assert got.kept[0].prompt is None and told["draft_cache_bytes"] == 0 < got.timings["draft"]


def test_a_batch_equals_its_rows_and_a_wide_budget_changes_nothing(target, tokenizer, compressor):
    prompts = [ids_of(tokenizer, words, words) for words in (150, 200, 20)]
    longest = max(ids.shape[1] for ids in prompts)
    rows = [torch.nn.functional.pad(ids, (longest - ids.shape[1], 0)) for ids in prompts]
    masks = [torch.nn.functional.pad(torch.ones_like(ids), (longest - ids.shape[1], 0)) for ids in prompts]
    unpatch_model(target)
    plain = [generate(target, ids).sequences.tolist() for ids in prompts]
    patch_model(target, None, config(compressor))
    together = generate(target, torch.cat(rows), torch.cat(masks))
    for i, ids in enumerate(prompts):
        alone = generate(target, ids)
        new = alone.output_ids.shape[1]
        assert alone.output_ids[0].tolist() == together.output_ids[i, :new].tolist()
        assert alone.stats[0] == together.stats[i]
    assert alone.sequences.tolist() == plain[-1], "20 words are within the budget"
    patch_model(target, None, config(compressor, {"max_capacity_prompt": None, "budget_ratio": 1.0}))
    assert generate(target, prompts[0]).sequences.tolist() == plain[0]


def test_nothing_is_downloaded_and_no_generator_is_touched(target, tokenizer, compressor):
    def no_network(*args, **kwargs):
        raise AssertionError("a download")

    torch.manual_seed(7)
    random.seed(7)
    expected = torch.rand(1).item(), random.random()
    torch.manual_seed(7)
    random.seed(7)
    torch.backends.cudnn.deterministic = False
    patch_model(target, None, config(compressor))
    load.cache_clear()
    with mock.patch("tiktoken.load.read_file", no_network), mock.patch("socket.socket.connect", no_network):
        assert generate(target, ids_of(tokenizer, 150, 1)).stats[0]["read_tokens"] <= CAPACITY
    assert (torch.rand(1).item(), random.random()) == expected
    assert not torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"compressor": "my/encoder"}, "compressor: 'my/encoder' must have xlm-roberta-large or bert-base"),
        ({"window_size": 60}, "window_size"),
        ({"force_tokens": "."}, "force_tokens: must be a list"),
        ({"drop_consecutive": 1}, "drop_consecutive: must be true or false"),
        ({"token_to_word": "max"}, "token_to_word: must be one of mean, first"),
    ],
)
def test_wrong_settings_are_told(compressor, changes, problem):
    with pytest.raises(ValueError, match=problem):
        config(compressor, changes)


def test_a_missing_package_is_told_with_the_remedy(compressor):
    config(compressor)
    with (
        mock.patch("baselines.llmlingua2.find_spec", lambda name: None),
        pytest.raises(ValueError, match="pip install llmlingua"),
    ):
        config(compressor)


def test_an_encoder_or_a_tokenizer_that_cannot_be_loaded_is_refused(target, compressor):
    with pytest.raises(ValueError, match="compressor: '/no/bert-base-multilingual-cased' cannot be loaded"):
        patch_model(target, None, config("/no/bert-base-multilingual-cased"))
    with (
        mock.patch.object(target, "name_or_path", "/nowhere"),
        pytest.raises(ValueError, match="'/nowhere', the target, has no tokenizer"),
    ):
        patch_model(target, None, config(compressor))
