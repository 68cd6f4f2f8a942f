"""Rate against distortion: a trained CausalVideoVAE, PCA of 4-frame blocks, JPEG and codecs.

    python -m benchmarks.codec_curves --data.path GESTURES
    python -m benchmarks.rate_distortion --workdir RUN --data.path GESTURES

The first command, needed once, codes the same clips by x264, x265 and SVT-AV1.

All methods code every clip of the test split without masked frames, each clip by itself:

    vae         posterior means, with steps in units of the posterior's standard deviation, under
                contexts that are fitted to the training split (`vvae.inference.contexts`)
                and rounded towards the predictions, as `compress` does
    vae_prior   rounded to the nearest code, under the prior alone (`vvae.inference.coding`)
    pca_blocks  principal components of blocks of f_t x f_s x f_s pixels, the blocks of a latent
    pca_frames  principal components of whole blocks of f_t frames
    jpeg        each frame by itself, 4:2:0 and 4:4:4, with optimised Huffman tables

Both PCAs are fitted to the training split, one basis for first frames and one for the later blocks,
as in the VAE. Their coefficients are quantised with one step for all components (which is best at
high rates: reverse water-filling) and coded with the same tables as the VAE's, those of a normal
distribution, with the variance of the training split. The number of components is chosen in
hindsight, at every rate, for the PCA only.

Bits are those of a file of `compress` without its header for both vae, -log2 P of the codes for
pca, and the scan without headers and tables for JPEG; codecs count coded pictures without parameter
sets. PSNR is the mean over the frames of a video, then over videos, of RGB or gray codes. BD-rates
of the VAE over a codec are means over videos, with intervals over them.
"""

import argparse
import dataclasses
import io
import json
import math
import tempfile
from pathlib import Path

from vvae import runtime

runtime.prepare_jax()

import jax
import numpy as np
from PIL import Image

from benchmarks.codec_curves import (
    describe_clips,
    digest_clips,
    keep_whole,
    make_point,
    measure_psnr,
    split_videos,
)
from benchmarks.equal_psnr import compare_videos
from benchmarks.origin import RESULTS, stamp, write_result
from vvae import build, figures
from vvae.data.clips import Clips
from vvae.inference import coding
from vvae.inference.contexts import ContextModel, Past, choose_codes
from vvae.measure.pca import fit_block_pca, fit_first_pca
from vvae.models import contract
from vvae.models.block_pca import join_blocks, split_blocks
from vvae.models.ppca import BlockPCA
from vvae.run import open_run
from vvae.tasks.storage.code import fit_contexts, make_encode

STEPS = (1.4, 2.0, 2.8, 3.4, 4.0, 4.8, 5.6, 8.0)
PCA_STEPS = tuple(float(s) for s in np.geomspace(32, 362, 8))  # in 8-bit units
KEPT = (8, 16, 32, 64, 128)
QUALITIES = (1, 3, 6, 10, 15, 22, 30, 45, 60, 75)


@dataclasses.dataclass(frozen=True)
class Point:
    """Bits per pixel (of a frame, all channels together), PSNR in dB, and the setting.

    `by_video` has the lists `rate` and `psnr` of all videos, where the bits of clips are known.
    """

    rate: float
    psnr: float
    setting: str
    by_video: dict[str, list[float]] | None = None


