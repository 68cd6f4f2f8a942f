"""Codes latents of grid models as bytes, decodes them, and counts the bits of a video in two ways.

    codes = rint(posterior mean / step),  range-coded under the probability of each bin under p(z)

Gaussian latents have one step per channel, in units of the prior's standard deviation, which is 1.
Finite scalars are their own codes, under a uniform prior. A file stores the steps or levels as
integers, and the frequencies of the bins are computed from them in integer arithmetic alone, so
that every machine decodes with the table that another one encoded with. `contexts` gives better
probabilities. The range coder is that of `constriction` (extra `coding`); functions that only count
bits do not need it.

A file, little-endian, consists of a header, one integer per channel (step or levels), two integers
for the aspect of pixels that are not square (version 2; square ones are version 1), the digest of
the contexts after the aspect, and steps as single bytes (version 3), the CRC-32 of all this, and
blocks. A block holds a few latent frames: the numbers of latent frames, words and escapes; the
CRC-32 of these numbers and of what follows; the words of the range coder; and the codes outside the
tables. One block is in memory at a time. Nothing in a file is executed.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vvae.distributions import Gaussian
from vvae.files import replacing
from vvae.inference.contexts import ESCAPE_BITS, PRECISION, ContextModel
from vvae.inference.range_coding import ContextSymbols, Table, TableSymbols
from vvae.models.bottleneck import Codes, FiniteScalars, GaussianLatents

DEFAULT_STEP = 2.0
STEP_UNIT = 2**-16
SMALLEST_STEP, LARGEST_STEP = 2**8, 2**20  # in STEP_UNIT: 1/256 and 16 standard deviations
TABLE_REACH = 5.5  # standard deviations of the prior; the mass beyond is 4e-8, less than 2**-24
BLOCK_SYMBOLS = 2**17

MAGIC = b"VVZ\x1a"
SQUARE_VERSION, ASPECT_VERSION, CONTEXT_VERSION = 1, 2, 3
_SQUARE = (1, 1)
_HEADER = struct.Struct("<4sHHH3I2I3I32s")
_CHECKSUM = struct.Struct("<I")
_BLOCK = struct.Struct("<3I")
_KINDS = {GaussianLatents: 1, FiniteScalars: 2}


# --- quantisation --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class UniformSteps:
    """Quantises Gaussian latents; steps_Z in units of 2**-16 standard deviations of the prior."""

    steps_Z: tuple[int, ...]

    def __post_init__(self):
        for step in self.steps_Z:
            if not SMALLEST_STEP <= step <= LARGEST_STEP:
                raise ValueError(
                    f"step {step} is not between {SMALLEST_STEP} and {LARGEST_STEP}, in units of "
                    "2**-16 standard deviations of the prior"
                )

    @property
    def num_channels(self) -> int:
        """Z."""
        return len(self.steps_Z)

    @property
    def _sizes(self) -> np.ndarray:
        return np.array(self.steps_Z, np.float64) * STEP_UNIT

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest codes, int32; [..., Z] -> [..., Z].

        Raises:
          ValueError: if a value is not finite, or too large for a 32-bit integer.
        """
        codes = np.rint(np.asarray(values, np.float64) / self._sizes)
        beyond = ~(np.abs(codes) < 2.0 ** (ESCAPE_BITS - 1))  # NaN too
        if beyond.any():
            raise ValueError(f"the latent {np.asarray(values)[beyond][0]} cannot be quantised")
        return codes.astype(np.int32)

    def dequantise(self, codes: np.ndarray) -> np.ndarray:
        """Returns the centres of the bins, float32; the same on every machine."""
        return (codes * self._sizes).astype(np.float32)

    def make_tables(self) -> list[Table]:
        """Returns the table of each channel."""
        return [_tabulate_normal(step) for step in self.steps_Z]


@dataclasses.dataclass(frozen=True)
class Levels:
    """Codes of finite scalars; levels_Z as in `FiniteScalars`."""

    levels_Z: tuple[int, ...]

    def __post_init__(self):
        FiniteScalars(self.levels_Z)
        if max(self.levels_Z) > 2**16:
            raise ValueError(f"levels_Z={self.levels_Z}: must be at most {2**16} each")

    @property
    def num_channels(self) -> int:
        """Z."""
        return len(self.levels_Z)

    @property
    def _halves(self) -> np.ndarray:
        return np.array(self.levels_Z, np.int32) // 2

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """Returns the codes of values of `FiniteScalars`, centred at 0, int32."""
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the latents are not finite and cannot be coded")
        return np.rint(values * self._halves).astype(np.int32)

    def dequantise(self, codes: np.ndarray) -> np.ndarray:
        """Returns the values, float32."""
        return (codes / self._halves.astype(np.float32)).astype(np.float32)

    def make_tables(self) -> list[Table]:
        """Returns the table of each channel."""
        return [_tabulate_levels(levels) for levels in self.levels_Z]


