"""The summary of a folder of videos."""

import numpy as np
import pytest

from vvae.data.check import format_summary, summarize
from vvae.video import write_video


def write_noise(path, num_frames, size=(6, 8), fps=10):
    """Writes noise that depends on the arguments alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, *size, 3), np.uint8)
    write_video(path, frames, fps=fps, lossless=True)


@pytest.fixture
def root(tmp_path):
    write_noise(tmp_path / "train/walk/a.mp4", 4)
    write_noise(tmp_path / "train/walk/b.mp4", 6, size=(8, 6), fps=25)
    write_noise(tmp_path / "train/run/c.mp4", 8)
    write_noise(tmp_path / "test/walk/d.mp4", 5)
    write_noise(tmp_path / "extra/e.mp4", 7)
    (tmp_path / "test/walk/bad.mp4").write_text("not a video")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_summary_counts_everything(root, num_workers):
    seen = []
    summary = summarize(root, num_workers, progress=lambda *done: seen.append(done))
    assert seen == [(k, 6) for k in range(1, 7)]
    assert summary.num_videos == 6
    assert sorted(summary.num_frames) == [4, 5, 6, 7, 8]
    assert summary.classes == {"walk": 4, "run": 1}
    assert summary.num_groups == 6
    assert sum(summary.splits.values()) == 5 and summary.splits["extra"] == 1
    assert summary.splits["val"] == 1 and summary.splits["test"] == 1
    assert summary.sizes == {"8x6": 4, "6x8": 1}
    assert summary.rates == {10.0: 4, 25.0: 1}
    assert list(summary.broken) == ["test/walk/bad.mp4"]
    assert summary.ignored == {".txt": 1}
    assert any("class 'run' has a single video" in problem for problem in summary.problems)


def test_text_names_what_is_broken(root):
    text = format_summary(summarize(root))
    assert "videos   6 (1 broken)" in text
    assert "30 in all, 4 to 8 a video, median 6" in text
    assert "broken   test/walk/bad.mp4: not a readable video" in text
    assert "left out unless asked for: extra" in text
    assert "classes  2: walk (4), run (1)" in text


def test_impossible_splits_are_a_problem_instead_of_an_error(tmp_path):
    write_noise(tmp_path / "a.mp4", 4)
    summary = summarize(tmp_path)
    assert summary.splits == {} and "needs at least three" in summary.problems[0]
    assert "splits   none" in format_summary(summary)


def test_nothing_readable(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    text = format_summary(summarize(tmp_path))
    assert "videos   1 (1 broken)" in text and "no video can be read" in text


def test_status_is_1_where_no_video_can_be_read(tmp_path, capsys):
    import evaluate

    (tmp_path / "a.mp4").write_bytes(b"")
    assert evaluate.main(["check", "--data.path", str(tmp_path)]) == 1
    assert "no video can be read" in capsys.readouterr().out
    write_noise(tmp_path / "b.mp4", 4)
    assert evaluate.main(["check", "--data.path", str(tmp_path)]) == 0


def test_unlabelled_videos_and_unread_formats_are_counted(tmp_path):
    write_noise(tmp_path / "walk/a.mp4", 4)
    write_noise(tmp_path / "b.mp4", 5)
    for name in ("c.rm", "walk/d.RM", "e.hevc", "notes.txt"):
        (tmp_path / name).touch()
    summary = summarize(tmp_path)
    assert summary.unlabelled == ("b.mp4",)
    text = format_summary(summary)
    assert "classes  1: walk (1); 1 without a label, such as b.mp4\n" in text
    assert "ignored  videos of unread formats: .hevc (1), .rm (2); convert them to .mp4\n" in text
    assert "ignored  other files: .txt (1)\n" in text


def test_copies_and_leaks_are_named(tmp_path):
    write_noise(tmp_path / "Train/walk/a.mp4", 4)
    write_noise(tmp_path / "Val/walk/b.mp4", 5)
    write_noise(tmp_path / "Test/walk/c.mp4", 4)
    text = format_summary(summarize(tmp_path))
    assert "copies   Test/walk/c.mp4 = Train/walk/a.mp4\n" in text
    assert (
        "problem  'Test/walk/c.mp4' (test, class 'walk') and 'Train/walk/a.mp4' (train, class "
        "'walk') are byte-identical: remove one of them"
    ) in text


def test_many_copies_are_counted_after_the_first(tmp_path):
    for number in range(25):
        for name in "ab":
            np.save(tmp_path / f"{number:02}{name}.npy", np.full((1, 4, 4), number, np.uint8))
    summary = summarize(tmp_path)
    assert summary.splits == {"train": 40, "val": 4, "test": 6}
    lines = [line for line in format_summary(summary).splitlines() if line.startswith("  copies")]
    assert len(lines) == 21 and lines[0] == "  copies   00a.npy = 00b.npy"
    assert lines[-1] == "  copies   and 5 more"


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        summarize(tmp_path / "nowhere")
