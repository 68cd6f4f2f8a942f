"""The page of a run: its sections, in their order. Everything that comes from files is escaped."""

import base64
import csv
import hashlib
import itertools
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vvae.metrics.table import format_number
from vvae.report import commands, training
from vvae.report.charts import draw_line
from vvae.report.files import PICTURES, VIDEOS, Inliner, RunFiles, TaskAnswer, TaskFile, as_mapping
from vvae.report.markup import Markup, join, tag
from vvae.report.parts import (
    format_bytes,
    format_value,
    list_facts,
    make_disclosure,
    make_paragraph,
    make_section,
    make_table,
)

# No data can hold it: a control character is escaped away.
_SIZE = Markup("\x00size\x00")
_MAX_PREVIEW = 10
_MAX_COLUMNS = 12
_MAX_ITEMS = 12
_MAX_DEPTH = 4
# What a metric card says first, and always beside its value.
_OWN_KEYS = ("name", "unit", "definition", "aggregation", "method")


def write_page(run: RunFiles, defaults: Mapping[str, Any], inliner: Inliner) -> str:
    """Returns the HTML of a run's page.

    Args:
      run: what the directory holds.
      defaults: settings to compare the run's with, as nested dictionaries.
      inliner: puts pictures and videos into the page.
    """
    names = name_answers(run.answers)
    main = join(
        _show_overview(run, names),
        training.show_data(run),
        training.show_training(run),
        _show_pictures_of_training(run, inliner),
        *_show_results(run, names, inliner),
        training.show_collapse(run),
        commands.show_commands(run, defaults),
        commands.show_settings(run, defaults),
        commands.show_history(run),
    )
    main = join(main, _show_files(run, inliner))
    style, script = (_read_asset(name) for name in ("report.css", "report.js"))
    page = join(
        Markup("<!DOCTYPE html>\n"),
        tag(
            "html",
            tag("head", *_make_head(run, style, script)),
            tag(
                "body",
                tag("a", "Skip to the results", href="#results", class_="skip"),
                _show_header(run),
                _show_contents(names),
                tag("main", main),
                tag("script", Markup(script)),
            ),
            lang="en",
        ),
    )
    size = format_bytes(len(page.encode()))
    return page.replace(_SIZE, size) + "\n"


def name_answers(answers: Sequence[TaskAnswer]) -> dict[str, TaskAnswer]:
    """Returns unique identifiers for the sections of the tasks."""
    return {
        f"task-{number}-{re.sub('[^a-z0-9]+', '-', answer.task.lower()).strip('-')}": answer
        for number, answer in enumerate(answers)
    }


def _read_asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _make_head(run: RunFiles, style: str, script: str) -> Iterable[Markup]:
    # Nothing is fetched, and no script but the page's own runs, whatever the data hold.
    rules = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    yield tag("meta", charset="utf-8")
    yield tag("meta", http_equiv="Content-Security-Policy", content=rules)
    yield tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield tag("meta", name="color-scheme", content="light dark")
    yield tag("title", f"{run.name}: a video VAE by vvae")
    # An empty icon, which a browser would otherwise ask for.
    yield tag("link", rel="icon", href="data:,")
    yield tag("style", Markup(style))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- head of the page -----------------------------------------------------------------------------


