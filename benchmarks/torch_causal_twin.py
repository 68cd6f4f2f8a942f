"""CausalVideoVAE in PyTorch: for the stem "pca", RMSNorm (norm "position"), without attention.

Arrays of the networks are [B, C, t, h, w], and outside of them [B, t, h, w, C]. The twin is made in
one of PyTorch's two memory layouts; in channels_last_3d these are the same memory.
"""

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_twin

KERNEL = 3
NUM_TAPS = 5  # latent frames that a linear map sees
EPSILON = 1e-6  # of the norm


class CausalConv(nn.Conv3d):
    """3x3x3 convolution over a frame and the two before it."""

    def __init__(self, channels: int, features: int):
        super().__init__(channels, features, KERNEL, padding=(0, KERNEL // 2, KERNEL // 2))

    def forward(self, x_BCTHW):
        """Maps [B, C, T, H, W] to [B, features, T, H, W]."""
        # Pad time by hand and rows and columns in the convolution: the fastest way.
        return super().forward(F.pad(x_BCTHW, (0, 0, 0, 0, KERNEL - 1, 0)))


class Norm(nn.Module):
    """RMSNorm over the channels of each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=EPSILON)

    def forward(self, x_BCTHW):
        """Normalises; keeps the shape and the memory layout."""
        return self.norm(x_BCTHW.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm_0, self.norm_1 = Norm(channels), Norm(channels)
        self.conv_0, self.conv_1 = CausalConv(channels, channels), CausalConv(channels, channels)

    def forward(self, x_BCTHW):
        """Applies the block; keeps the shape."""
        h = self.conv_0(F.silu(self.norm_0(x_BCTHW)))
        return x_BCTHW + self.conv_1(F.silu(self.norm_1(h)))


class Stage(nn.Module):
    """Residual blocks."""

    def __init__(self, depth: int, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(channels) for _ in range(depth))

    def forward(self, x_BCTHW):
        """Applies the blocks; keeps the shape."""
        for block in self.blocks:
            x_BCTHW = block(x_BCTHW)
        return x_BCTHW


class Head(nn.Module):
    """Norm, SiLU and a convolution."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.norm, self.conv = Norm(channels), CausalConv(channels, features)

    def forward(self, x_BCTHW):
        """Maps [B, C, T, H, W] to [B, features, T, H, W]."""
        return self.conv(F.silu(self.norm(x_BCTHW)))


class TemporalTaps(nn.Module):
    """A linear map of the last NUM_TAPS latent frames, newest first; another one for the first."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.first = nn.Linear(channels, features)
        self.later = nn.Linear(NUM_TAPS * channels, features)

    def forward(self, x_BthwC):
        """Maps [B, t, h, w, C] to [B, t, h, w, features]."""
        length = x_BthwC.shape[1]
        x = F.pad(x_BthwC, (0, 0, 0, 0, 0, 0, NUM_TAPS - 1, 0))
        starts = range(NUM_TAPS - 1, -1, -1)
        stacked = torch.cat([x[:, start : start + length] for start in starts], dim=-1)
        return torch.cat([self.first(x_BthwC[:, :1]), self.later(stacked)[:, 1:]], dim=1)


class BlockBasis(nn.Module):
    """Whitened principal components of blocks of (frames, rows, columns); untrained."""

    def __init__(self, block_shape: tuple[int, int, int], channels: int, num_components: int):
        super().__init__()
        self.block_shape, self.channels = block_shape, channels
        size = math.prod(block_shape) * channels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(num_components, size))
        self.register_buffer("scale", torch.ones(num_components))

    def analyse(self, x_BTHWC):
        """Maps standardised video [B, 1 + n frames, H, W, C] to components [B, 1 + n, h, w, K]."""
        frames, rows, columns = self.block_shape
        first = x_BTHWC[:, :1].expand(-1, frames, -1, -1, -1)
        blocks = torch.cat([first, x_BTHWC[:, 1:]], dim=1)
        blocks = blocks.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        blocks = blocks.unflatten(1, (-1, frames)).permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)
        return (blocks - self.mean) @ self.components.T / self.scale

    def synthesize(self, c_BthwK):
        """Inverts `analyse`; the first frame is the mean of its block."""
        blocks = (c_BthwK * self.scale) @ self.components + self.mean
        x = blocks.unflatten(4, (*self.block_shape, self.channels)).permute(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.flatten(1, 2).flatten(2, 3).flatten(3, 4)
        frames = self.block_shape[0]
        return torch.cat([x[:, :frames].mean(1, keepdim=True), x[:, frames:]], dim=1)


class TorchCausalVideoVAE(torch_twin.Twin):
    """The twin of `vvae.models.causal.CausalVideoVAE`."""

    def __init__(
        self,
        *,
        block_shape: tuple[int, int, int],
        video_channels: int,
        components: int,
        width: int,
        blocks: tuple[int, int],
        latent_channels: int,
        beta: float,
        layout: torch.memory_format,
    ):
        """Makes the model.

        Args:
          block_shape: frames, rows and columns that a latent covers.
          video_channels: C of the videos.
          components: principal components of a block.
          width: channels of the networks.
          blocks: residual blocks of the encoder and of the decoder, beside the two in the middle.
          latent_channels: Z.
          beta: weight of the KL in the loss.
          layout: memory of the networks' arrays, torch.channels_last_3d or torch.contiguous_format.
        """
        super().__init__()
        self.beta, self.layout = beta, layout
        outputs, depths = 2 * latent_channels, blocks
        self.encoder = nn.Sequential(
            OrderedDict(
                conv_in=CausalConv(components, width),
                stage_0=Stage(depths[0], width),
                middle_0=ResBlock(width),
                middle_1=ResBlock(width),
                head=Head(width, outputs),
            )
        )
        self.decoder = nn.Sequential(
            OrderedDict(
                conv_in=CausalConv(latent_channels, width),
                middle_0=ResBlock(width),
                middle_1=ResBlock(width),
                stage_0=Stage(depths[1], width),
                head=Head(width, components),
            )
        )
        self.linear_encoder = TemporalTaps(components, outputs)
        self.linear_decoder = TemporalTaps(latent_channels, components)
        self.basis = BlockBasis(block_shape, video_channels, components)
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(video_channels))
        self.register_buffer("std", torch.ones(video_channels))
        self.to(memory_format=layout)

    def encode(self, x_BTHWC):
        """Maps standardised videos to mean and log-variance of q(z | x), [B, t, h, w, Z]."""
        components = self.basis.analyse(x_BTHWC)
        outputs = self._run(self.encoder, components) + self.linear_encoder(components)
        return torch_twin.split_gaussian(outputs)

    def decode(self, z_BthwZ):
        """Returns the standardised mean video [B, T, H, W, C]."""
        components = self._run(self.decoder, z_BthwZ) + self.linear_decoder(z_BthwZ)
        return self.basis.synthesize(components)

    def reconstruct(self, video_BTHWC):
        """See `Twin`."""
        posterior = self.encode(self._standardize(video_BTHWC))
        return [*posterior, self.decode(posterior[0]) * self.std + self.mean]

    def loss(self, video_BTHWC, draw=torch.randn_like):
        """See `Twin`."""
        x = self._standardize(video_BTHWC)
        posterior = self.encode(x)
        mean = self.decode(torch_twin.sample(*posterior, draw))
        kl = torch_twin.standard_kl(*posterior).sum((1, 2, 3, 4))
        log_likelihood = torch_twin.log_likelihood(x, mean, self.log_sigma, self.std.log())
        return (self.beta * kl - log_likelihood).mean()

    def _run(self, network, x_BthwC):
        x_BCthw = x_BthwC.permute(0, 4, 1, 2, 3).contiguous(memory_format=self.layout)
        return network(x_BCthw).permute(0, 2, 3, 4, 1)

    def _standardize(self, video_BTHWC):
        return (torch_twin.as_unit_range(video_BTHWC) - self.mean) / self.std
