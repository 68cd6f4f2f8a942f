"""Actions and gestures of an articulated body: joints in three dimensions, then seen by a camera.

Joints are a dictionary from names to [T, 3]. The names of limbs end in the side of the body: `+1`
is the viewer's right and `-1` the viewer's left when the body faces the viewer. The body looks
along +z, x points to the viewer's right, y points up, the ground is y = 0, and the unit is the
height of the body.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SIDES = (-1, 1)
_THIGH, _SHIN, _TORSO, _NECK = 0.26, 0.24, 0.30, 0.13
_UPPER_ARM, _FOREARM = 0.175, 0.165
_SHOULDER_X, _HIP_X, _FOOT, _ANKLE_Y = 0.125, 0.065, 0.06, 0.03
_BOX_RATE, _CLAP_RATE, _WAVE_RATE = 1.3, 1.5, 1.8  # 1/s
_SWIPE_SECONDS = 0.7
# The camera follows a walking figure only in part. It pans by this multiple of the figure's drift
# through the image, which moves the background.
_PAN_SHARE = 1.5


class _Gait(NamedTuple):
    strides: float  # rate of strides, of two steps each, 1/s
    swing: float  # swing of the hips, rad
    knee: float  # largest flexion of the knees, rad
    lean: float  # lean of the torso, rad
    elbow: float  # flexion of the elbows, rad
    drift: float  # speed of the figure through the image, widths/s


_GAITS = {
    "walk": _Gait(strides=0.85, swing=0.48, knee=1.05, lean=0.08, elbow=0.80, drift=0.05),
    "jog": _Gait(strides=1.20, swing=0.54, knee=1.15, lean=0.12, elbow=0.90, drift=0.18),
    "run": _Gait(strides=1.60, swing=0.60, knee=1.25, lean=0.16, elbow=1.00, drift=0.34),
}


@dataclass(frozen=True)
class Physique:
    """A body, as far as its movement depends on it.

    Attributes:
      height: The height of the body, as a share of the height of the image.
      girth: A factor on the breadth of the body and the thickness of its limbs.
      limb_scale: A factor on the length of arms and legs.
      tempo: A factor on the speed of every action.
    """

    height: float
    girth: float
    limb_scale: float
    tempo: float


def move(
    action: str, body: Physique, time_T: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Performs an action.

    Args:
      action: One of `ACTIONS`.
      body: The body that moves.
      time_T: The times of the frames, s, ascending from 0.
      rng: The source of the phase, speed, size and place of the movement; it is advanced.

    Returns:
      Joints in body heights: name -> [T, 3]; see the module docstring.

    Raises:
      ValueError: If there is no such action.
    """
    if action in _GAITS:
        return _step(_GAITS[action], body, time_T, rng)
    if action in _HANDS:
        return _gesture(_HANDS[action], body, time_T, rng)
    raise ValueError(f"no action {action!r}; choose one of {', '.join(ACTIONS)}")


