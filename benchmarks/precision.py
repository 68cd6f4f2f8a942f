"""Measures how much bfloat16 changes: one trained model with float32 and bfloat16 activations.

    python -m benchmarks.precision --workdir RUN [--clips 32]

Runs the parameters of a run on the same clips with the same noise in both precisions; parameters,
posteriors, norms and sums are float32 in both. Prints a table in Markdown: values in float32, and
the difference of those in bfloat16.
"""

import argparse
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae import build
from vvae.measure.examples import spread_evenly
from vvae.measure.levels import measure_batch
from vvae.models import contract
from vvae.objectives.elbo import negative_elbo
from vvae.run import open_run


def main() -> None:
    """Measures both, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args()
    run = open_run(options.workdir)
    model, params = build.load(options.workdir)
    clips = build.open_data(run.config, run.record["data"]["path"]).splits["val"]
    clips = clips.select(spread_evenly(np.arange(len(clips)), options.clips))
    batch = {
        "video": clips.read(np.arange(len(clips))),
        "mask": clips.mask_NT,
        "index": np.arange(len(clips), dtype=np.int32),
    }
    exact, rounded = (
        measure(model.clone(dtype=dtype), params, batch) for dtype in (jnp.float32, jnp.bfloat16)
    )
    print(f"{type(model).__name__}, {len(clips)} clips\n")
    print("| value | float32 | bfloat16 differs by |\n|---|---|---|")
    for name, value, change in compare(exact, rounded):
        print(f"| {name} | {value} | {change} |")


def measure(model, params, batch: dict) -> dict:
    """Returns the results of one precision: scores by clip, posterior means, frames, gradient."""
    key = jax.random.key(0)
    scores = jax.jit(functools.partial(measure_batch, model, key))(params, batch)
    frames = jax.jit(functools.partial(contract.reconstruct, model))(
        params, batch["video"], batch["mask"]
    )

    def loss(learned):
        variables = {**params, "params": learned}
        return negative_elbo(model, variables, batch, key)[0]

    gradient = jax.jit(jax.grad(loss))(params["params"])
    return jax.tree.map(
        lambda a: np.asarray(a, np.float64),
        {
            "elbo": scores["elbo"],
            "kl": scores["kl"],
            "means": {name: level.mean for name, level in scores["posterior"].items()},
            "deviations": {
                name: jnp.exp(0.5 * level.logvar) for name, level in scores["posterior"].items()
            },
            "codes": contract.to_codes(np.asarray(frames)),
            "gradient": gradient,
        },
    )


def compare(exact: dict, rounded: dict) -> list[tuple[str, str, str]]:
    """Returns (what, its value in float32, the difference in bfloat16)."""
    rows = [_compare_means("ELBO, nats/clip", exact["elbo"], rounded["elbo"])]
    for level, kl_B in exact["kl"].items():
        rows.append(_compare_means(f"KL of {level}, nats/clip", kl_B, rounded["kl"][level]))
    for level, mean in exact["means"].items():
        apart = np.abs(rounded["means"][level] - mean) / exact["deviations"][level]
        what = f"posterior means of {level}, in posterior standard deviations"
        rows.append(
            (what, "", f"{math.sqrt(np.mean(apart**2)):.2g} (RMS), {apart.max():.2g} (most)")
        )
    error = rounded["codes"] - exact["codes"]
    what = "reconstructed frames, of 255"
    rows.append(
        (what, "", f"{math.sqrt(np.mean(error**2)):.2g} (RMS), {np.abs(error).max():.2g} (most)")
    )
    norm = float(optax.tree.norm(exact["gradient"]))
    away = float(optax.tree.norm(optax.tree.sub(rounded["gradient"], exact["gradient"])))
    rows.append(("gradient, norm", f"{norm:.4g}", f"{away / norm:.2%}"))
    return rows


def _compare_means(name: str, exact_B: np.ndarray, rounded_B: np.ndarray) -> tuple[str, str, str]:
    apart_B = np.abs(rounded_B - exact_B)
    change = (
        f"{rounded_B.mean() - exact_B.mean():+.3g} (mean), {apart_B.max():.2g} (most of a clip)"
    )
    return name, f"{exact_B.mean():.1f}", change


if __name__ == "__main__":
    main()
