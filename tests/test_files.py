"""Files are whole or not there: after a failure, after SIGKILL, and with several writers."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vvae import figures, video
from vvae.files import (
    TEMPORARY_SUFFIX,
    allocate,
    remove_leftovers,
    replacing,
    write_json,
    write_text,
)
from vvae.tasks.csv_files import open_csv
from vvae.tasks.npz_files import save_fields
from vvae.tasks.probe import Probe

ROOT = Path(__file__).resolve().parents[1]


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def run_python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as part:
        assert part.parent == path.parent
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list_names(tmp_path) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~read_umask()


def read_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit, OSError])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    for written in ("", "half"):
        with pytest.raises(error), replacing(path) as part:
            if written:
                part.write_text(written)
            raise error
        assert path.read_text() == "old"
        assert list_names(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a[1].txt"
    write_text(path, "old")
    code = (
        "import sys\n"
        "from vvae.files import replacing\n"
        "with replacing(sys.argv[1]) as part:\n"
        "    part.write_text('half')\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with run_python(code, path, **pipes) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert path.read_text() == "old"
    [left] = set(list_names(tmp_path)) - {path.name}
    assert left.startswith(".") and left.endswith(TEMPORARY_SUFFIX)
    assert (tmp_path / left).read_text() == "half"
    write_text(tmp_path / "a1.txt", "another file, whose leftovers are not this one's")
    write_text(path, "new")
    assert path.read_text() == "new"
    remove_leftovers(path)
    assert list_names(tmp_path) == ["a1.txt", "a[1].txt"]


def test_a_reader_beside_several_writers_sees_whole_files(tmp_path):
    path, size = tmp_path / "a.txt", 2**20
    write_text(path, "0" * size)
    code = (
        "import sys\n"
        "from vvae.files import write_text\n"
        "for _ in range(20):\n"
        "    write_text(sys.argv[1], sys.argv[2] * int(sys.argv[3]))\n"
    )
    writers = [run_python(code, path, letter, size) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == size and text == text[0] * size
        seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert path.read_text()[0] in "abc" and len(seen) > 1
    assert list_names(tmp_path) == ["a.txt"]


def test_of_two_writers_in_one_process_the_last_to_end_wins(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as outer:
        outer.write_text("outer")
        with replacing(path) as inner:
            assert inner != outer
            inner.write_text("inner")
        assert path.read_text() == "inner"
    assert path.read_text() == "outer"


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    for write in (write_text, write_json):
        with pytest.raises(FileNotFoundError, match=r"No such folder: '.*/none'$"):
            write(tmp_path / "none" / "a", "")
        with pytest.raises(IsADirectoryError) as caught:
            write(tmp_path, "")
        assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        pass  # nothing was written
    assert caught.value.filename == str(tmp_path / "a")
    # Of another file the name stays.
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")
    assert list_names(tmp_path) == []


def test_a_sparse_file_gets_its_room_and_keeps_its_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"begin")
    os.truncate(path, 2**22)
    assert path.stat().st_blocks * 512 < 2**22
    allocate(path)
    assert path.stat().st_blocks * 512 >= 2**22 == path.stat().st_size
    assert path.read_bytes()[:6] == b"begin\0"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    for target in ("folder/a", "folder/b"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        for text in ("old", "new"):
            write_text(link, text)
            assert (tmp_path / target).read_text() == text and link.is_symlink()
    assert list_names(tmp_path / "folder") == ["a", "b"]


def test_a_pipe_stays_a_pipe(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write_json(path, {"a": 1})
    reader.join()
    assert json.loads(read[0]) == {"a": 1}
    assert stat.S_ISFIFO(path.stat().st_mode) and list_names(tmp_path) == ["pipe"]


def write_table(path):
    with open_csv(path) as writer:
        writer.writerow(["half"])
        raise ValueError("stopped")


def write_film(path):
    def yield_pieces():
        yield np.zeros((2, 8, 8, 3), np.uint8)
        raise ValueError("stopped")

    video.write_video_pieces(path, yield_pieces(), (8, 8), fps=5)


class Unreadable:
    """An array that fails when it is written."""

    def __array__(self, dtype=None, copy=None):
        raise ValueError("stopped")


def write_arrays(path):
    nothing = np.zeros(1)
    save_fields(
        path,
        Probe(
            mean_F=nothing,
            scale_F=nothing,
            weight_FK=nothing,
            bias_K=Unreadable(),
            class_names=(),
            pooling="x",
        ),
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.csv", write_table), ("a.mp4", write_film), ("a.npz", write_arrays)],
)
def test_writers_that_are_stopped_leave_the_old_file(tmp_path, name, write):
    write_text(tmp_path / name, "old")
    with pytest.raises(ValueError, match="stopped"):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
    assert list_names(tmp_path) == [name]


def test_pictures_and_videos_name_a_missing_folder(tmp_path):
    image = np.zeros((1, 8, 8, 3), np.uint8)
    path = tmp_path / "none" / "a.png"
    with pytest.raises(FileNotFoundError, match="No such folder"):
        figures.write_sheet(path, [image], ["row"], ["column"], "title", 1)
    with pytest.raises(video.VideoError, match=r"a\.mp4: cannot be written .*No such folder"):
        video.write_video(tmp_path / "none" / "a.mp4", image, fps=5)
