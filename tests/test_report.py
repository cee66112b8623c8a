"""scripts/report.py on run folders made here: what the page holds, and what it does in Chromium."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from harness.report import page_data, render
from harness.tables import make_sections
from harness.tree import read_tree
from scripts.report import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
NASTY = "</script><img src=x onerror=\"alert('out')\"><!-- \u2028 \ud800 & &lt; $title"
PIECES = [*(f"word{i} " for i in range(100)), "the ", "code ", "is ", "4711", ". ", NASTY, " What?"]
"""A prompt's tokens; the 104th is the reference."""


def write_run(method, task="vt", budget=64, scores=(100, 0, 50), kept=True, branches=1, length=2048, simulated=False):
    sparse = {"sparse_type": method} | ({"max_capacity_prompt": budget} if budget else {})
    dataset = {"dataset_name": "ruler", "task": task, "seq_len": length}
    config = {"dataset": dataset, "protocol": "official", "sparse_config": sparse, "batch_size": 1}
    config["target_model"] = {"model_name_or_path": NASTY.replace("\ud800", "")}
    path = Path(f"results/{method}/{budget}/{length}/{task}")
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    share = [100 * (i % 50 == 7) for i in range(len(PIECES) - 1)] + [100] if budget else [100] * len(PIECES)
    share[103] = 25 if budget else 100
    stats = {"prompt_tokens": len(PIECES), "read_tokens": len(PIECES), "kept_tokens": budget or len(PIECES)}
    stats |= {"cache_bytes": 1024 * (budget or 200)}
    rows = [
        {"index": i, "fingerprint": "f", "error": None, "prediction": f"{method} says 4711 {NASTY}"}
        | {"references": ["4711", "", "711"], "branches": branches, "score_official": float(score), "score_paper": 0.0}
        | {"new_tokens": 5, "stats": stats, "seconds": {"draft": 0.1, "prefill": 0.2, "decode": 0.3}}
        for i, score in enumerate(scores)
    ]
    (path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kept:
        records = [{"index": i, "pieces": PIECES, "share": share} for i in range(2)]
        (path / "kept.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    metrics = {"fingerprint": "f", "n": len(rows), "subset": "first 3 of 500", "branches": branches}
    metrics |= {"memory": "simulated" if simulated else "real", "kept_fraction": stats["kept_tokens"] / len(PIECES)}
    metrics |= {"kept_tokens": stats["kept_tokens"], "cache_bytes": stats["cache_bytes"], "draft_cache_bytes": 0}
    metrics |= {"peak_cache_bytes": 2 * stats["cache_bytes"]}
    metrics |= {"draft_seconds": 0.1, "prefill_seconds": 0.2, "decode_seconds": 0.3}
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two tasks, two budgets and `full`, a run that is missing and one that is not finished."""
    monkeypatch.chdir(tmp_path)
    for task in ("vt", "cwe"):
        write_run("full", task, budget=None, scores=(100, 100, 100))
        write_run("speckv", task, 64, branches=4)
        write_run("snapkv", task, 64, scores=(0, 0, 0), kept=False)
        write_run("minference", task, None, scores=(100, 50, 50), simulated=True)
    write_run("speckv", "vt", 128, scores=(100, 100, 50))
    (write_run("h2o") / "metrics.json").unlink()


def described(samples: int = 10) -> dict:
    found, problems = read_tree([Path("results")])
    data, _ = page_data(make_sections(found), problems, samples)
    return data


def embedded(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_page_holds_what_the_folders_hold(results, capsys):
    assert main(["results", "-o", "out/page.html", "--title", "mine"]) == 0
    page = Path("out/page.html").read_text()
    data = embedded(page)
    assert data["sections"] == json.loads(json.dumps(described()))["sections"]
    (section,) = data["sections"]
    labels = [(line["label"], line["budget"]) for line in section["lines"]]
    assert labels == [
        ("full", "all"), ("minference", "all"), ("snapkv", "64"), ("speckv", "64"), ("speckv", "128"),
    ]  # fmt: skip
    (table,) = section["tables"]
    assert [column["title"] for column in table["columns"]] == ["vt", "cwe", "mean of 2"]
    vt, cwe, mean = table["cells"][3]
    assert (vt["mean"], vt["n"], vt["rank"], mean["n"]) == (50, 3, 1, 6)
    assert table["cells"][4][1:] == [None, None]  # never guessed
    assert table["cells"][2][0]["against"] == "speckv 64"
    assert table["costs"][3]["cache_bytes"] == 64 * 1024
    assert table["costs"][3]["seconds"] == pytest.approx(0.6)
    assert [cost and (cost["shared"], cost["simulated"]) for cost in table["costs"]] == [
        (False, False), (False, True), (False, False), (True, False), None,
    ]  # fmt: skip
    assert list(section["runs"]) == ["2048|vt", "2048|cwe"]
    first, second, third = section["runs"]["2048|vt"]["lines"]["3"]
    assert (first["output"], first["score"], third["score"]) == (f"speckv says 4711 {NASTY}", 100, 50)
    assert data["references"][first["references"]] == ["4711", "", "711"]
    assert data["prompts"] == [PIECES]  # once
    assert first["kept"] == [[0, 7], [100, 1], [0, 49], [100, 1], [0, 45], [25, 1], [0, 2], [100, 1]]
    assert "kept" not in third
    assert "kept" not in section["runs"]["2048|vt"]["lines"]["2"][0]
    told = [text for _, text in data["problems"]]
    assert any("not finished: 3 samples are answered" in text for text in told)
    assert any(text == "no run of cwe" for text in told)
    printed = capsys.readouterr().out
    assert "out/page.html: 9 runs" in printed
    assert "results/h2o/64/2048/vt: not finished" in printed


def test_nothing_in_the_data_can_end_the_script_or_break_the_file(results):
    page = render(described(), NASTY)
    page.encode()  # no lone surrogate
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert NASTY in embedded(page)["sections"][0]["runs"]["2048|vt"]["lines"]["0"][0]["output"]
    assert not re.search(r"(src|href)=", page.replace("src=x", ""))


def test_samples_are_limited(results):
    runs = described(samples=1)["sections"][0]["runs"]
    assert {len(samples) for run in runs.values() for samples in run["lines"].values()} == {1}
    runs = described(samples=0)["sections"][0]["runs"]
    assert {len(samples) for run in runs.values() for samples in run["lines"].values()} == {0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "nowhere: no runs (config.yaml) below"),
        (["results", "-o", "."], ".: is a folder. Give a file, such as NAME"),
        (["results", "-o", "results/h2o/64/2048/vt/config.yaml/page.html"], "cannot be written: File exists"),
        (["results/h2o"], "no run is finished"),
        (["results", "--against", "tova"], "--against: no runs of 'tova'"),
        (["results", "--methods", "speckw"], "--methods: no runs of speckw"),
    ],
)
def test_what_cannot_be_shown_is_told(results, capsys, options, said):
    assert main(options) == 2
    assert said in capsys.readouterr().err
    assert not Path("report.html").exists()


@pytest.fixture(scope="module")
def chromium():
    """A browser."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(results, look):
    """The report of `results`, open."""
    return look()


@pytest.fixture
def look(chromium):
    """look(): the report, open; at the end nothing was fetched, no dialog was shown, and no script failed."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    wrong, fetched = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: fetched.append(request.url))

    def look():
        assert main(["results"]) == 0
        page.goto(Path("report.html").resolve().as_uri())
        return page

    yield look
    page.close()
    assert wrong == []
    assert len(fetched) == 1


def body(page, table: str) -> list[list[str]]:
    rows = page.locator(f"#{table} tbody tr")
    return [rows.nth(i).locator("td").all_inner_texts() for i in range(rows.count())]


def names(page) -> list[str]:
    return [f"{row[0]} {row[1]}" for row in body(page, "scores")]


def test_scores_are_sorted_and_filtered(page):
    everything = ["full all", "minference all", "snapkv 64", "speckv 64", "speckv 128"]
    assert names(page) == everything
    assert body(page, "scores")[3][2:5] == ["50.0", "50.0", "50.0 ±33.3"]
    assert body(page, "scores")[4][3:] == [""] * 8
    assert body(page, "scores")[0][-1] == "0.600"
    assert body(page, "scores")[1][7].endswith("*")  # simulated
    assert body(page, "scores")[3][-1] == "(0.600)"  # a share
    title = page.locator("#scores tbody tr").nth(2).locator("td").nth(2).get_attribute("title")
    assert "speckv 64: -50" in title
    page.locator("#scores th button", has_text="vt").click()
    assert names(page)[0] == "full all"
    assert names(page)[-1] == "snapkv 64"
    page.locator("#scores th button", has_text="vt").click()
    assert names(page)[0] == "snapkv 64"
    page.locator("#scores th button", has_text="cwe").click()
    assert names(page)[-1] == "speckv 128"  # blank is last
    page.locator("#scores th button", has_text="cwe").click()
    assert names(page)[-1] == "speckv 128"
    page.fill("#filter", "snap SPEC")
    assert sorted(names(page)) == ["snapkv 64", "speckv 128", "speckv 64"]
    page.select_option("#budget", "64")
    assert sorted(names(page)) == ["snapkv 64", "speckv 64"]
    page.click("#all")
    assert sorted(names(page)) == sorted(everything)
    cell = page.locator("#scores tbody tr", has_text="full").locator("td").nth(2)
    assert cell.evaluate("node => node.style.background") == ""
    page.check("#shade")
    assert cell.evaluate("node => node.style.background") == "rgb(254, 232, 56)"


def test_figures_tell_their_numbers_and_methods_can_be_hidden(page):
    assert page.locator("#figure option").all_inner_texts() == [
        "score against budget", "score against cache", "score against latency",
    ]  # fmt: skip
    curves = page.locator("#charts polyline")
    assert curves.count() == 2
    page.locator('#charts [aria-label^="speckv, budget 64"]').hover()
    assert page.locator("#tip").inner_text().splitlines() == [
        "speckv, budget 64", "score 50 [16.67, 83.33], 6 samples", "KV budget, entries per KV head: 64",
    ]  # fmt: skip
    page.locator("#legend button", has_text="snapkv").click()
    assert curves.count() == 1
    assert "snapkv 64" not in names(page)
    assert not [row for row in body(page, "answers") if row[0] == "snapkv"]
    page.locator("#legend button", has_text="snapkv").click()
    assert curves.count() == 2
    page.select_option("#figure", label="score against cache")
    assert page.locator("#charts svg").count() == 2
    fronts = page.locator("#charts path")  # the best for its cost: from speckv up to full
    assert fronts.count() == 2
    assert re.fullmatch(r"M\S+ \S+ H\S+ V\S+ H\S+", fronts.first.get_attribute("d"))


def test_of_many_methods_those_that_are_left_have_colours(tmp_path, monkeypatch, look):
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        write_run(f"method_{number:02}", scores=(100 - number,) * 3)
    page = look()

    def colours() -> dict[str, str]:
        rows = page.locator("#scores tbody tr").all()
        return {
            row.locator("td").first.inner_text(): row.locator(".swatch").evaluate("node => node.style.background")
            for row in rows
        }

    grey = "rgb(196, 196, 196)"
    before = colours()
    assert [name for name, colour in before.items() if colour == grey] == ["method_08", "method_09", "method_10"]
    page.fill("#filter", "method_00 method_09 method_10")
    after = colours()
    assert after["method_00"] == before["method_00"]
    assert len({*after.values(), grey}) == 4
    assert page.locator(".prompt h3").all_inner_texts() == ["method_00, budget 64", "method_09, budget 64"]
    page.click("#all")
    assert colours() == before


def test_a_sample_shows_outputs_and_what_was_kept(page):
    page.locator("#scores tbody tr", has_text="speckv").first.locator("button").nth(1).click()
    assert page.locator("#run").input_value() == "2048|cwe"
    assert page.locator("#references").text_content() == "reference: 4711 |  | 711"
    rows = body(page, "answers")
    assert [row[0] for row in rows] == ["full", "minference", "snapkv", "speckv"]
    shown = f"speckv says 4711 {NASTY}"
    assert page.locator("#answers td.text").nth(3).evaluate("node => node.textContent") == shown
    assert page.locator("#answers td.text").nth(3).locator("mark").all_inner_texts() == ["4711"]
    assert [row[2] for row in rows] == ["", "", "–", ""]  # a box to tick, or nothing recorded
    prompt = page.locator(".prompt")  # of those that dropped something
    assert prompt.locator("h3").all_inner_texts() == ["speckv, budget 64"]
    assert prompt.locator("h3").inner_text() == "speckv, budget 64"
    kept = prompt.locator('span[title^="kept"]')
    assert kept.all_inner_texts() == ["word7 ", "word57 ", "4711", " What?"]
    assert kept.nth(2).get_attribute("title") == "kept: 25 %"
    assert prompt.locator("mark").all_inner_texts() == ["4711"]
    assert prompt.locator("button.fold").all_inner_texts() == ["33 tokens", "29 tokens"]
    for _ in range(2):
        prompt.locator("button.fold").first.click()
    whole = "".join(PIECES)
    assert prompt.locator("div").evaluate("node => node.textContent") == whole
    page.locator("#answers input").first.check()
    assert page.locator(".prompt h3").all_inner_texts() == ["full, budget all", "speckv, budget 64"]
    assert page.locator(".prompt").first.locator("mark").all_inner_texts() == ["4711"]
    page.click("#next")
    assert page.locator("#sample").input_value() == "1"
    page.click("#next")
    assert [row[2] for row in body(page, "answers")] == ["–"] * 4  # the third was not recorded
    assert page.locator(".prompt").count() == 0
    page.click("#next")
    assert page.locator("#sample").input_value() == "0"


def test_what_is_missing_is_listed(page):
    page.locator("#problems summary").click()
    assert "no run of cwe" in page.locator("#problems ul").inner_text()
    assert page.locator("#problems summary").inner_text().startswith("Missing, left out, or to be known: ")
