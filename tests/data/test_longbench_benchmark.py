"""LongBench's samples: prompts, templates, truncation, order, loading."""

from __future__ import annotations

import json
import zipfile

import pytest
import yaml
from ruler_helpers import LLAMA3_MARKERS, SHARED, make_tokenizer, tiny_tokenizer

from data import get_benchmark
from data.longbench import builtin, files
from data.longbench.benchmark import middle_cut, published_max_length
from data.longbench.tasks import E_TASKS, PAPER_TASKS, TASKS
from data.paper import SYSTEM_PROMPTS

LONGBENCH = get_benchmark("longbench")
LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nDEFAULT<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def llama():
    bos = LLAMA3_MARKERS[0]
    return make_tokenizer(
        LLAMA3_MARKERS,
        bos=bos,
        adds_bos=True,
        chat_template=LLAMA_CHAT,
        name_or_path="meta-llama/Llama-3.1-8B-Instruct",
    )


def qwen(name="Qwen/Qwen2.5-14B-Instruct"):
    return make_tokenizer(("<|im_start|>", "<|im_end|>"), chat_template=QWEN_CHAT, name_or_path=name)


def row(i: int, words: int = 20, **changes) -> dict:
    context = " ".join(f"w{i}x{j}" for j in range(words))
    return {
        "input": f"What is {i}?",
        "context": context,
        "answers": [f"answer {i}", "other"],
        "length": words,
        "all_classes": None,
        "_id": f"id{i}",
    } | changes


@pytest.fixture
def folder(tmp_path):
    """A folder with five rows of every task, LongBench-E's too."""
    for name in (*TASKS, *(f"{task}_e" for task in E_TASKS)):
        changes = {"trec": {"all_classes": ["a", "b"]}, "passage_retrieval_en": {"answers": ["Paragraph 3"]}}
        content = changes.get(name.removesuffix("_e"), {})
        text = "".join(json.dumps(row(i, **content)) + "\n" for i in range(5))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def load(folder, task, tokenizer, protocol="official", positions=None, limit=None, **dataset):
    dataset = {"dataset_name": "longbench", "task": task, "data_files": str(folder), **dataset}
    return LONGBENCH.load(dataset, tokenizer, protocol, limit, positions)


def test_wording_is_the_published():
    path = SHARED.parent / "benchmark_prompts.yaml"
    if not path.is_file():
        pytest.skip("../shared is not here")
    published = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {name: (task.prompt, task.max_new_tokens) for name, task in TASKS.items()} == {
        name: (task["prompt"], task["max_new_tokens"]) for name, task in published["longbench"].items()
    }
    assert published["paper"]["system_prompts"] == SYSTEM_PROMPTS


def test_there_are_16_tasks_14_in_the_paper_13_by_length():
    assert (len(TASKS), len(PAPER_TASKS), len(E_TASKS)) == (16, 14, 13)
    assert {"narrativeqa", "musique", "qmsum"} == set(TASKS) - set(E_TASKS)
    assert [name for name, task in TASKS.items() if not task.chat] == [
        "trec",
        "triviaqa",
        "samsum",
        "lcc",
        "repobench-p",
    ]
    assert [name for name, task in TASKS.items() if task.first_line] == ["trec", "triviaqa", "samsum"]


def test_qa_categories_are_the_right_way_round():
    averages = LONGBENCH.averages(PAPER_TASKS)
    assert averages["Single-doc QA"] == ("narrativeqa", "qasper", "multifieldqa_en")
    assert averages["Multi-doc QA"] == ("hotpotqa", "2wikimqa", "musique")
    assert list(averages)[-1] == "All"
    assert averages["All"] == PAPER_TASKS
    assert len(averages) == 6


