"""Lists folders, split folders and manifests. Only names matter: the files are empty."""

import os
from collections import Counter

import pytest

from vvae.data.listing import list_videos, refuse_listed
from vvae.data.splits import assign_splits


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_manifest(root, text):
    (root / "manifest.csv").write_text(text, encoding="utf-8")


def list_facts(root):
    return [(video.name, video.label, video.split) for video in list_videos(root)]


def test_flat_folder_has_neither_labels_nor_splits(tmp_path):
    touch(tmp_path, "b.mp4", "a.AVI", "notes.txt", ".hidden.mp4", ".cache/c.mp4")
    videos = list_videos(str(tmp_path))
    assert [(v.name, v.label, v.group, v.split) for v in videos] == [
        ("a.AVI", None, "a.AVI", None),
        ("b.mp4", None, "b.mp4", None),
    ]
    assert videos[0].path == str(tmp_path / "a.AVI")


def test_class_folders_give_labels(tmp_path):
    touch(tmp_path, "wave hand/x.mp4", "grüßen/deep/er/y.webm", "z.gif")
    assert list_facts(tmp_path) == [
        ("grüßen/deep/er/y.webm", "grüßen", None),
        ("wave hand/x.mp4", "wave hand", None),
        ("z.gif", None, None),
    ]


def test_split_folders_with_and_without_classes(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/run/b.mp4", "test/c.mp4", "extra/jump/d.mp4")
    assert list_facts(tmp_path) == [
        ("extra/jump/d.mp4", "jump", "extra"),
        ("test/c.mp4", None, "test"),
        ("train/run/a.mp4", "run", "train"),
        ("train/run/b.mp4", "run", "train"),
    ]


def test_videos_beside_split_folders_are_refused(tmp_path):
    touch(tmp_path, "train/a.mp4", "stray.mp4")
    with pytest.raises(ValueError, match=r"stray\.mp4 is outside the split folders"):
        list_videos(tmp_path)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "Test"), ("train", "test")),
        (("TRAIN", "VAL", "TEST"), ("train", "val", "test")),
        (("training", "testing"), ("train", "test")),
        (("train", "Validation", "Evaluation"), ("train", "val", "test")),
        (("training", "valid", "Extra"), ("train", "val", "Extra")),
        (("train", "dev", "eval"), ("train", "val", "test")),
        (("train", "Train", "test"), ("train", "train", "test")),
        (("Test",), ("test",)),
        (("validation",), ("val",)),
    ],
)
def test_split_folders_in_other_spellings(tmp_path, folders, splits):
    touch(tmp_path, *(f"{folder}/walk/{folder}.mp4" for folder in folders))
    found = {name.split("/")[0]: (label, split) for name, label, split in list_facts(tmp_path)}
    assert found == {folder: ("walk", split) for folder, split in zip(folders, splits, strict=True)}


@pytest.mark.parametrize("name", ["train", "test", "Validation", "eval"])
def test_one_split_folder_beside_others_is_refused(tmp_path, name):
    """It may be a class: a railway train, a test of strength."""
    touch(tmp_path, f"{name}/a.mp4", "bus/b.mp4", "car/c.mp4", "docs/notes.txt")
    with pytest.raises(
        ValueError,
        match=rf"the folder '{name}' has the name of a split, 'bus', 'car' beside it not\..*"
        r"by folders train, val, test; if it is a class, rename it, or .*manifest\.csv",
    ):
        list_videos(tmp_path)
    touch(tmp_path, *(f"more{number}/d.mp4" for number in range(4)))
    with pytest.raises(ValueError, match="'bus', 'car', 'more0' and 3 more beside it not"):
        list_videos(tmp_path)


@pytest.mark.parametrize(("first", "second"), [("val", "dev"), ("eval", "Test")])
def test_two_names_of_one_split_are_refused(tmp_path, first, second):
    touch(tmp_path, "train/a.mp4", f"{first}/b.mp4", f"{second}/c.mp4")
    with pytest.raises(ValueError, match=rf"'({first}|{second})' and .* both mean the split"):
        list_videos(tmp_path)
    write_manifest(tmp_path, f"path,split\na.mp4,train\nb.mp4,{first}\nc.mp4,{second}\n")
    with pytest.raises(ValueError, match=r"manifest\.csv, column split: .* both mean the split"):
        list_videos(tmp_path)


def test_a_frame_folder_named_like_a_split_is_a_video(tmp_path):
    touch(tmp_path, "train/0.png", "bear/0.png")
    assert list_facts(tmp_path) == [("bear", None, None), ("train", None, None)]


def test_folder_of_image_frames_is_one_video(tmp_path):
    touch(tmp_path, "walk/take 1/0.png", "walk/take 1/1.png", "take2/0.jpg", "run/a.mp4")
    touch(tmp_path, "run/poster.jpg")
    assert list_facts(tmp_path) == [
        ("run/a.mp4", "run", None),
        ("take2", None, None),
        ("walk/take 1", "walk", None),
    ]


