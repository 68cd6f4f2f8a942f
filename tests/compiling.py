"""How tests compile: as fast as possible, because their networks are tiny and run for moments."""

from vvae.runtime import list_compile_flags


def xla_flags(num_devices: int = 1) -> str:
    """Returns the XLA_FLAGS for this number of CPU devices."""
    flags = [
        f"--xla_force_host_platform_device_count={num_devices}",
        "--xla_cpu_parallel_codegen_split_count=1",
        *list_compile_flags(optimization_level=0),
    ]
    return " ".join(flags)
