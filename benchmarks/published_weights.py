"""Published weights, and runs that began with them, on real videos: quality, or speed.

    pip install '.[pretrained,perceptual]'
    python -m benchmarks.published_weights --weights FOLDER --data.path VIDEOS [VIDEOS ...]
    python -m benchmarks.published_weights --weights FOLDER --data.path VIDEOS --runs RUN [RUN ...]
    python -m benchmarks.published_weights --weights FOLDER --speed

FOLDER is what `vvae.load_pretrained` reads. Of each VIDEOS, the test split is measured, or all
videos where none is stated: every fourth frame from the beginning, as many as `--frames`; what is
larger than `--side` is cut to its centre, nothing is resized. PSNR, SSIM and LPIPS (AlexNet)
compare 8-bit frames, averaged over the frames of a video, then over videos; intervals resample
videos. A run, such as one of `vvae train published` or `vvae train tiny_decoder`, is compared with
the weights on the same videos: the paired difference, its interval, and a test that flips signs of
whole videos. Whether the encoder is still the published one is said by the digests of both.

`--speed` measures frames/s of encoding and decoding alone, of 8 frames of 256x256 in float32,
beside the same network in PyTorch (eager; TAESD alone, and only where torch is installed), in one
process: medians of interleaved repeats, with the processor time. Use a quiet machine.

Both write benchmarks/results/published_weights.json (`--json` names another file), each its part.
`--pictures FILE.webp --shown NAME ... --caption TEXT` draws a frame of the named videos above what
every method makes of it. `benchmarks.scoreboard tables` writes tables and pictures into the docs.
"""

import argparse
import functools
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.origin import RESULTS, stamp, write_result
from benchmarks.timing import Timing, measure
from vvae import build, runtime
from vvae.data.listing import Video, list_videos
from vvae.latents.encoder import describe_encoder
from vvae.measure.frames import score_frames
from vvae.metrics.frames import SSIM_WINDOW
from vvae.metrics.intervals import (
    Units,
    compare_means,
    find_percentiles,
    make_units,
    resample_ratio,
)
from vvae.models import contract
from vvae.pretrained.load import load_pretrained, save_pretrained
from vvae.video import iterate_frames

STRIDE = 4
LPIPS = "alexnet"
METRICS = ("psnr", "ssim", f"lpips_{LPIPS}")
SPEED_SHAPE = (1, 8, 256, 256, 3)
COMMAND = "python -m benchmarks.published_weights"
_PUBLISHED = "published"
_GAP = 4  # white pixels between pictures

Method = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measures, prints and writes one of both parts."""
    options = read_options()
    runtime.prepare_jax()
    part = "speed" if options.speed else "quality"
    content = measure_speed(options) if options.speed else measure_quality(options)
    known = json.loads(options.json.read_text()) if options.json.is_file() else {}
    write_result(options.json, known | {part: content})
    print(f"written: {options.json}")


def read_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="published weights")
    parser.add_argument("--data.path", dest="folders", type=Path, nargs="+", default=[])
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="runs to compare with it")
    parser.add_argument("--frames", type=int, default=9, help="of each video (default 9)")
    parser.add_argument("--side", type=int, default=256, help="largest height, width (default 256)")
    parser.add_argument("--pictures", type=Path, help="file of pictures")
    parser.add_argument("--shown", nargs="+", default=[], help="names of the videos in it")
    parser.add_argument("--caption", default="", help="what it shows, and whose it is")
    parser.add_argument("--speed", action="store_true", help="measure speed alone")
    parser.add_argument("--repeats", type=int, default=7, help="of speed (default 7)")
    parser.add_argument("--json", type=Path, default=RESULTS / "published_weights.json")
    options = parser.parse_args()
    if not options.speed and not options.folders:
        parser.error("give the videos: --data.path VIDEOS")
    return options


# --- quality -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """The frames of a video that are measured: name, uint8 [1, T, H, W, 3], bool [1, T]."""

    name: str
    group: str
    video_BTHWC: np.ndarray
    mask_BT: np.ndarray


def measure_quality(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the scores of the weights and of every run on the videos of every folder."""
    names = [_PUBLISHED, *(run.name for run in options.runs)]
    if len(set(names)) < len(names):
        raise ValueError(f"--runs: the names of the run directories must differ: {names}")
    networks = {_PUBLISHED: load_pretrained(options.weights)}
    networks |= {run.name: build.load(run) for run in options.runs}
    methods = {name: _make_method(*network) for name, network in networks.items()}
    folders, shown, picture = [], {}, None
    for folder in options.folders:
        clips = list(read_clips(folder, options.frames, options.side))
        folders.append(measure_folder(folder.name, clips, methods))
        shown |= {clip.name: clip for clip in clips if clip.name in options.shown}
    if options.pictures:
        missing = [name for name in options.shown if name not in shown]
        if missing or not shown:
            raise ValueError(f"--shown: no measured video is named {missing or options.shown}")
        draw(options.pictures, [shown[name] for name in options.shown], methods)
        picture = {"file": options.pictures.name, "caption": options.caption}
    words = ["--weights WEIGHTS --data.path", *(folder.name for folder in options.folders)]
    words += ["--runs", *(run.name for run in options.runs)] if options.runs else []
    words += [f"--frames {options.frames} --side {options.side}"]
    content = {
        "weights": options.weights.name,
        "parameters": {name: _count(params) for name, (_, params) in networks.items()},
        "encoders": {name: describe_encoder(*net)["weights"] for name, net in networks.items()},
        "frames": options.frames,
        "stride": STRIDE,
        "side": options.side,
        "picture": picture,
        "folders": folders,
    }
    return stamp(content, f"{COMMAND} {' '.join(words)}")


