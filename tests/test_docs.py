"""README and docs: commands that exist, links that lead somewhere, numbers that come from files."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser, find_browser
from compiling import xla_flags

from vvae import cli
from vvae.commands import generate, train_request
from vvae.commands import latents as collections
from vvae.config import Config
from vvae.config_files import load_config_file
from vvae.task_table import TASKS
from vvae.tasks.command_line import read_request
from vvae.tasks.options import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MAX_PICTURE_BYTES = 150_000
_NUMBERS = {"N": "2", "K": "1"}
_PROGRAMS = ("vvae ", "python train.py", "python evaluate.py", "python -m ")


def name(page):
    return str(page.relative_to(ROOT))


def read_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def read_commands(text):
    """Returns the commands of a page: lines of sh blocks, and code inside sentences."""
    lines = []
    for block in read_blocks(text, "sh"):
        lines += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    parts = [part for line in lines for part in re.split(r"&&|;|\|", line.split(" #")[0])]
    # A command for another machine is quoted as a whole; its own quotes are then not in pairs.
    parts = [part if part.count("'") % 2 == 0 else part.replace("'", "") for part in parts]
    commands = [shlex.split(part) for part in parts if part.strip().startswith(_PROGRAMS)]
    # A sentence may leave out what follows.
    commands = [words[: words.index("...")] if "..." in words else words for words in commands]
    return [[_NUMBERS.get(word, word) for word in words] for words in commands]


def check_training(words):
    """Reads the words of a training as the command does, but looks at no file."""
    parts = (train_request.Place, Config)
    names, options = cli.divide(words, cli.count_values(parts, of_bool=1))
    cli.check_options(options, parts)
    for config in names:
        assert config == "NAME" or load_config_file(config)
    if "--help" in words or "--help-all" in words:
        return
    config = "default" if names in ([], ["NAME"]) else names[0]
    cli.parse_options(parts, options, load_config_file(config))


def check_command(words):
    if words[:2] == ["python", "-m"]:
        package = words[2].partition(".")[0]
        assert package in ("pytest", "vvae", "venv") or importlib.util.find_spec(words[2]), words
        return
    words = words[1:] if words[0] == "vvae" else [words[1].removesuffix(".py"), *words[2:]]
    if not words:
        return
    if words[0] == "train":
        if words[1:2] == ["generate"]:
            if len(words) > 2:
                train_request.read_request(words[1:])
        else:
            check_training(words[1:])
        return
    if words[0] == "sample":
        if len(words) > 1:
            generate.read_sample_request(words[1:])
        return
    if words[0] in collections.WORDS:
        if "--help" not in words and len(words) > 1:
            collections.read_request(words)
        return
    words = words[words[0] == "evaluate" :]
    assert not words or words[0].startswith("-") or words[0] in (*TASKS, *COMMANDS), words
    if "--help" not in words and len(words) > 1:
        read_request(words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_with_their_options(page, tmp_path, monkeypatch):
    # Folders that commands take without an option must be there.
    for folder in ("VIDEOS", "gestures", "camera"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for words in read_commands(page.read_text(encoding="utf-8")):
        try:
            check_command(words)
        except (ValueError, SystemExit) as error:
            pytest.fail(f"{name(page)}: {shlex.join(words)}: {error}")


def test_a_command_that_does_not_exist_is_found():
    text = "```sh\nvvae train actions --data.pth DIR  # no\n```\n`vvae clasify\n--workdir RUN`"
    assert read_commands(text) == [
        ["vvae", "train", "actions", "--data.pth", "DIR"],
        ["vvae", "clasify", "--workdir", "RUN"],
    ]
    for words in read_commands(text):
        with pytest.raises((ValueError, AssertionError, SystemExit)):
            check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_settings_in_sentences_exist(page):
    text = page.read_text(encoding="utf-8")
    known = {option.removeprefix("--") for option in cli.list_options(Config)}
    known |= {"parallel.coordinator", "parallel.num_processes", "parallel.process_id"}
    known |= {"parallel.timeout"}
    sections = {option.partition(".")[0] for option in known if "." in option}
    named = re.findall(r"`(?:--)?([a-z]+)\.([a-z_]+)(?:=[^`]*| [^`]*)?`", text)
    options = [f"{a}.{b}" for a, b in named if a in sections and b not in ("py", "md")]
    assert not [option for option in options if option not in known], name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_can_be_read(page):
    for block in read_blocks(page.read_text(encoding="utf-8"), "python"):
        ast.parse(block)


def slugs(text):
    """Returns the anchors that GitHub and the site make of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles)
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in slugs(target.read_text(encoding="utf-8")), f"{name(page)}: {link}"


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith(("|", "!", "["))) <= 110


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=name)
def test_results_stand_between_marks(page):
    """Outside of what the scoreboard writes, a page of results has no decimal number."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- [a-z].*?<!-- end -->", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text)
    # A comment at the beginning of a line would end its paragraph.
    assert not re.findall(r"^\s*<!-- value", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_pictures_are_small():
    pictures = sorted(DOCS.rglob("*.png"))
    assert pictures
    assert not [p.name for p in pictures if p.stat().st_size > MAX_PICTURE_BYTES]


def test_a_tutorial_becomes_a_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tutorials"))
    import render
    from PIL import Image

    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    text = f"""# %% [markdown]
