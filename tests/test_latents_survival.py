"""Encodings that are killed, shared out over processes, and long."""

import os
import shutil
import signal
import socket
import subprocess

import pytest
from tiny_latents import encode, read_tree, start_worker, write_videos

from vvae.latents.encode import Work

WORK = Work(latents_per_piece=2, readers=2)
LENGTHS = {f"{number:02}": 1 + number * 5 % 12 for number in range(10)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = write_videos(tmp_path_factory.mktemp("videos"), LENGTHS)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def finish(worker):
    output = worker.communicate(timeout=300)[0]
    assert worker.returncode == 0, output
    return output


def kill_and_finish(videos, store, moments):
    """Kills an encoding at the given numbers of file operations, one start after another."""
    for moment in moments:
        worker = start_worker(videos, store, "--kill", moment)
        output = worker.communicate(timeout=300)[0]
        assert worker.returncode == -signal.SIGKILL, output
    return finish(start_worker(videos, store))


def test_killed_at_any_moment_and_started_again_it_writes_the_same_files(videos, tmp_path):
    whole = tmp_path / "whole"
    finish(start_worker(videos, whole))
    output = kill_and_finish(videos, tmp_path / "store", (3, 9, 20, 31))
    assert "1 videos could not be encoded" in output and "bad.mp4: not a readable" in output
    assert read_tree(tmp_path / "store") == read_tree(whole)


def find_free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_two(videos, store, *options):
    port = find_free_port()
    return [
        start_worker(videos, store, "--group", number, 2, port, *extra)
        for number, extra in ((0, ()), (1, options))
    ]


def test_two_processes_share_the_work_and_a_restart_makes_up_for_a_dead_one(videos, tmp_path):
    first, second = start_two(videos, tmp_path / "store", "--kill", 20)
    for worker in (first, second):
        output = worker.communicate(timeout=300)[0]
        assert worker.returncode != 0, output
    assert second.returncode == -signal.SIGKILL
    for worker in start_two(videos, tmp_path / "store"):
        finish(worker)
    whole = tmp_path / "whole"
    for worker in start_two(videos, whole):
        finish(worker)
    assert read_tree(tmp_path / "store") == read_tree(whole)


def test_a_full_disk_is_one_line_and_nothing_is_lost(videos, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(140_000))
        with pytest.raises(OSError, match="No space left on device") as caught:
            encode(videos, disk / "store", work=WORK)
        assert str(disk) in str(caught.value.filename)
        (disk / "filler").unlink()
        summary, dataset = encode(videos, disk / "store", work=WORK)
        assert len(dataset) == len(LENGTHS) and summary.encoded <= len(LENGTHS)
        encode(videos, tmp_path / "whole", work=WORK)
        assert read_tree(disk / "store") == read_tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_may_only_be_read_is_named(videos, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o500)
    if os.access(store, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(PermissionError, match=str(store)):
        encode(videos, store, work=WORK)


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    output = finish(start_worker(tmp_path / "videos", tmp_path / "store", "--videos", 1500))
    memory = [int(line.split()[1]) for line in output.splitlines() if line.startswith("memory")]
    assert "1500 clips of 1500 videos" in output
    # The first line is printed before the first video, when all is compiled.
    assert memory[-1] < memory[0] + 40_000, memory
