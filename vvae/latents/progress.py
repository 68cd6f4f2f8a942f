"""What a long encoding says while it runs."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vvae.units import format_bytes

SECONDS = 10.0  # between two lines


@dataclass
class Progress:
    """Counts what is done; prints a line now and then. Several threads may share one.

    Attributes:
      total: videos to encode.
      say: prints a line.
      devices: how many encode at a time.
    """

    total: int
    say: Callable[[str], None]
    devices: int = 1
    videos: int = 0
    clips: int = 0
    frames: int = 0
    written: int = 0
    failed: int = 0
    reused: int = 0
    device_seconds: float = 0.0
    waited_seconds: float = 0.0
    _begun: float = field(default_factory=time.perf_counter)
    _printed: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: float) -> None:
        """Adds to the counts, and prints a line if the last one was long ago."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
            now = time.perf_counter()
            if now - self._printed >= SECONDS:
                self._printed = now
                self.say(self.line())

    def line(self) -> str:
        """Returns the line of this moment."""
        elapsed = max(time.perf_counter() - self._begun, 1e-9)
        whole = elapsed * self.devices
        left = (self.total - self.videos) * elapsed / self.videos if self.videos else None
        parts = [
            f"{self.videos}/{self.total} videos",
            f"{self.clips} clips",
            f"{self.frames / elapsed:.1f} frames/s",
            f"device {self.device_seconds / whole:.0%}",
            f"waiting for frames {self.waited_seconds / whole:.0%}",
            f"written {format_bytes(self.written)}",
        ]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.reused} reused"] if self.reused else []
        parts += [] if left is None else [f"{format_seconds(left)} left"]
        return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Writes a time with a unit, such as 3.2 h."""
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 48.0)):
        if seconds < size:
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= size if unit != "h" else 24.0
    return f"{seconds:.1f} days"
