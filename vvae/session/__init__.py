"""A training, part by part."""
