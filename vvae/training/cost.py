"""The cost of a compiled training step: FLOPs counted in its jaxpr, memory from its compiler.

The compiler's own FLOP count takes the body of a loop once, however often it runs; but
micro-batches, recurrences and residual blocks are loops here. So the products are counted in the
jaxpr, where the number of iterations is known. Without loops both counts agree (tested).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


@dataclass(frozen=True)
class StepCost:
    """Cost of one step: floating-point operations over all devices, and bytes on each device."""

    flops: int
    bytes: int


def measure_step(step, state: Any, batch: Any) -> StepCost:
    """Compiles a step, unless it is compiled already, and returns its cost.

    Args:
      step: from `Runner.compile_step`; calling it with such arguments does not compile it again.
      state: placed (it is not donated), or from `Runner.describe_state`.
      batch: placed.
    """
    memory = step.lower(state, batch).compile().memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    total += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    return StepCost(count_flops(jax.make_jaxpr(step)(state, batch)), total)


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Counts the FLOPs of matrix products and convolutions; a multiply-add counts as 2.

    Convolutions count in their direct form: if a platform has its own lowering, that of the other
    platforms is counted. Products with padding, or with the zeros between the entries of a dilated
    array, do not count. Recomputation in the backward pass counts again. A function mapped over
    devices counts once per device.

    Raises:
      ValueError: for products in a loop whose number of iterations is unknown.
    """
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _count_product(equation)
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    if name == "cond":
        return _count_branches(params)
    inner = sum(count_flops(jaxpr) for jaxpr in _find_jaxprs(params))
    if name == "while" and inner:
        raise ValueError("products in a while loop cannot be counted: use scan or a fixed count")
    if name == "scan":
        return params["length"] * inner
    return inner * (params["mesh"].size if name == "shard_map" else 1)


def _find_jaxprs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item


def _count_branches(params: dict[str, Any]) -> int:
    """Counts the default branch of a choice by platform; else the most expensive branch."""
    counts = [count_flops(branch) for branch in params["branches"]]
    platforms = params.get("branches_platforms") or ()
    return counts[platforms.index(None)] if None in platforms else max(counts)


def _count_product(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _count_convolution(equation) -> int:
    params, (left, right) = equation.params, [v.aval.shape for v in equation.invars]
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    kernel_features, kernel_channels, *kernel_axes = numbers.rhs_spec
    count = 2 * out[numbers.out_spec[0]] * right[kernel_features] * right[kernel_channels]
    for axis, kernel_axis in enumerate(kernel_axes):
        count *= _count_pairs(
            left[numbers.lhs_spec[2 + axis]],
            right[kernel_axis],
            out[numbers.out_spec[2 + axis]],
            params["window_strides"][axis],
            params["padding"][axis][0],
            (params["lhs_dilation"][axis], params["rhs_dilation"][axis]),
        )
    return count


def _count_pairs(
    size: int, taps: int, outputs: int, stride: int, padding: int, dilation: tuple[int, int]
) -> int:
    """Counts the pairs of an output and a tap, along an axis, that meet an entry of the input."""
    starts = np.arange(outputs)[:, None] * stride - padding
    positions = starts + np.arange(taps)[None, :] * dilation[1]
    inside = (positions >= 0) & (positions <= (size - 1) * dilation[0])
    return int(np.count_nonzero(inside & (positions % dilation[0] == 0)))
