"""The built-in labelled data set: articulated figures that perform ten actions and gestures.

A clip is drawn in four steps, each a function of its own: `_move` turns an action into the joints
of a body in three dimensions, `_film` turns the body towards the camera and projects it, `_dress`
lists its limbs as thick line segments with colours, and `_paint` draws them over a drifting
background. Everything random comes from the data set's seed, the performer and the take.

What makes it a test of motion: walk, jog and run share their poses and differ in tempo, stride and
lean; swipes to the left and to the right, and circles in the two senses, show the same arm
positions in another order; box, clap and wave move their hands through the same region.
"""

import csv
import functools
import gc
import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vvae import video

ACTIONS = (
    "box",
    "circle_anticlockwise",
    "circle_clockwise",
    "clap",
    "jog",
    "run",
    "swipe_left",
    "swipe_right",
    "walk",
    "wave",
)
# Split -> its performers, and the clips of each action by each of them.
SPLITS = {"train": (range(24), 6), "val": (range(24, 28), 2), "test": (range(28, 38), 3)}
FPS = 10.0
NUM_FRAMES = 16
SIZE = 64  # rows and columns, pixels
SIDES = (-1, 1)  # of the body, for a viewer in front of it: left, right
_VERSION = 1  # of the rendered frames: raise it with any change that alters them
_MARKER = "complete.json"

# Lengths are in body heights; the body looks along +z, x is the viewer's right, y is up.
_THIGH, _SHIN, _TORSO, _NECK = 0.26, 0.24, 0.30, 0.13
_UPPER_ARM, _FOREARM = 0.175, 0.165
_SHOULDER_X, _HIP_X = 0.125, 0.065
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class _Gait(NamedTuple):
    strides: float  # two steps each, 1/s
    swing: float  # of the hips, rad
    knee: float  # largest flexion, rad
    lean: float  # of the torso, rad
    elbow: float  # flexion, rad
    drift: float  # of the figure through the picture, widths/s


_GAITS = {
    "walk": _Gait(0.85, 0.48, 1.05, 0.08, 0.80, 0.05),
    "jog": _Gait(1.20, 0.54, 1.15, 0.12, 0.90, 0.18),
    "run": _Gait(1.60, 0.60, 1.25, 0.16, 1.00, 0.34),
}


@dataclass(frozen=True)
class Performer:
    """A body and its clothes, the same in all clips of one performer.

    Attributes:
        height: Body height over the height of the picture.
        girth: Factor on the thickness of limbs and torso.
        limb_scale: Factor on the length of arms and legs.
        tempo: Factor on the speed of every action.
        arm: The arm of one-armed gestures: -1 on the viewer's left, 1 on the right.
        colors: Part name -> RGB in [0, 1].
        texture: (waves along the torso, waves across it, contrast) of the shirt.
    """

    height: float
    girth: float
    limb_scale: float
    tempo: float
    arm: int
    colors: dict[str, np.ndarray]
    texture: tuple[float, float, float]


def make_performer(number: int, seed: int = 0) -> Performer:
    """Draws performer `number` of the data set with this seed."""
    rng = _make_rng(seed, number)
    colors = {
        "shirt": _draw_color(rng, 0.15, 0.40),
        "print": _draw_color(rng, 0.15, 0.50),
        "trousers": _draw_color(rng, 0.10, 0.40),
        "shoes": _draw_color(rng, 0.05, 0.15),
        "hair": _draw_color(rng, 0.05, 0.25),
        "skin": np.array([1.0, 0.8, 0.66]) * rng.uniform(0.45, 0.95),
        "gloves": _draw_color(rng, 0.85, 0.95),
    }
    texture = (rng.uniform(0.0, 4.0), rng.uniform(0.0, 3.0), rng.uniform(0.2, 0.9))
    return Performer(
        height=rng.uniform(0.70, 0.78),
        girth=rng.uniform(0.85, 1.2),
        limb_scale=rng.uniform(0.93, 1.07),
        tempo=rng.uniform(0.92, 1.08),
        arm=1,
        colors=colors,
        texture=texture,
    )


