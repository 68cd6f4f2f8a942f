"""Converts a video file to a file of coded latents and back, in constant memory."""

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from vvae import video
from vvae.data.views import encode_view, get_view
from vvae.files import refuse_same
from vvae.inference import coding, streaming
from vvae.inference.contexts import ContextModel, Past, choose_codes
from vvae.inference.range_coding import require_coder
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.metrics.frames import frame_psnr
from vvae.models.digest import digest_params
from vvae.models.grid import GridVideoVAE
from vvae.tasks.result import Result

VIEWS = ("rgb", "gray")
LATENTS_PER_CHUNK = 4
MAX_DENOMINATOR = 10**5


def compress(
    model: GridVideoVAE,
    params,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    view: str,
    step: float = coding.DEFAULT_STEP,
    contexts: ContextModel | None = None,
) -> Result:
    """Writes the coded latents of a video, and measures the size and quality of the file.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      source: a video that `vvae.video.iterate_frames` reads, of any length and size.
      target: the file to write.
      view: the view of the model, rgb or gray.
      step: the quantisation step in standard deviations of the posterior; these are averaged over
        the video by the geometric mean (`coding.choose_quantiser`).
      contexts: probabilities of the codes that the task code fitted; those of the prior without.

    Raises:
      ValueError: if the target is the source, for another model or view, if latents are not finite,
        or if `constriction` is not installed.
      VideoError: if the video cannot be read.
    """
    refuse_same(target, [source])
    _check_model(model)
    if view not in VIEWS:
        raise ValueError(f"compress takes models of the views {' and '.join(VIEWS)}, not {view}")
    require_coder()
    info = video.probe(source)
    shape_THW = info.num_frames, info.height, info.width
    fps = Fraction(info.fps).limit_denominator(MAX_DENOMINATOR)
    start = time.perf_counter()
    # The quantisation step depends on the whole video, so that its latents wait on disk.
    with tempfile.TemporaryFile() as spool:
        latents = _spool_latents(model, params, _iterate_view(source, view), spool)
        log_std_Z = latents.sum_log_std_Z / math.prod(model.grid_shape(shape_THW))
        quantiser = coding.choose_quantiser(model.bottleneck, log_std_Z, step)
        header = coding.Header(
            shape_THW=shape_THW,
            fps=(fps.numerator, fps.denominator),
            grid_thw=model.grid_shape(shape_THW),
            quantiser=quantiser,
            digest=digest_params(params),
            pixel_aspect=info.pixel_aspect.as_integer_ratio(),
            contexts=contexts.digest if contexts else None,
        )
        chosen = _ChosenCodes(header, contexts)
        coding.write_codes(target, header, chosen.choose(spool), contexts)
    encoded = time.perf_counter()
    decoded = decode_file(model, params, target, contexts)
    psnr = _measure_psnr(_iterate_view(source, view), decoded)
    values = {
        "size": Path(target).stat().st_size,
        "kl_bits": latents.kl_bits,
        "coded_bits": chosen.bits,
        "psnr": psnr,
        "encode_time": encoded - start,
        "decode_time": time.perf_counter() - encoded,
    }
    row = _summarize(values, shape_THW, step, view)
    return Result(task="compress", rows={"vae": row}, files=(str(target),))


def decompress(
    model: GridVideoVAE,
    params,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    lossless: bool = False,
    contexts: ContextModel | None = None,
) -> coding.Header:
    """Writes the video of coded latents.

    Args:
      model: the model that made them.
      params: its variables.
      source: a file that `compress` wrote.
      target: the video to write; its suffix chooses the container.
      lossless: whether the frames are written bit-exactly (see `write_video`).
      contexts: those that the file was coded with, if any.

    Returns:
      The header of the file.

    Raises:
      ValueError: if the target is the source, or if the file is damaged, truncated, or of another
        model; the message names it.
      VideoError: if the video cannot be written.
    """
    refuse_same(target, [source])
    header = _read_header_of(model, params, source)
    rate = header.fps[0] / header.fps[1]
    pieces = decode_file(model, params, source, contexts)
    aspect = Fraction(*header.pixel_aspect)
    size = header.shape_THW[1:]
    video.write_video_pieces(target, pieces, size, rate, lossless, pixel_aspect=aspect)
    return header


def describe(header: coding.Header) -> str:
    """Describes the length, the size and the frame rate of a video in words."""
    num_frames, height, width = header.shape_THW
    rate = header.fps[0] / header.fps[1]
    return f"{num_frames} frames of {width}x{height}, {rate:g} a second"


def decode_file(
    model: GridVideoVAE, params, path: str | os.PathLike, contexts: ContextModel | None = None
) -> Iterator[np.ndarray]:
    """Decodes a file of coded latents; yields uint8 [n, H, W, C]. Raises as `decompress`."""
    header = _read_header_of(model, params, path)
    if header.contexts is None:
        contexts = None
    latents = (
        header.quantiser.dequantise(codes[None, start : start + LATENTS_PER_CHUNK])
        for codes in coding.read_codes(path, contexts)
        for start in range(0, len(codes), LATENTS_PER_CHUNK)
    )
    yield from streaming.decode_video(model, params, latents, header.shape_THW)


