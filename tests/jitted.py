"""What models compute, under jit: without it, each operation is compiled by itself, in seconds."""

import jax

from vvae.models import contract, sequential

init_variables = jax.jit(contract.init_variables, static_argnums=0)
encode = jax.jit(contract.encode, static_argnums=0)
decode = jax.jit(contract.decode, static_argnums=(0, 3))
reconstruct = jax.jit(contract.reconstruct, static_argnums=0)
terms = jax.jit(contract.terms, static_argnums=(0, 5))
sample = jax.jit(contract.sample, static_argnums=(0, 3, 4))
level_kl = jax.jit(sequential.level_kl, static_argnums=0)
_apply = jax.jit(
    lambda model, method, variables, *arguments: model.apply(variables, *arguments, method=method),
    static_argnums=(0, 1),
)


def apply(model, variables, *arguments, method):
    """Returns what a method of a model computes from arrays."""
    return _apply(model, method, variables, *arguments)
