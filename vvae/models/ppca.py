"""Initialises the linear path of a model with probabilistic PCA, the optimum of a linear VAE.

For x = W z + mean + noise of variance s2, z ~ N(0, I), the maximum-likelihood W and the exact
posterior follow from the K largest eigenvalues l_k and eigenvectors u_k of the data's covariance:

    W_k = sqrt(l_k - s2) u_k          s2 = mean of the other eigenvalues
    q(z_k | x) = N(sqrt(l_k - s2) / l_k  u_k . (x - mean),  s2 / l_k)

Training continues from there, so that it need not spend its first minutes on learning PCA, and no
latent starts collapsed.

With a KL of weight b the same equations hold with b s2 in place of s2, where s2 is the mean squared
error. Components with a variance below b s2 are not worth their rate and start unused, as in
reverse water-filling.

References:
  Tipping and Bishop, Probabilistic Principal Component Analysis, 1999, eqs. 7, 8 and 12.
  Lucas et al., Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse, 2019.
  Cover and Thomas, Elements of Information Theory, 2006, section 10.3.3 (reverse water-filling).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

# Initial scale of the networks' outputs, relative to their usual initialisation.
_NETWORK_SCALE = 0.1
_LEAST_ERROR = 1e-6
_BALANCE_ROUNDS = 200


@dataclasses.dataclass(frozen=True)
class FrameSpectrum:
    """Principal components of the frames, in standardised units.

    Attributes:
      components_KD: orthonormal rows, by decreasing variance; D = H * W * C.
      variance_K: variance along each.
      residual: mean variance of the other D - K directions.
    """

    components_KD: np.ndarray
    variance_K: np.ndarray
    residual: float


def start_at_ppca(model: nn.Module, params: dict, stats: dict, spectrum: FrameSpectrum) -> dict:
    """Returns fresh parameters whose linear path is PPCA of the training frames.

    Args:
      model: a SequentialVAE with linear=True.
      params: fresh parameters.
      stats: the standardisation, whose `std` sets the floor of sigma.
      spectrum: of the standardised training frames. If it has fewer than latent_dim components, the
        remaining latents start unused.
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


@dataclasses.dataclass(frozen=True)
class BlockPCA:
    """All principal components of blocks of pixels (`vvae.models.block_pca`), in the blocks' units.

    Attributes:
      mean_D: mean block.
      components_DD: orthonormal rows, by decreasing variance.
      variance_D: variance along each.
    """

    mean_D: np.ndarray
    components_DD: np.ndarray
    variance_D: np.ndarray


def decompose(mean_D: np.ndarray, covariance_DD: np.ndarray) -> BlockPCA:
    """Returns the principal components of a distribution, float64."""
    variance_D, vectors_DD = np.linalg.eigh(covariance_DD)
    return BlockPCA(mean_D, vectors_DD[:, ::-1].T, np.maximum(variance_D[::-1], 0.0))


def whiten_blocks(pca: BlockPCA, stats: dict, num_components: int) -> tuple[dict, np.ndarray]:
    """Adds the basis of blocks to the standardisation of a CausalVideoVAE with the stem "pca".

    Args:
      pca: of blocks in 8-bit units.
      stats: `mean` and `std` of each channel.
      num_components: K.

    Returns:
      (stats, variance_D): the stats with `basis`, and the variance along each principal component
      of standardised blocks, decreasing.
    """
    repeats = len(pca.mean_D) // len(stats["std"])
    scale_D = np.tile(127.5 * np.asarray(stats["std"], np.float64), repeats)
    centre_D = np.tile(127.5 * (1.0 + np.asarray(stats["mean"], np.float64)), repeats)
    roots_DD = np.sqrt(pca.variance_D)[:, None] * pca.components_DD / scale_D
    pca = decompose((pca.mean_D - centre_D) / scale_D, roots_DD.T @ roots_DD)
    least = np.sqrt(_LEAST_ERROR)
    basis = {
        "mean": pca.mean_D,
        "components": pca.components_DD[:num_components],
        "scale": np.maximum(np.sqrt(pca.variance_D[:num_components]), least),
    }
    basis = {name: jnp.asarray(array, jnp.float32) for name, array in basis.items()}
    return {**stats, "basis": basis}, pca.variance_D


def start_blocks_at_ppca(
    model: nn.Module, params: dict, stats: dict, variance_D: np.ndarray, beta: float
) -> dict:
    """Returns fresh parameters whose linear path is PPCA of blocks of the training videos.

    Each block is coded by itself at first. Training learns what previous blocks tell about it.

    Args:
      model: a CausalVideoVAE with the stem "pca" and Gaussian latents.
      params: fresh parameters.
      stats: from `whiten_blocks`.
      variance_D: from `whiten_blocks`.
      beta: weight of the KL in training.
    """
    num_latents = model.bottleneck.channels
    num_used = min(num_latents, model.components)
    error = _balance_error(variance_D, num_used, beta)
    # Components are whitened: the signal and the noise variance of a latent add up to 1.
    noise_Z = np.ones(num_latents)
    noise_Z[:num_used] = beta * error / np.maximum(variance_D[:num_used], beta * error)
    kernel_ZK = np.eye(num_latents, model.components) * np.sqrt(1.0 - noise_Z)[:, None]
    encoder = np.hstack([kernel_ZK.T, 0.0 * kernel_ZK.T])  # means, then logvars
    logvar_Z = np.concatenate([0.0 * noise_Z, np.log(noise_Z)])
    return params | {
        "encoder": _scale_head(params["encoder"]),
        "decoder": _scale_head(params["decoder"]),
        "linear_encoder": _start_taps(params["linear_encoder"], encoder, logvar_Z),
        "linear_decoder": _start_taps(params["linear_decoder"], kernel_ZK, 0.0),
        "log_sigma": _invert_floor(0.5 * np.log(error), float(np.mean(stats["std"]))),
    }


def _balance_error(variance_D: np.ndarray, num_used: int, beta: float) -> float:
    """Returns the smallest mean squared error e left by water-filling up to beta e."""
    kept, rest = np.split(variance_D, [num_used])
    level = 0.0
    for _ in range(_BALANCE_ROUNDS):  # the level never falls, so it converges to the smallest
        error = (np.minimum(kept, level).sum() + rest.sum()) / len(variance_D)
        level = beta * max(error, _LEAST_ERROR)
    return level / beta


def _scale_head(network: dict) -> dict:
    conv = network["head"]["conv"]
    conv = conv | {"kernel": conv["kernel"] * _NETWORK_SCALE}
    return network | {"head": network["head"] | {"conv": conv}}


def _start_taps(params: dict, kernel: np.ndarray, bias) -> dict:
    """Fills in the map of `TemporalTaps` so that only the newest latent frame counts."""
    started = {}
    for name, layer in params.items():
        whole = np.zeros(layer["kernel"].shape)
        whole[: len(kernel)] = kernel
        started[name] = {
            "kernel": jnp.asarray(whole, jnp.float32),
            "bias": jnp.zeros_like(layer["bias"]) + jnp.asarray(bias, jnp.float32),
        }
    return started


def _invert_floor(log_sigma: float, std: float):
    """Returns the parameter whose softly floored log_sigma is the given one."""
    floor = np.log(2.0 / 256.0) - np.log(std)
    above = max(log_sigma - floor, 1e-2)
    return jnp.float32(floor + np.log(np.expm1(above)))
