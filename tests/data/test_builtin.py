"""The shipped haystack: deterministic, whole sentences, nothing that looks like a value."""

import hashlib
import re

import pytest

from data.builtin.prose import essay


def test_essay_is_the_same_everywhere():
    assert hashlib.sha256(essay(2000, 0).encode()).hexdigest()[:16] == "282ea37959118a1c"
    assert essay(300, 1) != essay(300, 2)


def test_shorter_essay_is_a_prefix():
    assert essay(5000, 3).startswith(essay(700, 3))
    assert essay(5000, 3).split()[:700] == essay(700, 3).split()[:700]


def test_essay_is_whole_plain_sentences():
    text = essay(3000, 4)
    assert len(text.split()) >= 3000
    assert re.fullmatch(r"[A-Za-z' ,]+\.( [A-Za-z' ,]+\.)*", text)
    assert text == " ".join(text.split())
    assert all(s[0].isupper() for s in text.split(". "))


def test_essay_varies():
    sentences = essay(20000, 5).split(". ")
    assert len(set(sentences)) > 0.97 * len(sentences)


def test_essay_bounds():
    assert essay(0) == ""
    with pytest.raises(ValueError, match="n_words"):
        essay(-1)
