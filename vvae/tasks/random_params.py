"""The same network with random weights: a baseline for what training adds."""

import jax

from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE


def randomize_params(model: SequentialVAE, params, seed: int):
    """Returns variables with fresh weights and the standardisation of `params`."""
    fresh = init_variables(model, jax.random.key(seed))
    return {**fresh, "stats": params["stats"]}