def _count(params) -> dict[str, int]:
    """Returns the number of parameters of each module."""
    learned = params["params"]
    return {
        name: sum(np.size(leaf) for leaf in jax.tree.leaves(tree))
        for name, tree in learned.items()
        if isinstance(tree, dict)
    }


def _make_method(model, params) -> Method:
    """Returns uint8 videos -> float codes of what the model makes of them."""
    run = jax.jit(lambda params, x: contract.to_codes(contract.reconstruct(model, params, x)))
    return lambda video_BTHWC: run(params, video_BTHWC)


def read_clips(folder: Path, num_frames: int, side: int) -> Iterator[Clip]:
    """Yields the clips of the test split of a folder, or of all its videos.

    A shorter video is filled up with its last frame, which does not count.
    """
    for video in choose_videos(folder):
        spread = itertools.islice(iterate_frames(video.path), 0, num_frames * STRIDE, STRIDE)
        frames = [_cut(frame, side) for _, frame in spread]
        count, missing = len(frames), num_frames - len(frames)
        frames += frames[-1:] * missing
        mask_BT = np.arange(num_frames)[None] < count
        yield Clip(video.name, video.group, np.stack(frames)[None], mask_BT)


def choose_videos(folder: Path) -> list[Video]:
    """Returns the videos of the test split; all where no split is stated."""
    videos = list_videos(folder)
    test = [video for video in videos if video.split == "test"]
    if not test and any(video.split is not None for video in videos):
        raise ValueError(f"{folder} states splits, and none of its videos is in `test`")
    return test or list(videos)


def _cut(frame_HWC: np.ndarray, side: int) -> np.ndarray:
    """Returns the centre of a frame, at most `side` rows and columns."""
    (height, width), kept = frame_HWC.shape[:2], [min(n, side) for n in frame_HWC.shape[:2]]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    return frame_HWC[top : top + kept[0], left : left + kept[1]]


