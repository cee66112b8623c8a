"""Draft and target must give every token the same id; sizes of embeddings do not matter."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from draft_approx_llm import check_same_tokenizer


def tokenizer(extra=(), split_digits=False):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *extra])}
    one = Tokenizer(models.BPE(vocabulary, [("1", "2")] if "12" in vocabulary else []))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level]) if split_digits else byte_level
    )
    return PreTrainedTokenizerFast(tokenizer_object=one)


def test_equal_tokenizers_pass():
    check_same_tokenizer(tokenizer(["12"]), tokenizer(["12"]))


def test_another_vocabulary_is_refused_with_examples():
    with pytest.raises(ValueError, match=r"2 tokens differ, such as 'new' \(256 and None\)"):
        check_same_tokenizer(tokenizer(["new", "newer"]), tokenizer())


def test_the_same_vocabulary_split_otherwise_is_refused():
    with pytest.raises(ValueError, match="split text differently"):
        check_same_tokenizer(tokenizer(["12"]), tokenizer(["12"], split_digits=True))
