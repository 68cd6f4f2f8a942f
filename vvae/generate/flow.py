"""Flow matching on latents: its loss, and the integration of its velocity from noise to latents.

A network predicts the velocity of the straight path from noise to latents, z_s = (1 - s) noise +
s z, from z_s. Following it from s = 0 to 1 turns noise into latents. Latent frames that are known
stay at s = 1, so that the same network continues videos.

All functions are pure; latents are normalised by `stats`, {"mean": [Z], "std": [Z]}.

References:
  Lipman et al., Flow Matching for Generative Modeling, 2023.
  Chen et al., Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion, 2024.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vvae.generate.network import LatentTransformer, Past

Variables = dict
_POSTERIOR, _NOISE, _TIME, _PREFIX, _LABEL = range(5)  # streams of a training example's key


@dataclass(frozen=True)
class Training:
    """What the loss draws beside noise.

    Attributes:
      known: share of examples that begin with known latent frames, at least one.
      class_dropout: share of examples whose class is hidden, which guidance needs.
    """

    known: float = 0.5
    class_dropout: float = 0.1


@dataclass(frozen=True)
class Sampling:
    """How latents are drawn.

    Attributes:
      num_steps: steps of Heun's method, two evaluations of the network each (the last one a single
        one).
      guidance: 1 for the conditional velocity; more exaggerates what the class changes, and takes
        twice the time.
      window: largest number of latent frames, generated ones included, that a frame depends on; as
        many as in training.
      piece: latent frames that are drawn together after the first window.

    References:
      Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
    """

    num_steps: int = 25
    guidance: float = 1.0
    window: int = 5
    piece: int = 2

    def __post_init__(self):
        if self.num_steps < 1 or self.window < 1:
            raise ValueError(
                f"num_steps={self.num_steps}, window={self.window}: must be at least 1"
            )
        if not 1 <= self.piece <= max(1, self.window - 1):
            raise ValueError(
                f"piece={self.piece}: must be between 1 and window - 1 = {self.window - 1}"
            )


# --- training ------------------------------------------------------------------------------------


def flow_loss(
    model: LatentTransformer, training: Training, variables: Variables, batch, key
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean of `flow_losses`, and metrics: {"loss"}."""
    loss = flow_losses(model, training, variables, batch, key).mean()
    return loss, {"loss": loss}


def flow_losses(
    model: LatentTransformer, training: Training, variables: Variables, batch, key
) -> jax.Array:
    """Returns the loss of each example of a batch.

    Args:
      model: the network.
      training: what is drawn beside noise.
      variables: {"params": ..., "stats": {"mean": [Z], "std": [Z]}}.
      batch: `mean` and `std` [B, t, h, w, Z] of posteriors, of which samples are drawn; `label`
        int32 [B], negative where there is none; `index` int32 [B], which the noise depends on.
      key: of the step.

    Returns:
      [B]: the mean of the squared error of the velocity over the numbers of the latent frames that
      are not known. A network that always predicts 0 has about 2.
    """
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    draw = jax.vmap(functools.partial(_draw_example, training, model.num_classes))
    posterior = (batch["mean"].astype(jnp.float32), batch["std"].astype(jnp.float32))
    z, noise, time_Bt, known_Bt, label_B = draw(key_B, *posterior, batch["label"])
    z = normalize(variables["stats"], z)
    lift = time_Bt[..., None, None, None]
    noisy = (1 - lift) * noise + lift * z
    velocity, _ = model.apply(variables, noisy, time_Bt, label_B)
    error_Bt = jnp.square(velocity - (z - noise)).mean((-3, -2, -1))
    weight_Bt = 1.0 - known_Bt
    return (error_Bt * weight_Bt).sum(1) / weight_Bt.sum(1)


def _draw_example(training: Training, num_classes: int, key, mean_thwZ, std_thwZ, label):
    """Draws latents, noise, times and what is known of one example."""
    keys = [jax.random.fold_in(key, number) for number in range(5)]
    z = mean_thwZ + std_thwZ * jax.random.normal(keys[_POSTERIOR], mean_thwZ.shape)
    noise = jax.random.normal(keys[_NOISE], mean_thwZ.shape)
    num_frames = mean_thwZ.shape[0]
    has_past, where = jax.random.uniform(keys[_PREFIX], (2,))
    # At least one frame is known, and at least one is not.
    count = 1 + jnp.floor(where * (num_frames - 1))
    count = jnp.where((has_past < training.known) & (num_frames > 1), count, 0)
    known_t = (jnp.arange(num_frames) < count).astype(jnp.float32)
    time = jax.nn.sigmoid(jax.random.normal(keys[_TIME]))
    time_t = jnp.maximum(known_t, time)
    is_hidden = jax.random.uniform(keys[_LABEL]) < training.class_dropout
    label = jnp.where(is_hidden | (label < 0), num_classes, label)
    return z, noise, time_t, known_t, label