def _show_header(run: RunFiles) -> Markup:
    record = run.record
    data, config = as_mapping(record.get("data")), as_mapping(record.get("config"))
    settings = as_mapping(config.get("data"))
    version = as_mapping(record.get("versions")).get("vvae")
    counts = as_mapping(data.get("num_videos"))
    videos = f"{sum(counts.values()):,} videos" if counts else "videos"
    line = (
        f"A video VAE trained on {videos} of {settings.get('name', 'unknown data')}, view "
        f"{settings.get('view', 'unknown')}, {settings.get('height')}x{settings.get('width')}, "
        f"{settings.get('num_frames')} frames a clip."
    )
    steps = f"{run.done:,} of {run.num_steps or 0:,} steps"
    if run.is_finished:
        state = tag("span", f"finished, {steps}", class_="badge good")
    else:
        state = tag("span", f"unfinished, {steps}", class_="badge warn")
    badges = [state, training.show_verdict_badge(run)]
    if broken := as_mapping(data.get("broken")):
        badges.append(tag("span", f"{len(broken)} files left out", class_="badge warn"))
    badges.append(tag("span", "this page: ", _SIZE, class_="badge"))
    return tag(
        "header",
        tag("p", f"vvae {version or ''} report", class_="kicker"),
        tag("h1", run.name),
        tag("p", line, class_="lead"),
        tag("p", *badges, class_="badges"),
    )


def _show_contents(names: Mapping[str, TaskAnswer]) -> Markup:
    tasks = [(identifier, _title(answer)) for identifier, answer in names.items()]
    items = [
        ("overview", "At a glance"),
        ("data", "Data"),
        ("training", "Training"),
        ("results", "Results"),
        *tasks,
        ("collapse", "Collapse"),
        ("commands", "Commands"),
        ("settings", "Settings"),
        ("history", "History"),
        ("files", "Files"),
    ]
    inner = dict(tasks)
    links = [
        tag(
            "li",
            tag("a", text, href=f"#{identifier}"),
            class_="inner" if identifier in inner else None,
        )
        for identifier, text in items
    ]
    return tag("nav", tag("ul", *links), aria_label="Contents")


def _title(answer: TaskAnswer) -> str:
    return f"{answer.task} on {answer.videos}" if answer.videos else answer.task


def _show_overview(run: RunFiles, names: Mapping[str, TaskAnswer]) -> Markup:
    tiles = []
    for identifier, answer in names.items():
        # The first value of a task's table stands for it.
        for method, row in itertools.islice(answer.rows.items(), 1):
            for name, metric in itertools.islice(row.items(), 1):
                unit = as_mapping(metric.get("card")).get("unit")
                tiles.append(
                    tag(
                        "a",
                        tag("span", _title(answer), class_="of"),
                        tag("span", _format_metric(metric), class_="number"),
                        tag("span", f"{name}, {unit}" if unit else name),
                        tag("span", method, class_="of"),
                        href=f"#{identifier}",
                        class_="tile",
                    )
                )
    parts: list[Markup | None] = []
    if not run.is_finished:
        parts.append(
            make_paragraph(
                f"The training is not finished: {run.done:,} of {run.num_steps or 'unknown'} "
                "steps are done. What follows is what there is so far.",
                "alert",
            )
        )
    parts += [make_paragraph(problem, "alert") for problem in run.problems]
    if tiles:
        parts.append(make_paragraph("The first value of every task's table; the tables are below."))
        parts.append(tag("div", *tiles, class_="tiles"))
    else:
        parts.append(make_paragraph("Nothing has been measured yet: eval/ has no values."))
    return make_section("overview", "At a glance", *parts)


# --- pictures and videos --------------------------------------------------------------------------


def _show_pictures_of_training(run: RunFiles, inliner: Inliner) -> Markup:
    curves = find_first([run.workdir / "curves.png"])
    parts = []
    if curves is None:
        parts.append(make_paragraph("curves.png is not there: it is drawn when a training ends."))
    else:
        parts.append(show_picture(curves, "curves.png: the metrics over the training", inliner))
    if run.validation:
        last = run.validation[-1]
        text = f"{last.name}: reconstructions of validation clips at the last validation"
        parts.append(show_picture(last, text, inliner))
        if len(run.validation) > 1:
            earlier = ", ".join(path.name for path in run.validation[:-1])
            parts.append(make_paragraph(f"Earlier sheets in validation/: {earlier}.", "quiet"))
    else:
        parts.append(make_paragraph("There is no reconstruction sheet: no validation was done."))
    return make_disclosure("Curves and reconstructions as pictures", *parts)