# # Title
#
# Text.

# %% tags=["hide"]
from shell import sh, show
count = 3

# %%
sh(f"seq {{count + 2}}", begin="2", end="4", keep="[24]")

# %%
show({str(tmp_path / "red.png")!r}, "All red")

# %%
# Why.
print(count + 1)
"""
    page = render.render(text, tmp_path)
    body = page.rpartition("\n\n*This page is")[0]
    assert body == (
        "# Title\n\nText.\n\n```sh\nseq 5\n```\n\n```text\n2\n4\n```\n\n"
        f"![All red]({tmp_path.name}/red.png)\n\n*All red*\n\n"
        "```python\n# Why.\nprint(count + 1)\n```\n\n```text\n4\n```"
    )
    with pytest.raises(RuntimeError, match="false: status 1"):
        render.render('# %%\nfrom shell import sh\nsh("false")\n', tmp_path)


@pytest.mark.parametrize("tutorial", ["gestures", "camera", "latents"])
def test_the_page_of_a_tutorial_is_that_of_its_script(tutorial, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tutorials"))
    import render

    page = (DOCS / "tutorials" / f"{tutorial}.md").read_text(encoding="utf-8")
    script = (DOCS / "tutorials" / f"{tutorial}.py").read_text(encoding="utf-8")
    for kind, body in render.split_cells(script):
        if kind == "[markdown]":
            assert re.sub(r"^# ?", "", body, flags=re.MULTILINE) in page
        elif "hide" not in kind and not body.startswith(("sh(", "show(")):
            assert body in page


@pytest.mark.parametrize(
    ("tutorial", "data", "steps"),
    [("gestures", "gestures", 20), ("camera", "ped2", 20), ("latents", None, 6)],
)
def test_a_tutorial_runs(tutorial, data, steps, tmp_path, shared_data):
    arguments = ["--folder", str(tmp_path), "--steps", str(steps)]
    if data is not None:
        arguments += ["--data", str(shared_data(data))]
    script = DOCS / "tutorials" / f"{tutorial}.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags()}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, without one warning."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the extra docs: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # Pages find each other on the disk, without a server.
    environment = os.environ | {"DIRECTORY_URLS": "false"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


# Options in the text whose first and last character stand on different lines.
BROKEN_OPTIONS = r"""
[...document.querySelectorAll(".md-typeset code")].flatMap(code => {
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), places = [];
  let text = "";
  while (walker.nextNode()) {
    for (let i = 0; i < walker.currentNode.data.length; i++) {
      const range = document.createRange();
      range.setStart(walker.currentNode, i);
      range.setEnd(walker.currentNode, i + 1);
      places.push(range);
    }
    text += walker.currentNode.data;
  }
  const top = i => places[i].getBoundingClientRect().top;
  return [...text.matchAll(/--\w[\w.-]*/g)]
    .filter(m => Math.abs(top(m.index) - top(m.index + m[0].length - 1)) > 3)
    .map(m => m[0]);
})
"""


def test_the_pages_of_the_site_do_not_scroll_sideways_nor_break_options(site, tmp_path):
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium")
    opened = Browser(path, tmp_path)
    try:
        pages = sorted(site.rglob("*.html"))
        assert len(pages) > 30
        for page in pages:
            for width in (390, 1280):
                opened.open(page.as_uri(), width=width)
                assert opened.evaluate(BROKEN_OPTIONS) == [], (page, width)
                assert opened.evaluate("document.documentElement.scrollWidth") <= width, page
                assert not [url for url in opened.list_requests() if url.startswith("http")], page
    finally:
        opened.close()
