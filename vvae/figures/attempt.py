"""Pictures that must not end a training or lose an answer."""

import os
from collections.abc import Callable, Sequence


def try_to_draw(
    names: Sequence[str], draw: Callable[[], None], say: Callable[[str], None] = print
) -> bool:
    """Draws pictures; a failure is one warning that names them.

    The environment variable VVAE_TRACEBACK makes failures errors.

    Args:
      names: names of the pictures.
      draw: draws and writes them.
      say: prints the warning.

    Returns:
      Whether they were drawn.
    """
    try:
        draw()
    except Exception as error:
        if os.environ.get("VVAE_TRACEBACK"):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {', '.join(names)} cannot be drawn ({reason}); no number depends on it")
        return False
    return True
