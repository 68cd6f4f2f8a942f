"""Frames per second of training steps, beside PyTorch and plain Flax.

    pip install '.[bench]'
    python -m benchmarks.train_step [--only CASE ...] [--bfloat16] [--repeats 9] [--threads 2]
                                    [--json FILE]

Cases (`benchmarks/step_cases.py`): SequentialVAE on batches of 128 frames of 64x64x3 and of 256 of
32x32x1, and CausalVideoVAE with the settings of configs/compression.py. Rows alternate in one
process, all in float32 (with --bfloat16 also with activations in bfloat16, PyTorch by autocast), on
the accelerator if there is one (there in TF32 if the library uses it: PyTorch is told to, XLA does
so by default):
    vvae              the step of `train.py` with Adam, averaged parameters and the gradient's norm;
                      in micro-batches of several sizes, and as a whole batch
    plain Flax        the same step on the whole batch with Flax's convolutions
                      (benchmarks/plain_flax.py)
    PyTorch           benchmarks/torch_*_twin.py, eager, fused Adam; without averaged parameters,
                      the norm, and rematerialised blocks. In channels_last memory; where the
                      default layout may be faster, also in that: the faster one is the peer
    torch.compile     the same, with loss and gradient compiled by torch.compile

The twins are checked first: equal outputs and losses for the same parameters, equal parameter
counts and FLOPs, at least 80 % of them in kernels over several rows and columns. Times are medians
over repeats. On a shared machine, threads wait for each other: only ratios are meaningful there,
most of all those of processor time on one core:

    taskset -c 0 python -m benchmarks.train_step --threads 1
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import NamedTuple
from unittest import mock

from vvae import runtime

runtime.prepare_jax()

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import torch_twin
from benchmarks.plain_flax import use_plain_layers
from benchmarks.step_cases import CASES, Case
from benchmarks.timing import Timing, find_peer, make_parser, measure, write_results
from benchmarks.torch_twin import Twin
from benchmarks.variables import draw_variables
from vvae import distributions
from vvae.models import contract
from vvae.objectives.elbo import negative_elbo
from vvae.session.preview import count_micro_batches
from vvae.session.update import make_step
from vvae.training.parallel import make_runner
from vvae.training.state import init_state

LEARNING_RATE = 1e-3
OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5  # relative
SMALLEST_SPATIAL_SHARE = 0.8
# Replaces every standard normal number where networks are compared.
NOISE = 0.7


class Outputs(NamedTuple):
    """What a network computes for a batch: see `Twin.reconstruct`, and the loss with NOISE."""

    arrays: list[np.ndarray]
    loss: float


def compile_jax_step(case: Case, variables, micro_batch: int, video: np.ndarray):
    """Compiles an update by vvae's own training step.

    Returns:
      (compiled program, state, batch): state and metrics are `compiled(state, batch)`, which
      consumes the state.
    """
    model, tx = case.make_model(), optax.adam(LEARNING_RATE)
    counts = {
        "num_steps": case.config.train.num_steps,
        "num_micro_batches": len(video) // micro_batch,
    }
    step = make_step(model, tx, case.config, **counts)
    # A copy, because the first update donates it.
    variables = jax.tree.map(jnp.array, variables)
    state = init_state(variables["params"], variables["stats"], tx)
    batch = make_batch(video)
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile(), state, batch


def run_compiled(name: str, compiled, state, batch) -> Callable[[], None]:
    """Returns a function that makes one update with a compiled step and waits for it."""

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        if not float(metrics["finite"]):
            raise FloatingPointError(f"{name}: the loss is not finite")

    return run


def make_jax_step(case: Case, variables, micro_batch: int, video: np.ndarray) -> Callable[[], None]:
    """Returns a function that makes one update with vvae's own training step and waits for it."""
    return run_compiled(case.name, *compile_jax_step(case, variables, micro_batch, video))


def make_batch(video: np.ndarray) -> dict[str, jax.Array]:
    """Returns the batch of a step for uint8 clips [B, T, H, W, C]."""
    return {
        "video": jnp.asarray(video),
        "mask": jnp.ones(video.shape[:2], bool),
        "index": jnp.arange(len(video), dtype=jnp.int32),
    }