def test_all_leaves_the_synthetic_tasks_out_and_a_subset_is_called_one():
    assert LONGBENCH.averages(list(TASKS))["All"] == PAPER_TASKS
    assert LONGBENCH.averages(list(TASKS))["Synthetic"] == ("passage_count", "passage_retrieval_en")
    assert LONGBENCH.averages(["qasper", "trec"]) == {"mean of 2": ("qasper", "trec")}
    assert list(LONGBENCH.averages(["qasper_e", "trec_e"])) == ["LongBench-E, mean of 2"]
    e = [f"{task}_e" for task in E_TASKS]
    assert LONGBENCH.averages(e) == {"LongBench-E": tuple(e)}


@pytest.mark.parametrize("task", TASKS)
def test_official_prompt_is_the_template_around_the_published_text(folder, task):
    (sample,) = load(folder, task, llama(), limit=1)
    text = TASKS[task].prompt.format(**row(0))
    if task in ("trec", "triviaqa", "samsum", "lcc", "repobench-p"):
        assert sample.prompt == text
        assert sample.add_special_tokens
    else:
        header = "<|start_header_id|>{}<|end_header_id|>\n\n"
        user, assistant = header.format("user"), header.format("assistant")
        assert sample.prompt == f"<|begin_of_text|>{user}{text}<|eot_id|>{assistant}"
        assert not sample.add_special_tokens
    assert sample.references == (("Paragraph 3",) if task == "passage_retrieval_en" else ("answer 0", "other"))
    assert sample.max_new_tokens == TASKS[task].max_new_tokens


@pytest.mark.parametrize("protocol", ["official", "paper"])
@pytest.mark.parametrize("task", ["qasper", "trec"])
def test_exactly_one_bos(folder, task, protocol):
    tokenizer = llama()
    for sample in load(folder, task, tokenizer, protocol):
        ids = tokenizer(sample.prompt, add_special_tokens=sample.add_special_tokens)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


def test_paper_adds_the_familys_system_prompt(folder):
    prompts = {}
    for tokenizer in (llama(), qwen(), tiny_tokenizer()):
        prompts[tokenizer.name_or_path] = load(folder, "qasper", tokenizer, "paper")[0].prompt
    text = TASKS["qasper"].prompt.format(**row(0))
    assert SYSTEM_PROMPTS["llama"] in prompts["meta-llama/Llama-3.1-8B-Instruct"]
    assert prompts["Qwen/Qwen2.5-14B-Instruct"].startswith(f"<|im_start|>system\n{SYSTEM_PROMPTS['qwen']}<|im_end|>\n")
    assert "DEFAULT" in load(folder, "qasper", qwen(), "official")[0].prompt  # the template's own
    assert prompts[""] == f"<|bos|><|user|>\n{text}<|end|>\n<|assistant|>\n"  # a family that was not run


def test_system_prompt_of_the_config_wins(folder):
    given = load(folder, "qasper", llama(), "paper", system_prompt="Be brief.")[0].prompt
    assert "Be brief." in given
    assert SYSTEM_PROMPTS["llama"] not in given
    none = load(folder, "qasper", llama(), "paper", system_prompt="")[0].prompt
    assert none == load(folder, "qasper", llama(), "official")[0].prompt


def test_thinking_is_off_and_paper_always_wraps_for_qwen3(folder):
    for name, wraps in (("Qwen/Qwen3-8B", True), ("Qwen/Qwen2.5-7B-Instruct", False)):
        prompt = load(folder, "trec", qwen(name), "paper")[0].prompt
        assert prompt.endswith("<think>\n\n</think>\n\n") is wraps
        assert "<|im_start|>" not in load(folder, "trec", qwen(name), "official")[0].prompt
    assert load(folder, "qasper", qwen("Qwen/Qwen3-8B"))[0].prompt.endswith("<think>\n\n</think>\n\n")


