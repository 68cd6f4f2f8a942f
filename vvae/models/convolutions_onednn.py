"""Convolutions by the oneDNN inside jaxlib, for x86-64 CPUs, where XLA's own are slow.

The x86-64 wheels of jaxlib contain oneDNN, and XLA's runtime calls it for a custom call named
`__onednn$convolution`. That is not a public interface, so `dispatch` uses it only

* where `onednn_probe` has shown that it computes what `jax.lax` computes,
* in float32 and bfloat16 (oneDNN ends the process for float64),
* in programs for one device, or for one device each (pmap, `shard_map`): a compiler that divides
  arrays among devices cannot look into it,
* in programs that run here: exported ones may run elsewhere.

Everywhere else the portable function takes its place. The decision is made where the program is
lowered, because a traced function does not know where it will run.

Such a program must stay out of jax's persistent compilation cache: XLA takes the call for another
kind as it writes it. jax does not write programs with host callbacks, so these have one, which is
never called.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from vvae.models import onednn_probe

DTYPES = (jnp.float32, jnp.bfloat16)

Padding = Sequence[tuple[int, int]]

# Inputs of so many bytes stay in the cache of a core while they are convolved (measured).
_BLOCK_BYTES = 2 << 20
# Columns that are summed over at a time: with fewer, AMX multiplies mostly zeros (measured).
_COLUMNS = 64
# XLA moves integers as they are, but bfloat16 by way of float32.
_CARRIERS = {2: jnp.uint16, 4: jnp.uint32}
# The cost of laying out an input of a block, with that of using it as the unit (measured).
_LAYOUT_COST = 0.3


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Padding,
    dtype: jnp.dtype | None = None,
) -> Array:
    """Convolves (cross-correlation) over two or three axes by oneDNN, whether or not it works.

    Args:
      x: [N, *sizes, C], float32 or bfloat16.
      kernel: [*taps, C, F], the dtype of x.
      strides: of each axis.
      padding: zeros before and behind each axis.
      dtype: of the result, that of x by default; sums are taken in float32.

    Returns:
      [N, *sizes of the outputs, F].

    Raises:
      TypeError: for another dtype, which would end the process.
    """
    if x.dtype not in DTYPES or kernel.dtype != x.dtype:
        raise TypeError(f"oneDNN convolves no {x.dtype} with {kernel.dtype} here")
    return _convolution.bind(
        x,
        kernel,
        strides=tuple(strides),
        padding=tuple(tuple(pair) for pair in padding),
        dtype=jnp.dtype(dtype or x.dtype),
    )


def kernel_gradient(x_BTHWC: Array, y_BTHWF: Array, taps: tuple[int, int, int]) -> Array:
    """The adjoint of kernel -> convolution of x without stride, applied to y.

    The sum over positions is a convolution too, one for each tap along a row: the columns of x that
    this tap meets become its channels, y becomes its kernel, [frames, rows, 1, columns, F], and its
    outputs are the taps over time and rows. The columns of several clips are put side by side where
    a row is short. It is computed in blocks of frames and rows whose arrays stay in the cache of
    the processor.

    Args:
      x_BTHWC: inputs [B, T + taps - 1, H, W, C], float32 or bfloat16.
      y_BTHWF: [B, T, H, W, F], for the outputs of a convolution with one zero on each side of a
        frame; the dtype of x.
      taps: of the kernel, over time, rows and columns.

    Returns:
      [*taps, C, F], the dtype of x; sums are taken in float32.
    """
    dtype = x_BTHWC.dtype
    batch, length, height, width, features = y_BTHWF.shape
    channels, clips = x_BTHWC.shape[-1], _count_clips(batch, width)
    row_bytes = dtype.itemsize * clips * width * channels
    block = _Block.choose((length, height), taps, row_bytes)
    x, y = (lax.bitcast_convert_type(a, _CARRIERS[dtype.itemsize]) for a in (x_BTHWC, y_BTHWF))
    inputs = _list_columns(_group(block.pad_inputs(x), clips), taps[2])
    outputs = _group(block.pad_outputs(y), clips)
    outputs = outputs.reshape(*outputs.shape[:3], 1, clips * width, features)

    def add(totals: list[Array], position: Array):
        kernel = lax.bitcast_convert_type(block.take_outputs(outputs, position), dtype)

        def convolve_block(columns: Array) -> Array:
            x = lax.bitcast_convert_type(block.take_inputs(columns, position), dtype)
            return convolve(x, kernel, (1, 1, 1), ((0, 0),) * 3, jnp.float32)

        return [total + convolve_block(columns) for total, columns in zip(totals, inputs)], None

    zeros = jnp.zeros((1, *taps[:2], channels, features))
    count = batch // clips * math.prod(block.grid)
    totals, _ = lax.scan(add, [zeros] * taps[2], jnp.arange(count))
    return jnp.concatenate(totals).transpose(1, 2, 0, 3, 4).astype(dtype)


def _count_clips(batch: int, width: int) -> int:
    """Returns how many clips are put side by side, a divisor of their number."""
    most = max(1, _COLUMNS // width)
    return max(n for n in range(1, most + 1) if batch % n == 0)


def _group(a_BTHWK: Array, clips: int) -> Array:
    """Puts so many clips side by side: [B / clips, T, H, clips, W, K]."""
    return a_BTHWK.reshape(-1, clips, *a_BTHWK.shape[1:]).transpose(0, 2, 3, 1, 4, 5)


def _list_columns(x_NTHGWC: Array, taps: int) -> list[Array]:
    """Returns the columns that each tap along a row meets, as channels: [N, T, H, C, G W] each."""
    reach = x_NTHGWC.shape[4] - taps + 1
    # XLA copies each of these at the speed of memory, and several times slower fused into one.
    columns_last = lax.optimization_barrier(x_NTHGWC.transpose(0, 1, 2, 5, 3, 4))
    met = [lax.optimization_barrier(columns_last[..., k : k + reach]) for k in range(taps)]
    return [columns.reshape(*columns.shape[:4], -1) for columns in met]


@dataclass(frozen=True)
class _Block:
    """Frames and rows of outputs that are used at a time, and how many such blocks a clip has.

    Attributes:
      output_size: frames and rows of outputs.
      input_size: those of the inputs that they see.
      grid: blocks along the frames and along the rows of a clip; the last ones are filled up.
      taps: of the kernel, over time, rows and columns.
    """

    output_size: tuple[int, int]
    input_size: tuple[int, int]
    grid: tuple[int, int]
    taps: tuple[int, int, int]

    @classmethod
    def choose(
        cls, outputs: tuple[int, int], taps: tuple[int, int, int], row_bytes: int
    ) -> "_Block":
        """Returns the cheapest block whose inputs fit into the cache.

        Args:
          outputs: frames and rows of a clip.
          taps: see the class.
          row_bytes: of a row of inputs as it is laid out.
        """

        def make(*size: int) -> "_Block":
            inputs = (size[0] + taps[0] - 1, size[1] + taps[1] - 1)
            grid = tuple(-(-n // m) for n, m in zip(outputs, size))
            return cls(size, inputs, grid, taps)

        def estimate_cost(block: "_Block") -> float:
            layout = _LAYOUT_COST * math.prod(block.input_size)
            return math.prod(block.grid) * (math.prod(block.output_size) + layout)

        blocks = itertools.starmap(make, itertools.product(*(range(1, n + 1) for n in outputs)))
        fitting = [b for b in blocks if math.prod(b.input_size) * row_bytes <= _BLOCK_BYTES]
        return min(fitting, key=estimate_cost, default=make(1, 1))

    def pad_inputs(self, x_BTHWC: Array) -> Array:
        """Puts a zero on each side of a frame, and zeros at the ends up to whole blocks."""
        _, length, height, _, _ = x_BTHWC.shape
        frames, rows = (n * m for n, m in zip(self.grid, self.output_size))
        missing_frames = frames + self.taps[0] - 1 - length
        missing_rows = rows + self.taps[1] - 2 - height
        ends = ((0, missing_frames), (1, missing_rows), (1, self.taps[2] - 2))
        return jnp.pad(x_BTHWC, ((0, 0), *ends, (0, 0)))

    def pad_outputs(self, y_BTHWF: Array) -> Array:
        """Puts zeros at the ends up to whole blocks."""
        counts = (n * m for n, m in zip(self.grid, self.output_size))
        ends = ((0, n - m) for n, m in zip(counts, y_BTHWF.shape[1:3]))
        return jnp.pad(y_BTHWF, ((0, 0), *ends, (0, 0), (0, 0)))

    def take_inputs(self, columns_NTHCW: Array, position: Array) -> Array:
        """Returns what the outputs of a block see, [1, frames, rows, C, W]."""
        return _take(columns_NTHCW, self._locate(position), self.input_size)

    def take_outputs(self, outputs_NTH1WF: Array, position: Array) -> Array:
        """Returns the outputs of a block, [frames, rows, 1, W, F]."""
        return _take(outputs_NTH1WF, self._locate(position), self.output_size)[0]

    def _locate(self, position: Array) -> tuple[Array, Array, Array]:
        """Returns the group of clips, and the first frame and row of the outputs of a block."""
        frames, rows = self.output_size
        group, rest = position // math.prod(self.grid), position % math.prod(self.grid)
        return group, rest // self.grid[1] * frames, rest % self.grid[1] * rows


def _take(a: Array, first: tuple[Array, ...], size: tuple[int, int]) -> Array:
    """Returns so many frames and rows of one group of clips; axes behind them stay whole."""
    whole = a.shape[3:]
    start = (*first, *[jnp.zeros_like(first[0])] * len(whole))
    return lax.dynamic_slice(a, start, (1, *size, *whole))


_convolution = Primitive("onednn_convolution")


@_convolution.def_abstract_eval
def _describe_output(x, kernel, *, strides, padding, dtype) -> ShapedArray:
    sizes = [
        (size + sum(ends) - taps) // stride + 1
        for size, ends, taps, stride in zip(x.shape[1:-1], padding, kernel.shape, strides)
    ]
    return ShapedArray((x.shape[0], *sizes, kernel.shape[-1]), dtype)


def _lower(context, x, kernel, *, strides, padding, dtype):
    del dtype  # that of the result says it
    context.module_context.add_host_callback(_keep_out_of_the_compilation_cache)
    num_axes = len(strides) + 2
    data = {
        "data": {
            "batch_dim": 0,
            "feature_dim": num_axes - 1,
            "spatial_dims": list(range(1, num_axes - 1)),
        }
    }
    filters = {
        "filter": {
            "input_feature_dim": num_axes - 2,
            "output_feature_dim": num_axes - 1,
            "spatial_dims": list(range(num_axes - 2)),
        }
    }
    window = {
        "pad_left": [before for before, _ in padding],
        "pad_right": [behind for _, behind in padding],
        "strides": strides,
        "window_dilations": [1] * len(strides),
    }
    settings = {"dims": num_axes, "feature_groups": 1, "input": data, "output": data}
    settings |= {"kernel": filters, "window": window}
    lower = jax.ffi.ffi_lowering(
        "__onednn$convolution",
        backend_config=json.dumps({"onednn_conv_config": settings}),
        api_version=2,
    )
    return lower(context, x, kernel)


def _keep_out_of_the_compilation_cache(*_):
    raise AssertionError("no program calls this")


def _batch(arrays, axes, **settings):
    x, kernel = arrays
    if axes[1] is not None:
        # A kernel for each example: one convolution after the other.
        moved = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes)]
        if axes[0] is None:
            return lax.map(lambda k: _convolution.bind(x, k, **settings), moved[1]), 0
        return lax.map(lambda pair: _convolution.bind(*pair, **settings), tuple(moved)), 0
    x = jnp.moveaxis(x, axes[0], 0)
    y = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **settings)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


_convolution.def_impl(
    lambda *arrays, **settings: jax.jit(functools.partial(_convolution.bind, **settings))(*arrays)
)
mlir.register_lowering(_convolution, _lower, platform="cpu")
batching.primitive_batchers[_convolution] = _batch


def dispatch(onednn: Callable, portable: Callable) -> Callable:
    """Returns the function of arrays that is one of two where a program for CPUs is lowered.

    Args:
      onednn: of arrays of one dtype; used where oneDNN is, see the module.
      portable: the same function, used everywhere else.
    """

    def choose(*arrays: Array) -> Array:
        return _choice.bind(*arrays, onednn=onednn, portable=portable)

    return choose


_choice = Primitive("onednn_or_portable")
_choice.def_impl(lambda *arrays, **functions: jax.jit(dispatch(**functions))(*arrays))


@_choice.def_abstract_eval
def _describe_choice(*arrays, onednn, portable) -> ShapedArray:
    del onednn
    result = jax.eval_shape(portable, *arrays)
    return ShapedArray(result.shape, result.dtype)


def _lower_choice(context, *arrays, onednn, portable):
    chosen = onednn if _can_use(context) else portable
    return mlir.lower_fun(chosen, multiple_results=False)(context, *arrays)


def _can_use(context) -> bool:
    module = context.module_context
    return (
        all(a.dtype in DTYPES and a.size for a in (*context.avals_in, *context.avals_out))
        and not module.lowering_parameters.for_export
        and _is_whole_on_each_device(module.axis_context)
        and onednn_probe.is_usable(context.avals_in[0].dtype)
    )


def _is_whole_on_each_device(axes) -> bool:
    """Whether no compiler divides the arrays of a program among devices."""
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    return axes.num_devices == 1


def _batch_choice(arrays, axes, *, onednn, portable):
    mapped = (jax.vmap(function, in_axes=axes) for function in (onednn, portable))
    return dispatch(*mapped)(*arrays), 0


mlir.register_lowering(_choice, _lower_choice)
batching.primitive_batchers[_choice] = _batch_choice
