"""Supervised fine-tuning of the encoder with a linear head, from trained or fresh weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import softmax

from vvae.data.clips import Clips
from vvae.measure.mapping import map_clips
from vvae.models import contract
from vvae.models.sequential import SequentialVAE
from vvae.tasks.pooling import POOLINGS

LEARNING_RATES = (3e-4, 1e-3)
STOPS = (0.25, 0.5, 1.0)  # fractions of the steps after which a choice is evaluated
HELD_OUT_SHARE = 0.2  # of the groups of the training videos
WEIGHT_DECAY = 1e-4
CLIP_NORM = 1.0
_STREAM = 2**31  # the random streams of batches start here; that of the held-out groups is 0


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What a fine-tuning starts from and learns from.

    Attributes:
      model: a SequentialVAE.
      params: its variables at the start: those of a trained run, or fresh ones.
      clips: the training clips.
      label_V: class number 0, ..., K-1 of each of their videos, -1 for none.
      num_classes: K.
      pooling: how the latents of a clip become one vector.
      batch_size: clips per step.
      seed: seed of the held-out groups and of the batches.
    """

    model: SequentialVAE
    params: dict
    clips: Clips
    label_V: np.ndarray
    num_classes: int
    pooling: str
    batch_size: int
    seed: int

    def pool(self, params, video_BTHWC, mask_BT) -> jax.Array:
        """Returns the pooled latents of clips, [B, F]."""
        return _pool(self.model, params, self.pooling, video_BTHWC, mask_BT)


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned encoder and its head.

    Attributes:
      params: variables of the model; the decoder and the priors are unchanged.
      head: `mean`, `scale` [F] standardise the pooled latents, `weight` [F, K], `bias` [K].
      num_steps: the chosen number of steps.
      learning_rate: the chosen learning rate.
      accuracy: top-1 accuracy on the held-out videos by which both were chosen, in [0, 1].
    """

    params: dict
    head: dict[str, jax.Array]
    num_steps: int
    learning_rate: float
    accuracy: float


def hold_out_groups(group_V: np.ndarray, seed: int) -> np.ndarray:
    """Draws a fifth of the groups, at least one; returns bool [V], True for videos in them.

    Raises:
      ValueError: if there is only one group.
    """
    groups = np.unique(group_V)
    if len(groups) < 2:
        raise ValueError(
            f"all training videos are of one group ({group_V[0]!r}), so nothing can be held out to "
            "choose the steps of fine-tuning by: state at least two groups in manifest.csv"
        )
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    count = max(1, round(HELD_OUT_SHARE * len(groups)))
    return np.isin(group_V, rng.choice(groups, count, replace=False))


def finetune(setup: Setup, num_steps: int) -> Tuned:
    """Trains encoder and head by cross-entropy (AdamW, cosine decay of the learning rate).

    The learning rate and the number of steps, at most `num_steps`, are those with the highest
    accuracy on held-out groups of the training videos (the first of equals). Then the training is
    repeated on all labelled training videos. No other data are used.

    Args:
      setup: the weights to start from, and the labelled videos.
      num_steps: the largest number of steps, at least 1.

    Raises:
      ValueError: if num_steps is not positive, no video is labelled, or all are of one group.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: fine-tuning needs at least one step")
    clips, label_V = setup.clips, setup.label_V
    labelled_V = label_V >= 0
    if not labelled_V.any():
        raise ValueError("no training video has a label: there is nothing to fine-tune on")
    group_V = np.array([video.group for video in clips.videos])
    held_V = np.zeros(len(label_V), bool)
    held_V[labelled_V] = hold_out_groups(group_V[labelled_V], setup.seed)
    held_clips, held_label_V = _select(clips, label_V, held_V)
    stops = sorted({max(1, round(fraction * num_steps)) for fraction in STOPS})
    best = (-1.0, 0, 0.0)
    for rate in LEARNING_RATES:
        for step, params, head in _train(setup, labelled_V & ~held_V, stops, rate, num_steps):
            scores_VK = score_videos(
                setup.model, params, head, held_clips, setup.pooling, setup.batch_size
            )
            accuracy = float(np.mean(scores_VK.argmax(axis=1) == held_label_V))
            if accuracy > best[0]:
                best = (accuracy, step, rate)
    accuracy, step, rate = best
    *_, (_, params, head) = _train(setup, labelled_V, [step], rate, num_steps)
    return Tuned(params=params, head=head, num_steps=step, learning_rate=rate, accuracy=accuracy)


