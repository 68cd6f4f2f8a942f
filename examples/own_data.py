"""Own data: trains on any iterator of clips, here squares that a generator draws.

    python examples/own_data.py [STEPS]

The clips may come from anywhere: a simulator, a camera, a database. They are uint8 [T, H, W, C],
all of one shape, in random order.
"""

import itertools
import sys
from collections.abc import Iterator

import jax
import numpy as np

import vvae


def draw_clips(seed: int) -> Iterator[np.ndarray]:
    """Yields clips of a bright square that moves to the left or to the right, without end."""
    rng = np.random.default_rng(seed)
    while True:
        clip = rng.integers(0, 40, (8, 16, 16, 1), dtype=np.uint8)
        row, column, step = rng.integers(0, 12), rng.integers(0, 12), rng.choice((-1, 1))
        for t in range(8):
            left = (column + step * t) % 13
            clip[t, row : row + 4, left : left + 4] = 220
        yield clip


def main(num_steps: int = 300) -> float:
    """Trains, and returns the PSNR of new clips, dB."""
    vvae.prepare()
    model = vvae.SequentialVAE((16, 16, 1), widths=(8, 16), hidden=32, latent_dim=8)
    params = vvae.train(model, draw_clips(seed=0), num_steps=num_steps)
    x = np.stack(list(itertools.islice(draw_clips(seed=1), 32)))
    y = vvae.reconstruct(model, params, x)
    psnr = float(vvae.metrics.frame_psnr(x, np.clip((y + 1) * 127.5, 0, 255)).mean())
    bound = float(vvae.elbo(model, params, x, jax.random.key(0)).mean())
    print(f"after {num_steps} steps: PSNR {psnr:.1f} dB, ELBO {bound:.0f} nats per clip")
    return psnr


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