def test_root_may_be_one_video(tmp_path):
    touch(tmp_path, "only.mp4", "frames/0.png")
    assert list_facts(tmp_path / "only.mp4") == [("only.mp4", None, None)]
    (video,) = list_videos(tmp_path / "frames")
    assert (video.name, video.path) == ("frames", str(tmp_path / "frames"))


def test_links_are_followed_but_not_in_cycles(tmp_path):
    touch(tmp_path, "data/walk/a.mp4", "elsewhere/b.mp4")
    os.symlink(tmp_path / "data", tmp_path / "data" / "walk" / "up")
    os.symlink(".", tmp_path / "data" / "self")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "run")
    assert list_facts(tmp_path / "data") == [
        ("run/b.mp4", "run", None),
        ("walk/a.mp4", "walk", None),
    ]


def test_root_may_be_a_relative_link(tmp_path, monkeypatch):
    touch(tmp_path, "data/walk/a.mp4")
    os.symlink("data", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    (video,) = list_videos("link")
    assert (video.name, video.path) == ("walk/a.mp4", str(tmp_path / "link/walk/a.mp4"))


def test_manifest_with_all_columns(tmp_path):
    write_manifest(
        tmp_path,
        "\ufeffpath, label ,group,split,abnormal\n"
        'b/ü x.mp4,walk,anna,train,"[[1, 5]]"\n'
        "\n"
        "a.mp4,,,test,\n",
    )
    first, second = list_videos(tmp_path)
    assert (first.name, first.label, first.group, first.split) == ("a.mp4", None, "a.mp4", "test")
    assert first.metadata == {"abnormal": ""}
    assert (second.name, second.label, second.group) == ("b/ü x.mp4", "walk", "anna")
    assert second.metadata == {"abnormal": "[[1, 5]]"}
    assert second.path == str(tmp_path / "b" / "ü x.mp4")


def test_manifest_of_paths_alone(tmp_path):
    write_manifest(tmp_path, "path\na.mp4\n./sub/../b.mp4\n")
    touch(tmp_path, "a.mp4", "unlisted.mp4")
    assert list_facts(tmp_path) == [("a.mp4", None, None), ("b.mp4", None, None)]


def test_splits_of_a_manifest_in_other_spellings(tmp_path):
    write_manifest(
        tmp_path, "path,split\na.mp4,Train\nb.mp4,TEST\nc.mp4,test\nd.mp4,valid\ne.mp4,Extra\n"
    )
    splits = [split for _, _, split in list_facts(tmp_path)]
    assert splits == ["train", "test", "test", "val", "Extra"]


@pytest.mark.parametrize(
    "text",
    [
        "path;label\r\nv1.mp4;a, b\r\nc/v2.mp4;\r\n",
        "path\tlabel\r\nv1.mp4\ta, b\r\nc/v2.mp4\t\r\n",
        '"path";"label"\n"v1.mp4";"a, b"\n"c/v2.mp4";""\n',
        'path,label\rv1.mp4,"a, b"\rc/v2.mp4,\r',
        'path,label,,\r\nv1.mp4,"a, b",,\r\nc/v2.mp4,,,\r\n',
        'path,label\r\nv1.mp4,"a, b"\r\n,\r\n  ,\r\nc/v2.mp4\r\n,,,\r\n',
        'PATH , Label\nv1.mp4 ,"a, b "\n"c/v2.mp4",,,\n',
        '\ufeff"Path",Label\nv1.mp4,"a, b"\nc/v2.mp4,\n',
    ],
)
def test_manifests_of_spreadsheets(tmp_path, text):
    """Separators, line breaks, quotes, byte-order marks, and empty cells, columns and rows."""
    (tmp_path / "manifest.csv").write_bytes(text.encode())
    videos = list_videos(tmp_path)
    assert [(v.name, v.label, v.metadata) for v in videos] == [
        ("c/v2.mp4", None, {}),
        ("v1.mp4", "a, b", {}),
    ]


def test_backslashes_are_refused_unless_they_name_a_file(tmp_path):
    write_manifest(tmp_path, "path\nc\\v1.mp4\n")
    with pytest.raises(ValueError, match=r"line 2: 'c.*v1\.mp4': no such file; paths take /"):
        list_videos(tmp_path)
    (tmp_path / "c\\v1.mp4").touch()
    assert list_facts(tmp_path) == [("c\\v1.mp4", None, None)]


@pytest.mark.parametrize("name", ["Manifest.csv", "manifest.csv.txt", "manifest.xlsx"])
def test_a_manifest_of_another_name_is_not_passed_over(tmp_path, name):
    touch(tmp_path, "a.mp4", name)
    with pytest.raises(ValueError, match=rf"{name} is not read: save it as manifest\.csv"):
        list_videos(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",path\n0,a.mp4\n", "line 2: the cell '0' is in column 1, which has no name.*index=False"),
        ("path,\na.mp4,x\n", "line 2: the cell 'x' is in column 2, which has no name"),
        ("path;label\na.mp4;x;y\n", "1 more cells than columns .*contains a semicolon"),
        ('path,label\na.mp4,"x" y\n', "line 2: not a row of a CSV file"),
        (
            "file;label\na.mp4;x\n",
            "no column `path` \\(columns: file;label\\): the first line must",
        ),
        ("file,label\na.mp4,x\n", "no column `path` \\(columns: file, label\\)"),
        ("", "no column `path` \\(columns: none\\)"),
        ("path,label\n,x\n", "line 2: the cell `path` is empty"),
        ("path\na.mp4\n./a.mp4\n", "line 3: 'a.mp4' is listed twice"),
        ("path\n../a.mp4\n", "line 2: '../a.mp4' is outside the folder"),
        ("path\n/etc/passwd.mp4\n", "line 2: '/etc/passwd.mp4' is outside the folder"),
        ("path\n.\n", "line 2: '.' is outside the folder"),
        ("path\na/../../b.mp4\n", "line 2: 'a/../../b.mp4' is outside the folder"),
        ("path\na\0b.mp4\n", "line 2: .*'a.x00b.mp4' is not a valid path"),
        ("path,label\na.mp4,x,y\n", "line 2: 1 more cells than columns"),
        ("path,label,label\na.mp4,x,y\n", "column 'label' appears twice"),
        ("path\n", "no videos in"),
    ],
)
def test_invalid_manifests_are_refused(tmp_path, text, message):
    write_manifest(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        list_videos(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "label",
    [
        "=cmd|' /C calc'!A0",
        "<script>alert(1)</script>",
        "größe 動画 🎬",
        "a, b",
        "../up",
        "x" * 300,
    ],
)
def test_any_text_is_a_valid_label(tmp_path, label):
    write_manifest(tmp_path, f'path,label\na.mp4,"{label}"\n')
    assert list_facts(tmp_path) == [("a.mp4", label, None)]


def test_manifest_in_another_encoding(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("path\nü.mp4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 2: not a CSV file in UTF-8 .*byte 0xfc\): save it"):
        list_videos(tmp_path)
    (tmp_path / "manifest.csv").write_bytes("path\nü.mp4\n".encode("utf-16"))
    with pytest.raises(ValueError, match="not a CSV file in UTF-8 but in UTF-16: save it"):
        list_videos(tmp_path)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder: .*nowhere"):
        list_videos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"no videos in {tmp_path}: put"):
        list_videos(tmp_path)
    touch(tmp_path, "notes.txt", "x/a.RM", "x/b.rm")
    with pytest.raises(
        ValueError,
        match=r"no videos in .*, only other files: \.rm \(2\), \.txt \(1\): put.*manifest",
    ):
        list_videos(tmp_path)
    with pytest.raises(ValueError, match=r"no videos in .*notes\.txt"):
        list_videos(tmp_path / "notes.txt")


def test_manifests_of_real_sets(shared_data):
    ped2 = list_videos(shared_data("ped2"))
    assert len(ped2) == 28
    assert {video.label for video in ped2} == {None}
    (test01,) = [video for video in ped2 if video.name == "test/test01.mp4"]
    assert test01.metadata["frames"] == "180" and test01.metadata["abnormal"]
    gestures = list_videos(shared_data("gestures"))
    assert len(gestures) == 237
    assert {video.split for video in gestures} == {"train", "val", "test", "extra"}


def test_a_hundred_thousand_files_in_a_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(100_000):
        os.mknod(tmp_path / "videos" / f"{number}.mp4")
    videos = assign_splits(list_videos(tmp_path))
    assert len({video.name for video in videos}) == 100_000
    assert {video.label for video in videos} == {"videos"}
    counts = Counter(video.split for video in videos)
    assert counts == {"train": 80_000, "val": 10_000, "test": 10_000}


def test_folders_whose_pictures_would_be_listed_are_refused(tmp_path):
    root, run = tmp_path / "videos", tmp_path / "videos" / "runs" / "a"
    run.mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    for folder in (root, run, root / "new" / "run", tmp_path / "link" / "run"):
        for videos in (root, tmp_path / "link"):
            with pytest.raises(ValueError, match="is inside the folder of videos"):
                refuse_listed(folder, videos)
    # Beside or above the videos, hidden, or not listed by the manifest.
    for folder in (tmp_path, tmp_path / "videos2", root / ".runs" / "a"):
        refuse_listed(folder, root)
    (root / "manifest.csv").write_text("path\na.mp4\n")
    refuse_listed(run, root)
