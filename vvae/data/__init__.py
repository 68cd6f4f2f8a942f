"""Turns folders of videos into NumPy batches. Nothing in this package imports jax."""