def find_first(paths: Iterable[Path]) -> Path | None:
    """Returns the first path that is a file."""
    return next((path for path in paths if path.is_file()), None)


def show_picture(path: Path, caption: str, inliner: Inliner) -> Markup:
    """Returns a figure with a picture, or a link to it if the page has no room."""
    source = inliner.inline(path)
    if source is None:
        return _link_large(path, caption, inliner)
    width, height = read_size(path)
    image = tag("img", src=source, alt=f"{caption}.", width=width, height=height)
    return tag(
        "figure", tag("figcaption", caption), tag("div", image, class_="frame"), class_="picture"
    )


def show_video(path: Path, caption: str, inliner: Inliner) -> Markup:
    """Returns a figure with a video that repeats, or a link to it if the page has no room."""
    source = inliner.inline(path)
    if source is None:
        return _link_large(path, caption, inliner)
    video = tag(
        "video",
        "This browser cannot play the video.",
        src=source,
        controls=True,
        loop=True,
        muted=True,
        playsinline=True,
        aria_label=caption,
    )
    return tag("figure", tag("figcaption", caption), video, class_="video")


def _link_large(path: Path, caption: str, inliner: Inliner) -> Markup:
    return make_paragraph(
        join(
            f"{caption}: not in this page, which holds at most "
            f"{format_bytes(inliner.limit_bytes)} of pictures and videos: ",
            _link(path, inliner),
        )
    )


def _link(path: Path, inliner: Inliner) -> Markup:
    size = format_bytes(path.stat().st_size)
    return join(tag("a", inliner.show_path(path), href=inliner.link(path)), f" ({size})")


def read_size(path: Path) -> tuple[int | None, int | None]:
    """Returns (width, height) of a PNG in pixels; (None, None) for other pictures."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None, None
    return struct.unpack(">II", head[16:24])


# --- results --------------------------------------------------------------------------------------


def _show_results(run: RunFiles, names: Mapping[str, TaskAnswer], inliner: Inliner):
    if not names:
        text = (
            "Nothing has been evaluated yet. The section with the commands says how to measure "
            "this run."
        )
        yield make_section("results", "Results", make_paragraph(text))
        return
    parts = []
    for number, (identifier, answer) in enumerate(names.items()):
        parts.append(_show_answer(identifier, number, answer, inliner))
    yield make_section("results", "Results", *parts)


def _show_answer(identifier: str, number: int, answer: TaskAnswer, inliner: Inliner) -> Markup:
    notes = [tag("li", note) for note in answer.notes]
    return tag(
        "section",
        tag("h3", _title(answer), id=identifier),
        tag("ul", *notes, class_="notes") if notes else None,
        _show_rows(number, answer),
        *_show_task_files(answer, inliner),
        _show_details(answer, inliner),
        class_="task",
        aria_labelledby=identifier,
    )


def _show_rows(number: int, answer: TaskAnswer) -> Markup:
    if not any(answer.rows.values()):
        return make_paragraph("This task has no table of values.")
    methods, names = list(answer.rows), {}
    for row in answer.rows.values():
        for name, metric in row.items():
            names.setdefault(name, as_mapping(metric.get("card")).get("unit"))
    links = {
        (method, name): _link_card(metric, f"card-{number}-{methods.index(method)}-{k}")
        for method, row in answer.rows.items()
        for k, name in enumerate(names)
        if (metric := row.get(name)) is not None
    }
    missing = tag("td", "-", class_="number", data_value="")
    labels = {
        name: join(name, tag("small", f" {unit}")) if unit else join(name)
        for name, unit in names.items()
    }
    caption = f"{_title(answer)}: every value leads to its metric card"
    if len(methods) == 1:
        # One method with many metrics reads down the page.
        body = [[labels[name], links.get((methods[0], name), missing)] for name in names]
        table = make_table(caption, ["metric", methods[0]], body)
    else:
        body = [[m, *[links.get((m, name), missing) for name in names]] for m in methods]
        table = make_table(caption, ["method", *labels.values()], body)
    return join(table, _show_cards(number, answer, list(names)))


def _format_metric(metric: Mapping[str, Any]) -> str:
    value = metric.get("value")
    if isinstance(value, (int, float)):
        return format_number(value)
    return "-" if value is None else str(value)


def _link_card(metric: Mapping[str, Any], identifier: str) -> Markup:
    value = metric.get("value")
    return tag(
        "td",
        tag("a", _format_metric(metric), href=f"#{identifier}"),
        class_="number",
        data_value="" if value is None else value,
    )


def _show_cards(number: int, answer: TaskAnswer, names: list[str]) -> Markup:
    cards = [
        as_mapping(metric.get("card")) for row in answer.rows.values() for metric in row.values()
    ]
    shared = find_shared(cards) if len(cards) > 1 else {}
    parts = []
    if shared:
        parts.append(tag("h4", "The same for every value"))
        parts.append(list_facts(shared))
    for i, (method, row) in enumerate(answer.rows.items()):
        for name, metric in row.items():
            card = as_mapping(metric.get("card"))
            own = {key: value for key, value in card.items() if key not in shared}
            exact = {"value": metric.get("value")} if metric.get("value") is not None else {}
            parts.append(
                make_disclosure(
                    join(tag("b", method), " ", name, " ", tag("output", _format_metric(metric))),
                    make_paragraph("This value is not finite.") if not exact else None,
                    list_facts(exact | own),
                    identifier=f"card-{number}-{i}-{names.index(name)}",
                    class_="card",
                )
            )
    summary = f"What exactly was computed: {len(cards)} metric cards"
    return make_disclosure(summary, *parts, class_="cards")


def find_shared(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what all metric cards say alike, but for what belongs beside each value."""
    first = cards[0]
    return {
        key: value
        for key, value in first.items()
        if key not in _OWN_KEYS and all(key in c and c[key] == value for c in cards)
    }