def film(
    action: str,
    body: Physique,
    joints: dict[str, np.ndarray],
    time_T: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Projects the joints onto a camera that shakes, pans and follows a walking figure.

    Args:
      action: One of `ACTIONS`.
      body: The body that is seen.
      joints: The joints that `move` returned.
      time_T: The times of the frames, s.
      size: The number of rows and of columns of the image, pixels.
      rng: The source of the place and the movement of the camera; it is advanced.

    Returns:
      joints: Joints in pixels, (column, row, nearness): name -> [T, 3].
      shift_T2: The shift of the background, columns and rows, in pixels.
    """
    middle_T = time_T - time_T.mean()
    gait = _GAITS.get(action)
    yaw = (0.9 if gait else 0.55) + rng.uniform(-0.3, 0.3)
    shake_T2 = _shake(time_T, rng)
    column_T = size * (0.5 + rng.uniform(-0.07, 0.07)) + np.zeros_like(time_T)
    pan_T = 0.05 * size * rng.normal() * middle_T
    if gait:
        speed = gait.drift * size * body.tempo * rng.uniform(0.85, 1.15)
        column_T = column_T + speed * middle_T
        pan_T = pan_T + _PAN_SHARE * speed * middle_T
    row_T = size * (0.95 + rng.uniform(-0.015, 0.015)) + np.zeros_like(time_T)
    scale = size * body.height * rng.uniform(0.97, 1.03)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    origin_T3 = _stack(column_T + shake_T2[:, 0], row_T + shake_T2[:, 1], 0.0)
    pixels = {name: scale * joint_T3 @ turn.T + origin_T3 for name, joint_T3 in joints.items()}
    return pixels, shake_T2 - np.stack([pan_T, np.zeros_like(pan_T)], axis=-1)


def _shake(time_T: np.ndarray, rng) -> np.ndarray:
    """Returns a smooth random path_T2 in pixels: the sum of two sine waves in each direction."""
    rate_K2, phase_K2 = rng.uniform(0.3, 2.0, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
    waves_TK2 = np.sin(2 * np.pi * rate_K2 * time_T[:, None, None] + phase_K2)
    return 0.35 * waves_TK2.sum(axis=1)


def _step(gait: _Gait, body: Physique, time_T: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Walks, jogs or runs towards +z."""
    strides = gait.strides * _jitter_tempo(body, rng)
    swing = gait.swing * rng.uniform(0.9, 1.1)
    elbow = gait.elbow + rng.uniform(-0.35, 0.35)
    lean = gait.lean + rng.uniform(-0.09, 0.09)
    start = rng.uniform(0, 2 * np.pi)
    legs, arms = {}, {}
    for side in SIDES:
        phase_T = 2 * np.pi * strides * time_T + start + np.pi * (side > 0)
        # The knee bends most while its leg swings forward; the arms swing against the legs.
        knee_T = 0.12 + gait.knee * (0.5 + 0.5 * np.cos(phase_T + 0.3)) ** 2
        legs[side] = (swing * np.sin(phase_T) + 0.3 * lean, knee_T)
        arms[side] = (-1.1 * swing * np.sin(phase_T), elbow + 0.2 * np.sin(phase_T))
    joints = _stand(body, legs, np.full_like(time_T, lean))
    for side, (shoulder_T, elbow_T) in arms.items():
        upper_T3 = _UPPER_ARM * body.limb_scale * _point(shoulder_T)
        fore_T3 = _FOREARM * body.limb_scale * _point(shoulder_T + elbow_T)
        joints[f"elbow{side:+d}"] = joints[f"shoulder{side:+d}"] + upper_T3
        joints[f"hand{side:+d}"] = joints[f"elbow{side:+d}"] + fore_T3
    return joints


def _gesture(move_hands, body: Physique, time_T: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Stands in a random stance, like that of a step, and moves the hands."""
    sway_T = 0.03 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time_T + rng.uniform(0, 2 * np.pi))
    stance = rng.uniform(-0.4, 0.4)
    still_T = np.zeros_like(time_T)
    legs = {side: (still_T + stance * side, still_T + rng.uniform(0.1, 0.4)) for side in SIDES}
    joints = _stand(body, legs, 0.03 + sway_T)
    reach = (_UPPER_ARM + _FOREARM) * body.limb_scale
    for side, hand_T3 in move_hands(body, time_T, rng).items():
        elbow_T3, hand_T3 = _bend_arm(body, side, reach * hand_T3)
        joints[f"elbow{side:+d}"] = joints[f"shoulder{side:+d}"] + elbow_T3
        joints[f"hand{side:+d}"] = joints[f"shoulder{side:+d}"] + hand_T3
    return joints


def _stand(body: Physique, legs: dict, lean_T: np.ndarray) -> dict[str, np.ndarray]:
    """Builds legs, torso and head.

    Args:
      body: The body.
      legs: Side -> (forward angle of the thigh_T, flexion of the knee_T), rad.
      lean_T: The lean of the torso, rad.
    """
    joints = {"pelvis": np.zeros((len(lean_T), 3))}
    for side, (thigh_T, knee_T) in legs.items():
        hip_T3 = _stack(side * _HIP_X * body.girth + 0.0 * lean_T, 0.0, 0.0)
        knee_T3 = hip_T3 + _THIGH * body.limb_scale * _point(thigh_T)
        foot_T3 = knee_T3 + _SHIN * body.limb_scale * _point(thigh_T - knee_T)
        toe_T3 = foot_T3 + _FOOT * _point(thigh_T - 0.6 * knee_T + 1.4)
        leg = {"hip": hip_T3, "knee": knee_T3, "foot": foot_T3, "toe": toe_T3}
        joints |= {f"{name}{side:+d}": joint_T3 for name, joint_T3 in leg.items()}
    spine_T3 = -_point(-lean_T)
    joints["neck"] = _TORSO * spine_T3
    joints["head"] = (_TORSO + _NECK) * spine_T3
    joints["face"] = joints["head"] + [0.0, -0.012, 0.03]
    for side in SIDES:
        across = [side * _SHOULDER_X * body.girth, 0.0, 0.0]
        joints[f"shoulder{side:+d}"] = (_TORSO - 0.02) * spine_T3 + across
    lower_T = np.min([joints[f"foot{side:+d}"][:, 1] for side in SIDES], axis=0)
    ground_T3 = _stack(0.0, lower_T - _ANKLE_Y, 0.0)  # the lower foot stands
    return {name: joint_T3 - ground_T3 for name, joint_T3 in joints.items()}


def _bend_arm(body: Physique, side: int, hand_T3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns elbow_T3, bent down and outward, and hand_T3, moved within reach (two links)."""
    upper, fore = _UPPER_ARM * body.limb_scale, _FOREARM * body.limb_scale
    distance_T1 = np.linalg.norm(hand_T3, axis=-1, keepdims=True)
    direction_T3 = hand_T3 / distance_T1
    reach_T1 = np.clip(distance_T1, 0.25 * (upper + fore), 0.99 * (upper + fore))
    along_T1 = (upper**2 - fore**2 + reach_T1**2) / (2 * reach_T1)
    aside_T1 = np.sqrt(np.maximum(upper**2 - along_T1**2, 0.0))
    hint = np.array([0.5 * side, -1.0, -0.3])
    hint_T3 = hint - (direction_T3 @ hint)[:, None] * direction_T3
    hint_T3 /= np.linalg.norm(hint_T3, axis=-1, keepdims=True)
    return along_T1 * direction_T3 + aside_T1 * hint_T3, reach_T1 * direction_T3


# The following functions return the movement of the hands: side -> hand_T3 relative to the shoulder
# of that side, in arm lengths.


def _box(body: Physique, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = _oscillate(_BOX_RATE, body, time_T, rng)
    height = rng.uniform(-0.15, 0.15)
    hands = {}
    for side in SIDES:
        punch_T = (0.5 + 0.5 * np.cos(phase_T + np.pi * (side > 0))) ** 1.5
        hands[side] = _stack(-0.2 * side, height, 0.45 + 0.48 * punch_T)
    return hands


def _clap(body: Physique, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = _oscillate(_CLAP_RATE, body, time_T, rng)
    gap_T = (0.5 + 0.5 * np.cos(phase_T)) * rng.uniform(0.5, 0.8)
    height = rng.uniform(-0.15, 0.15)
    return {side: _stack(side * (gap_T - 0.33), height, 0.65) for side in SIDES}


def _wave(body: Physique, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    phase_T = _oscillate(_WAVE_RATE, body, time_T, rng)
    across_T = rng.uniform(-0.1, 0.35) + 0.35 * np.sin(phase_T)
    return _raise_one(_stack(across_T, rng.uniform(0.1, 0.4), 0.45), rng)


def _swipe(sense: int, body: Physique, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    seconds = _SWIPE_SECONDS / _jitter_tempo(body, rng)
    start = rng.uniform(0.0, max(time_T[-1] - seconds, 0.0))
    done_T = np.clip((time_T - start) / seconds, 0.0, 1.0)
    done_T = done_T**2 * (3 - 2 * done_T)
    across_T = sense * (2 * done_T - 1) * rng.uniform(0.6, 0.75) - 0.1
    height_T = rng.uniform(-0.05, 0.3) + 0.1 * np.sin(np.pi * done_T)
    return _raise_one(_stack(across_T, height_T, 0.5), rng)


def _circle(sense: int, body: Physique, time_T: np.ndarray, rng) -> dict[int, np.ndarray]:
    turns_T = rng.uniform(0.65, 1.0) * body.tempo * time_T
    angle_T = np.pi / 2 - sense * 2 * np.pi * turns_T + rng.uniform(-1.2, 1.2)
    radius = rng.uniform(0.42, 0.55)
    across_T, height_T = radius * np.cos(angle_T) - 0.1, radius * np.sin(angle_T) + 0.15
    return _raise_one(_stack(across_T, height_T, 0.5), rng)


def _raise_one(hand_T3: np.ndarray, rng) -> dict[int, np.ndarray]:
    """Moves the hand on the viewer's right; the other hand rests between thigh and chest."""
    hanging, folded = np.array([-0.15, -0.95, 0.1]), np.array([0.2, -0.05, 0.5])
    resting = hanging + rng.uniform(0.0, 1.0) ** 0.4 * (folded - hanging)
    return {1: hand_T3, -1: np.broadcast_to(resting, hand_T3.shape)}


_HANDS = {
    "box": _box,
    "clap": _clap,
    "wave": _wave,
    "swipe_left": functools.partial(_swipe, -1),
    "swipe_right": functools.partial(_swipe, 1),
    "circle_clockwise": functools.partial(_circle, 1),
    "circle_anticlockwise": functools.partial(_circle, -1),
}
ACTIONS = tuple(sorted((*_GAITS, *_HANDS)))


def _oscillate(rate: float, body: Physique, time_T: np.ndarray, rng) -> np.ndarray:
    """Returns phase_T in radians, from a random start."""
    return 2 * np.pi * rate * _jitter_tempo(body, rng) * time_T + rng.uniform(0, 2 * np.pi)


def _jitter_tempo(body: Physique, rng) -> float:
    return body.tempo * rng.uniform(0.93, 1.07)


def _point(angle_T: np.ndarray) -> np.ndarray:
    """Returns direction_T3 of a hanging limb that is turned forward (towards +z) by an angle."""
    return _stack(0.0, -np.cos(angle_T), np.sin(angle_T))


def _stack(*xyz) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*xyz), axis=-1)
