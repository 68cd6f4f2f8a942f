"""Finds the clips most similar to a video or to a clip."""

import dataclasses
import difflib
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vvae import figures, progress
from vvae.data.clips import Clips
from vvae.data.dataset import Dataset
from vvae.data.views import view_to_rgb
from vvae.measure.examples import choose_frames
from vvae.measure.legends import explain_view
from vvae.tasks.options import Search
from vvae.tasks.pooling import encode_clips, make_encoder
from vvae.tasks.probe import fit_standardization
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result, TextTable, record_options

PICTURE_FILE = "search.png"
PICTURE_CAPTION = "The query, and the clips that are most similar to it, the best first"
# Similarities that agree to this many decimals are equal: float32 latents are no more precise.
DECIMALS = 5
MAX_CLOSE_NAMES = 3


@dataclasses.dataclass(frozen=True)
class Place:
    """A clip of a data set: its split, and its number in the split."""

    split: str
    number: int


@dataclasses.dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
      name: the name of its video.
      places: the clips of the data set that it has; () if it is not of the data set.
      outside: its clips, if it is not of the data set.
    """

    name: str
    places: tuple[Place, ...]
    outside: Clips | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """An answer that is drawn.

    Attributes:
      dataset: the clips that were searched.
      asked: the description of the query (see `_describe`).
      hits: those of the clips that were found, with their similarity, the best first.
      outside: the query, if it is not of the data set.
    """

    dataset: Dataset
    asked: Mapping[str, Any]
    hits: Sequence[Mapping[str, Any]]
    outside: Clips | None


def answer(question: Question, options: Search) -> Result:
    """Finds the clips of all splits that are most similar to a video, or to one clip of it.

    The similarity is the cosine of pooled latents, standardised by the training clips or, if there
    are none, by all clips that are searched. The latents of a whole video are the mean of those of
    its clips. Neither the query nor, for a whole video, other clips of it are found.

    Raises:
      ValueError: if there is no such video or clip, or nothing else to find.
    """
    if options.query is None:
        raise ValueError("the task search needs a clip to search for: --query VIDEO")
    dataset, pooling = question.dataset, question.settings.pooling
    query = find_query(dataset, options.query, question.open_file)
    places = [Place(split, n) for split, clips in dataset.splits.items() for n in range(len(clips))]
    with progress.stage("search"):
        found = _find_hits(question, options, places, query)
    if not found:
        raise ValueError(f"{dataset.root} has no other clip than {options.query!r} to find")
    asked = _describe_query(dataset, query)
    hits = [_describe(dataset, place) | {"similarity": value} for place, value in found]
    shown = Found(dataset=dataset, asked=asked, hits=hits, outside=query.outside)
    result = Result(
        task="search",
        rows={},
        details={
            "query": asked,
            "hits": hits,
            "similarity": "cosine of pooled latents, standardised by the "
            + ("training clips" if "train" in dataset.splits else "clips that are searched"),
            "pooling": pooling,
            "num_searched": len(places) - len(query.places),
        },
        tables=(_tabulate_hits(asked, hits),),
        files=(PICTURE_FILE,),
        pictures=(Picture({PICTURE_FILE: PICTURE_CAPTION}, functools.partial(_draw, shown)),),
    )
    asked_for = {
        "--query": options.query,
        "--count": options.count,
        "--per_video": options.per_video,
    }
    return record_options(result, asked_for)


def _find_hits(
    question: Question, options: Search, places: list[Place], query: Query
) -> list[tuple[Place, float]]:
    """Returns the most similar clips with their similarity, the best first.

    Args:
      question: the clips that are searched.
      options: how many clips to return, in all and of one video.
      places: the places of all clips.
      query: what is searched for.
    """
    encoder = make_encoder(question.model, question.settings.pooling)
    splits = question.dataset.splits

    def encode(clips: Clips) -> np.ndarray:
        return encode_clips(encoder, question.params, clips, question.batch_size)

    feature_NF = np.concatenate([encode(clips) for clips in splits.values()])
    own = np.array([place in query.places for place in places])
    query_NF = feature_NF[own] if query.outside is None else encode(query.outside)
    fitted_NF = feature_NF
    if "train" in splits:
        fitted_NF = feature_NF[[place.split == "train" for place in places]]
    similarity_N = measure_similarity(query_NF.mean(axis=0), feature_NF, fitted_NF)
    videos = [
        (split, int(video)) for split, clips in splits.items() for video in clips.video_index_N
    ]
    order = rank(similarity_N, videos, options.per_video, ~own)[: options.count]
    return [(places[n], float(similarity_N[n])) for n in order]


# --- the query ------------------------------------------------------------------------------------


def find_query(dataset: Dataset, query: str, open_file: Callable[[str], Clips]) -> Query:
    """Finds the video, or the clip, that a query names.

    Videos of the data set take precedence, by their name or by the path of their file, over other
    files.

    Args:
      dataset: the videos to search.
      query: VIDEO or VIDEO:CLIP.
      open_file: path -> its clips.

    Raises:
      ValueError: if there is no such video (the message names similar ones), or no such clip.
    """
    name, clip = _split_query(dataset, query)
    for split, clips in dataset.splits.items():
        for v, video in enumerate(clips.videos):
            if name == video.name or _is_same_file(name, video.path):
                own = np.flatnonzero(clips.video_index_N == v)
                chosen = own if clip is None else own[[_require_clip(query, clip, len(own))]]
                return Query(video.name, tuple(Place(split, int(n)) for n in chosen))
    if not os.path.exists(name):
        raise ValueError(
            f"no video {name!r} in {dataset.root}, and no such file{_suggest(dataset, name)}"
        )
    clips = open_file(name)
    if len(clips.videos) > 1:
        raise ValueError(f"{name} is a folder of {len(clips.videos)} videos: name one of them")
    chosen = np.arange(len(clips)) if clip is None else [_require_clip(query, clip, len(clips))]
    return Query(clips.videos[0].name, (), clips.select(chosen))


def _split_query(dataset: Dataset, query: str) -> tuple[str, int | None]:
    """Splits NAME:CLIP; a video or file whose own name looks like this is not split."""
    names = {video.name for clips in dataset.splits.values() for video in clips.videos}
    name, colon, number = query.rpartition(":")
    if query in names or not colon or not number.isdecimal() or os.path.exists(query):
        return query, None
    return name, int(number)


def _require_clip(query: str, clip: int, num_clips: int) -> int:
    if clip >= num_clips:
        raise ValueError(f"{query!r} asks for clip {clip}, but the video has {num_clips} (from 0)")
    return clip


def _is_same_file(first: str, second: str) -> bool:
    return os.path.exists(first) and os.path.realpath(first) == os.path.realpath(second)


def _suggest(dataset: Dataset, name: str) -> str:
    names = [video.name for clips in dataset.splits.values() for video in clips.videos]
    close = difflib.get_close_matches(name, names, n=MAX_CLOSE_NAMES)
    return f"; did you mean {', '.join(close)}?" if close else f"; one of them is {names[0]}"


# --- similarity -----------------------------------------------------------------------------------


def measure_similarity(
    query_F: np.ndarray, feature_NF: np.ndarray, fitted_NF: np.ndarray
) -> np.ndarray:
    """Returns the cosine of each vector with the query, float64 [N], rounded to 5 decimals.

    Vectors are standardised by the mean and standard deviation of `fitted_NF`. The mean itself has
    no direction: its cosine is 0.
    """
    mean_F, scale_F = fit_standardization(fitted_NF)
    query_F, feature_NF = (query_F - mean_F) / scale_F, (feature_NF - mean_F) / scale_F
    norm_N = np.linalg.norm(feature_NF, axis=1) * np.linalg.norm(query_F)
    cosine_N = feature_NF @ query_F / np.where(norm_N > 0, norm_N, 1.0)
    return np.round(cosine_N, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def rank(
    similarity_N: np.ndarray, videos: Sequence, per_video: int, allowed_N: np.ndarray
) -> list[int]:
    """Returns the indices of the allowed clips, the most similar first, equal ones in their order.

    Args:
      similarity_N: the similarity of each clip.
      videos: the video of each clip.
      per_video: the largest number of clips of one video.
      allowed_N: bool; the clips that may be found.
    """
    taken: Counter = Counter()
    chosen = []
    for n in np.argsort(-similarity_N, kind="stable"):
        if allowed_N[n] and taken[videos[n]] < per_video:
            taken[videos[n]] += 1
            chosen.append(int(n))
    return chosen


# --- presentation ---------------------------------------------------------------------------------


def _describe_query(dataset: Dataset, query: Query) -> dict[str, Any]:
    """Describes a query as its first clip, with the time of its last one."""
    if query.outside is None:
        first, last = (_describe(dataset, query.places[k]) for k in (0, -1))
        count = len(query.places)
    else:
        first, last = (_describe_clip(query.outside, k) for k in (0, -1))
        count = len(query.outside)
    whole = {"clip": "all" if count > 1 else first["clip"], "end": last["end"]}
    return first | whole | {"num_clips": count}


def _describe(dataset: Dataset, place: Place) -> dict[str, Any]:
    clips = dataset.splits[place.split]
    return _describe_clip(clips, place.number) | {"split": place.split, "number": place.number}


def _describe_clip(clips: Clips, n: int) -> dict[str, Any]:
    """Describes a clip: its video, its number there, the times (s) of its first and last frame."""
    video = clips.videos[clips.video_index_N[n]]
    times = clips.time_NT[n][clips.mask_NT[n]]
    times = times if len(times) else clips.time_NT[n]
    return {
        "name": video.name,
        "clip": int(clips.position_N[n]),
        "start": float(times[0]),
        "end": float(times[-1]),
        "label": video.label,
        "split": None,
        "number": None,
    }


def _tabulate_hits(asked: dict[str, Any], hits: Sequence[dict[str, Any]]) -> TextTable:
    rows = [("query", *_list_cells(asked), "-")]
    for number, hit in enumerate(hits, start=1):
        rows.append((str(number), *_list_cells(hit), f"{hit['similarity']:.4f}"))
    header = ("rank", "video", "clip", "time (s)", "label", "split", "similarity")
    what = f"The {len(hits)} clips most similar to {asked['name']}"
    return TextTable(what, header, tuple(rows))


def _list_cells(clip: dict[str, Any]) -> list[str]:
    time = f"{clip['start']:.2f} to {clip['end']:.2f}"
    return [clip["name"], str(clip["clip"]), time, clip["label"] or "-", clip["split"] or "-"]


def _draw(found: Found, folder: Path) -> None:
    """Draws the query and the clips that were found, one row of frames for each."""
    dataset, asked, hits, outside = found.dataset, found.asked, found.hits, found.outside
    clips = [outside.read([0])[0]] if outside is not None else []
    inside = hits if outside is not None else [asked, *hits]
    clips += [dataset.splits[clip["split"]].read([clip["number"]])[0] for clip in inside]
    shown = choose_frames(dataset.splits[hits[0]["split"]].clip_format.sampling.num_frames)
    rows = [view_to_rgb(dataset.view, clip_THWC[shown]) for clip_THWC in clips]
    labels = [_label_row("query", asked)]
    labels += [_label_row(f"{k}: {hit['similarity']:.3f}", hit) for k, hit in enumerate(hits, 1)]
    columns = [f"frame {t}" for t in shown]
    of_query = f"clip {asked['clip']} of " if asked["clip"] != "all" else ""
    title = f"The {len(hits)} clips most similar to {of_query}{asked['name']}"
    legend = explain_view(dataset.view)
    figures.write_sheet(folder / PICTURE_FILE, rows, labels, columns, title, legend=legend)


def _label_row(head: str, clip: dict[str, Any]) -> str:
    name = clip["name"] if len(clip["name"]) <= 32 else "..." + clip["name"][-29:]
    return f"{head}\n{name}\nclip {clip['clip']}, {clip['start']:.1f} s\n{clip['label'] or ''}"
