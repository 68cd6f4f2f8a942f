"""Encodes a folder with the tiny model: `python latents_worker.py VIDEOS STORE [OPTIONS]`.

    --kill N                  SIGKILL at the N-th opening or renaming of a file of the store
    --group ID COUNT PORT     one of several processes
    --videos N                VIDEOS is made first: N one-frame videos of 8x8

It prints the summary, and resident memory in kB as the work goes on.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from tiny_latents import tiny

from vvae import processes
from vvae.latents import encode, progress

parser = argparse.ArgumentParser()
parser.add_argument("videos")
parser.add_argument("store")
parser.add_argument("--kill", type=int)
parser.add_argument("--group", type=int, nargs=3)
parser.add_argument("--videos", type=int, dest="count")
options = parser.parse_args()


def kill_at(number):
    seen = 0

    def look(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename") and str(arguments[0]).startswith(options.store):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def say(line):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(f"memory {pages * os.sysconf('SC_PAGE_SIZE') // 1024} {line}", flush=True)


if options.count:
    frame = np.zeros((1, 8, 8, 3), np.uint8)
    Path(options.videos).mkdir(exist_ok=True)
    for number in range(options.count):
        frame[0, 0, 0] = number // 65536, number // 256 % 256, number % 256
        np.save(Path(options.videos) / f"{number:06}.npy", frame)
if options.kill:
    kill_at(options.kill)
if options.group:
    number, count, port = options.group
    processes.connect(processes.Group(f"127.0.0.1:{port}", count, number, timeout=10))
progress.SECONDS = 1.0
model, params = tiny()
work = encode.Work(latents_per_piece=2, readers=2, shard_bytes=20_000)
summary = encode.encode_collection(model, params, options.videos, options.store, work=work, say=say)
print("\n".join(summary.lines()), flush=True)
if options.group:
    jax.distributed.shutdown()