def _draw_color(rng, low: float, high: float) -> np.ndarray:
    """Draws RGB of a random hue, as strong as it fits, and a luma between two bounds."""
    chroma = rng.uniform(0.0, 1.0, 3)
    chroma = chroma - _LUMA @ chroma
    luma = rng.uniform(low, high)
    strength = np.min(np.where(chroma > 0, 1.0 - luma, luma) / np.abs(chroma))
    return luma + rng.uniform(0.3, 0.9) * strength * chroma


def render_clip(
    action: str, performer: int, take: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one clip of the data set.

    Args:
        action: One of `ACTIONS`.
        performer: Number of the performer, from 0.
        take: Number of the repetition, from 0.
        seed: Seed of the data set.

    Returns:
        frames_THWC uint8 [16, 64, 64, 3] RGB as they are before video compression;
        mask_THW bool, True where the figure covers the pixel's centre.

    Raises:
        ValueError: if there is no such action.
    """
    body, joints, camera_T2, rng = _direct(action, performer, take, seed)
    return _paint(_draw_background(camera_T2, rng), _dress(body, joints))


def trace_joints(action: str, performer: int, take: int, seed: int = 0) -> np.ndarray:
    """Returns joints_TJ2, the true joint positions behind `render_clip`: column, row in pixels."""
    _, joints, _, _ = _direct(action, performer, take, seed)
    return np.stack([joints[name][:, :2] for name in sorted(joints)], axis=1)


def write_performers(folder: str | os.PathLike, seed: int = 0, num_workers: int = 2) -> Path:
    """Writes the data set as .mp4 files in folders by class, with a manifest.csv.

    Does nothing if the folder already holds this version with this seed. Workers are spawned
    processes, so a script that calls this needs the `if __name__ == "__main__"` guard.

    Args:
        folder: Where to; made if missing.
        seed: Seed of everything random.
        num_workers: Number of processes that draw and encode.

    Returns:
        Path of the manifest, with the columns path, label, group (the performer), split, performer,
        take. It is written last: a folder with a manifest is complete.
    """
    folder = Path(folder)
    manifest, marker = folder / "manifest.csv", folder / _MARKER
    content = json.dumps({"version": _VERSION, "seed": seed})
    if manifest.exists() and marker.exists() and marker.read_text() == content:
        return manifest
    marker.unlink(missing_ok=True)
    manifest.unlink(missing_ok=True)
    rows = _list_clips()
    for action in ACTIONS:
        (folder / action).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=gc.freeze) as pool:
        jobs = [(folder, seed, row) for row in rows]
        for _ in pool.map(_write_clip, jobs, chunksize=16):
            pass
    _write_text(marker, content)
    _write_manifest(manifest, rows)
    return manifest


def _list_clips() -> list[dict[str, str]]:
    """Lists the manifest's rows."""
    return [
        {
            "path": f"{action}/performer{performer:02d}_take{take}.mp4",
            "label": action,
            "group": f"performer{performer:02d}",
            "split": split,
            "performer": str(performer),
            "take": str(take),
        }
        for action in ACTIONS
        for split, (performers, takes) in SPLITS.items()
        for performer in performers
        for take in range(takes)
    ]


def _write_clip(job: tuple[Path, int, dict[str, str]]) -> None:
    folder, seed, row = job
    frames, _ = render_clip(row["label"], int(row["performer"]), int(row["take"]), seed)
    video.write_video(folder / row["path"], frames, FPS)


def _write_manifest(path: Path, rows: list[dict[str, str]]) -> None:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(path, lines.getvalue())


def _write_text(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _make_rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))


