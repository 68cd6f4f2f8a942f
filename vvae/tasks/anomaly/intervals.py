"""Intervals of frames: reads the true ones from a manifest, writes the detected ones as CSV."""

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
    """Every frame of the files of a split, ordered by video, then by time.

    This includes frames that the clips lack: those skipped by data.frame_stride, and those for
    which the view has no value, such as the first frame of a difference. Such a frame takes the
    value of the last frame before it that has one, or else of the first frame that has one. All
    methods are therefore evaluated on the same frames.

    Attributes:
      video_F: int; the video of each frame.
      number_F: int; the number of each frame in its file.
      time_F: float64; the time of each frame in its file, s.
      clip_F: int; the clip that each frame takes its value from.
      position_F: int; the position within this clip.
      num_filled: The number of frames that take the value of another frame.
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
        """Maps values of clips, [N, T, ...], to values of all frames, [F, ...]."""
        return value_NT[self.clip_F, self.position_F]


def list_frames(clips: Clips) -> Frames:
    """Lists the frames of all videos, each once, even if it was repeated to fill a clip.

    Raises:
      ValueError: If the clips are not consecutive windows, which cover every frame.
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
    video_F, number_F, time_F, clip_F, position_F = map(np.concatenate, zip(*columns))
    return Frames(
        video_F=video_F,
        number_F=number_F,
        time_F=time_F,
        clip_F=clip_F,
        position_F=position_F,
        num_filled=num_filled,
    )


def parse_intervals(text: str, where: str) -> list[tuple[int, int]]:
    """Parses intervals of frames such as `60-179` or `3-9;12;40-41`.

    Args:
      text: Intervals separated by `;`. Frames are numbered from 0 and both ends are included. An
        empty text has no intervals.
      where: The beginning of error messages: where the text comes from.

    Returns:
      (first, last) of each interval.

    Raises:
      ValueError: If the text has another form, or an interval ends before it starts.
    """
    intervals = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _INTERVAL.fullmatch(part)
        if not match:
            raise ValueError(
                f"{where}: {part!r} is not an interval of frames; write it as first-last, with "
                "frames numbered from 0, and separate intervals by ;"
            )
        start, end = int(match[1]), int(match[2] or match[1])
        if end < start:
            raise ValueError(f"{where}: the interval {part!r} ends before it starts")
        intervals.append((start, end))
    return intervals


def read_intervals(video: Video) -> list[tuple[int, int]]:
    """Returns the abnormal intervals of a video by its manifest, as `parse_intervals` does.

    Raises:
      ValueError: If they cannot be parsed.
    """
    return parse_intervals(video.metadata.get(ABNORMAL, ""), f"{video.name}, column {ABNORMAL}")


def label_frames(videos: Sequence[Video], frames: Frames) -> np.ndarray | None:
    """Returns whether each frame is abnormal by the manifest, bool [F].

    An empty cell of the column `abnormal` means that the whole video is normal. Returns None if the
    manifest has no such column.

    Raises:
      ValueError: If intervals cannot be parsed or begin after the end of their video.
    """
    if not any(ABNORMAL in video.metadata for video in videos):
        return None
    abnormal_F = np.zeros(len(frames), bool)
    for index, video in enumerate(videos):
        own_F = frames.video_F == index
        last = int(frames.number_F[own_F].max())
        for start, end in read_intervals(video):
            if start > last:
                raise ValueError(
                    f"{video.name}, column {ABNORMAL}: the interval {start}-{end} begins after the "
                    f"last frame of the video, {last}"
                )
            abnormal_F |= own_F & (frames.number_F >= start) & (frames.number_F <= end)
    return abnormal_F


@dataclasses.dataclass(frozen=True)
class Interval:
    """Consecutive frames above a threshold; both ends are included.

    Attributes:
      name: The name of the video.
      start_frame: The number of the first frame in the file.
      end_frame: The number of the last frame in the file.
      start: The time of the first frame, s.
      end: The time of the last frame, s.
      peak: The highest score.
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
    """Joins consecutive frames of a video with an alarm into intervals.

    Args:
      score_F: The score of each frame.
      alarm_F: bool; whether each frame is above the threshold.
      frames: The frames.
      names: The names of the videos.

    Returns:
      The intervals, in the order of the frames.
    """
    first_F = alarm_F & ~np.append(False, alarm_F[:-1] & (np.diff(frames.video_F) == 0))
    last_F = alarm_F & ~np.append(alarm_F[1:] & (np.diff(frames.video_F) == 0), False)
    return [
        Interval(
            name=names[frames.video_F[i]],
            start_frame=int(frames.number_F[i]),
            end_frame=int(frames.number_F[j]),
            start=float(frames.time_F[i]),
            end=float(frames.time_F[j]),
            peak=float(score_F[i : j + 1].max()),
        )
        for i, j in zip(np.flatnonzero(first_F), np.flatnonzero(last_F))
    ]


def write_intervals(path: str | os.PathLike, intervals: Iterable[Interval]) -> None:
    """Writes intervals as CSV: path, start_frame, end_frame, start_s, end_s, peak_score.

    Times are in seconds with three decimals.
    """
    with open_csv(path) as writer:
        writer.writerow(["path", "start_frame", "end_frame", "start_s", "end_s", "peak_score"])
        for found in intervals:
            times = (f"{found.start:.3f}", f"{found.end:.3f}")
            frames = (found.start_frame, found.end_frame)
            writer.writerow([found.name, *frames, *times, f"{found.peak:.6g}"])
