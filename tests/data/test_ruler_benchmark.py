"""RULER as the harness sees it: checks, prompts, scores, and the command that makes its files."""

import json
import sys
from pathlib import Path

import pytest
from ruler_helpers import LLAMA3_MARKERS, TINY_MARKERS, make_tokenizer, tiny_tokenizer, write_questions

from data import Sample, benchmark_names, get_benchmark
from data.chat import needs_special_tokens
from data.ruler.scoring import clean_prediction
from data.ruler.tasks import TASKS
from data.ruler.templates import TEMPLATES, resolve_template

RULER = get_benchmark("ruler")
ROOT = Path(__file__).resolve().parents[2]


def section(task="niah_single_2", seq_len=1024, **kwargs):
    return {"dataset_name": "ruler", "task": task, "seq_len": seq_len, "haystack": "builtin", **kwargs}


def named(tokenizer, name):
    tokenizer.name_or_path = name
    return tokenizer


# ------------------------------------------------- validation


def test_unknown_benchmarks_are_refused():
    assert "ruler" in benchmark_names()
    with pytest.raises(ValueError, match=r"unknown benchmark 'rulr' \(did you mean 'ruler'\?\); valid: .*ruler"):
        get_benchmark("rulr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seqlen": 4}, r"dataset.seqlen: unknown key; did you mean 'seq_len'\?"),
        ({"task": "niah_single_4"}, r"dataset.task: 'niah_single_4' is not known \(did you mean 'niah_single_"),
        ({"seq_len": 0}, "dataset.seq_len: 0 is not a whole number of at least 1"),
        ({"seq_len": "4096"}, "dataset.seq_len: '4096'"),
        ({"seq_len": True}, "dataset.seq_len: True"),
        ({"num_samples": 0}, "dataset.num_samples: 0"),
        ({"seed": -1}, "dataset.seed: -1"),
        ({"variant": "even"}, "dataset.variant: 'even' is not known.*ruler, balanced"),
        ({"haystack": "essays"}, "dataset.haystack: 'essays' is none of essay, builtin, nor a file"),
        ({"haystack": 3}, "dataset.haystack: 3"),
        ({"model_template": "llama3"}, r"dataset.model_template: 'llama3'.*did you mean 'meta-llama3'"),
        ({"answer_prefix": "no"}, "dataset.answer_prefix: 'no' is not true or false"),
        ({"squad": "/nowhere.json"}, "dataset.squad: no file '/nowhere.json'"),
    ],
)
def test_bad_sections_are_refused_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        RULER.validate({**section(), **change}, "official")


@pytest.mark.parametrize("key", ["task", "seq_len"])
def test_missing_keys_are_named(key):
    incomplete = {k: v for k, v in section().items() if k != key}
    with pytest.raises(ValueError, match=f"dataset.{key}: missing"):
        RULER.validate(incomplete, "official")


def test_the_protocol_is_checked():
    with pytest.raises(ValueError, match="protocol: 'papers' is not known.*official, paper"):
        RULER.validate(section(), "papers")


def test_good_sections_pass():
    for task in TASKS:
        RULER.validate(section(task), "official")
        RULER.validate({"dataset_name": "ruler", "task": task, "seq_len": 4096}, "paper")


def test_identity_has_what_changes_samples_and_nothing_else():
    base = RULER.identity(section("vt"), "official")
    assert json.loads(json.dumps(base)) == base
    assert RULER.identity(section("vt", num_samples=500, seed=42, data_dir="/elsewhere"), "official") == base
    assert RULER.identity({**section("vt"), "haystack": "essay"}, "official") == base  # vt has no prose
    others = [
        RULER.identity(section("vt"), "paper"),
        RULER.identity(section("cwe"), "official"),
        *(RULER.identity(section("vt", **change), "official") for change in ({"seed": 1}, {"answer_prefix": False})),
        RULER.identity(section("vt", variant="balanced"), "official"),
    ]
    assert base not in others
    essay = RULER.identity({**section(), "haystack": "essay"}, "official")
    assert essay != RULER.identity(section(), "official")


# ------------------------------------------------- templates


def test_the_tiny_template_is_the_tokenizers_chat_template():
    tokenizer = tiny_tokenizer()
    own = resolve_template(tokenizer)
    assert own.name == "chat_template"
    assert (own.before, own.after) == (TEMPLATES["tiny"].before, TEMPLATES["tiny"].after)
    assert resolve_template(named(tokenizer, "data/tiny_pair/target")) == TEMPLATES["tiny"]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == TEMPLATES["tiny"].before + "Hi?" + TEMPLATES["tiny"].after


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama3"),
        ("/models/Meta-Llama-3-8B-Instruct", "meta-llama3"),
        ("meta-llama/Llama-3.1-8B", "base"),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-chat"),
        ("Qwen/Qwen2.5-14B-Instruct", "qwen"),
        ("Qwen/Qwen2.5-14B", "base"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("Qwen/Qwen3-8B-Base", "base"),
        ("Qwen/Qwen3-4B-Instruct-2507", "base"),
        ("microsoft/Phi-3-mini-4k-instruct", "Phi3"),
        ("openai-community/gpt2", "base"),
    ],
)
def test_known_models_get_their_template(model, template):
    markers = (*LLAMA3_MARKERS, "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<|assistant|>")
    assert resolve_template(named(make_tokenizer(markers), model)).name == template


