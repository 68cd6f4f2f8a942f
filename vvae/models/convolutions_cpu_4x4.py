"""The 4x4 stride-2 convolutions as matrix products, for CPUs, where XLA's own are slow.

Three bilinear maps make a convolution and its gradients: `down_conv(x, w)`, its adjoint in x
(`up_conv`) and its adjoint in w (`kernel_gradient`). All three are partial derivatives of one
trilinear form T(x, w, y) = <down_conv(x, w), y>, so a cheap way to compute T gives all of them.

**The grid.** Cut the padded image into squares of 2x2 pixels and move these into the channels: D
[N, h + 1, w + 1, 4 C] for an output of h x w. The convolution becomes one with a 2x2 kernel g and
without stride, where g[p, q, (a, b, c)] = w[2p + a, 2q + b, c]:

    y[i, j] = sum over p, q in {0, 1} of D[i + p, j + q] g[p, q]

**Fewer products** (Winograd's F(2, 2)). In one dimension a pair of outputs y0, y1 needs three
neighbours d0, d1, d2, and

    T = d0 g0 y0 + d1 (g1 y0 + g0 y1) + d2 g1 y1
      = (d0 - d1) g0 y0 + d1 (g0 + g1) (y0 + y1) + (d2 - d1) g1 y1

so with the `differences` v = (d0 - d1, d1, d2 - d1) and the `sums` u = (g0, g0 + g1, g1) and m =
(y0, y0 + y1, y1), T = sum over k of v_k u_k m_k: three products instead of four. Over rows and
columns these are nine instead of sixteen, each a matrix product over the P tiles of all images:

    V_k [P, 4 C],  U_k [4 C, F],  M_k [P, F]:    M_k = V_k U_k,  V_k = M_k U_k^T,  U_k = V_k^T M_k

The way back uses the adjoints of `differences` and `sums`. No constant but 1 and -1 occurs, so the
rounding error is about that of a direct convolution.

**Patches.** With a small C the nine products would be too thin, and an odd h or w would leave many
tiles half empty. In these cases one product over 4x4 patches, V [N h w, 16 C], replaces the nine.

Written for XLA's CPU compiler: lists of plain products (a batched one is slower), interleaving by
`stack` (interior padding is slower), channels last, contiguous and without transpositions.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308, section
  4.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp

# Below this number of image channels the nine products are too thin to be fast (measured).
_FEWEST_TILED_CHANNELS = 8


def down_conv(x_NHWC: Array, kernel: Array) -> Array:
    """Computes the same function as `convolutions.down_conv`.

    Args:
      x_NHWC: floats [N, H, W, C]; H and W even. bfloat16 is computed in float32.
      kernel: [4, 4, C, F].

    Returns:
      [N, H / 2, W / 2, F], the dtype of x.
    """
    shape = _Shape.of_image(x_NHWC, kernel.shape[3])
    image, weights = _lift_image(widen(x_NHWC), shape), _lift_kernel(widen(kernel), shape)
    products = [v @ u for v, u in zip(image, weights)]
    return _lower_grid(products, shape).astype(x_NHWC.dtype)


def up_conv(y_NhwF: Array, kernel: Array) -> Array:
    """Applies the adjoint of x -> down_conv(x, kernel).

    Args:
      y_NhwF: floats [N, h, w, F]. bfloat16 is computed in float32.
      kernel: [4, 4, C, F].

    Returns:
      [N, 2 h, 2 w, C], the dtype of y.
    """
    shape = _Shape.of_grid(y_NhwF, kernel.shape[2])
    grid, weights = _lift_grid(widen(y_NhwF), shape), _lift_kernel(widen(kernel), shape)
    products = [m @ u.T for m, u in zip(grid, weights)]
    return _lower_image(products, shape).astype(y_NhwF.dtype)


def kernel_gradient(x_NHWC: Array, y_NhwF: Array) -> Array:
    """Applies the adjoint of kernel -> down_conv(x, kernel) to y.

    Args:
      x_NHWC: floats [N, H, W, C]; H and W even. bfloat16 is computed in float32.
      y_NhwF: floats [N, H / 2, W / 2, F].

    Returns:
      [4, 4, C, F], the dtype of x.
    """
    shape = _Shape.of_image(x_NHWC, y_NhwF.shape[3])
    image, grid = _lift_image(widen(x_NHWC), shape), _lift_grid(widen(y_NhwF), shape)
    products = [multiply_transposed(v, m) for v, m in zip(image, grid)]
    return _lower_kernel(products, shape).astype(x_NHWC.dtype)


def multiply_transposed(v: Array, m: Array) -> Array:
    """Computes V^T M for V [P, K] and M [P, F].

    The transposition costs in proportion to the width of the transposed factor: with many rows it
    is up to 1.5 times as fast to transpose M if that is narrower. The barrier keeps XLA from
    rewriting (M^T V)^T as V^T M.
    """
    (rows, width), features = v.shape, m.shape[1]
    if rows < width or width <= features:
        return v.T @ m
    return lax.optimization_barrier(m.T @ v).T


class _Shape(NamedTuple):
    """Sizes of one convolution: N images of 2h x 2w pixels with C channels, F features."""

    images: int
    height: int  # h, of the grid
    width: int  # w
    channels: int  # C
    features: int  # F

    @classmethod
    def of_image(cls, x_NHWC: Array, features: int) -> "_Shape":
        images, height, width, channels = x_NHWC.shape
        return cls(
            images=images,
            height=height // 2,
            width=width // 2,
            channels=channels,
            features=features,
        )

    @classmethod
    def of_grid(cls, y_NhwF: Array, channels: int) -> "_Shape":
        images, height, width, features = y_NhwF.shape
        return cls(images=images, height=height, width=width, channels=channels, features=features)

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.height // 2), -(-self.width // 2)

    @property
    def is_tiled(self) -> bool:
        """Whether nine thinner products are used instead of a single one over patches."""
        rows, columns = self.tiles
        saves_products = 9 * rows * columns < 4 * self.height * self.width
        return saves_products and self.channels >= _FEWEST_TILED_CHANNELS


# A `lift` turns an array into factors of the products; a `lower` is the adjoint of a lift.


def _lift_image(x_NHWC: Array, shape: _Shape) -> list[Array]:
    """Maps an image [N, 2h, 2w, C] to V."""
    if not shape.is_tiled:
        d = _space_to_depth(x_NHWC, shape.height + 1, shape.width + 1)
        shifts = [_shift(d, p, q, shape) for p in (0, 1) for q in (0, 1)]
        return [jnp.concatenate(shifts, axis=3).reshape(-1, 16 * shape.channels)]
    rows, columns = shape.tiles
    d = _space_to_depth(x_NHWC, 2 * rows + 1, 2 * columns + 1)
    return [
        v.reshape(-1, 4 * shape.channels)
        for row in _differences(_split_overlapping(d, axis=1))
        for v in _differences(_split_overlapping(row, axis=2))
    ]


def _lower_image(products: Sequence[Array], shape: _Shape) -> Array:
    """Maps V to an image [N, 2h, 2w, C]."""
    images, height, width, channels, _ = shape
    if not shape.is_tiled:
        patches = products[0].reshape(images, height, width, 4, 4 * channels)
        d = sum(
            jnp.pad(patches[:, :, :, 2 * p + q], ((0, 0), (p, 1 - p), (q, 1 - q), (0, 0)))
            for p in (0, 1)
            for q in (0, 1)
        )
    else:
        v = [product.reshape(images, *shape.tiles, 4 * channels) for product in products]
        rows = [_join_overlapping(_differences_adjoint(v[k : k + 3]), axis=2) for k in (0, 3, 6)]
        d = _join_overlapping(_differences_adjoint(rows), axis=1)
    return _depth_to_space(d)[:, 1 : 2 * height + 1, 1 : 2 * width + 1]


def _lift_grid(y_NhwF: Array, shape: _Shape) -> list[Array]:
    """Maps a grid [N, h, w, F] to M."""
    if not shape.is_tiled:
        return [y_NhwF.reshape(-1, shape.features)]
    rows, columns = shape.tiles
    margins = ((0, 0), (0, 2 * rows - shape.height), (0, 2 * columns - shape.width), (0, 0))
    y = jnp.pad(y_NhwF, margins).reshape(shape.images, rows, 2, columns, 2, shape.features)
    return [
        m.reshape(-1, shape.features)
        for row in _sums((y[:, :, 0], y[:, :, 1]))
        for m in _sums((row[:, :, :, 0], row[:, :, :, 1]))
    ]


def _lower_grid(products: Sequence[Array], shape: _Shape) -> Array:
    """Maps M to a grid [N, h, w, F]."""
    images, height, width, _, features = shape
    if not shape.is_tiled:
        return products[0].reshape(images, height, width, features)
    rows, columns = shape.tiles
    m = [product.reshape(images, rows, columns, features) for product in products]
    pairs = [jnp.stack(_sums_adjoint(m[k : k + 3]), axis=3) for k in (0, 3, 6)]
    y = jnp.stack(_sums_adjoint(pairs), axis=2).reshape(images, 2 * rows, 2 * columns, features)
    return y[:, :height, :width]


def _lift_kernel(kernel: Array, shape: _Shape) -> list[Array]:
    """Maps a kernel [4, 4, C, F] to U."""
    _, _, _, channels, features = shape
    # [p, a, q, b, C, F] -> [p, q, (a, b, C), F]
    g = kernel.reshape(2, 2, 2, 2, channels, features).swapaxes(1, 2)
    if not shape.is_tiled:
        return [g.reshape(16 * channels, features)]
    g = g.reshape(2, 2, 4 * channels, features)
    return [u for row in _sums(g) for u in _sums(row)]


def _lower_kernel(products: Sequence[Array], shape: _Shape) -> Array:
    """Maps U to a kernel [4, 4, C, F]."""
    _, _, _, channels, features = shape
    if shape.is_tiled:
        rows = [jnp.stack(_sums_adjoint(products[k : k + 3])) for k in (0, 3, 6)]
        g = jnp.stack(_sums_adjoint(rows))
    else:
        g = products[0]
    return (
        g.reshape(2, 2, 2, 2, channels, features).swapaxes(1, 2).reshape(4, 4, channels, features)
    )


def _differences(d: Sequence[Array]) -> tuple[Array, Array, Array]:
    return d[0] - d[1], d[1], d[2] - d[1]


def _differences_adjoint(v: Sequence[Array]) -> tuple[Array, Array, Array]:
    return v[0], v[1] - v[0] - v[2], v[2]


def _sums(pair: Sequence[Array]) -> tuple[Array, Array, Array]:
    return pair[0], pair[0] + pair[1], pair[1]


def _sums_adjoint(m: Sequence[Array]) -> tuple[Array, Array]:
    return m[0] + m[1], m[1] + m[2]


def _shift(d: Array, p: int, q: int, shape: _Shape) -> Array:
    return d[:, p : p + shape.height, q : q + shape.width]


def _split_overlapping(d: Array, axis: int) -> list[Array]:
    """Splits 2t + 1 positions along the axis into positions (0, 1, 2) of t overlapping tiles."""
    end = d.shape[axis] - 2
    return [lax.slice_in_dim(d, k, end + k, stride=2, axis=axis) for k in (0, 1, 2)]


def _join_overlapping(d: Sequence[Array], axis: int) -> Array:
    """Applies the adjoint of `_split_overlapping`: adds where tiles share their ends."""
    tiles = d[0].shape[axis]
    before, after = [(0, 0)] * d[0].ndim, [(0, 0)] * d[0].ndim
    before[axis], after[axis] = (1, 0), (0, 1)
    even = jnp.pad(d[0], after) + jnp.pad(d[2], before)
    odd = jnp.pad(d[1], after)
    both = jnp.stack((even, odd), axis=axis + 1)
    joined = both.reshape(*d[0].shape[:axis], 2 * tiles + 2, *d[0].shape[axis + 1 :])
    return lax.slice_in_dim(joined, 0, 2 * tiles + 1, axis=axis)


def _space_to_depth(x_NHWC: Array, rows: int, columns: int) -> Array:
    """Pads [N, H, W, C] by one pixel, and at the end to fit -> [N, rows, columns, 4 C]."""
    images, height, width, channels = x_NHWC.shape
    margins = ((0, 0), (1, 2 * rows - 1 - height), (1, 2 * columns - 1 - width), (0, 0))
    x = jnp.pad(x_NHWC, margins).reshape(images, rows, 2, columns, 2 * channels)
    return jnp.concatenate((x[:, :, 0], x[:, :, 1]), axis=3)


def _depth_to_space(d: Array) -> Array:
    """Reshapes [N, rows, columns, 4 C] to [N, 2 rows, 2 columns, C]."""
    images, rows, columns, depth = d.shape
    halves = jnp.stack((d[..., : depth // 2], d[..., depth // 2 :]), axis=2)
    return halves.reshape(images, 2 * rows, 2 * columns, depth // 4)


def widen(x: Array) -> Array:
    """Returns x in float32 if its precision is lower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
