"""Permutations of millions of numbers in constant memory: places are computed, not stored."""

import numpy as np

_ROUNDS = 8
_MIX = tuple(np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Permutation:
    """A permutation of 0 .. count - 1 that follows from a key.

    A Feistel network permutes the numbers of an even number of bits, fewer than four times `count`;
    a number that leaves the range is permuted again until it is back in it (cycle walking).

    References:
      Luby and Rackoff, How to construct pseudorandom permutations from pseudorandom functions,
        1988.
      Black and Rogaway, Ciphers with arbitrary finite domains, 2002 (cycle walking).
      Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014 (the mixer).
    """

    def __init__(self, count: int, key: tuple[int, int]):
        """Derives the keys of the rounds.

        Args:
          count: How many numbers are permuted, at least 1.
          key: Two integers of at least 0; another key gives another permutation.

        Raises:
          ValueError: If `count` is less than 1.
        """
        if count < 1:
            raise ValueError(f"a permutation needs at least 1 number, got {count}")
        self._count = count
        self._half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.Philox(key=np.array(key, np.uint64)).random_raw(_ROUNDS)

    def __len__(self) -> int:
        return self._count

    def __call__(self, places_N: np.ndarray) -> np.ndarray:
        """Returns the numbers at places 0 .. count - 1, int64 [N].

        Raises:
          IndexError: If a place is out of range.
        """
        found_N = np.asarray(places_N, np.int64)
        if found_N.size and not 0 <= found_N.min() <= found_N.max() < self._count:
            raise IndexError(f"places must be in 0 .. {self._count - 1}")
        found_N = self._permute(found_N.astype(np.uint64))
        while (outside_N := found_N >= self._count).any():
            found_N[outside_N] = self._permute(found_N[outside_N])
        return found_N.astype(np.int64)

    def _permute(self, numbers_N: np.ndarray) -> np.ndarray:
        left_N, right_N = numbers_N >> self._half, numbers_N & self._mask
        for key in self._keys:
            left_N, right_N = right_N, left_N ^ (_mix(right_N ^ key) & self._mask)
        return left_N << self._half | right_N


def _mix(numbers_N: np.ndarray) -> np.ndarray:
    """Mixes the bits of 64-bit numbers, as SplitMix64 does."""
    numbers_N = numbers_N + _MIX[0]
    numbers_N = (numbers_N ^ numbers_N >> np.uint64(30)) * _MIX[1]
    numbers_N = (numbers_N ^ numbers_N >> np.uint64(27)) * _MIX[2]
    return numbers_N ^ numbers_N >> np.uint64(31)
