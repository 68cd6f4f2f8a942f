"""Frames per second of a training step of SequentialVAE, beside PyTorch and plain Flax.

    pip install '.[bench]'
    python -m benchmarks.train_step [--repeats 9] [--threads 2] [--json FILE]

Rows, alternating in one process, all in float32, on the accelerator if there is one (there in TF32
where the library does so: PyTorch is told to, as XLA does it by itself):
  vvae              vvae.training.step.train_step of the model: Adam, averaged parameters, norm of
                    the gradient; in micro-batches of several sizes, and as a whole batch
  plain Flax        the same step with nn.Conv and nn.ConvTranspose for the image convolutions
  PyTorch           benchmarks/torch_twin.py, eager, channels_last, fused Adam; without averaged
                    parameters and without a norm
  torch.compile     the same, its loss and gradient compiled by torch.compile

The twins are checked first: equal outputs for the same parameters, equal parameter counts and
FLOPs, at least 80 % of them in the image convolutions. Times are medians over repeats. On a machine
that others use too, threads wait for each other: there only ratios mean something, and those of
processor time on one core most of all (`taskset -c 0 python -m benchmarks.train_step --threads 1`).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import torch_twin
from benchmarks.timing import measure, read_options
from vvae import objectives
from vvae.models import contract, sequential
from vvae.models.sequential import Latents, SequentialVAE
from vvae.training.state import init_state
from vvae.training.step import train_step

LEARNING_RATE = 1e-3
OUTPUT_TOLERANCE = 1e-4
SMALLEST_SPATIAL_SHARE = 0.8


@dataclass(frozen=True)
class Case:
    """A network and a batch of clips; micro-batches are given in clips."""

    shape_HWC: tuple[int, int, int]
    widths: tuple[int, ...]
    num_clips: int
    num_frames: int
    micro_batches: tuple[int, ...]
    hidden: int = 256
    latent_dim: int = 50
    clip_latent_dim: int = 5

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.shape_HWC))} batch {self.num_clips * self.num_frames}"


CASES = (
    Case((64, 64, 3), (64, 64, 128), num_clips=16, num_frames=8, micro_batches=(1, 2, 4, 8, 16)),
    Case((32, 32, 1), (32, 64, 128), num_clips=32, num_frames=8, micro_batches=(2, 4, 8, 16, 32)),
)


class PlainDownConv(nn.Module):
    """nn.Conv in the place of vvae's DownConv."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC):
        return nn.Conv(self.features, (4, 4), 2, padding=1, dtype=self.dtype)(x_NHWC)


class PlainUpConv(nn.Module):
    """nn.ConvTranspose in the place of vvae's UpConv."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_NHWC):
        convolve = nn.ConvTranspose(self.features, (4, 4), (2, 2), padding="SAME", dtype=self.dtype)
        return convolve(x_NHWC)


def make_jax_step(case: Case, micro_batch: int, video: np.ndarray) -> Callable[[], None]:
    """Returns a function that makes one update of vvae's own training step and waits for it."""
    model = make_model(case)
    variables = sequential.init_variables(model, jax.random.key(0))
    tx = optax.adam(LEARNING_RATE)

    def compute_loss(variables, batch, key, step):
        return objectives.negative_elbo(model, variables, batch, key)

    step = partial(
        train_step,
        loss_fn=compute_loss,
        tx=tx,
        seed=0,
        ema_decay=0.99,
        num_micro=case.num_clips // micro_batch,
    )
    state = init_state(variables["params"], variables["stats"], tx)
    batch = {
        "video": jnp.asarray(video),
        "mask": jnp.ones(video.shape[:2], bool),
        "index": jnp.arange(case.num_clips, dtype=jnp.int32),
    }
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        if not float(metrics["finite"]):
            raise FloatingPointError(f"{case.name}: the loss is not finite")

    return run


def make_plain_flax_step(case: Case, video: np.ndarray) -> Callable[[], None]:
    """Returns `make_jax_step` on the whole batch with flax's own convolutions."""
    plain = {"DownConv": PlainDownConv, "UpConv": PlainUpConv}
    with mock.patch.multiple(sequential, **plain):
        return make_jax_step(case, case.num_clips, video)


def make_torch_step(case: Case, video: np.ndarray, device: str) -> Callable[[], None]:
    """Returns a function that makes one update of the twin and waits for it."""
    twin = make_twin(case).to(device)
    return _repeat_torch_step(twin, twin.loss, video, device)


def make_compiled_torch_step(case: Case, video: np.ndarray, device: str) -> Callable[[], None]:
    """Returns `make_torch_step` with the loss compiled by torch.compile."""
    twin = make_twin(case).to(device)
    return _repeat_torch_step(twin, torch.compile(twin.loss), video, device)


def _repeat_torch_step(twin, compute_loss, video: np.ndarray, device: str) -> Callable[[], None]:
    optimizer = torch_twin.make_adam(twin, LEARNING_RATE)
    video_BTHWC = torch.from_numpy(video).to(device)

    def run() -> None:
        torch_twin.train_step(compute_loss, optimizer, video_BTHWC).item()

    return run


def make_model(case: Case) -> SequentialVAE:
    """Returns the model with the settings that its twin has."""
    return SequentialVAE(
        shape_HWC=case.shape_HWC,
        widths=case.widths,
        hidden=case.hidden,
        latent_dim=case.latent_dim,
        clip_latent_dim=case.clip_latent_dim,
        prior="static",
    )


