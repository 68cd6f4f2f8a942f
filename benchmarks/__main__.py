"""Runs the programs that measure speed, one after another: python -m benchmarks

Each has its own `--help`. Those that read data or train for long (scoreboard, gestures, planted,
soak, performers_difficulty) are run separately.
"""

import subprocess
import sys

PROGRAMS = ("train_step", "causal_block", "convolutions", "decoding", "cached_epochs", "reading")
PROGRAMS += ("collections",)


def main() -> int:
    """Returns how many of them failed."""
    failed = []
    for name in PROGRAMS:
        print(f"\n== python -m benchmarks.{name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
