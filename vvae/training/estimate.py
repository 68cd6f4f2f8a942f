"""Estimates time and memory of a training before it starts, by formula: nothing is compiled."""

import functools
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

# Fraction of the matrix-product rate that a training step reaches on two CPU cores: 0.40 for the
# default network, 0.34 and 0.37 for causal ones, measured in turns with the products on a shared
# machine. The estimate is meant to be right within a factor of 1.5.
_EFFICIENCY = 0.45
# Overhead of a step: dispatch, batch, progress bar.
_STEP_SECONDS = 0.01
# Arrays of an activation's size that are alive at once in a step, forward and backward, measured as
# the memory of compiled steps on CPUs. In a causal network, a stage of one block is not
# rematerialised, since the compiler unrolls a loop of one iteration: all activations inside the
# block stay alive. Of a longer stage, the outputs of its blocks and the inside of one block do.
_LIVE_COPIES = 6
_INSIDE_KEPT_BLOCK = 34
_INSIDE_SCANNED_BLOCK = 30
_VIDEO_COPIES = 32  # of the pixels, around a causal network
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


@dataclass(frozen=True)
class Network:
    """What the cost of a frame depends on in a SequentialVAE.

    Attributes:
      shape_HWC: frame size.
      widths: channels at each level.
      hidden: width of the dense layers.
    """

    shape_HWC: tuple[int, int, int]
    widths: tuple[int, ...]
    hidden: int

    def flops(self) -> int:
        """Counts the floating-point operations of one frame, forward and backward.

        Convolutions count in their direct form.
        """
        height, width, channels = self.shape_HWC
        multiplications = 0
        for features in self.widths:
            height, width = height // 2, width // 2
            multiplications += 16 * channels * features * height * width
            channels = features
        multiplications += height * width * channels * self.hidden
        # The decoder mirrors the encoder, and the backward pass costs two forward passes.
        return 2 * 2 * 3 * multiplications

    def live_numbers(self) -> int:
        """Counts the numbers of one frame, in encoder and decoder, that are alive at once."""
        height, width, channels = self.shape_HWC
        count = height * width * channels
        for features in self.widths:
            height, width = height // 2, width // 2
            count += height * width * features
        return _LIVE_COPIES * 2 * count


@dataclass(frozen=True)
class GridNetwork:
    """What the cost of a frame depends on in a CausalVideoVAE.

    Attributes:
      pixels: numbers in a frame of the video, H * W * C.
      finest: positions per frame at the finest resolution.
      features: channels after the stem.
      widths, blocks, halvings: see `CausalVideoVAE`.
    """

    pixels: int
    finest: float
    features: int
    widths: tuple[int, ...]
    blocks: tuple[int, int]
    halvings: tuple[tuple[bool, bool], ...]

    def _positions(self) -> list[float]:
        """Returns the number of positions per frame at each resolution."""
        positions = [self.finest]
        for in_time, in_space in self.halvings:
            positions.append(positions[-1] / ((2 if in_time else 1) * (4 if in_space else 1)))
        return positions

    def flops(self) -> int:
        """Counts the floating-point operations of one frame, forward and backward.

        Convolutions count in their direct form.
        """
        positions, widths = self._positions(), self.widths
        num_blocks = sum(self.blocks)
        multiplications = sum(54 * num_blocks * w * w * p for w, p in zip(widths, positions))
        # Two middle blocks each in encoder and decoder, and the first and last convolutions.
        multiplications += 2 * 2 * 54 * widths[-1] ** 2 * positions[-1]
        multiplications += 2 * 27 * self.features * widths[0] * positions[0]
        for level, (_, in_space) in enumerate(self.halvings):
            taps = 16 if in_space else 3
            multiplications += 2 * taps * widths[level] * widths[level + 1] * positions[level + 1]
        # The backward pass costs two forward passes, and the blocks are rematerialised.
        return int(2 * 4 * multiplications)

    def live_numbers(self) -> int:
        """Counts the numbers of one frame, in encoder and decoder, that are alive at once."""
        copies = sum(n if n > 1 else _INSIDE_KEPT_BLOCK for n in self.blocks)
        if max(self.blocks) > 1:
            copies += _INSIDE_SCANNED_BLOCK
        activations = sum(w * p for w, p in zip(self.widths, self._positions()))
        return int(copies * activations + _VIDEO_COPIES * self.pixels)


def estimate_seconds(
    network: Network | GridNetwork, num_frames: int, num_steps: int, rate: float
) -> float:
    """Estimates the seconds to train on num_frames frames in num_steps steps at `rate` FLOP/s."""
    return network.flops() * num_frames / (_EFFICIENCY * rate) + _STEP_SECONDS * num_steps


def estimate_bytes(network: Network | GridNetwork, num_parameters: int, num_frames: int) -> int:
    """Estimates the bytes on one device that computes num_frames frames at a time, in float32."""
    return 4 * (network.live_numbers() * num_frames + _PARAMETER_COPIES * num_parameters)


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
