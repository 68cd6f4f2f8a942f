"""Metrics: numbers, with cards that state exactly what was computed."""
