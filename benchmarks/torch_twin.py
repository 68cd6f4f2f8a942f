"""What the models written in PyTorch have in common, to be measured beside vvae's (extra `bench`).

A twin is the same function of the same parameters, for the settings it is made with and all frames
valid. Its modules bear the names of vvae's, by which `load_flax` takes over their arrays.
"""

import abc
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LOGVAR_LIMIT = 14.0


class Twin(nn.Module, abc.ABC):
    """A model in PyTorch that vvae has too."""

    @abc.abstractmethod
    def reconstruct(self, video_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        """Encodes uint8 videos and decodes the posterior means.

        Returns:
          Means and log-variances of each level of the posterior, then the mean video in [-1, 1]
          units: the leaves of what vvae gives, in their order.
        """

    @abc.abstractmethod
    def loss(self, video_BTHWC: torch.Tensor, draw: Callable = torch.randn_like) -> torch.Tensor:
        """-E[log p(x | z)] + beta KL of uint8 videos, nats per clip, mean over the batch.

        Args:
          video_BTHWC: uint8.
          draw: mean of a posterior -> standard normal noise of its shape.
        """

    def load_flax(self, variables) -> None:
        """Takes over the variables of vvae's model: params as parameters, stats as buffers."""
        load_flax(self, variables["params"] | variables["stats"])


def load_flax(module: nn.Module, arrays) -> None:
    """Takes over arrays of flax, a nested dictionary whose names are the module's."""
    module.load_state_dict(dict(_name_arrays(module, arrays)))


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


def as_unit_range(video: torch.Tensor) -> torch.Tensor:
    """Returns a uint8 video as float in [-1, 1]."""
    return video.float() / 127.5 - 1.0


def split_gaussian(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads [..., 2Z] as means and log-variances."""
    mean, logvar = outputs.chunk(2, -1)
    return mean, logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)


def sample(mean, logvar, draw: Callable) -> torch.Tensor:
    """Reparametrised sample; draw gives the noise."""
    return mean + torch.exp(0.5 * logvar) * draw(mean)


def kl(q_mean, q_logvar, p_mean, p_logvar) -> torch.Tensor:
    """Elementwise KL(q || p) of Gaussians, nats."""
    ratio = torch.exp(q_logvar - p_logvar)
    distance = (q_mean - p_mean).square() * torch.exp(-p_logvar)
    return 0.5 * (p_logvar - q_logvar + ratio + distance - 1.0)


def standard_kl(mean, logvar) -> torch.Tensor:
    """Elementwise KL to N(0, 1), nats."""
    return 0.5 * (mean.square() + torch.exp(logvar) - logvar - 1.0)


def log_likelihood(x_BTHWC, mean_BTHWC, log_sigma, log_std) -> torch.Tensor:
    """Log-density of videos over their 8-bit values, nats per clip, [B].

    Args:
      x_BTHWC, mean_BTHWC: standardised videos, and the means of their distribution.
      log_sigma: the learned parameter, a number.
      log_std: log of what the videos were divided by, in [-1, 1] units; a number, or [C].
    """
    floor = math.log(2.0 / 256.0) - log_std
    log_sigma = floor + F.softplus(log_sigma - floor)
    error_BC = (x_BTHWC - mean_BTHWC).square().sum((1, 2, 3)) * torch.exp(-2 * log_sigma)
    width = log_sigma + log_std + math.log(127.5) + 0.5 * math.log(2 * math.pi)
    return -(0.5 * error_BC + x_BTHWC[0, ..., 0].numel() * width).sum(1)


def _name_arrays(module: nn.Module, tree, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name in the twin, array) of each array of a part of vvae's variables."""
    for name, value in tree.items():
        if not isinstance(value, dict):
            # Only PyTorch's own layers call a parameter otherwise: a kernel and a norm's scale.
            is_weight = not hasattr(module, name)
            array = _to_torch_layout(module, np.array(value)) if is_weight else np.array(value)
            yield f"{prefix}{'weight' if is_weight else name}", torch.from_numpy(array)
            continue
        part = module.get_submodule(name)
        if not isinstance(part, nn.ModuleList):
            yield from _name_arrays(part, value, f"{prefix}{name}.")
            continue
        # vvae scans over equal blocks, whose arrays are stacked.
        for number, block in enumerate(part):
            one = _take(value, number)
            yield from _name_arrays(block, one, f"{prefix}{name}.{number}.")


def _take(tree, number: int):
    if isinstance(tree, dict):
        return {name: _take(value, number) for name, value in tree.items()}
    return tree[number]


def _to_torch_layout(module: nn.Module, array: np.ndarray) -> np.ndarray:
    """Kernels are [.., in, out] in flax; PyTorch wants [out, in, ..], transposed [in, out, ..]."""
    if array.ndim < 2:
        return array
    if isinstance(module, nn.ConvTranspose2d):
        return np.ascontiguousarray(array.transpose(2, 3, 0, 1))
    return np.ascontiguousarray(
        array.transpose(-1 % array.ndim, -2 % array.ndim, *range(array.ndim - 2))
    )
