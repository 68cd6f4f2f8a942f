"""Many convolutions by oneDNN at once, on every device; see test_convolutions_onednn.py.

A convolution waits for tasks in the thread pool that other convolutions run in: this would not end
if they could all wait for each other.
"""

import jax
import numpy as np
from jax import numpy as jnp

from vvae.models import convolutions_onednn

BRANCHES, DEPTH, ROUNDS = 8, 3, 20


def convolve_branches(x, kernels):
    """Sums independent chains of convolutions."""

    def run(kernel):
        y = x
        for _ in range(DEPTH):
            y = convolutions_onednn.convolve(jnp.sin(y), kernel, (1, 1), ((1, 1), (1, 1)))
        return y

    return sum(run(kernel) for kernel in kernels)


def main() -> None:
    """Runs on all devices, time after time, and prints how many there are."""
    rng, devices = np.random.default_rng(0), jax.devices()
    kernels = jnp.asarray(rng.standard_normal((BRANCHES, 3, 3, 16, 16), np.float32)) / 12
    x = jnp.asarray(rng.standard_normal((len(devices), 4, 24, 24, 16), np.float32))
    run = jax.pmap(convolve_branches, in_axes=(0, None))
    assert "__onednn$convolution" in run.lower(x, kernels).as_text()
    # Without waiting in between, so that programs are under way on all devices.
    results = [run(x, kernels) for _ in range(ROUNDS)]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    print("devices", len(devices))


if __name__ == "__main__":
    main()
