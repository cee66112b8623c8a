"""The pair's tokenizer: byte-level BPE whose cuts depend on nothing but the word itself.

What RULER hides and asks for (keys, numbers, UUIDs, variables) must look the same wherever it stands, so the
pre-tokenizer isolates it: hexadecimal pairs of a UUID, digits in threes from the left, pairs of capitals. Whole
pre-tokens that matter (nouns, adjectives, number groups) are tokens without merges of their own, as in Llama 3's
tokenizer (`ignore_merges`); everything else is ordinary BPE.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>")
PAD, BOS, END, USER, ASSISTANT = range(5)
MODEL_MAX_LENGTH = 4608
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# digits of a UUID's groups, in pairs
_GROUP_PAIRS = (4, 2, 2, 2, 6)
_MERGED_TOKENS = 2300


def _uuid_pattern() -> str:
    """Cuts a UUID into its 16 pairs; a space before it goes with the first, a hyphen with the pair that follows."""
    pieces = []
    for group, pairs in enumerate(_GROUP_PAIRS):
        pieces += [("-" if group and not pair else "") + "[0-9a-f]{2}" for pair in range(pairs)]
    alternatives = []
    for i, piece in enumerate(pieces):
        before = f"(?<={''.join(pieces[:i])})" if i else " ?"
        after = f"(?={''.join(pieces[i + 1 :])})" if i + 1 < len(pieces) else ""
        alternatives.append(before + piece + after)
    return "|".join(alternatives)


PATTERN = "|".join(
    (
        _uuid_pattern(),
        r" ?\p{Lu}{2}(?!\p{Ll})",
        r" ?\p{L}+",
        r" ?\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s",
    )
)


def _parts(words: list[str]) -> set[str]:
    """The pre-tokens of keys' second words: "brother-in-law" has three."""
    return {part for word in words for part in word.replace("-", " ").split()}


def _wording_tokens(material: dict) -> list[str]:
    """The pre-tokens of RULER's own sentences."""
    cutter = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    text = " ".join([*material["wording"].values(), "VAR = number numbers uuid uuids"])
    return [piece for piece, _ in cutter.pre_tokenize_str(re.sub(r"\{\w+\}", "", text))]


def _whole_tokens(adjectives: list[str], nouns: list[str]) -> list[str]:
    digits = [f"{n:0{width}d}" for width in (1, 2, 3) for n in range(10**width)]
    pairs = [f"{n:02x}" for n in range(256)]
    capitals = ["".join(pair) for pair in itertools.product(string.ascii_uppercase, repeat=2)]
    spaced = [*digits, *pairs, *capitals, *string.ascii_uppercase, *adjectives]
    tokens = [*digits, *pairs, *capitals, *sorted(_parts(nouns)), *(f"-{pair}" for pair in pairs)]
    return list(dict.fromkeys([*tokens, *(f" {token.split('-')[0].split(' ')[0]}" for token in spaced)]))


def _corpus(material: dict, prose: str) -> list[str]:
    """What the merges are learnt from: prose, RULER's wording, its word lists and coded words."""
    rng = Random(7)
    words = sorted({*material["adjectives"], *material["nouns"], *material["verbs"]})
    coded = ["".join(string.ascii_lowercase[int(26 * rng.random())] for _ in range(6)) for _ in range(3000)]
    return [prose, " " + " ".join(words * 2), " " + " ".join(coded), " ... ..." * 1000]


def build_tokenizer(material: dict, prose: str):
    """The tokenizer as a `PreTrainedTokenizerFast`.

    Args:
        material: `adjectives`, `nouns`, `verbs` (lists of words) and `wording` (RULER's strings).
        prose: text of the kind that fills haystacks.
    """
    from transformers import PreTrainedTokenizerFast

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_MERGED_TOKENS,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(material, prose), trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocab = learnt["vocab"]
    for token in [*_wording_tokens(material), *_whole_tokens(material["adjectives"], material["nouns"])]:
        token = token.replace("\n", "Ċ")
        vocab.setdefault(token.replace(" ", "Ġ"), len(vocab))

    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[tuple(merge) for merge in learnt["merges"]], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        bos_token=SPECIAL_TOKENS[BOS],
        eos_token=SPECIAL_TOKENS[END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MODEL_MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=list(SPECIAL_TOKENS[USER:]),
    )


def read_material(path: Path) -> dict:
    """RULER's word lists and strings as `scripts/train_tiny_pair.py tokenizer` left them.

    A file, because a training machine need not have wonderwords. Raises ValueError if it is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `python scripts/train_tiny_pair.py tokenizer` first")
    return json.loads(path.read_text(encoding="utf-8"))


def ruler_wording() -> dict[str, str]:
    """RULER's strings that training samples are made of."""
    from data.ruler import tasks  # here: a training machine has the wording from a file

    families = {
        "niah": tasks.NIAH,
        "vt": tasks.VARIABLE_TRACKING,
        "cwe": tasks.COMMON_WORDS,
        "fwe": tasks.FREQUENT_WORDS,
    }
    wording = {"needle": tasks.NEEDLE, "noise": tasks.NOISE}
    for name, family in families.items():
        wording |= {f"{name}_body": family.body, f"{name}_prefix": family.answer_prefix}
    return wording
