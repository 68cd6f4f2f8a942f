"""What watches a training: signals, memory, profile, log."""

import contextlib
import enum
import math
import signal
import time
from collections.abc import Callable

import jax
import numpy as np

from vvae import processes
from vvae.data.stream import Source
from vvae.run import TrainingFolder
from vvae.training import estimate
from vvae.training.cost import StepCost
from vvae.training.finite import FiniteGuard
from vvae.training.log import MetricsLog, Progress, open_tensorboard
from vvae.training.parallel import Lookahead
from vvae.training.profile import StepProfile
from vvae.training.state import TrainState


class Ending(enum.Enum):
    """How a training has ended."""

    FINISHED = "all steps are done"
    STOPPED = "Ctrl-C"
    PREEMPTED = "SIGTERM, by which schedulers take a machine back"


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request to save and stop.

    A second one of either ends the process at once, even in the middle of a save.
    """

    def __init__(self):
        """Starts without a request."""
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
    def ending(self) -> Ending:
        """How a training ends that is not finished."""
        return Ending.STOPPED if self._received == signal.SIGINT else Ending.PREEMPTED

    def _request(self, number: int, _) -> None:
        self._received = number
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)


@contextlib.contextmanager
def explain_memory(sizes: str, batch_size: int, num_micro_batches: int):
    """Explains an out-of-memory error of a step: names the settings to lower.

    Args:
      sizes: settings of the size of the videos, beside the batch, such as `data.height=64`.
      batch_size: train.batch_size.
      num_micro_batches: of a device, now.

    Raises:
      MemoryError: instead of the runtime's error, whose message it contains.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"a training step does not fit into the memory: lower {sizes} or "
            f"train.batch_size={batch_size}, or set train.accumulate above "
            f"{num_micro_batches}, its number of micro-batches now. The runtime says: {error}"
        ) from error


def make_profile(run: TrainingFolder, first_step: int) -> StepProfile:
    """Returns the tracer of the steps in train.profile, which a continued run may have passed."""
    steps = run.config.train.profiled_steps()
    if steps is not None and steps[1] <= first_step:
        print(f"train.profile={run.config.train.profile}: these steps are done, nothing is traced")
    return StepProfile(steps if processes.is_first() else None, run.workdir / "profile")


class Report:
    """Runs steps and reports them: progress bar, metrics.jsonl, profile.

    A step whose loss or gradient is not finite is skipped and counted, or ends the training.
    """

    def __init__(
        self,
        run: TrainingFolder,
        clips: Source,
        runner,
        schedule,
        *,
        first_step: int,
        num_frames: int,
    ):
        """Opens the log, and cuts off its lines after first_step.

        Args:
          run: the run directory.
          clips: the training clips, which are named where the loss is not finite.
          runner: where the metrics are fetched from.
          schedule: step -> learning rate.
          first_step: the number of steps that are done already.
          num_frames: frames of a clip.
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
        self._frames_per_step = config.train.batch_size * num_frames
        self._runner, self._schedule = runner, jax.jit(schedule)
        self._log_every = config.train.log_every
        self._validate_every = config.train.validate_every
        self._first_step, self._num_steps = first_step, run.num_steps
        self._pending = None
        self._clips, self._guard = clips, FiniteGuard(config.train.skip_nonfinite)
        self._flops_per_step, self._peak = 0, math.inf
        self._profile = make_profile(run, first_step)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception) -> None:
        self._profile.close()
        self._progress.close()

    def describe_step(self, cost: StepCost) -> None:
        """Prints the memory and the work of the compiled step, and measures speed by it."""
        self._flops_per_step, self._peak = cost.flops, estimate.find_peak()
        self.say(
            f"compiled: {cost.bytes / 1e6:.0f} MB a device for the step, "
            f"{cost.flops / 1e9:.3g} GFLOP in it"
        )

    def step(self, number: int, step, state: TrainState, batches: Lookahead) -> TrainState:
        """Runs a step, fetches the next batch meanwhile, and reports the step before.

        The metrics of a step are fetched when the next one runs, so that no device waits.

        Args:
          number: of the step, from 1.
          step: the compiled step.
          state: on the devices; donated.
          batches: on the devices; advanced by one.

        Returns:
          The state after the step.

        Raises:
          FloatingPointError: if the loss or the gradient of the step before was not finite, and
            train.skip_nonfinite steps in a row have been skipped already.
        """
        with self._profile.step(number):
            batch = batches.current
            state, metrics = step(state, batch)
            self._fetch_batch(batches, metrics)
            self.flush()
            self._pending = number, metrics, batch["index"]
        if self._profile.is_due(number):
            with self.pause():
                self.say(f"profile: {self._profile.write()}, for TensorBoard and Perfetto")
        return state

    def _fetch_batch(self, batches: Lookahead, metrics) -> None:
        """Fetches the next batch; counts the time as waiting if no step runs at its end.

        That is an upper bound: the devices may have been busy at first. The metrics of the running
        step are looked at, not waited for.
        """
        started = time.perf_counter()
        batches.advance()
        seconds = time.perf_counter() - started
        if all(value.is_ready() for value in jax.tree.leaves(metrics)):
            self._progress.add_wait(seconds)

    def run_steps(
        self,
        step,
        state: TrainState,
        batches: Lookahead,
        interrupts: Interrupts,
        *,
        save: Callable[[int, TrainState], None],
        after: Callable[[int, TrainState], TrainState] = lambda number, state: state,
    ) -> int:
        """Runs the steps of a training to its end, or until it is asked to stop.

        Args:
          step: the compiled step.
          state: on the devices; donated.
          batches: on the devices.
          interrupts: the requests to stop.
          save: called with the number and the state every train.validate_every steps, and at the
            last one.
          after: (number, state) -> state, called after each step.

        Returns:
          The number of the last step.
        """
        processes.wait_for_all()  # some have compiled later than others
        for number in range(self._first_step + 1, self._num_steps + 1):
            asked_to_stop = self._runner.share_flag(interrupts.requested)
            state = after(number, self.step(number, step, state, batches))
            is_last = number == self._num_steps or asked_to_stop()
            if is_last or number % self._validate_every == 0:
                save(number, state)
            if is_last:
                break
        return number

    def flush(self) -> None:
        """Reports the last step that was run."""
        if self._pending is None:
            return
        step, metrics, index = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._runner.fetch(metrics).items()}
        speed = self._measure_speed()
        self._progress.advance(_describe_values(values), _describe_speed(**speed))
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
        """Reports the last step; the time inside does not count towards frames/s."""
        self.flush()
        started = time.perf_counter()
        yield
        self._progress.exclude(time.perf_counter() - started)


def _name_clips(clips: Source, index) -> str:
    """Returns the files and the first frames of clips."""
    shards = [np.asarray(shard.data).ravel() for shard in index.addressable_shards]
    return ", ".join(clips.describe_clip(int(n)) for n in np.unique(np.concatenate(shards)))


def _describe_values(values: dict[str, float]) -> str:
    names = {"loss": "loss", "kl": "KL"}
    return " ".join(f"{names[n]} {_shorten(values[n])}" for n in names if n in values)


def _shorten(value: float) -> str:
    if abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if abs(value) < 1e4 else f"{value:.0f}"


def _describe_speed(frames_per_second: float, flop_utilization: float, data_wait: float) -> str:
    return f"{frames_per_second:.0f} fps, {flop_utilization:.0%} FLOP/s, wait {data_wait:.0%}"
