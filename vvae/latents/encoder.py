"""The encoder of a model as a stream of normalised latents, in pieces of a few fixed sizes.

Frames are padded to whole pieces by repeating the last one, as the encoder itself does at the end
of a video, and latents of nothing but padding are left out. So few programs are compiled, whatever
the lengths of the videos, and memory is that of one piece. Only an encoder that sees all frames at
once takes clips as a whole.
"""

import functools
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.latents.plan import count_latents, plan_pieces
from vvae.latents.posterior import Scale
from vvae.models import contract
from vvae.models.bottleneck import ScaledLatents
from vvae.models.digest import digest_params
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.distilled import find_encoder
from vvae.pretrained.load import describe_network

DTYPES = ("bfloat16", "float32")
_MAX_PROGRAMS = 64  # that are kept: each needs memory, and every size of frames has a few
# Settings of published networks that the latents do not depend on.
_DECODER_SETTINGS = ("decoder", "upsample_", "timestep_conditioning", "_diffusers_version")
_DECODER_FIELDS = ("parent", "name", "shape_HWC", "decoding")


@dataclass
class Clock:
    """Seconds that encoding has waited for the device."""

    device: float = 0.0


@dataclass(frozen=True)
class LatentEncoder:
    """An encoder that stores what `vvae.latents` keeps of a posterior.

    Attributes:
      model: a GridVideoVAE.
      params: the variables that its encoder needs, on the device.
      dtype: of the latents, float32 or bfloat16.
      tail: see `plan.ClipPlan`.
      latents_per_piece: the largest number of latent frames computed at a time.
      clock: counts the time.
    """

    model: GridVideoVAE
    params: Any
    dtype: str
    tail: str
    latents_per_piece: int
    clock: Clock = field(default_factory=Clock)

    def encode(
        self, frames: Iterable[np.ndarray], length: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Encodes the frames of one clip, or of one video.

        Args:
          frames: uint8 [H, W, C], at least one, all of one size.
          length: the number of frames, if it is known: there may be fewer, not more.

        Yields:
          (mean, std) of the next latent frames, normalised, [n, h, w, Z] in `dtype`; the device
          computes the next piece meanwhile.
        """
        cache, before = None, None
        for chunk_THWC, count in self._cut(frames, length):
            start = time.perf_counter()
            program = self._compile(cache, chunk_THWC.shape)
            cache, latents = program(self.params, cache, chunk_THWC[None])
            if before is not None:
                yield self._fetch(*before, start)
            before = latents, count
        if before is not None:
            yield self._fetch(*before, time.perf_counter())

    def _fetch(self, latents, count: int, start: float) -> tuple[np.ndarray, np.ndarray]:
        arrays = jax.device_get(latents)
        self.clock.device += time.perf_counter() - start
        return tuple(np.ascontiguousarray(array[0, :count]) for array in arrays)

    def _cut(self, frames: Iterable[np.ndarray], length: int | None):
        """Yields (frames of a piece, padded; how many of its latent frames are valid)."""
        step, frames = self.model.temporal_compression, map(self._fill_up, frames)
        lookahead = self.model.encoder_lookahead
        if lookahead is None:
            chunk = list(frames)
            count = count_latents(len(chunk), step, self.tail)
            yield _stack(chunk, 1 + (count - 1) * step, chunk[-1]), count
            return
        known = None if length is None else count_latents(length, step, self.tail)
        seen, done, last = 0, 0, None
        for piece in plan_pieces(known, self.latents_per_piece):
            first = 0 if done else 1 + lookahead - step
            chunk = list(itertools.islice(frames, piece * step + first))
            seen += len(chunk)
            last = chunk[-1] if chunk else last
            count = piece
            if len(chunk) < piece * step + first:
                left = count_latents(seen, step, self.tail) - done if seen else 0
                if not left:
                    return
                piece = piece if known is not None else _round_up(left, piece)
                count = min(left, piece)
            yield _stack(chunk, piece * step + first, last), count
            done += count

    def _fill_up(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Repeats the last row and column up to whole latents, as the model would."""
        rows, columns = (-side % self.model.spatial_compression for side in frame_HWC.shape[:2])
        if not rows and not columns:
            return frame_HWC
        return np.pad(frame_HWC, ((0, rows), (0, columns), (0, 0)), mode="edge")

    def _compile(self, cache, shape_THWC: tuple[int, ...]):
        """Returns the program of a piece: (params, cache, uint8 frames) -> (cache, latents)."""
        leaves, tree = jax.tree.flatten((self.params, cache))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        sharding = leaves[0].sharding
        return _compile_piece(self.model, self.dtype, (tree, shapes), shape_THWC, sharding)

    def estimate_memory(self, size: tuple[int, int]) -> int:
        """Returns the bytes that a piece of frames of (height, width) takes on the device."""
        padded = (side + -side % self.model.spatial_compression for side in size)
        frame = (*padded, self.model.shape_HWC[-1])
        step, lookahead = self.model.temporal_compression, self.model.encoder_lookahead
        num_frames = 1 + (lookahead or 0) + (self.latents_per_piece - 1) * step
        programs = [self._compile(None, (num_frames, *frame))]
        if lookahead is not None:
            x = jax.ShapeDtypeStruct((1, num_frames, *frame), np.uint8)
            encode = functools.partial(_encode_piece, self.model, self.dtype)
            cache, _ = jax.eval_shape(encode, self.params, None, x)
            programs.append(self._compile(cache, (self.latents_per_piece * step, *frame)))
        return max(map(_count_bytes, programs))


def _count_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes of a program and its arrays; 0 where XLA does not say."""
    memory = program.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def make_encoder(
    model: GridVideoVAE,
    params,
    *,
    dtype: str = "float32",
    tail: str = "repeat",
    latents_per_piece: int | None = None,
    device=None,
) -> LatentEncoder:
    """Returns an encoder that holds what the latents depend on, on one device.

    Args:
      model: see `LatentEncoder`.
      params: of the model.
      dtype: see `LatentEncoder`.
      tail: see `LatentEncoder`.
      latents_per_piece: by default 1 on CPUs, where more are no faster, and 4 on accelerators.
      device: the first one of this process by default.

    Raises:
      ValueError: for a model without a grid of latents, one whose first latent frame covers several
        frames, other channels than 1 or 3, or a value out of range.
    """
    if not isinstance(model, GridVideoVAE):
        raise ValueError(
            f"{type(model).__name__} has no grid of latents: latents are encoded by a "
            "CausalVideoVAE (model.kind=causal) or by published weights"
        )
    if model.first_frames != 1:
        raise ValueError(
            f"the first latent frame of this {type(model).__name__} covers {model.first_frames} "
            "frames: stores are for models that encode the first frame of a video alone"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose {' or '.join(DTYPES)}")
    device = device or jax.local_devices()[0]
    if latents_per_piece is None:
        latents_per_piece = 1 if device.platform == "cpu" else 4
    if latents_per_piece < 1:
        raise ValueError(f"latents_per_piece={latents_per_piece}: must be at least 1")
    if model.shape_HWC[-1] not in (1, 3):
        raise ValueError(
            f"the model takes videos of {model.shape_HWC[-1]} channels; files have 3 (or 1, gray)"
        )
    kept = select_params(model, params)
    return LatentEncoder(model, jax.device_put(kept, device), dtype, tail, latents_per_piece)


def select_params(model: GridVideoVAE, params) -> Any:
    """Returns the variables that latents depend on, and the noise scale, which none does."""
    names = (*model.encoder_modules(), "log_sigma")
    learned = {name: params["params"][name] for name in names if name in params["params"]}
    return {**params, "params": learned}


def find_scale(model: GridVideoVAE) -> Scale:
    """Returns the published scale of the latents; the identity where none was published."""
    latents, channels = model.bottleneck, model.bottleneck.channels
    if isinstance(latents, ScaledLatents):
        return Scale(latents.prior_mean, latents.prior_std)
    return Scale((0.0,) * channels, (1.0,) * channels)


def describe_encoder(model: GridVideoVAE, params) -> dict[str, Any]:
    """Describes what latents depend on; networks of equal descriptions give equal latents.

    Returns:
      JSON values: `network` (the settings of the encoder), `weights` (SHA-256 of its parameters and
      of the standardisation), `scale`, `channels`, `temporal_compression` and
      `spatial_compression`. Nothing of the decoder is in it.
    """
    model, params = find_encoder(model, params)
    kept = select_params(model, params)
    learned = {name: leaf for name, leaf in kept["params"].items() if name != "log_sigma"}
    scale = find_scale(model)
    return {
        "network": _describe_settings(model),
        "weights": digest_params({**kept, "params": learned}).hex(),
        "normalization": {"mean": list(scale.mean), "std": list(scale.std)},
        "channels": model.bottleneck.channels,
        "temporal_compression": model.temporal_compression,
        "spatial_compression": model.spatial_compression,
    }


def digest_json(value: Any) -> str:
    """Returns the SHA-256 of JSON values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_settings(model: GridVideoVAE) -> dict[str, Any]:
    dtype = {"activations": str(jnp.dtype(model.dtype))} if hasattr(model, "dtype") else {}
    try:
        settings = json.loads(describe_network(model))
    except ValueError:  # a network of our own
        settings = {
            name: repr(value) if not isinstance(value, int | float | str) else value
            for name, value in vars(model).items()
            if not name.startswith("_") and name not in (*_DECODER_FIELDS, "dtype")
        }
        settings["_class_name"] = type(model).__name__
    kept = {k: v for k, v in settings.items() if not k.startswith(_DECODER_SETTINGS)}
    return kept | dtype


@functools.lru_cache(_MAX_PROGRAMS)
def _compile_piece(model: GridVideoVAE, dtype: str, inputs, shape_THWC, sharding):
    tree, shapes = inputs
    place = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    params, cache = jax.tree.unflatten(tree, [place(*shape) for shape in shapes])
    x_BTHWC = place((1, *shape_THWC), np.uint8)
    encode = functools.partial(_encode_piece, model, dtype)
    return jax.jit(encode, donate_argnums=1).lower(params, cache, x_BTHWC).compile()


def _encode_piece(model: GridVideoVAE, dtype: str, params, layers, x_BTHWC):
    unit_BTHWC = contract.as_unit_range(x_BTHWC)
    layers, posterior = model.apply(params, layers, unit_BTHWC, method="extend_encode")
    scale = find_scale(model)
    lift = (1,) * 4 + (-1,)
    center, width = (jnp.array(a, jnp.float32).reshape(lift) for a in (scale.mean, scale.std))
    mean = model.bottleneck.mean(posterior)
    # A nominal width is not the encoder's: a store keeps what the encoder says.
    is_point = model.bottleneck.encodes_points
    std = jnp.zeros_like(mean) if is_point else jnp.exp(0.5 * posterior.logvar)
    mean, std = (mean.astype(jnp.float32) - center) / width, std.astype(jnp.float32) / width
    return layers, (mean.astype(dtype), std.astype(dtype))


def _stack(frames: list[np.ndarray], count: int, last: np.ndarray) -> np.ndarray:
    """Stacks `count` frames: the given ones, and as many of the last one as are missing."""
    kept = frames[:count]
    return np.stack(kept + [last] * (count - len(kept)))


def _round_up(count: int, largest: int) -> int:
    """Returns the smallest power of two that is not below count, at most the largest size."""
    return min(1 << (count - 1).bit_length(), largest)
