"""Video VAEs in JAX."""
