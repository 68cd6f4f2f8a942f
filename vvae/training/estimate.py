"""Estimates time and memory of a training before it starts, by formula: nothing is compiled."""

import functools
import time

import jax
import jax.numpy as jnp

from vvae.models.frame_cost import FrameCost

# Fraction of the matrix-product rate that a training step reaches on two CPU cores: 0.40 for the
# default network, 0.34 and 0.37 for causal ones, measured in turns with the products on a shared
# machine. The estimate is meant to be right within a factor of 1.5.
_EFFICIENCY = 0.45
# Overhead of a step: dispatch, batch, progress bar.
_STEP_SECONDS = 0.01
_PARAMETER_COPIES = 6  # params, moving average, two moments, gradient, update

# FLOP/s of dense bfloat16 matrix products, by a part of JAX's device name, longer names first.
# docs/scaling.md lists the sources.
_PUBLISHED_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
}


def estimate_seconds(cost: FrameCost, num_frames: int, num_steps: int, rate: float) -> float:
    """Returns the seconds of training on num_frames frames in num_steps steps.

    Args:
      cost: of a frame.
      num_frames: frames of all steps together.
      num_steps: steps.
      rate: FLOP/s of all devices together.
    """
    return cost.flops * num_frames / (_EFFICIENCY * rate) + _STEP_SECONDS * num_steps


def estimate_bytes(cost: FrameCost, num_parameters: int, num_frames: int) -> int:
    """Returns the bytes of a device that computes num_frames frames at a time, in float32."""
    return 4 * (cost.live_numbers * num_frames + _PARAMETER_COPIES * num_parameters)


@functools.cache
def measure_rate(size: int = 1024, repeats: int = 3) -> float:
    """Measures the FLOP/s of float32 matrix products on all local devices together, once."""
    multiply = jax.jit(lambda a: a @ a)
    a = jnp.ones((size, size))
    multiply(a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    on_one = 2 * size**3 / best
    # CPU "devices" share the cores of one processor.
    return on_one if jax.default_backend() == "cpu" else on_one * jax.local_device_count()


def find_peak() -> float:
    """Returns the FLOP/s of matrix products on the devices of all processes together.

    For known accelerators this is the published rate in bfloat16, else that of `measure_rate`.
    """
    kind = jax.devices()[0].device_kind
    for name, flops in _PUBLISHED_PEAKS.items():
        if name in kind:
            return flops * jax.device_count()
    return measure_rate() * jax.process_count()
