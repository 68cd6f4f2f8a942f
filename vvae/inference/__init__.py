"""Trained networks on long and large videos: in pieces, in tiles, over devices, as codes."""
