"""The built-in labelled data set: articulated figures that perform ten actions and gestures.

A clip is made in four steps: `choreography.move` performs an action, `choreography.film` projects
it onto a moving camera, `_dress` turns the body into coloured limbs, and `drawing` paints them over
a drifting background and lights the stage. All randomness comes from the seed, the performer and
the take, so that any clip can be drawn again, with its exact mask, from its row of the manifest.

The data set tests the perception of motion: walk, jog and run share their poses and differ mostly
in tempo and speed; swipes to the left and to the right, and circles in the two directions, show the
same poses in a different order; box, clap and wave keep the hands in the same region; and swinging
lamps change every pixel, so that change alone is uninformative.
`benchmarks/performers_difficulty.py` measures this. Directions are those that the viewer sees.
"""

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vvae import video
from vvae.data import choreography, drawing
from vvae.data.choreography import ACTIONS, SIDES, Physique
from vvae.data.drawing import Limb
from vvae.data.workers import run_in_workers
from vvae.files import write_text

# Split -> (its performers, the number of clips of each action by each performer).
SPLITS = {"train": (range(24), 6), "val": (range(24, 28), 2), "test": (range(28, 38), 3)}
FPS = 10.0
NUM_FRAMES = 16
SIZE = 64  # rows and columns, pixels
VERSION = 6  # raise it with any change that alters the images
_CHUNK = 20  # the number of clips that a worker writes at a time
_MAX_TAKES = 1000


@dataclass(frozen=True)
class Performer:
    """A body and its clothes, the same in all clips of one performer.

    Attributes:
      physique: The body and its tempo.
      colors: Part -> RGB in [0, 1].
      texture: The print of the shirt; see `drawing.Limb`.
    """

    physique: Physique
    colors: dict[str, np.ndarray]
    texture: tuple[float, float, float]


def make_performer(number: int, seed: int = 0) -> Performer:
    """Draws the performer with this number (from 0) of the data set with this seed."""
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    # The gloves are the brightest part of every clip; the clothes are darker than most of the wall.
    colors = {
        "shirt": drawing.draw_color(rng, 0.15, 0.40),
        "print": drawing.draw_color(rng, 0.15, 0.50),
        "trousers": drawing.draw_color(rng, 0.10, 0.40),
        "shoes": drawing.draw_color(rng, 0.05, 0.15),
        "hair": drawing.draw_color(rng, 0.05, 0.25),
        "gloves": drawing.draw_color(rng, 0.85, 0.95),
        "skin": np.array([1.0, 0.8, 0.66]) * rng.uniform(0.45, 0.95),
    }
    texture = (rng.uniform(0.0, 4.0), rng.uniform(0.0, 3.0), rng.uniform(0.2, 0.9))
    physique = Physique(
        height=rng.uniform(0.70, 0.78),
        girth=rng.uniform(0.85, 1.20),
        limb_scale=rng.uniform(0.93, 1.07),
        tempo=rng.uniform(0.92, 1.08),
    )
    return Performer(physique, colors, texture)


def render_clip(
    action: str, performer: int, take: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one clip of the data set.

    Args:
      action: One of `ACTIONS`.
      performer: The number of the performer, from 0.
      take: The number of the repetition, from 0.
      seed: The seed of the data set.

    Returns:
      frames_THWC: uint8 RGB [16, 64, 64, 3], before video compression.
      mask_THW: bool; True where the figure covers the centre of the pixel.

    Raises:
      ValueError: If there is no such action, or a number is out of range.
    """
    who, joints, shift_T2, rng = _stage(action, performer, take, seed)
    canvas_CTHW = drawing.draw_background(shift_T2, _clock(), SIZE, rng)
    mask_THW = drawing.paint(canvas_CTHW, _dress(who, joints))
    drawing.light(canvas_CTHW, _clock(), rng)
    frames_CTHW = np.clip(np.rint(canvas_CTHW * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(frames_CTHW, 0, -1)), mask_THW


def trace_joints(
    action: str, performer: int, take: int, seed: int = 0
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the true pose behind `render_clip`, which takes the same arguments.

    Returns:
      names: The names of the J joints, such as `hand+1`; see `choreography`.
      joints_TJ2: float64; their columns and rows in pixels.
    """
    _, joints, _, _ = _stage(action, performer, take, seed)
    names = tuple(sorted(joints))
    return names, np.stack([joints[name][:, :2] for name in names], axis=1)


def write_performers(
    folder: str | os.PathLike,
    seed: int = 0,
    num_workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the data set as .mp4 files in one folder for each class, with a manifest.csv.

    The manifest is written last: if the folder has one of this version and seed, nothing is done.

    Args:
      folder: The folder to write to; it is created if missing.
      seed: The seed of all randomness.
      num_workers: The number of processes that draw and encode; 0 does it in this process.
      progress: A function that is called with (videos written, videos to write).

    Returns:
      The path of the manifest. Its columns are path, label, group (the performer) and split, and,
      to draw the clip again, performer, take, seed and version.

    Raises:
      VideoError: If a file cannot be written.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    rows = _list_clips(seed)
    text = _format_table(rows)
    if manifest.exists() and manifest.read_text() == text:
        return manifest
    manifest.unlink(missing_ok=True)
    for action in ACTIONS:
        (folder / action).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK)]
    num_written = 0
    for job, lost in run_in_workers(_write_clips, jobs, num_workers):
        if lost is not None:  # the WorkerError of a worker that died
            raise lost
        num_written += len(jobs[job][1])
        if progress is not None:
            progress(num_written, len(rows))
    write_text(manifest, text)
    return manifest