Quantiser = UniformSteps | Levels


def choose_quantiser(
    bottleneck: GaussianLatents | FiniteScalars, log_std_Z: np.ndarray, step: float
) -> Quantiser:
    """Chooses the step of each channel: `step` times the posterior's standard deviation.

    A channel that the decoder reads coarsely is thus coded coarsely.

    Args:
      bottleneck: of the model.
      log_std_Z: mean over positions of the log standard deviation of the posterior; not used for
        finite scalars.
      step: in units of the posterior's standard deviation. The resulting steps are clipped to
        between 1/256 and 16 standard deviations of the prior.

    Returns:
      The quantiser.

    Raises:
      ValueError: if the step is not positive, or the deviations are not finite.

    Note:
      With step = sqrt(2 pi e) = 4.13, `coded_bits` is about `kl_bits` where posteriors are narrow.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step={step} must be positive")
    if isinstance(bottleneck, FiniteScalars):
        return Levels(bottleneck.levels)
    sizes_Z = step * np.exp(np.asarray(log_std_Z, np.float64)) / STEP_UNIT
    if not np.isfinite(sizes_Z).all():
        raise ValueError(
            f"posteriors with the standard deviations {np.exp(log_std_Z)} cannot be quantised"
        )
    # Round to five significant bits: few distinct steps remain, and each needs only one table.
    mantissa, exponent = np.frexp(np.clip(sizes_Z, SMALLEST_STEP, LARGEST_STEP))
    steps_Z = np.ldexp(np.rint(np.ldexp(mantissa, 5)), exponent - 5).astype(int)
    return UniformSteps(tuple(steps_Z.tolist()))


# --- probabilities, in integers ------------------------------------------------------------------

_ONE = 2**64
# The integer part of 2**64 sqrt(2 pi).
_ROOT_2PI = math.isqrt(2 * 314159265358979323846264338327950288 * _ONE**2 // 10**35)


def _half_mass(x: int) -> int:
    """Computes P(0 < z < x) for z of N(0, 1) and x >= 0, both in units of 2**-64.

    As exp(-x^2 / 2) / sqrt(2 pi) (x + x^3 / 3 + x^5 / (3 5) + ...).

    References:
      Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.2.11.
    """
    square = x * x // _ONE
    term = total = x
    odd = 1
    while term:
        odd += 2
        term = term * square // (odd * _ONE)
        total += term
    term = growth = _ONE  # exp(x^2 / 2)
    count = 0
    while term:
        count += 1
        term = term * square // (2 * count * _ONE)
        growth += term
    return total * _ONE // growth * _ONE // _ROOT_2PI


@functools.lru_cache(maxsize=512)
def _tabulate_normal(step: int) -> Table:
    """Tabulates the mass of N(0, 1) in bins around the multiples of a step, in units of 2**-16.

    The mass beyond the table belongs to the escape.
    """
    reach = max(1, math.ceil(TABLE_REACH / (step * STEP_UNIT) - 0.5))
    # Beyond 8 standard deviations the mass is 0 in 24 bits, and the series would be long.
    edges = [min((2 * k + 1) * step * _ONE // 2**17, 8 * _ONE) for k in range(reach + 1)]
    inner = [_half_mass(edge) for edge in edges]
    half = [max(0, b - a) for a, b in itertools.pairwise(inner)]
    masses = [*reversed(half), 2 * inner[0], *half, max(0, _ONE - 2 * inner[-1])]
    # Give every symbol a positive frequency; the middle one gets what rounding down leaves.
    free = 2**PRECISION - len(masses)
    frequencies = np.array([1 + mass * free // _ONE for mass in masses], np.int64)
    frequencies[reach] += 2**PRECISION - frequencies.sum()
    return Table(-reach, frequencies, has_escape=True)


@functools.lru_cache(maxsize=256)
def _tabulate_levels(levels: int) -> Table:
    edges = np.arange(levels + 1, dtype=np.int64) * 2**PRECISION // levels
    return Table(-(levels // 2), np.diff(edges), has_escape=False)


# --- rates ---------------------------------------------------------------------------------------


def count_bits(codes: np.ndarray, quantiser: Quantiser) -> float:
    """Returns -log2 P(codes) of codes [..., Z]; each escaped code counts 32 more bits."""
    codes_NZ = codes.reshape(-1, codes.shape[-1])
    tables = quantiser.make_tables()
    return math.fsum(
        float(table.bits[table.find_symbols(codes_N)].sum())
        for table, codes_N in zip(tables, codes_NZ.T, strict=True)
    )


def coded_bits(
    bottleneck: GaussianLatents | FiniteScalars,
    posterior: Gaussian | Codes,
    mask_Bt: np.ndarray,
    step: float = DEFAULT_STEP,
) -> np.ndarray:
    """Computes the bits of each clip as a file without headers: -log2 P(codes of the mean).

    Args:
      bottleneck: of the model.
      posterior: [B, t, h, w, Z].
      mask_Bt: bool, True for latent frames that count.
      step: see `choose_quantiser`; the steps are chosen for each clip.

    Returns:
      float64 [B], in bits per clip.
    """
    quantised = quantise_clips(bottleneck, posterior, mask_Bt, step)
    return np.array([count_bits(codes, quantiser) for codes, quantiser in quantised])


def quantise_clips(
    bottleneck: GaussianLatents | FiniteScalars,
    posterior: Gaussian | Codes,
    mask_Bt: np.ndarray,
    step: float,
) -> Iterator[tuple[np.ndarray, Quantiser]]:
    """Yields the codes of the posterior mean of each clip, and its quantiser; see `coded_bits`."""
    mean = np.asarray(bottleneck.mean(posterior))
    for b, mask_t in enumerate(np.asarray(mask_Bt)):
        clip = jax.tree.map(lambda a, b=b, mask_t=mask_t: np.asarray(a)[b, mask_t], posterior)
        log_std_Z = sum_log_std(clip) / max(1, clip_size(mean[b, mask_t]))
        quantiser = choose_quantiser(bottleneck, log_std_Z, step)
        yield quantiser.quantise(mean[b, mask_t]), quantiser


def clip_size(values: np.ndarray) -> int:
    """Returns the number of positions of values [..., Z]."""
    return math.prod(values.shape[:-1])


def sum_log_std(posterior: Gaussian | Codes) -> np.ndarray:
    """Sums the log standard deviations over positions, float64 [Z]; 0 for codes."""
    if isinstance(posterior, Codes):
        return np.zeros(posterior.values.shape[-1])
    logvar = np.asarray(posterior.logvar, np.float64)
    return 0.5 * logvar.reshape(-1, logvar.shape[-1]).sum(0)


def kl_bits(
    bottleneck: GaussianLatents | FiniteScalars, posterior: Gaussian | Codes, mask_Bt: jax.Array
) -> jax.Array:
    """Computes the bits of each clip by the ELBO: KL(posterior || prior) / ln 2, [B].

    Args:
      bottleneck: of the model.
      posterior: [B, t, h, w, Z].
      mask_Bt: bool, True for latent frames that count.
    """
    kl_Bt = bottleneck.kl_by_dim(posterior).sum((-1, -2, -3))
    return jnp.sum(kl_Bt * mask_Bt, axis=1) / math.log(2.0)


# --- files ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a file of coded latents.

    Attributes:
      shape_THW: frames, rows and columns of the video.
      fps: frames per second, as (numerator, denominator).
      grid_thw: latents in time, rows and columns.
      quantiser: with the steps or the levels of the channels.
      digest: `models.digest.digest_params` of the model that made the latents, 32 bytes.
      pixel_aspect: (numerator, denominator) of the width of a pixel divided by its height.
      contexts: the digest of the `ContextModel` that the codes are coded with, 32 bytes; None for
        codes under the prior.
    """

    shape_THW: tuple[int, int, int]
    fps: tuple[int, int]
    grid_thw: tuple[int, int, int]
    quantiser: Quantiser
    digest: bytes
    pixel_aspect: tuple[int, int] = _SQUARE
    contexts: bytes | None = None


