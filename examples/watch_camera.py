"""Live: scores the frames of a camera, or of a video file as if it were one.

    python examples/watch_camera.py RUN SOURCE

RUN is a run directory whose task `anomaly` was run. SOURCE is whatever imageio reads: a file, or
<video0> for the first camera (its plugin needs `pip install 'imageio[ffmpeg]'`).
"""

import sys

import imageio.v3 as iio

import vvae


def main(workdir: str, source: str) -> int:
    """Prints every alarm; returns the number of frames."""
    vvae.prepare()
    run, count = vvae.load_run(workdir), 0
    plugin = "FFMPEG" if source.startswith("<") else "pyav"
    for score in vvae.watch(run, iio.imiter(source, plugin=plugin)):
        count = score.frame + 1
        if score.alarm:
            print(f"frame {score.frame}: alarm, {score.raw:.2f} (smoothed {score.score:.2f})")
    return count


if __name__ == "__main__":
    main(*sys.argv[1:])