def test_a_name_does_not_win_against_a_tokenizer_without_the_markers():
    assert resolve_template(named(tiny_tokenizer(), "my/llama-3-instruct-from-scratch")).name == "chat_template"


def test_a_template_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"model_template: 'qwen' uses <\|im_start\|>, <\|im_end\|>, which"):
        resolve_template(tiny_tokenizer(), "qwen")
    with pytest.raises(ValueError, match="model_template: unknown template 'llama'"):
        resolve_template(tiny_tokenizer(), "llama")


def test_a_chat_template_that_hides_the_message_is_refused():
    tokenizer = make_tokenizer(TINY_MARKERS, chat_template="{{ bos_token }}nothing")
    with pytest.raises(ValueError, match="shows a user's message 0 times"):
        resolve_template(tokenizer)


def test_thinking_is_off_in_templates_that_can_think():
    chat = "{{ messages[0]['content'] }}A:{% if enable_thinking is false %}<think>\n\n</think>{% endif %}"
    assert resolve_template(make_tokenizer(TINY_MARKERS, chat_template=chat)).after == "A:<think>\n\n</think>"


def test_a_chat_template_that_prints_the_date_gets_a_fixed_one():
    chat = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}:{{ messages[0]['content'] }}"
    assert resolve_template(make_tokenizer(TINY_MARKERS, chat_template=chat)).before == "26 Jul 2024:"


@pytest.mark.parametrize(
    ("model", "markers", "bos", "adds_bos", "template"),
    [
        ("base", TINY_MARKERS, "<|bos|>", True, "base"),
        ("tiny", TINY_MARKERS, "<|bos|>", True, "tiny"),
        ("tiny, no BOS of its own", TINY_MARKERS, "<|bos|>", False, "tiny"),
        ("llama", LLAMA3_MARKERS, "<|begin_of_text|>", True, "meta-llama3"),
        ("llama-2", TINY_MARKERS, "<|bos|>", True, "meta-chat"),
    ],
)
@pytest.mark.parametrize("task", ["niah_single_1", "vt", "cwe"])
def test_every_prompt_has_one_bos(model, markers, bos, adds_bos, template, task, tmp_path):
    tokenizer = make_tokenizer(markers, bos=bos, adds_bos=adds_bos)
    dataset = section(task, 2048, num_samples=2, data_dir=str(tmp_path), model_template=template)
    for sample in RULER.load(dataset, tokenizer, "official"):
        ids = tokenizer(sample.prompt, add_special_tokens=sample.add_special_tokens)["input_ids"]
        # cwe's solved example repeats the whole template, as upstream
        repeated = task == "cwe" and TEMPLATES[template].before.startswith(bos)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == (2 if repeated else 1)


def test_a_model_without_bos_gets_none():
    tokenizer = make_tokenizer(("<|im_start|>", "<|im_end|>"))
    assert not needs_special_tokens(tokenizer, TEMPLATES["qwen"].before)
    assert not needs_special_tokens(tokenizer, TEMPLATES["base"].before)


# ------------------------------------------------- loading


@pytest.fixture(scope="module")
def tiny():
    return named(tiny_tokenizer(), "data/tiny_pair/target")


@pytest.mark.parametrize(("protocol", "vt_tokens"), [("official", 30), ("paper", 64)])
def test_protocols_differ_in_answer_lengths(protocol, vt_tokens, tiny, tmp_path):
    dataset = section("vt", 2048, num_samples=2, data_dir=str(tmp_path))
    for sample in RULER.load(dataset, tiny, protocol):
        assert sample.clean_up_tokenization_spaces is (True if protocol == "paper" else None)
        tokens = len(tiny(sample.prompt, add_special_tokens=sample.add_special_tokens)["input_ids"])
        assert sample.max_new_tokens == vt_tokens
        assert sample.meta["length"] == tokens + vt_tokens <= 2048


def test_both_protocols_fit_in_one_folder(tiny, tmp_path):
    dataset = section("fwe", 1024, num_samples=2, data_dir=str(tmp_path))
    official, paper = (RULER.load(dataset, tiny, protocol) for protocol in ("official", "paper"))
    assert RULER.load(dataset, tiny, "official") == official != paper