def measure_folder(name: str, clips: Sequence[Clip], methods: dict[str, Method]) -> dict[str, Any]:
    """Returns the scores of all methods on clips, and the gain of each run over the weights."""
    scores = {method: _score(clips, run, method) for method, run in methods.items()}
    units = make_units(np.arange(len(clips)), "videos", seed=0)
    rows = {
        method: {metric: _summarize(units, found[metric]) for metric in METRICS}
        for method, found in scores.items()
    }
    gains = {
        method: {
            metric: vars(compare_means(units, found[metric], scores[_PUBLISHED][metric]))
            for metric in METRICS
        }
        for method, found in scores.items()
        if method != _PUBLISHED
    }
    groups = len({clip.group for clip in clips})
    print(f"{name}: {len(clips)} videos of {groups} groups")
    for method, row in rows.items():
        cells = [f"{m} {v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for m, v in row.items()]
        print(f"  {method:20} {'  '.join(cells)}")
    for method, gain in gains.items():
        cells = [
            f"{m} {v['value']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}] p {v['p_value']:.4f}"
            for m, v in gain.items()
        ]
        print(f"  {method} less {_PUBLISHED}: {'  '.join(cells)}", flush=True)
    return {
        "name": name,
        "videos": len(clips),
        "groups": groups,
        "rows": rows,
        "gains": gains,
        "by_video": {
            method: {m: [round(float(v), 5) for v in found[m]] for m in METRICS}
            for method, found in scores.items()
        },
    }


def _score(clips: Sequence[Clip], run: Method, method: str) -> dict[str, np.ndarray]:
    """Returns metric -> the mean over the frames of each video, [V]."""
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for number, clip in enumerate(clips, start=1):
        if min(clip.video_BTHWC.shape[2:4]) < SSIM_WINDOW:
            raise ValueError(f"{clip.name}: frames of at least {SSIM_WINDOW} pixels a side")
        scores = score_frames(clip.video_BTHWC, run(clip.video_BTHWC), (LPIPS,))
        for metric in METRICS:
            found[metric].append(float(np.asarray(scores[metric])[clip.mask_BT].mean()))
        print(f"  {method} {number}/{len(clips)} {clip.name}", flush=True)
    return {metric: np.array(values) for metric, values in found.items()}


def _summarize(units: Units, mean_V: np.ndarray) -> dict[str, float]:
    low, high = find_percentiles(resample_ratio(units, mean_V, np.ones(len(mean_V))))
    if math.isnan(low):
        low = high = float(mean_V.mean())
    return {"value": float(mean_V.mean()), "low": low, "high": high}


def draw(path: Path, clips: Sequence[Clip], methods: dict[str, Method]) -> None:
    """Writes the middle frame of each clip, above what each method makes of it."""
    from PIL import Image

    columns = []
    for clip in clips:
        middle = int(clip.mask_BT.sum()) // 2
        made = (np.rint(np.asarray(run(clip.video_BTHWC))) for run in methods.values())
        columns.append(
            [clip.video_BTHWC[0, middle], *(m[0, middle].astype(np.uint8) for m in made)]
        )
    rows = [[column[number] for column in columns] for number in range(1 + len(methods))]
    sheet = _stack([_stack(row, 1) for row in rows], 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path, quality=85)


def _stack(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Joins pictures along an axis, with white between them and beside smaller ones."""
    across = 1 - axis
    size = max(picture.shape[across] for picture in pictures)
    parts = []
    for number, picture in enumerate(pictures):
        widths = [(0, 0)] * 3
        widths[axis] = (_GAP if number else 0, 0)
        widths[across] = (0, size - picture.shape[across])
        parts.append(np.pad(picture, widths, constant_values=255))
    return np.concatenate(parts, axis)


# --- speed ---------------------------------------------------------------------------------------


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Returns frames/s of encoding and decoding, and of processor time, of every network."""
    model, params = load_pretrained(options.weights)
    video = np.random.default_rng(0).integers(0, 256, SPEED_SHAPE, np.uint8)
    steps = _list_steps(model, params, video) | _list_torch_steps(model, params, video)
    timings = measure(steps, options.repeats)
    rows = {name: _describe(timing) for name, timing in timings.items()}
    for name, row in rows.items():
        print(
            f"{name:20} {row['frames_per_second']:8.2f} frames/s "
            f"{row['frames_per_processor_second']:8.2f} frames per s of processor"
        )
    content = {"weights": options.weights.name, "shape": list(SPEED_SHAPE), "rows": rows}
    command = f"--weights WEIGHTS --speed --repeats {options.repeats}"
    return stamp(content, f"{COMMAND} {command}")


def _describe(timing: Timing) -> dict[str, float]:
    frames = SPEED_SHAPE[0] * SPEED_SHAPE[1]
    return {
        "frames_per_second": frames / timing.wall_s,
        "frames_per_processor_second": frames / timing.cpu_s,
        "seconds": timing.wall_s,
        "processor_seconds": timing.cpu_s,
    }


def _list_steps(model, params, video: np.ndarray) -> dict[str, Callable[[], None]]:
    encode, decode = (
        jax.jit(functools.partial(call, model)) for call in (contract.encode, contract.decode)
    )
    z = model.posterior_mean(encode(params, video))
    return {
        "vvae encode": lambda: jax.block_until_ready(encode(params, video)),
        "vvae decode": lambda: jax.block_until_ready(decode(params, z)),
    }


def _list_torch_steps(model, params, video: np.ndarray) -> dict[str, Callable[[], None]]:
    """Returns the steps of the same network in PyTorch; none where there is no such network."""
    try:
        import safetensors.torch
        import torch

        from benchmarks import torch_tiny
    except ImportError:
        print("PyTorch is not installed: vvae alone is measured")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(folder, model, params)
        config = json.loads((Path(folder) / "config.json").read_text())
        if config["_class_name"] != "TAESD":
            print(f"no {config['_class_name']} in PyTorch is measured here, only TAESD")
            return {}
        network = torch_tiny.TAESD.from_config(config).eval().requires_grad_(False)
        (path,) = Path(folder).glob("*.safetensors")
        network.load_state_dict(safetensors.torch.load_file(path))
    frames = np.moveaxis(video.reshape(-1, *video.shape[2:]), -1, 1) / np.float32(127.5) - 1
    x = torch.from_numpy(np.ascontiguousarray(frames))
    with torch.inference_mode():
        z = network.encode(x)
    _check_same(model, params, video, z.numpy())

    def run(call: Callable, *arguments) -> None:
        with torch.inference_mode():
            call(*arguments)

    return {
        "PyTorch encode": functools.partial(run, network.encode, x),
        "PyTorch decode": functools.partial(run, network.decode, z),
    }


def _check_same(model, params, video: np.ndarray, z_NZhw: np.ndarray) -> None:
    """Raises ValueError unless both networks give the same latents."""
    ours = np.asarray(model.posterior_mean(contract.encode(model, params, video)))
    theirs = np.moveaxis(z_NZhw, 1, -1).reshape(ours.shape)
    error = float(np.abs(ours - theirs).max() / theirs.std())
    if not error < 1e-3:
        raise ValueError(f"the latents of PyTorch differ by {error:.1e} standard deviations")


# --- the tables ----------------------------------------------------------------------------------

_HEADS = {"psnr": "PSNR, dB", "ssim": "SSIM", f"lpips_{LPIPS}": "LPIPS (AlexNet)"}


def format_tables(path: Path) -> str:
    """Returns the tables of the docs from a file of results, or that there is none yet."""
    if not path.is_file():
        return f"Not measured yet: `{COMMAND} --weights FOLDER --data.path VIDEOS`.\n\n"
    content = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    if "quality" in content:
        quality = content["quality"]
        parts += [f"`{quality['command']}`"]
        parts += [_format_folder(quality, folder) for folder in quality["folders"]]
        if quality["picture"]:
            caption = quality["picture"]["caption"]
            parts += [f"![{caption}](assets/{quality['picture']['file']})", f"*{caption}*"]
    if "speed" in content:
        parts += [f"`{content['speed']['command']}`", _format_speed(content["speed"])]
    return "\n\n".join([*parts, ""])


def _format_folder(quality: dict[str, Any], folder: dict[str, Any]) -> str:
    groups = f" of {folder['groups']} groups" if folder["groups"] < folder["videos"] else ""
    lines = [
        f"| {folder['name']}, {folder['videos']} videos{groups} | {' | '.join(_HEADS.values())} |",
        f"| --- | {' | '.join(['---:'] * len(_HEADS))} |",
    ]
    for name, row in folder["rows"].items():
        cells = (f"{v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in row.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, gain in folder["gains"].items():
        cells = (
            f"{v['value']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}], p {v['p_value']:.4f}"
            for v in gain.values()
        )
        encoders = quality["encoders"]
        same = "the same" if encoders[name] == encoders[_PUBLISHED] else "another"
        lines.append(f"| {name} less {_PUBLISHED} ({same} encoder) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_speed(speed: dict[str, Any]) -> str:
    _, length, height, width, _ = speed["shape"]
    lines = [
        f"| {length} frames of {height}x{width} | frames/s | frames per s of processor |",
        "| --- | ---: | ---: |",
    ]
    for name, row in speed["rows"].items():
        rates = (row["frames_per_second"], row["frames_per_processor_second"])
        lines.append(f"| {name} | {' | '.join(f'{rate:.2f}' for rate in rates)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