def _check_model(model) -> None:
    if not isinstance(model, GridVideoVAE):
        raise ValueError(
            f"compress and decompress are for CausalVideoVAE (model.kind=causal), whose latents "
            f"have a fixed prior, not for {type(model).__name__}"
        )


def _read_header_of(model: GridVideoVAE, params, path) -> coding.Header:
    """Reads the header of a file; raises ValueError if the file is of another model."""
    _check_model(model)
    header = coding.read_header(path)
    if header.digest != digest_params(params):
        raise ValueError(
            f"{path}: was made by a model with other parameters (digest "
            f"{header.digest.hex()[:12]}): by another run, or by another checkpoint of this run "
            "(--which)"
        )
    if header.grid_thw != model.grid_shape(header.shape_THW):
        raise ValueError(
            f"{path}: states latents {header.grid_thw} for {header.shape_THW} (frames, rows, "
            f"columns), for which the model has {model.grid_shape(header.shape_THW)}"
        )
    return header


def _iterate_view(source, view: str) -> Iterator[np.ndarray]:
    """Yields frames in the view of the model, uint8 [H, W, C]."""
    seen = get_view(view)
    for _, frame in video.iterate_frames(source):
        yield encode_view(seen, frame[None])[0][0]


@dataclasses.dataclass(frozen=True)
class _Latents:
    """Sums over the latents of a video: `coding.sum_log_std` and `coding.kl_bits`."""

    sum_log_std_Z: np.ndarray
    kl_bits: float


def _spool_latents(model: GridVideoVAE, params, frames, spool) -> _Latents:
    """Writes the posterior means of all frames to a file, as float32."""
    sum_log_std_Z, kl_bits = np.zeros(model.bottleneck.channels), 0.0
    for posterior in streaming.encode_frames(model, params, frames, LATENTS_PER_CHUNK):
        mean = np.asarray(model.posterior_mean(posterior), np.float32)
        spool.write(mean.tobytes())
        sum_log_std_Z += coding.sum_log_std(posterior)
        mask_Bt = np.ones(mean.shape[:2], bool)
        kl_bits += float(coding.kl_bits(model.bottleneck, posterior, mask_Bt)[0])
    return _Latents(sum_log_std_Z, kl_bits)


@dataclasses.dataclass
class _ChosenCodes:
    """The codes of spooled latents, and the sum of their -log2 P."""

    header: coding.Header
    contexts: ContextModel | None
    bits: float = 0.0

    def choose(self, spool) -> Iterator[np.ndarray]:
        """Yields the codes of each latent frame, [h, w, Z], and adds their bits."""
        num_frames, *size = self.header.grid_thw
        quantiser = self.header.quantiser
        shape = (*size, quantiser.num_channels)
        spool.seek(0)
        past = Past()
        for _ in range(num_frames):
            values = np.frombuffer(spool.read(4 * math.prod(shape)), np.float32).reshape(shape)
            codes = quantiser.quantise(values)  # refuses values that are not finite
            if self.contexts is None:
                bits = coding.count_bits(codes, quantiser)
            else:
                codes, bits, past = choose_codes(self.contexts, values, quantiser.steps_Z, past)
            self.bits += bits
            yield codes


def _measure_psnr(frames: Iterable[np.ndarray], pieces: Iterable[np.ndarray]) -> float:
    """Returns the PSNR of decoded pieces in dB, the mean over frames."""
    frames, psnr = iter(frames), []
    for piece in pieces:
        originals = np.stack([next(frames) for _ in piece])
        psnr.extend(np.asarray(frame_psnr(originals, piece), np.float64))
    return float(np.mean(psnr))


def _summarize(values, shape_THW, step: float, view: str) -> dict[str, Metric]:
    entries = {
        "size": ("bytes", "the file, with header and checksums"),
        "bits_per_pixel": ("bits/pixel", "8 size / (T x H x W)"),
        "kl_bits": ("bits", "KL(posterior || prior) / ln 2"),
        "coded_bits": (
            "bits",
            "-log2 P of the quantised posterior means under the probabilities that they are coded "
            "with",
        ),
        "psnr": ("dB", "10 log10(255^2 / mse) of a frame, at most 100 dB, mean over frames"),
        "encode_time": ("s", "video to file, with compilation"),
        "decode_time": ("s", "file to frames, with compilation"),
    }
    values = {**values, "bits_per_pixel": 8 * values["size"] / math.prod(shape_THW)}
    context = {
        "view": view,
        "num_frames": shape_THW[0],
        "frame_size": f"{shape_THW[1]}x{shape_THW[2]}",
        "step": f"{step} standard deviations of the posterior",
        METHOD: "vae",
    }
    return {
        name: make_metric(name, values[name], unit, definition, "whole video", **context)
        for name, (unit, definition) in entries.items()
    }