def write_codes(
    path: str | Path,
    header: Header,
    frames: Iterable[np.ndarray],
    contexts: ContextModel | None = None,
) -> None:
    """Writes codes to a file, which appears under its name only when it is complete.

    Args:
      path: the file.
      header: its header.
      frames: int32 codes [h, w, Z] of one latent frame after another, as many as the header says.
      contexts: the model of header.contexts.

    Raises:
      ValueError: if the frames do not match the header, or `constriction` is missing.
      OSError: if the file cannot be written.
    """
    coder = _Coder(header, contexts)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(_pack_header(header))
        for block in _group(frames, header):
            file.write(coder.encode(block))


def read_header(path: str | Path) -> Header:
    """Reads the header of a file; raises ValueError, which names the file, if it is damaged."""
    with _open(path) as file:
        return _unpack_header(file)


def read_codes(path: str | Path, contexts: ContextModel | None = None) -> Iterator[np.ndarray]:
    """Reads the codes of a file, one block at a time.

    Args:
      path: the file.
      contexts: the model that it was written with, if any.

    Yields:
      int32 [n, h, w, Z], equal to what was written; n latent frames.

    Raises:
      ValueError: naming the file, if it is damaged, truncated, of another version or not a file of
        coded latents, or if `constriction` is missing.
    """
    with _open(path) as file:
        header = _unpack_header(file)
        coder = _Coder(header, contexts)
        missing = header.grid_thw[0]
        while missing:
            codes = coder.decode(file, missing, header.grid_thw[1:])
            missing -= len(codes)
            if not missing and file.read(1):
                raise ValueError("bytes follow the last latent frame")
            yield codes


