"""Writes tests/golden: folders of tiny published models, and what diffusers computes from a video.

    python tests/write_golden.py

Needs the extra `parity`. The same versions write the same numbers, up to rounding.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np
from published import GOLDEN, GOLDEN_FOLDER, make_model, make_video, run_reference


def main():
    """Writes every golden folder."""
    for name in GOLDEN:
        model = make_model(name)
        folder = GOLDEN_FOLDER / name
        model.save_pretrained(folder)
        x = make_video(9)
        np.savez_compressed(folder / "golden.npz", x=x, **run_reference(model, x))
        print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
