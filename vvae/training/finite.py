"""What becomes of steps whose loss or gradient is not finite."""

from collections.abc import Mapping


class FiniteGuard:
    """Lets a few steps in a row be skipped, and stops the training at one more."""

    def __init__(self, max_in_a_row: int):
        """Nothing is skipped yet; max_in_a_row is 0 to stop at the first."""
        self._max = max_in_a_row
        self._in_a_row = 0
        self._last = "there was no finite step before in this start"
        self.num_skipped = 0

    def accept(self, step: int, values: Mapping[str, float]) -> None:
        """Takes note of a finite step."""
        self._in_a_row = 0
        shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        self._last = f"the last finite step was {step}: {shown}"

    def reject(self, step: int, values: Mapping[str, float], clips: str) -> str:
        """Counts a step that is not finite, and describes it.

        Args:
          step: its number.
          values: with "loss" and "grad_norm".
          clips: what the batch holds, in words.

        Raises:
          FloatingPointError: as many steps in a row as may be are skipped already.
        """
        what = (
            f"step {step}: the loss ({values['loss']}) or its gradient ({values['grad_norm']}) is "
            f"not finite; clips of the batch: {clips}; {self._last}"
        )
        if self._in_a_row == self._max:
            before = f" after {self._max} skipped in a row" if self._max else ""
            raise FloatingPointError(
                f"{what}; stopped{before}, the last checkpoint is as it was. Try a lower "
                "--optim.learning_rate, or --train.skip_nonfinite N where single clips are to blame"
            )
        self._in_a_row += 1
        self.num_skipped += 1
        return f"{what}; skipped, {self.num_skipped} so far"
