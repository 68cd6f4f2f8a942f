"""Rate against distortion of x264, x265 and SVT-AV1, at the clips of benchmarks.rate_distortion.

    python -m benchmarks.codec_curves --data.path GESTURES

Codes every whole clip of the test split by itself at several rate factors, and compares the codecs
by BD-rate for each video, with intervals over videos. Rates are real bytes, of the coded pictures
(`rate`) and with the parameter sets (`total_rate`), in bits per pixel of a frame. PSNR is that of
RGB, the mean over the frames of a video. Writes benchmarks/results/codec_curves.json. Takes half an
hour on one core; started again with the same --folder, it continues with the next codec.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from vvae import runtime

runtime.prepare_jax()

import numpy as np

from benchmarks.codecs import CODECS, Codec, code_clip, describe
from benchmarks.equal_psnr import compare_videos
from benchmarks.origin import RESULTS, stamp, write_result
from vvae import build
from vvae.config_files import load_config_file
from vvae.data.clips import Clips
from vvae.metrics.frames import psnr_from_mse, video_means

CONFIG = "compression"
BASE = "x264"  # what BD-rates are measured against


def main() -> None:
    """Measures all curves, prints them and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data.path", dest="data_path", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="of the first clips only, to try it out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs") / "codec_curves", help="for finished codecs"
    )
    options = parser.parse_args()
    if options.clips is not None and options.out == RESULTS:
        parser.error("curves of a trial are not results: give --out with --clips")
    config = load_config_file(CONFIG)
    clips = keep_whole(build.open_data(config, options.data_path).splits[options.split])
    clips = clips.select(np.arange(len(clips))[: options.clips])
    video_NTHWC = clips.read(np.arange(len(clips)))
    digest, curves = digest_clips(video_NTHWC), {}
    for name, codec in CODECS.items():
        key = hashlib.sha256(f"{digest} {codec}".encode()).hexdigest()[:16]
        known = options.folder / f"{name}-{key}.json"
        if not known.is_file():
            points = measure_codec(codec, video_NTHWC, clips.video_index_N)
            write_result(known, {"codec": describe(codec), "points": points})
        curves[name] = json.loads(known.read_text())["points"]
        found = "; ".join(f"{p['rate']:.3f} {p['psnr']:.2f}" for p in curves[name])
        print(f"{name}: {found}", flush=True)
    rates = {
        f"{name}, {kind}": compare_videos(
            split_videos(curves[name], kind), split_videos(curves[BASE], kind)
        )
        for name in curves
        if name != BASE
        for kind in ("rate", "total_rate")
    }
    for name, rate in rates.items():
        print(
            f"BD-rate over {BASE}: {name}: {rate['mean']:+.1f} % [{rate['low']:+.1f}, "
            f"{rate['high']:+.1f}] over {rate['num_videos']} videos"
        )
    content = {
        "data": describe_clips(clips, options.split),
        "digest": digest,
        "videos": [video.name for video in clips.videos],
        "codecs": {name: describe(codec) for name, codec in CODECS.items()},
        "curves": curves,
        f"bd_rate_over_{BASE}_percent": rates,
    }
    command = "python -m benchmarks.codec_curves --data.path GESTURES"
    write_result(options.out / "codec_curves.json", stamp(content, command))


def keep_whole(clips: Clips) -> Clips:
    """Returns the clips without masked frames."""
    return clips.select(np.flatnonzero(clips.mask_NT.all(axis=1)))


def describe_clips(clips: Clips, split: str) -> str:
    """Returns the clips in words."""
    return (
        f"{len(clips)} whole clips of {len(clips.videos)} videos, split {split}, "
        f"{clips.clip_format}"
    )


def digest_clips(video_NTHWC: np.ndarray) -> str:
    """Returns a digest of the pixels, which tells whether two programs coded the same clips."""
    return hashlib.sha256(np.ascontiguousarray(video_NTHWC)).hexdigest()


def measure_codec(codec: Codec, video_NTHWC: np.ndarray, video_index_N: np.ndarray) -> list[dict]:
    """Returns a point for each chroma format and rate factor: see `make_point`."""
    points = []
    for pixel_format in codec.pixel_formats:
        for crf in codec.crfs:
            coded = [code_clip(video, codec, pixel_format, crf) for video in video_NTHWC]
            psnr_NT = measure_psnr(np.stack([one.frames for one in coded]), video_NTHWC)
            point = make_point(
                {
                    "rate": 8.0 * np.array([one.payload for one in coded]),
                    "total_rate": 8.0 * np.array([one.total for one in coded]),
                },
                psnr_NT,
                video_index_N,
                math.prod(video_NTHWC.shape[1:4]),
            )
            points.append({"setting": f"{pixel_format}, crf {crf}", **point})
    return points


def measure_psnr(decoded_NTHWC: np.ndarray, video_NTHWC: np.ndarray) -> np.ndarray:
    """Returns the PSNR of every frame in dB, [N, T], of values rounded to 8 bits."""
    codes = np.rint(np.clip(decoded_NTHWC, 0, 255)).astype(np.uint8)
    error_NT = np.square(codes.astype(np.float32) - video_NTHWC).mean(axis=(2, 3, 4))
    return np.asarray(psnr_from_mse(error_NT))


def make_point(
    bits: dict[str, np.ndarray], psnr_NT: np.ndarray, video_index_N: np.ndarray, num_pixels: int
) -> dict:
    """Averages a setting of a codec over clips and videos.

    Args:
      bits: name of a rate -> bits of every clip, [N].
      psnr_NT: of every frame, dB.
      video_index_N: the video of each clip.
      num_pixels: of a clip, all channels together.

    Returns:
      The rates in bits per pixel, `psnr` (mean over frames, then over videos), and `by_video`, the
      same for each video.
    """
    _, psnr_V = video_means(psnr_NT, np.ones_like(psnr_NT, bool), video_index_N)
    count_V = np.bincount(video_index_N)
    rates_V = {
        name: np.bincount(video_index_N, bits_N) / (num_pixels * count_V)
        for name, bits_N in bits.items()
    }
    point = {
        name: round(float(bits_N.sum() / (num_pixels * len(bits_N))), 5)
        for name, bits_N in bits.items()
    }
    columns = {name: rate_V.round(5).tolist() for name, rate_V in rates_V.items()}
    columns["psnr"] = np.asarray(psnr_V, np.float64).round(3).tolist()
    return {**point, "psnr": round(float(psnr_V.mean()), 3), "by_video": columns}


def split_videos(points: Sequence[dict], kind: str) -> list[list[tuple[float, float]]]:
    """Returns the curve of each video: its (rate, PSNR) at every point."""
    columns = [zip(p["by_video"][kind], p["by_video"]["psnr"], strict=True) for p in points]
    return [list(curve) for curve in zip(*columns, strict=True)]


if __name__ == "__main__":
    main()