def _direct(action: str, performer: int, take: int, seed: int):
    """Returns the performer, the joints in pixels, the camera_T2 offsets in pixels and the rng."""
    if action not in ACTIONS:
        raise ValueError(f"no action {action!r}; choose one of {', '.join(ACTIONS)}")
    body = make_performer(performer, seed)
    # Streams below 1000 belong to the performers themselves.
    clip = (performer * len(ACTIONS) + ACTIONS.index(action)) * 1000 + take
    rng = _make_rng(seed, 1000 + clip)
    time_T = np.arange(NUM_FRAMES) / FPS
    joints = (_step if action in _GAITS else _gesture)(action, body, time_T, rng)
    joints, camera_T2 = _film(action, body, joints, time_T, rng)
    return body, joints, camera_T2, rng


# ---- motion: joints_T3 in body heights -----------------------------------------------------------


def _step(action: str, body: Performer, time_T: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Walks, jogs or runs towards +z."""
    gait = _GAITS[action]
    tempo = body.tempo * rng.uniform(0.93, 1.07)
    swing = gait.swing * rng.uniform(0.9, 1.1)
    elbow = gait.elbow + rng.uniform(-0.35, 0.35)
    lean = gait.lean + rng.uniform(-0.09, 0.09)
    start = rng.uniform(0, 2 * np.pi)
    legs, arms = {}, {}
    for side in SIDES:
        phase_T = 2 * np.pi * gait.strides * tempo * time_T + start + np.pi * (side > 0)
        thigh_T = swing * np.sin(phase_T) + 0.3 * lean
        # The knee bends most while its leg swings forward.
        knee_T = 0.12 + gait.knee * (0.5 + 0.5 * np.cos(phase_T + 0.3)) ** 2
        arm_T = -1.1 * swing * np.sin(phase_T)
        legs[side] = (thigh_T, knee_T)
        arms[side] = (arm_T, elbow + 0.2 * np.sin(phase_T))
    joints = _stand(body, legs, np.full_like(time_T, lean))
    for side, (arm_T, elbow_T) in arms.items():
        upper = _UPPER_ARM * body.limb_scale * _point(arm_T)
        joints[f"elbow{side:+d}"] = joints[f"shoulder{side:+d}"] + upper
        fore = _FOREARM * body.limb_scale * _point(arm_T + elbow_T)
        joints[f"hand{side:+d}"] = joints[f"elbow{side:+d}"] + fore
    return joints


def _gesture(action: str, body: Performer, time_T: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Stands and moves the hands."""
    zeros_T = np.zeros_like(time_T)
    sway_T = 0.03 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time_T + rng.uniform(0, 2 * np.pi))
    stance = rng.uniform(-0.4, 0.4)
    legs = {side: (zeros_T + stance * side, zeros_T + rng.uniform(0.1, 0.4)) for side in SIDES}
    joints = _stand(body, legs, 0.03 + sway_T)
    reach = (_UPPER_ARM + _FOREARM) * body.limb_scale
    for side, hand_T3 in _HANDS[action](body, time_T, rng).items():
        shoulder_T3 = joints[f"shoulder{side:+d}"]
        offset_T3 = reach * hand_T3
        elbow_T3, hand_T3 = _bend_arm(body, side, offset_T3)
        joints[f"elbow{side:+d}"] = shoulder_T3 + elbow_T3
        joints[f"hand{side:+d}"] = shoulder_T3 + hand_T3
    return joints


