"""Texts the tasks are made of: words, essays or other prose, SQuAD and HotpotQA.

Nothing of them is in the repository. A file is looked for where the caller says, in the folder `$RULER_SOURCES`, in
`data/ruler/sources/`, and is otherwise downloaded to the last, from where RULER gets it. Every failure names the file
and the place.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import importlib.metadata
import importlib.resources
import json
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES_DIR = Path(__file__).parent / "sources"
WONDERWORDS = "2.2.0"
_RULER_FILES = "https://raw.githubusercontent.com/NVIDIA/RULER/c3f5e3b4f87f97e048793bb510a3a6b19a46bf3a/scripts/data/synthetic/json/"
_TIMEOUT_S = 60
_SHORTEST_BUILTIN = 1024

Fetch = Callable[[str], bytes]


class SourceError(RuntimeError):
    """A text is missing or not what it should be; the message says what to put where."""


@dataclass(frozen=True)
class _Source:
    file: str
    what: str
    url: str


_SOURCES = {
    "essays": _Source("PaulGrahamEssays.json", "Paul Graham's essays, JSON {'text': ...}", "PaulGrahamEssays_URLs.txt"),
    "squad": _Source(
        "squad.json", "SQuAD dev-v2.0", "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"
    ),
    "hotpotqa": _Source(
        "hotpotqa.json",
        "HotpotQA dev, distractor setting",
        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
    ),
    "english_words": _Source(
        "english_words.json", "RULER's long English word list", _RULER_FILES + "english_words.json"
    ),
}


@dataclass(frozen=True)
class Sources:
    """Where the texts are. None: the default places, else a download."""

    essays: str | None = None
    squad: str | None = None
    hotpotqa: str | None = None
    english_words: str | None = None

    def find(self, kind: str) -> Path | None:
        """The local file of a kind ("essays", "squad", "hotpotqa", "english_words"), None if there is none.

        Raises SourceError if the caller named a file that does not exist.
        """
        named, source = getattr(self, kind), _SOURCES[kind]
        if named:
            if not Path(named).is_file():
                raise SourceError(f"{kind}: no file {named!r} (wanted: {source.what})")
            return Path(named)
        folders = [os.environ["RULER_SOURCES"]] if os.environ.get("RULER_SOURCES") else []
        for folder in (*folders, SOURCES_DIR):
            if (Path(folder) / source.file).is_file():
                return Path(folder) / source.file
        return None

    def get(self, kind: str, fetch: Fetch | None = None) -> Path:
        """The file of a kind, downloaded if it is not here. Raises SourceError saying which file to put where."""
        found = self.find(kind)
        if found:
            return found
        source, target = _SOURCES[kind], SOURCES_DIR / _SOURCES[kind].file
        fetch = fetch or _fetch
        try:
            content = _download_essays(fetch) if kind == "essays" else fetch(source.url)
            json.loads(content)
        except (OSError, ValueError, ImportError) as error:
            where = _RULER_FILES + source.url if kind == "essays" else source.url
            raise SourceError(
                f"{source.what} not found, and not downloadable from {where} ({error}). Put the file at {target}, or "
                f"in a folder named by the environment variable RULER_SOURCES as {source.file}, or give its path "
                f"with the option {kind!r}"
            ) from error
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as handle:
            handle.write(content)
        os.replace(handle.name, target)
        return target


def file_digest(path: str | Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    path = Path(path)
    return _file_digest(str(path), path.stat().st_mtime_ns)


@functools.lru_cache
def _file_digest(path: str, mtime_ns: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
        return reply.read()


def _download_essays(fetch: Fetch) -> bytes:
    """RULER's essay file, made as it makes it: plain texts first, then the pages of paulgraham.com as text.

    Upstream joins them in the order in which the file system lists them; here they are sorted by name.
    """
    urls = fetch(_RULER_FILES + _SOURCES["essays"].url).decode().split()
    texts = {url.rsplit("/", 1)[-1]: fetch(url).decode() for url in urls if not url.endswith(".html")}
    pages = {url.rsplit("/", 1)[-1]: fetch(url) for url in urls if url.endswith(".html")}
    parts = [texts[name] for name in sorted(texts)]
    if pages:
        try:
            import html2text
            from bs4 import BeautifulSoup
        except ImportError as error:
            raise ImportError("the essays' web pages need the packages html2text and beautifulsoup4") from error
        converter = html2text.HTML2Text()
        converter.ignore_images = converter.ignore_tables = converter.escape_all = True
        converter.reference_links = converter.mark_code = False
        for name in sorted(pages):
            page = BeautifulSoup(pages[name].decode("unicode_escape", "replace"), "html.parser")
            parts.append(converter.handle(str(page.find("font"))))
    return json.dumps({"text": "".join(parts)}).encode()


# ---------------------------------------------------------------- words


def _wonderwords(kind: str) -> list[str]:
    try:
        version = importlib.metadata.version("wonderwords")
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version != WONDERWORDS:
        raise SourceError(
            f"RULER's words come from wonderwords {WONDERWORDS}, but {version or 'none'} is installed; other versions "
            f"have other lists and give other samples. Install wonderwords=={WONDERWORDS}"
        )
    text = (importlib.resources.files("wonderwords.assets") / f"{kind}list.txt").read_text(encoding="utf-8")
    return [line.rstrip() for line in text.splitlines()]


def list_words() -> list[str]:
    """All nouns, adjectives and verbs, sorted, once each: what cwe samples from."""
    return sorted({*_wonderwords("noun"), *_wonderwords("adjective"), *_wonderwords("verb")})


class KeyWords(Sequence):
    """`sorted({f"{adjective}-{noun}" ...})` without the 6 million strings.

    Strings that start with one "adjective-" are neighbours in sorted order, in the order of the nouns. Only adjectives
    of which one begins with another and a hyphen ("blue", "blue-eyed") may interleave: those are merged for real.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]):
        nouns = sorted(set(nouns))
        self._nouns = nouns
        self._blocks: list[tuple[str, list[str]]] = []  # (prefix, sorted endings)
        self._ends: list[int] = []
        prefixes = sorted({f"{adjective}-" for adjective in adjectives})
        i = 0
        while i < len(prefixes):
            group = [p for p in prefixes[i:] if p.startswith(prefixes[i])]
            endings = nouns
            if len(group) > 1:
                endings = sorted({p[len(prefixes[i]) :] + noun for p in group for noun in nouns})
            self._blocks.append((prefixes[i], endings))
            self._ends.append((self._ends[-1] if self._ends else 0) + len(endings))
            i += len(group)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = bisect.bisect_right(self._ends, index)
        prefix, endings = self._blocks[block]
        return prefix + endings[index - self._ends[block]]  # a negative index, counted from the block's end


