"""Layers of VidTok, for causal weights and for those that see frames on both sides."""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.distributions import raise_precision
from vvae.models.causal_blocks import CausalConv, Past, prepend_past, stack_frames
from vvae.pretrained.layers import (
    EdgePaddedConv,
    EdgePaddedTemporalConv,
    Layer,
    PointwiseConv,
    StackedConv,
    TemporalConv,
    centre_in_time,
    frame_conv_3x3,
    interpolate_time,
    stateless,
)


class Norm(nn.Module, kw_only=True):
    """LayerNorm over the channels of each position, computed at least in float32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(1e-6, use_fast_variance=False, name="norm")
        return norm(raise_precision(x)).astype(self.dtype)


@dataclass(frozen=True)
class CausalSpec:
    """Makes the layers of a network whose encoder sees no later frames.

    Attributes:
      dtype: of the activations.
    """

    dtype: Any = jnp.float32

    suffix: ClassVar[str] = ".conv"  # of the names of convolutions that remember nothing

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a 3x3x3 convolution."""
        return EdgePaddedConv(features=features, dtype=self.dtype, name=name)

    def make_temporal_conv(self, features: int, name: str) -> Layer:
        """Makes a 3x1x1 convolution."""
        return EdgePaddedTemporalConv(features=features, dtype=self.dtype, name=name)

    def make_dense(self, features: int, name: str) -> PointwiseConv:
        """Makes a 1x1x1 convolution."""
        return PointwiseConv(features=features, dtype=self.dtype, name=name + self.suffix)

    def make_down(self, name: str) -> Layer:
        """Makes the step that halves time."""
        return TemporalDown(spec=self, name=name)

    def make_up(self, first: int, name: str) -> Layer:
        """Makes the step that doubles time; `first` frames are repetitions of the first one."""
        return TemporalUp(first=first, spec=self, name=name)

    def complete(self, x: jax.Array, past: Past) -> jax.Array:
        """Returns 2n frames with the one beside them that a step to n frames also sees."""
        return prepend_past(x, x[:, :1] if past is None else past, 0)

    def double(self, x: jax.Array, first: int) -> jax.Array:
        """Doubles frames by interpolation, the first ones separately from the later ones."""
        parts = [part for part in (x[:, :first], x[:, first:]) if part.shape[1]]
        return jnp.concatenate([interpolate_time(part) for part in parts], axis=1)


@dataclass(frozen=True)
class CentredSpec(CausalSpec):
    """Makes the layers of a network that sees frames on both sides, and zeros beyond the ends."""

    suffix: ClassVar[str] = ""

    def make_conv(self, features: int, name: str) -> Layer:
        """Makes a 3x3x3 convolution."""
        conv = CausalConv(features=features, dtype=self.dtype, name=name)

        def run(x: jax.Array) -> jax.Array:
            zero = jnp.zeros_like(x[:, :1], self.dtype)
            return conv(jnp.concatenate([x.astype(self.dtype), zero], axis=1), zero)[0]

        return stateless(run)

    def make_temporal_conv(self, features: int, name: str) -> Layer:
        """Makes a 3x1x1 convolution."""
        conv = TemporalConv(features=features, num_axes=0, dtype=self.dtype, name=name)
        return centre_in_time(conv)

    def complete(self, x: jax.Array, past: Past) -> jax.Array:
        """Returns 2n frames with the one beside them that a step to n frames also sees."""
        return jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)

    def double(self, x: jax.Array, first: int) -> jax.Array:
        """Repeats frames twice."""
        return x.repeat(2, axis=1)


class TemporalDown(nn.Module, kw_only=True):
    """Maps 2n frames to n: mixes the mean of three frames with a convolution of them.

    In causal weights output frame j depends on the input frames 2j - 1, 2j and 2j + 1, in others on
    2j, 2j + 1 and 2j + 2. Remembers its last input.
    """

    spec: CausalSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        spec, share = self.spec, _mix(self, self.spec.dtype)
        stacked = stack_frames(spec.complete(x, past), stride=2)
        mean = stacked.reshape(*stacked.shape[:-1], 3, -1).mean(-2)
        settings = {"features": x.shape[-1], "convolve": frame_conv_3x3, "dtype": spec.dtype}
        conv = StackedConv(**settings, name=f"conv{spec.suffix}")
        return share * mean + (1.0 - share) * conv(stacked), x[:, -1:]


class TemporalUp(nn.Module, kw_only=True):
    """Maps n frames to 2n: mixes doubled frames with a convolution of them.

    Attributes:
      first: see `CausalSpec.make_up`.
      spec: doubles the frames and makes the convolution.
    """

    first: int
    spec: CausalSpec

    @nn.compact
    def __call__(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        share = _mix(self, self.spec.dtype)
        x = self.spec.double(x, self.first)
        y, _ = self.spec.make_conv(x.shape[-1], "conv")(x, None)
        return share * x + (1.0 - share) * y, ()


def _mix(module: nn.Module, dtype) -> jax.Array:
    factor = module.param("mix_factor", nn.initializers.constant(2.0), (1,))
    return nn.sigmoid(factor).astype(dtype).reshape(1, 1, 1, 1, 1)
