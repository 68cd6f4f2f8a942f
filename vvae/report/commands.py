"""Sections of the page that let others repeat the run: commands, settings, history, versions."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.report.files import RunFiles, as_mapping
from vvae.report.markup import Markup, join, tag
from vvae.report.parts import (
    format_value,
    list_facts,
    make_disclosure,
    make_paragraph,
    make_section,
    make_table,
)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as `section.name` -> value."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def find_changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, flat, that are not at their defaults."""
    known = flatten(defaults)
    return {
        name: value
        for name, value in flatten(settings).items()
        if name not in known or known[name] != value
    }


def write_arguments(changed: Mapping[str, Any]) -> list[str]:
    """Returns settings as the words of a command line."""
    words = []
    for name, value in changed.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *[str(item) for item in values]]
    return words


def find_initial_run(record: Mapping[str, Any]) -> list[str]:
    """Returns the option of the first start that took parameters of another run, or nothing."""
    for start in (record.get("history") or [])[:1]:
        words = [str(word) for word in as_mapping(start).get("command") or ()]
        for word, following in zip(words, [*words[1:], None]):
            name, _, value = word.partition("=")
            if name in ("--init_from", "--init-from") and (value or following):
                return ["--init_from", value or following]
    return []


def show_commands(run: RunFiles, defaults: Mapping[str, Any]) -> Markup:
    """Returns the section with the commands that repeat the run, exactly."""
    record = run.record
    changed = find_changed(as_mapping(record.get("config")), defaults)
    train = ["python", "train.py", *write_arguments(changed), *find_initial_run(record)]
    workdir = str(run.workdir)
    parts = []
    commit = record.get("git_commit")
    if isinstance(commit, str) and commit:
        parts.append(_show_command("The same code", ["git", "checkout", commit.removesuffix("+")]))
        if commit.endswith("+"):
            text = "The checkout had changes that were not committed: they are not in this commit."
            parts.append(make_paragraph(text, "alert"))
    else:
        parts.append(make_paragraph("The git commit is not known: vvae ran from no checkout."))
    versions = as_mapping(record.get("versions"))
    pinned = [f"{n}=={v}" for n, v in versions.items() if n not in ("python", "vvae") and v]
    if pinned:
        text = f"The same packages, with Python {versions.get('python', 'unknown')}"
        parts.append(_show_command(text, ["pip", "install", *pinned]))
    text = (
        "The same training; settings that are not named are the defaults of this version"
        if changed
        else "The same training: no setting differs from the defaults of this version"
    )
    parts.append(_show_command(text, train))
    if not run.is_finished:
        text = "Go on with this run"
        parts.append(_show_command(text, ["python", "train.py", "--workdir", workdir]))
    measured = [answer for answer in run.answers if not answer.videos]
    tasks = [answer.task for answer in measured]
    options = [answer.details.get("options") for answer in measured]
    words = [str(word) for given in options if isinstance(given, list) for word in given]
    measure = ["python", "evaluate.py", *tasks, "--workdir", workdir, *words]
    parts.append(_show_command("Measure it again", measure))
    report = ["python", "evaluate.py", "report", "--workdir", workdir]
    parts.append(_show_command("This page", report))
    return make_section("commands", "Commands that repeat it", *parts)


def _show_command(text: str, words: list[str]) -> Markup:
    code = tag("pre", tag("code", shlex.join(words)), tabindex="0")
    return tag("div", make_paragraph(text), code, class_="command")


def show_settings(run: RunFiles, defaults: Mapping[str, Any]) -> Markup:
    """Returns the section with every setting, those first that are not at their defaults."""
    config = as_mapping(run.record.get("config"))
    changed, known = find_changed(config, defaults), flatten(defaults)
    header = ["setting", "value", "default"]

    def list_rows(settings):
        return [
            [name, format_value(value), format_value(known[name]) if name in known else "not known"]
            for name, value in settings.items()
        ]

    if changed:
        caption = "Settings that differ from the defaults"
        first = make_table(caption, header, list_rows(changed))
    else:
        first = make_paragraph("All settings are the defaults.")
    every = make_table("All settings", header, list_rows(flatten(config)))
    return make_section("settings", "Settings", first, make_disclosure("All settings", every))


def show_history(run: RunFiles) -> Markup:
    """Returns the section on the starts of the run: when, by which command, with what."""
    record = run.record
    facts = {
        "git commit": record.get("git_commit") or "unknown",
        **{f"{key} (device)": value for key, value in as_mapping(record.get("device")).items()},
        **as_mapping(record.get("versions")),
    }
    starts = [as_mapping(start) for start in record.get("history") or ()]
    items = []
    for number, start in enumerate(starts, start=1):
        words = [str(word) for word in start.get("command") or ()]
        if words:
            words[0] = Path(words[0]).name
        device = as_mapping(start.get("device"))
        text = f"{start.get('time', 'at an unknown time')}, {format_value(device)}"
        items.append(
            tag(
                "li",
                make_paragraph(join(tag("b", f"Start {number}"), f": {text}")),
                tag("pre", tag("code", shlex.join(["python", *words])), tabindex="0"),
                _show_change(start, starts[number - 2]) if number > 1 else None,
            )
        )
    history = tag("ol", *items, class_="history") if items else None
    return make_section(
        "history",
        "History and versions",
        history or make_paragraph("No start of this run is recorded."),
        make_disclosure("Versions and device", list_facts(facts)),
    )


def _show_change(start: Mapping[str, Any], before: Mapping[str, Any]) -> Markup:
    keys = ("git_commit", "device", "versions")
    changed = [key.replace("_", " ") for key in keys if start.get(key) != before.get(key)]
    text = f"Changed since the start before: {', '.join(changed)}." if changed else "As before."
    return make_paragraph(text, "quiet")
