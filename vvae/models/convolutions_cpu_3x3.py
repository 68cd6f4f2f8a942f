"""3x3x3 and 3x3 convolutions without stride as matrix products, for CPUs, where XLA's are slow.

As in `convolutions_cpu_4x4`, a convolution and its gradients are partial derivatives of one
trilinear form T(x, w, y) = <conv(x, w), y>, so a cheap way to compute T gives all of them.

**Fewer products** (Winograd's F(2, 3)). In one dimension a pair of outputs y0, y1 needs four
neighbours d0 ... d3 and the taps g0, g1, g2:

    T = (d0 g0 + d1 g1 + d2 g2) y0 + (d1 g0 + d2 g1 + d3 g2) y1 = sum over k of v_k u_k m_k

    v = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
    u = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    m = (y0, y0 + y1, y0 - y1, -y1)

This takes four products instead of six; over rows and columns, 16 instead of 36. The taps in time
stay as they are and are stacked in the channels: K = taps C. Each of the 16 is a matrix product
over the P tiles of 2x2 pixels:

    V_k [P, K],  U_k [K, F],  M_k [P, F]:    M_k = V_k U_k,  U_k = V_k^T M_k

The gradient with respect to x is a convolution with the flipped kernel and needs no third form. The
only constants are 1, -1 and 1/2, so float32 rounds no more than a plain sum of the products does.

**Blocks.** V takes four times the memory of the stacked frames. The tiles are therefore processed
in blocks of about a thousand: several small frames, or a strip of a large one. The arrays of the
loop stay in the processor's cache and are reused, so memory does not grow with the video's length.

**Stacked frames.** With few channels the products would be too thin, and with tiny frames most
tiles would be half empty. In these cases XLA convolves frames stacked in the channels, and the
gradient with respect to the kernel is one product per tap.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308, section
  4.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from vvae.models.convolutions_cpu_4x4 import multiply_transposed, widen

_KERNEL = 3
_TILE = 2  # outputs along an axis of a tile, which overlaps its neighbours by two inputs

# Below this number of channels C the products are too thin to be fast (measured).
_FEWEST_FOR_CONV = 24
_FEWEST_FOR_GRADIENT = 12
# V and M of this many tiles fit in a core's cache for the usual numbers of channels (measured).
_BLOCK_TILES = 1024

_INPUTS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUTS = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])


def conv(x_BTHWC: Array, kernel: Array) -> Array:
    """Computes the same function as `convolutions.conv_3x3`, without padding in time.

    Args:
      x_BTHWC: floats [B, T + taps - 1, H, W, C]. bfloat16 is computed in float32.
      kernel: [taps, 3, 3, C, F].

    Returns:
      [B, T, H, W, F], the dtype of x.
    """
    x, shape = widen(x_BTHWC), _Shape.of(x_BTHWC, kernel.shape[0], kernel.shape[-1])
    if shape.channels < _FEWEST_FOR_CONV or not shape.saves_products:
        return _conv_stacked(x, widen(kernel)).astype(x_BTHWC.dtype)
    weights, read = _lift_kernel(_hold_back(widen(kernel), x)), _make_reader(x, shape)

    def convolve(position: Array) -> Array:
        products = [v @ u for v, u in zip(_lift_inputs(read(position), shape), weights)]
        return _lower_outputs(products, shape)

    y = lax.map(convolve, jnp.arange(shape.num_blocks))
    y = y.reshape(shape.batch, shape.length, -1, _TILE * shape.columns, shape.features)
    return y[:, :, : shape.height, : shape.width].astype(x_BTHWC.dtype)


def kernel_gradient(x_BTHWC: Array, y_BTHWF: Array) -> Array:
    """Applies the adjoint of kernel -> conv(x, kernel) to y.

    Args:
      x_BTHWC: floats [B, T + taps - 1, H, W, C]. bfloat16 is computed in float32.
      y_BTHWF: floats [B, T, H, W, F].

    Returns:
      [taps, 3, 3, C, F], the dtype of x.
    """
    taps = 1 + x_BTHWC.shape[1] - y_BTHWF.shape[1]
    x, y, shape = widen(x_BTHWC), widen(y_BTHWF), _Shape.of(x_BTHWC, taps, y_BTHWF.shape[-1])
    if shape.channels < _FEWEST_FOR_GRADIENT or not shape.saves_products:
        return _kernel_gradient_by_taps(x, y).astype(x_BTHWC.dtype)
    read, read_outputs = _make_reader(x, shape), _make_output_reader(y, shape)

    def add(totals: list[Array], position: Array):
        inputs = _lift_inputs(read(position), shape)
        outputs = _lift_outputs(read_outputs(position), shape)
        return [t + multiply_transposed(v, m) for t, v, m in zip(totals, inputs, outputs)], None

    zero = jnp.zeros((taps * shape.channels, shape.features), x.dtype)
    totals, _ = lax.scan(add, [zero] * len(_INPUTS) ** 2, jnp.arange(shape.num_blocks))
    return _lower_kernel(totals, shape).astype(x_BTHWC.dtype)


def _hold_back(kernel: Array, x: Array) -> Array:
    """Returns the kernel, made to depend on x so that it cannot be used before x is known.

    Otherwise XLA transforms the kernels of a whole network at its beginning and keeps all of them,
    which takes nearly twice the memory of the network's parameters. XLA cannot see that the added
    value is zero. `lax.optimization_barrier` does not help: the CPU compiler removes barriers
    before it schedules, and the compiled network takes as much memory as without any (measured: 41
    MB of temporaries instead of 33 MB in an encoder of 33 MB of parameters).
    """
    last = x[(-1,) * x.ndim]
    return kernel + jnp.where(jnp.isfinite(last), last, 0) * 0


class _Shape(NamedTuple):
    """Sizes of one convolution and of the blocks in which it is computed."""

    batch: int
    length: int  # T, of the outputs
    height: int
    width: int
    channels: int
    features: int
    taps: int
    frames: int  # of a block, neighbours along the merged axes [B T]
    rows: int  # of tiles in a block

    @classmethod
    def of(cls, x_BTHWC: Array, taps: int, features: int) -> "_Shape":
        batch, length, height, width, channels = x_BTHWC.shape
        length -= taps - 1
        rows, columns = -(-height // _TILE), -(-width // _TILE)
        frames = _find_largest_block(batch, length, max(_BLOCK_TILES // (rows * columns), 1))
        rows = -(-rows // -(-rows * columns // _BLOCK_TILES))
        return cls(
            batch=batch,
            length=length,
            height=height,
            width=width,
            channels=channels,
            features=features,
            taps=taps,
            frames=frames,
            rows=rows,
        )

    @property
    def columns(self) -> int:
        return -(-self.width // _TILE)

    @property
    def strips(self) -> int:
        """Number of blocks that a frame is cut into."""
        return -(-self.height // (_TILE * self.rows))

    @property
    def num_blocks(self) -> int:
        return self.batch * self.length // self.frames * self.strips

    @property
    def saves_products(self) -> bool:
        """Whether sixteen products over tiles cost less than nine over pixels."""
        tiles = -(-self.height // _TILE) * self.columns
        return 16 * tiles < 9 * self.height * self.width


def _find_largest_block(batch: int, length: int, most: int) -> int:
    """Returns the number of frames in a block, at most `most`.

    It divides the length, or is a number of whole clips that divides the batch.
    """

    def find(number: int, most: int) -> int:
        return max((d for d in range(1, min(number, most) + 1) if number % d == 0), default=1)

    return length * find(batch, most // length) if most >= length else find(length, most)


def _make_reader(x_BTHWC: Array, shape: _Shape) -> Callable[[Array], Array]:
    """Returns block index -> inputs of the block [frames, 2 rows + 2, 2 columns + 2, taps C]."""
    x, taps = _pad(x_BTHWC, shape, margin=1), shape.taps
    clips, frames = _split_frames(shape)

    def read(position: Array) -> Array:
        first = _locate(position, shape)
        size = (clips, frames + taps - 1, _TILE * shape.rows + 2, *x.shape[3:])
        stacked = _stack(lax.dynamic_slice(x, first, size), taps)
        return stacked.reshape(clips * frames, *stacked.shape[2:])

    return read


def _make_output_reader(y_BTHWF: Array, shape: _Shape) -> Callable[[Array], Array]:
    """Returns block index -> outputs of the block [frames, 2 rows, 2 columns, F]."""
    y = _pad(y_BTHWF, shape, margin=0)

    def read(position: Array) -> Array:
        size = (*_split_frames(shape), _TILE * shape.rows, *y.shape[3:])
        window = lax.dynamic_slice(y, _locate(position, shape), size)
        return window.reshape(shape.frames, *window.shape[2:])

    return read


def _pad(x: Array, shape: _Shape, margin: int) -> Array:
    """Pads with zeros: `margin` on all sides, and rows and columns to whole blocks."""
    rows = _TILE * shape.rows * shape.strips - shape.height
    columns = _TILE * shape.columns - shape.width
    sides = ((0, 0), (0, 0), (margin, margin + rows), (margin, margin + columns), (0, 0))
    return jnp.pad(x, sides)


def _split_frames(shape: _Shape) -> tuple[int, int]:
    """Returns the number of clips in a block, and of frames of each."""
    clips = max(shape.frames // shape.length, 1)
    return clips, shape.frames // clips


def _locate(position: Array, shape: _Shape) -> tuple[Array, ...]:
    """Returns where the outputs of a block begin in [B, T, H, W, features]."""
    frame, strip = position // shape.strips * shape.frames, position % shape.strips
    zero = jnp.zeros_like(position)
    row = strip * (_TILE * shape.rows)
    return frame // shape.length, frame % shape.length, row, zero, zero


# A `lift` turns an array into factors of the products; a `lower` is the adjoint of a lift.


def _lift_inputs(x_NHWK: Array, shape: _Shape) -> list[Array]:
    """Maps the inputs of a block to V."""
    return [
        v.reshape(-1, x_NHWK.shape[-1])
        for row in _combine(_INPUTS, _split_overlapping(x_NHWK, shape.rows, axis=1))
        for v in _combine(_INPUTS, _split_overlapping(row, shape.columns, axis=2))
    ]


def _lift_kernel(kernel: Array) -> list[Array]:
    """Maps a kernel [taps, 3, 3, C, F] to U."""
    g = _stack_kernel(kernel)
    return [u for row in _combine(_TAPS, g) for u in _combine(_TAPS, row)]


def _lower_kernel(products: Sequence[Array], shape: _Shape) -> Array:
    """Maps U to a kernel [taps, 3, 3, C, F]."""
    rows = [jnp.stack(_combine(_TAPS.T, products[k : k + 4])) for k in range(0, 16, 4)]
    return _unstack_kernel(jnp.stack(_combine(_TAPS.T, rows)), shape.taps)


def _lift_outputs(y_NHWF: Array, shape: _Shape) -> list[Array]:
    """Maps the outputs of a block to M."""
    frames, _, _, features = y_NHWF.shape
    y = y_NHWF.reshape(frames, shape.rows, _TILE, shape.columns, _TILE, features)
    return [
        m.reshape(-1, features)
        for row in _combine(_OUTPUTS, (y[:, :, 0], y[:, :, 1]))
        for m in _combine(_OUTPUTS, (row[:, :, :, 0], row[:, :, :, 1]))
    ]


def _lower_outputs(products: Sequence[Array], shape: _Shape) -> Array:
    """Maps M to the outputs of a block [frames, 2 rows, 2 columns, F]."""
    frames, rows, columns = shape.frames, shape.rows, shape.columns
    m = [product.reshape(frames, rows, columns, -1) for product in products]
    pairs = [jnp.stack(_combine(_OUTPUTS.T, m[k : k + 4]), axis=3) for k in range(0, 16, 4)]
    y = jnp.stack(_combine(_OUTPUTS.T, pairs), axis=2)
    return y.reshape(frames, _TILE * rows, _TILE * columns, -1)


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """Computes matrix @ arrays; skips zeros, and adds or subtracts where an entry is 1 or -1."""
    return [_add_up(weights, arrays) for weights in matrix]


def _add_up(weights: np.ndarray, arrays: Sequence[Array]) -> Array:
    total = None
    for weight, array in zip(weights, arrays):
        if weight:
            term = array if abs(weight) == 1 else abs(weight) * array
            if total is None:
                total = term if weight > 0 else -term
            else:
                total = total + term if weight > 0 else total - term
    return total


def _split_overlapping(x: Array, tiles: int, axis: int) -> list[Array]:
    """Splits 2 tiles + 2 positions along the axis into the positions (0, 1, 2, 3) of each tile."""
    reach = _TILE * (tiles - 1) + 1
    return [lax.slice_in_dim(x, k, k + reach, stride=_TILE, axis=axis) for k in range(_TILE + 2)]


def _stack(x_BTHWC: Array, taps: int) -> Array:
    """Stacks frames in the channels: [B, T + taps - 1, H, W, C] -> [B, T, H, W, taps C].

    The earliest frame comes first.
    """
    length = x_BTHWC.shape[1] - taps + 1
    return jnp.concatenate([x_BTHWC[:, k : k + length] for k in range(taps)], axis=-1)


def _stack_kernel(kernel: Array) -> Array:
    """Reshapes [taps, 3, 3, C, F] to [3, 3, taps C, F], for frames stacked by `_stack`."""
    return jnp.moveaxis(kernel, 0, 2).reshape(_KERNEL, _KERNEL, -1, kernel.shape[-1])


def _unstack_kernel(g: Array, taps: int) -> Array:
    """Reverts `_stack_kernel`: -> [taps, 3, 3, C, F].

    `g` holds nine matrices [taps C, F], along one or two leading axes.
    """
    kernel = g.reshape(_KERNEL, _KERNEL, taps, -1, g.shape[-1])
    return jnp.moveaxis(kernel, 2, 0)


def _conv_stacked(x_BTHWC: Array, kernel: Array) -> Array:
    stacked = _stack(x_BTHWC, kernel.shape[0])
    y_NHWF = lax.conv_general_dilated(
        stacked.reshape(-1, *stacked.shape[2:]),
        _stack_kernel(kernel),
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y_NHWF.reshape(*stacked.shape[:-1], -1)


def _kernel_gradient_by_taps(x_BTHWC: Array, y_BTHWF: Array) -> Array:
    """Computes one product per tap: inside loops XLA's own gradient is up to fifty times slower."""
    height, width, features = y_BTHWF.shape[2:]
    taps = 1 + x_BTHWC.shape[1] - y_BTHWF.shape[1]
    stacked = jnp.pad(_stack(x_BTHWC, taps), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    y_PF = y_BTHWF.reshape(-1, features)
    products = [
        stacked[:, :, i : i + height, j : j + width].reshape(-1, stacked.shape[-1]).T @ y_PF
        for i in range(_KERNEL)
        for j in range(_KERNEL)
    ]
    return _unstack_kernel(jnp.stack(products), taps)
