"""Writes tests/golden: folders of tiny published models, and what diffusers computes from a video.

    python tests/write_golden.py [NAME ...]

Needs the extra `parity`. The same versions write the same numbers, up to rounding.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np
from published import FULL, GOLDEN, GOLDEN_FOLDER, VIDEOS, make_model, make_video, run_reference


def main():
    """Writes the golden folders that are named, or all of them."""
    for name in sys.argv[1:] or GOLDEN:
        model = make_model(name)
        folder = GOLDEN_FOLDER / name
        if name not in FULL:
            for parameter in model.parameters():
                parameter.copy_(parameter.half())
        x = make_video(*VIDEOS.get(name, (9,)))
        found = run_reference(model, x)
        (model if name in FULL else model.half()).save_pretrained(folder)
        np.savez_compressed(folder / "golden.npz", x=x, **found)
        print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
