"""The cost of a frame in training, by formula: nothing is compiled."""

import dataclasses

# Arrays of an activation's size that are alive at once in a step, forward and backward, measured as
# the memory of compiled steps on CPUs. In a causal network, a stage of one block is not
# rematerialised, since the compiler unrolls a loop of one iteration: all activations inside the
# block stay alive. Of a longer stage, the outputs of its blocks and the inside of one block do.
_LIVE_COPIES = 6
_INSIDE_KEPT_BLOCK = 34
_INSIDE_SCANNED_BLOCK = 30
_VIDEO_COPIES = 32  # of the pixels, around a causal network


@dataclasses.dataclass(frozen=True)
class FrameCost:
    """Cost of one frame, encoder and decoder, forward and backward.

    Attributes:
      flops: floating-point operations, in direct convolutions.
      live_numbers: numbers that are alive at once.
    """

    flops: int
    live_numbers: int


def measure_sequential(
    shape_HWC: tuple[int, int, int], widths: tuple[int, ...], hidden: int
) -> FrameCost:
    """Returns the cost of a frame of a SequentialVAE with these attributes."""
    height, width, channels = shape_HWC
    multiplications, count = 0, height * width * channels
    for features in widths:
        height, width = height // 2, width // 2
        multiplications += 16 * channels * features * height * width
        count += height * width * features
        channels = features
    multiplications += height * width * channels * hidden
    # The decoder mirrors the encoder, and the backward pass costs two forward passes.
    return FrameCost(flops=2 * 2 * 3 * multiplications, live_numbers=_LIVE_COPIES * 2 * count)


@dataclasses.dataclass(frozen=True)
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


def measure_grid(network: GridNetwork) -> FrameCost:
    """Returns the cost of a frame of a causal network."""
    positions = [network.finest]  # of a frame at each resolution
    for in_time, in_space in network.halvings:
        positions.append(positions[-1] / ((2 if in_time else 1) * (4 if in_space else 1)))
    return FrameCost(
        flops=_count_grid_flops(network, positions),
        live_numbers=_count_live_numbers(network, positions),
    )


def _count_grid_flops(network: GridNetwork, positions: list[float]) -> int:
    widths, num_blocks = network.widths, sum(network.blocks)
    multiplications = sum(54 * num_blocks * w * w * p for w, p in zip(widths, positions))
    # Two middle blocks each in encoder and decoder, and the first and last convolutions.
    multiplications += 2 * 2 * 54 * widths[-1] ** 2 * positions[-1]
    multiplications += 2 * 27 * network.features * widths[0] * positions[0]
    for level, (_, in_space) in enumerate(network.halvings):
        taps = 16 if in_space else 3
        multiplications += 2 * taps * widths[level] * widths[level + 1] * positions[level + 1]
    # The backward pass costs two forward passes, and the blocks are rematerialised.
    return int(2 * 4 * multiplications)


def _count_live_numbers(network: GridNetwork, positions: list[float]) -> int:
    copies = sum(n if n > 1 else _INSIDE_KEPT_BLOCK for n in network.blocks)
    if max(network.blocks) > 1:
        copies += _INSIDE_SCANNED_BLOCK
    activations = sum(w * p for w, p in zip(network.widths, positions))
    return int(copies * activations + _VIDEO_COPIES * network.pixels)