def make_plain_flax_step(case: Case, variables, video: np.ndarray) -> Callable[[], None]:
    """Returns `make_jax_step` on the whole batch with Flax's own convolutions."""
    with use_plain_layers():
        return make_jax_step(case, variables, len(video), video)


def make_torch_step(twin: Twin, compute_loss, video: np.ndarray) -> Callable[[], None]:
    """Returns a function that makes one update of the twin with its loss and waits for it."""
    optimizer = torch_twin.make_adam(twin, LEARNING_RATE)
    video_BTHWC = torch.from_numpy(video).to(next(twin.parameters()).device)

    def run() -> None:
        torch_twin.train_step(compute_loss, optimizer, video_BTHWC).item()

    return run


def make_steps(
    case: Case, variables, video: np.ndarray, device: str
) -> dict[str, Callable[[], None]]:
    """Returns the rows of the table: functions that make one update of these variables."""
    steps = {}
    for name, make_twin in case.twin_makers().items():
        twin = make_loaded(make_twin, variables).to(device)
        steps[name] = make_torch_step(twin, twin.loss, video)
    twin = make_loaded(next(iter(case.twin_makers().values())), variables).to(device)
    steps["torch.compile"] = make_torch_step(twin, torch.compile(twin.loss), video)
    trained = find_trained_micro_batch(case)
    for micro_batch in sorted({*case.micro_batches, trained}):
        name = f"vvae, {micro_batch * video.shape[1]} frames at a time"
        name += ", as trained" if micro_batch == trained else ""
        steps[name] = make_jax_step(case, variables, micro_batch, video)
    steps["plain Flax"] = make_plain_flax_step(case, variables, video)
    return steps


def make_bfloat16_steps(
    case: Case, variables, video: np.ndarray, device: str
) -> dict[str, Callable[[], None]]:
    """Returns rows of `make_steps` with activations in bfloat16: as trained, and its peers."""
    steps = {}
    for name, compile_loss in (("PyTorch", lambda loss: loss), ("torch.compile", torch.compile)):
        twin = make_loaded(next(iter(case.twin_makers().values())), variables).to(device)
        loss = compile_loss(twin.loss)

        def compute_loss(video_BTHWC: torch.Tensor, loss=loss) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16):
                return loss(video_BTHWC)

        steps[f"bfloat16: {name}"] = make_torch_step(twin, compute_loss, video)
    micro_batch = find_trained_micro_batch(case)
    steps["bfloat16: vvae, as trained"] = make_jax_step(
        case.in_bfloat16(), variables, micro_batch, video
    )
    return steps


def make_loaded(make_twin: Callable[[], Twin], variables) -> Twin:
    """Returns the twin with the variables of vvae's model."""
    twin = make_twin()
    twin.load_flax(variables)
    return twin


def find_trained_micro_batch(case: Case) -> int:
    """Returns how many clips at a time `train.py` takes on one device."""
    config = case.config
    runner = make_runner(config.parallel.kind, jax.devices()[:1])
    return config.train.batch_size // count_micro_batches(config, case.make_model(), runner)


def check_twins(case: Case, variables, video: np.ndarray) -> dict[str, float]:
    """Asserts that both libraries make the same network from the variables; returns its size.

    Returns:
      num_parameters; forward_flops of one frame; spatial_share of them in kernels over several rows
      and columns.
    """
    with jax.default_matmul_precision("float32"):
        ours = run_vvae(case, variables, make_batch(video[:1]))

    spatial, total = case.count_flops(variables)
    num_parameters = sum(a.size for a in jax.tree.leaves(variables["params"]))
    for name, make_twin in case.twin_makers().items():
        twin, name = make_loaded(make_twin, variables), f"{case.name}, {name}"
        outputs, num_flops = run_twin(twin, video[:1])
        assert_same(name, outputs, ours)
        assert num_parameters == sum(p.numel() for p in twin.parameters()), name
        assert total == num_flops, (name, total, num_flops)
    return {
        "num_parameters": num_parameters,
        "forward_flops": total / video.shape[1],
        "spatial_share": spatial / total,
    }