def main() -> None:
    """Measures all curves, prints them, writes JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data.path", dest="data_path", required=True)
    parser.add_argument("--split", default="test")
    # "best" is by the ELBO, which training with another KL weight does not maximise.
    parser.add_argument("--which", default="latest", help="checkpoint: latest, best or a step")
    picture = Path("docs/assets/rate_distortion.png")
    parser.add_argument("--picture", type=Path, default=picture)
    options = parser.parse_args()
    run = open_run(options.workdir)
    which = int(options.which) if options.which.isdecimal() else options.which
    model, params = build.load(options.workdir, which)
    dataset = build.open_data(run.config, options.data_path)
    clips = keep_whole(dataset.splits[options.split])
    train = dataset.splits["train"]
    video_NTHWC = clips.read(np.arange(len(clips)))
    codecs = read_codecs(digest_clips(video_NTHWC))
    score = Score(video_NTHWC, clips.video_index_N)
    encode = make_encode(model, params, batch_size=16)
    vae = measure_vae(model, params, score, fit_contexts(encode, keep_whole(train)))
    measures = {
        "vae": lambda: vae[0],
        "vae_prior": lambda: vae[1],
        "pca_blocks": lambda: measure_block_pca(train, model.block_shape, score),
        "jpeg": lambda: measure_jpeg(score),
        "pca_frames": lambda: measure_frame_pca(train, model.block_shape[0], score),
    }
    curves = {}
    for name, measure in measures.items():
        curves[name] = measure()
        print(
            name + ": " + "; ".join(f"{p.rate:.3f} {p.psnr:.2f}" for p in curves[name]), flush=True
        )
    curves |= codecs
    rates = {
        "vae": compare_codecs(curves["vae"], codecs | {"vae_prior": curves["vae_prior"]}),
        "vae_prior": compare_codecs(curves["vae_prior"], codecs),
    }
    gains = {
        name: [gain_at(curve, point) for point in curves["vae"]]
        for name, curve in curves.items()
        if name != "vae"
    }
    report(curves, gains)
    for own, others in rates.items():
        for name, rate in others.items():
            interval = f"[{rate['low']:+.1f}, {rate['high']:+.1f}]"
            print(f"BD-rate of {own} over {name}: {rate['mean']:+.1f} % {interval}")
    write(curves, gains, rates, clips, options)


def read_codecs(digest: str) -> dict[str, list[Point]]:
    """Reads the curves of benchmarks.codec_curves.

    Raises:
      ValueError: if there are none, or they are of other clips.
    """
    path = RESULTS / "codec_curves.json"
    content = json.loads(path.read_text()) if path.is_file() else {"digest": "missing"}
    if content["digest"] != digest:
        raise ValueError(
            f"{path} is missing or of other clips: run python -m benchmarks.codec_curves first"
        )
    return {
        name: [Point(p["rate"], p["psnr"], p["setting"], p["by_video"]) for p in points]
        for name, points in content["curves"].items()
    }


def compare_codecs(vae: list[Point], codecs: dict[str, list[Point]]) -> dict[str, dict]:
    """Returns the BD-rates of the VAE over each codec: `equal_psnr.compare_videos`."""

    def split(points: list[Point]):
        return split_videos([{"by_video": p.by_video} for p in points], "rate")

    return {name: compare_videos(split(vae), split(points)) for name, points in codecs.items()}


class Score:
    """Turns the bits and the reconstructions of all clips into a point of a curve."""

    def __init__(self, video_NTHWC: np.ndarray, video_index_N: np.ndarray):
        self.video_NTHWC = video_NTHWC
        self._video_index_N = video_index_N

    def __call__(self, bits: float | np.ndarray, decoded_NTHWC: np.ndarray, setting: str) -> Point:
        """Takes the bits of each clip, or of all together, and frames in 8-bit units, unrounded."""
        shape = self.video_NTHWC.shape
        # Without those of clips, the same for each, which gives the same mean.
        bits_N = np.broadcast_to(np.asarray(bits) / (1 if np.ndim(bits) else shape[0]), shape[:1])
        psnr_NT = measure_psnr(decoded_NTHWC, self.video_NTHWC)
        point = make_point({"rate": bits_N}, psnr_NT, self._video_index_N, math.prod(shape[1:4]))
        by_video = point["by_video"] if np.ndim(bits) else None
        return Point(point["rate"], point["psnr"], setting, by_video)


def measure_vae(
    model, params, score: Score, contexts: ContextModel
) -> tuple[list[Point], list[Point]]:
    """Returns one point per step, with contexts and without; each clip has steps of its own."""
    encode = jax.jit(lambda x: contract.encode(model, params, x))
    shape_THW = score.video_NTHWC.shape[1:4]
    decode = jax.jit(lambda z: contract.decode(model, params, z, shape_THW))
    posteriors = [jax.device_get(encode(video[None])) for video in score.video_NTHWC]
    points, points_prior = [], []
    for step in STEPS:
        for found, chosen in ((points, contexts), (points_prior, None)):
            bits, decoded = [], []
            for posterior in posteriors:
                mean = model.posterior_mean(posterior)
                every_Bt = np.ones(mean.shape[:2], bool)
                clips = coding.quantise_clips(model.bottleneck, posterior, every_Bt, step)
                ((codes, quantiser),) = clips
                if chosen is not None:
                    codes = choose(chosen, np.asarray(mean)[0], quantiser)
                bits.append(8.0 * count_coded_bytes(codes, quantiser, chosen))
                decoded.append(np.asarray(decode(quantiser.dequantise(codes[None])))[0])
            decoded_NTHWC = 127.5 * (np.stack(decoded) + 1.0)
            found.append(score(np.array(bits), decoded_NTHWC, f"step {step}"))
    return points, points_prior


def choose(
    contexts: ContextModel, mean_thwZ: np.ndarray, quantiser: coding.UniformSteps
) -> np.ndarray:
    """Returns the codes that `compress` chooses for a clip [t, h, w, Z]."""
    frames, past = [], Past()
    for mean_hwZ in mean_thwZ:
        codes, _, past = choose_codes(contexts, mean_hwZ, quantiser.steps_Z, past)
        frames.append(codes)
    return np.stack(frames)


def count_coded_bytes(
    codes_thwZ: np.ndarray, quantiser: coding.Quantiser, contexts: ContextModel | None = None
) -> int:
    """Returns the bytes of a file of these codes without those of its header."""
    header = coding.Header(
        shape_THW=(1, 1, 1),
        fps=(25, 1),
        grid_thw=codes_thwZ.shape[:3],
        quantiser=quantiser,
        digest=bytes(32),
        contexts=contexts.digest if contexts else None,
    )
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes"
        for count in (len(codes_thwZ), 0):
            part = dataclasses.replace(header, grid_thw=(count, *header.grid_thw[1:]))
            coding.write_codes(path, part, codes_thwZ[:count], contexts)
            sizes.append(path.stat().st_size)
    return sizes[0] - sizes[1]


# --- PCA -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class PcaCodec:
    """A codec for blocks of one shape, fitted to the training split."""

    pca: BlockPCA
    coefficients_NK: np.ndarray

    def code(self, step: float, kept: int) -> tuple[float, np.ndarray]:
        """Returns the bits of all blocks and their decoded pixels [N, D]."""
        std_K = np.sqrt(self.pca.variance_D[:kept])
        kept = min(kept, int(np.sum(step / np.maximum(std_K, 1e-9) * 2**16 <= 2**20)))
        if kept == 0:
            return 0.0, np.tile(self.pca.mean_D, (len(self.coefficients_NK), 1))
        std_K = std_K[:kept]
        sizes = np.rint(np.clip(step / std_K * 2**16, 2**8, 2**20)).astype(int)
        quantiser = coding.UniformSteps(tuple(sizes.tolist()))
        codes = quantiser.quantise(self.coefficients_NK[:, :kept] / std_K)
        values = quantiser.dequantise(codes) * std_K
        return coding.count_bits(codes, quantiser), values @ self.pca.components_DD[:kept] + (
            self.pca.mean_D
        )


def measure_block_pca(train: Clips, block_shape, score: Score) -> list[Point]:
    """Returns the best points over steps and numbers of components."""
    frames, rows, columns = block_shape
    video = score.video_NTHWC
    shapes = ((1, rows, columns), block_shape)
    parts = (video[:, :1], video[:, 1:])
    pcas = (fit_first_pca(train, (rows, columns)), fit_block_pca(train, block_shape))
    codecs, grids = [], []
    for pca, part, shape in zip(pcas, parts, shapes):
        blocks = split_blocks(part, shape)
        grids.append(blocks.shape)
        centred = blocks.reshape(-1, blocks.shape[-1]) - pca.mean_D
        codecs.append(PcaCodec(pca, centred @ pca.components_DD.T))

    def decode(step: float, kept: int) -> Point:
        # A first frame has one value where a block has f_t: at the same step, a quarter of the
        # components is worth keeping, and its errors count once, not f_t times.
        first = codecs[0].code(step, max(1, kept // frames if kept >= 96 else kept))
        later = codecs[1].code(step, kept)
        pieces = [
            join_blocks(values.reshape(grid), shape)
            for (_, values), grid, shape in zip((first, later), grids, shapes)
        ]
        setting = f"step {step:.1f}, {kept} components"
        return score(first[0] + later[0], np.concatenate(pieces, axis=1), setting)

    return upper_hull([decode(step, kept) for step in PCA_STEPS for kept in KEPT])


def measure_frame_pca(train: Clips, frames: int, score: Score) -> list[Point]:
    """Codes whole frames by PCA: the first one, and blocks of the later ones."""
    whole = keep_whole(train)
    videos = whole.read(np.arange(len(whole)))
    codecs = []
    for part in (slice(0, 1), slice(1, None)):
        known, new = videos[:, part], score.video_NTHWC[:, part]
        length = 1 if part.stop == 1 else frames
        known, new = (a.reshape(-1, length * math.prod(a.shape[2:])) for a in (known, new))
        pca = fit_wide_pca(known)
        codecs.append(PcaCodec(pca, (new - pca.mean_D.astype(np.float32)) @ pca.components_DD.T))
    shape = score.video_NTHWC.shape

    def decode(step: float, kept: int) -> Point:
        first, later = (codec.code(step, kept) for codec in codecs)
        pieces = [values.reshape(shape[0], -1, *shape[2:]) for _, values in (first, later)]
        setting = f"step {step:.1f}, {kept} components"
        return score(first[0] + later[0], np.concatenate(pieces, axis=1), setting)

    steps = [8.0 * step for step in PCA_STEPS[::3]]  # for far fewer and larger coefficients
    return upper_hull([decode(step, kept) for step in steps for kept in (96, 500)])


def fit_wide_pca(blocks_ND: np.ndarray) -> BlockPCA:
    """Fits PCA of fewer examples than dimensions, by their inner products; up to 500 components."""
    mean_D = blocks_ND.mean(axis=0, dtype=np.float64)
    centred = blocks_ND.astype(np.float32) - mean_D.astype(np.float32)
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    kept = min(500, len(values) - 1)
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    components = (vectors / np.sqrt(values)).T.astype(np.float32) @ centred
    return BlockPCA(mean_D, components, values / len(blocks_ND))


def upper_hull(points: list[Point]) -> list[Point]:
    """Returns the points above all lines between others, by increasing rate and PSNR.

    A rate between two settings thus gets the benefit of the line between them, as with a finer grid
    of settings.
    """
    kept = []
    for point in sorted(points, key=lambda p: (p.rate, -p.psnr)):
        if kept and point.psnr <= kept[-1].psnr:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], point):
            kept.pop()
        if kept and point.rate == kept[-1].rate:
            kept.pop()
        kept.append(point)
    return kept


def _slope(first: Point, second: Point) -> float:
    """Returns dB per rate; infinite between equal rates."""
    distance = second.rate - first.rate
    return (second.psnr - first.psnr) / distance if distance else math.inf


# --- JPEG -----------------------------------------------------------------------------------------


def measure_jpeg(score: Score) -> list[Point]:
    """Returns the best points over qualities and chroma formats."""
    points = []
    for subsampling in ("4:2:0", "4:4:4"):
        for quality in QUALITIES:
            bits, decoded = 0.0, np.empty(score.video_NTHWC.shape, np.uint8)
            for n, t in np.ndindex(decoded.shape[:2]):
                size, decoded[n, t] = _code_jpeg(score.video_NTHWC[n, t], quality, subsampling)
                bits += 8.0 * size
            points.append(score(bits, decoded, f"{subsampling}, quality {quality}"))
    return upper_hull(points)


def _code_jpeg(frame_HWC: np.ndarray, quality: int, subsampling: str) -> tuple[int, np.ndarray]:
    """Returns the bytes of the scan, and the decoded frame."""
    is_gray = frame_HWC.shape[-1] == 1
    picture = Image.fromarray(frame_HWC[..., 0] if is_gray else frame_HWC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
    decoded = np.asarray(Image.open(buffer)).reshape(frame_HWC.shape)
    return count_scan(buffer.getvalue()), decoded


def count_scan(data: bytes) -> int:
    """Counts the bytes of a baseline JPEG's entropy-coded scan, between header and end marker."""
    start = data.index(b"\xff\xda")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return len(data) - (start + 2 + length) - 2


