"""Forward and backward of a residual block of CausalVideoVAE, beside PyTorch and plain Flax.

    pip install '.[bench]'
    python -m benchmarks.causal_block [--repeats 9] [--threads 2] [--json FILE]

The block is x + conv(silu(norm(conv(silu(norm(x)))))) with causal 3x3x3 convolutions and the norm
of each position, as `vvae.models.causal_blocks.ResBlock` computes it, in float32, at the sizes of
the two finest resolutions of CausalVideoVAE small for clips of 17x64x64x3. A step is the gradient
of the mean square of the output by the input and by all parameters. Rows alternate in one process:
  vvae            ResBlock
  plain Flax      the same with nn.Conv
  PyTorch         the same with conv3d, eager, channels_last_3d; and as it is stored by default
  torch.compile   conv3d, channels_last_3d, compiled

All give the same output (checked), of the same FLOPs. Times are medians over repeats.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.timing import measure, read_options
from vvae.models.causal_blocks import ResBlock

EPSILON = 1e-6  # of the norm
TOLERANCE = 1e-4
KERNEL = 3


@dataclass(frozen=True)
class Case:
    """Clips, frames, rows, columns and channels of the block's input."""

    shape_BTHWC: tuple[int, int, int, int, int]

    @property
    def gigaflops(self) -> float:
        """Of the two convolutions, forward and backward, which costs two forward."""
        *positions, channels = self.shape_BTHWC
        return 3 * 2 * 2 * KERNEL**3 * channels**2 * float(np.prod(positions)) / 1e9


CASES = (Case((2, 17, 64, 64, 24)), Case((2, 17, 32, 32, 48)))


class PlainBlock(nn.Module):
    """ResBlock with nn.Conv in the place of CausalConv."""

    @nn.compact
    def __call__(self, x_BTHWC):
        h = x_BTHWC
        for number in range(2):
            h = nn.silu(nn.RMSNorm(epsilon=EPSILON)(h))
            kernel, padding = (KERNEL,) * 3, ((KERNEL - 1, 0), (1, 1), (1, 1))
            h = nn.Conv(h.shape[-1], kernel, padding=padding, name=f"conv_{number}")(h)
        return x_BTHWC + h


def make_inputs(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the input and the kernels [3, 3, 3, C, C] of both convolutions."""
    rng, channels = np.random.default_rng(0), case.shape_BTHWC[-1]
    shape = (KERNEL,) * 3 + (channels, channels)
    scale = (KERNEL**3 * channels) ** -0.5
    kernels = {f"conv_{k}": scale * rng.standard_normal(shape, np.float32) for k in range(2)}
    return rng.standard_normal(case.shape_BTHWC, np.float32), kernels


def make_jax(apply: Callable, params, x: np.ndarray) -> tuple[np.ndarray, Callable[[], None]]:
    """Returns the output, and a function that makes one step and waits for it."""

    def compute_loss(params, x):
        return jnp.mean(jnp.square(apply(params, x)))

    x = jnp.asarray(x)
    step = jax.jit(jax.grad(compute_loss, argnums=(0, 1))).lower(params, x).compile()
    return np.asarray(jax.jit(apply)(params, x)), lambda: jax.block_until_ready(step(params, x))


def make_vvae(x: np.ndarray, kernels: dict[str, np.ndarray]):
    """See `make_jax`."""
    block = ResBlock("position", jnp.float32)
    params = _put(block.init(jax.random.key(0), x[:1, :1], None), kernels)
    return make_jax(lambda params, x: block.apply(params, x, None)[0], params, x)


def make_plain(x: np.ndarray, kernels: dict[str, np.ndarray]):
    """See `make_jax`."""
    block = PlainBlock()
    return make_jax(block.apply, _put(block.init(jax.random.key(0), x[:1, :1]), kernels), x)


def _put(variables, kernels: dict[str, np.ndarray]):
    params = dict(variables["params"])
    for name, kernel in kernels.items():
        params[name] = params[name] | {"kernel": jnp.asarray(kernel)}
    return {"params": params}


class TorchBlock(torch.nn.Module):
    """ResBlock in PyTorch, on [B, C, T, H, W]."""

    def __init__(self, kernels: dict[str, np.ndarray]):
        super().__init__()
        weights = [np.ascontiguousarray(k.transpose(4, 3, 0, 1, 2)) for k in kernels.values()]
        channels = weights[0].shape[0]
        make = torch.nn.ParameterList
        self.weights = make(map(torch.from_numpy, weights))
        self.biases = make(torch.zeros(channels) for _ in weights)
        self.scales = make(torch.ones(1, channels, 1, 1, 1) for _ in weights)

    def forward(self, x):
        h = x
        for weight, bias, scale in zip(self.weights, self.biases, self.scales):
            norm = torch.rsqrt(h.square().mean(dim=1, keepdim=True) + EPSILON)
            h = F.silu(h * norm * scale)
            h = F.conv3d(F.pad(h, (1, 1, 1, 1, KERNEL - 1, 0)), weight, bias)
        return x + h


def make_torch(x: np.ndarray, kernels: dict[str, np.ndarray], layout, compiled: bool = False):
    """See `make_jax`; in a memory layout of PyTorch."""
    block = TorchBlock(kernels).to(memory_format=layout)
    video = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).contiguous(memory_format=layout)
    video.requires_grad_(True)

    def compute_loss(video):
        return block(video).square().mean()

    loss = torch.compile(compute_loss) if compiled else compute_loss

    def step() -> None:
        block.zero_grad(set_to_none=True)
        video.grad = None
        loss(video).backward()

    with torch.no_grad():
        return np.moveaxis(block(video).numpy(), 1, -1), step


def run_case(case: Case, repeats: int) -> dict:
    """Checks and measures one size; prints its table and returns its figures."""
    x, kernels = make_inputs(case)
    made = {
        "PyTorch": make_torch(x, kernels, torch.channels_last_3d),
        "PyTorch, contiguous": make_torch(x, kernels, torch.contiguous_format),
        "torch.compile": make_torch(x, kernels, torch.channels_last_3d, compiled=True),
        "vvae": make_vvae(x, kernels),
        "plain Flax": make_plain(x, kernels),
    }
    expected, _ = made["PyTorch"]
    for name, (output, _) in made.items():
        error = np.abs(output - expected).max()
        assert error < TOLERANCE, f"{case}: the output of {name} differs by {error:.1e}"
    timings = measure({name: step for name, (_, step) in made.items()}, repeats)
    peer = min(timings[name].wall_s for name in timings if name.startswith("PyTorch"))
    print(f"\n{'x'.join(map(str, case.shape_BTHWC))}, forward and backward")
    print(f"{'':24}{'ms':>10}{'CPU ms':>9}{'GFLOP/s':>9}   x PyTorch (the faster layout)")
    for name, timing in timings.items():
        print(
            f"{name:24}{timing.wall_s * 1e3:10.1f}{timing.cpu_s * 1e3:9.0f}"
            f"{case.gigaflops / timing.wall_s:9.0f}{peer / timing.wall_s:11.2f}"
        )
    rows = {name: asdict(timing) for name, timing in timings.items()}
    return {"shape": case.shape_BTHWC, "gigaflops": case.gigaflops, "median_seconds": rows}


def main() -> None:
    """Reads the command line, measures every size, writes the JSON file."""
    args = read_options(__doc__.splitlines()[0])
    torch.set_num_threads(args.threads)
    results = [run_case(case, args.repeats) for case in CASES]
    if args.json:
        versions = {"jax": jax.__version__, "torch": torch.__version__}
        content = {"versions": versions, "cores": os.cpu_count(), "results": results}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
