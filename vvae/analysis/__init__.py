"""Latents -> answers."""
