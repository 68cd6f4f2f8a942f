"""How far the results of the device are from those of the CPU, in float32 and bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import steps
from benchmarks.train_step import make_batch
from vvae.models import contract
from vvae.objectives.elbo import negative_elbo

CASES = ("causal-small", "sequential-64x64x3")
_NUM_CLIPS = 2


def measure(*, tiny: bool) -> list[dict]:
    """Compares the reconstruction, the loss and its gradient with float32 on the CPU.

    Returns:
      Rows with video_rms (of differences in [-1, 1] units), loss_relative, gradient_relative.
    """
    rows = []
    for name in CASES:
        exact = _compute(name, jax.devices("cpu")[0], "float32", tiny=tiny)
        for precision in steps.PRECISIONS:
            found = _compute(name, jax.devices()[0], precision, tiny=tiny)
            rows.append({"name": f"{name}, {precision}", **_compare(found, exact)})
    return rows


def _compute(name: str, device: jax.Device, precision: str, *, tiny: bool):
    case = steps.find_case(name, tiny=tiny)
    video, variables = steps.draw(case)
    if precision == "bfloat16":
        case = steps.in_bfloat16(case)
    model, beta = case.make_model(), case.config.objective.beta
    batch = jax.device_put(make_batch(video[:_NUM_CLIPS]), device)
    variables = jax.device_put(variables, device)

    def loss(learned, variables):
        variables = variables | {"params": learned}
        # Noise on the device: a key gives the same numbers everywhere.
        return negative_elbo(model, variables, batch, jax.random.key(0), beta)[0]

    with jax.default_matmul_precision(steps.MATMUL[precision]):
        frames = jax.jit(functools.partial(contract.reconstruct, model))(
            variables, batch["video"], batch["mask"]
        )
        value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"], variables)
    flat = np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(gradient)])
    return np.asarray(frames.astype(jnp.float32), np.float64), float(value), flat


def _compare(found, exact) -> dict[str, float]:
    frames, value, gradient = (a - b for a, b in zip(found, exact))
    return {
        "video_rms": float(np.sqrt(np.mean(frames**2))),
        "loss_relative": abs(value / exact[1]),
        "gradient_relative": float(np.linalg.norm(gradient) / np.linalg.norm(exact[2])),
    }
