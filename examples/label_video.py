"""From files to answers: labels videos, and judges how abnormal they are.

    python examples/label_video.py RUN VIDEO [VIDEO ...]

RUN is a run directory of train.py whose tasks `classify` or `anomaly` were run.
"""

import sys

import vvae


def main(workdir: str, *paths: str) -> None:
    """Prints what a run says about videos."""
    vvae.prepare()
    run = vvae.load_run(workdir)
    for path in paths:
        if "classify" in run.config.evaluate.tasks:
            label = run.label(path)
            print(f"{path}: {label.name} ({label.score:.2f})")
        if "anomaly" in run.config.evaluate.tasks:
            found = run.score(path)
            verdict = "abnormal" if found.is_abnormal else "normal"
            print(f"{path}: {verdict}, peak {found.peak:.2f} of {found.video_threshold:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
