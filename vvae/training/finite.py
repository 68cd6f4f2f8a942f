"""Handling of steps whose loss or gradient is not finite."""

from collections.abc import Mapping


class FiniteGuard:
    """Lets a few such steps in a row be skipped, and stops the training at one more."""

    def __init__(self, max_in_a_row: int):
        """Allows max_in_a_row steps in a row to be skipped; 0 stops at the first."""
        self._max = max_in_a_row
        self._in_a_row = 0
        self._last = "there was no finite step since this start"
        self.num_skipped = 0

    def accept(self, step: int, values: Mapping[str, float]) -> None:
        """Records a finite step."""
        self._in_a_row = 0
        shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        self._last = f"the last finite step was {step}: {shown}"

    def reject(self, step: int, values: Mapping[str, float], clips: str) -> str:
        """Counts a step that is not finite, and returns a description of it.

        Args:
          step: its number.
          values: with "loss" and "grad_norm".
          clips: the clips of the batch, in words.

        Raises:
          FloatingPointError: if as many steps in a row as allowed were skipped already.
        """
        what = (
            f"step {step}: the loss ({values['loss']}) or its gradient ({values['grad_norm']}) is "
            f"not finite; clips of the batch: {clips}; {self._last}"
        )
        if self._in_a_row == self._max:
            before = f" after {self._max} skipped in a row" if self._max else ""
            raise FloatingPointError(
                f"{what}; stopped{before}, the last checkpoint is unchanged. Try a lower "
                "--optim.learning_rate, or --train.skip_nonfinite N if single clips are to blame"
            )
        self._in_a_row += 1
        self.num_skipped += 1
        return f"{what}; skipped, {self.num_skipped} so far"
