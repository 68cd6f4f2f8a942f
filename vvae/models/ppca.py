"""Starts the linear path of a SequentialVAE at probabilistic PCA, where a linear VAE would end.

For x = W z + mean + noise of variance s2, z ~ N(0, I), the maximum-likelihood W and the exact
posterior follow from the K largest eigenvalues l_k and eigenvectors u_k of the data's covariance
(Tipping and Bishop 1999, eqs. 7, 8 and 12):

    W_k = sqrt(l_k - s2) u_k          s2 = mean of the other eigenvalues
    q(z_k | x) = N(sqrt(l_k - s2) / l_k  u_k . (x - mean),  s2 / l_k)

Training goes on from there, so that it need not spend its first minutes on what PCA knows, and no
latent begins collapsed (every linear VAE's optimum is PPCA: Lucas et al. 2019).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vvae.models.sequential import SequentialVAE

# What the networks add to the linear path at first.
_NETWORK_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class FrameSpectrum:
    """Principal components of the frames, in standardised units.

    Attributes:
      components_KD: orthonormal rows, by falling variance; D = H * W * C.
      variance_K: variance along each.
      residual: mean variance of the other D - K directions.
    """

    components_KD: np.ndarray
    variance_K: np.ndarray
    residual: float


def start_at_ppca(model: SequentialVAE, params: dict, stats: dict, spectrum: FrameSpectrum) -> dict:
    """Returns fresh parameters whose linear path is PPCA of the training frames.

    Args:
      model: with linear=True.
      params: fresh parameters.
      stats: the standardisation, of which `std` sets the floor of sigma.
      spectrum: of the standardised training frames; with fewer than latent_dim components, the
        other latents begin unused.
    """
    residual = max(spectrum.residual, 1e-6)
    variance_K = np.maximum(spectrum.variance_K, residual * (1 + 1e-3))
    gain_K = np.sqrt(variance_K - residual)
    missing = model.latent_dim - len(variance_K)
    encoder_DZ = np.pad((gain_K / variance_K) * spectrum.components_KD.T, ((0, 0), (0, missing)))
    decoder_ZD = np.pad(gain_K[:, None] * spectrum.components_KD, ((0, missing), (0, 0)))
    logvar_Z = np.pad(np.log(residual / variance_K), (0, missing))
    head = params["frame_head"]["dense"]
    kernel = head["kernel"] * _NETWORK_SCALE
    bias = head["bias"].at[model.latent_dim :].set(logvar_Z)
    last_name = "up_0" if model.widths else "dense_1"
    last = params["decoder"][last_name]
    last = last | {"kernel": last["kernel"] * _NETWORK_SCALE}
    return params | {
        "linear_encoder": {"kernel": jnp.asarray(encoder_DZ, jnp.float32)},
        "linear_decoder": {"kernel": jnp.asarray(decoder_ZD, jnp.float32)},
        "frame_head": {"dense": {"kernel": kernel, "bias": bias}},
        "decoder": params["decoder"] | {last_name: last},
        "log_sigma": _invert_floor(0.5 * np.log(residual), float(stats["std"])),
    }


def _invert_floor(log_sigma: float, std: float):
    """The parameter for which the softly floored log_sigma is the given one."""
    floor = np.log(2.0 / 256.0) - np.log(std)
    above = max(log_sigma - floor, 1e-2)
    return jnp.float32(floor + np.log(np.expm1(above)))