# --- what is said --------------------------------------------------------------------------------


def gain_at(curve: list[Point], point: Point) -> float | None:
    """Returns by how many dB a point is above a curve at its rate; None beyond the curve's ends."""
    curve = upper_hull(curve)
    rates = [p.rate for p in curve]
    if not rates[0] <= point.rate <= rates[-1]:
        return None
    return float(point.psnr - np.interp(point.rate, rates, [p.psnr for p in curve]))


def report(curves, gains) -> None:
    """Prints the points of the VAE with their gains."""
    names = list(gains)
    print("vae: bits/pixel, PSNR, gain in dB at equal rate over " + ", ".join(names))
    for k, point in enumerate(curves["vae"]):
        found = [gains[name][k] for name in names]
        text = "  ".join("   -" if g is None else f"{g:+.2f}" for g in found)
        print(f"  {point.setting:9s} {point.rate:.4f}  {point.psnr:.2f}  {text}")


def write(curves, gains, rates, clips: Clips, options) -> None:
    """Writes benchmarks/results/rate_distortion.json and the picture."""
    content = {
        "checkpoint": options.which,
        "data": describe_clips(clips, options.split),
        "curves": {
            name: [[round(p.rate, 5), round(p.psnr, 3), p.setting] for p in curve]
            for name, curve in curves.items()
        },
        "by_video": {n: [p.by_video for p in curves[n]] for n in ("vae", "vae_prior")},
        "gain_of_vae_db": gains,
        "bd_rates_percent": rates,
    }
    command = "python -m benchmarks.rate_distortion --workdir RUN --data.path VIDEOS"
    write_result(RESULTS / "rate_distortion.json", stamp(content, command))
    lines = {
        name: (np.array([p.rate for p in hull]), np.array([p.psnr for p in hull]))
        for name, hull in ((name, upper_hull(curve)) for name, curve in curves.items())
    }
    figures.write_curves(
        options.picture,
        lines,
        "bits per pixel, headers and tables not counted",
        "PSNR in dB",
        "Unseen environments, clips coded one by one",
    )


if __name__ == "__main__":
    main()
