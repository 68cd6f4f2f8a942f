"""The built-in data set is deterministic and labelled, with exact masks, in real files."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vvae import video
from vvae.data import drawing, performers
from vvae.data.choreography import ACTIONS

ROOT = Path(__file__).resolve().parents[1]


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_clips_are_deterministic_in_another_process():
    frames, mask = performers.render_clip("wave", 3, 1, seed=5)
    code = (
        "import hashlib, numpy as np; from vvae.data import performers as p;"
        "f, m = p.render_clip('wave', 3, 1, seed=5);"
        "print(hashlib.sha256(np.ascontiguousarray(f).tobytes()).hexdigest(),"
        " hashlib.sha256(np.ascontiguousarray(m).tobytes()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == [digest(frames), digest(mask)]


def test_seed_performer_take_and_action_all_matter():
    clips = [
        performers.render_clip(*arguments)[0]
        for arguments in [("box", 0, 0), ("box", 0, 1), ("box", 1, 0), ("run", 0, 0)]
    ]
    clips.append(performers.render_clip("box", 0, 0, seed=1)[0])
    assert len({digest(clip) for clip in clips}) == 5


@pytest.mark.parametrize("action", ACTIONS)
def test_masks_are_the_figure(action):
    """The mask covers a plausible share of the image, and it moves."""
    frames, mask = performers.render_clip(action, 2, 0)
    assert frames.shape == (16, 64, 64, 3) and frames.dtype == np.uint8
    assert mask.shape == frames.shape[:3] and mask.dtype == bool
    share = mask.mean(axis=(1, 2))
    assert np.all((share > 0.01) & (share < 0.5))
    assert (mask[1:] != mask[:-1]).any(axis=(1, 2)).mean() > 0.5


def test_the_same_frames_make_the_same_file(tmp_path):
    """With the assembly of x264, each of these clips gave several different files."""
    for performer in (2, 3):
        frames, _ = performers.render_clip("box", performer, 5)
        files = [tmp_path / f"{performer}_{number}.mp4" for number in range(15)]
        for path in files:
            video.write_video(path, frames, performers.FPS)
        assert len({path.read_bytes() for path in files}) == 1


def test_nothing_but_the_figure_covers_the_background():
    _, _, shift, rng = performers._stage("clap", 1, 2, 0)
    time = np.arange(performers.NUM_FRAMES) / performers.FPS
    background = drawing.draw_background(shift, time, performers.SIZE, rng)
    drawing.light(background, time, rng)
    frames, mask = performers.render_clip("clap", 1, 2)
    expected = np.clip(np.rint(background * 255), 0, 255).astype(np.uint8)
    same = (frames == expected.transpose(1, 2, 3, 0)).all(axis=-1)
    # A limb's soft edge reaches half a pixel beyond it: at most one pixel around the mask.
    near = np.zeros_like(mask)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near |= np.roll(mask, (down, right), axis=(1, 2))
    assert same[~near].all()
    assert same[mask].mean() < 0.02


def test_light_varies_in_three_directions_only():
    """The logarithm of the light is a plane over the image, a different one in each frame."""
    time = np.arange(16) / performers.FPS
    canvas = np.ones((3, 16, 8, 12), np.float32)
    drawing.light(canvas, time, np.random.default_rng(0))
    assert (canvas == canvas[:1]).all()
    planes = np.log(canvas[0].reshape(16, -1).astype(np.float64))
    column, row = np.meshgrid(np.arange(12.0), np.arange(8.0))
    basis = np.stack([np.ones(96), column.ravel(), row.ravel()])
    weights = np.linalg.lstsq(basis.T, planes.T, rcond=None)[0]
    np.testing.assert_allclose(basis.T @ weights, planes.T, atol=1e-6)
    assert (np.abs(np.diff(weights, axis=1)).max(axis=1) > 1e-3).all()


def test_a_disk_covers_the_pixels_within_its_radius():
    centre, ink = np.array([[20.3, 11.8]]), np.ones(3)
    disk = drawing.Limb(
        start_T2=centre,
        end_T2=centre,
        radii=(6.0, 6.0),
        color=ink,
        print_color=ink,
        texture=(0.0, 0.0, 0.0),
        nearness=0.0,
    )
    mask = drawing.paint(np.zeros((3, 1, 32, 40), np.float32), [disk])[0]
    row, column = np.indices((32, 40)) + 0.5
    np.testing.assert_array_equal(mask, np.hypot(column - 20.3, row - 11.8) < 6.0)


def trace_hand(action, performer):
    names, joints = performers.trace_joints(action, performer, 0)
    hand, shoulder = (joints[:, names.index(name)] for name in ("hand+1", "shoulder+1"))
    return hand - shoulder


@pytest.mark.parametrize(("action", "sense"), [("swipe_left", -1), ("swipe_right", 1)])
def test_swipes_go_the_way_that_the_viewer_sees(action, sense):
    for performer in range(10):
        column = trace_hand(action, performer)[:, 0]
        assert sense * (column[-1] - column[0]) > 3.0


@pytest.mark.parametrize(
    ("action", "sense"), [("circle_clockwise", 1), ("circle_anticlockwise", -1)]
)
def test_circles_turn_the_way_that_the_viewer_sees(action, sense):
    for performer in range(10):
        path = trace_hand(action, performer)
        offset = path - path.mean(axis=0)
        angle = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))  # rows grow downwards
        assert sense * (angle[-1] - angle[0]) > np.pi


@pytest.mark.parametrize("arguments", [("dance", 0, 0), ("walk", -1, 0), ("walk", 0, 1000)])
def test_clips_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError, match=r"no action 'dance'|must be at least 0"):
        performers.render_clip(*arguments)


def test_all_actions_and_enough_performers_are_listed():
    counts = {split: (len(who), takes) for split, (who, takes) in performers.SPLITS.items()}
    everyone = [number for who, _ in performers.SPLITS.values() for number in who]
    assert len(everyone) == len(set(everyone)) >= 30
    assert counts["test"][0] >= 10
    assert counts["train"][0] * counts["train"][1] * len(ACTIONS) >= 600
    assert len(ACTIONS) == 10


def test_files_are_written_once_and_completely(tmp_path, monkeypatch):
    # Few performers keep the test short; everything else is as for users.
    few = {"train": (range(2), 1), "val": (range(2, 3), 1), "test": (range(3, 4), 1)}
    monkeypatch.setattr(performers, "SPLITS", few)
    shown = []
    manifest = performers.write_performers(
        tmp_path / "data", num_workers=0, progress=lambda *counts: shown.append(counts)
    )
    assert shown == [(20, 40), (40, 40)]
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(ACTIONS)
    assert {row["label"] for row in rows} == set(ACTIONS)
    groups = {split: {r["group"] for r in rows if r["split"] == split} for split in few}
    assert not groups["train"] & groups["test"]
    info = video.probe(manifest.parent / rows[0]["path"])
    assert (info.num_frames, info.height, info.width) == (16, 64, 64)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.mp4")}
    performers.write_performers(tmp_path / "data", num_workers=0)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.mp4")}
    assert before == after
    # Without its manifest, a folder is incomplete and is written again.
    manifest.unlink()
    performers.write_performers(tmp_path / "data", num_workers=0)
    assert manifest.exists()
