"""Estimates of the size of a data set against the size in the cache."""

import numpy as np

from vvae import video
from vvae.data.dataset import Cache, Decoding, open_unsplit
from vvae.data.listing import list_videos
from vvae.data.sampling import ClipFormat, Sampling
from vvae.data.size import estimate_size


def write_folder(folder):
    frames = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), dtype=np.uint8)
    video.write_video(folder / "a.mp4", frames, 10.0)
    video.write_video(folder / "b.mkv", frames[:9], 10.0)
    np.save(folder / "c.npy", frames[:4])


def test_estimate_equals_the_size_in_the_cache(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_folder(folder)
    for sampling in (Sampling(4), Sampling(4, frame_stride=2), Sampling(4, mode="whole")):
        clip_format = ClipFormat("rgb", 8, 8, sampling)
        size = estimate_size(list_videos(folder), clip_format)
        dataset = open_unsplit(
            folder, clip_format, Decoding(Cache(tmp_path / "cache", 10**9)), class_names=()
        )
        clips = dataset.splits["all"]
        assert size.num_videos == 3
        assert size.file_bytes == sum(path.stat().st_size for path in folder.iterdir())
        assert size.decoded_bytes == len(clips) * clip_format.clip_bytes


def test_files_without_a_stated_length_are_counted_without_an_estimate(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    size = estimate_size(list_videos(tmp_path), ClipFormat("gray", 8, 8, Sampling(4)))
    assert (size.num_videos, size.file_bytes, size.decoded_bytes) == (1, 8, None)


def test_stated_lengths_of_real_files(shared_data):
    """The stated length is the number of decoded frames."""
    natural = shared_data("clips") / "natural"
    for name in ("bikes.mp4", "vtest.avi", "realshort.mp4"):
        stated = video.read_stated_length(natural / name)
        counted = video.probe(natural / name).num_frames
        assert stated is not None and abs(stated - counted) <= 1
