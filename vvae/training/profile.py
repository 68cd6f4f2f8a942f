"""A trace of some training steps, for TensorBoard and Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


class StepProfile:
    """Traces steps of the loop.

    profile = StepProfile((20, 25), folder)
    for number in ...:
        with profile.step(number):
            state, metrics = ...
        if profile.is_due(number):
            profile.write()
    profile.close()
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        """Traces from the first to the last of `steps`, or nothing if it is None, into `folder`."""
        self._steps, self._folder = steps, Path(folder)
        self._is_running = False

    def close(self) -> None:
        """Writes a trace that was interrupted."""
        if self._is_running:
            self.write()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks the code inside as a step; the first traced step starts the trace."""
        if self._steps is None or not self._steps[0] <= number <= self._steps[1]:
            yield
            return
        if not self._is_running:
            jax.profiler.start_trace(self._folder, profiler_options=_without_python())
            self._is_running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def is_due(self, step: int) -> bool:
        """Returns whether the trace ends with this step."""
        return self._is_running and step == self._steps[1]

    def write(self) -> Path:
        """Ends the trace, writes what ran until now, and returns its folder."""
        self._is_running = False
        jax.profiler.stop_trace()
        return self._folder


def _without_python() -> jax.profiler.ProfileOptions:
    """Returns options that do not trace Python calls.

    Tracing them slows the steps, and those of a validation fill the trace: Perfetto's file ends
    after a million events.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options
