"""Small tokenizers and question files for the RULER tests."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data.builtin.prose import essay
from data.ruler.generate import Recipe
from data.ruler.sources import Sources
from data.ruler.tasks import TASKS
from data.ruler.templates import TEMPLATES

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SHARED_SOURCES = Sources(
    essays=str(SHARED / "ruler_sources" / "PaulGrahamEssays.json"),
    squad=str(SHARED / "ruler_sources" / "squad_cs224n_combined.json"),
    hotpotqa=str(SHARED / "ruler_sources" / "hotpotqa_dev_distractor_first100.json"),
)
_STUB_TOKEN = re.compile(r"\d|[A-Za-z]{1,6}|[^\sA-Za-z\d]")
TINY_MARKERS = ("<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>")
LLAMA3_MARKERS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
TINY_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def stub_count(text: str) -> int:
    """The token counter that the golden rows were made with (its definition is in their README)."""
    return len(_STUB_TOKEN.findall(text))


@cache
def _bpe(markers: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=list(markers), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([essay(3000)], trainer)
    return tokenizer.to_str()


def make_tokenizer(markers: tuple[str, ...], bos: str | None = None, adds_bos: bool = False, **kwargs):
    """A byte-level BPE tokenizer whose vocabulary starts with `markers`."""
    backend = Tokenizer.from_str(_bpe(markers))
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, markers.index(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, **kwargs)


def tiny_tokenizer():
    """Like the built-in pair's."""
    return make_tokenizer(
        TINY_MARKERS, bos="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>", chat_template=TINY_CHAT
    )


def make_recipe(task: str, seq_len: int, protocol: str = "official", template: str = "base", **kwargs) -> Recipe:
    """A recipe with the built-in haystack."""
    kwargs = {"haystack": "builtin", **kwargs}
    return Recipe(task, seq_len, TASKS[task].family.tokens_to_generate[protocol], TEMPLATES[template], **kwargs)


def write_questions(folder: Path, words_per_document: int = 30, questions: int = 12) -> Sources:
    """SQuAD and HotpotQA files of their official layouts, made of the built-in prose."""
    words = essay(words_per_document * questions * 12).split()

    def text(i: int) -> str:
        return " ".join(words[i * words_per_document : (i + 1) * words_per_document])

    squad = {"version": "v2.0", "data": []}
    for article in range(questions):
        paragraphs = []
        for p in range(2):
            answers = [{"text": f"answer {article} {p}"}, {"text": f"alias {article} {p}"}]
            qas = [
                {"question": f"What of {article}, {p}?", "is_impossible": False, "answers": answers},
                {"question": "Unanswerable?", "is_impossible": True, "answers": []},
            ]
            paragraphs.append({"context": f"answer {article} {p}. {text(article * 2 + p)}", "qas": qas})
        squad["data"].append({"paragraphs": paragraphs})
    hotpotqa = [
        {
            "question": f"Which one is {q}?",
            "answer": f"answer {q}",
            "supporting_facts": [[f"Title {q} 3", 0], [f"Title {q} 7", 0]],
            "context": [[f"Title {q} {d}", [text(q * 10 + d)]] for d in range(10)],
        }
        for q in range(questions)
    ]
    for name, content in (("squad", squad), ("hotpotqa", hotpotqa)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Sources(squad=str(folder / "squad.json"), hotpotqa=str(folder / "hotpotqa.json"))
