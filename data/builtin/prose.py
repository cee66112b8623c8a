"""Generated English-like prose, the haystack that ships with the project.

RULER hides its needles in essays that may not be redistributed. `essay` stands in for them where a run needs no
download: a small grammar over common words, so that sentences vary while a tiny tokenizer still covers them.
Only `random.Random.random` is drawn from: its stream is the same in every Python version.
"""

import random


def _options(text: str) -> list[str]:
    return [option.strip() for line in text.strip().splitlines() for option in line.split("|")]


_PEOPLE = _options("""
the old farmer | a young teacher | the captain | her brother | his sister | the doctor | a quiet neighbor
the baker | the mayor | an old friend | the woman at the market | the boy with the red coat | their mother
the gardener | a tired traveler | the night guard | the painter | my uncle | the new student | the judge
a group of children | the shopkeeper | our guide | the miller | the fisherman | the singer | a stranger
the two cousins | the engineer | the girl from the village | the postman | the librarian
every worker in the yard | the carpenter | the nurse | a small crowd | the driver | the cook | the king
the writer
""")
_THINGS = _options("""
the letter | a wooden box | the garden | the broken clock | a basket of apples | the long bridge
an empty house | the map | the silver cup | a warm coat | the boat | the last train | a bowl of soup
the open window | the stone wall | a heavy door | the book | the first snow | the morning paper
a pair of shoes | the small lamp | the story | the north road | a field of corn | the river | the water
the bread | the music | the lesson | an answer | the question | the secret | the plan | a good reason
the harvest | the mill | the horses | the kitchen | the blue curtain | a new roof | the lost ring
the picture on the wall | the cold night | the tall tree | the price of salt | the key to the barn
a bag of seeds | the old song | the tower | the light in the hall
""")
_PAST = _options("""
found | carried | remembered | painted | watched | sold | repaired | described | followed | forgot | bought
studied | cleaned | hid | measured | wanted | opened | moved | loved | brought back | talked about | looked for
waited for | asked about | wrote about | gave away | paid for | dreamed of | turned toward | walked past
cared for | learned to like | pointed at | heard about | kept | lost | drew
""")
_VERBS = _options("""
find | carry | remember | paint | watch | sell | repair | describe | follow | forget | buy | study | clean
hide | measure | move | open | keep | talk about | look for | wait for | ask about | write about | give away
pay for | learn about | care for | bring back
""")
_WHEN = _options("""
in the morning | after dinner | before the storm | during the summer | late at night | on the way home
at the end of the day | for a long time | when the rain stopped | while the others slept
as soon as the bells rang | once a week | in early spring | until the sun went down | every other evening
just before winter | on a windy afternoon | at first light | many years ago | when nobody was looking
after the long meeting | between two cold seasons
""")
_WHERE = _options("""
near the lake | behind the church | in the middle of the town | under the bridge | beside the fire
at the market | along the shore | on the hill | in a narrow street | by the gate | across the valley
inside the barn | at the edge of the forest | next to the school | in the far corner of the room
above the shop | outside the station | between the houses
""")
_HOW = _options("""
slowly | with great care | without a word | quickly | in silence | with a smile | by accident
almost every time | against all advice | with both hands | very gently | in good faith | as usual
for no clear reason | with little effort | rather badly
""")
_MOODS = _options("""
happy | tired | certain | afraid | proud | surprised | ready | patient | careful | curious | hungry | calm
angry | grateful | lonely | free | busy | honest | sorry | glad
""")
_QUALITIES = _options("""
heavier than before | worth the trouble | older than the town itself | too bright to look at | hard to explain
easy to miss | almost perfect | still warm | full of dust | cheaper than expected | quite useful
never finished | better left alone | green and quiet | strange but beautiful | simple enough
covered with leaves | harder to find each year | of no use to anyone
""")
_LINKS = _options("""
however | in the end | after all | of course | for once | to be fair | in those days | sooner or later
as it happened | for that reason | on the other hand | most of the time | from then on | even so
to everyone's relief | by chance
""")
_PATTERNS = _options("""
{p} {d} {t} {h}
{l}, {p} {d} {t} {w}
{w}, {p} {d} {t}
{p} {d} {t}, and {p} {d} {t} {a}
{p} was {m} because {t} was {q}
{t} was {q}, but {p} {d} it {h}
{p} wanted to {v} {t} {a}
if {p} could {v} {t}, then {p} would {v} {t} too
{a}, {p} {d} {t} and {d} {t}
{l}, {t} was {q} {w}
nobody knew why {p} {d} {t} {w}
{p} said that {t} was {q}
{p} did not {v} {t} {w}, so {p} had to {v} {t}
most people would rather {v} {t} than {v} {t}
{p}, who was {m} {w}, {d} {t} {a}
there was {t} {a}, and it was {q}
{p} and {p} {d} {t} {h} {w}
it is never too late to {v} {t}
{p} seemed {m} {w}, yet {p} still {d} {t}
what {p} {d} {a} was {t}, not {t}
""")
_SLOTS = {
    "p": _PEOPLE,
    "t": _THINGS,
    "d": _PAST,
    "v": _VERBS,
    "w": _WHEN,
    "a": _WHERE,
    "h": _HOW,
    "m": _MOODS,
    "q": _QUALITIES,
    "l": _LINKS,
}


def _pick(rng: random.Random, options: list[str]) -> str:
    return options[int(rng.random() * len(options))]


def sentence(rng: random.Random) -> str:
    """One sentence, capitalised and closed by a full stop, drawn from `rng`."""
    parts = _pick(rng, _PATTERNS).split("{")
    text = parts[0] + "".join(_pick(rng, _SLOTS[part[0]]) + part[2:] for part in parts[1:])
    return text[0].upper() + text[1:] + "."


def essay(n_words: int, seed: int = 0) -> str:
    """At least `n_words` words of prose, ended by a whole sentence.

    The same `seed` always gives the same text, and a shorter essay is a prefix of a longer one. There are no digits
    and no line breaks, so nothing in it can be mistaken for a needle's value.

    Raises:
        ValueError: `n_words` is negative.
    """
    if n_words < 0:
        raise ValueError(f"n_words must be 0 or more, got {n_words}")
    rng = random.Random(seed)
    sentences: list[str] = []
    count = 0
    while count < n_words:
        sentences.append(sentence(rng))
        count += sentences[-1].count(" ") + 1
    return " ".join(sentences)
