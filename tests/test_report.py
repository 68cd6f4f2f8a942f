"""The report page of a run, read by a parser and, where one is installed, by a real Chromium."""

import base64
import hashlib
import html.parser
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest
from browser import Browser, find_browser
from programs import parse_settings

from vvae import config, config_files, video
from vvae.report.charts import find_ticks, format_tick, thin_out
from vvae.report.commands import find_changed, write_arguments
from vvae.report.results import preview_csv
from vvae.report.training import _tabulate_levels
from vvae.report.write import make_environment, write_report

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = config_files.to_dict(config.Config(name="default"))
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</script><script>alert(3)</script>",
    '=HYPERLINK("http://evil.example")',
    "größe 動画 🎬 \u202eabc",
    "name" * 80,
    "a\x00b\ud800c",
)
VOID = {"br", "img", "link", "meta", "wbr"}


class Page(html.parser.HTMLParser):
    """The elements with their attributes, the text, the code, and tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.mistakes = [], [], [], []
        self.code = {"script": "", "style": ""}
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        if len(names) != len(set(names)):
            self.mistakes.append(f"attribute twice in {name}")
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        if not self.open or self.open.pop() != name:
            self.mistakes.append(f"</{name}> ends nothing")

    def handle_data(self, data):
        if self.open and self.open[-1] in self.code:
            self.code[self.open[-1]] += data
        elif self.open:
            self.texts.append(data)

    def find(self, name):
        return [attributes for element, attributes in self.elements if element == name]


def make_card(name, unit, **context):
    return {"name": name, "unit": unit, "definition": "d", "aggregation": "a", **context}


def write_task(folder, task, rows, **more):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"task": task, "rows": rows, "notes": [], "files": [], "details": {}} | more
    (folder / f"{task}.json").write_text(json.dumps(content))


def write_run(workdir, **data):
    """Writes a run that has only just begun: it has settings and nothing else."""
    facts = {"path": "videos", "fingerprint": "f00d", "num_channels": 1, "num_steps": 40}
    facts |= {"num_clips": {"train": 9}, "num_videos": {"train": 7}, "broken": {}}
    facts |= {"num_padded": 0, "left_out_splits": {}} | data
    start = {"command": ["train.py"], "time": "2026-01-01T00:00:00"}
    record = {"config": DEFAULTS, "data": facts, "history": [start], "git_commit": "abc123"}
    record |= {"versions": {"vvae": "0.1.0", "jax": "0.10.2"}, "device": {"kind": "cpu"}}
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(record))
    (workdir / "classes.json").write_text(json.dumps(["left", "right"]))
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a task of an unknown name, and names that could break a page."""
    broken = {name: f"why {name}" for name in EVIL}
    workdir = write_run(tmp_path_factory.mktemp("report") / "my run", broken=broken, num_padded=3)
    (workdir / "checkpoints" / "step_00000040").mkdir(parents=True)
    (workdir / "classes.json").write_text(json.dumps(EVIL))
    lines = [{"step": s, "kind": "train", "elbo": -900.0 / s, "kl_clip": 1.0} for s in (10, 20, 40)]
    lines += [{"step": 40, "kind": "validation", "val_elbo": -30.5, "val_active_clip": 2.0}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = workdir / "eval"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    video.write_video(folder / "scene.mp4", frames, fps=12)
    from vvae import figures

    curve = {"score": (np.arange(4), np.arange(4.0))}
    figures.write_curves(folder / "scores.png", curve, "frame", "score", "Scores")
    (folder / "scores.csv").write_text("path,score\n" + "".join(f"{n},1\n" for n in EVIL[:2]))
    values = (3.5, -12.25, None, 100.0)
    rows = {
        label: {
            "auroc": {"value": value, "card": make_card("auroc", "%", method=label, split=EVIL[1])},
            "rate": {"value": number / 7, "card": make_card("rate", "", method=label)},
        }
        for number, (label, value) in enumerate(zip(EVIL, values))
    }
    files = ["scene.mp4", "scores.png", "scores.csv", "lost.png", "../../secret.csv"]
    details = {"collapsed": False, "kl_by_dimension": {"clip": [1.0, 0.0]}}
    details |= {"active_units": {"clip": [True, False]}, EVIL[0]: list(EVIL)}
    write_task(folder, "oddities", rows, notes=list(EVIL), files=files, details=details)
    write_task(folder / "new videos", "oddities", {}, notes=["3 videos are labelled"])
    (folder / "half.json").write_text('{"task": ')
    return workdir


@pytest.fixture(scope="module")
def text(run):
    return write_report(run, DEFAULTS).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


# --- by a parser ----------------------------------------------------------------------------------


def render(template, **values):
    return make_environment().from_string(template).render(values)


def test_templates_escape_all_but_what_is_marked_as_safe():
    template = '<a href="{{ link }}">{{ text }}{{ made|safe }}</a>'
    element = render(template, link='"><x', text="<b>&'", made="<i>x</i>")
    assert element == '<a href="&#34;&gt;&lt;x">&lt;b&gt;&amp;&#39;<i>x</i></a>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b\x7f\x85\uffffc", "a\ufffdb\ufffd\ufffd\ufffd\ufffdc"),
        ("a\tb\nc", "a\tb\nc"),
        ("half \ud800, not UTF-8 \udce9", "half ?, not UTF-8 ?"),
        ("größe 動画 🎬", "größe 動画 🎬"),
    ],
)
def test_templates_replace_what_html_cannot_hold(text, shown):
    macro = "{% macro show(x) %}<b>{{ x }}</b>{% endmacro %}"
    assert render(macro + '<i id="{{ x }}">{{ show(x) }}</i>', x=text) == (
        f'<i id="{shown}"><b>{shown}</b></i>'
    )


