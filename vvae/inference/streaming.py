"""Encodes and decodes videos of any length in chunks, with memory for one chunk.

A stream is a cache that is passed in and returned: a pytree of arrays, which can be saved, batched
and mapped like any other; there is no other state. For any chunking, the latents and the frames
equal those of `vvae.encode` and `vvae.decode` on the whole video, and so do the gradients: the
model has one definition, in which the whole video is a single chunk.

    cache = begin_encode()
    for x in chunks:                                  # of any numbers of frames
        cache, posterior = encode_chunk(model, params, cache, x)
    posterior = end_encode(model, params, cache)      # of the frames that fill no latent frame

The structure of a cache depends on the position in the video: before the first frame there is
nothing to remember, and `pending` holds the frames that wait for the rest of their latent frame.
Code is therefore compiled once for the first chunk and once for the later ones, for each number of
frames in them: give chunks of one size. `encode_frames`, `encode_video` and `decode_video` do, and
fill up the last chunk by repetition, which changes nothing that comes before; what is more than the
video is cut off again. Rows and columns have no such sizes in steps: more of them would change the
values near the border, so that each frame size is compiled for. A loop inside compiled code
(`lax.scan`) starts after the first chunk, with chunks of whole latent frames.
"""

import functools
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vvae import video
from vvae.models import contract
from vvae.models.contract import AnyArray, Params
from vvae.models.grid import GridVideoVAE


@flax.struct.dataclass
class EncoderCache:
    """What the encoder remembers of the past frames.

    Attributes:
      layers: inputs [B, ...] that the layers will read again; None before the first frame.
      pending: frames [B, H, W, C] in [-1, 1] that wait for the rest of their latent frame.
    """

    layers: Any
    pending: tuple[jax.Array, ...]


@flax.struct.dataclass
class DecoderCache:
    """What the decoder remembers of the past latent frames.

    Attributes:
      layers: inputs [B, ...] that the layers will read again; None before the first latent frame.
    """

    layers: Any


def begin_encode() -> EncoderCache:
    """Returns the cache before the first frame."""
    return EncoderCache(None, ())


def encode_chunk(
    model: GridVideoVAE, params: Params, cache: EncoderCache, x_BTHWC: AnyArray
) -> tuple[EncoderCache, Any]:
    """Encodes the next frames of videos.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      cache: from `begin_encode`, or from the call for the previous frames.
      x_BTHWC: the next frames, one or more, float in [-1, 1] or uint8; the same B, H, W and dtype
        in every call.

    Returns:
      (cache, posterior [B, n, h, w, Z] of the n latent frames that are now complete; n may be 0).

    Raises:
      ValueError: if the shape or dtype does not fit the model or the stream, or if the encoder
        sees all frames at once.
    """
    if model.encoder_lookahead is None:
        raise ValueError(
            f"the encoder of this {type(model).__name__} sees all frames at once: it encodes whole "
            "videos (vvae.encode), not chunks"
        )
    contract.check_video(x_BTHWC)
    _check_stream(cache.pending, x_BTHWC)
    return _encode_chunk(contract.as_static(model), params, cache, x_BTHWC)


@functools.partial(contract.jit_inline, static_argnames="model")
def _encode_chunk(model, params, cache, x_BTHWC):
    contract.check_video(x_BTHWC)
    x_BTHWC = contract.as_unit_range(x_BTHWC)
    waiting = [frame[:, None] for frame in cache.pending]
    x_BTHWC = jnp.concatenate([*waiting, x_BTHWC], axis=1)
    length = x_BTHWC.shape[1]
    complete = _count_complete(model, cache, length)
    pending = tuple(x_BTHWC[:, t] for t in range(complete, length))
    if not complete:
        return EncoderCache(cache.layers, pending), _empty_posterior(model, params, x_BTHWC)
    layers, posterior = model.apply(
        params, cache.layers, x_BTHWC[:, :complete], method="extend_encode"
    )
    return EncoderCache(layers, pending), posterior


def _count_complete(model: GridVideoVAE, cache: EncoderCache, length: int) -> int:
    """Returns how many of the frames at hand fill whole latent frames."""
    lookahead = model.encoder_lookahead
    # The last frame may have to be repeated for an encoder that looks ahead: keep one.
    length -= bool(lookahead)
    alone = 1 + lookahead if cache.layers is None else 0
    if length < alone:
        return 0
    return length - (length - alone) % model.temporal_compression