def _stand(body: Performer, legs: dict, lean_T: np.ndarray) -> dict[str, np.ndarray]:
    """Builds legs, torso and head; legs: side -> (thigh_T forward, knee_T flexion), radians."""
    thigh, shin = _THIGH * body.limb_scale, _SHIN * body.limb_scale
    joints, heights = {}, []
    for side, (thigh_T, knee_T) in legs.items():
        hip = np.array([side * _HIP_X, 0.0, 0.0]) * body.girth
        joints[f"hip{side:+d}"] = np.broadcast_to(hip, (len(lean_T), 3))
        joints[f"knee{side:+d}"] = hip + thigh * _point(thigh_T)
        joints[f"foot{side:+d}"] = joints[f"knee{side:+d}"] + shin * _point(thigh_T - knee_T)
        joints[f"toe{side:+d}"] = joints[f"foot{side:+d}"] + 0.06 * _point(
            thigh_T - 0.6 * knee_T + 1.4
        )
        heights.append(-joints[f"foot{side:+d}"][:, 1])
    spine_T3 = -_point(-lean_T)
    joints["pelvis"] = np.zeros((len(lean_T), 3))
    joints["neck"] = _TORSO * spine_T3
    joints["head"] = (_TORSO + _NECK) * spine_T3
    joints["face"] = joints["head"] + np.array([0.0, -0.012, 0.03])
    for side in SIDES:
        across = np.array([side * _SHOULDER_X * body.girth, 0.0, 0.0])
        joints[f"shoulder{side:+d}"] = (_TORSO - 0.02) * spine_T3 + across
    # The lower foot stands on the ground, y = 0.03.
    lift_T3 = np.max(heights, axis=0)[:, None] * np.array([0.0, 1.0, 0.0]) + [0.0, 0.03, 0.0]
    return {name: joint + lift_T3 for name, joint in joints.items()}


def _point(angle_T: np.ndarray) -> np.ndarray:
    """Returns direction_T3 of a limb that hangs down, turned forward (to +z) by an angle."""
    return np.stack([np.zeros_like(angle_T), -np.cos(angle_T), np.sin(angle_T)], axis=-1)


def _bend_arm(body: Performer, side: int, hand_T3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places the elbow, down and outward, for a hand relative to the shoulder (two-link arm)."""
    upper, fore = _UPPER_ARM * body.limb_scale, _FOREARM * body.limb_scale
    distance_T1 = np.linalg.norm(hand_T3, axis=-1, keepdims=True)
    limit_T1 = np.clip(distance_T1, 0.25 * (upper + fore), 0.99 * (upper + fore))
    direction_T3 = hand_T3 / distance_T1
    along_T1 = (upper**2 - fore**2 + limit_T1**2) / (2 * limit_T1)
    aside_T1 = np.sqrt(np.maximum(upper**2 - along_T1**2, 0.0))
    hint = np.array([0.5 * side, -1.0, -0.3])
    hint_T3 = hint - (direction_T3 @ hint)[:, None] * direction_T3
    hint_T3 /= np.linalg.norm(hint_T3, axis=-1, keepdims=True)
    return along_T1 * direction_T3 + aside_T1 * hint_T3, limit_T1 * direction_T3


# Hands: side -> hand_T3 relative to the shoulder of that side, in arm lengths.


def _box(body: Performer, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = 2 * np.pi * 1.3 * _jitter_tempo(body, rng) * time_T + rng.uniform(0, 2 * np.pi)
    height = rng.uniform(-0.15, 0.15)
    hands = {}
    for side in SIDES:
        punch_T = (0.5 + 0.5 * np.cos(phase_T + np.pi * (side > 0))) ** 1.5
        hands[side] = _stack(-0.2 * side, height, 0.45 + 0.48 * punch_T)
    return hands


def _clap(body: Performer, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = 2 * np.pi * 1.5 * _jitter_tempo(body, rng) * time_T + rng.uniform(0, 2 * np.pi)
    gap_T = (0.5 + 0.5 * np.cos(phase_T)) * rng.uniform(0.5, 0.8)
    height = rng.uniform(-0.15, 0.15)
    return {side: _stack(side * (gap_T - 0.33), height, 0.65) for side in SIDES}


def _wave(body: Performer, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = 2 * np.pi * 1.8 * _jitter_tempo(body, rng) * time_T + rng.uniform(0, 2 * np.pi)
    across_T = body.arm * rng.uniform(-0.1, 0.35) + 0.35 * np.sin(phase_T)
    return _raise_one(body, _stack(across_T, rng.uniform(0.1, 0.4), 0.45), rng)


def _swipe(body: Performer, time_T: np.ndarray, rng, sense: int) -> dict[int, np.ndarray]:
    duration = 0.7 / _jitter_tempo(body, rng)
    start = rng.uniform(0.0, time_T[-1] - duration)
    done_T = np.clip((time_T - start) / duration, 0.0, 1.0)
    done_T = done_T**2 * (3 - 2 * done_T)
    across_T = sense * (2 * done_T - 1) * rng.uniform(0.6, 0.75)
    height_T = rng.uniform(-0.05, 0.3) + 0.1 * np.sin(np.pi * done_T)
    return _raise_one(body, _stack(across_T - 0.1 * body.arm, height_T, 0.5), rng)


def _circle(body: Performer, time_T: np.ndarray, rng, sense: int) -> dict[int, np.ndarray]:
    turns_T = rng.uniform(0.65, 1.0) * body.tempo * time_T
    angle_T = np.pi / 2 - sense * 2 * np.pi * turns_T + rng.uniform(-1.2, 1.2)
    radius = rng.uniform(0.42, 0.55)
    across_T = radius * np.cos(angle_T) - 0.1 * body.arm
    return _raise_one(body, _stack(across_T, 0.15 + radius * np.sin(angle_T), 0.5), rng)


def _raise_one(body: Performer, hand_T3: np.ndarray, rng) -> dict[int, np.ndarray]:
    """Gives the hand to the performer's arm; the other hand rests between thigh and chest."""
    hanging, folded = np.array([-0.15, -0.95, 0.1]), np.array([0.2, -0.05, 0.5])
    resting = hanging + rng.uniform(0.0, 1.0) ** 0.4 * (folded - hanging)
    resting[0] *= body.arm
    return {body.arm: hand_T3, -body.arm: np.broadcast_to(resting, hand_T3.shape)}


def _jitter_tempo(body: Performer, rng) -> float:
    return body.tempo * rng.uniform(0.93, 1.07)


def _stack(*xyz) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*xyz), axis=-1)