def test_a_base_model_reads_the_plain_prompt_and_a_template_can_be_forced_or_left_out(folder):
    base = make_tokenizer(LLAMA3_MARKERS, bos=LLAMA3_MARKERS[0], adds_bos=True)
    text = TASKS["qasper"].prompt.format(**row(0))
    (sample,) = load(folder, "qasper", base, limit=1)
    assert (sample.prompt, sample.add_special_tokens, sample.meta["chat_template"]) == (text, True, False)
    assert load(folder, "qasper", llama(), chat_template=False)[0].prompt == text
    assert "assistant" in load(folder, "lcc", llama(), chat_template=True)[0].prompt
    with pytest.raises(ValueError, match="chat_template: the tokenizer '' has none"):
        load(folder, "lcc", base, chat_template=True)


def test_a_template_that_refuses_a_system_prompt_is_named(folder):
    tokenizer = llama()
    tokenizer.chat_template = "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}"
    with pytest.raises(ValueError, match="Llama-3.1-8B-Instruct' refuses a system prompt: no system role"):
        load(folder, "qasper", tokenizer, "paper")


def test_official_samsum_stops_at_a_newline(folder):
    tokenizer = llama()
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    assert load(folder, "samsum", tokenizer)[0].stop_token_ids == (newline,)
    assert load(folder, "samsum", tokenizer, "paper")[0].stop_token_ids == ()
    assert load(folder, "trec", tokenizer)[0].stop_token_ids == ()


def test_paper_cleans_up_what_it_decodes(folder):
    assert load(folder, "lcc", qwen(), "paper")[0].clean_up_tokenization_spaces is True
    assert load(folder, "lcc", qwen())[0].clean_up_tokenization_spaces is None


@pytest.mark.parametrize(
    ("positions", "length"),
    [(4096, 3500), (8192, 7500), (16384, 15500), (32768, 31500), (131072, 127500), (512, 256), (None, None)],
)
def test_published_lengths(positions, length):
    assert published_max_length(positions) == length


def test_middle_is_cut_out_of_the_whole_prompt_before_the_template(folder):
    (folder / "qasper.jsonl").write_text(json.dumps(row(0, words=3000)) + "\n")
    tokenizer = llama()
    (sample,) = load(folder, "qasper", tokenizer, positions=4096)
    assert sample.meta["truncated"]
    text = sample.prompt.split("user<|end_header_id|>\n\n")[1].split("<|eot_id|>")[0]
    whole = TASKS["qasper"].prompt.format(**row(0, words=3000))
    ids = tokenizer(whole)["input_ids"]
    head = tokenizer.decode(ids[:1750], skip_special_tokens=True)
    tail = tokenizer.decode(ids[-1750:], skip_special_tokens=True)
    assert text == head + tail
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert not load(folder, "qasper", tokenizer, positions=131072)[0].meta["truncated"]


def test_the_cut_counts_the_bos_and_keeps_what_just_fits():
    tokenizer = llama()
    text = "one two three four five"
    count = len(tokenizer(text)["input_ids"])
    assert middle_cut(tokenizer, text, count) is None
    assert middle_cut(tokenizer, text, count - 1) is not None
    odd = middle_cut(tokenizer, text, 5)
    ids = tokenizer(text)["input_ids"]
    assert odd == tokenizer.decode(ids[1:2]) + tokenizer.decode(ids[-2:])  # int(5 / 2) on either side, BOS left out


def test_paper_does_not_cut_and_leaves_the_judgement_to_the_harness(folder):
    (folder / "qasper.jsonl").write_text(json.dumps(row(0, words=3000)) + "\n")
    (sample,) = load(folder, "qasper", llama(), "paper", positions=4096)
    assert "w0x1500" in sample.prompt
    assert not sample.may_exceed_positions
    assert load(folder, "qasper", llama(), "paper", over_length="allow")[0].may_exceed_positions
    cut = load(folder, "qasper", llama(), "paper", over_length="truncate", max_length=1000)[0]
    assert "w0x1500" not in cut.prompt


