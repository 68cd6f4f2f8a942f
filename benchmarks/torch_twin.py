"""SequentialVAE written in PyTorch, to be measured beside vvae's (extra `bench`).

The same function of the same parameters, for prior="static" and otherwise the default settings,
with all frames valid. Arrays are [N, C, H, W] in
channels_last memory, PyTorch's fast layout for convolutions on CPUs.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LOGVAR_LIMIT = 14.0


class TorchSequentialVAE(nn.Module):
    """The twin of `vvae.models.sequential.SequentialVAE`; its modules bear the same names."""

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

    def encode(self, x_BTHWC):
        """Returns the means and log-variances of q(z | x) [B, T, Z] and q(w | x) [B, W]."""
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
        """Returns the mean video [B, T, H, W, C]."""
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

    def loss(self, video_BTHWC):
        """Negative ELBO of uint8 videos, nats per clip, mean over the batch."""
        x = video_BTHWC.float() / 127.5 - 1.0
        frame, clip = self.encode(x)
        z, w = _sample(*frame), _sample(*clip)
        floor = math.log(2.0 / 256.0)
        log_sigma = floor + F.softplus(self.log_sigma - floor)
        error = (x - self.decode(z, w)).square().sum((1, 2, 3, 4)) * torch.exp(-2 * log_sigma)
        log_likelihood = -0.5 * error - x[0].numel() * (log_sigma + 0.5 * math.log(2 * math.pi))
        prior_mean, prior_logvar = self.prior(w)
        frame_kl = _kl(*frame, prior_mean[:, None], prior_logvar[:, None]).sum((1, 2))
        clip_kl = _kl(*clip, torch.zeros(()), torch.zeros(())).sum(1)
        return (frame_kl + clip_kl - log_likelihood).mean()

    def load_flax(self, params) -> None:
        """Takes over the parameters of the twin, a nested dictionary of arrays."""
        state = {}
        for path, array in _flatten(params):
            name, leaf = path.rpartition(".")[::2]
            leaf = "weight" if leaf == "kernel" else leaf
            module = self.get_submodule(name)
            state[f"{name}.{leaf}".lstrip(".")] = torch.from_numpy(_to_torch_layout(module, array))
        self.load_state_dict(state)


def make_adam(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """The fastest Adam that PyTorch has on CPUs."""
    return torch.optim.Adam(model.parameters(), learning_rate, fused=True)


def train_step(compute_loss, optimizer: torch.optim.Optimizer, video_BTHWC) -> torch.Tensor:
    """Makes one update by the loss of a video and returns it."""
    optimizer.zero_grad(set_to_none=True)
    loss = compute_loss(video_BTHWC)
    loss.backward()
    optimizer.step()
    return loss


def _apply_head(head, x):
    mean, logvar = head["dense"](x).chunk(2, -1)
    return mean, logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)


def _sample(mean, logvar):
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)


def _kl(q_mean, q_logvar, p_mean, p_logvar):
    ratio = torch.exp(q_logvar - p_logvar)
    distance = (q_mean - p_mean).square() * torch.exp(-p_logvar)
    return 0.5 * (p_logvar - q_logvar + ratio + distance - 1.0)


def _flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", np.array(value)


def _to_torch_layout(module: nn.Module, array: np.ndarray) -> np.ndarray:
    """Kernels are [.., in, out] in flax; PyTorch wants [out, in, ..], transposed [in, out, ..]."""
    if array.ndim < 2:
        return array
    if isinstance(module, nn.ConvTranspose2d):
        return np.ascontiguousarray(array.transpose(2, 3, 0, 1))
    return np.ascontiguousarray(
        array.transpose(-1 % array.ndim, -2 % array.ndim, *range(array.ndim - 2))
    )
