"""A trace of some training steps, which TensorBoard and Perfetto open."""

from pathlib import Path

import jax


class StepProfile:
    """Traces steps of the loop; a context, so that an interrupted trace is written too.

    with StepProfile((20, 25), folder) as profile:
        for step in ...:
            profile.begin(step)
            state, metrics = ...
            if profile.is_due(step):
                profile.write()
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        """Traces from the first to the last of `steps`, or nothing, into `folder`."""
        self._steps, self._folder = steps, Path(folder)
        self._annotation = None
        self._is_running = False

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(self, *exception) -> None:
        if self._is_running:
            self.write()

    def begin(self, step: int) -> None:
        """Marks the beginning of a step, and starts the trace with the first one of it."""
        if self._steps is None or not self._steps[0] <= step <= self._steps[1]:
            return
        if not self._is_running:
            jax.profiler.start_trace(self._folder)
            self._is_running = True
        self._end_step()
        self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._annotation.__enter__()

    def is_due(self, step: int) -> bool:
        """Whether the trace ends with this step."""
        return self._is_running and step == self._steps[1]

    def write(self) -> Path:
        """Ends the trace, with what has run until now, and returns the folder that it is in."""
        self._end_step()
        self._is_running = False
        jax.profiler.stop_trace()
        return self._folder

    def _end_step(self) -> None:
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
