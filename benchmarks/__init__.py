"""Programs that measure vvae against a peer in the same run, and print ratios."""