def test_order_and_number_of_samples(folder):
    natural = load(folder, "qasper", llama())
    assert [s.meta["row"] for s in natural] == [s.index for s in natural] == [0, 1, 2, 3, 4]
    assert [s.index for s in load(folder, "qasper", llama(), num_samples=3)] == [0, 1, 2]
    paper = load(folder, "qasper", llama(), "paper", num_samples=3)
    assert [s.index for s in paper] == [0, 1, 2]
    shuffled = [4, 2, 3]  # datasets 5.2: Dataset.from_list(five rows).shuffle(seed=42)
    assert [s.meta["row"] for s in paper] == shuffled
    limited = load(folder, "qasper", llama(), "paper", num_samples=3, limit=2)
    assert [s.meta["row"] for s in limited] == shuffled[:2]


def test_identity_tells_apart_what_differs(folder):
    def identity(protocol="official", **dataset):
        return LONGBENCH.identity({"task": "qasper", "data_files": str(folder), **dataset}, protocol)

    assert identity() != identity("paper")
    assert identity() != identity(max_length=100)
    assert identity() == identity(over_length="truncate")
    without = {key: value for key, value in identity(num_samples=3).items() if key != "num_samples"}
    assert without == identity()
    assert identity("paper", num_samples=3)["shuffle_seed"] == 42
    before = identity()
    (folder / "qasper.jsonl").write_text(json.dumps(row(7)) + "\n")
    files.digest.cache_clear()
    assert identity() != before


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({}, "dataset.task: missing"),
        ({"task": "qasperr"}, "did you mean 'qasper'"),
        ({"task": "musique_e"}, "dataset.task: 'musique_e' is not known"),
        ({"task": "qasper", "max_lenght": 3}, "dataset.max_lenght: unknown key; did you mean 'max_length'"),
        ({"task": "qasper", "num_samples": 0}, "dataset.num_samples: 0 is not a whole number"),
        ({"task": "qasper", "num_samples": True}, "dataset.num_samples: True"),
        ({"task": "qasper", "over_length": "cut"}, "dataset.over_length: 'cut' is not one of"),
        ({"task": "qasper", "over_length": "allow", "max_length": 9}, "dataset.max_length: has no effect"),
        ({"task": "qasper", "chat_template": "yes"}, "dataset.chat_template: 'yes'"),
        ({"task": "qasper", "system_prompt": "x", "chat_template": False}, "dataset.system_prompt: has no effect"),
        ({"task": "qasper", "system_prompt": 3}, "dataset.system_prompt: 3 is not a text"),
        ({"task": "qasper", "data_files": "/nowhere"}, "dataset.data_files: no such file or folder: /nowhere"),
        ({"task": "musique", "data_files": "builtin"}, "no generated rows of musique"),
    ],
)
def test_bad_sections_are_refused(dataset, message):
    with pytest.raises(ValueError, match="^dataset") as error:
        LONGBENCH.validate({"dataset_name": "longbench", **dataset}, "official")
    assert message in str(error.value)


def test_a_folder_without_the_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no qasper.jsonl"):
        LONGBENCH.validate({"task": "qasper", "data_files": str(tmp_path)}, "official")


def test_archive_file_and_folder_hold_the_same(folder, tmp_path):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.glob("*.jsonl"):
            file.write(path, f"data/{path.name}")
    prompts = [[s.prompt for s in load(where, "qasper_e", llama())] for where in (folder, archive)]
    prompts.append([s.prompt for s in load(folder / "qasper_e.jsonl", "qasper_e", llama())])
    assert prompts[0] == prompts[1] == prompts[2]
    assert LONGBENCH.identity({"task": "qasper", "data_files": str(archive)}, "official")["data"].startswith("crc32")
    (folder / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(files.DataError, match=r"broken.zip: cannot be read as a zip archive.*Download it again"):
        load(folder / "broken.zip", "qasper", llama())


def test_the_hubs_archive_is_the_default(folder, tmp_path, monkeypatch):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "qasper.jsonl", "data/qasper.jsonl")
    asked = []

    def download(*args, **kwargs):
        asked.append((args, kwargs))
        return str(archive)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(LONGBENCH.load({"task": "qasper"}, llama(), "official")) == 5
    assert asked == [(("THUDM/LongBench", "data.zip"), {"repo_type": "dataset"})]
    with pytest.raises(files.DataError, match=r"data.zip: has no lcc.jsonl"):
        LONGBENCH.load({"task": "lcc"}, llama(), "official")


