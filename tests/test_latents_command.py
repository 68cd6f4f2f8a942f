"""The commands latents, latents export and decode, as they are typed."""

import numpy as np
import pytest
from tiny_latents import write_videos

from vvae import latents, video
from vvae.commands import dispatch
from vvae.commands.latents import read_request
from vvae.latents.exports import export
from vvae.latents.options import FORMATS
from vvae.latents.plan import ClipPlan

WAN = "tests/golden/wan21"


def vvae(line, capsys):
    """Runs a command line; returns what it prints."""
    assert dispatch.main(line.split()) == 0
    return capsys.readouterr().out


def test_a_collection_is_encoded_exported_and_decoded(tmp_path, capsys):
    videos = write_videos(tmp_path / "videos", {"a": 6, "b": 9}, size=(16, 16))
    (videos / "c.mp4").write_bytes(b"no video")
    store, out = tmp_path / "store", tmp_path / "out"
    line = f"latents --pretrained {WAN} --data.path {videos} --out {store} --frames 5 --piece 2"
    printed = vvae(line, capsys)
    assert printed.startswith("estimate from 2 of 3 videos: ")
    assert "2 clips of 2 videos" in printed and "5 frames filled no clip" in printed
    assert "1 videos could not be encoded" in printed and "  c.mp4: not a readable" in printed
    assert "encoded now: 0 videos" in vvae(line, capsys)
    dataset = latents.open(store)
    assert [record["shape"] for record in dataset.records()] == [[2, 4, 4, 3]] * 2

    printed = vvae(f"latents export {store} {out} --format ltx2", capsys)
    assert "2 clips" in printed and "2 of 3x2x4x4" in printed
    assert (out / ".precomputed" / "latents" / "a.pt").is_file()

    folder = tmp_path / "decoded"
    assert "2 videos" in vvae(f"decode {store} {folder} --pretrained {WAN}", capsys)
    assert "(2 were there already)" in vvae(f"decode {store} {folder} --pretrained {WAN}", capsys)
    assert video.probe(folder / "b.mp4").num_frames == 5
    line = f"decode {store} {tmp_path / 'b.mkv'} --pretrained {WAN} --name b.npy --lossless"
    vvae(line, capsys)
    with pytest.raises(ValueError, match=r"b.mkv exists: give another name, or --overwrite"):
        dispatch.main(line.split())
    found = video.read_frames(tmp_path / "b.mkv")[1]
    assert np.abs(found.astype(int) - video.read_frames(folder / "b.mp4")[1]).mean() < 30


def test_the_options_are_those_of_the_plan():
    line = "latents --workdir RUN --data.path X --out Y --sizes 480x832 832x480 --crop stretch"
    line += " --frames 17 81 --cut first --fps 16 --tail drop --start carried"
    request = read_request(line.split())
    assert request.plan() == ClipPlan(
        sizes=((480, 832), (832, 480)),
        crop="stretch",
        frames=(17, 81),
        cut="first",
        fps=16.0,
        tail="drop",
        start="carried",
    )
    default = read_request(["latents", "--workdir", "RUN", "--data.path", "X", "--out", "Y"])
    assert default.plan() == ClipPlan()
    assert tuple(export.FORMATS) == FORMATS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("latents --data.path X --out Y", "give the network: --pretrained DIR, or --workdir RUN"),
        ("latents --pretrained P", "latents needs videos and a folder"),
        ("latents --pretrained P --data.path X --out Y --sizes 480", "must be HEIGHTxWIDTH"),
        ("latents --pretrained P --data.path X --out Y --piece 0", "--piece=0"),
        ("latents --pretrained P --data.path X --out Y --fsp 3", "did you mean --fps"),
        ("latents --pretrained P --data.path X --out Y", "--pretrained P: no such folder"),
        ("latents X --pretrained P --data.path X --out Y", "takes options alone, not X"),
        ("latents export A --format ltx2", "takes STORE and OUT, not A"),
        ("latents export A B", "export needs --format: choose maxdiffusion"),
        ("latents export A B --format kohya", "no format 'kohya': choose maxdiffusion"),
        ("latents export A B --format ltx2", "A: no such folder"),
        ("decode A --workdir RUN", "takes STORE and OUT, not A"),
    ],
)
def test_a_command_that_cannot_begin_is_one_line(line, message):
    with pytest.raises(ValueError, match=message):
        dispatch.main(line.split())


@pytest.mark.parametrize("command", ["latents", "latents export", "decode"])
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        dispatch.main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert printed.startswith(f"usage: vvae {command}")
    lines = printed.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  --"):
            assert lines[number + 1].startswith("      "), line