def _select(clips: Clips, label_V: np.ndarray, used_V: np.ndarray) -> tuple[Clips, np.ndarray]:
    ids = np.flatnonzero(used_V[clips.video_index_N])
    return clips.select(ids), label_V[np.unique(clips.video_index_N[ids])]


def _pool(model, params, pooling: str, video_BTHWC, mask_BT):
    return POOLINGS[pooling](contract.encode(model, params, video_BTHWC, mask_BT), mask_BT)


def _logits(head, feature_BF):
    input_BF = (feature_BF - head["mean"][None]) / head["scale"][None]
    return input_BF @ head["weight"] + head["bias"][None]


def _train(setup: Setup, used_V: np.ndarray, stops: list[int], rate: float, total: int):
    """Yields (step, params, head) after each stop; the learning rate decays over `total` steps."""
    clips = setup.clips
    label_N = np.where(used_V, setup.label_V, -1)[clips.video_index_N]
    usable = np.flatnonzero((label_N >= 0) & clips.mask_NT.any(axis=1))
    fixed = _standardize(setup, clips.select(usable))
    head = {
        "weight": jnp.zeros((len(fixed["mean"]), setup.num_classes)),
        "bias": jnp.zeros(setup.num_classes),
    }
    learned = {"encoder": setup.params["params"], "head": head}
    tx = optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        optax.adamw(optax.cosine_decay_schedule(rate, total), weight_decay=WEIGHT_DECAY),
    )
    state = tx.init(learned)
    update = _compile_update(setup, fixed, tx)
    for step in range(max(stops)):
        rng = np.random.Generator(np.random.Philox(key=[setup.seed, _STREAM + step]))
        ids = rng.choice(usable, setup.batch_size, replace=len(usable) < setup.batch_size)
        learned, state = update(learned, state, clips.read(ids), clips.mask_NT[ids], label_N[ids])
        if step + 1 in stops:
            tuned = {**setup.params, "params": learned["encoder"]}
            yield step + 1, tuned, {**fixed, **learned["head"]}


def _standardize(setup: Setup, clips: Clips) -> dict[str, jax.Array]:
    """Returns `mean` and `scale` [F] of the pooled latents of clips at the start."""
    pool = jax.jit(setup.pool)
    feature_NF = map_clips(
        lambda batch: pool(setup.params, batch["video"], batch["mask"]), clips, setup.batch_size
    )
    scale_F = feature_NF.std(axis=0)
    return {
        "mean": jnp.asarray(feature_NF.mean(axis=0)),
        "scale": jnp.asarray(np.where(scale_F > 1e-6, scale_F, 1.0) * np.sqrt(len(scale_F))),
    }


def _compile_update(setup: Setup, fixed: dict[str, jax.Array], tx: optax.GradientTransformation):
    """Returns (learned, state, video, mask, label) -> (learned, state): one step of `tx`."""

    @jax.jit
    def update(learned, state, video_BTHWC, mask_BT, label_B):
        def loss(learned):
            variables = {**setup.params, "params": learned["encoder"]}
            feature_BF = setup.pool(variables, video_BTHWC, mask_BT)
            logits_BK = _logits({**fixed, **learned["head"]}, feature_BF)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BK, label_B).mean()

        updates, new_state = tx.update(jax.grad(loss)(learned), state, learned)
        return optax.apply_updates(learned, updates), new_state

    return update


def score_videos(model, params, head, clips: Clips, pooling: str, batch_size: int) -> np.ndarray:
    """Returns class probabilities [V, K], from the mean of the logits over a video's clips."""
    score = jax.jit(lambda video, mask: _logits(head, _pool(model, params, pooling, video, mask)))
    logits_NK = map_clips(lambda batch: score(batch["video"], batch["mask"]), clips, batch_size)
    used_N = clips.mask_NT.any(axis=1)
    total_VK = np.zeros((len(clips.videos), logits_NK.shape[1]))
    np.add.at(total_VK, clips.video_index_N[used_N], logits_NK[used_N])
    count_V = np.bincount(clips.video_index_N[used_N], minlength=len(clips.videos))
    logits_VK = total_VK / np.maximum(count_V, 1)[:, None]
    return softmax(logits_VK, axis=1)
