"""Data files, their recipes, and the texts that the tasks are made of."""

import importlib.metadata
import json
from dataclasses import replace

import pytest
from ruler_helpers import make_recipe, stub_count, tiny_tokenizer, write_questions

from data.ruler import files, sources
from data.ruler.files import DataFileError, TokenizerId, data_path, ensure_rows, read_rows, rows_ready
from data.ruler.generate import generate_rows
from data.ruler.sources import SourceError, Sources
from data.ruler.templates import TEMPLATES


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.name_or_path = "data/tiny_pair/target"
    return tokenizer


@pytest.fixture
def recipe():
    return make_recipe("niah_single_1", 512, template="tiny")


@pytest.fixture(autouse=True)
def no_sources_at_hand(monkeypatch, tmp_path):
    """No texts of this machine, and no network."""
    monkeypatch.delenv("RULER_SOURCES", raising=False)
    monkeypatch.setattr(sources, "SOURCES_DIR", tmp_path / "sources")

    def offline(url):
        raise OSError("no network")

    monkeypatch.setattr(sources, "_fetch", offline)


def test_a_file_is_made_once_and_kept(recipe, tokenizer, tmp_path):
    path, made = ensure_rows(recipe, tokenizer, 3, tmp_path)
    assert made and path == tmp_path / "data__tiny_pair__target" / "512" / "niah_single_1.jsonl"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert ensure_rows(recipe, tokenizer, 3, tmp_path) == (path, False)
    assert ensure_rows(recipe, tokenizer, 2, tmp_path) == (path, False)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["niah_single_1.json", "niah_single_1.jsonl"]


def test_a_short_file_grows_and_keeps_its_rows(recipe, tokenizer, tmp_path):
    path, _ = ensure_rows(recipe, tokenizer, 2, tmp_path)
    two = path.read_text()
    assert not rows_ready(recipe, TokenizerId.of(tokenizer), 5, tmp_path)
    assert ensure_rows(recipe, tokenizer, 5, tmp_path) == (path, True)
    assert path.read_text().startswith(two) and path.read_text().count("\n") == 5


@pytest.mark.parametrize(
    ("change", "folder"),
    [
        ({"tokens_to_generate": 64}, "data__tiny_pair__target+gen64"),
        ({"haystack": "builtin"}, "data__tiny_pair__target+builtin"),
        ({"haystack": "/texts/my novel.txt"}, "data__tiny_pair__target+my_novel"),
        ({"variant": "balanced"}, "data__tiny_pair__target+balanced"),
        ({"seed": 7}, "data__tiny_pair__target+seed7"),
        ({"template": TEMPLATES["base"]}, "data__tiny_pair__target+base"),
    ],
)
def test_other_recipes_have_other_folders(change, folder, tokenizer):
    plain = make_recipe("niah_single_2", 512, template="tiny", haystack="essay")
    assert data_path(plain, TokenizerId.of(tokenizer), "d").parts[1] == "data__tiny_pair__target"
    assert data_path(replace(plain, **change), TokenizerId.of(tokenizer), "d").parts[1] == folder