def _list_clips(seed: int) -> list[dict[str, str | int]]:
    """Returns the rows of the manifest."""
    return [
        {
            "path": f"{action}/performer{performer:02d}_take{take}.mp4",
            "label": action,
            "group": f"performer{performer:02d}",
            "split": split,
            "performer": performer,
            "take": take,
            "seed": seed,
            "version": VERSION,
        }
        for action in ACTIONS
        for split, (performers, num_takes) in SPLITS.items()
        for performer in performers
        for take in range(num_takes)
    ]


def _format_table(rows: list[dict[str, str | int]]) -> str:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _write_clips(job: tuple[Path, list[dict[str, str | int]]]) -> None:
    folder, rows = job
    clips = {
        folder / row["path"]: render_clip(row["label"], row["performer"], row["take"], row["seed"])[
            0
        ]
        for row in rows
    }
    video.write_short_videos(clips, FPS)


def _clock() -> np.ndarray:
    """Returns time_T, the times of the frames in s."""
    return np.arange(NUM_FRAMES) / FPS


def _stage(action: str, performer: int, take: int, seed: int):
    """Performs and films a clip.

    Returns:
      The performer, the joints in pixels, shift_T2 of the background in pixels, and the generator
      for everything else.
    """
    if action not in ACTIONS:
        raise ValueError(f"no action {action!r}; choose one of {', '.join(ACTIONS)}")
    if not (0 <= performer < _MAX_TAKES and 0 <= take < _MAX_TAKES):
        raise ValueError(
            f"performer {performer}, take {take}: both must be at least 0 and below {_MAX_TAKES}"
        )
    who = make_performer(performer, seed)
    # The streams below _MAX_TAKES draw the performers.
    clip = (performer * len(ACTIONS) + ACTIONS.index(action)) * _MAX_TAKES + take
    rng = np.random.Generator(np.random.Philox(key=[seed, _MAX_TAKES + clip]))
    time_T = _clock()
    joints = choreography.move(action, who.physique, time_T, rng)
    joints, shift_T2 = choreography.film(action, who.physique, joints, time_T, SIZE, rng)
    return who, joints, shift_T2, rng


def _dress(who: Performer, joints: dict[str, np.ndarray]) -> list[Limb]:
    """Returns the limbs of the figure; joints and radii are in pixels."""
    scale = SIZE * who.physique.height * who.physique.girth

    def limb(start, end, radii, color, bias=0.0, texture=(0.0, 0.0, 0.0)):
        start_T3, end_T3 = joints[start], joints[end]
        depth = float(start_T3[:, 2].mean() + end_T3[:, 2].mean()) / (2 * scale)
        shade = np.clip(1.0 + 1.2 * depth, 0.75, 1.1)  # the far arm and leg are darker
        return Limb(
            start_T2=start_T3[:, :2],
            end_T2=end_T3[:, :2],
            radii=(radii[0] * scale, radii[1] * scale),
            color=who.colors[color] * shade,
            print_color=who.colors["print"] * shade,
            texture=texture,
            nearness=depth + bias,
        )

    limbs = [
        limb("neck", "pelvis", (0.105, 0.085), "shirt", texture=who.texture),
        limb("neck", "head", (0.035, 0.035), "skin", 0.01),
        limb("head", "head", (0.083, 0.083), "hair", 0.02),
        limb("face", "face", (0.068, 0.068), "skin", 0.03),
    ]
    for side in (f"{side:+d}" for side in SIDES):
        limbs += [
            limb(f"hip{side}", f"knee{side}", (0.062, 0.050), "trousers", -0.02),
            limb(f"knee{side}", f"foot{side}", (0.048, 0.036), "trousers", -0.02),
            limb(f"foot{side}", f"toe{side}", (0.036, 0.030), "shoes", -0.015),
            limb(f"shoulder{side}", f"elbow{side}", (0.050, 0.042), "shirt"),
            limb(f"elbow{side}", f"hand{side}", (0.038, 0.034), "gloves"),
            limb(f"hand{side}", f"hand{side}", (0.050, 0.050), "gloves", 0.005),
        ]
    return limbs
