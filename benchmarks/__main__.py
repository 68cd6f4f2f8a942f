"""Runs the programs that measure speed, one after the other: python -m benchmarks

Each has its own `--help`. What reads data or trains for long (scoreboard, gestures, planted, soak,
performers_difficulty) is run by itself.
"""

import subprocess
import sys

PROGRAMS = ("train_step", "causal_block", "convolutions", "decoding", "cached_epochs", "reading")


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
