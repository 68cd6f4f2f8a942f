"""Times forward and backward of a residual block of CausalVideoVAE, PyTorch and plain Flax.

    pip install '.[bench]'
    python -m benchmarks.causal_block [--repeats 9] [--threads 2] [--json FILE]

The block is x + conv(silu(norm(conv(silu(norm(x)))))) with causal 3x3x3 convolutions and RMSNorm,
as in `vvae.models.causal_blocks.ResBlock`, in float32, at the sizes of the two finest resolutions
of CausalVideoVAE small for clips of 17x64x64x3. A step is the gradient of the mean square of the
output with respect to the input and all parameters. Rows alternate in one process:
    vvae            ResBlock
    plain Flax      the same with nn.Conv (benchmarks/plain_flax.py)
    PyTorch         benchmarks/torch_causal_twin.py: the same with conv3d, eager, in
                    channels_last_3d and in PyTorch's default memory layout
    torch.compile   conv3d, channels_last_3d, compiled

All give the same output (checked) with the same FLOPs. Times are medians over repeats.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import torch_twin
from benchmarks.plain_flax import use_plain_layers
from benchmarks.timing import find_peer, make_parser, measure, write_results
from benchmarks.torch_causal_twin import KERNEL
from benchmarks.torch_causal_twin import ResBlock as TorchResBlock
from benchmarks.variables import draw_variables
from vvae.models.causal_blocks import ResBlock

TOLERANCE = 1e-4
BLOCK = ResBlock()


@dataclass(frozen=True)
class Case:
    """Clips, frames, rows, columns and channels of the block's input."""

    shape_BTHWC: tuple[int, int, int, int, int]

    @property
    def gigaflops(self) -> float:
        """GFLOP of the two convolutions, forward and backward (two forward passes)."""
        *positions, channels = self.shape_BTHWC
        return 3 * 2 * 2 * KERNEL**3 * channels**2 * float(np.prod(positions)) / 1e9


CASES = (Case((2, 17, 64, 64, 24)), Case((2, 17, 32, 32, 48)))


def make_inputs(case: Case) -> tuple[np.ndarray, dict]:
    """Returns the input and the block's parameters."""
    x = np.random.default_rng(0).standard_normal(case.shape_BTHWC, np.float32)
    return x, draw_variables(lambda key: BLOCK.init(key, x[:1, :1], None))["params"]


def compile_jax(function: Callable, *arguments) -> Callable[[], None]:
    """Compiles a function, and returns one that runs it on trees of arrays and waits for it."""
    arguments = jax.tree.map(jnp.asarray, arguments)
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def make_jax(apply: Callable, params, x: np.ndarray) -> tuple[np.ndarray, Callable[[], None]]:
    """Returns the output, and a function that makes one step and waits for it."""

    def compute_loss(params, x):
        return jnp.mean(jnp.square(apply(params, x)))

    step = compile_jax(jax.grad(compute_loss, argnums=(0, 1)), params, x)
    return np.asarray(jax.jit(apply)(params, x)), step


def make_vvae(x: np.ndarray, params):
    """Makes the row of vvae; see `make_jax`."""
    return make_jax(lambda params, x: BLOCK.apply({"params": params}, x, None)[0], params, x)


def make_plain(x: np.ndarray, params):
    """Makes the row of plain Flax; see `make_jax`."""
    with use_plain_layers():
        return make_vvae(x, params)


def make_torch(x: np.ndarray, params, layout, compiled: bool = False):
    """Makes a row of PyTorch in a memory layout; see `make_jax`."""
    block = TorchResBlock(x.shape[-1]).to(memory_format=layout)
    torch_twin.load_flax(block, params)
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
    x, params = make_inputs(case)
    made = {
        "PyTorch": make_torch(x, params, torch.channels_last_3d),
        "PyTorch, contiguous": make_torch(x, params, torch.contiguous_format),
        "torch.compile": make_torch(x, params, torch.channels_last_3d, compiled=True),
        "vvae": make_vvae(x, params),
        "plain Flax": make_plain(x, params),
    }
    expected, _ = made["PyTorch"]
    for name, (output, _) in made.items():
        error = np.abs(output - expected).max()
        assert error < TOLERANCE, f"{case}: the output of {name} differs by {error:.1e}"
    timings = measure({name: step for name, (_, step) in made.items()}, repeats)
    peer = find_peer(timings)
    print(f"\n{'x'.join(map(str, case.shape_BTHWC))}, forward and backward")
    print(f"{'':24}{'ms':>10}{'CPU ms':>9}{'GFLOP/s':>9}   x PyTorch (the faster layout)")
    for name, timing in timings.items():
        print(
            f"{name:24}{timing.wall_s * 1e3:10.1f}{timing.cpu_s * 1e3:9.0f}"
            f"{case.gigaflops / timing.wall_s:9.0f}{peer.wall_s / timing.wall_s:11.2f}"
        )
    rows = {name: asdict(timing) for name, timing in timings.items()}
    return {"shape": case.shape_BTHWC, "gigaflops": case.gigaflops, "median_seconds": rows}


def main() -> None:
    """Reads the command line, measures every size, writes the JSON file."""
    args = make_parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(args.threads)
    results = [run_case(case, args.repeats) for case in CASES]
    write_results(args.json, results)


if __name__ == "__main__":
    main()
