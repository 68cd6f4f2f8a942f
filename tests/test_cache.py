"""The cache decodes each video once, writes whole entries, and keeps within its quota."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vvae.data.cache import (
    Broken,
    Entry,
    Limits,
    _check_digest,
    _find_layout,
    cache_videos,
    identify_file,
    open_codes,
)
from vvae.data.cache_quota import Cache
from vvae.data.clips import gather_clips
from vvae.data.listing import Video
from vvae.data.sampling import ClipFormat, Sampling
from vvae.video import VideoError, write_video

FORMAT = ClipFormat("rgb", 6, 8, Sampling(4))
VIDEO = Video(path="/a.mp4", name="a.mp4", label=None, group="a.mp4", split=None)
CLIP_FILE_BYTES = FORMAT.clip_bytes + 128  # with the header of the .npy file


def write_noise(path, num_frames=4, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 8, 3), np.uint8)
    write_video(path, frames, fps=10, lossless=True)
    return frames


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 10**9)


def fill(paths, cache, clip_format=FORMAT, num_workers=0):
    """Returns the entries by position, and the positions that were decoded now."""
    results = list(
        cache_videos([str(p) for p in paths], clip_format, cache, num_workers=num_workers)
    )
    entries = {position: entry for position, entry, _ in results}
    return entries, sorted(position for position, _, decoded in results if decoded)


def find_files(cache):
    """Returns the files of entries, complete or not, by name."""
    kinds = (".npy", ".json", ".tmp")
    return {path.name: path for path in cache.folder.iterdir() if path.name.endswith(kinds)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_clips_are_decoded_once(tmp_path, cache, num_workers):
    paths = [tmp_path / f"ü {k}.mp4" for k in range(3)]
    frames = [write_noise(path, 8, seed) for seed, path in enumerate(paths)]
    entries, decoded = fill(paths, cache, num_workers=num_workers)
    assert decoded == [0, 1, 2]
    for k, entry in entries.items():
        np.testing.assert_array_equal(
            open_codes(entry.codes.path, entry.codes.digest).reshape(-1, 6, 8, 3), frames[k]
        )
        assert entry.num_frames == 8 and entry.mask_NT.shape == (2, 4)
    written = {name: path.stat().st_mtime_ns for name, path in find_files(cache).items()}

    # The files cannot be decoded any more, but their sizes and modification times are the same.
    for path in paths:
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again, decoded = fill(paths, cache, num_workers=num_workers)
    assert decoded == []
    for k, entry in again.items():
        np.testing.assert_array_equal(entry.time_NT, entries[k].time_NT)
        np.testing.assert_array_equal(entry.frame_NT, entries[k].frame_NT)
        np.testing.assert_array_equal(entry.mask_NT, entries[k].mask_NT)
    for name, path in find_files(cache).items():
        if name.endswith(".npy"):
            assert path.stat().st_mtime_ns == written[name]


def test_codes_are_mapped_read_only(tmp_path, cache):
    write_noise(tmp_path / "a.mp4")
    entries, _ = fill([tmp_path / "a.mp4"], cache)
    codes = open_codes(entries[0].codes.path)
    assert isinstance(codes, np.memmap) and not codes.flags.writeable
    assert os.path.getsize(entries[0].codes.path) == CLIP_FILE_BYTES


def test_truncated_and_removed_files_are_errors_after_a_first_read(tmp_path, cache):
    frames = write_noise(tmp_path / "a.mp4", 8)
    entries, _ = fill([tmp_path / "a.mp4"], cache)
    clips = gather_clips(FORMAT, [VIDEO], [entries[0]], [])
    np.testing.assert_array_equal(clips.read([1, 0]), frames.reshape(2, 4, 6, 8, 3)[::-1])
    os.truncate(entries[0].codes.path, CLIP_FILE_BYTES)
    np.testing.assert_array_equal(clips.read([0])[0], frames[:4])
    with pytest.raises(ValueError, match="is damaged: it ends within clip 1"):
        clips.read([1])
    os.unlink(entries[0].codes.path)
    with pytest.raises(FileNotFoundError, match="was removed from the cache while in use"):
        clips.read([0])


def test_an_entry_removed_while_in_use_is_an_error_with_a_remedy(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match=r"was removed from the cache .*--data\.cache_gb"):
        open_codes(str(tmp_path / "gone.npy"))


def test_changed_file_or_format_is_decoded_anew(tmp_path, cache):
    path = tmp_path / "a.mp4"
    write_noise(path)
    fill([path], cache)
    os.utime(path, ns=(0, 12345))
    assert fill([path], cache)[1] == [0]
    for other in (
        ClipFormat("gray", 6, 8, Sampling(4)),
        ClipFormat("rgb", 6, 4, Sampling(4)),
        ClipFormat("rgb", 6, 8, Sampling(2)),
        ClipFormat("rgb", 6, 8, Sampling(4, 2)),
        ClipFormat("rgb", 6, 8, Sampling(4, 1, "whole")),
    ):
        assert fill([path], cache, other)[1] == [0]
        assert fill([path], cache, other)[1] == []


def test_folder_of_frames_changes_with_its_frames(tmp_path, cache):
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(2):
        (folder / f"{k}.png").write_bytes(bytes(10 + k))
    before = identify_file(str(folder))
    assert before[0] == 21
    (folder / "1.png").write_bytes(bytes(12))
    assert identify_file(str(folder)) != before
    with pytest.raises(VideoError, match=r"nowhere\.mp4: no such file"):
        identify_file(str(tmp_path / "nowhere.mp4"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_videos_are_remembered(tmp_path, cache, num_workers):
    write_noise(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_text("not a video")
    paths = [tmp_path / "bad.mp4", tmp_path / "good.mp4", tmp_path / "missing.mp4"]
    entries, decoded = fill(paths, cache, num_workers=num_workers)
    assert decoded == [0, 1]
    assert isinstance(entries[0], Broken) and isinstance(entries[1], Entry)
    assert entries[2] == Broken("no such file")
    assert entries[0].reason and "bad.mp4: " not in entries[0].reason
    assert fill(paths, cache) == ({0: entries[0], 1: again_of(entries[1]), 2: entries[2]}, [])


def again_of(entry):
    """Returns an object that equals any entry of the same file (arrays have no truth value)."""

    class Same:
        def __eq__(self, other):
            return other.codes == entry.codes

    return Same()


def test_damaged_entry_is_decoded_anew(tmp_path, cache):
    frames = write_noise(tmp_path / "a.mp4")
    entries, _ = fill([tmp_path / "a.mp4"], cache)
    os.truncate(entries[0].codes.path, 200)
    open_codes.cache_clear()
    entries, decoded = fill([tmp_path / "a.mp4"], cache)
    assert decoded == [0]
    np.testing.assert_array_equal(open_codes(entries[0].codes.path)[0], frames)
    details = next(p for n, p in find_files(cache).items() if n.endswith(".json"))
    for text in ("{", "{}", "3", "[" * 10**5, '{"mask": 0, "codes_bytes": 848}'):
        details.write_text(text)
        assert fill([tmp_path / "a.mp4"], cache)[1] == [0]


@pytest.mark.parametrize("place", [0.02, 0.5, 0.999])
def test_a_flipped_bit_in_a_cached_clip_is_found_and_the_video_decoded_again(
    tmp_path, cache, place
):
    frames = write_noise(tmp_path / "a.mp4", 8)
    entries, _ = fill([tmp_path / "a.mp4"], cache)
    clips = gather_clips(FORMAT, [VIDEO], [entries[0]], [])
    np.testing.assert_array_equal(clips.read([0, 1]).reshape(-1, 6, 8, 3), frames)
    path = Path(entries[0].codes.path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    for known in (open_codes, _find_layout, _check_digest):
        known.cache_clear()  # as in another process
    with pytest.raises(ValueError, match=rf"{path.name} is damaged: its SHA-256 .*same command"):
        clips.read([0])
    entries, decoded = fill([tmp_path / "a.mp4"], cache)
    assert decoded == [0]
    clips = gather_clips(FORMAT, [VIDEO], [entries[0]], [])
    np.testing.assert_array_equal(clips.read([0, 1]).reshape(-1, 6, 8, 3), frames)


def test_entries_in_use_by_another_process_are_not_removed_until_it_dies(tmp_path):
    """Two runs share a cache that is large enough for one of them."""
    paths = [tmp_path / f"{k}.mp4" for k in range(3)]
    for path in paths:
        write_noise(path)
    cache = Cache(tmp_path / "cache", 2 * (CLIP_FILE_BYTES + 500))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vvae.data.cache import cache_videos\n"
        "from vvae.data.cache_quota import Cache\n"
        "from vvae.data.sampling import ClipFormat, Sampling\n"
        "folder, limit, *paths = sys.argv[1:]\n"
        "cache = Cache(Path(folder), int(limit))\n"
        "held = list(cache_videos(paths, ClipFormat('rgb', 6, 8, Sampling(4)), cache))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    arguments = [str(cache.folder), str(cache.limit_bytes), *map(str, paths[:2])]
    other = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with other:
        assert other.stdout.readline() == "held\n"
        make_older(cache, seconds=100)
        with pytest.raises(
            ValueError, match=r"cache .* is full: other runs use .*--data\.cache_gb"
        ):
            fill(paths[2:], cache)
        assert len(find_files(cache)) == 4
        other.kill()
    fill(paths[2:], cache)
    assert len(find_files(cache)) == 4  # one of the others had to go
    assert not list(cache.folder.glob("*.lease"))
    assert fill(paths[2:], cache)[1] == []


def test_entries_can_be_removed_once_they_are_unused(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_noise(tmp_path / name)
    cache = Cache(tmp_path / "cache", CLIP_FILE_BYTES + 500)
    entries, _ = fill([tmp_path / "a.mp4"], cache)
    clips = gather_clips(FORMAT, [VIDEO], [entries.pop(0)], []).select([0])
    with pytest.raises(ValueError, match="is full: other runs use"):
        fill([tmp_path / "b.mp4"], cache)
    assert clips.read([0]).shape == (1, *FORMAT.clip_shape)
    del clips
    assert fill([tmp_path / "b.mp4"], cache)[1] == [0]


def test_frames_beyond_the_limit_are_broken_until_it_is_raised(tmp_path, cache):
    write_noise(tmp_path / "a.mp4")
    paths, small = [str(tmp_path / "a.mp4")], Limits(max_pixels=47)
    [(_, entry, _)] = cache_videos(paths, FORMAT, cache, limits=small)
    assert "frames of 8x6, 0 megapixels, are more than" in entry.reason
    assert find_files(cache) == {}
    assert fill(paths, cache)[1] == [0]


def test_old_temporary_files_are_removed(tmp_path, cache):
    write_noise(tmp_path / "a.mp4")
    cache.folder.mkdir()
    stale, fresh = cache.folder / "x.npy.1.tmp", cache.folder / "y.npy.2.tmp"
    stale.touch()
    fresh.touch()  # another process may be writing this one now
    os.utime(stale, (0, 0))
    fill([tmp_path / "a.mp4"], cache)
    names = sorted(name.split(".", 1)[1] for name in find_files(cache))
    assert names == ["json", "npy", "npy.2.tmp"]


def test_two_openings_at_once_agree(tmp_path, cache):
    paths = [tmp_path / f"{k}.mp4" for k in range(3)]
    frames = [write_noise(path, seed=k) for k, path in enumerate(paths)]
    with ThreadPoolExecutor(2) as threads:
        openings = [threads.submit(fill, paths, cache) for _ in range(2)]
        for opening in openings:
            for k, entry in opening.result()[0].items():
                np.testing.assert_array_equal(
                    open_codes(entry.codes.path, entry.codes.digest)[0], frames[k]
                )


def test_quota_is_checked_before_decoding(tmp_path):
    """If two clips cannot fit, nothing is decoded (the files are not even videos)."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("not a video")
    cache = Cache(tmp_path / "cache", 2 * FORMAT.clip_bytes - 1)
    with pytest.raises(ValueError, match=r"at least 1\.15e-06 GB .* raise --data\.cache_gb"):
        fill([tmp_path / "a.mp4", tmp_path / "b.mp4"], cache)
    assert find_files(cache) == {}


