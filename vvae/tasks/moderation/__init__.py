"""Moderation: finds videos that resemble a few marked ones."""