def test_templates_refuse_a_value_that_is_missing():
    with pytest.raises(jinja2.UndefinedError, match="'nothing' is undefined"):
        render("{{ nothing }}")


def test_the_page_is_well_formed(page):
    assert page.mistakes == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in page.find("a") if a["href"].startswith("#")]
    assert set(links) <= set(ids)
    levels = [int(n[1]) for n, _ in page.elements if len(n) == 2 and n[0] == "h" and n[1].isdigit()]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.find("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.find("img"))
    assert all(head["scope"] in ("col", "row") for head in page.find("th"))
    assert len(page.find("caption")) == len(page.find("table"))


def test_nothing_is_fetched_and_nothing_from_data_is_markup(page, text):
    for name, attributes in page.elements:
        assert not any(key.startswith("on") or key == "style" for key in attributes), name
        for key in ("src", "href", "action", "poster"):
            assert attributes.get(key, "#").startswith(("data:", "#", "eval/")), name
    assert len(page.find("script")) == 1 and len(page.find("style")) == 1
    assert "url(" not in text and "@import" not in text
    rules = page.find("meta")[1]["content"]
    assert "default-src 'none'" in rules and "script-src 'sha256-" in rules
    for name, asset in (("script", "report.js"), ("style", "report.css")):
        assert page.code[name] == (ROOT / "vvae" / "report" / asset).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(page.code[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in rules
    whole = "".join(page.texts)
    for label in EVIL[:6]:
        assert whole.count(label) >= 4, label


def test_a_file_name_that_is_not_utf8_is_shown_and_linked(tmp_path):
    folder = write_run(tmp_path / "new") / "eval"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9 <&'>.txt")).write_text("x")
    page = Page(write_report(tmp_path / "new", DEFAULTS).read_text(encoding="utf-8"))
    assert "eval/caf? <&'>.txt" in page.texts
    assert "eval/caf%E9%20%3C%26%27%3E.txt" in [a["href"] for a in page.find("a")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "t.csv is empty."),
        ("\n\n", "t.csv is empty."),
        ("\na,b\n1,2\n", "t.csv, whole"),
        ("a\n" + "1\n" * 11, "t.csv: the first 10 rows"),
        (",".join("abcdefghijklm") + "\n", "t.csv: the first 0 rows and columns"),
    ],
)
def test_previews_of_csv_files(tmp_path, text, shown):
    (tmp_path / "t.csv").write_text(text)
    preview = preview_csv(tmp_path / "t.csv", "t.csv")
    assert (preview["problem"] or preview["table"].caption) == shown


def test_every_value_card_file_and_note_is_there(page):
    whole = "".join(page.texts)
    cells = [c["data-value"] for c in page.find("td") if "data-value" in c]
    assert {"3.5", "-12.25", "100.0", ""} <= set(cells)
    assert [d["id"] for d in page.find("details") if "id" in d] == [
        f"card-0-{row}-{column}" for row in range(4) for column in range(2)
    ]
    assert "lost.png: is not there" in whole and "outside of the task's folder" in whole
    assert "eval/scores.csv" in [a["href"] for a in page.find("a")]
    assert "3 videos are labelled" in whole and "oddities on new videos" in whole
    assert "half.json cannot be read" in whole
    assert "3 clips are filled up" in whole and "7 files cannot be read" in whole
    [shown] = page.find("video")
    assert {"controls", "loop", "muted", "playsinline"} <= set(shown)
    assert shown["src"].startswith("data:video/mp4;base64,")
    assert len(page.find("svg")) >= 4


def test_files_beyond_the_limit_are_linked_and_named(run):
    page = Page(write_report(run, DEFAULTS, limit_bytes=0).read_text())
    assert not page.find("video") and not page.find("img")
    links = [a["href"] for a in page.find("a")]
    assert "eval/scene.mp4" in links and "eval/scores.png" in links
    assert "Too large for this page" in "".join(page.texts)


def test_the_page_says_what_is_missing(tmp_path):
    page = Page(write_report(write_run(tmp_path / "new"), DEFAULTS).read_text())
    whole = "".join(page.texts)
    assert page.mistakes == []
    for words in ("The training is not finished", "There are no curves", "no validation was done"):
        assert words in whole
    assert "Nothing has been evaluated yet" in whole and "nothing was measured yet" in whole
    assert "Every file could be read." in whole
    with pytest.raises(ValueError, match="is not a run directory"):
        write_report(tmp_path, DEFAULTS)


def test_the_command_gives_the_settings_back():
    changes = {"data": {"path": "my videos", "flip": True}, "model": {"widths": [8, 16]}}
    changes |= {"train": {"num_steps": None, "num_epochs": 3}, "optim": {"learning_rate": 3e-4}}
    settings = {
        k: v | changes.get(k, {}) if isinstance(v, dict) else v for k, v in DEFAULTS.items()
    }
    words = write_arguments(find_changed(settings, DEFAULTS))
    parsed = parse_settings(words, config_files.from_dict(DEFAULTS))
    assert config_files.to_dict(parsed) == settings
    assert find_changed(DEFAULTS, DEFAULTS) == {}


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-66500.0, -64000.0), (8.0, 2242.0), (1e-7, 3e-7)])
def test_ticks_are_round_and_inside(ends):
    ticks = find_ticks(*ends)
    assert 3 <= len(ticks) <= 11 and ends[0] - 1e-9 <= ticks[0] < ticks[-1] <= ends[1] + 1e-9
    assert len({format_tick(tick, *ends) for tick in ticks}) == len(ticks)


