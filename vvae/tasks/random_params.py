"""The network with random weights, as a control."""

import jax

from vvae.models.contract import init_variables
from vvae.models.sequential import SequentialVAE


def randomize_params(model: SequentialVAE, params, seed: int):
    """Returns variables of the same network with fresh weights and the same standardisation."""
    fresh = jax.jit(lambda key: init_variables(model, key))(jax.random.key(seed))
    return {**fresh, "stats": params["stats"]}
