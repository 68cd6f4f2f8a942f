"""metrics.jsonl, TensorBoard and the progress bar of a training."""

import json
import math
import time
from pathlib import Path

from tqdm import tqdm

from vvae.extras import require_extra
from vvae.files import write_text


class MetricsLog:
    """Appends lines to metrics.jsonl, and to TensorBoard if a writer is given."""

    def __init__(self, path, tensorboard=None):
        """Appends to `path`; `tensorboard` has a method add_scalar(name, value, step)."""
        self._path = Path(path)
        self._tensorboard = tensorboard

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Writes one line; values that are not finite are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, "kind": kind} | finite) + "\n")
        except OSError as error:
            # The error of a write, unlike that of an open, does not name the file.
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def cut_after(self, step: int) -> None:
        """Drops the lines of steps after `step`, which a continued run writes again."""
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= step]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(path) -> list[dict]:
    """Reads metrics.jsonl; ignores a last line that was cut off when the process ended."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def open_tensorboard(folder):
    """Returns a TensorBoard writer.

    Raises:
      ValueError: if the extra is not installed.
    """
    tensorboard = require_extra("tensorboardX", "tensorboard", "train.tensorboard=True")
    return tensorboard.SummaryWriter(str(folder))


class Progress:
    """A progress bar: steps, elapsed and remaining time, metrics of the last step, speed.

    A line of ordinary numbers fits 80 columns. The bar takes what is left of a wider terminal; in a
    narrower one, the end of the line is cut off, where the least important numbers are.
    """

    def __init__(self, first_step: int, num_steps: int, disable: bool, file=None):
        """Starts at first_step of num_steps; prints nothing with `disable`, else to stderr."""
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            disable=disable,
            file=file,
            dynamic_ncols=True,
            mininterval=0.5,
            bar_format="{desc}|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}",
            desc="compiling ",
        )
        self._start, self._steps, self._waited = None, 0, 0.0

    def advance(self, values: str, speed: str) -> None:
        """Counts one step. The first one includes compilation, so it only starts the clock.

        Args:
          values: the metrics of the step, in words.
          speed: of the previous steps, in words.
        """
        if self._start is None:
            self._start = time.perf_counter()
            self._bar.set_description_str("", refresh=False)
        else:
            self._steps += 1
        self._bar.set_postfix_str(f"{values}, {speed}", refresh=False)
        self._bar.update()

    def exclude(self, seconds: float) -> None:
        """Excludes time that was not spent on steps, such as a validation, from the rate."""
        if self._start is not None:
            self._start += seconds

    def add_wait(self, seconds: float) -> None:
        """Adds time in which no step ran because the next batch was not ready."""
        if self._start is not None:
            self._waited += seconds

    @property
    def steps_per_second(self) -> float:
        """Rate since the end of the first step; 0 before."""
        return self._steps / self._elapsed if self._steps else 0.0

    @property
    def waiting_share(self) -> float:
        """Fraction of that time in which no step ran because no batch was ready."""
        return self._waited / self._elapsed if self._steps else 0.0

    @property
    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._start, 1e-9)

    def write(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()
