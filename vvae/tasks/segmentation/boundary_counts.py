"""Matches found boundaries with true ones, and counts hits and errors."""

import dataclasses
from collections.abc import Sequence

from vvae.tasks.segmentation.joined_videos import Transition


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of boundaries over some videos.

    Attributes:
      matched: The number of detected boundaries that match a true one.
      num_found: The number of detected boundaries.
      num_true: The number of true boundaries.
    """

    matched: int
    num_found: int
    num_true: int

    @property
    def f1(self) -> float:
        """F1 = 2 matched / (found + true), in [0, 1]; NaN without any boundary."""
        total = self.num_found + self.num_true
        return 2.0 * self.matched / total if total else float("nan")

    @property
    def precision(self) -> float:
        """The share of the detected boundaries that are true; NaN if none is detected."""
        return self.matched / self.num_found if self.num_found else float("nan")

    @property
    def recall(self) -> float:
        """The share of the true boundaries that are detected; NaN if there is none."""
        return self.matched / self.num_true if self.num_true else float("nan")


def match_boundaries(
    found: Sequence[int], transitions: Sequence[Transition], tolerance: int
) -> int:
    """Counts the pairs of a maximum one-to-one matching.

    A detected frame matches a transition if it lies within [first - tolerance, last + tolerance].
    Transitions do not overlap. Assigning to each transition in order the earliest unused frame that
    matches it is therefore optimal.

    Args:
      found: The detected frames.
      transitions: The true transitions.
      tolerance: The tolerance, in frames.
    """
    frames, matched, next_frame = sorted(found), 0, 0
    for transition in sorted(transitions, key=lambda t: t.last):
        while next_frame < len(frames) and frames[next_frame] < transition.first - tolerance:
            next_frame += 1
        if next_frame < len(frames) and frames[next_frame] <= transition.last + tolerance:
            matched += 1
            next_frame += 1
    return matched


def count_matches(
    found: Sequence[Sequence[int]], references: Sequence[Sequence[Transition]], tolerance: int
) -> Counts:
    """Sums the counts over several videos.

    Args:
      found: The detected frames of each video.
      references: The true transitions of each video.
      tolerance: The tolerance of `match_boundaries`, in frames.
    """
    matched = sum(match_boundaries(f, r, tolerance) for f, r in zip(found, references))
    return Counts(
        matched=matched, num_found=sum(map(len, found)), num_true=sum(map(len, references))
    )


def count_flash_alarms(found: Sequence[int], flashes: Sequence[tuple[int, int]]) -> int:
    """Counts the flashes for which a boundary is detected.

    A flash counts if a boundary is detected between its first frame and the frame after its last.

    Args:
      found: The detected frames.
      flashes: The first and the last frame of each flash.
    """
    return sum(any(first <= frame <= last + 1 for frame in found) for first, last in flashes)