@functools.cache
def key_words() -> KeyWords:
    """The keys of needles, such as "jittery-commitment"."""
    return KeyWords(_wonderwords("adjective"), _wonderwords("noun"))


@functools.cache
def english_words(sources: Sources, wanted: int) -> list[str]:
    """RULER's longer list, for cwe beyond wonderwords (from 131072 tokens on). Raises SourceError if too short."""
    path = sources.get("english_words")
    words = list(json.loads(path.read_text(encoding="utf-8")).values())
    if len(words) < wanted:
        raise SourceError(f"{path} has {len(words)} words; cwe at this length samples {wanted}")
    return words


# ---------------------------------------------------------------- prose


class Prose:
    """A haystack of prose: its first n words, cut into sentences.

    `words(n)` gives at least the first n words if the text has them; a shorter text is repeated.
    """

    def __init__(self, words: Callable[[int], list[str]], split: Callable[[str], list[str]]):
        self._words = words
        self._split = split
        self.sentences = functools.lru_cache(maxsize=128)(self._sentences)

    def _sentences(self, count: int) -> list[str]:
        words = self._words(count)
        if count > len(words):
            words = words * -(-count // len(words))
        return self._split(" ".join(words[:count]).strip())


@functools.lru_cache(maxsize=2)
def prose_from_file(path: str) -> Prose:
    """A text file, or a JSON file with a "text" as RULER's essays have it; sentences by NLTK, as upstream.

    Raises SourceError for a file without text, or when NLTK's sentence tables are missing.
    """
    content = Path(path).read_text(encoding="utf-8")
    if path.endswith(".json"):
        try:
            content = json.loads(content)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"haystack {path!r}: expected JSON with the key 'text' ({error!r})") from error
    words = re.sub(r"\s+", " ", content).split(" ")
    if not any(words):
        raise SourceError(f"haystack {path!r} has no words")
    return Prose(lambda count: words, nltk_sentences())


