"""Frames of videos and intervals of them: true ones from a manifest, found ones into a CSV file."""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np

from vvae.data.clips import Clips
from vvae.data.listing import Video
from vvae.tasks.csv_files import open_csv

ABNORMAL = "abnormal"
_INTERVAL = re.compile(r"(\d+)(?:-(\d+))?")


@dataclasses.dataclass(frozen=True)
class Frames:
    """Every frame of the files of a split, in the order of the videos, then of time.

    A frame that the clips do not hold (left out by data.frame_stride, or without a value under the
    view, such as the first of a difference) is there too: it takes the value of the frame before
    it, the first ones that of the first frame that has one. So all methods are judged on the same
    frames.

    Attributes:
      video_F: int, the video of each frame.
      number_F: int, its number in the file.
      time_F: its time, s.
      clip_F, position_F: the clip and the place in it whose value it takes.
      num_filled: frames that take the value of another frame.
    """

    video_F: np.ndarray
    number_F: np.ndarray
    time_F: np.ndarray
    clip_F: np.ndarray
    position_F: np.ndarray
    num_filled: int

    def __len__(self) -> int:
        return len(self.video_F)

    def take(self, value_NT: np.ndarray) -> np.ndarray:
        """Returns the value of every frame, [F, ...], from values of clips [N, T, ...]."""
        return value_NT[self.clip_F, self.position_F]


def list_frames(clips: Clips) -> Frames:
    """Lists the frames of all videos; those that were repeated to fill a clip drop out.

    Raises:
      ValueError: if the clips are not consecutive windows, which leave no frame out.
    """
    mode = clips.clip_format.sampling.mode
    if mode != "windows":
        raise ValueError(
            f"data.sampling={mode!r}: scores for every frame need a run trained with "
            "data.sampling=windows"
        )
    columns, num_filled = [], 0
    for video in range(len(clips.videos)):
        own = np.flatnonzero(clips.video_index_N == video)
        row_S, position_S = np.nonzero(clips.mask_NT[own])
        known_S = clips.frame_NT[own][row_S, position_S]
        number = np.arange(clips.frame_NT[own].max() + 1)
        source = np.maximum(np.searchsorted(known_S, number, side="right") - 1, 0)
        time = np.interp(number, clips.frame_NT[own].ravel(), clips.time_NT[own].ravel())
        columns.append(
            (np.full(len(number), video), number, time, own[row_S[source]], position_S[source])
        )
        num_filled += len(number) - len(known_S)
    return Frames(*(np.concatenate(column) for column in zip(*columns)), num_filled)


def parse_intervals(text: str, where: str) -> list[tuple[int, int]]:
    """Reads intervals such as `60-179` or `3-9;12;40-41`; empty text has none.

    Args:
      text: frame numbers from 0, both ends included, separated by `;`.
      where: begins the message of an error.

    Raises:
      ValueError: if the text is something else, or an interval ends before it starts.
    """
    intervals = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _INTERVAL.fullmatch(part)
        if not match:
            raise ValueError(
                f"{where}: {part!r} is no interval of frames; write first-last, numbered from 0, "
                "and ; between intervals"
            )
        start, end = int(match[1]), int(match[2] or match[1])
        if end < start:
            raise ValueError(f"{where}: the interval {part!r} ends before it starts")
        intervals.append((start, end))
    return intervals


def are_marked(videos: Sequence[Video]) -> bool:
    """Whether the manifest has the column `abnormal`, in which an empty cell is a normal video."""
    return any(ABNORMAL in video.metadata for video in videos)


def read_intervals(video: Video) -> list[tuple[int, int]]:
    """Returns the abnormal intervals that the manifest states of a video, as `parse_intervals`."""
    return parse_intervals(video.metadata.get(ABNORMAL, ""), f"{video.name}, column {ABNORMAL}")


def mark_frames(videos: Sequence[Video], frames: Frames) -> np.ndarray | None:
    """Returns which frames are abnormal, bool [F]; None if the manifest does not say.

    Raises:
      ValueError: for intervals that cannot be read or lie behind the end of their video.
    """
    if not are_marked(videos):
        return None
    abnormal_F = np.zeros(len(frames), bool)
    for index, video in enumerate(videos):
        own_F = frames.video_F == index
        last = int(frames.number_F[own_F].max())
        for start, end in read_intervals(video):
            if start > last:
                raise ValueError(
                    f"{video.name}, column {ABNORMAL}: the interval {start}-{end} lies behind the "
                    f"last frame, {last}"
                )
            abnormal_F |= own_F & (frames.number_F >= start) & (frames.number_F <= end)
    return abnormal_F


@dataclasses.dataclass(frozen=True)
class Interval:
    """A run of frames above a threshold; both ends included.

    Attributes:
      name: of the video.
      start_frame, end_frame: numbers in the file.
      start, end: times of these frames, s.
      peak: highest score.
    """

    name: str
    start_frame: int
    end_frame: int
    start: float
    end: float
    peak: float


def find_intervals(
    score_F: np.ndarray, alarm_F: np.ndarray, frames: Frames, names: Sequence[str]
) -> list[Interval]:
    """Joins neighbouring frames with an alarm to intervals, in order."""
    first_F = alarm_F & ~np.append(False, alarm_F[:-1] & (np.diff(frames.video_F) == 0))
    last_F = alarm_F & ~np.append(alarm_F[1:] & (np.diff(frames.video_F) == 0), False)
    return [
        Interval(
            names[frames.video_F[i]],
            int(frames.number_F[i]),
            int(frames.number_F[j]),
            float(frames.time_F[i]),
            float(frames.time_F[j]),
            float(score_F[i : j + 1].max()),
        )
        for i, j in zip(np.flatnonzero(first_F), np.flatnonzero(last_F))
    ]


def write_intervals(path: str | os.PathLike, intervals: Iterable[Interval]) -> None:
    """Writes intervals as CSV: path, start_frame, end_frame, start_s, end_s, peak_score."""
    with open_csv(path) as writer:
        writer.writerow(["path", "start_frame", "end_frame", "start_s", "end_s", "peak_score"])
        for found in intervals:
            times = (f"{found.start:.3f}", f"{found.end:.3f}")
            frames = (found.start_frame, found.end_frame)
            writer.writerow([found.name, *frames, *times, f"{found.peak:.6g}"])
