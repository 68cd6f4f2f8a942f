"""Training steps in float32, TF32 and bfloat16, of vvae and of its twin in PyTorch."""

import contextlib
import dataclasses
from functools import partial

import jax
import numpy as np
import torch

from benchmarks import torch_twin
from benchmarks.accelerator import device
from benchmarks.step_cases import CASES, Case, CausalCase
from benchmarks.train_step import LEARNING_RATE, compile_jax_step, make_loaded, run_compiled
from benchmarks.variables import draw_variables
from vvae.config import Config
from vvae.models import contract

PRECISIONS = ("float32", "tf32", "bfloat16")
MATMUL = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "default"}


def measure_vvae(name: str, *, tiny: bool) -> list[dict]:
    """Measures vvae's own training step on whole batches; see `measure_torch`."""
    rows = []
    for precision in PRECISIONS:
        case = find_case(name, tiny=tiny)
        video, variables = draw(case)
        if precision == "bfloat16":
            case = in_bfloat16(case)
        with jax.default_matmul_precision(MATMUL[precision]):
            compiled, state, batch = compile_jax_step(case, variables, len(video), video)
        seconds = device.time_call(run_compiled(case.name, compiled, state, batch))
        memory = device.program_mb(compiled)
        rows.append(_describe(f"vvae, {precision}", case, variables, seconds, memory, precision))
    return rows


def measure_torch(name: str, *, tiny: bool) -> list[dict]:
    """Measures the twin's step, eager and compiled, in the faster of its memory layouts.

    bfloat16 is PyTorch's autocast; both libraries keep parameters and Adam in float32.

    Returns:
      Rows with seconds, frames_per_second, memory_mb, tflops and share_of_peak.
    """
    rows = []
    for precision in PRECISIONS:
        tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        case = find_case(name, tiny=tiny)
        video, variables = draw(case)
        for layout, make_twin in case.twin_makers().items():
            for compiled in (False, True):
                torch._dynamo.reset()
                seconds, memory = _time_torch(make_twin, variables, video, precision, compiled)
                label = f"{layout}{', compiled' if compiled else ''}, {precision}"
                rows.append(_describe(label, case, variables, seconds, memory, precision))
    return rows


def _time_torch(make_twin, variables, video, precision: str, compiled: bool) -> tuple[float, float]:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    device.reset_torch_peak()
    twin = make_loaded(make_twin, variables).to(where)
    video_BTHWC = torch.from_numpy(video).to(where)
    optimizer = torch_twin.make_adam(twin, LEARNING_RATE)
    cast = torch.autocast(where, torch.bfloat16) if precision == "bfloat16" else None

    def loss(batch):
        with cast or contextlib.nullcontext():
            return twin.loss(batch)

    loss = torch.compile(loss) if compiled else loss

    def run() -> None:
        torch_twin.train_step(loss, optimizer, video_BTHWC).item()

    seconds = device.time_call(run)
    return seconds, device.torch_peak_mb()


def _describe(label: str, case: Case, variables, seconds: float, memory: float, precision: str):
    _, flops = case.count_flops(variables)
    total = 3.0 * flops * case.video_shape[0]  # a backward pass costs two forward passes
    return {
        "name": label,
        "seconds": seconds,
        "frames_per_second": case.num_frames / seconds,
        "memory_mb": memory,
        **device.share_of_peak(total, seconds, precision),
    }


def draw(case: Case) -> tuple[np.ndarray, dict]:
    """Returns a video batch, and variables of the model."""
    video = np.random.default_rng(0).integers(0, 256, case.video_shape, np.uint8)
    return video, draw_variables(partial(contract.init_variables, case.make_model()))


def in_bfloat16(case: Case) -> Case:
    """Returns the case with activations in bfloat16."""
    config = case.config
    section = "causal" if isinstance(case, CausalCase) else "model"
    settings = dataclasses.replace(getattr(config, section), dtype="bfloat16")
    return dataclasses.replace(case, config=dataclasses.replace(config, **{section: settings}))


def find_case(name: str, *, tiny: bool) -> Case:
    """Returns the case of a name; causal-base and causal-large are made here."""
    small = {case.name: case for case in CASES}
    sizes = {"causal-base": (128, 256, 4, 16), "causal-large": (256, 512, 8, 16)}
    if name not in sizes:
        return _shrink(small[name]) if tiny else small[name]
    case = _enlarge(small["causal-small"], name, *sizes[name])
    return _shrink(case) if tiny else case


def _enlarge(case: CausalCase, name: str, side: int, width: int, depth: int, batch: int) -> Case:
    """Returns `causal-small` with larger frames and networks."""
    config = case.config
    config = _change(
        config,
        data={"height": side, "width": side},
        causal={"widths": (width,), "blocks": (depth, depth)},
        train={"batch_size": batch},
    )
    return CausalCase(name, config, (batch,))


def _shrink(case: Case) -> Case:
    """Returns the case with a batch of two and small networks."""
    changes = {"data": {"height": 16, "width": 16}, "train": {"batch_size": 2}}
    if isinstance(case, CausalCase):
        changes["causal"] = {"widths": (8,), "blocks": (1, 1), "components": 8, "channels": 4}
    else:
        changes["model"] = {"widths": (8, 8), "hidden": 16}
    return dataclasses.replace(case, config=_change(case.config, **changes))


def _change(config: Config, **sections: dict) -> Config:
    changed = {
        name: dataclasses.replace(getattr(config, name), **settings)
        for name, settings in sections.items()
    }
    return dataclasses.replace(config, **changed)
