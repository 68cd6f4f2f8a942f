"""Encodes and decodes large frames tile by tile, with memory for one tile.

In a local model (no attention, norms per position) each latent depends on a known window of pixels,
and each pixel on a known window of latents. `encode_tiled` and `decode_tiled` give every tile its
whole window, so that they equal `vvae.encode` and `vvae.decode` and no seams appear.

In other models every latent depends on the whole frame, and tiling is only approximate.
`encode_blended` and `decode_blended` cross-fade overlapping tiles; measure the error on your own
model and videos. As an order of magnitude: decoding 16 x 16 latents with attention and random
parameters in tiles of 8 x 8 that overlap by 4 differs from the whole by 0.19 standard deviations
(root mean square); without overlap by 0.41.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.models import contract
from vvae.models.bottleneck import GaussianLatents
from vvae.models.causal import CausalVideoVAE
from vvae.models.contract import AnyArray, Params
from vvae.models.grid import GridVideoVAE

Interval = tuple[int, int]
"""First and last index, inclusive; may lie outside the frame where a window crosses its border."""

_MIDDLE_REACH = 4  # of two residual blocks of two convolutions each
_END_REACH = 1  # of the first or the last convolution


def is_local(model: GridVideoVAE) -> bool:
    """Whether latents and pixels depend on known windows, not on whole frames."""
    return isinstance(model, CausalVideoVAE) and not model.attention and model.norm == "position"


def encoder_window(model: CausalVideoVAE, latents: Interval) -> Interval:
    """Returns the rows (or columns) of pixels that these rows of latents depend on."""
    first, last = latents
    stage = 2 * model.blocks[0]
    reach = _END_REACH + _MIDDLE_REACH
    for _, in_space in reversed(model.halvings):
        first, last = first - stage - reach, last + stage + reach
        # A 4x4 convolution with stride 2 and padding 1.
        first, last = (2 * first - 1, 2 * last + 2) if in_space else (first, last)
        reach = 0
    reach += stage + _END_REACH
    first, last = first - reach, last + reach
    scale = model.stem_scale
    return scale * first, scale * last + scale - 1


def decoder_window(model: CausalVideoVAE, pixels: Interval) -> Interval:
    """Returns the rows (or columns) of latents that these rows of pixels depend on."""
    first, last = (pixel // model.stem_scale for pixel in pixels)
    stage = 2 * model.blocks[1]
    first, last = first - _END_REACH - stage, last + _END_REACH + stage
    for _, in_space in model.halvings:
        # The adjoint of a 4x4 convolution with stride 2 and padding 1.
        first, last = ((first - 1) // 2, (last + 1) // 2) if in_space else (first, last)
        first, last = first - stage, last + stage
    reach = _MIDDLE_REACH + _END_REACH
    return first - reach, last + reach


@dataclass(frozen=True)
class Axis:
    """Plan for assembling the rows or the columns of an output from windows of the input.

    Attributes:
      window: number of inputs in a window.
      starts: first input of each window.
      num_outputs: of all windows together.
      weights_NK: weight of each of the K outputs of each of the N windows; at each position of the
        result the weights add up to one.
    """

    window: int
    starts: np.ndarray
    num_outputs: int
    weights_NK: np.ndarray


def encode_tiled(
    model: CausalVideoVAE, params: Params, x_BTHWC: AnyArray, tile: tuple[int, int] = (16, 16)
) -> Any:
    """Encodes videos tile by tile; the result equals that of `vvae.encode`.

    Args:
      model: a local CausalVideoVAE.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      tile: rows and columns of latents computed at a time.

    Returns:
      The posterior [B, t, h, w, Z].

    Raises:
      ValueError: if the model is not local, or a tile is empty.
    """
    _check_local(model)
    contract.check_video(x_BTHWC)
    return _encode_tiled(contract.as_static(model), params, x_BTHWC, tuple(tile))


@functools.partial(contract.jit_inline, static_argnames=("model", "tile"))
def _encode_tiled(model, params, x_BTHWC, tile):
    x_BTHWC = model.fill_up(x_BTHWC)
    scale = model.spatial_compression

    def see(latents: Interval) -> Interval:
        # Align windows with the borders of latents.
        first, last = encoder_window(model, latents)
        return first // scale * scale, last // scale * scale + scale - 1

    axes = [
        _cut_exactly(size, size // scale, count, see)
        for size, count in zip(x_BTHWC.shape[2:4], tile, strict=True)
    ]
    return _map_windows(lambda x: contract.encode(model, params, x), x_BTHWC, axes)


def decode_tiled(
    model: CausalVideoVAE, params: Params, z_BthwZ: AnyArray, tile: tuple[int, int] = (16, 16)
) -> jax.Array:
    """Decodes latents tile by tile; the result equals that of `vvae.decode`, uncropped.

    Args:
      model: a local CausalVideoVAE.
      params: its variables.
      z_BthwZ: latents.
      tile: rows and columns of latents whose pixels are computed at a time.

    Returns:
      [B, T, H, W, C] in [-1, 1] units: everything that the latents cover.

    Raises:
      ValueError: if the model is not local, or a tile is empty.
    """
    _check_local(model)
    contract.check_latents(z_BthwZ)
    return _decode_tiled(contract.as_static(model), params, z_BthwZ, tuple(tile))


@functools.partial(contract.jit_inline, static_argnames=("model", "tile"))
def _decode_tiled(model, params, z_BthwZ, tile):
    scale = model.spatial_compression
    axes = [
        _cut_exactly(size, size * scale, count * scale, lambda p: decoder_window(model, p))
        for size, count in zip(z_BthwZ.shape[2:4], tile, strict=True)
    ]
    return _map_windows(lambda z: contract.decode(model, params, z), z_BthwZ, axes)


def encode_blended(
    model: GridVideoVAE,
    params: Params,
    x_BTHWC: AnyArray,
    tile: tuple[int, int] = (16, 16),
    overlap: int = 4,
) -> Any:
    """Encodes overlapping tiles and cross-fades means and log-variances; approximate.

    Args:
      model: a GridVideoVAE with Gaussian latents.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      tile: rows and columns of latents in a tile.
      overlap: smallest number of latents that neighbouring tiles share; less than a tile.

    Returns:
      The posterior [B, t, h, w, Z].

    Raises:
      ValueError: if the latents are codes, which cannot be blended, or if the overlap is not
        smaller than the tile.
    """
    if not isinstance(model.bottleneck, GaussianLatents):
        raise ValueError(f"codes cannot be cross-faded: the bottleneck is {model.bottleneck}")
    contract.check_video(x_BTHWC)
    return _encode_blended(contract.as_static(model), params, x_BTHWC, tuple(tile), overlap)


@functools.partial(contract.jit_inline, static_argnames=("model", "tile", "overlap"))
def _encode_blended(model, params, x_BTHWC, tile, overlap):
    x_BTHWC = model.fill_up(x_BTHWC)
    scale = model.spatial_compression
    axes = [
        _cut_overlapping(size // scale, count, overlap, scale, 1)
        for size, count in zip(x_BTHWC.shape[2:4], tile, strict=True)
    ]
    return _map_windows(lambda x: contract.encode(model, params, x), x_BTHWC, axes)


def decode_blended(
    model: GridVideoVAE,
    params: Params,
    z_BthwZ: AnyArray,
    tile: tuple[int, int] = (16, 16),
    overlap: int = 4,
) -> jax.Array:
    """Decodes overlapping tiles and cross-fades the frames, uncropped; approximate.

    Args:
      model: a GridVideoVAE; its latents may be codes.
      params: its variables.
      z_BthwZ: latents.
      tile: rows and columns of latents in a tile.
      overlap: smallest number of latents that neighbouring tiles share; less than a tile.

    Returns:
      [B, T, H, W, C] in [-1, 1] units: everything that the latents cover.

    Raises:
      ValueError: if the overlap is not smaller than the tile.
    """
    contract.check_latents(z_BthwZ)
    return _decode_blended(contract.as_static(model), params, z_BthwZ, tuple(tile), overlap)


@functools.partial(contract.jit_inline, static_argnames=("model", "tile", "overlap"))
def _decode_blended(model, params, z_BthwZ, tile, overlap):
    scale = model.spatial_compression
    axes = [
        _cut_overlapping(size, count, overlap, 1, scale)
        for size, count in zip(z_BthwZ.shape[2:4], tile, strict=True)
    ]
    return _map_windows(lambda z: contract.decode(model, params, z), z_BthwZ, axes)


def _check_local(model: GridVideoVAE) -> None:
    if is_local(model):
        return
    reason = f"the receptive field of a {type(model).__name__} is not known"
    if isinstance(model, CausalVideoVAE):
        reason = (
            f"a model with attention={model.attention} and norm={model.norm!r} sees whole frames"
        )
    raise ValueError(
        f"{reason}: tiles cannot be exact; encode_blended and decode_blended are approximate"
    )


def _cut_exactly(
    num_inputs: int, num_outputs: int, tile: int, see: Callable[[Interval], Interval]
) -> Axis:
    """Plans tiles of outputs, each computed from a window with all inputs that `see` returns."""
    if tile < 1:
        raise ValueError(f"a tile of {tile} outputs is empty")
    firsts = np.arange(0, num_outputs, tile)
    lasts = np.minimum(firsts + tile, num_outputs) - 1
    seen = [see((int(first), int(last))) for first, last in zip(firsts, lasts, strict=True)]
    seen = np.clip(np.array(seen), 0, num_inputs - 1)
    window = int(np.max(seen[:, 1] - seen[:, 0])) + 1
    # All windows have one size: shift those that would cross the border inwards.
    starts = np.minimum(seen[:, 0], num_inputs - window)
    outputs = _outputs_of(starts, window, num_inputs, num_outputs)
    inside = (outputs >= firsts[:, None]) & (outputs <= lasts[:, None])
    return Axis(
        window=window,
        starts=starts,
        num_outputs=num_outputs,
        weights_NK=inside.astype(np.float32),
    )


def _cut_overlapping(
    num_latents: int, tile: int, overlap: int, inputs_each: int, outputs_each: int
) -> Axis:
    """Plans tiles of latents that share at least `overlap` latents and cross-fade."""
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap={overlap} must be at least 0 and smaller than the tile, {tile}")
    tile = min(tile, num_latents)
    firsts = np.arange(0, max(num_latents - overlap, 1), max(tile - overlap, 1))
    firsts = np.unique(np.minimum(firsts, num_latents - tile))
    num_outputs, width = num_latents * outputs_each, tile * outputs_each
    position = np.arange(width)
    fade = np.minimum(position, width - 1 - position) + 1.0
    fade = np.minimum(fade / (overlap * outputs_each + 1.0), 1.0)
    total = np.zeros(num_outputs)
    for first in firsts * outputs_each:
        total[first : first + width] += fade
    weights = [fade / total[first : first + width] for first in firsts * outputs_each]
    return Axis(
        window=tile * inputs_each,
        starts=firsts * inputs_each,
        num_outputs=num_outputs,
        weights_NK=np.array(weights, np.float32),
    )


def _outputs_of(starts: np.ndarray, window: int, num_inputs: int, num_outputs: int) -> np.ndarray:
    """Returns the indices of the outputs of each window, [N, K]."""
    first = starts * num_outputs // num_inputs
    return first[:, None] + np.arange(window * num_outputs // num_inputs)[None]


def _map_windows(function, inputs: jax.Array, axes: list[Axis]) -> Any:
    """Sums the weighted outputs of all windows, computed one after another."""
    rows, columns = axes
    num_inputs = inputs.shape[2:4]
    shape = (*inputs.shape[:2], rows.window, columns.window, inputs.shape[4])
    struct = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, inputs.dtype))
    total = jax.tree.map(
        lambda a: jnp.zeros((*a.shape[:2], rows.num_outputs, columns.num_outputs, a.shape[4])),
        struct,
    )
    pairs = np.stack(np.meshgrid(range(len(rows.starts)), range(len(columns.starts))), axis=-1)

    def add(total, pair):
        row, column = pair[0], pair[1]
        start = [jnp.asarray(a.starts)[i] for a, i in zip(axes, (row, column), strict=True)]
        window = jax.lax.dynamic_slice(inputs, (0, 0, *start, 0), shape)
        down, across = (jnp.asarray(a.weights_NK)[i] for a, i in zip(axes, (row, column)))
        weight = jnp.outer(down, across)
        first = [
            s * axis.num_outputs // size
            for s, axis, size in zip(start, axes, num_inputs, strict=True)
        ]

        def place(sum_, part):
            part = part * weight[None, None, :, :, None].astype(part.dtype)
            before = jax.lax.dynamic_slice(sum_, (0, 0, *first, 0), part.shape)
            return jax.lax.dynamic_update_slice(sum_, before + part, (0, 0, *first, 0))

        return jax.tree.map(place, total, function(window)), None

    return jax.lax.scan(add, total, pairs.reshape(-1, 2))[0]