def run_twin(twin: Twin, video: np.ndarray) -> tuple[Outputs, int]:
    """Returns what a twin computes for a batch, and the FLOPs of its loss, counted as it runs."""
    video_BTHWC = torch.from_numpy(video)
    with torch.no_grad():
        arrays = [array.numpy() for array in twin.reconstruct(video_BTHWC)]
        with FlopCounterMode(display=False) as counter:
            loss = twin.loss(video_BTHWC, lambda mean: torch.full_like(mean, NOISE)).item()
    return Outputs(arrays, loss), counter.get_total_flops()


def run_vvae(case: Case, variables, batch) -> Outputs:
    """Returns what vvae's model computes for a batch."""
    model, beta = case.make_model(), case.config.objective.beta
    sample = distributions.sample_gaussian

    def sample_with_noise(gaussian, eps):
        return sample(gaussian, jnp.full_like(eps, NOISE))

    @jax.jit
    def compute(variables, batch):
        posterior = contract.encode(model, variables, batch["video"])
        mean_video = contract.decode(model, variables, model.posterior_mean(posterior))
        loss, _ = negative_elbo(model, variables, batch, jax.random.key(0), beta)
        return (*jax.tree.leaves(posterior), mean_video), loss

    with mock.patch.object(distributions, "sample_gaussian", sample_with_noise):
        arrays, loss = compute(variables, batch)
    return Outputs([np.asarray(array) for array in arrays], float(loss))


def assert_same(name: str, found: Outputs, expected: Outputs) -> None:
    """Raises AssertionError, naming the case, if two networks compute different results."""
    for a, b in zip(found.arrays, expected.arrays, strict=True):
        error = np.abs(a - b).max()
        assert error < OUTPUT_TOLERANCE, f"{name}: the outputs differ by {error:.1e}"
    error = abs(found.loss / expected.loss - 1.0)
    assert error < LOSS_TOLERANCE, f"{name}: the losses differ by {error:.1e}"


def run_case(case: Case, repeats: int, device: str, bfloat16: bool) -> dict:
    """Checks and measures one case; prints its table and returns its figures."""
    video = np.random.default_rng(0).integers(0, 256, case.video_shape, np.uint8)
    variables = draw_variables(partial(contract.init_variables, case.make_model()))
    size = check_twins(case, variables, video)
    assert size["spatial_share"] >= SMALLEST_SPATIAL_SHARE, (case.name, size["spatial_share"])
    steps = make_steps(case, variables, video, device)
    if bfloat16:
        steps |= make_bfloat16_steps(case, variables, video, device)
    timings = measure(steps, repeats)
    print_table(case, size, timings)
    rows = {name: asdict(timing) for name, timing in timings.items()}
    return {"case": case.name, "config": asdict(case.config), **size, "median_seconds": rows}


def print_table(case: Case, size: dict[str, float], timings: dict[str, Timing]) -> None:
    """Prints what `check_twins` and `measure` returned."""
    # A backward pass costs two forward passes.
    gigaflops = 3e-9 * size["forward_flops"] * case.num_frames
    print(
        f"\n{case.name}, batches of {case.num_frames} frames: {size['num_parameters']:,} "
        f"parameters, {size['forward_flops'] / 1e6:.1f} MFLOP a frame forward, "
        f"{size['spatial_share']:.0%} in kernels over several rows and columns"
    )
    heads = f"{'ms/step':>10}{'CPU ms':>9}{'frames/s':>10}{'GFLOP/s':>9}"
    print(f"{'':40}{heads}   x PyTorch: clock, CPU")
    peer = find_peer(timings)
    for name, timing in timings.items():
        print(
            f"{name:40}{timing.wall_s * 1e3:10.2f}{timing.cpu_s * 1e3:9.0f}"
            f"{case.num_frames / timing.wall_s:10.0f}{gigaflops / timing.wall_s:9.0f}"
            f"{peer.wall_s / timing.wall_s:19.2f}{peer.cpu_s / timing.cpu_s:6.2f}"
        )


def main() -> None:
    """Reads the command line, measures the cases, writes the JSON file."""
    parser = make_parser(__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CASE")
    parser.add_argument("--bfloat16", action="store_true", help="also in bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # XLA's default on NVIDIA's accelerators.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    chosen = [case for case in CASES if case.name in args.only]
    results = [run_case(case, args.repeats, device, args.bfloat16) for case in chosen]
    write_results(args.json, results)


if __name__ == "__main__":
    main()