def test_offline_the_message_says_what_to_do(monkeypatch):
    def download(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(files.DataError, match="no route to the hub") as error:
        LONGBENCH.load({"task": "qasper"}, llama(), "official")
    for part in ("hf download THUDM/LongBench data.zip --repo-type dataset", "dataset.data_files"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1: `context` is missing"),
        (json.dumps(row(0)) + "\n[1]\n", "line 2: `context` is missing"),
        ("{broken\n", "line 1: not JSON"),
        (json.dumps(row(0, answers=[])) + "\n", "line 1: `answers` must be a list of at least one string"),
        (json.dumps(row(0, answers=[3])) + "\n", "line 1: `answers`"),
        ("\n", "holds no rows"),
    ],
)
def test_broken_rows_are_named(folder, text, message):
    (folder / "qasper.jsonl").write_text(text)
    with pytest.raises(files.DataError) as error:
        load(folder, "qasper", llama())
    assert f"qasper.jsonl: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("trec", row(0), "row 0: all_classes: None is not a list of strings"),
        ("qasper", row(0, dataset="trec"), "row 0: is one of trec, not of qasper"),
        ("passage_retrieval_en", row(0), "row 0: reference 'answer 0': no 'Paragraph N'"),
        ("qasper_e", row(0, length=None), "row 0: length: None"),
    ],
)
def test_rows_that_could_not_be_scored_are_found_before_they_are_answered(folder, task, content, message):
    (folder / f"{task}.jsonl").write_text(json.dumps(content) + "\n")
    with pytest.raises(files.DataError) as error:
        load(folder, task, llama())
    assert message in str(error.value)


def test_max_length_beyond_the_model_is_refused(folder):
    with pytest.raises(ValueError, match="dataset.max_length: 9000 is more than the 4096 positions of the model"):
        load(folder, "qasper", llama(), positions=4096, max_length=9000)


def test_line_separators_inside_a_text_do_not_end_a_row(folder):
    (folder / "qasper.jsonl").write_text(json.dumps(row(0, input="a\u2028b\x85c"), ensure_ascii=False) + "\n")
    (sample,) = load(folder, "qasper", llama())
    assert "a\u2028b\x85c" in sample.prompt


@pytest.mark.parametrize("task", builtin.TASKS)
def test_generated_rows_are_always_the_same_and_answerable(task):
    rows = builtin.rows(TASKS[task])
    assert rows == builtin.rows(TASKS[task])
    assert len(rows) == builtin.ROWS
    for one in rows:
        answer = one["answers"][0].strip(" .")
        assert one["context"].count(answer) == 1
        assert one["all_classes"] is None or answer in one["all_classes"]
        prompt = TASKS[task].prompt.format(**one)
        key = prompt.rpartition("for ")[2].partition(" mentioned")[0]
        assert f"for {key} is: {answer}." in prompt
    dataset = {"task": task, "data_files": "builtin"}
    assert len(LONGBENCH.load(dataset, tiny_tokenizer(), "official", limit=2)) == 2


@pytest.mark.parametrize("task", TASKS)
def test_real_rows_render_through_the_published_template(task):
    folder = SHARED / "longbench"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    rows = [json.loads(line) for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").split("\n") if line]
    base = make_tokenizer(LLAMA3_MARKERS, bos=LLAMA3_MARKERS[0], adds_bos=True)
    samples = load(folder, task, base, over_length="allow")
    assert len(samples) == len(rows)
    for sample, one in zip(samples, rows, strict=True):
        before, _, rest = TASKS[task].prompt.partition("{context}")
        assert sample.prompt == before + one["context"] + rest.replace("{input}", one["input"])
        assert list(sample.references) == one["answers"]
        assert sample.meta["all_classes"] == one["all_classes"]
