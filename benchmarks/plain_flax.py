"""Flax's own convolutions in place of vvae's, with the same parameters under the same names."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from vvae.models import causal, causal_blocks, sequential_blocks


class PlainDownConv(nn.Module):
    """nn.Conv in place of vvae's DownConv."""

    features: int
    dtype: Any = jnp.float32

    def setup(self):
        self.conv = nn.Conv(self.features, (4, 4), 2, padding=1, dtype=self.dtype)
        nn.share_scope(self, self.conv)

    def __call__(self, x_NHWC):
        return self.conv(x_NHWC)


class PlainUpConv(nn.Module):
    """nn.ConvTranspose in place of vvae's UpConv."""

    features: int
    dtype: Any = jnp.float32

    def setup(self):
        self.conv = nn.ConvTranspose(
            self.features, (4, 4), (2, 2), padding="SAME", dtype=self.dtype
        )
        nn.share_scope(self, self.conv)

    def __call__(self, x_NHWC):
        return self.conv(x_NHWC)


class PlainCausalConv(nn.Module):
    """nn.Conv in place of vvae's CausalConv, for whole videos."""

    features: int
    dtype: Any = jnp.float32
    output_dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()
    extent: causal_blocks.Extent = None

    def setup(self):
        self.conv = nn.Conv(
            self.features,
            (3, 3, 3),
            padding=((2, 0), (1, 1), (1, 1)),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )
        nn.share_scope(self, self.conv)

    def __call__(self, x_BTHWC, past):
        """Convolves as `CausalConv`, without a past and without remembering anything."""
        y = self.conv(x_BTHWC)
        return y if self.output_dtype is None else y.astype(self.output_dtype), past


@contextlib.contextmanager
def use_plain_layers() -> Iterator[None]:
    """Makes vvae's models use Flax's convolutions when they are traced inside this context."""
    # JAX keeps the traces of rematerialized blocks by their module, which stays the same.
    jax.clear_caches()
    with (
        mock.patch.multiple(sequential_blocks, DownConv=PlainDownConv, UpConv=PlainUpConv),
        mock.patch.object(causal, "CausalConv", PlainCausalConv),
        mock.patch.object(causal_blocks, "CausalConv", PlainCausalConv),
    ):
        yield
    jax.clear_caches()
