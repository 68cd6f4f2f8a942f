"""What watches the training: signals, memory, profile, log."""

import contextlib
import math
import signal
import time

import jax
import numpy as np

from vvae import processes
from vvae.config import Config
from vvae.data.clips import Clips
from vvae.run import Run
from vvae.training import estimate
from vvae.training.cost import StepCost
from vvae.training.finite import FiniteGuard
from vvae.training.log import MetricsLog, Progress, open_tensorboard
from vvae.training.profile import StepProfile


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request to save and stop; a second one of either
    ends the process at once, even in the middle of a save."""

    def __init__(self):
        """Nothing is requested yet."""
        self._received = None

    def __enter__(self) -> "Interrupts":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *exception) -> None:
        if not self.requested:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether to save and stop."""
        return self._received is not None

    @property
    def by_hand(self) -> bool:
        """Whether that was Ctrl-C, and not SIGTERM, by which schedulers take a machine back."""
        return self._received == signal.SIGINT

    def _request(self, number: int, _) -> None:
        self._received = number
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)


@contextlib.contextmanager
def explain_memory(config: Config, num_micro_batches: int):
    """Says of an error for want of memory inside which settings to change.

    Raises:
      MemoryError: in the place of the runtime's error, with its message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = f"data.height={config.data.height}, data.width={config.data.width}"
        raise MemoryError(
            f"the memory does not suffice for a training step: lower {size} or "
            f"train.batch_size={config.train.batch_size}, or split a batch into more micro-batches "
            f"than {num_micro_batches} with train.accumulate. The runtime says: {error}"
        ) from error


def make_profile(run: Run, first_step: int) -> StepProfile:
    """Returns what traces the steps of train.profile, of which a continued run may be past."""
    steps = run.config.train.profiled_steps()
    if steps is not None and steps[1] <= first_step:
        print(f"train.profile={run.config.train.profile}: these steps are done, nothing is traced")
    return StepProfile(steps if processes.is_first() else None, run.workdir / "profile")


class Report:
    """Progress bar and metrics.jsonl; skips steps that are not finite, or stops the run at one."""

    def __init__(self, run: Run, clips: Clips, runner, schedule, first_step: int):
        """Opens the log, from which the lines after first_step are cut.

        `clips` are the training clips, to be named where the loss is not finite.
        """
        config = run.config
        self._log = None
        if processes.is_first():
            tensorboard = (
                open_tensorboard(run.workdir / "tensorboard") if config.train.tensorboard else None
            )
            self._log = MetricsLog(run.metrics, tensorboard)
            self._log.cut_after(first_step)
        self._progress = Progress(first_step, run.num_steps, disable=not processes.is_first())
        self._frames_per_step = config.train.batch_size * config.data.num_frames
        self._runner, self._schedule = runner, schedule
        self._log_every = config.train.log_every
        self._pending = None
        self._clips, self._guard = clips, FiniteGuard(config.train.skip_nonfinite)
        self._flops_per_step, self._peak = 0, math.inf

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception) -> None:
        self._progress.close()

    def describe_step(self, cost: StepCost) -> None:
        """Says what the compiled step takes, and measures the speed by it from here on."""
        self._flops_per_step, self._peak = cost.flops, estimate.find_peak()
        self.say(
            f"compiled: {cost.bytes / 1e6:.0f} MB a device for the step, "
            f"{cost.flops / 1e9:.3g} GFLOP in it"
        )

    def next_batch(self, batches, metrics):
        """Returns the next batch, and counts the time as waiting if no step ran at its end.

        That is the most that the devices can have waited: they may have been busy at first.

        Args:
          batches: iterator of batches.
          metrics: of the step that may still run; they are looked at, not waited for.
        """
        started = time.perf_counter()
        batch = next(batches)
        seconds = time.perf_counter() - started
        if all(value.is_ready() for value in jax.tree.leaves(metrics)):
            self._progress.add_wait(seconds)
        return batch

    def step_done(self, step: int, metrics, index) -> None:
        """Takes the metrics of a step that may still run, and reports those of the step before.

        Args:
          step: its number.
          metrics: as `train_step` gives them.
          index: numbers of its clips, on the devices.

        Raises:
          FloatingPointError: if the loss or the gradient of that step was not finite, and as many
            in a row as may be are skipped already.
        """
        self.flush()
        self._pending = step, metrics, index

    def flush(self) -> None:
        """Reports the step whose metrics were taken last."""
        if self._pending is None:
            return
        step, metrics, index = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._runner.fetch(metrics).items()}
        speed = self._measure_speed()
        self._progress.advance(values["loss"], values["kl"], _describe_speed(**speed))
        if not values.pop("finite"):
            self.say(self._guard.reject(step, values, _name_clips(self._clips, index)))
            self.write(step, "skipped", values)
            return
        self._guard.accept(step, values)
        if step % self._log_every == 0:
            values["learning_rate"] = float(self._schedule(step - 1))
            self.write(step, "train", values | speed)

    def _measure_speed(self) -> dict[str, float]:
        rate = self._progress.steps_per_second
        return {
            "frames_per_second": rate * self._frames_per_step,
            "flop_utilization": rate * self._flops_per_step / self._peak,
            "data_wait": self._progress.waiting_share,
        }

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl; only the first process does."""
        if self._log is not None:
            self._log.write(step, kind, values)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        self._progress.write(text)

    @contextlib.contextmanager
    def pause(self):
        """Reports what is pending; the time inside does not count towards frames/s."""
        self.flush()
        started = time.perf_counter()
        yield
        self._progress.exclude(time.perf_counter() - started)


def _name_clips(clips: Clips, index) -> str:
    """Returns the files of these clips with the frames that they begin at."""
    shards = [np.asarray(shard.data).ravel() for shard in index.addressable_shards]
    names = [
        f"{clips.videos[clips.video_index_N[n]].name} from frame {clips.frame_NT[n, 0]}"
        for n in np.unique(np.concatenate(shards))
    ]
    return ", ".join(names)


def _describe_speed(frames_per_second: float, flop_utilization: float, data_wait: float) -> str:
    return (
        f"{frames_per_second:.0f} frames/s, {flop_utilization:.0%} of the FLOP rate, "
        f"data wait {data_wait:.0%}"
    )
