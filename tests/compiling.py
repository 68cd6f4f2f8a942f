"""How tests compile: as fast as possible, because their networks are tiny and run for moments."""

import importlib.metadata


def xla_flags(num_devices: int = 1) -> str:
    """Returns the XLA_FLAGS for this number of CPU devices."""
    flags = [
        f"--xla_force_host_platform_device_count={num_devices}",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    # The older emitters compile several times faster. jaxlib 0.11 begins to remove them.
    major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
    if (int(major), int(minor)) < (0, 11):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
