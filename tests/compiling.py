"""How tests compile: hardly optimised, since their networks are tiny and run for moments."""


def xla_flags(num_devices: int = 1) -> str:
    """Returns XLA_FLAGS for so many devices of the CPU."""
    return (
        f"--xla_force_host_platform_device_count={num_devices} --xla_backend_optimization_level=0"
    )
