"""A full disk: a clear error, earlier files stay whole, and the run goes on when there is room.
A disk that may only be read: data and cached clips are read from it."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_vae import assert_equal, make_adam, make_state

from vvae.data.cache import Entry, cache_videos, open_codes
from vvae.data.cache_quota import Cache
from vvae.data.sampling import ClipFormat, Sampling
from vvae.files import allocate, check_output, write_json
from vvae.training.checkpoint import Checkpointer, CheckpointError
from vvae.training.log import MetricsLog, read_metrics
from vvae.video import VideoError, write_video

ROOT = Path(__file__).resolve().parents[1]
DISK_BYTES = 2**20
FORMAT = ClipFormat("gray", 64, 64, Sampling(4))

# After a failed write, tasks that Orbax had started end unseen.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    open_codes.cache_clear()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(disk, bytes_left=0):
    """Writes a file that leaves so many bytes."""
    with open(disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError) as caught:
        while True:
            file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    os.truncate(disk / "filler", os.path.getsize(disk / "filler") - bytes_left)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_caching_names_the_folder_and_goes_on(disk, tmp_path, num_workers):
    """One clip and then five, where there is room for three: more than is known beforehand."""
    paths = [str(tmp_path / f"{number}.npy") for number in range(2)]
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64), dtype=np.uint8)
    frames = noise[:4], noise[4:]
    for path, frames_THW in zip(paths, frames):
        np.save(path, frames_THW)
    cache = Cache(disk / "cache", 10**9)
    cache.folder.mkdir()
    fill_up(disk, bytes_left=4 * FORMAT.clip_bytes)
    text = f"cannot write to the cache folder {cache.folder} .No space left on device.: free some"
    with pytest.raises(ValueError, match=text):
        list(cache_videos(paths, FORMAT, cache, num_workers=num_workers))
    assert not list(cache.folder.glob("*.tmp"))
    (disk / "filler").unlink()
    for position, entry, _ in cache_videos(paths, FORMAT, cache, num_workers=num_workers):
        assert isinstance(entry, Entry)
        codes = open_codes(entry.codes.path)
        np.testing.assert_array_equal(codes.reshape(-1, 64, 64), frames[position])


def test_data_and_cache_on_a_disk_that_may_only_be_read(disk, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    np.save(disk / "a.npy", frames)
    paths, full = [str(disk / "a.npy")], Cache(disk / "cache", 10**9)
    list(cache_videos(paths, FORMAT, full))
    remount = ["mount", "-o", "remount,ro", str(disk)]
    assert subprocess.run(remount, capture_output=True).returncode == 0
    with pytest.raises(OSError):
        (disk / "b").touch()
    for cache, is_new in ((full, False), (Cache(tmp_path / "other", 10**9), True)):
        [(_, entry, decoded)] = cache_videos(paths, FORMAT, cache)
        assert decoded == is_new
        codes = open_codes(entry.codes.path, entry.codes.digest)
        np.testing.assert_array_equal(codes.reshape(-1, 64, 64), frames)
    empty = Cache(disk / "new", 10**9)
    with pytest.raises(ValueError, match=r"cannot create the cache folder .*--data\.cache_dir"):
        list(cache_videos(paths, FORMAT, empty))


def make_large_state(step):
    """Random numbers, which do not compress: 256 kB."""
    noise = np.random.default_rng(step).normal(size=2**15)
    state = jax.tree.map(np.array, make_state(make_adam()))
    return state.replace(step=np.array(step, np.int32), stats={"noise": noise})


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(disk):
    first, second = make_large_state(1), make_large_state(2)
    folder = disk / "checkpoints"
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(1, first)
    fill_up(disk, bytes_left=2**16)
    with (
        pytest.raises(
            CheckpointError, match="checkpoint: No space left on device; free some space"
        ),
        Checkpointer(folder) as checkpointer,
    ):
        checkpointer.save(2, second)
    (disk / "filler").unlink()
    with Checkpointer(folder) as checkpointer:
        assert checkpointer.steps == (1,)
        assert_equal(checkpointer.restore("latest", first).state, first)
        checkpointer.save(2, second)
    with Checkpointer(folder, read_only=True) as checkpointer:
        assert_equal(checkpointer.restore("latest", first).state, second)


def test_a_log_that_cannot_grow_is_named_and_cut_to_whole_lines(disk):
    path = disk / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(1, "train", {"loss": 1.0})
    fill_up(disk)
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        for step in range(2, 1000):
            log.write(step, "train", {"loss": 1.0})
    (disk / "filler").unlink()
    known = [row["step"] for row in read_metrics(path)]
    assert known == list(range(1, len(known) + 1))
    log.cut_after(known[-1])
    log.write(known[-1] + 1, "train", {"loss": 1.0})
    assert [row["step"] for row in read_metrics(path)] == [*known, known[-1] + 1]


def test_a_file_that_does_not_fit_is_named_and_the_old_one_stays(disk):
    path = disk / "a.json"
    write_json(path, "old")
    fill_up(disk, bytes_left=2**14)
    with pytest.raises(OSError, match=r"No space left on device: .*/a\.json'$"):
        write_json(path, "new" * 2**14)
    (disk / "filler").unlink()
    assert path.read_text() == '"old"\n' and list(disk.iterdir()) == [path]


def test_a_video_that_does_not_fit_is_named_and_the_old_one_stays(disk, capfd):
    path = disk / "a.mp4"
    path.write_text("old")
    fill_up(disk, bytes_left=2**14)
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    with pytest.raises(VideoError, match=r"/a\.mp4: cannot be written \(.*No space left on device"):
        write_video(path, noise, fps=5)
    assert capfd.readouterr() == ("", "")
    (disk / "filler").unlink()
    assert path.read_text() == "old" and list(disk.iterdir()) == [path]


def test_an_output_in_a_folder_that_may_only_be_read_is_refused(disk):
    remount = ["mount", "-o", "remount,ro", str(disk)]
    assert subprocess.run(remount, capture_output=True).returncode == 0
    with pytest.raises(ValueError, match=r"a\.vvz: the folder .* may not be written to"):
        check_output(disk / "a.vvz", inputs=[], suffixes=(".vvz",), overwrite=False)


def test_room_for_an_array_that_is_not_there_is_told_before_it_is_filled(disk):
    path = disk / "a.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (2 * DISK_BYTES,))
    with pytest.raises(OSError, match=r"No space left on device: .*/a\.npy'$"):
        allocate(path)
    del array


def test_a_program_says_in_one_line_that_the_disk_is_full():
    code = (
        "import errno, os\n"
        "from vvae import cli\n"
        "def main(arguments):\n"
        "    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "cli.run_main(main)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    expected = (
        "error: [Errno 28] No space left on device; free some space and run the same command "
        "again\n"
    )
    assert result.stderr == expected
