"""Encodes a folder with the tiny model: `python latents_worker.py VIDEOS STORE [ID COUNT PORT]`.

With ID, COUNT and PORT it is one of several processes. It prints the summary, and the peak of its
resident memory in kB after each hundredth of the work.
"""

import resource
import sys

import jax
from tiny_latents import tiny

from vvae import processes
from vvae.latents.encode import Work, encode_collection

videos, store, *group = sys.argv[1:]
if group:
    number, count, port = map(int, group)
    processes.connect(processes.Group(f"127.0.0.1:{port}", count, number, timeout=10))
model, params = tiny()
summary = encode_collection(
    model, params, videos, store, work=Work(readers=1, shard_bytes=20_000), say=print
)
print("\n".join(summary.lines()))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
if group:
    jax.distributed.shutdown()