def normalize(stats, z: jax.Array) -> jax.Array:
    """Returns latents [..., Z] with mean 0 and variance 1 in each channel."""
    mean, std = _lift(stats, z.ndim)
    return (z - mean) / std


def unnormalize(stats, z: jax.Array) -> jax.Array:
    """Returns what `normalize` was given."""
    mean, std = _lift(stats, z.ndim)
    return z * std + mean


def _lift(stats, num_axes: int) -> tuple[jax.Array, jax.Array]:
    shape = (1,) * (num_axes - 1) + (-1,)
    return stats["mean"].reshape(shape), stats["std"].reshape(shape)


# --- sampling ------------------------------------------------------------------------------------


def integrate(velocity: Callable[[jax.Array, jax.Array], jax.Array], z, num_steps: int):
    """Follows a velocity from time 0 to 1 by Heun's method, whose error falls with num_steps^-2.

    Args:
      velocity: (z, time scalar) -> velocity of the shape of z.
      z: where to begin: noise.
      num_steps: steps of equal length; the last one is Euler's, which evaluates no velocity at 1.

    References:
      Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
      Algorithm 1.
    """
    length = 1.0 / num_steps

    def step(number, z):
        time = number * length
        slope = velocity(z, time)
        ahead = velocity(z + length * slope, time + length)
        return z + 0.5 * length * (slope + ahead)

    z = jax.lax.fori_loop(0, num_steps - 1, step, z)
    return z + length * velocity(z, (num_steps - 1) * length)


def sample_latents(
    model: LatentTransformer,
    variables: Variables,
    key_B: jax.Array,
    label_B: jax.Array,
    shape_thw: tuple[int, int, int],
    sampling: Sampling = Sampling(),
) -> jax.Array:
    """Draws latents of whole videos.

    The first `window` latent frames are drawn together; later ones in pieces, each given the frames
    before it within the window. What is drawn does not change when more frames follow.

    Args:
      model: the network.
      variables: its parameters and the normalisation; see `flow_loss`.
      key_B: one a video; what is drawn depends on no other.
      label_B: int32, one a video; model.num_classes for any class.
      shape_thw: latent frames, rows and columns; any number of frames.
      sampling: how they are drawn.

    Returns:
      Float32 [B, t, h, w, Z], in the units of the batches of `flow_loss`.
    """
    num_frames, height, width = shape_thw
    label_B = jnp.asarray(label_B, jnp.int32)
    past, pieces, start = None, [], 0
    while start < num_frames:
        length = sampling.window if start == 0 else sampling.piece
        shape = (length, height, width, model.channels)
        noise = _draw_noise(key_B, start, shape)
        piece, past = _draw_piece(model, sampling, variables, noise, label_B, past)
        pieces.append(piece)
        start += length
    z = jnp.concatenate(pieces, axis=1)[:, :num_frames]
    return unnormalize(variables["stats"], z)


def _draw_noise(key_B: jax.Array, start: int, shape: tuple[int, ...]) -> jax.Array:
    """Returns noise [B, *shape] of the latent frames from `start` on."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, start), shape))(key_B)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw_piece(model, sampling: Sampling, variables, noise, label_B, past):
    """Returns the next latent frames, and the keys and values that the next piece needs."""
    shape_Bt = noise.shape[:2]
    is_guided = sampling.guidance != 1.0
    if is_guided:  # with and without the class, side by side
        label_B = jnp.concatenate([label_B, jnp.full_like(label_B, model.num_classes)])

    def evaluate(z, time):
        z = jnp.concatenate([z, z]) if is_guided else z
        time_Bt = jnp.full((len(z), shape_Bt[1]), time)
        return model.apply(variables, z, time_Bt, label_B, past)

    def velocity(z, time):
        v, _ = evaluate(z, time)
        if not is_guided:
            return v
        given, any_class = jnp.split(v, 2)
        return any_class + sampling.guidance * (given - any_class)

    z = integrate(velocity, noise, sampling.num_steps)
    _, present = evaluate(z, 1.0)
    return z, _keep_last(present, sampling.window - sampling.piece)


def _keep_last(past: Past, count: int) -> Past:
    return jax.tree.map(lambda a: a[:, max(0, a.shape[1] - count) :], past)
