"""What is known of a device: its peak rates and how much memory a program used."""

import time
from collections.abc import Callable
from statistics import median

import jax

from benchmarks.timing import read_peak_mb

# Dense TFLOP/s of float32 (without tensor cores), TF32 and bfloat16. References: the data sheets of
# NVIDIA H200 (2024), H100 (2023) and A100 (2021).
PEAKS = {
    "H200": {"float32": 67.0, "tf32": 495.0, "bfloat16": 989.0},
    "H100": {"float32": 67.0, "tf32": 495.0, "bfloat16": 989.0},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
}
REPEATS = 7


def share_of_peak(flops: float, seconds: float, precision: str) -> dict[str, float]:
    """Returns TFLOP/s, and their share of the device's peak where that is known."""
    rate = flops / seconds / 1e12
    kind = jax.devices()[0].device_kind
    peak = next((rates[precision] for name, rates in PEAKS.items() if name in kind), None)
    return {"tflops": rate} | ({} if peak is None else {"share_of_peak": rate / peak})


def time_call(call: Callable[[], None], repeats: int = REPEATS) -> float:
    """Returns the median seconds of a call that waits for its result; the first one is not counted.

    Args:
      call: nothing -> nothing, returns when the device is done.
      repeats: number of counted calls.
    """
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def jax_peak_mb() -> float:
    """Returns the largest memory of this process on jax's device so far, in MB."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return read_peak_mb() if peak is None else peak / 1e6


def torch_peak_mb() -> float:
    """Returns the largest memory since `reset_torch_peak` on PyTorch's device, in MB."""
    import torch

    if not torch.cuda.is_available():
        return read_peak_mb()
    return torch.cuda.max_memory_allocated() / 1e6


def reset_torch_peak() -> None:
    """Starts the measurement of `torch_peak_mb` anew, where PyTorch has an accelerator."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def program_mb(compiled) -> float:
    """Returns the memory that a compiled program of jax needs: arguments, results, temporaries."""
    sizes = compiled.memory_analysis()
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return (needed - sizes.alias_size_in_bytes) / 1e6