def test_quota_is_kept_while_decoding(tmp_path):
    for k in range(3):
        write_noise(tmp_path / f"{k}.mp4", 8)  # two clips each, which is known only after decoding
    cache = Cache(tmp_path / "cache", 4 * CLIP_FILE_BYTES)
    with pytest.raises(ValueError, match=r"raise --data\.cache_gb"):
        fill([tmp_path / f"{k}.mp4" for k in range(3)], cache)


def test_least_recently_opened_entries_are_removed_first(tmp_path):
    paths = [tmp_path / f"{k}.mp4" for k in range(4)]
    for path in paths:
        write_noise(path)
    # The quota is three entries, each of a clip and less than 500 bytes of details.
    cache = Cache(tmp_path / "cache", 3 * (CLIP_FILE_BYTES + 500))
    for k in range(3):
        fill([paths[k]], cache)
        make_older(cache, seconds=100)
    fill([paths[0]], cache)  # opened again, so that it is not the oldest any more
    fill([paths[3]], cache)
    assert sum(path.stat().st_size for path in find_files(cache).values()) <= cache.limit_bytes
    kept = [k for k in (0, 2, 3) if fill([paths[k]], cache)[1] == []]
    assert kept == [0, 2, 3]
    assert fill([paths[1]], cache)[1] == [0]


def make_older(cache, seconds):
    for path in find_files(cache).values():
        status = path.stat()
        os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def test_own_data_are_never_removed(tmp_path):
    paths = [tmp_path / f"{k}.mp4" for k in range(3)]
    for path in paths:
        write_noise(path)
    cache = Cache(tmp_path / "cache", 10**9)
    fill(paths[:2], cache)
    tight = Cache(cache.folder, 2 * (CLIP_FILE_BYTES + 500))
    with pytest.raises(ValueError, match="raise --data"):
        fill(paths, tight)
    assert fill(paths[:2], cache)[1] == []


def test_cache_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot create the cache folder .*--data\.cache_dir"):
        fill([tmp_path / "a.mp4"], Cache(tmp_path / "file" / "cache", 10**9))
