"""The value that matters most of an answer, and its best rival."""

from collections.abc import Mapping
from typing import Any

from vvae.metrics.table import format_number
from vvae.metrics.verdicts import judge_difference
from vvae.report.files import TaskAnswer
from vvae.report.values import as_mapping

# Metric -> what it means, in plain words; for others, the definition of their card is shown.
_MEANINGS = {
    "psnr": "closeness of frames to the true ones; higher is better",
    "elbo": "lower bound of the log-likelihood of a clip; higher is better",
    "top1": "share of videos that are recognised",
    "accuracy": "share of videos whose cluster fits their class",
    "accuracy_by_train": "share of videos whose cluster fits their class",
    "micro_raw": "chance that an abnormal frame scores above a normal one (AUROC)",
    "alarm_rate": "share of frames that raise an alarm",
    "auroc": "chance that an unwanted video scores above a wanted one",
}
# Verdict -> its mark, and what it says.
_VERDICTS = {
    "ahead": ("\N{BLACK UP-POINTING TRIANGLE}", "ahead, proven"),
    "behind": ("\N{BLACK DOWN-POINTING TRIANGLE}", "behind, proven"),
    "open": ("=", "no proven difference"),
}


def describe_headline(answer: TaskAnswer) -> dict[str, Any] | None:
    """Returns the value that matters most of an answer, beside its best rival's; None without one.

    The answer names them in `details.comparison`. Without it, the first value is the headline, and
    there is no rival.
    """
    comparison = as_mapping(answer.details.get("comparison"))
    method, name, rival = (str(comparison.get(key)) for key in ("method", "metric", "rival"))
    if name not in answer.rows.get(method, {}):
        comparison = {}
        method = next((method for method, row in answer.rows.items() if row), None)
        name = next(iter(answer.rows[method])) if method is not None else None
    if name is None:
        return None
    metric = answer.rows[method][name]
    has_rival = name in answer.rows.get(rival, {})
    return {
        "name": name,
        "unit": find_unit(metric),
        "method": method,
        "text": _format_value(metric),
        "interval": _format_interval(metric),
        "meaning": _explain(name, metric),
        "rival": _describe_rival(rival, answer.rows[rival][name], comparison)
        if has_rival
        else None,
    }


def _describe_rival(name: str, metric: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict:
    low, high, p_value = (_as_number(comparison.get(key)) for key in ("low", "high", "p_value"))
    verdict = judge_difference(low, high, p_value)
    mark, words = _VERDICTS[verdict]
    difference = _as_number(comparison.get("value"))
    shown = "" if difference is None else f"{difference:+.3f}{_join_ends(low, high)}"
    if p_value is not None:
        shown += f", p {p_value:.3f}" if p_value >= 1e-3 else ", p below 0.001"
    return {
        "name": name,
        "text": _format_value(metric),
        "interval": _format_interval(metric),
        "verdict": verdict,
        "mark": mark,
        "words": words,
        "difference": shown,
    }


def _as_number(value) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _explain(name: str, metric: Mapping[str, Any]) -> str:
    definition = as_mapping(metric.get("card")).get("definition")
    return _MEANINGS.get(name) or (definition if isinstance(definition, str) else "")


def find_unit(metric: Mapping[str, Any]) -> str:
    """Returns the unit of a metric, empty without one."""
    return as_mapping(metric.get("card")).get("unit") or ""


def format_metric(metric: Mapping[str, Any]) -> str:
    """Returns a value, with its interval if it has one."""
    return _format_value(metric) + _format_interval(metric)


def _format_value(metric: Mapping[str, Any]) -> str:
    value = metric.get("value")
    if isinstance(value, (int, float)):
        return format_number(value)
    return "-" if value is None else str(value)


def _format_interval(metric: Mapping[str, Any]) -> str:
    interval = as_mapping(metric.get("interval"))
    return _join_ends(_as_number(interval.get("low")), _as_number(interval.get("high")))


def _join_ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
