"""Compares an accelerator's ELBO and gradient with the CPU's, for the same network and clips.

    python -m benchmarks.agreement

Two models with fresh parameters and random clips; on the accelerator in float32 and in its default
precision (TF32 on NVIDIA's, bfloat16 products on TPUs). Needs an accelerator.
"""

import sys

from vvae import runtime

runtime.prepare_jax()

import jax
import numpy as np

import vvae
from vvae.models.causal import SIZES, CausalVideoVAE
from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE

CLIPS, FRAMES = 4, 8


def main() -> int:
    """Prints a line per model and precision; returns 1 without an accelerator."""
    accelerator = jax.devices()[0]
    if accelerator.platform == "cpu":
        print("jax has found no accelerator: there is nothing to compare")
        return 1
    models = {
        "SequentialVAE": SequentialVAE((32, 32, 1)),
        "CausalVideoVAE tiny": CausalVideoVAE((64, 64, 3), **SIZES["tiny"]),
    }
    for name, model in models.items():
        elbo, gradient = differentiate(model, jax.devices("cpu")[0], "float32")
        for precision in ("float32", None):
            other_elbo, other = differentiate(model, accelerator, precision)
            error = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
            print(
                f"{name}, {accelerator.device_kind}, {precision or 'default precision'}: ELBO "
                f"{abs(other_elbo / elbo - 1):.1e} from the CPU's, gradient {error:.1e}"
            )
    return 0


def differentiate(model, device, precision: str | None) -> tuple[float, np.ndarray]:
    """Returns the ELBO (nats per clip, mean over the batch) and its gradient, flattened."""
    shape = (CLIPS, FRAMES, *model.shape_HWC)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with jax.default_device(device), jax.default_matmul_precision(precision or "default"):
        variables = jax.jit(lambda key: init_variables(model, key))(jax.random.key(0))

        @jax.jit
        @jax.value_and_grad
        def compute(params):
            elbo_B = vvae.elbo(model, {**variables, "params": params}, video, jax.random.key(1))
            return elbo_B.mean()

        elbo, gradient = compute(variables["params"])
    return float(elbo), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


if __name__ == "__main__":
    sys.exit(main())