_HANDS = {
    "box": _box,
    "clap": _clap,
    "wave": _wave,
    "swipe_left": functools.partial(_swipe, sense=-1),
    "swipe_right": functools.partial(_swipe, sense=1),
    "circle_clockwise": functools.partial(_circle, sense=1),
    "circle_anticlockwise": functools.partial(_circle, sense=-1),
}


# ---- pictures: joints_T3 in pixels (column, row, nearness) ---------------------------------------


def _film(action, body, joints, time_T, rng):
    """Turns the body to the camera, which shakes and, for gaits, follows.

    Returns:
        joints in pixels: name -> [T, 3] column, row, nearness; camera_T2 column and row in pixels.
    """
    middle = time_T - time_T.mean()
    yaw = (0.9 if action in _GAITS else 0.55) + rng.uniform(-0.3, 0.3)
    shake_T2 = _drift(time_T, rng, 0.35)
    column_T = SIZE * (0.5 + rng.uniform(-0.06, 0.06)) + np.zeros_like(middle)
    pan_T = 3.0 * rng.normal() * middle
    if action in _GAITS:
        speed = _GAITS[action].drift * SIZE * body.tempo * rng.uniform(0.85, 1.15)
        column_T = column_T + speed * middle
        pan_T = pan_T + 1.5 * speed * middle
    row_T = SIZE * (0.95 + rng.uniform(-0.015, 0.015))
    scale = SIZE * body.height * rng.uniform(0.97, 1.03)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    origin_T3 = np.stack(
        [column_T + shake_T2[:, 0], row_T + shake_T2[:, 1], np.zeros_like(middle)], axis=-1
    )
    pixels = {name: scale * joint @ turn.T + origin_T3 for name, joint in joints.items()}
    return pixels, shake_T2 - np.stack([pan_T, np.zeros_like(pan_T)], axis=-1)


