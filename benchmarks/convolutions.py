"""Profiles the 3x3x3 convolutions of CausalVideoVAE, beside XLA's own and PyTorch's.

    pip install '.[bench]'
    python -m benchmarks.convolutions [--repeats 9] [--threads 2] [--json FILE]

For the sizes of `benchmarks.causal_block` and that of configs/compression.py, in float32: the
convolution and its gradients by the input and by the kernel, each alone, as `convolutions.conv_3x3`
computes them on a CPU, as XLA's own convolution and as PyTorch's conv3d (channels_last_3d); and the
norm and SiLU before it, forward and backward. GFLOP/s count the direct form; Winograd's products
need 4/9 of it.

Below them are the bounds on vvae: the rate of one large matrix product, and that of the products of
a block of tiles, [tiles, 3 C] x [3 C, C], whose inputs are in the cache. Rows alternate in one
process; times are medians over repeats.
"""

from collections.abc import Callable
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.causal_block import CASES, Case, compile_jax
from benchmarks.timing import Timing, make_parser, measure, write_results
from benchmarks.torch_causal_twin import KERNEL, Norm
from vvae.models import causal_blocks
from vvae.models.convolutions import conv_3x3, native_conv_3x3

SIZES = (*CASES, Case((8, 5, 8, 8, 64)))
TILES = 1024  # tiles in a block of convolutions_cpu_3x3
LEAD = KERNEL - 1


def list_jax(convolve: Callable, x: np.ndarray, kernel: np.ndarray) -> dict[str, Callable]:
    """Returns part of a training step -> a function that runs it: forward, by input, by kernel."""
    y = np.ones_like(x)

    def pull(x, kernel, y, number):
        return jax.vjp(lambda *a: convolve(*a, LEAD), x, kernel)[1](y)[number]

    return {
        "forward": compile_jax(lambda x, kernel: convolve(x, kernel, LEAD), x, kernel),
        "gradient by input": compile_jax(lambda *a: pull(*a, 0), x, kernel, y),
        "gradient by kernel": compile_jax(lambda *a: pull(*a, 1), x, kernel, y),
    }


def lay_out(array: np.ndarray) -> torch.Tensor:
    """Returns the array in the layout channels_last_3d."""
    return torch.from_numpy(array.copy()).contiguous(memory_format=torch.channels_last_3d)


def list_torch(x: np.ndarray, kernel: np.ndarray) -> dict[str, Callable]:
    """Returns the parts of `list_jax` in PyTorch; the frames are padded in time beforehand."""
    first = np.zeros_like(x[:, :LEAD])
    video = lay_out(np.moveaxis(np.concatenate([first, x], axis=1), -1, 1))
    weight = lay_out(kernel.transpose(4, 3, 0, 1, 2))
    dy = lay_out(np.moveaxis(np.ones_like(x), -1, 1))

    def pull(number):
        mask = [number == 0, number == 1, False]
        settings = ([1] * 3, [0, 1, 1], [1] * 3, False, [0] * 3, 1)
        torch.ops.aten.convolution_backward(dy, video, weight, None, *settings, mask)

    return {
        "forward": lambda: F.conv3d(video, weight, padding=(0, 1, 1)),
        "gradient by input": lambda: pull(0),
        "gradient by kernel": lambda: pull(1),
    }


def list_activations(x: np.ndarray) -> dict[str, Callable]:
    """Returns row -> norm and SiLU, forward and backward."""
    norm, channels = causal_blocks.Norm(), x.shape[-1]
    params = norm.init(jax.random.key(0), x[:1, :1])

    def ours(x):
        return jax.vjp(lambda x: jax.nn.silu(norm.apply(params, x)), x)[1](jnp.ones_like(x))

    video = lay_out(np.moveaxis(x, -1, 1)).requires_grad_(True)
    theirs, ones = Norm(channels), torch.ones_like(video)

    def run():
        video.grad = None
        F.silu(theirs(video)).backward(ones)

    return {"vvae": compile_jax(ours, x), "PyTorch": run}


def measure_case(case: Case, repeats: int) -> dict[str, dict[str, Timing]]:
    """Returns part -> row -> its timing."""
    rng, channels = np.random.default_rng(0), case.shape_BTHWC[-1]
    x = rng.standard_normal(case.shape_BTHWC, np.float32)
    kernel = rng.standard_normal((KERNEL,) * 3 + (channels,) * 2, np.float32)
    rows = {
        "vvae": list_jax(conv_3x3, x, kernel),
        "XLA": list_jax(native_conv_3x3, x, kernel),
        "PyTorch": list_torch(x, kernel),
    }
    parts = {part: {name: row[part] for name, row in rows.items()} for part in rows["vvae"]}
    parts["norm and SiLU"] = list_activations(x)
    with torch.no_grad():
        found = {part: measure(parts.pop(part), repeats) for part in list(rows["vvae"])}
    return found | {part: measure(steps, repeats) for part, steps in parts.items()}


def measure_products(channels: int, repeats: int) -> dict[str, float]:
    """Returns GFLOP/s of one large product, and of the sixteen products of a block."""
    size, inner, rounds = 2048, KERNEL * channels, 16
    square, rng = np.ones((size, size), np.float32), np.random.default_rng(0)
    tiles = rng.standard_normal((rounds, TILES, inner), np.float32)
    kernels = rng.standard_normal((rounds, inner, channels), np.float32)

    def multiply(tiles, kernels):
        # In a loop, as blocks follow one another.
        def body(total, _):
            factor = 1 + 0 * total[0, 0]
            products = [factor * v @ u for v, u in zip(tiles, kernels)]
            return total + sum(products), None

        return jax.lax.scan(body, jnp.zeros((TILES, channels)), None, length=rounds)[0]

    steps = {
        "one of 2048": compile_jax(jnp.matmul, square, square),
        "a block's": compile_jax(multiply, tiles, kernels),
    }
    flops = {"one of 2048": 2 * size**3, "a block's": 2 * rounds**2 * TILES * inner * channels}
    timings = measure(steps, repeats)
    return {name: flops[name] / timing.wall_s / 1e9 for name, timing in timings.items()}


def print_case(case: Case, found: dict[str, dict[str, Timing]], products: dict[str, float]) -> None:
    """Prints the table of one size."""
    gigaflops = case.gigaflops / 6  # of one convolution, or one of its gradients
    print(f"\n{'x'.join(map(str, case.shape_BTHWC))}")
    print(f"{'':20}{'row':10}{'ms':>8}{'GFLOP/s':>9}   x PyTorch")
    for part, timings in found.items():
        for name, timing in timings.items():
            rate = "" if part.startswith("norm") else f"{gigaflops / timing.wall_s:.0f}"
            ratio = timings["PyTorch"].wall_s / timing.wall_s
            print(f"{part:20}{name:10}{timing.wall_s * 1e3:8.2f}{rate:>9}{ratio:11.2f}")
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in products.items())
    print(f"matrix products of XLA, GFLOP/s: {rates}")


def main() -> None:
    """Reads the command line, measures every size, writes the JSON file."""
    args = make_parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for case in SIZES:
        found = measure_case(case, args.repeats)
        products = measure_products(case.shape_BTHWC[-1], args.repeats)
        print_case(case, found, products)
        rows = {part: {n: asdict(t) for n, t in ts.items()} for part, ts in found.items()}
        results.append(
            {"shape": case.shape_BTHWC, "median_seconds": rows, "product_gigaflops": products}
        )
    write_results(args.json, results)


if __name__ == "__main__":
    main()
