"""Training samples in RULER's own wording, built from token ids.

A sample is a list of ids and, for every id, whether it is to be learnt: 0 (context), `ANSWER`, or `FIRST` (the first
token of a value: the one that shows whether the right needle was found). Ids are joined piece by piece; pieces end
where the tokenizer's pre-tokens end, so the ids are those of the whole text (`tests/data/test_tiny_pair.py` holds
this). Nothing here needs torch: worker processes import it.

Unlike RULER's samples these may ask several questions about one text, one chat turn each: the more questions, the
denser the signal.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np

from data.builtin.prose import essay
from data.tiny_pair.tokenizer import ASSISTANT, BOS, END, PAD, USER

ANSWER, FIRST = 1, 2
TASKS = (
    "recall",
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
)
# haystack, key type, value type, keys, values per key, keys asked for at once
_NIAH = {
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("prose", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("prose", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("prose", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needles", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needles", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("prose", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("prose", "words", "numbers", 4, 1, 4),
}
_PROSE_SEEDS = range(1, 5)  # 0 is the haystack of evaluations
_PROSE_WORDS = 60_000


@dataclass
class Row:
    """One sample: ids and what is to be learnt of them."""

    ids: list[int] = field(default_factory=list)
    learn: list[int] = field(default_factory=list)

    def read(self, ids: list[int]) -> None:
        self.ids += ids
        self.learn += [0] * len(ids)

    def answer(self, ids: list[int]) -> None:
        """Ids to be learnt, the first of them as the beginning of a value."""
        self.ids += ids
        self.learn += [FIRST] + [ANSWER] * (len(ids) - 1)

    def plain(self, ids: list[int]) -> None:
        """Ids to be learnt that begin no value: separators, the end."""
        self.ids += ids
        self.learn += [ANSWER] * len(ids)


class Sampler:
    """Draws samples of any task.

    Args:
        tokenizer: of `tokenizers` (not `transformers`), as in tokenizer.json.
        material: word lists and wording (`tokenizer.read_material`).
    """

    def __init__(self, tokenizer, material: dict):
        self._tokenizer = tokenizer
        self._memo: dict[str, list[int]] = {}
        self.adjectives, self.nouns = material["adjectives"], material["nouns"]
        self.words = sorted({*material["nouns"], *material["adjectives"], *material["verbs"]})
        self.wording = material["wording"]
        self._digits = [[self._id(f" {n}"), self._id(f"{n:03d}")] for n in range(1000)]
        named = self._tokenizer.token_to_id
        self._hex = [(named(f"Ġ{n:02x}"), named(f"{n:02x}"), named(f"-{n:02x}")) for n in range(256)]
        texts = [essay(_PROSE_WORDS, seed) for seed in _PROSE_SEEDS]
        self._sentences = [self.t(f" {s}") for text in texts for s in text.replace(". ", ".\n").split("\n")]
        starts = self._tokenizer.id_to_token
        self._begins_word = [starts(i)[0] == "Ġ" for i in range(self._tokenizer.get_vocab_size())]

    def t(self, text: str) -> list[int]:
        """Ids of a piece of text. Remembered: don't change the list."""
        ids = self._memo.get(text)
        if ids is None:
            ids = self._memo[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _id(self, text: str) -> int:
        (token,) = self.t(text)
        return token

    # ---------------------------------------------------------------- keys and values, each with a space before it

    def key(self, kind: str, rng: Random) -> list[int]:
        """An adjective-noun pair or a UUID, as RULER draws it."""
        if kind == "uuids":
            return self.uuid(rng)
        return self.t(f" {_pick(rng, self.adjectives)}") + self.t("-") + self.t(_pick(rng, self.nouns))

    def value(self, kind: str, rng: Random) -> list[int]:
        """A seven-digit number or a UUID."""
        if kind == "uuids":
            return self.uuid(rng)
        n = 10**6 + int(rng.random() * 9 * 10**6)
        return [self._digits[n // 10**4][0], self._digits[n // 10 % 1000][1], self.t(str(n % 10))[0]]

    def uuid(self, rng: Random) -> list[int]:
        """A version 4 UUID."""
        drawn = bytearray(rng.getrandbits(128).to_bytes(16, "big"))
        drawn[6] = drawn[6] & 0x0F | 0x40
        drawn[8] = drawn[8] & 0x3F | 0x80
        table = self._hex
        ids = [table[byte][1] for byte in drawn]
        ids[0] = table[drawn[0]][0]
        for i in (4, 6, 8, 10):
            ids[i] = table[drawn[i]][2]
        return ids

    # ---------------------------------------------------------------- samples

    def sample(self, task: str, length: int, turns: int, rng: Random) -> Row:
        """A sample of at most `length` ids that asks up to `turns` questions, if so many fit."""
        if task == "recall":
            return self.recall(length, rng)
        if task in _NIAH:
            return self.niah(task, length, turns, rng)
        return {"vt": self.vt, "cwe": self.cwe, "fwe": self.fwe}[task](length, turns, rng)

    def recall(self, length: int, rng: Random) -> Row:
        """As many pairs as fit, each asked for once: " KEY is: VALUE." twice over, the second time in another order."""
        kind = "numbers" if length <= 128 or rng.random() < 0.7 else "uuids"
        key_kind = "words" if length <= 128 or rng.random() < 0.7 else "uuids"
        is_, stop = self.t(" is") + self.t(":"), self.t(".")
        row, pairs, used = Row([BOS], [0]), [], 1
        shared = _pick(rng, self.adjectives) if rng.random() < 0.1 else None
        while True:
            key, value = self.key(key_kind, rng), self.value(kind, rng)
            if shared and key_kind == "words" and rng.random() < 0.5:
                key = self.t(f" {shared}") + key[key.index(self.t("-")[0]) :]
            used += 2 * (len(key) + len(value) + 3)
            if used > length:
                break
            pairs.append((key, value))
        for key, value in pairs:
            row.read(key + is_ + value + stop)
        for key, value in sorted(pairs, key=lambda _: rng.random()):
            row.read(key + is_)
            row.answer(value)
            row.read(stop)
        return row

    def niah(self, task: str, length: int, turns: int, rng: Random) -> Row:
        """Needles in a haystack. With more than one turn the haystack holds more needles than RULER's."""
        haystack, key_kind, value_kind, n_keys, n_values, n_asked = _NIAH[task]
        if turns > 1:
            room = length // (70 + 30 * (value_kind == "uuids") + 60 * (key_kind == "uuids"))
            n_keys = max(n_keys, min(turns, room) + int(rng.random() * 4))
            n_keys = min(n_keys, max((length - 130) // 45, 1))
            if n_values > 1:
                n_values, n_keys = 2 + int(rng.random() * 3), max(1, n_keys // 3)
        single = n_asked * n_values == 1
        keys = [self.key(key_kind, rng) for _ in range(n_keys)]
        values = [[self.value(value_kind, rng) for _ in range(n_values)] for _ in keys]
        needle = [self.t(p) for p in self._cut("needle", value_kind)]
        asked_kind = value_kind[:-1] if single else value_kind
        before, question, after = self._niah_template(asked_kind, single)
        prefix = self._niah_prefix(asked_kind, single)

        order = [(i, j) for i in range(n_keys) for j in range(n_values)]
        rng.shuffle(order)
        found: list[list[list[int]]] = [[] for _ in keys]  # a key's values as they come in the text
        needles = []
        for i, j in order:
            found[i].append(values[i][j])
            needles.append(needle[0] + keys[i] + needle[1] + values[i][j] + needle[2])

        questions = []
        for _ in range(turns):
            asked = rng.sample(range(n_keys), min(n_asked, n_keys))
            questions.append((self._join([keys[i] for i in asked]), [v for i in asked for v in found[i]]))
        if turns > 1 and n_asked == 1:
            questions = list(zip(keys, found, strict=True))[:turns]
            rng.shuffle(questions)

        row = Row([BOS], [0])
        row.read([USER])
        row.read(before)
        fixed = sum(map(len, needles)) + 2 * len(needles)
        tails = []
        for n, (query, answer) in enumerate(questions):
            tail = Row([], [])
            if n:
                tail.read([*self.t("\n"), USER, *self.t("\n")])
            tail.read(question + query + after)
            self._reply(tail, prefix[0] + query + prefix[1], answer)
            if n and len(row.ids) + fixed + sum(len(t.ids) for t in tails) + len(tail.ids) > length * 0.75:
                break
            tails.append(tail)
        budget = length - len(row.ids) - sum(len(t.ids) for t in tails) - 2
        row.read(self._context(haystack, needles, key_kind, value_kind, budget, rng))
        row.read(self.t("\n"))
        for tail in tails:
            row.read(tail.ids)
            row.learn[-len(tail.ids) :] = tail.learn
        return row

    def _reply(self, row: Row, prefix: list[int], values: list[list[int]]) -> None:
        row.read([END, *self.t("\n"), ASSISTANT, *self.t("\n")])
        row.read(prefix)
        for n, value in enumerate(values):
            if n:
                row.plain(self.t(",") if n + 1 < len(values) else self.t(",") + self.t(" and"))
            row.answer(value)
        row.plain([*self.t("."), END])

    def _join(self, items: list[list[int]]) -> list[int]:
        """ "a", "a, and b", "a, b, and c"."""
        if len(items) == 1:
            return items[0]
        comma, and_ = self.t(","), self.t(" and")
        return [token for item in items[:-1] for token in item + comma] + and_ + items[-1]

    def _cut(self, name: str, kind: str, single: bool = False) -> list[str]:
        """A wording cut at its placeholders; a space before a placeholder belongs to what fills it."""
        text = self.wording[name]
        if single:
            for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
                text = text.replace(old, new)
        text = text.replace("{type_needle_v}", kind)
        for placeholder in ("{key}", "{value}", "{query}", "{context}", "{num_v}"):
            text = text.replace(f" {placeholder}", "\0").replace(placeholder, "\0")
        return text.split("\0")

    def _niah_template(self, kind: str, single: bool) -> tuple[list[int], list[int], list[int]]:
        before, question, after = self._cut("niah_body", kind, single)
        return self.t("\n" + before), self.t(question.removeprefix("\n")), self.t(after)

    def _niah_prefix(self, kind: str, single: bool) -> list[list[int]]:
        return [self.t(part) for part in self._cut("niah_prefix", kind, single)]

    def _context(self, haystack, needles, key_kind, value_kind, budget, rng) -> list[int]:
        """The needles in a haystack that fills `budget` ids. `needles` begin without a space."""
        if haystack == "prose":
            return self._prose(needles, budget, rng)
        newline = self.t("\n")
        if haystack == "noise":
            line = self.t(self.wording["noise"])
            lines = [line] * max((budget - sum(len(n) + 1 for n in needles)) // (len(line) + 1), 0)
        else:
            cut = [self.t(p) for p in self._cut("needle", value_kind)]
            left, lines = budget - sum(len(n) + 1 for n in needles), []
            while True:
                lines.append(cut[0] + self.key(key_kind, rng) + cut[1] + self.value(value_kind, rng) + cut[2])
                left -= len(lines[-1]) + 1
                if left < 0:
                    lines.pop()
                    break
        return _concat(_insert(lines, needles, rng), newline)

    def _prose(self, needles: list[list[int]], budget: int, rng: Random) -> list[int]:
        left = budget - sum(len(n) + 1 for n in needles) - 1
        sentences, pool = [], self._sentences
        while left > 0:
            sentence = pool[int(rng.random() * len(pool))]
            if len(sentence) > left:  # RULER counts words, so the last sentence ends anywhere
                end = left
                while end and not self._begins_word[sentence[end]]:
                    end -= 1
                sentence = sentence[:end]
                left = 0
            left -= len(sentence)
            if sentence:
                sentences.append(sentence)
        places = sorted(int(len(sentences) * int(rng.random() * 101) / 100) for _ in needles)
        out: list[int] = []
        last = 0
        space = self.t(" ")
        for place, needle in zip([*places, len(sentences)], [*needles, None], strict=True):
            part = sentences[last:place]
            if not part and needle is None:
                out += space  # RULER joins an empty rest with a space, too
            for sentence in part:
                out += sentence
            if needle is not None:
                out += self.spaced_needle(needle)
            last = place
        # the context's first sentence has no space before it
        if places and places[0] == 0:
            return out
        return self._unspaced(out)

    def spaced_needle(self, needle: list[int]) -> list[int]:
        """A needle that follows a space: "One" becomes " One"."""
        return self.t(" One") + needle[len(self.t("One")) :]

    def _unspaced(self, ids: list[int]) -> list[int]:
        """The ids of the same text without the space at its beginning."""
        if not ids:
            return ids
        end = 1
        while end < len(ids) and not self._begins_word[ids[end]]:
            end += 1
        head = self._tokenizer.decode(ids[:end], skip_special_tokens=False)
        return self.t(head[1:]) + ids[end:]

    def vt(self, length: int, turns: int, rng: Random) -> Row:
        """Chains of assignments among noise lines, after a solved example; several chains if there are more turns."""
        newline, noise = self.t("\n"), self.t(self.wording["noise"])
        example_lines = 8 + int(rng.random() * 8) if length >= 1024 else 0
        room = (length - 130 - 40 * example_lines) // 200
        chains = 1 if turns <= 1 else 1 + int(rng.random() * max(min(turns, room), 1))
        row = Row([BOS], [0])
        row.read([USER, *newline])
        if example_lines:
            names, value = self._chain(3, rng)
            row.read(self._vt_text([(names, value)], [noise] * example_lines, rng))
            row.read(self._vt_question(value))
            row.read(self._vt_prefix(value) + [token for name in names for token in name] + newline + newline)
        drawn = [self._chain(5, rng) for _ in range(chains)]
        tails = []
        for n, (names, value) in enumerate(sorted(drawn, key=lambda _: rng.random())):
            tail = Row()
            if n:
                tail.read([*newline, USER, *newline])
            tail.read(self._vt_question(value) + [END, *newline, ASSISTANT, *newline] + self._vt_prefix(value))
            for name in names:
                tail.answer(name)
            tail.plain([END])
            tails.append(tail)
        fixed = len(self._vt_text(drawn, [], Random(0)))
        left = length - len(row.ids) - fixed - sum(len(tail.ids) for tail in tails)
        row.read(self._vt_text(drawn, [noise] * max(left // (len(noise) + 1), 5), rng))
        for tail in tails:
            row.read(tail.ids)
            row.learn[-len(tail.ids) :] = tail.learn
        return row

    def _chain(self, letters: int, rng: Random) -> tuple[list[list[int]], int]:
        names = ["".join(_pick(rng, string.ascii_uppercase) for _ in range(letters)) for _ in range(5)]
        return [self._caps(name) for name in names], 10000 + int(rng.random() * 89999)

    def _caps(self, name: str) -> list[int]:
        pieces = [name[i : i + 2] for i in range(0, len(name), 2)]
        return self.t(f" {pieces[0]}") + [token for piece in pieces[1:] for token in self.t(piece)]

    def _five(self, value: int) -> list[int]:
        return [self._digits[value // 100][0], *self.t(f"{value % 100:02d}")]

    def _vt_text(self, chains: list, lines: list[list[int]], rng: Random) -> list[int]:
        """The template's first part with the chains' lines, which keep their order, among `lines`."""
        var, to, equals, space = self.t("VAR"), self.t(" VAR"), self.t(" ="), self.t(" ")
        for names, value in chains:
            written = [var + names[0] + equals + self._five(value)]
            written += [var + b + equals + to + a + space for a, b in zip(names, names[1:], strict=False)]
            lines = _insert(lines, written, rng)
        before = self._cut("vt_body", "")[0]
        return self.t(before) + _concat(lines, self.t("\n")) + self.t("\n")

    def _vt_question(self, value: int) -> list[int]:
        _, before, after = self._cut("vt_body", "")
        return self.t(before.removeprefix("\n")) + self._five(value) + self.t(after)

    def _vt_prefix(self, value: int) -> list[int]:
        first, second, last = self._cut("vt_prefix", "")
        return self.t(first) + self.t(" 5") + self.t(second) + self._five(value) + self.t(last)

    def cwe(self, length: int, turns: int, rng: Random) -> Row:
        """A numbered list in which ten words come more often than the others, after a solved example."""
        short = length < 4096 or (turns > 1 and rng.random() < 0.5)
        repeats, others = (6, 1) if short else (30, 3)
        example = (20, 3, 1) if short else (40, 10, 3)
        row = Row()
        if length >= 1024:
            text, answer = self._counted(*example, rng)
            row.read([BOS, USER] + self._cwe_body(text) + self._cwe_prefix(answer) + self.t("\n"))
        row.read([BOS, USER])
        # the list grows by whole groups of words until nothing more fits; measured, as words differ in length
        used = len(row.ids) + len(self._cwe_body([])) + len(self._cwe_prefix([])) + 10 * 8
        room = max(length - used, 0)
        per_word = 4.6
        count = 10 + max(int((room / per_word - 10 * repeats) / others), 1)
        while True:
            text, answer = self._counted(count, repeats, others, rng)
            body = self._cwe_body(text)
            reply = sum(len(word) + 2 for word in answer) + 1
            excess = len(row.ids) + len(body) + len(self._cwe_prefix([])) + reply - length
            if excess <= 0 or count <= 12:
                break
            count = max(12, count - max(1, math.ceil(excess / (6 * others))))
        row.read(body + self._cwe_prefix([]))
        for n, word in enumerate(answer):
            row.plain(self.t(f" {n + 1}") + self.t("."))
            row.answer(word)
        row.plain([END])
        return row

    def _counted(self, count: int, repeats: int, others: int, rng: Random) -> tuple[list[int], list[list[int]]]:
        """A numbered list (no space before it) and its ten common words in the order in which they come up."""
        chosen = rng.sample(self.words, count)
        listed = chosen[:10] * repeats + chosen[10:] * others
        rng.shuffle(listed)
        common, stop = set(chosen[:10]), self.t(".")
        answer = [self.t(f" {word}") for word in dict.fromkeys(listed) if word in common]
        ids: list[int] = []
        for n, word in enumerate(listed):
            ids += self.t(f" {n + 1}" if n else "1") + stop + self.t(f" {word}")
        return ids, answer

    def _cwe_body(self, text: list[int]) -> list[int]:
        before, after = self._cut("cwe_body", "")
        return self.t("\n" + before) + text + self.t(after) + [END, *self.t("\n"), ASSISTANT, *self.t("\n")]

    def _cwe_prefix(self, answer: list[list[int]]) -> list[int]:
        ids = list(self.t(self.wording["cwe_prefix"]))
        for n, word in enumerate(answer):
            ids += self.t(f" {n + 1}") + self.t(".") + word
        return ids

    def fwe(self, length: int, turns: int, rng: Random) -> Row:
        """Coded words whose frequencies fall with the square of their rank; ranks 2 to 4 are asked for."""
        before, after = self._cut("fwe_body", "")
        head, tail = [BOS, USER] + self.t("\n" + before), [*self.t(after), END, *self.t("\n"), ASSISTANT, *self.t("\n")]
        tail = tail + self.t(self.wording["fwe_prefix"])
        words = max((length - 50) // 50, 4)
        vocabulary = ["".join(_pick(rng, string.ascii_lowercase) for _ in range(6)) for _ in range(words - 1)]
        coded = [self.t(" ..."), *(self._tokenizer.encode(f" {word}").ids for word in vocabulary)]
        answer = coded[1:4]
        room = length - len(head) - len(tail) - sum(map(len, answer)) - 6
        shares = [6 / math.pi**2 / rank**2 for rank in range(1, len(coded) + 1)]
        per_word = sum(share * len(ids) for share, ids in zip(shares, coded, strict=True))
        size = int(room / per_word)
        counts = [int(size * share) for share in shares]
        listed = [ids for ids, count in zip(coded, counts, strict=True) for _ in range(count)]
        rng.shuffle(listed)
        row = Row()
        row.read(head)
        row.read([token for ids in listed for token in ids])
        row.read(tail)
        for n, ids in enumerate(answer):
            if n:
                row.plain(self.t(",") if n < 2 else self.t(",") + self.t(" and"))
            row.answer(ids)
        row.plain([*self.t("."), END])
        return row

    def batch(self, mix: dict[str, float], length: int, size: int, multi: float, rng: Random):
        """Ids [size, length] (uint16, padded), what is to be learnt [size, length] (uint8), tasks [size] (uint8).

        Args:
            mix: weight of each task.
            multi: share of samples with many questions; the others are RULER's, with one.
        """
        ids = np.full((size, length), PAD, dtype=np.uint16)
        learn = np.zeros((size, length), dtype=np.uint8)
        tasks = np.zeros(size, dtype=np.uint8)
        names, weights = list(mix), list(mix.values())
        for i in range(size):
            task = rng.choices(names, weights)[0]
            turns = 2 + int(rng.random() * length / 50) if rng.random() < multi else 1
            row = self.sample(task, length, turns, rng)
            n = min(len(row.ids), length)
            ids[i, :n] = row.ids[:n]
            learn[i, :n] = row.learn[:n]
            tasks[i] = TASKS.index(task)
        return ids, learn, tasks


def _pick(rng: Random, options):
    return options[int(rng.random() * len(options))]


def _insert(lines: list, needles: list, rng: Random) -> list:
    """`lines` with `needles`, in their order, before distinct lines (anywhere, if there are too few)."""
    if not lines:
        return list(needles)
    if len(needles) <= len(lines):
        places = sorted(rng.sample(range(len(lines)), len(needles)))
    else:
        places = sorted(int(rng.random() * (len(lines) + 1)) for _ in needles)
    out, last = [], 0
    for place, needle in zip(places, needles, strict=True):
        out += lines[last:place]
        out.append(needle)
        last = place
    return out + lines[last:]


def _concat(pieces: list[list[int]], separator: list[int]) -> list[int]:
    out: list[int] = []
    for piece in pieces:
        out += piece
        out += separator
    return out[: len(out) - len(separator)] if pieces else out


def load_sampler(tokenizer_path: str, material: dict) -> Sampler:
    """A sampler over the tokenizer.json at `tokenizer_path`."""
    from tokenizers import Tokenizer

    return Sampler(Tokenizer.from_file(tokenizer_path), material)


def serve(requests, results, make: Callable[[], Sampler]) -> None:
    """A worker's loop: takes (tag, seed, batch arguments), puts (tag, arrays); ends at None."""
    sampler = make()
    while (request := requests.get()) is not None:
        tag, seed, arguments = request
        results.put((tag, sampler.batch(*arguments, rng=Random(seed))))