@functools.cache
def builtin_prose() -> Prose:
    """The project's own generated prose; sentences end at a full stop, so NLTK is not needed."""
    from data.builtin.prose import essay

    @functools.lru_cache(maxsize=1)
    def generated(count: int) -> list[str]:
        return essay(count).split()

    def words(count: int) -> list[str]:
        # by doubling, so that a search over sizes generates few texts
        size = _SHORTEST_BUILTIN
        while size < count:
            size *= 2
        return generated(size)

    return Prose(words, lambda text: re.split(r"(?<=[.!?]) ", text))


def nltk_sentences() -> Callable[[str], list[str]]:
    """NLTK's `sent_tokenize`. Raises SourceError if its tables are missing and cannot be downloaded."""
    import nltk

    table = "tokenizers/punkt_tab/english/"
    try:
        nltk.data.find(table)
    except LookupError:
        # `download` returns False, and raises nothing, when there is no network
        if not nltk.download("punkt_tab", quiet=True):
            raise SourceError(
                "NLTK's sentence tables (punkt_tab) are missing and could not be downloaded. Put the folder punkt_tab "
                f"of nltk_data at {Path.home() / 'nltk_data' / 'tokenizers' / 'punkt_tab'}, or set NLTK_DATA to a "
                "folder that contains tokenizers/punkt_tab; haystack: builtin needs no tables"
            ) from None
    return nltk.tokenize.sent_tokenize


# ---------------------------------------------------------------- questions


@dataclass(frozen=True)
class Question:
    """A question, its answers, and documents by number: those it always comes with, and others of its article."""

    text: str
    answers: tuple[str, ...]
    context: tuple[int, ...]
    same_article: tuple[int, ...] = ()
    gold: tuple[int, ...] = ()
    """Documents that hold the answer."""


@dataclass(frozen=True)
class QaData:
    """A question-answering data set in upstream's order: questions as in the file, documents sorted."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]


@functools.lru_cache(maxsize=2)
def read_qa(dataset: str, path: str) -> QaData:
    """Read SQuAD ("squad") or HotpotQA ("hotpotqa") in its official layout. Raises SourceError for another layout."""
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
        data = _read_squad(content) if dataset == "squad" else _read_hotpotqa(content)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is not {_SOURCES[dataset].what} in its official layout ({error!r})") from error
    if not data.questions:
        raise SourceError(f"{path} has no answerable question")
    return data


def _read_squad(content: dict) -> QaData:
    articles = [article["paragraphs"] for article in content["data"]]
    documents = sorted({paragraph["context"] for article in articles for paragraph in article})
    number = {document: i for i, document in enumerate(documents)}
    questions = []
    for article in articles:
        members = [number[paragraph["context"]] for paragraph in article]
        for paragraph in article:
            own = number[paragraph["context"]]
            for item in paragraph["qas"]:
                if item["is_impossible"]:
                    continue
                answers = tuple(answer["text"] for answer in item["answers"])
                others = tuple(member for member in members if member != own)
                questions.append(Question(item["question"], answers, (own,), others, gold=(own,)))
    return QaData(tuple(questions), tuple(documents))


def _read_hotpotqa(content: list) -> QaData:
    def text(title: str, sentences: list[str]) -> str:
        return f"{title}\n{''.join(sentences)}"

    documents = sorted({text(*entry) for item in content for entry in item["context"]})
    number = {document: i for i, document in enumerate(documents)}
    questions = []
    for item in content:
        context = tuple(number[text(*entry)] for entry in item["context"])
        supporting = {title for title, _ in item["supporting_facts"]}
        gold = tuple(number[text(*entry)] for entry in item["context"] if entry[0] in supporting)
        questions.append(Question(item["question"], (item["answer"],), context, gold=gold))
    return QaData(tuple(questions), tuple(documents))
