"""Programs that measure vvae beside a peer, in one run, and print ratios."""
