"""SequentialVAE in PyTorch: for prior="static" and otherwise the default settings.

Arrays are [N, C, H, W] in channels_last memory, PyTorch's fast layout for convolutions on CPUs.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_twin


class TorchSequentialVAE(torch_twin.Twin):
    """The twin of `vvae.models.sequential.SequentialVAE`."""

    def __init__(self, shape_HWC, widths, hidden, latent_dim, clip_latent_dim):
        super().__init__()
        height, width, channels = shape_HWC
        scale = 2 ** len(widths)
        self.grid = (height // scale, width // scale, widths[-1])
        halve = {"kernel_size": 4, "stride": 2, "padding": 1}
        image_widths = (channels, *widths[:-1])
        self.encoder = nn.ModuleDict(
            {
                f"down_{i}": nn.Conv2d(c, f, **halve)
                for i, (c, f) in enumerate(zip(image_widths, widths))
            }
        )
        self.encoder["dense"] = nn.Linear(math.prod(self.grid), hidden)
        num_pixels = math.prod(shape_HWC)
        self.linear_encoder = nn.Linear(num_pixels, latent_dim, bias=False)
        self.linear_decoder = nn.Linear(latent_dim, num_pixels, bias=False)
        self.frame_head = nn.ModuleDict({"dense": nn.Linear(hidden, 2 * latent_dim)})
        self.clip_encoder = nn.ModuleDict(
            {
                "conv": nn.Conv1d(2 * latent_dim, 64, 4),
                "head": nn.ModuleDict({"dense": nn.Linear(64, 2 * clip_latent_dim)}),
            }
        )
        self.static_prior = nn.ModuleDict(
            {
                "dense": nn.Linear(clip_latent_dim, 128),
                "head": nn.ModuleDict({"dense": nn.Linear(128, 2 * latent_dim)}),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "dense_0": nn.Linear(latent_dim + clip_latent_dim, hidden),
                "dense_1": nn.Linear(hidden, math.prod(self.grid)),
            }
        )
        for i, (c, f) in enumerate(zip(image_widths, widths)):
            self.decoder[f"up_{i}"] = nn.ConvTranspose2d(f, c, **halve)
        self.num_levels = len(widths)
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(shape_HWC))
        self.register_buffer("std", torch.ones(()))
        self.to(memory_format=torch.channels_last)

    def encode(self, x_BTHWC):
        """Maps standardised videos to mean, log-variance of q(z | x) [B, T, Z], q(w | x) [B, W]."""
        batch, length = x_BTHWC.shape[:2]
        h = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
        for i in range(self.num_levels):
            h = F.silu(self.encoder[f"down_{i}"](h))
        h = F.silu(self.encoder["dense"](h.permute(0, 2, 3, 1).flatten(1)))
        mean, logvar = _apply_head(self.frame_head, h.view(batch, length, -1))
        frame = mean + self.linear_encoder(x_BTHWC.flatten(2)), logvar
        past = F.pad(torch.cat(frame, -1).transpose(1, 2), (3, 0))
        pooled = F.silu(self.clip_encoder["conv"](past)).mean(2)
        return frame, _apply_head(self.clip_encoder["head"], pooled)

    def decode(self, z_BTZ, w_BW):
        """Returns the standardised mean video [B, T, H, W, C]."""
        batch, length = z_BTZ.shape[:2]
        w_BTW = w_BW[:, None].expand(-1, length, -1)
        h = F.silu(self.decoder["dense_0"](torch.cat((z_BTZ, w_BTW), -1).flatten(0, 1)))
        h = F.silu(self.decoder["dense_1"](h)).view(-1, *self.grid).permute(0, 3, 1, 2)
        for i in reversed(range(self.num_levels)):
            h = self.decoder[f"up_{i}"](h if i == self.num_levels - 1 else F.silu(h))
        video = h.permute(0, 2, 3, 1).unflatten(0, (batch, length))
        return video + self.linear_decoder(z_BTZ).view(video.shape)

    def prior(self, w_BW):
        """Returns the mean and log-variance of p(z_t | w), [B, Z]."""
        return _apply_head(self.static_prior["head"], F.silu(self.static_prior["dense"](w_BW)))

    def reconstruct(self, video_BTHWC):
        """See `Twin`."""
        frame, clip = self.encode(self._standardize(video_BTHWC))
        return [*frame, *clip, self.decode(frame[0], clip[0]) * self.std + self.mean]

    def loss(self, video_BTHWC, draw=torch.randn_like):
        """See `Twin`; beta is 1."""
        x = self._standardize(video_BTHWC)
        frame, clip = self.encode(x)
        z, w = (torch_twin.sample(*level, draw) for level in (frame, clip))
        prior_mean, prior_logvar = self.prior(w)
        frame_kl = torch_twin.kl(*frame, prior_mean[:, None], prior_logvar[:, None]).sum((1, 2))
        clip_kl = torch_twin.standard_kl(*clip).sum(1)
        mean = self.decode(z, w)
        log_likelihood = torch_twin.log_likelihood(x, mean, self.log_sigma, self.std.log())
        return (frame_kl + clip_kl - log_likelihood).mean()

    def _standardize(self, video_BTHWC):
        return (torch_twin.as_unit_range(video_BTHWC) - self.mean) / self.std


def _apply_head(head, x):
    return torch_twin.split_gaussian(head["dense"](x))