def _drift(time_T: np.ndarray, rng, amplitude: float) -> np.ndarray:
    """Returns a smooth random path_T2: two sine waves a direction."""
    rate_K2, phase_K2 = rng.uniform(0.3, 2.0, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
    waves_TK2 = np.sin(2 * np.pi * rate_K2 * time_T[:, None, None] + phase_K2)
    return amplitude * waves_TK2.sum(axis=1)


@dataclass(frozen=True)
class _Limb:
    """A thick line segment in pixels, with its texture (waves along, waves across, contrast)."""

    start_T2: np.ndarray
    end_T2: np.ndarray
    radii: tuple[float, float]
    color: np.ndarray
    print_color: np.ndarray
    texture: tuple[float, float, float]
    nearness: float


def _dress(body: Performer, joints: dict[str, np.ndarray]) -> list[_Limb]:
    """Lists the figure's limbs from the farthest to the nearest."""
    scale = SIZE * body.height * body.girth
    colors = body.colors

    def limb(start, end, radii, color, bias=0.0, texture=(0.0, 0.0, 0.0)):
        start_T3, end_T3 = joints[start], joints[end]
        depth = float(start_T3[:, 2].mean() + end_T3[:, 2].mean()) / (2 * scale)
        shade = np.clip(1.0 + 1.2 * depth, 0.75, 1.1)  # the far arm and leg are darker
        return _Limb(
            start_T2=start_T3[:, :2],
            end_T2=end_T3[:, :2],
            radii=(radii[0] * scale, radii[1] * scale),
            color=colors[color] * shade,
            print_color=colors["print"] * shade,
            texture=texture,
            nearness=depth + bias,
        )

    limbs = [
        limb("neck", "pelvis", (0.105, 0.085), "shirt", texture=body.texture),
        limb("neck", "head", (0.035, 0.035), "skin", 0.01),
        limb("head", "head", (0.083, 0.083), "hair", 0.02),
        limb("face", "face", (0.068, 0.068), "skin", 0.03),
    ]
    for side in ("-1", "+1"):
        limbs += [
            limb(f"hip{side}", f"knee{side}", (0.062, 0.05), "trousers", -0.02),
            limb(f"knee{side}", f"foot{side}", (0.048, 0.036), "trousers", -0.02),
            limb(f"foot{side}", f"toe{side}", (0.036, 0.03), "shoes", -0.015),
            limb(f"shoulder{side}", f"elbow{side}", (0.05, 0.042), "shirt"),
            limb(f"elbow{side}", f"hand{side}", (0.038, 0.034), "gloves"),
            limb(f"hand{side}", f"hand{side}", (0.05, 0.05), "gloves", 0.005),
        ]
    return sorted(limbs, key=lambda part: part.nearness)


def _draw_background(camera_T2: np.ndarray, rng) -> np.ndarray:
    """Draws a wall of two colours in drifting waves and a floor: float32 [3, T, H, W] in [0, 1]."""
    time_T11 = np.arange(NUM_FRAMES)[:, None, None] / FPS
    column_T1W = (np.arange(SIZE) + 0.5 - camera_T2[:, :1])[:, None, :] / SIZE
    row_TH1 = (np.arange(SIZE) + 0.5 - camera_T2[:, 1:])[:, :, None] / SIZE
    waves_THW = np.float32(0.0)
    for _ in range(3):
        angle, cycles = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.8)
        drift, start = rng.uniform(-0.25, 0.25), rng.uniform(0, 1)
        across_T1W = cycles * np.cos(angle) * column_T1W + drift * time_T11 + start
        down_TH1 = cycles * np.sin(angle) * row_TH1
        phase_THW = across_T1W.astype(np.float32) + down_TH1.astype(np.float32)
        waves_THW = waves_THW + np.sin(np.float32(2 * np.pi) * phase_THW)
    mix_THW = 0.5 + 0.5 * np.tanh(np.float32(1.0) * waves_THW)
    dark, light = _draw_color(rng, 0.10, 0.25), _draw_color(rng, 0.55, 0.75)
    floor_TH1 = 1 / (1 + np.exp((rng.uniform(0.78, 0.86) - row_TH1) * 60))
    shadow_TH1 = (1.0 - rng.uniform(0.2, 0.4) * floor_TH1).astype(np.float32)
    return np.stack(
        [
            shadow_TH1 * (low + (high - low) * mix_THW)
            for low, high in zip(dark.astype(np.float32), light.astype(np.float32))
        ]
    )


