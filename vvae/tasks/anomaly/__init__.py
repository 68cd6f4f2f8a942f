"""Anomaly detection: scores frames by how much they differ from the training videos."""
