"""Folders of videos -> NumPy batches. Nothing in here imports jax."""
