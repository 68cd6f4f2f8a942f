"""The commands: train, evaluate, and `vvae`, which starts either."""
