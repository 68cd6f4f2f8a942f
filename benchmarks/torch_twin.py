"""What the models in PyTorch share, to be measured beside vvae's (extra `bench`).

A twin is the same function of the same parameters, for its settings and for videos without masked
frames. Its modules have the names of vvae's, by which `load_flax` copies their arrays.
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
    """A PyTorch version of one of vvae's models."""

    @abc.abstractmethod
    def reconstruct(self, video_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        """Encodes uint8 videos and decodes the posterior means.

        Returns:
          Means and log-variances of each level of the posterior, then the mean video in [-1, 1]
          units: the leaves of vvae's result, in order.
        """

    @abc.abstractmethod
    def loss(self, video_BTHWC: torch.Tensor, draw: Callable = torch.randn_like) -> torch.Tensor:
        """Computes the loss, -E[log p(x | z)] + beta KL of uint8 videos.

        Args:
          video_BTHWC: uint8.
          draw: mean of a posterior -> standard normal noise of its shape.

        Returns:
          Nats per clip, mean over the batch.
        """

    def load_flax(self, variables) -> None:
        """Copies the variables of vvae's model: params as parameters, stats as buffers."""
        load_flax(self, variables["params"] | variables["stats"])


def load_flax(module: nn.Module, arrays) -> None:
    """Takes over arrays of flax, a nested dictionary whose names are the module's."""
    module.load_state_dict(dict(_name_arrays(module, arrays)))


def make_adam(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Returns the fastest Adam of PyTorch on CPUs."""
    return torch.optim.Adam(model.parameters(), learning_rate, fused=True)


def train_step(compute_loss, optimizer: torch.optim.Optimizer, video_BTHWC) -> torch.Tensor:
    """Makes one update with the loss of a video, and returns the loss."""
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
    """Draws a reparametrised sample; `draw` gives the noise."""
    return mean + torch.exp(0.5 * logvar) * draw(mean)


def kl(q_mean, q_logvar, p_mean, p_logvar) -> torch.Tensor:
    """Computes the elementwise KL(q || p) of Gaussians, in nats."""
    ratio = torch.exp(q_logvar - p_logvar)
    distance = (q_mean - p_mean).square() * torch.exp(-p_logvar)
    return 0.5 * (p_logvar - q_logvar + ratio + distance - 1.0)


def standard_kl(mean, logvar) -> torch.Tensor:
    """Computes the elementwise KL to N(0, 1), in nats."""
    return 0.5 * (mean.square() + torch.exp(logvar) - logvar - 1.0)


def log_likelihood(x_BTHWC, mean_BTHWC, log_sigma, log_std) -> torch.Tensor:
    """Computes the log-density of videos over their 8-bit values, in nats per clip, [B].

    Args:
      x_BTHWC: standardised videos.
      mean_BTHWC: the means of their distribution.
      log_sigma: the learned parameter, a number.
      log_std: log of what the videos were divided by, in [-1, 1] units; a number, or [C].
    """
    floor = math.log(2.0 / 256.0) - log_std
    log_sigma = floor + F.softplus(log_sigma - floor)
    error_BC = (x_BTHWC - mean_BTHWC).square().sum((1, 2, 3)) * torch.exp(-2 * log_sigma)
    width = log_sigma + log_std + math.log(127.5) + 0.5 * math.log(2 * math.pi)
    return -(0.5 * error_BC + x_BTHWC[0, ..., 0].numel() * width).sum(1)


def _name_arrays(module: nn.Module, tree, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name in the twin, array) for each array of a part of vvae's variables."""
    for name, value in tree.items():
        if not isinstance(value, dict):
            # Only PyTorch's own layers name parameters differently: a kernel and a norm's scale.
            is_weight = not hasattr(module, name)
            array = _to_torch_layout(module, np.array(value)) if is_weight else np.array(value)
            yield f"{prefix}{'weight' if is_weight else name}", torch.from_numpy(array)
            continue
        part = module.get_submodule(name)
        if not isinstance(part, nn.ModuleList):
            yield from _name_arrays(part, value, f"{prefix}{name}.")
            continue
        # vvae scans over equal blocks and stacks their arrays.
        for number, block in enumerate(part):
            one = _take(value, number)
            yield from _name_arrays(block, one, f"{prefix}{name}.{number}.")


def _take(tree, number: int):
    if isinstance(tree, dict):
        return {name: _take(value, number) for name, value in tree.items()}
    return tree[number]


def _to_torch_layout(module: nn.Module, array: np.ndarray) -> np.ndarray:
    """Reorders kernels: flax has [.., in, out], PyTorch [out, in, ..], transposed [in, out, ..]."""
    if array.ndim < 2:
        return array
    if isinstance(module, nn.ConvTranspose2d):
        return np.ascontiguousarray(array.transpose(2, 3, 0, 1))
    return np.ascontiguousarray(
        array.transpose(-1 % array.ndim, -2 % array.ndim, *range(array.ndim - 2))
    )
