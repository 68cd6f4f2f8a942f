"""Collections: more videos than are listed or decoded beforehand.

Tars and lists are indexed once (`index`), read by position (`permutation`, `clips`) and decoded as
they are needed. `sources` is one video of them; `vvae latents` reads the same index.
"""