def test_thinned_curves_keep_their_ends():
    assert thin_out([1, 2, 3], 3) == [1, 2, 3]
    kept = thin_out(list(range(1000)), 100)
    assert kept[0] == 0 and kept[-1] == 999 and len(kept) <= 101


def test_the_program_writes_it_without_jax(run):
    code = (
        "import sys; import evaluate; evaluate.main(['report', '--workdir', sys.argv[1]]);"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"report: {run / 'report.html'}" in done.stdout


def find_tile(page_text, task):
    """Returns the text of the tile of a task."""
    start = page_text.index('class="tile', page_text.index('class="tiles"'))
    tiles = page_text[start : page_text.index("</section>", start)].split("</a>")
    return next(tile for tile in tiles if f">{task}</span>" in tile)


@pytest.mark.parametrize(
    ("value", "ends", "p_value", "words"),
    [
        (0.3, (0.2, 0.4), 0.002, "ahead, proven"),
        (-0.3, (-0.4, -0.2), 0.002, "behind, proven"),
        (0.3, (0.2, 0.4), 0.25, "no proven difference"),  # few units: the test proves nothing
        (0.3, (-0.1, 0.6), 0.04, "no proven difference"),
        (0.3, (None, None), None, "no proven difference"),
    ],
)
def test_a_headline_has_its_best_rival_and_wins_by_the_paired_test(
    tmp_path, value, ends, p_value, words
):
    workdir = write_run(tmp_path / "new")
    interval = {"low": 0.8, "high": 0.95, "text": "95 %"}
    rows = {
        name: {"top1": {"value": top1, "card": make_card("top1", ""), "interval": interval}}
        for name, top1 in (("random", 0.6), ("vae", 0.9))
    }
    comparison = {"method": "vae", "rival": "random", "metric": "top1", "value": value}
    comparison |= {"low": ends[0], "high": ends[1], "p_value": p_value}
    write_task(workdir / "eval", "classify", rows, details={"comparison": comparison})
    write_task(workdir / "eval", "density", {"vae": {"elbo": rows["vae"]["top1"]}})
    text = write_report(workdir, DEFAULTS).read_text()
    tile = find_tile(text, "classify")
    assert '<b class="number">0.9000</b>' in tile and "[0.800, 0.950]" in tile
    assert "Best rival random: <b>0.6000</b>" in tile and words in tile
    assert "no rival measured" in find_tile(text, "density")


def test_captions_say_what_is_seen(tmp_path):
    workdir = write_run(tmp_path / "new")
    (workdir / "eval").mkdir()
    (workdir / "eval" / "a_b.mp4").write_bytes(b"x")
    (workdir / "eval" / "c.png").write_bytes(b"x")
    files, captions = ["c.png", "a_b.mp4"], {"c.png": "What is seen & more"}
    write_task(workdir / "eval", "old", {}, files=files, captions=captions)
    page = Page(write_report(workdir, DEFAULTS).read_text())
    assert [image["alt"] for image in page.find("img")] == ["What is seen & more."]
    assert page.find("video")[0]["aria-label"] == "A b, playing"


def test_counts_are_integers():
    log = [{"step": 5, "kind": "validation", "val_active_clip": 3.0, "val_kl_clip": 2.5}]
    [(_, cells)] = _tabulate_levels(log).rows
    assert [cell.text for cell in cells] == ["3", "2.500", "-"]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    browser = Browser(path, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def url(run):
    return write_report(run, DEFAULTS).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_loads_quietly_and_does_not_scroll_sideways(browser, url, width, scheme):
    browser.open(url, width=width, scheme=scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelector('#results') !== null")
    assert browser.list_requests() == [url]
    assert browser.find_complaints() == []


def test_videos_play(browser, url):
    browser.open(url)
    state = browser.evaluate(
        # The page pauses a video that is not seen, so that it must be seen here.
        "(async () => { const v = document.querySelector('video');"
        "v.scrollIntoView({behavior: 'instant', block: 'center'}); v.play().catch(() => {});"
        "await new Promise(done => v.addEventListener('timeupdate', () => "
        "{ if (v.currentTime > 0) done(); }));"
        "return [v.readyState, v.videoWidth, v.videoHeight, v.error]; })()"
    )
    assert state[0] >= 2 and state[1:] == [48, 32, None]


def read_column(browser):
    return browser.evaluate(
        "[...document.querySelectorAll('section.task tbody')][0].innerText && "
        "[...[...document.querySelectorAll('section.task tbody')][0].rows]"
        ".map(row => row.cells[1].dataset.value)"
    )


def test_tables_sort_by_mouse_and_keyboard(browser, url):
    browser.open(url)
    head = "section.task thead th:nth-child(2) button"
    assert read_column(browser) == ["3.5", "-12.25", "", "100.0"]
    browser.click(head)
    assert read_column(browser) == ["-12.25", "3.5", "100.0", ""]
    sort = f"document.querySelector('{head}').parentElement.getAttribute('aria-sort')"
    assert browser.evaluate(sort) == "ascending"
    browser.evaluate(f"document.querySelector('{head}').focus()")
    browser.press("Enter")
    assert read_column(browser) == ["100.0", "3.5", "-12.25", ""]
    assert browser.evaluate(sort) == "descending"
    browser.press("Enter")
    assert read_column(browser) == ["3.5", "-12.25", "", "100.0"]


def test_a_value_leads_to_its_card(browser, url):
    browser.open(url)
    card = "document.querySelector('#card-0-1-0')"
    assert browser.evaluate(f"{card}.open") is False
    browser.click("td a[href='#card-0-1-0']")
    assert browser.evaluate(
        f"new Promise(done => {{ const look = () => {card}.open ? done(true) : "
        "requestAnimationFrame(look); look(); })"
    )


def test_controls_lie_below_a_video(browser, url):
    browser.open(url)
    assert browser.evaluate("document.querySelector('video').controls") is False
    below = "document.querySelector('.player').getBoundingClientRect().top"
    bottom = "document.querySelector('video').getBoundingClientRect().bottom"
    assert browser.evaluate(f"{below} >= {bottom}")
    button = "document.querySelector('.player button').textContent"
    browser.evaluate("document.querySelector('video').pause()")
    assert browser.evaluate(
        f"new Promise(done => {{ const look = () => {button} === 'Play' ? done(true) : "
        "requestAnimationFrame(look); look(); })"
    )


def test_tables_that_scroll_say_so(browser, url):
    state = (
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
        "[...document.querySelectorAll('.scroll')].map(b => "
        "[b.scrollWidth > b.clientWidth + 1, b.previousElementSibling.hidden])))))"
    )
    browser.open(url, width=390)
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = browser.evaluate(state)
    assert [True, False] in found and [True, True] not in found and [False, False] not in found