def _count_missing(model: GridVideoVAE, cache: EncoderCache) -> int:
    """Returns how often the last frame must be repeated to fill the last latent frames."""
    lookahead = model.encoder_lookahead
    # As many frames as have passed, up to a multiple of the frames of a latent.
    passed = 0 if cache.layers is None else 1 + lookahead
    length = passed + len(cache.pending)
    later = -(-(length - 1) // model.temporal_compression)
    return 1 + later * model.temporal_compression + lookahead - length


def end_encode(model: GridVideoVAE, params: Params, cache: EncoderCache) -> Any:
    """Encodes the frames that fill no whole latent frame, by repeating the last one.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      cache: after the last frames.

    Returns:
      The posterior [B, n, h, w, Z] of the last latent frames (one; two may be left where the
      encoder looks ahead), or None if no frame is pending.
    """
    if not cache.pending:
        return None
    return _end_encode(contract.as_static(model), params, cache)


@functools.partial(contract.jit_inline, static_argnames="model")
def _end_encode(model, params, cache):
    missing = _count_missing(model, cache)
    frames = cache.pending + cache.pending[-1:] * missing
    x_BTHWC = jnp.stack(frames, axis=1)
    return model.apply(params, cache.layers, x_BTHWC, method="extend_encode")[1]


def begin_decode() -> DecoderCache:
    """Returns the cache before the first latent frame."""
    return DecoderCache(None)


def decode_chunk(
    model: GridVideoVAE, params: Params, cache: DecoderCache, z_BthwZ: AnyArray
) -> tuple[DecoderCache, jax.Array]:
    """Decodes the next latent frames of videos.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      cache: from `begin_decode`, or from the call for the previous latent frames.
      z_BthwZ: the next n latent frames, one or more.

    Returns:
      (cache, mean video [B, T, H, W, C] in [-1, 1] units), with T = 1 + (n - 1) f_t at the start
      and n f_t later. H, W and the end of the video are not cropped, since only the caller knows
      them.

    Raises:
      ValueError: if the shape does not fit the model or the stream, or if the decoder looks ahead.
    """
    if not model.decodes_causally:
        raise ValueError(
            f"the decoder of this {type(model).__name__} looks ahead: it decodes whole videos "
            "(vvae.decode), not chunks"
        )
    contract.check_latents(z_BthwZ)
    return _decode_chunk(contract.as_static(model), params, cache, z_BthwZ)


@functools.partial(contract.jit_inline, static_argnames="model")
def _decode_chunk(model, params, cache, z_BthwZ):
    layers, x_BTHWC = model.apply(params, cache.layers, z_BthwZ, method="extend_decode")
    return DecoderCache(layers), x_BTHWC


def _check_stream(pending: tuple[jax.Array, ...], x_BTHWC: AnyArray) -> None:
    shape = x_BTHWC.shape[:1] + x_BTHWC.shape[2:]
    if x_BTHWC.shape[1] < 1:
        raise ValueError(f"a chunk must have at least one frame, not shape {x_BTHWC.shape}")
    if pending and pending[0].shape != shape:
        raise ValueError(
            f"the cache holds frames {pending[0].shape} (B, H, W, C), but this chunk has {shape}: "
            "a stream must keep its batch and its frame size"
        )


def _empty_posterior(model: GridVideoVAE, params: Params, x_BTHWC: jax.Array) -> Any:
    """Returns the posterior of no latent frames, [B, 0, h, w, Z]."""
    shapes = jax.eval_shape(functools.partial(contract.encode, model), params, x_BTHWC[:, :1])
    return jax.tree.map(
        lambda a: jnp.zeros((a.shape[0], 0, *a.shape[2:]), a.dtype),
        shapes,
    )


# --- whole files ---------------------------------------------------------------------------------

LATENTS_PER_CHUNK = 4


def encode_video(
    model: GridVideoVAE,
    params: Params,
    path: str | os.PathLike,
    latents_per_chunk: int = LATENTS_PER_CHUNK,
) -> Iterator[Any]:
    """Encodes a video file of any length while reading it.

    Args:
      model: a GridVideoVAE for RGB.
      params: its variables.
      path: any video that `vvae.video.iterate_frames` reads.
      latents_per_chunk: latent frames computed at a time, which bounds the memory.

    Yields:
      Posteriors [1, n, h, w, Z], one after another in time.

    Raises:
      ValueError: if the model has another number of channels than 3.
      VideoError: if the file cannot be read.
    """
    channels = model.shape_HWC[-1]
    if channels != 3:
        raise ValueError(
            f"the model takes {channels} channels, but files have 3: pass frames to encode_frames"
        )
    frames = (frame for _, frame in video.iterate_frames(path))
    yield from encode_frames(model, params, frames, latents_per_chunk)


def encode_frames(
    model: GridVideoVAE,
    params: Params,
    frames: Iterable[np.ndarray],
    latents_per_chunk: int = LATENTS_PER_CHUNK,
) -> Iterator[Any]:
    """Encodes frames [H, W, C], uint8 or float in [-1, 1].

    Args:
      model: a GridVideoVAE.
      params: its variables.
      frames: the frames in time.
      latents_per_chunk: latent frames computed at a time, which bounds the memory.

    Yields:
      Posteriors [1, n, h, w, Z], one after another in time.
    """
    if latents_per_chunk < 1:
        raise ValueError(f"latents_per_chunk={latents_per_chunk} must be at least 1")
    model = contract.as_static(model)
    cache, step = begin_encode(), model.temporal_compression
    size = latents_per_chunk * step
    # The first frame is alone in its latent frame: start with a shorter chunk, so that all later
    # ones have one size.
    for x_THWC in _group(frames, size, first=size - step + 1):
        is_first = cache.layers is None
        wanted = size - step + 1 if is_first else size
        count = is_first + math.ceil((len(x_THWC) - is_first) / step)
        filled = np.pad(x_THWC, ((0, wanted - len(x_THWC)), *_NOTHING * 3), mode="edge")
        # Calls return before their work is done: wait, or chunks would pile up. The values are not
        # looked at: a piece of a float video may well have none below zero.
        cache, posterior = jax.block_until_ready(_encode_chunk(model, params, cache, filled[None]))
        if len(x_THWC) < wanted:
            posterior = jax.tree.map(lambda a, count=count: a[:, :count], posterior)
        yield posterior


def decode_video(
    model: GridVideoVAE,
    params: Params,
    latents: Iterable[AnyArray],
    shape_THW: tuple[int, int, int],
) -> Iterator[np.ndarray]:
    """Decodes latents of any length as they arrive.

    Args:
      model: a GridVideoVAE.
      params: its variables.
      latents: chunks [1, n, h, w, Z], one after another in time.
      shape_THW: frames, rows and columns of the video, to which the result is cropped.

    Yields:
      Mean frames, uint8 [n, H, W, C], one array per chunk of latents.

    Raises:
      ValueError: if there are more or fewer latent frames than such a video has.
    """
    num_frames, height, width = shape_THW
    num_latents = model.grid_shape(shape_THW)[0]
    cache, done, start, size = begin_decode(), 0, 0, LATENTS_PER_CHUNK
    for z_BthwZ in latents:
        contract.check_latents(z_BthwZ)
        done += z_BthwZ.shape[1]
        if done > num_latents:
            raise ValueError(f"{num_frames} frames have {num_latents} latent frames, not {done}")
        if done == num_latents and z_BthwZ.shape[1] < size:
            missing = ((0, 0), (0, size - z_BthwZ.shape[1]), *_NOTHING * 3)
            z_BthwZ = np.pad(z_BthwZ, missing, mode="edge")
        size = z_BthwZ.shape[1]
        cache, x_BTHWC = decode_chunk(model, params, cache, z_BthwZ)
        count = min(x_BTHWC.shape[1], num_frames - start)
        start += count
        x_THWC = contract.crop(x_BTHWC, (count, height, width))[0]
        yield np.rint(contract.to_codes(x_THWC)).astype(np.uint8)
    if done < num_latents:
        raise ValueError(f"{num_frames} frames have {num_latents} latent frames, not {done}")


_NOTHING = ((0, 0),)  # to pad at both ends of an axis


def _group(frames: Iterable[np.ndarray], size: int, first: int) -> Iterator[np.ndarray]:
    """Stacks the first `first` frames, then `size` at a time, and the rest at the end."""
    chunk, wanted = [], first
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == wanted:
            yield np.stack(chunk)
            chunk, wanted = [], size
    if chunk:
        yield np.stack(chunk)
