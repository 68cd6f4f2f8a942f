"""Codes as words of a range coder and back, by fixed tables or by contexts.

The range coder is that of `constriction` (extra `coding`). What counts bits does not need it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vvae.extras import require_extra
from vvae.inference import contexts
from vvae.inference.contexts import ESCAPE_BITS, PRECISION


def require_coder():
    """Returns the module constriction; ValueError, which says what to install, without it."""
    return require_extra("constriction", "coding", "the range coder of latents")


@dataclasses.dataclass(frozen=True)
class Table:
    """Probabilities of integer codes.

    Attributes:
      lowest: the code of the first frequency.
      frequencies: int64, positive; their sum is 2**24.
      has_escape: whether the last frequency belongs to all codes without one of their own.
    """

    lowest: int
    frequencies: np.ndarray
    has_escape: bool

    @property
    def num_codes(self) -> int:
        """Number of codes with a frequency of their own."""
        return len(self.frequencies) - self.has_escape

    @property
    def bits(self) -> np.ndarray:
        """-log2 P of each symbol, plus the extra bits of an escaped code."""
        bits = PRECISION - np.log2(self.frequencies)
        bits[self.num_codes :] += ESCAPE_BITS
        return bits

    def find_symbols(self, codes: np.ndarray) -> np.ndarray:
        """Returns the symbol of each code, the index of its frequency; int64."""
        symbols = codes.astype(np.int64) - self.lowest
        outside = (symbols < 0) | (symbols >= self.num_codes)
        if outside.any() and not self.has_escape:
            raise ValueError(f"code {codes[outside][0]} is not one of {self.num_codes} levels")
        return np.where(outside, self.num_codes, symbols)


class TableSymbols:
    """Codes of each channel with a table of its own. Blocks are independent."""

    def __init__(self, tables: Sequence[Table]):
        stream = require_coder().stream
        self._queue, self._tables = stream.queue, tables
        # Multiples of 2**-24 are exact in float64, and the library keeps them exact.
        self._models = [
            stream.model.Categorical(table.frequencies / 2.0**PRECISION, perfect=False, lazy=False)
            for table in tables
        ]

    def encode(self, codes_nhwZ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the words, and the codes outside the tables."""
        encoder, escaped = self._queue.RangeEncoder(), []
        codes_ZN = codes_nhwZ.reshape(-1, len(self._tables)).T
        for table, model, codes_N in zip(self._tables, self._models, codes_ZN, strict=True):
            symbols_N = table.find_symbols(codes_N)
            encoder.encode(symbols_N.astype(np.int32), model)
            escaped.append(codes_N[symbols_N == table.num_codes])
        return encoder.get_compressed(), np.concatenate(escaped)

    def decode(self, words: np.ndarray, escaped: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the codes of a shape [n, h, w, Z], int32; raises ValueError for damaged ones."""
        decoder, rest = self._queue.RangeDecoder(words), _Escaped(escaped)
        length = math.prod(shape[:-1])
        codes_NZ = np.empty((length, len(self._tables)), np.int32)
        for z, (table, model) in enumerate(zip(self._tables, self._models, strict=True)):
            symbols_N = np.asarray(decoder.decode(model, length))
            codes_NZ[:, z] = symbols_N + table.lowest
            outside = symbols_N == table.num_codes
            codes_NZ[outside, z] = rest.take(int(outside.sum()))
        rest.check_end()
        return codes_NZ.reshape(shape)


class ContextSymbols:
    """Codes with the probabilities of a `ContextModel`, from the first latent frame of a video on.

    Blocks must be given in order: each depends on the frames of those before.
    """

    def __init__(self, model: contexts.ContextModel, steps_Z: tuple[int, ...]):
        stream = require_coder().stream
        self._queue = stream.queue
        self._categorical = stream.model.Categorical(perfect=False)
        self._model, self._steps_Z = model, steps_Z
        self._past = contexts.Past()

    def encode(self, codes_nhwZ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the words, and the codes out of reach of their predictions."""
        encoder, escaped = self._queue.RangeEncoder(), []

        for codes_hwZ in codes_nhwZ:

            def write(symbols: contexts.Symbols, codes_hwZ=codes_hwZ) -> np.ndarray:
                codes = contexts.take_codes(codes_hwZ, symbols)
                for part in contexts.look_up(symbols):
                    offsets = (codes - symbols.centres)[part.here]
                    found = contexts.find_symbols(offsets, part.reach)
                    encoder.encode(
                        found.astype(np.int32), self._categorical, part.tables[part.rows]
                    )
                    escaped.append(codes[part.here][found == part.escape])
                return codes

            self._visit(codes_hwZ.shape[:2], write)
        return encoder.get_compressed(), np.concatenate(escaped)

    def decode(self, words: np.ndarray, escaped: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the codes of a shape [n, h, w, Z], int32; raises ValueError for damaged ones."""
        decoder, rest = self._queue.RangeDecoder(words), _Escaped(escaped)

        def read(symbols: contexts.Symbols) -> np.ndarray:
            codes = np.empty(symbols.levels.shape, np.int64)
            for part in contexts.look_up(symbols):
                found = np.asarray(decoder.decode(self._categorical, part.tables[part.rows]))
                decoded = found - part.reach + symbols.centres[part.here]
                outside = found == part.escape
                decoded[outside] = rest.take(int(outside.sum()))
                codes[part.here] = decoded
            return codes

        codes_nhwZ = np.stack([self._visit(shape[1:3], read) for _ in range(shape[0])])
        rest.check_end()
        return codes_nhwZ

    def _visit(self, size: tuple[int, int], exchange: contexts.Exchange) -> np.ndarray:
        codes, self._past = contexts.visit_frame(
            self._model, self._steps_Z, size, self._past, exchange
        )
        return codes


class _Escaped:
    """Codes that follow the words, taken in order."""

    def __init__(self, codes: np.ndarray):
        self._codes, self._taken = codes, 0

    def take(self, count: int) -> np.ndarray:
        start, self._taken = self._taken, self._taken + count
        if self._taken > len(self._codes):
            self.check_end()
        return self._codes[start : self._taken]

    def check_end(self) -> None:
        if self._taken != len(self._codes):
            raise ValueError(
                f"holds {len(self._codes)} escaped codes, but its symbols mark another count"
            )
