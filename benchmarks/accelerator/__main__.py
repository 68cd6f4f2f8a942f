"""Measures one accelerator: training steps, published decoders, feeding, agreement with the CPU.

    pip install '.[bench,parity]'
    python -m benchmarks.accelerator [--json FILE] [--seconds 480] [--only WORD ...] [--tiny]

Pieces (`benchmarks.accelerator.pieces`), each in a process of its own, the most telling first:
    step CASE vvae | torch          training steps in float32, TF32 and bfloat16: frames/s, share
                                    of the peak, memory; PyTorch eager and compiled
    wan SIZE vvae | diffusers       a Wan 2.1 of full size with random weights, bfloat16: seconds
                                    and peak memory to encode and decode, whole and in pieces
    feeding                         frames/s that the loader puts on the device
    agreement                       the device's results beside the CPU's, in float32

Each finished piece is written to FILE. The same command goes on where it was stopped, or where its
time ran out; a piece that failed is tried again. --tiny measures small models in seconds: on a CPU
it shows that the program works, not how fast anything is.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.accelerator.pieces import PIECES, run_piece
from benchmarks.origin import RESULTS, describe_command, stamp, write_result

ROOT = Path(__file__).resolve().parents[2]
# Less time than this is not enough for a piece.
SHORTEST = 10.0
LONGEST = 150.0  # of a piece


def main() -> int:
    """Measures what is missing. Returns 1 if a piece failed or was not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "accelerator.json")
    parser.add_argument("--seconds", type=float, default=480.0, help="time for all of it")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="of their names")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.piece:
        print(json.dumps(run_piece(options.piece, tiny=options.tiny)))
        return 0
    wanted = [name for name in PIECES if any(word in name for word in options.only)]
    if not wanted:
        parser.error(f"no piece is named like {options.only}; there are: {', '.join(PIECES)}")
    content = _open(options.json, tiny=options.tiny)
    end = time.monotonic() + options.seconds
    for name in wanted:
        if "rows" in content["pieces"].get(name, {}):
            continue
        left = end - time.monotonic()
        if left < SHORTEST:
            break
        longest = left if options.tiny else min(left, LONGEST)
        content["pieces"][name] = _measure(name, tiny=options.tiny, seconds=longest)
        write_result(options.json, content)
    _print_table(content["pieces"])
    missing = [name for name in wanted if "rows" not in content["pieces"].get(name, {})]
    if missing:
        print(f"not measured: {', '.join(missing)}; the same command goes on with them")
    print(json.dumps(content))
    return int(bool(missing))


def _open(path: Path, *, tiny: bool) -> dict:
    """Returns the results of the file, or new ones where it has none.

    Raises:
      SystemExit: if the file holds results of another commit, machine or size.
    """
    new = stamp({"tiny": tiny, "pieces": {}}, describe_command())
    if not path.exists():
        return new
    old = json.loads(path.read_text())
    for key in ("origin", "tiny"):
        if old[key] != new[key]:
            raise SystemExit(
                f"{path} holds results of another {key}:\n  {old[key]}\n  not {new[key]}\n"
                "give another --json, or remove it"
            )
    return old


def _measure(name: str, *, tiny: bool, seconds: float) -> dict:
    """Runs a piece in a process of its own; returns its rows, or what went wrong."""
    words = ["--tiny"] if tiny else []
    command = [sys.executable, "-m", "benchmarks.accelerator", "--piece", name, *words]
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    rows = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": time.monotonic() - start, "rows": rows}


def _print_table(pieces: dict[str, dict]) -> None:
    for name, piece in pieces.items():
        print(f"\n{name}")
        for row in piece.get("rows", ()):
            print(f"  {row['name']:44}" + _describe(row))
        if "error" in piece:
            print(f"  failed: {piece['error']}")


def _describe(row: dict) -> str:
    values = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
    return "  ".join(values)


if __name__ == "__main__":
    sys.exit(main())
