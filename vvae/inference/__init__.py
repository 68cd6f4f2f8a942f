"""Trained networks on long and large videos: in chunks, in tiles, on several devices, as codes."""