def test_a_file_of_another_recipe_is_refused(recipe, tokenizer, tmp_path, monkeypatch):
    path, _ = ensure_rows(recipe, tokenizer, 2, tmp_path)
    content = path.read_text()
    retrained = TokenizerId("data/tiny_pair/target", "0123456789abcdef", "tiny")
    monkeypatch.setattr(TokenizerId, "of", classmethod(lambda cls, tokenizer: retrained))
    with pytest.raises(DataFileError, match=r"another recipe \(tokenizer_digest: .*0123456789abcdef.*delete it"):
        ensure_rows(recipe, tokenizer, 2, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(files, "GENERATOR_VERSION", files.GENERATOR_VERSION + 1)
    with pytest.raises(DataFileError, match="generator_version"):
        ensure_rows(recipe, tokenizer, 2, tmp_path)
    assert path.read_text() == content


def test_a_file_without_its_recipe_is_refused(recipe, tokenizer, tmp_path):
    path, _ = ensure_rows(recipe, tokenizer, 2, tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataFileError, match="no readable recipe"):
        ensure_rows(recipe, tokenizer, 2, tmp_path)


def test_tokenizers_that_differ_in_merges_only_have_other_digests(tokenizer):
    other = tiny_tokenizer()
    other.name_or_path = tokenizer.name_or_path
    assert TokenizerId.of(other) == TokenizerId.of(tokenizer)
    state = json.loads(other.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][1:]
    other._tokenizer = type(other.backend_tokenizer).from_str(json.dumps(state))
    assert other.get_vocab() == tokenizer.get_vocab()
    assert TokenizerId.of(other).digest != TokenizerId.of(tokenizer).digest


def test_a_write_that_fails_leaves_nothing(recipe, tokenizer, tmp_path, monkeypatch):
    def disk_full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", disk_full)
    with pytest.raises(OSError, match="No space left"):
        ensure_rows(recipe, tokenizer, 2, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_broken_and_missing_rows_are_named(tmp_path):
    path = tmp_path / "vt.jsonl"
    path.write_text('{"index": 0}\n{"index"')
    assert read_rows(path, 1) == [{"index": 0}]
    with pytest.raises(DataFileError, match=r"vt.jsonl, line 2: not JSON"):
        read_rows(path, 2)
    path.write_text('{"index": 0}\n')
    with pytest.raises(DataFileError, match="has 1 rows, 2 wanted"):
        read_rows(path, 2)


# ------------------------------------------------- texts


@pytest.mark.parametrize(
    ("task", "file", "address"),
    [
        ("qa_1", "squad.json", "dev-v2.0.json"),
        ("qa_2", "hotpotqa.json", "hotpot_dev_distractor_v1.json"),
        ("niah_single_2", "PaulGrahamEssays.json", "PaulGrahamEssays_URLs.txt"),
    ],
)
def test_offline_the_error_says_which_file_to_put_where(task, file, address, tmp_path):
    with pytest.raises(SourceError) as error:
        list(generate_rows(make_recipe(task, 1024, haystack="essay"), stub_count, 1))
    assert str(tmp_path / "sources" / file) in str(error.value)
    assert address in str(error.value) and "RULER_SOURCES" in str(error.value) and "no network" in str(error.value)


def test_a_text_is_downloaded_once(tmp_path):
    calls = []

    def fetch(url):
        calls.append(url)
        return b"[1]"

    first = Sources().get("hotpotqa", fetch)
    assert Sources().get("hotpotqa", fetch) == first == tmp_path / "sources" / "hotpotqa.json"
    assert first.read_bytes() == b"[1]" and len(calls) == 1


def test_an_answer_that_is_not_the_file_is_not_kept(tmp_path):
    with pytest.raises(SourceError, match="not downloadable"):
        Sources().get("squad", lambda url: b"<html>moved</html>")
    assert not (tmp_path / "sources").exists()


def test_essays_are_joined_in_the_order_of_their_names():
    pages = {"x/b.txt": b"second. ", "y/a.txt": b"first. "}

    def fetch(url):
        return b"x/b.txt\ny/a.txt\n" if url.endswith("URLs.txt") else pages[url]

    assert json.loads(Sources().get("essays", fetch).read_text()) == {"text": "first. second. "}


def test_texts_are_found_in_the_named_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RULER_SOURCES", str(tmp_path))
    write_questions(tmp_path)
    assert Sources().get("squad") == tmp_path / "squad.json"
    with pytest.raises(SourceError, match="squad: no file '/nowhere'"):
        Sources(squad="/nowhere").get("squad")


def test_a_question_file_of_another_layout_is_refused(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text('{"data": [{"title": "x"}]}')
    with pytest.raises(SourceError, match="squad.json is not SQuAD dev-v2.0 in its official layout"):
        list(generate_rows(make_recipe("qa_1", 1024, sources=Sources(squad=str(path))), stub_count, 1))


def test_missing_sentence_tables_are_named(tmp_path, monkeypatch):
    import nltk

    text = tmp_path / "text.txt"
    text.write_text("One sentence. Another.")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *args, **kwargs: False)  # as it does offline
    with pytest.raises(SourceError, match="punkt_tab.*NLTK_DATA"):
        list(generate_rows(make_recipe("niah_single_2", 1024, haystack=str(text)), stub_count, 1))


@pytest.mark.parametrize("content", ['{"words": "x"}', '["x"]', "no json", '{"text": " "}'])
def test_a_haystack_without_text_is_refused(content, tmp_path):
    path = tmp_path / "essays.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=r"essays.json"):
        list(generate_rows(make_recipe("niah_single_2", 1024, haystack=str(path)), stub_count, 1))


@pytest.mark.parametrize("installed", ["3.0.1", None])
def test_another_wonderwords_is_refused(installed, monkeypatch):
    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(SourceError, match=rf"wonderwords 2.2.0, but {installed or 'none'} is installed"):
        list(generate_rows(make_recipe("cwe", 1024), stub_count, 1))


def test_a_short_text_is_repeated():
    prose = sources.Prose(lambda count: ["One.", "Two."], str.split)
    assert prose.sentences(5) == ["One.", "Two.", "One.", "Two.", "One."]
    assert prose.sentences(1) == ["One."]


def test_longer_builtin_prose_continues_shorter():
    prose = sources.builtin_prose()
    short, long = prose.sentences(900), prose.sentences(5000)
    assert short[:-1] == long[: len(short) - 1]
    assert sum(len(sentence.split()) for sentence in long) == 5000
