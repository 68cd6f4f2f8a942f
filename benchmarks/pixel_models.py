"""Probabilities of 8-bit videos without latents: what the likelihood of a VAE is compared with.

What is fitted is fitted to training videos, uint8 [N, T, H, W, 1]. Measured is the log-probability
of each of other videos, in nats a video, or a lower bound on it.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae.distributions import discretized_logistic_log_prob

NUM_LOGISTICS = 3
REACH = 4  # pixels around a pixel that its distribution depends on, in each of two past frames
HIDDEN = 32
PIXELS_A_STEP = 8192
RATE = 3e-3
NUM_STEPS = 3000
LEAST_LOG_SCALE = -7.0


def measure_histogram(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns log-probabilities under a histogram for each pixel, frames independent.

    Each of the 256 values is counted once more than it occurs (Laplace's rule).
    """
    train_FD, test_FD = (a.reshape(-1, math.prod(a.shape[2:])) for a in (train, test))
    place_D = np.arange(train_FD.shape[1])
    count_DK = np.ones((len(place_D), 256), np.float64)
    for frame_D in train_FD:
        count_DK[place_D, frame_D] += 1
    log_DK = np.log(count_DK / count_DK.sum(axis=1, keepdims=True))
    log_F = np.array([log_DK[place_D, frame_D].sum() for frame_D in test_FD])
    return _sum_frames(log_F, test.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Of frames with uniform noise: mean, eigenvalues (ascending) and eigenvectors (columns)."""

    mean_D: np.ndarray
    value_D: np.ndarray
    vector_DD: np.ndarray


def fit_spectrum(train: np.ndarray) -> Spectrum:
    """Fits principal components to the frames of training videos, all of them."""
    train_FD = train.reshape(-1, math.prod(train.shape[2:]))
    mean_D = train_FD.mean(axis=0) + 0.5
    centred_FD = train_FD.astype(np.float32) + np.float32(0.5) - mean_D.astype(np.float32)
    covariance_DD = (centred_FD.T @ centred_FD).astype(np.float64) / len(centred_FD)
    covariance_DD[np.diag_indices_from(covariance_DD)] += 1 / 12  # of the uniform noise
    return Spectrum(mean_D, *np.linalg.eigh(covariance_DD))


def measure_pca(spectrum: Spectrum, test: np.ndarray, num_components: int) -> np.ndarray:
    """Returns lower bounds under a Gaussian with the covariance of probabilistic PCA of frames.

    The Gaussian is a density of real numbers. With noise u, uniform in [0, 1), the mean of
    log p(x + u) is at most log P(x), that of the Gaussian integrated over the bin of x; one u is
    drawn for each value, the same in every call.

    References:
      Tipping and Bishop, "Probabilistic Principal Component Analysis", 1999, eq. 8 and 10
      Theis, van den Oord, Bethge, "A note on the evaluation of generative models", 2016, eq. 3
    """
    test_FD = test.reshape(-1, math.prod(test.shape[2:]))
    kept_K = spectrum.value_D[-num_components:]
    kept_DK = spectrum.vector_DD[:, -num_components:]
    noise = float(spectrum.value_D[:-num_components].mean())
    random = np.random.Generator(np.random.Philox(key=[0, 2]))
    error_FD = test_FD + random.random(test_FD.shape) - spectrum.mean_D
    along_FK = error_FD @ kept_DK
    rest_F = np.square(error_FD).sum(axis=1) - np.square(along_FK).sum(axis=1)
    num_rest = test_FD.shape[1] - num_components
    log_scale = np.log(kept_K).sum() + num_rest * math.log(noise)
    distance_F = (np.square(along_FK) / kept_K).sum(axis=1) + rest_F / noise
    log_F = -0.5 * (distance_F + log_scale + test_FD.shape[1] * math.log(2 * math.pi))
    return _sum_frames(log_F, test.shape[1])


def _sum_frames(log_F: np.ndarray, num_frames: int) -> np.ndarray:
    return log_F.reshape(-1, num_frames).sum(axis=1)


# --- logistic mixture from past frames -----------------------------------------------------------


def measure_past(
    train: np.ndarray, test: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> tuple[np.ndarray, int]:
    """Returns log-probabilities under a mixture of logistics whose parameters past frames give.

    The distribution of a pixel depends on the 9x9 pixels around it in each of the two frames before
    (black before the first), by a network with one hidden layer that is the same everywhere. The
    pixels of a frame are independent of each other given these.

    Args:
      train: the videos the network is trained on.
      test: the videos that are measured.
      seed: of the weights and the order of training.
      num_steps: of Adam, with a cosine schedule.

    Returns:
      Nats a video, [N], and the number of parameters.
    """
    size = 2 * (2 * REACH + 1) ** 2
    params = PastNetwork().init(jax.random.key(seed), jnp.zeros((1, size)))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, num_steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, context_PS, x_P):
        def loss(params):
            return -_log_mixture(params, context_PS, x_P).mean()

        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    padded = pad_past(train)
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    for _ in range(num_steps):
        params, state = step(params, state, *draw_pixels(padded, train, random))

    values = [float(_score_past(params, _scale(video[..., 0])).sum()) for video in test]
    return np.array(values), sum(leaf.size for leaf in jax.tree.leaves(params))


@jax.jit
def _score_past(params, video_THW: jax.Array) -> jax.Array:
    """Returns log P of every value of a video in [-1, 1], [T, H, W]."""
    past = jnp.stack([jnp.roll(video_THW, k, axis=0).at[:k].set(-1.0) for k in (1, 2)], axis=1)
    # [T, 2 * 9 * 9, H, W]; what is filled with 0 beyond the border is black, as -1 is.
    context = jax.lax.conv_general_dilated_patches(past + 1.0, (2 * REACH + 1,) * 2, (1, 1), "SAME")
    return _log_mixture(params, jnp.moveaxis(context, 1, -1) - 1.0, video_THW)


def _scale(codes):
    """Scales 8-bit codes to [-1, 1], float32."""
    return codes.astype(np.float32) / 127.5 - 1.0


def pad_past(videos: np.ndarray) -> np.ndarray:
    """Adds two black frames before each video and a black border of 4 pixels around it, uint8."""
    return np.pad(videos[..., 0], ((0, 0), (2, 0), (REACH, REACH), (REACH, REACH)))


def draw_pixels(
    padded: np.ndarray, videos: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws pixels of training videos.

    Returns:
      Their surroundings in the frame before and in the one before that, row by row, [P, 162], and
      their values, [P]; float32 in [-1, 1].
    """
    n, t, y, x = (random.integers(size, size=PIXELS_A_STEP) for size in videos.shape[:4])
    side = np.arange(2 * REACH + 1)
    rows, columns = (y[:, None, None] + side[:, None]), (x[:, None, None] + side)
    patches = [padded[n[:, None, None], (t + 2 - k)[:, None, None], rows, columns] for k in (1, 2)]
    context_PS = np.stack(patches, axis=1).reshape(len(n), -1)
    return _scale(context_PS), _scale(videos[n, t, y, x, 0])


class PastNetwork(nn.Module):
    """Surroundings [..., S] -> logits, means and log-scales of the logistics, each [..., 3]."""

    @nn.compact
    def __call__(self, context: jax.Array) -> list[jax.Array]:
        hidden = nn.relu(nn.Dense(HIDDEN)(context))
        out = nn.Dense(3 * NUM_LOGISTICS, kernel_init=nn.initializers.normal(0.02))(hidden)
        logits, mean, log_scale = jnp.split(out, 3, axis=-1)
        spread = jnp.linspace(-1.0, 1.0, NUM_LOGISTICS)  # the means cover all values at the start
        mean = mean + jnp.broadcast_to(spread, mean.shape)
        return [logits, mean, jnp.maximum(log_scale - 2.0, LEAST_LOG_SCALE)]


def _log_mixture(params, context: jax.Array, x: jax.Array) -> jax.Array:
    """Returns log P of values, [...], given their surroundings, [..., S], in nats."""
    logits, mean, log_scale = PastNetwork().apply(params, context)
    log_prob = discretized_logistic_log_prob(mean, log_scale, x[..., None])
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_prob, axis=-1)
