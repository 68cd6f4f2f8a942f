"""Batches are the same from any step on and for any number of processes."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from vvae.data.cache import CodesFile, Entry
from vvae.data.clips import gather_clips
from vvae.data.listing import Video
from vvae.data.loader import (
    Augmentation,
    Cuts,
    channel_statistics,
    eval_batches,
    pixel_statistics,
    shift_clip,
    train_batches,
)
from vvae.data.sampling import ClipFormat, Sampling
from vvae.data.views import get_view


def make_clips(folder, codes_NTHWC, mask_NT=None, view="gray"):
    """Makes clips of videos with two clips each, as the cache would hold them."""
    num_clips, num_frames, height, width, _ = codes_NTHWC.shape
    if mask_NT is None:
        mask_NT = np.ones((num_clips, num_frames), bool)
    videos, entries = [], []
    for start in range(0, num_clips, 2):
        rows = slice(start, start + 2)
        path = folder / f"{start:03}.npy"
        np.save(path, codes_NTHWC[rows])
        frame_NT = np.zeros_like(mask_NT[rows], np.int32)
        entry = Entry(
            codes=CodesFile(str(path)),
            mask_NT=mask_NT[rows],
            frame_NT=frame_NT,
            time_NT=frame_NT * 1.0,
            num_padded=0,
            num_frames=0,
            num_bytes=0,
        )
        entries.append(entry)
        name, label = f"{start}", f"class {start % 3}"
        video = Video(path=f"/v/{name}", name=name, label=label, group=name, split=None)
        videos.append(video)
    clip_format = ClipFormat(view, height, width, Sampling(num_frames))
    return gather_clips(clip_format, videos, entries, ["class 0", "class 1", "class 2"])


def make_noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def codes():
    return make_noise((11, 3, 4, 5, 1))


@pytest.fixture
def clips(tmp_path, codes):
    mask_NT = np.random.default_rng(1).random((11, 3)) < 0.8
    return make_clips(tmp_path, codes, mask_NT)


def take(clips, count, *args, **options):
    batches = train_batches(clips, *args, **options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(batches, others):
    assert [step for step, _ in batches] == [step for step, _ in others]
    for (_, batch), (_, other) in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_batch_holds_the_clips_of_its_index(clips, codes):
    for number, (step, batch) in enumerate(take(clips, 5, 4, seed=3)):
        assert step == number
        index = batch["index"]
        assert {name: value.dtype for name, value in batch.items()} == {
            "video": np.uint8,
            "mask": bool,
            "index": np.int32,
            "label": np.int32,
        }
        np.testing.assert_array_equal(batch["video"], codes[index])
        np.testing.assert_array_equal(batch["mask"], clips.mask_NT[index])
        np.testing.assert_array_equal(batch["label"], clips.label_N[index])


def test_every_epoch_holds_every_clip_once_in_another_order(clips):
    stream = np.concatenate([batch["index"] for _, batch in take(clips, 11, 4, seed=3)])
    epochs = stream.reshape(4, 11)  # batches of 4 reach over the ends of epochs of 11
    for epoch in epochs:
        assert sorted(epoch) == list(range(11))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_is_that_of_philox_by_seed_and_epoch(clips):
    stream = np.concatenate([batch["index"] for _, batch in take(clips, 2, 11, seed=5)])
    for epoch in range(2):
        order = np.random.Generator(np.random.Philox(key=[5, epoch])).permutation(11)
        np.testing.assert_array_equal(stream[11 * epoch :][:11], order)


def test_seed_decides_the_order(clips):
    first, same, other = (
        [batch["index"].tolist() for _, batch in take(clips, 4, 4, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == same != other


@pytest.mark.parametrize("start", [1, 3, 8])
def test_stream_continues_from_any_step(clips, start):
    augmentation = Augmentation(flip=True, crop=2, brightness=0.3)
    whole = take(clips, 10, 4, seed=3, augmentation=augmentation)
    rest = take(clips, 10 - start, 4, seed=3, start_step=start, augmentation=augmentation)
    assert_same(whole[start:], rest)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_global_batch(clips, process_count):
    augmentation = Augmentation(flip=True, crop=1)
    whole = take(clips, 6, 8, seed=3, augmentation=augmentation)
    parts = [
        take(
            clips,
            6,
            8,
            seed=3,
            process_index=k,
            process_count=process_count,
            augmentation=augmentation,
        )
        for k in range(process_count)
    ]
    joined = [
        (rows[0][0], {name: np.concatenate([row[1][name] for row in rows]) for name in rows[0][1]})
        for rows in zip(*parts)
    ]
    assert_same(whole, joined)


def test_batch_larger_than_the_data(clips):
    ((_, batch),) = take(clips, 1, 30, seed=0)
    assert set(Counter(batch["index"].tolist()).values()) == {2, 3}


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_sees_every_clip_once(clips, codes, batch_size, process_count):
    if batch_size % process_count:
        batch_size *= process_count
    seen = [
        list(eval_batches(clips, batch_size, process_index, process_count))
        for process_index in range(process_count)
    ]
    assert {len(batches) for batches in seen} == {-(-11 // batch_size)}
    indices = []
    for batches in zip(*seen):
        for batch in batches:
            assert len(batch["video"]) == len(batch["valid"]) == batch_size // process_count
            np.testing.assert_array_equal(batch["video"], codes[batch["index"]])
            assert (batch["index"][~batch["valid"]] == 10).all()
            indices += batch["index"][batch["valid"]].tolist()
    assert indices == list(range(11))


def count_loader_threads():
    return sum(thread.name.startswith("vvae-loader") for thread in threading.enumerate())


def test_closing_ends_the_threads(clips):
    batches = train_batches(clips, 4, seed=0)
    assert count_loader_threads() == 0
    next(batches)
    assert count_loader_threads() > 0
    batches.close()
    assert count_loader_threads() == 0


def test_dropped_and_finished_iterators_end_their_threads(clips):
    batches = eval_batches(clips, 4)
    next(batches)
    del batches
    assert count_loader_threads() == 0
    assert len(list(eval_batches(clips, 4))) == 3
    assert count_loader_threads() == 0


def test_error_of_a_lost_cache_reaches_the_caller(clips, tmp_path):
    (tmp_path / "004.npy").unlink()
    with pytest.raises(FileNotFoundError, match="was removed from the cache"):
        take(clips, 3, 11, seed=0)
    assert count_loader_threads() == 0


def test_augmentation_is_the_same_for_all_frames(tmp_path):
    still = np.repeat(make_noise((6, 1, 8, 9, 1)), 4, axis=1)
    clips = make_clips(tmp_path, still)
    batches = take(clips, 6, 6, seed=0, augmentation=Augmentation(True, 3, 0.5))
    changed = 0
    for _, batch in batches:
        assert (batch["video"] == batch["video"][:, :1]).all()
        changed += (batch["video"] != still[batch["index"]]).any(axis=(1, 2, 3, 4)).sum()
    assert changed >= 30


def test_augmentation_depends_on_step_and_clip(tmp_path):
    same = np.repeat(make_noise((1, 2, 8, 9, 1)), 8, axis=0)
    clips = make_clips(tmp_path, same)
    (_, first), (_, second) = take(clips, 2, 8, seed=0, augmentation=Augmentation(crop=3))
    assert len({video.tobytes() for video in first["video"]}) > 4
    order = np.argsort(first["index"]), np.argsort(second["index"])
    assert (first["video"][order[0]] != second["video"][order[1]]).any()


def test_flip_mirrors_about_half_of_the_clips(tmp_path):
    codes = make_noise((20, 2, 4, 6, 1))
    clips = make_clips(tmp_path, codes)
    flipped = 0
    for _, batch in take(clips, 10, 20, seed=0, augmentation=Augmentation(flip=True)):
        for video, index in zip(batch["video"], batch["index"]):
            is_mirrored = np.array_equal(video, codes[index][:, :, ::-1])
            assert is_mirrored or np.array_equal(video, codes[index])
            flipped += is_mirrored
    assert 70 <= flipped <= 130  # of 200; four standard deviations are 28


def test_shift_repeats_the_edge():
    clip = np.arange(12).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(shift_clip(clip, 0, 0), clip)
    assert shift_clip(clip, 1, -2)[0, :, :, 0].tolist() == [[2, 3, 3, 3]] * 2 + [[6, 7, 7, 7]]


def test_crop_limits_the_shift(tmp_path):
    codes = make_noise((10, 2, 9, 9, 1))
    clips = make_clips(tmp_path, codes)
    shifts = set()
    for _, batch in take(clips, 8, 10, seed=0, augmentation=Augmentation(crop=1)):
        for video, index in zip(batch["video"], batch["index"]):
            found = [
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if np.array_equal(video, shift_clip(codes[index], down, right))
            ]
            assert len(found) == 1
            shifts.update(found)
    assert shifts == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_brightness_changes_intensities_only(tmp_path):
    codes = make_noise((6, 2, 4, 4, 2)) // 4 + 96  # 96..159: nothing is clipped
    clips = make_clips(tmp_path, codes, view="gray+difference")
    changes = set()
    for _, batch in take(clips, 4, 6, seed=0, augmentation=Augmentation(brightness=0.2)):
        change = batch["video"].astype(int) - codes[batch["index"]]
        assert (change[..., 1] == 0).all()
        assert (change == change[:, :1, :1, :1]).all()
        changes.update(change[:, 0, 0, 0, 0].tolist())
    assert len(changes) > 10 and max(map(abs, changes)) <= 51


def test_brightness_stays_in_range(tmp_path):
    codes = np.tile(np.array([0, 255], np.uint8), (6, 2, 4, 2))[..., None]
    clips = make_clips(tmp_path, codes)
    seen = set()
    for _, batch in take(clips, 4, 6, seed=0, augmentation=Augmentation(brightness=0.2)):
        dark, bright = batch["video"][..., ::2, 0], batch["video"][..., 1::2, 0]
        assert dark.max() <= 51 and bright.min() >= 255 - 51
        seen |= {int(dark.max()), int(bright.min())}
    assert len(seen) > 5


def test_invalid_settings_are_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=r"batch size 5 must be a positive multiple .* 2"):
        train_batches(clips, 5, seed=0, process_count=2)
    with pytest.raises(ValueError, match="batch size 0"):
        eval_batches(clips, 0)
    with pytest.raises(ValueError, match="process 2 is not one of 2"):
        train_batches(clips, 4, seed=0, process_index=2, process_count=2)
    with pytest.raises(ValueError, match="seed and start_step must be at least 0, got -1 and 0"):
        train_batches(clips, 4, seed=-1)
    with pytest.raises(ValueError, match="no clips"):
        train_batches(clips.select([]), 4, seed=0)
    with pytest.raises(ValueError, match=r"augmentation\.crop must be at least 0, got -1"):
        Augmentation(crop=-1)
    with pytest.raises(ValueError, match=r"augmentation\.brightness must be in \[0, 1\], got 2"):
        Augmentation(brightness=2)
    moving = make_clips(tmp_path, make_noise((2, 2, 4, 4, 1)), view="difference")
    with pytest.raises(ValueError, match="brightness does not apply to the view difference"):
        train_batches(moving, 2, seed=0, augmentation=Augmentation(brightness=0.1))


def test_statistics_are_those_of_the_valid_frames(clips, codes):
    mean, std = pixel_statistics(clips)
    frames = codes[clips.mask_NT].astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(mean, frames.mean(axis=0), atol=1e-7)
    assert std == pytest.approx(np.sqrt(((frames - frames.mean(axis=0)) ** 2).mean()), rel=1e-12)
    assert mean.dtype == np.float32 and mean.shape == (4, 5, 1) and isinstance(std, float)


def test_channel_statistics_are_those_of_the_valid_frames(clips, codes):
    mean_C, std_C = channel_statistics(clips)
    values = (codes[clips.mask_NT].astype(np.float64) / 127.5 - 1).reshape(-1, codes.shape[-1])
    np.testing.assert_allclose(mean_C, values.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(std_C, values.std(axis=0), rtol=1e-6)
    assert mean_C.dtype == std_C.dtype == np.float32


def test_channel_statistics_of_constant_data_are_an_error(tmp_path):
    codes = np.full((4, 3, 8, 8, 1), 100, np.uint8)
    with pytest.raises(ValueError, match="every channel of the training clips is constant"):
        channel_statistics(make_clips(tmp_path, codes))
    codes[0, 0, 0, 0] = 101
    assert channel_statistics(make_clips(tmp_path, codes))[1] == np.float32(1 / 127.5)


def test_statistics_of_more_clips_than_are_read_at_once(tmp_path):
    codes = make_noise((5, 8, 512, 512, 1)) // 2
    codes[3:] += 100
    mean, std = pixel_statistics(make_clips(tmp_path, codes))
    exact = codes.reshape(-1, 512, 512, 1).mean(axis=0)
    np.testing.assert_allclose(mean, exact / 127.5 - 1, atol=1e-6)
    assert std * 127.5 == pytest.approx(np.sqrt(((codes - exact) ** 2).mean()), rel=1e-12)


def test_statistics_of_constant_data_are_an_error(tmp_path):
    picture = np.broadcast_to(make_noise((1, 1, 8, 8, 1)), (4, 3, 8, 8, 1))
    with pytest.raises(ValueError, match=r"all 12 frames .* are the same image under the view"):
        pixel_statistics(make_clips(tmp_path, picture))


def test_statistics_of_nearly_constant_data_have_a_floor(tmp_path):
    codes = np.full((4, 3, 8, 8, 1), 100, np.uint8)
    codes[0, 0, 0, 0] = 101
    assert pixel_statistics(make_clips(tmp_path, codes))[1] == 1 / 127.5


def test_view_of_clips(clips):
    assert clips.view == get_view("gray")


def test_lengths_follow_the_schedule_from_any_step_on(clips, codes):
    cuts = Cuts(lengths=((0, 1), (5, 2), (12, 3)))
    whole = take(clips, 14, 4, seed=2)
    cut = take(clips, 14, 4, seed=2, cuts=cuts)
    assert [batch["video"].shape[1] for _, batch in cut] == [1] * 5 + [2] * 7 + [3] * 2
    offsets = set()
    for (_, old), (_, new) in zip(whole, cut):
        length = new["video"].shape[1]
        np.testing.assert_array_equal(new["index"], old["index"])
        for row in range(4):
            found = [
                start
                for start in range(4 - length)
                if (old["video"][row, start : start + length] == new["video"][row]).all()
            ]
            assert len(found) == 1
            offsets.add((length, found[0]))
            part = old["mask"][row, found[0] : found[0] + length]
            np.testing.assert_array_equal(new["mask"][row], part)
    assert offsets == {(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0)}
    for (step, expected), (again, batch) in zip(
        cut[4:], take(clips, 10, 4, seed=2, cuts=cuts, start_step=4)
    ):
        assert step == again
        np.testing.assert_array_equal(batch["video"], expected["video"])


def test_images_are_one_frame_and_all_others_are_masked(clips):
    whole = take(clips, 20, 4, seed=2)
    mixed = take(clips, 20, 4, seed=2, cuts=Cuts(images=0.5))
    frames, count = set(), 0
    for (_, old), (_, new) in zip(whole, mixed):
        for row in range(4):
            if (new["video"][row] == old["video"][row]).all():
                np.testing.assert_array_equal(new["mask"][row], old["mask"][row])
                continue
            count += 1
            (frame,) = [t for t in range(3) if (old["video"][row, t] == new["video"][row, 0]).all()]
            np.testing.assert_array_equal(new["video"][row], old["video"][row, [frame] * 3])
            assert new["mask"][row].tolist() == [old["mask"][row, frame], False, False]
            frames.add(frame)
    assert frames == {0, 1, 2} and 25 <= count <= 55  # of 80; 40 expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cuts(lengths=((1, 3),)), "begin at step 0 and rise"),
        (lambda: Cuts(lengths=((0, 3), (0, 2))), "begin at step 0 and rise"),
        (lambda: Cuts(images=1.5), r"must be in \[0, 1\]"),
    ],
)
def test_invalid_cuts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_cuts_longer_than_the_clips_are_refused(clips):
    with pytest.raises(ValueError, match="cuts of 4 frames do not fit into clips of 3"):
        take(clips, 1, 4, seed=0, cuts=Cuts(lengths=((0, 4),)))