def make_twin(case: Case) -> torch_twin.TorchSequentialVAE:
    """Returns the model in PyTorch."""
    twin = torch_twin.TorchSequentialVAE(
        case.shape_HWC, case.widths, case.hidden, case.latent_dim, case.clip_latent_dim
    )
    return twin.to(memory_format=torch.channels_last)


def check_twins(case: Case, video: np.ndarray) -> dict[str, float]:
    """Asserts that both networks are the same; returns their size.

    Returns:
      num_parameters; forward_flops of one frame; spatial_share of them in image convolutions.
    """
    model, twin = make_model(case), make_twin(case)
    variables = sequential.init_variables(model, jax.random.key(1))
    twin.load_flax(variables["params"])
    clip = video[:1]

    with jax.default_matmul_precision("float32"):
        posterior = contract.encode(model, variables, clip)
        latents = Latents(posterior.frame.mean, posterior.clip.mean)
        ours = [*jax.tree.leaves(posterior), contract.decode(model, variables, latents)]
    with torch.no_grad():
        x = torch.from_numpy(clip).float() / 127.5 - 1.0
        with FlopCounterMode(display=False) as counter:
            frame, clip_posterior = twin.encode(x)
            theirs = [*frame, *clip_posterior, twin.decode(frame[0], clip_posterior[0])]
            twin.prior(clip_posterior[0])
    for a, b in zip(ours, theirs, strict=True):
        error = np.abs(np.asarray(a) - b.numpy()).max()
        assert error < OUTPUT_TOLERANCE, f"{case.name}: the outputs differ by {error:.1e}"

    num_parameters = sum(a.size for a in jax.tree.leaves(variables["params"]))
    assert num_parameters == sum(p.numel() for p in twin.parameters()), case.name

    spatial, total = count_flops(case, variables["params"])
    assert total == counter.get_total_flops(), (case.name, total, counter.get_total_flops())
    assert spatial / total >= SMALLEST_SPATIAL_SHARE, (case.name, spatial / total)
    return {
        "num_parameters": num_parameters,
        "forward_flops": total / case.num_frames,
        "spatial_share": spatial / total,
    }


def count_flops(case: Case, params) -> tuple[int, int]:
    """FLOPs of encoding and decoding a clip: (in image convolutions, all), multiply-adds as two.

    Every kernel is used once a frame, but: the image convolutions once a position of their smaller
    grid, the clip encoder's head and the prior once a clip.
    """
    spatial, dense = 0, 0
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] != "kernel":
            continue
        if array.ndim == 4:
            level = int(names[1].rpartition("_")[2])
            height, width = (size >> (level + 1) for size in case.shape_HWC[:2])
            spatial += 2 * array.size * height * width * case.num_frames
        else:
            once = names[0] == "static_prior" or names[:2] == ["clip_encoder", "head"]
            dense += 2 * array.size * (1 if once else case.num_frames)
    return spatial, spatial + dense


def run_case(case: Case, repeats: int, device: str) -> dict:
    """Checks and measures one case; prints its table and returns its figures."""
    shape = (case.num_clips, case.num_frames, *case.shape_HWC)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    size = check_twins(case, video)
    steps = {
        "PyTorch": make_torch_step(case, video, device),
        "torch.compile": make_compiled_torch_step(case, video, device),
    }
    for micro_batch in case.micro_batches:
        name = f"vvae, {micro_batch * case.num_frames} frames at a time"
        steps[name] = make_jax_step(case, micro_batch, video)
    steps["plain Flax"] = make_plain_flax_step(case, video)
    timings = measure(steps, repeats)

    num_frames = case.num_clips * case.num_frames
    # A backward pass costs two forward ones.
    gigaflops = 3e-9 * size["forward_flops"] * num_frames
    print(
        f"\n{case.name}, widths {case.widths}: {size['num_parameters']:,} parameters, "
        f"{size['forward_flops'] / 1e6:.1f} MFLOP a frame forward, "
        f"{size['spatial_share']:.0%} in image convolutions"
    )
    print(
        f"{'':32}{'ms/step':>10}{'CPU ms':>9}{'frames/s':>10}{'GFLOP/s':>9}   x PyTorch: clock, CPU"
    )
    peer = timings["PyTorch"]
    for name, timing in timings.items():
        print(
            f"{name:32}{timing.wall_s * 1e3:10.2f}{timing.cpu_s * 1e3:9.0f}"
            f"{num_frames / timing.wall_s:10.0f}{gigaflops / timing.wall_s:9.0f}"
            f"{peer.wall_s / timing.wall_s:19.2f}{peer.cpu_s / timing.cpu_s:6.2f}"
        )
    rows = {name: asdict(timing) for name, timing in timings.items()}
    return {"case": asdict(case), **size, "median_seconds": rows}


def main() -> None:
    """Reads the command line, measures every case, writes the JSON file."""
    args = read_options(__doc__.splitlines()[0])
    torch.set_num_threads(args.threads)
    # What XLA does on NVIDIA's accelerators unless it is told otherwise.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    results = [run_case(case, args.repeats, device) for case in CASES]
    if args.json:
        versions = {"jax": jax.__version__, "torch": torch.__version__}
        versions["device"] = jax.devices()[0].device_kind
        args.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2))


if __name__ == "__main__":
    main()
