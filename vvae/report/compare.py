"""Compares two runs from the files that they have written; loads no model and no data.

Values whose metric cards differ are not comparable: the comparison names the entries that differ.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vvae.config import Config, difference
from vvae.config_files import from_dict
from vvae.metrics.cards import Metric, compare, describe_difference
from vvae.metrics.table import format_number, format_table
from vvae.program import name_command
from vvae.report.files import read_json, read_record

ABSENT = "-"
MAX_ENTRY = 40


def compare_runs(first, second) -> dict[str, Any]:
    """Compares the settings and every evaluated value of two runs.

    Args:
      first: a run directory with results of evaluate.py.
      second: another one.

    Returns:
      JSON values:
        `runs`: both paths.
        `settings`: name -> both values, for the settings that decide the result and differ.
        `facts`: steps, parameters, data and versions -> both values.
        `values`: a list of task, row, metric, unit, first, second, and difference = second - first.
        `refused`: a list of task, row, metric, first, second, and why they are not comparable.
        `only_first`, `only_second`: "task/row/metric" of the values that the other run lacks.

    Raises:
      ValueError: if a directory is not a run or has no results, or a file cannot be read.
    """
    records = [read_record(workdir) for workdir in (first, second)]
    configs = [_read_config(*pair) for pair in zip((first, second), records)]
    metrics = [_read_metrics(workdir) for workdir in (first, second)]
    values, refused = [], []
    for key in metrics[0]:
        if key in metrics[1]:
            _weigh(key, metrics[0][key], metrics[1][key], values, refused)
    return {
        "runs": [str(first), str(second)],
        "settings": _compare_settings(configs),
        "facts": _compare_facts((first, second), records),
        "values": values,
        "refused": refused,
        "only_first": ["/".join(key) for key in metrics[0] if key not in metrics[1]],
        "only_second": ["/".join(key) for key in metrics[1] if key not in metrics[0]],
    }


def _weigh(key, first: Metric, second: Metric, values: list, refused: list) -> None:
    """Appends a pair to `values`, or to `refused` if the two are not comparable."""
    names = dict(zip(("task", "row", "metric"), key))
    entry = names | {"first": _finite(first.value), "second": _finite(second.value)}
    why = describe_difference(first, second)
    if why:
        refused.append(entry | {"why": why})
    else:
        values.append(
            entry | {"unit": first.card.get("unit", ""), "difference": _subtract(second, first)}
        )


def _subtract(second: Metric, first: Metric) -> float | None:
    return _finite(compare(second, first))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_config(workdir, record: Mapping[str, Any]) -> Config:
    try:
        return from_dict(record["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{Path(workdir) / 'config.json'}: {error}") from error


def _read_metrics(workdir) -> dict[tuple[str, str, str], Metric]:
    """Reads RUN/eval/*.json as (task, row, metric) -> Metric; ignores files that no task wrote.

    Raises:
      ValueError: if the run has not been evaluated, or a file is damaged.
    """
    folder, found = Path(workdir) / "eval", {}
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or not {"task", "rows"} <= set(content):
            continue
        try:
            for row, metrics in content["rows"].items():
                for name, metric in metrics.items():
                    found[content["task"], row, name] = _read_metric(metric)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the result of a task ({error!r})") from error
    if not found:
        raise ValueError(
            f"{folder} holds no measured value: "
            f"run `{name_command('evaluate')} --workdir {workdir}` first"
        )
    return found


def _read_metric(metric: Mapping[str, Any]) -> Metric:
    """Reads a metric; counts stay integers."""
    value = metric["value"]
    if not isinstance(value, int):
        value = math.nan if value is None else float(value)
    return Metric(value, metric["card"])


def _compare_settings(configs) -> dict[str, list]:
    pair = difference(*configs)
    # JSON writes a tuple as a list, so the two count as equal.
    return {name: json.loads(json.dumps(list(values))) for name, values in pair.items()}


def _compare_facts(workdirs, records) -> dict[str, list]:
    facts = [_describe_run(*pair) for pair in zip(workdirs, records)]
    return {name: [facts[0].get(name), facts[1].get(name)] for name in facts[0] | facts[1]}


def _describe_run(workdir, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts about a run that need no arrays; None for those that are not recorded."""
    data = record.get("data", {})
    return {
        "steps": data.get("num_steps"),
        "steps done": _count_steps(Path(workdir) / "metrics.jsonl"),
        "parameters": data.get("num_parameters"),
        "data": data.get("fingerprint"),
        "vvae": record.get("versions", {}).get("vvae"),
        "git commit": record.get("git_commit"),
    }


def _count_steps(path: Path) -> int | None:
    """Returns the highest step of metrics.jsonl; skips a line that a killed run left incomplete."""
    if not path.is_file():
        return None
    steps = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            steps.append(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return max(steps, default=None)


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Formats the result of `compare_runs` as plain text."""
    first, second = comparison["runs"]
    parts = [f"first:  {first}\nsecond: {second}"]
    differing = {name: pair for name, pair in comparison["facts"].items() if pair != [None, None]}
    parts.append(_format_pairs("run", differing))
    if comparison["settings"]:
        parts.append(_format_pairs("setting", comparison["settings"]))
    else:
        parts.append("The settings that decide the result are equal.")
    if comparison["values"]:
        parts.append(_format_values(comparison["values"]))
    else:
        parts.append("No value of the two runs can be compared.")
    if comparison["refused"]:
        parts.append(_format_refused(comparison["refused"]))
    for which in ("first", "second"):
        if names := comparison[f"only_{which}"]:
            parts.append("\n  ".join([f"Only the {which} run has:", *_group_rows(names)]))
    return "\n\n".join(parts)


def _format_pairs(title: str, pairs: Mapping[str, list]) -> str:
    rows = [[name, *(_shorten(value) for value in pair)] for name, pair in pairs.items()]
    return format_table([title, "first", "second"], rows)


def _shorten(value) -> str:
    text = ABSENT if value is None else str(value)
    return text if len(text) <= MAX_ENTRY else text[: MAX_ENTRY - 3] + "..."


def _format_values(values) -> str:
    rows = []
    for value in values:
        name = f"{value['task']} {value['row']} {value['metric']}"
        name += f" ({value['unit']})" if value["unit"] else ""
        numbers = (value["first"], value["second"], value["difference"])
        rows.append([name, *(_format_optional(number) for number in numbers)])
        if value["difference"]:
            rows[-1][-1] = rows[-1][-1] if value["difference"] < 0 else "+" + rows[-1][-1]
    return format_table(["value", "first", "second", "second - first"], rows)


def _format_optional(number: float | None) -> str:
    return ABSENT if number is None else format_number(number)


def _format_refused(refused) -> str:
    """Lists the values that are not comparable, grouped by reason."""
    names_by_reason: dict[str, list[str]] = {}
    for entry in refused:
        name = f"{entry['task']}/{entry['row']}/{entry['metric']}"
        names_by_reason.setdefault(entry["why"], []).append(name)
    lines = ["Not comparable, since their cards differ:"]
    for why, names in names_by_reason.items():
        lines += [*(f"  {row}" for row in _group_rows(names)), f"    {why}"]
    return "\n".join(lines)


def _group_rows(names: list[str]) -> list[str]:
    """Groups "task/row/metric" names as "task/row: metric metric"; a row may contain slashes."""
    metrics_by_row: dict[str, list[str]] = {}
    for name in names:
        row, _, metric = name.rpartition("/")
        metrics_by_row.setdefault(row, []).append(metric)
    return [f"{row}: {' '.join(metrics)}" for row, metrics in metrics_by_row.items()]