def test_the_answer_prefix_is_a_switch(tiny, tmp_path):
    dataset = section("niah_single_2", num_samples=2, data_dir=str(tmp_path))
    with_prefix = RULER.load(dataset, tiny, "official")
    without = RULER.load({**dataset, "answer_prefix": False}, tiny, "official")
    for a, b in zip(with_prefix, without, strict=True):
        prefix = a.prompt.removeprefix(b.prompt)
        assert prefix.startswith(" The special magic number for ") and prefix.endswith(" is")
        assert b.prompt.endswith("<|end|>\n<|assistant|>\n") and a.references == b.references


def test_a_limit_takes_the_first_rows(tiny, tmp_path):
    dataset = section("niah_multivalue", num_samples=4, data_dir=str(tmp_path))
    two = RULER.load(dataset, tiny, "official", limit=2)
    four = RULER.load(dataset, tiny, "official", limit=9)
    assert [s.index for s in four] == [0, 1, 2, 3] and two == four[:2]
    assert isinstance(four[0], Sample) and len(four[0].references) == 4


# ------------------------------------------------- scoring


def sample_of(task, *references):
    return Sample(0, "", references, 1, False, {"task": task})


@pytest.mark.parametrize(
    ("task", "references", "prediction", "score"),
    [
        ("niah_single_1", ["1234567"], "It is 1234567.", 100),
        ("niah_single_1", ["1234567"], "12345\n67", 0),
        ("niah_single_1", ["1234567"], "12345\x0067", 0),  # control characters become newlines
        ("niah_single_1", ["1234567"], "91234567", 100),  # a substring is enough
        ("niah_single_1", ["1234567"], "", 0),
        ("niah_multivalue", ["11", "22", "33", "44"], "22, 44", 50),
        ("vt", ["ABCDE", "FGHIJ"], "abcde fghij", 100),  # case does not matter
        ("cwe", ["one", "two", "three"], "1. One 2. TWO", 200 / 3),
        ("fwe", ["qwerty", "asdfgh", "zxcvbn"], "asdfgh", 100 / 3),
        ("qa_1", ["France", "in France", "FR"], "france", 100),  # any alias counts fully
        ("qa_1", ["France", "Norway"], "Spain", 0),
        ("qa_2", ["New York"], "New\tYork", 0),
        ("qa_2", ["yes"], "\n\n Yes, it is.", 100),
    ],
)
def test_scores_are_rulers(task, references, prediction, score):
    result = RULER.score(sample_of(task, *references), prediction)
    assert result == {"official": pytest.approx(score), "paper": pytest.approx(score)}


def test_cleaning_strips_and_replaces_control_characters():
    assert clean_prediction(" \x00\tone\x1ftwo\rthree \n\x07") == "one\ntwo\nthree"
    assert clean_prediction("one\x7f\x80two") == "one\x7f\x80two"


def test_a_sample_without_references_cannot_be_scored():
    with pytest.raises(ValueError, match="without references"):
        RULER.score(sample_of("qa_1"), "x")


# ------------------------------------------------- scripts/create_data.py


@pytest.fixture(scope="module")
def create_data():
    sys.path.insert(0, str(ROOT / "scripts"))  # for the processes too, which import it by its name
    import create_data

    yield create_data.main
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def command(tmp_path):
    model = tmp_path / "target"
    tiny_tokenizer().save_pretrained(model)
    questions = write_questions(tmp_path)
    return [
        *("--data", "ruler", "--model", str(model), "--haystack", "builtin", "--data_dir", str(tmp_path / "out")),
        *("--squad", questions.squad, "--hotpotqa", questions.hotpotqa, "--num_samples", "2"),
    ]


def test_create_data_makes_then_skips(create_data, command, capsys, tmp_path):
    command += ["--seq_len", "1024", "2048", "--task", "niah_single_2", "qa_1", "--jobs", "1"]
    assert create_data(command) == 0
    assert "4 made; 0 skipped; 0 failed" in capsys.readouterr().out
    made = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}
    assert len(made) == 4 and all(content.count(b"\n") == 2 for content in made.values())
    assert create_data(command) == 0
    assert "0 made; 4 skipped; 0 failed" in capsys.readouterr().out
    assert made == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}


def test_create_data_reports_what_failed(create_data, command, capsys):
    assert create_data([*command, "--seq_len", "128", "--task", "fwe", "cwe", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "cwe: row 0 does not fit into seq_len 128" in out and "failed" in out.splitlines()[-1]
    command[command.index("--model") + 1] = "/no/such/model"
    assert create_data([*command, "--seq_len", "1024", "--task", "vt"]) == 1
    assert "0 made; 0 skipped; 1 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_make_the_same_files(create_data, command, capsys, tmp_path):
    command += ["--seq_len", "1024", "--task", "niah_single_1", "vt", "fwe"]
    assert create_data([*command, "--jobs", "1"]) == 0
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}
    command[command.index("--data_dir") + 1] = str(tmp_path / "parallel")
    assert create_data([*command, "--jobs", "2"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "parallel").rglob("*.jsonl")} == alone