def _paint(canvas_CTHW: np.ndarray, limbs: list[_Limb]) -> tuple[np.ndarray, np.ndarray]:
    """Draws limbs over the canvas, in place; returns frames_THWC uint8 and mask_THW bool."""
    mask_THW = np.zeros(canvas_CTHW.shape[1:], bool)
    for limb in limbs:
        box, distance_THW, axes_KTHW = _measure(limb)
        mask_THW[box] |= distance_THW < 0
        alpha_THW = np.clip(0.5 - distance_THW, 0.0, 1.0)
        for canvas_THW, color_THW in zip(canvas_CTHW, _shade(limb, axes_KTHW)):
            canvas_THW[box] += alpha_THW * (color_THW - canvas_THW[box])
    frames_CTHW = np.clip(np.rint(canvas_CTHW * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(frames_CTHW, 0, -1)), mask_THW


def _measure(limb: _Limb):
    """Measures the pixels around a limb.

    Returns:
        box: index of the part of [T, H, W] that the limb can touch; distance_THW to its surface in
        pixels, negative inside; axes: along the limb in [0, 1], and the offset from its middle line
        to the right and downwards, in radii.
    """
    ends_T2 = np.concatenate([limb.start_T2, limb.end_T2])
    margin = max(limb.radii) + 1
    low = np.clip(np.floor(ends_T2.min(axis=0) - margin), 0, SIZE).astype(int)
    high = np.clip(np.ceil(ends_T2.max(axis=0) + margin), 0, SIZE).astype(int)
    box = (slice(None), slice(low[1], high[1]), slice(low[0], high[0]))
    start_2T11 = limb.start_T2.T[:, :, None, None].astype(np.float32)
    bone_2T11 = limb.end_T2.T[:, :, None, None].astype(np.float32) - start_2T11
    right = np.arange(low[0], high[0], dtype=np.float32) + 0.5 - start_2T11[0]
    down = np.arange(low[1], high[1], dtype=np.float32)[:, None] + 0.5 - start_2T11[1]
    length2 = np.maximum((bone_2T11**2).sum(axis=0), 1e-6)
    along = np.clip((right * bone_2T11[0] + down * bone_2T11[1]) / length2, 0.0, 1.0)
    right = right - along * bone_2T11[0]
    down = down - along * bone_2T11[1]
    radius = limb.radii[0] + (limb.radii[1] - limb.radii[0]) * along
    distance = np.sqrt(right**2 + down**2) - radius
    return box, distance, (along, right / radius, down / radius)


def _shade(limb: _Limb, axes) -> list[np.ndarray]:
    """Colours a limb's pixels, lit from the upper left: an array [T, H, W] a channel."""
    along, right, down = axes
    light = 1.0 - 0.12 * right - 0.14 * down
    waves_along, waves_across, contrast = limb.texture
    phase = 2 * np.pi * (waves_along * along + 0.5 * waves_across * right)
    mix = contrast * (0.5 + 0.5 * np.sin(phase)) if contrast else 0.0
    return [
        light * (color + mix * (other - color))
        for color, other in zip(limb.color.astype(np.float32), limb.print_color.astype(np.float32))
    ]