def _show_task_files(answer: TaskAnswer, inliner: Inliner) -> Iterable[Markup]:
    # Videos play beside the picture of the same name.
    media = [file for file in answer.files if file.suffix in PICTURES | VIDEOS]
    media.sort(key=lambda file: file.suffix not in VIDEOS)
    figures = [_show_media(answer, file, inliner) for file in media if file.path is not None]
    if figures:
        yield tag("div", *figures, class_="gallery")
    plain = [file for file in answer.files if file not in media or file.path is None]
    if plain:
        yield tag("ul", *[_list_file(file, inliner) for file in plain], class_="files")
    for file in plain:
        if file.suffix == ".csv" and file.path is not None:
            yield preview_csv(file.path, file.name)


def _show_media(answer: TaskAnswer, file: TaskFile, inliner: Inliner) -> Markup:
    caption = Path(file.name).stem.replace("_", " ")
    kind = "video" if file.suffix in VIDEOS else "picture"
    caption = f"{caption} ({kind} of {_title(answer)})"
    show = show_video if kind == "video" else show_picture
    return show(file.path, caption, inliner)


def _list_file(file: TaskFile, inliner: Inliner) -> Markup:
    if file.path is None:
        return tag("li", f"{file.name}: {file.problem}")
    return tag("li", _link(file.path, inliner))


