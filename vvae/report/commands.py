"""What others need to repeat the run: commands, settings, history, versions."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.report.files import RunFiles
from vvae.report.values import Table, as_mapping, format_value, make_table


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
    """Returns the settings that are not at their defaults, as `section.name` -> value."""
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
    """Returns the --init_from option of the run's first start; an empty list if it had none."""
    for start in (record.get("history") or [])[:1]:
        words = [str(word) for word in as_mapping(start).get("command") or ()]
        for word, following in zip(words, [*words[1:], None]):
            name, _, value = word.partition("=")
            if name in ("--init_from", "--init-from") and (value or following):
                return ["--init_from", value or following]
    return []


def list_commands(run: RunFiles, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the commands that repeat the run, quoted for a shell; None for those of no use."""
    record, workdir = run.record, str(run.workdir)
    commit = record.get("git_commit")
    commit = commit if isinstance(commit, str) else ""
    versions = as_mapping(record.get("versions"))
    pinned = [f"{n}=={v}" for n, v in versions.items() if n not in ("python", "vvae") and v]
    changed = find_changed(as_mapping(record.get("config")), defaults)
    measured = [answer for answer in run.answers if not answer.videos]
    options = [answer.details.get("options") for answer in measured]
    words = [str(word) for given in options if isinstance(given, list) for word in given]
    evaluate = ["python", "evaluate.py"]
    tasks = [answer.task for answer in measured]
    train = ["python", "train.py"]
    return {
        "checkout": shlex.join(["git", "checkout", commit.removesuffix("+")]) if commit else None,
        "has_uncommitted_changes": commit.endswith("+"),
        "install": shlex.join(["pip", "install", *pinned]) if pinned else None,
        "python": versions.get("python", "unknown"),
        "train": shlex.join([*train, *write_arguments(changed), *find_initial_run(record)]),
        "has_changed_settings": bool(changed),
        "resume": None if run.is_finished else shlex.join([*train, "--workdir", workdir]),
        "measure": shlex.join([*evaluate, *tasks, "--workdir", workdir, *words]),
        "report": shlex.join([*evaluate, "report", "--workdir", workdir]),
    }


def list_settings(run: RunFiles, defaults: Mapping[str, Any]) -> dict[str, Table | None]:
    """Returns a table of the settings that differ from the defaults, if any, and one of all."""
    config = as_mapping(run.record.get("config"))
    changed, known = find_changed(config, defaults), flatten(defaults)

    def tabulate(caption: str, settings: Mapping[str, Any]) -> Table:
        rows = [
            [name, format_value(value), format_value(known[name]) if name in known else "not known"]
            for name, value in settings.items()
        ]
        return make_table(caption, ["setting", "value", "default"], rows)

    return {
        "changed": tabulate("Settings that differ from the defaults", changed) if changed else None,
        "every": tabulate("All settings", flatten(config)),
    }


def describe_history(run: RunFiles) -> dict[str, Any]:
    """Returns the starts of the run, with what changed between them, and its versions."""
    record = run.record
    starts = [as_mapping(start) for start in record.get("history") or ()]
    return {
        "starts": [_describe_start(*pair) for pair in zip(starts, [None, *starts])],
        "facts": {
            "git commit": record.get("git_commit") or "unknown",
            **{f"{key} (device)": value for key, value in as_mapping(record.get("device")).items()},
            **as_mapping(record.get("versions")),
        },
    }


def _describe_start(start: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    words = [str(word) for word in start.get("command") or ()]
    if words:
        program = Path(words[0]).name  # the command vvae, also as python -m vvae, or a file
        words[:1] = ["vvae"] if program in ("vvae", "__main__.py") else ["python", program]
    keys = ("git_commit", "device", "versions") if before is not None else ()
    return {
        "time": start.get("time", "at an unknown time"),
        "device": as_mapping(start.get("device")),
        "command": shlex.join(words),
        "is_first": before is None,
        "changed": [key.replace("_", " ") for key in keys if start.get(key) != before.get(key)],
    }