@contextlib.contextmanager
def _open(path):
    """Opens a file for reading, and prefixes errors with its name."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _pack_header(header: Header) -> bytes:
    quantiser = header.quantiser
    is_levels = isinstance(quantiser, Levels)
    numbers = quantiser.levels_Z if is_levels else quantiser.steps_Z
    kind = _KINDS[FiniteScalars if is_levels else GaussianLatents]
    fields = (*header.shape_THW, *header.fps, *header.grid_thw, header.digest)
    rest = (*numbers, *header.pixel_aspect)
    if header.contexts is not None:
        version = CONTEXT_VERSION
        rest = (*map(_shorten, numbers), *header.pixel_aspect, header.contexts)
    elif header.pixel_aspect != _SQUARE:
        version = ASPECT_VERSION
    else:
        version, rest = SQUARE_VERSION, numbers
    content = _HEADER.pack(MAGIC, version, kind, len(numbers), *fields)
    content += _describe_rest(version, len(numbers)).pack(*rest)
    return content + _CHECKSUM.pack(zlib.crc32(content))


def _describe_rest(version: int, num_channels: int) -> struct.Struct:
    """Returns the layout of what follows the fixed part of a header of a version."""
    layouts = {
        SQUARE_VERSION: f"<{num_channels}I",
        ASPECT_VERSION: f"<{num_channels}I2I",
        CONTEXT_VERSION: f"<{num_channels}B2I32s",
    }
    return struct.Struct(layouts[version])


def _shorten(step: int) -> int:
    """Returns a step of five significant bits as a byte: four of its exponent, four of its rest."""
    exponent = step.bit_length() - 5
    if not 4 <= exponent < 20 or step % 2**exponent:
        raise ValueError(f"the step {step} has more than five significant bits")
    return (exponent - 4) * 16 + (step >> exponent) - 16


def _lengthen(byte: int) -> int:
    """Returns the step of a byte of `_shorten`."""
    return (byte % 16 + 16) << (byte // 16 + 4)


def _unpack_header(file) -> Header:
    start = file.read(_HEADER.size)
    if start[: len(MAGIC)] != MAGIC:
        raise ValueError("is not a file of coded latents")
    if len(start) < _HEADER.size:
        raise ValueError("is cut in its header")
    _, version, kind, num_channels, *fields, digest = _HEADER.unpack(start)
    if version not in (SQUARE_VERSION, ASPECT_VERSION, CONTEXT_VERSION):
        raise ValueError(f"is of version {version}; this vvae reads up to {CONTEXT_VERSION}")
    layout = _describe_rest(version, num_channels)
    rest = file.read(layout.size)
    checksum = file.read(_CHECKSUM.size)
    if len(rest) < layout.size or len(checksum) < _CHECKSUM.size:
        raise ValueError("is cut in its header")
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(start + rest):
        raise ValueError("is damaged in its header")
    shape_THW, fps, grid_thw = tuple(fields[:3]), tuple(fields[3:5]), tuple(fields[5:])
    values = layout.unpack(rest)
    numbers, aspect = values[:num_channels], values[num_channels : num_channels + 2] or _SQUARE
    contexts = None
    if version == CONTEXT_VERSION:
        numbers, contexts = tuple(map(_lengthen, numbers)), values[-1]
    if kind not in _KINDS.values() or not num_channels or not all((*fields, *aspect)):
        raise ValueError(
            f"has an impossible header: kind {kind}, {num_channels} channels, {fields}, pixel "
            f"aspect {aspect}"
        )
    make = Levels if kind == _KINDS[FiniteScalars] else UniformSteps
    return Header(
        shape_THW=shape_THW,
        fps=fps,
        grid_thw=grid_thw,
        quantiser=make(numbers),
        digest=digest,
        pixel_aspect=aspect,
        contexts=contexts,
    )


def _group(frames: Iterable[np.ndarray], header: Header) -> Iterator[np.ndarray]:
    """Stacks latent frames into blocks of about BLOCK_SYMBOLS codes."""
    num_frames, *size = header.grid_thw
    shape = (*size, header.quantiser.num_channels)
    per_block = _count_per_block(shape)
    block, count = [], 0
    for frame in frames:
        if frame.shape != shape:
            raise ValueError(f"codes of a latent frame must have shape {shape}, not {frame.shape}")
        block.append(frame)
        count += 1
        if len(block) == per_block:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)
    if count != num_frames:
        raise ValueError(f"{count} latent frames were given; the header says {num_frames}")


def _count_per_block(shape_hwZ: tuple[int, ...]) -> int:
    """Returns the number of latent frames in a block."""
    return max(1, BLOCK_SYMBOLS // math.prod(shape_hwZ))


class _Coder:
    """Converts blocks of codes to bytes and back."""

    def __init__(self, header: Header, contexts: ContextModel | None):
        quantiser = header.quantiser
        if (contexts.digest if contexts else None) != header.contexts:
            raise ValueError("is coded with other contexts than those that are given")
        if contexts is None:
            self._symbols = TableSymbols(quantiser.make_tables())
        else:
            self._symbols = ContextSymbols(contexts, quantiser.steps_Z)
        self._num_channels = quantiser.num_channels

    def encode(self, codes_nhwZ: np.ndarray) -> bytes:
        words, escaped = self._symbols.encode(codes_nhwZ)
        words, escaped = words.astype("<u4"), escaped.astype("<i4")
        head = _BLOCK.pack(len(codes_nhwZ), len(words), len(escaped))
        content = words.tobytes() + escaped.tobytes()
        return head + _CHECKSUM.pack(zlib.crc32(head + content)) + content

    def decode(self, file, most: int, size: tuple[int, int]) -> np.ndarray:
        """Reads a block of at most `most` latent frames, each of `size` (rows, columns)."""
        head = file.read(_BLOCK.size + _CHECKSUM.size)
        if len(head) < _BLOCK.size + _CHECKSUM.size:
            raise ValueError(f"is cut: {most} latent frames are missing")
        count, num_words, num_escapes = _BLOCK.unpack(head[: _BLOCK.size])
        length = 4 * (num_words + num_escapes)
        # Check first: reading a damaged length would allocate its memory before failing.
        if length > os.fstat(file.fileno()).st_size - file.tell():
            raise ValueError(f"is cut or damaged where {most} latent frames are missing")
        content = file.read(length)
        checksum = zlib.crc32(content, zlib.crc32(head[: _BLOCK.size]))
        most_here = min(most, _count_per_block((*size, self._num_channels)))
        if checksum != _CHECKSUM.unpack(head[_BLOCK.size :])[0] or not 1 <= count <= most_here:
            raise ValueError(f"is damaged where {most} latent frames are missing")
        words = np.frombuffer(content[: 4 * num_words], "<u4").astype(np.uint32)
        escaped = np.frombuffer(content[4 * num_words :], "<i4").astype(np.int32)
        shape = (count, *size, self._num_channels)
        try:
            return self._symbols.decode(words, escaped, shape)
        except AssertionError as error:  # the library's error for words that encode nothing
            raise ValueError("holds words that encode no codes") from error
