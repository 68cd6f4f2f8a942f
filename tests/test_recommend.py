"""Which configuration is recommended for which videos."""

import os
import sys

import numpy as np
import pytest

from vvae.commands import train
from vvae.config_files import load_config_file
from vvae.data.check import format_summary, summarize
from vvae.data.listing import list_videos
from vvae.data.recommend import recommend
from vvae.session import preview


def write(path, seed, num_frames=6, background=None):
    """Writes noise, or a background with a bright square at a place of its own."""
    rng = np.random.default_rng(seed)
    if background is None:
        frames = rng.integers(0, 256, (num_frames, 48, 64, 1), dtype=np.uint8)
    else:
        frames = np.repeat(background[None], num_frames, axis=0)
        row, column = rng.integers(0, 40), rng.integers(0, 56)
        frames[:, row : row + 8, column : column + 8] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, frames)


@pytest.fixture
def background():
    return np.random.default_rng(9).integers(0, 200, (48, 64, 1), dtype=np.uint8)


def find(root):
    advice = recommend(list_videos(root))
    load_config_file(advice.config)  # it exists
    return advice


def test_short_videos_of_several_classes_are_actions(tmp_path):
    for number in range(6):
        write(tmp_path / ("up", "down")[number % 2] / f"{number}.npy", number)
    advice = find(tmp_path)
    assert advice.config == "actions"
    assert advice.reason.startswith("6 videos of 2 classes, with a median of 6 frames: short")


def test_long_videos_or_a_single_class_are_seen_piece_by_piece(tmp_path):
    for number in range(4):
        write(tmp_path / "one" / "up" / f"{number}.npy", number)
        write(tmp_path / "long" / ("up", "down")[number % 2] / f"{number}.npy", number, 601)
    assert find(tmp_path / "one").config == "default"
    assert find(tmp_path / "long").config == "default"


@pytest.mark.parametrize("splits", [("train", "train", "test"), ("", "", "")])
def test_one_background_without_classes_is_surveillance(splits, tmp_path, background):
    for number in range(6):
        write(tmp_path / splits[number % 3] / f"{number}.npy", number, background=background)
    advice = find(tmp_path)
    assert advice.config == "surveillance"
    assert ("all of them must be normal" in advice.reason) == (splits[0] == "")


def test_another_background_in_each_video_is_not(tmp_path, background):
    for number in range(6):
        moved = np.roll(background, 7 * number, axis=1)
        write(tmp_path / ("train", "test")[number // 4] / f"{number}.npy", number, background=moved)
    assert find(tmp_path).config == "default"


def test_stated_abnormal_frames_are_surveillance(tmp_path):
    rows = ["path,split,abnormal"]
    for number in range(4):
        write(tmp_path / f"{number}.npy", number)
        rows.append(f"{number}.npy,{'train' if number < 2 else 'test'},{'1-2' * (number > 2)}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    assert find(tmp_path).config == "surveillance"


def test_real_sets(shared_data):
    assert find(shared_data("gestures")).config == "actions"
    assert find(shared_data("ped2") / "train").config == "surveillance"
    assert find(shared_data("clips") / "natural").config == "default"


def test_check_ends_with_the_command_and_the_reason(tmp_path):
    folder = tmp_path / "my class"
    for number in range(6):
        write(folder / ("up", "down")[number % 2] / f"{number}.npy", number)
    (folder / "up" / "broken.mp4").write_bytes(b"no video")
    *_, command, reason = format_summary(summarize(folder)).splitlines()
    assert command == f"  advice   vvae train actions --data.path '{folder}'"
    assert reason.strip().startswith("(6 videos of 2 classes")


def test_there_is_no_advice_where_nothing_can_be_read(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "  advice " not in format_summary(summarize(tmp_path))


def test_a_training_lists_its_folder_once(tmp_path):
    """A folder is looked into as by `list_videos` alone, and once more in search of tars."""
    for label in ("dark", "light"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(4):
            frames = np.full((6, 16, 16), 60 + 10 * number + 100 * (label == "light"), np.uint8)
            np.save(tmp_path / "videos" / label / f"{number}.npy", frames)
    watched, looks = os.path.join(tmp_path, "videos", "dark"), []

    def note(event, arguments):  # a hook stays for good: it does nothing once `looks` is None
        if looks is not None and event == "os.scandir" and arguments[0] == watched:
            looks.append(event)

    sys.addaudithook(note)
    list_videos(tmp_path / "videos")
    once = len(looks)
    looks.clear()
    words = ["--data.path", str(tmp_path / "videos"), "--data.cache_dir", str(tmp_path / "cache")]
    words += ["--data.view", "gray", "--data.workers", "0", "--workdir", str(tmp_path / "run")]
    request = train.read_request(words)
    dataset = preview.open_data(request.config, request.videos)
    found, looks = len(looks), None
    assert request.note.startswith("settings: actions")
    assert len(dataset.splits["train"].videos)
    assert found == once + 1