def preview_csv(path: Path, name: str) -> Markup:
    """Returns the first rows of a CSV file as a table that can be unfolded."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(itertools.islice(csv.reader(file), _MAX_PREVIEW + 1))
            more = sum(1 for _ in file)
    except (OSError, csv.Error) as error:
        return make_paragraph(f"{name} cannot be shown: {error}")
    if not rows:
        return make_paragraph(f"{name} is empty.")
    header, *body = [row[:_MAX_COLUMNS] for row in rows]
    cut = " and columns" if any(len(row) > _MAX_COLUMNS for row in rows) else ""
    caption = f"{name}: the first {len(body)} rows{cut}" if more or cut else f"{name}, whole"
    body = [[*row, *[""] * (len(header) - len(row))][: len(header)] for row in body]
    return make_disclosure(f"First rows of {name}", make_table(caption, header, body))


def _show_details(answer: TaskAnswer, inliner: Inliner) -> Markup:
    if not answer.details:
        link = join("All of it: ", _link(answer.path, inliner))
        return make_paragraph(link, "quiet")
    return make_disclosure(
        "Curves, matrices and lists behind the table",
        show_value(answer.details),
        make_paragraph(join("All of it: ", _link(answer.path, inliner)), "quiet"),
    )


def show_value(value, depth: int = 0) -> Markup:
    """Returns any JSON value in short: numbers as a line with their range, long lists cut."""
    if isinstance(value, Mapping):
        if depth >= _MAX_DEPTH:
            return join(f"{len(value)} entries: see the JSON file")
        pairs = []
        for key, item in itertools.islice(value.items(), 2 * _MAX_ITEMS):
            pairs += [tag("dt", key), tag("dd", show_value(item, depth + 1))]
        rest = len(value) - 2 * _MAX_ITEMS
        more = tag("p", f"and {rest} more in the JSON file") if rest > 0 else None
        return join(tag("dl", *pairs), more) if pairs else join("empty")
    if not isinstance(value, list):
        return join(format_value(value))
    numbers = [v for v in value if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == len(value) > 2:
        ends = f"{len(value)} numbers, {min(numbers):.4g} to {max(numbers):.4g}"
        return join(draw_line(numbers), f" {ends}")
    if value and all(isinstance(row, list) and row for row in value):
        return _show_matrix(value)
    if value and all(isinstance(item, bool) for item in value):
        return join(f"{sum(value)} of {len(value)} are true")
    if any(isinstance(item, Mapping) for item in value):
        items = [tag("li", show_value(item, depth + 1)) for item in value[:_MAX_ITEMS]]
        rest = len(value) - _MAX_ITEMS
        return tag("ol", *items, tag("li", f"and {rest} more") if rest > 0 else None)
    shown = ", ".join(format_value(item) for item in value[:_MAX_ITEMS])
    rest = len(value) - _MAX_ITEMS
    return join(f"{shown}, and {rest} more" if rest > 0 else shown or "none")


def _show_matrix(rows: list[list]) -> Markup:
    shape = f"{len(rows)} rows of {len(rows[0])}"
    if len(rows) > 2 * _MAX_ITEMS or any(len(row) > 2 * _MAX_ITEMS for row in rows):
        return join(f"{shape}: see the JSON file")
    header = ["", *[str(k) for k in range(max(len(row) for row in rows))]]
    body = [[str(k), *[format_value(v) for v in row]] for k, row in enumerate(rows)]
    body = [[*row, *[""] * (len(header) - len(row))] for row in body]
    return make_table(shape, header, body)


# --- files ----------------------------------------------------------------------------------------


def _show_files(run: RunFiles, inliner: Inliner) -> Markup:
    count = len(inliner.inlined)
    parts = [
        make_paragraph(
            join(
                "This page is ",
                _SIZE,
                f". It needs no network and no other file: {count} pictures and videos are in it, "
                f"{format_bytes(inliner.used_bytes)} of at most "
                f"{format_bytes(inliner.limit_bytes)}. Links to files lead into the run "
                "directory, and work where this page lies in it.",
            )
        )
    ]
    if inliner.linked:
        parts.append(make_paragraph("Too large for this page, linked instead:"))
        parts.append(tag("ul", *[tag("li", _link(p, inliner)) for p in inliner.linked]))
    if run.others:
        items = [tag("li", _link(path, inliner)) for path in run.others]
        parts.append(make_disclosure(f"{len(items)} other files in eval/", tag("ul", *items)))
    return make_section("files", "Files and size", *parts)
