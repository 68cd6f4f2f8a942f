"""A small supervised 3-D convolutional network: a baseline that learns from the labels alone."""

import dataclasses
import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vvae.data.clips import NO_LABEL, Clips
from vvae.data.dataset import Dataset
from vvae.data.loader import Augmentation, train_batches
from vvae.measure.mapping import map_clips
from vvae.models.contract import as_unit_range
from vvae.models.convolutions import DownConv
from vvae.tasks.pooling import average_by_video
from vvae.tasks.recognition.finetune import hold_out_groups

BATCH = 32
NUM_EPOCHS = 14
MIN_STEPS, MAX_STEPS = 300, 3000
NUM_STOPS = 10  # evaluations on the clips that choose the number of steps
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.1
DROPOUT = 0.3
SHIFT = 1 / 16  # fraction of the shorter side
BRIGHTNESS = 0.15


class Conv3D(nn.Module):
    """Three strided space-time convolutions and two dense layers: [B, T, H, W, C] -> logits.

    Attributes:
      num_classes: K, the number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, train: bool) -> jax.Array:
        """Maps videos in [-1, 1] to logits [B, K]; training needs an rng named `dropout`."""
        x = _pad_to_multiple(x_BTHWC, 8)
        for features, time_stride in ((16, 1), (32, 2), (64, 2)):
            x = nn.relu(nn.GroupNorm(num_groups=8)(self._convolve(x, features, time_stride)))
        x = nn.Dropout(DROPOUT, deterministic=not train)(x.reshape(len(x), -1))
        x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(self.num_classes)(nn.Dropout(DROPOUT, deterministic=not train)(x))

    def _convolve(self, x_BTHWC: jax.Array, features: int, time_stride: int) -> jax.Array:
        """Applies a 3x4x4 convolution.

        It is a 4x4 convolution of three frames stacked in channels, which is fast on a CPU too.
        """
        num_frames = x_BTHWC.shape[1]
        padded = jnp.pad(x_BTHWC, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        taps = [padded[:, t : t + num_frames : time_stride] for t in range(3)]
        stacked = jnp.concatenate(taps, axis=-1)
        y = DownConv(features=features)(stacked.reshape(-1, *stacked.shape[2:]))
        return y.reshape(*stacked.shape[:2], *y.shape[1:])


def _pad_to_multiple(x_BTHWC: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sides are multiples."""
    down, right = (-side % multiple for side in x_BTHWC.shape[2:4])
    return jnp.pad(x_BTHWC, ((0, 0), (0, 0), (0, down), (0, right), (0, 0)), mode="edge")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledClips:
    """Labelled clips with a valid frame; their `label_N` are 0, ..., K-1.

    Attributes:
      train: the clips that a network learns from.
      choice: the clips by which the number of steps is chosen.
      source: a description of `choice`.
    """

    train: Clips
    choice: Clips
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network.

    Attributes:
      model: the network.
      params: its variables.
      num_steps: the chosen number of steps.
      accuracy: top-1 accuracy on the videos by which it was chosen, in [0, 1].
    """

    model: Conv3D
    params: dict
    num_steps: int
    accuracy: float

    @property
    def num_parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def gather_labelled(
    dataset: Dataset, measured: str, class_names: Sequence[str], seed: int
) -> LabelledClips:
    """Returns the labelled training clips, and those by which the number of steps is chosen.

    The latter are the validation split. If it is the measured split, or has no labels, a fifth of
    the groups of the training videos are held out instead.

    Args:
      dataset: videos with the split `train`.
      measured: the split that is measured, which is not read.
      class_names: the classes to learn; they are numbered in this order.
      seed: the seed of the draw of held-out groups.

    Raises:
      ValueError: if groups are to be held out and there is only one.
    """
    number = {dataset.class_names.index(name): k for k, name in enumerate(class_names)}
    train = _take_labelled(dataset.splits["train"], number)
    if measured != "val" and "val" in dataset.splits:
        val = _take_labelled(dataset.splits["val"], number)
        if len(val):
            return LabelledClips(train, val, "the validation split")
    held_V = hold_out_groups(np.array([video.group for video in train.videos]), seed)
    held_N = held_V[train.video_index_N]
    learned, held = train.select(np.flatnonzero(~held_N)), train.select(np.flatnonzero(held_N))
    return LabelledClips(learned, held, "held-out groups of the training videos")


def _take_labelled(clips: Clips, number: dict[int, int]) -> Clips:
    label_N = np.array([number.get(int(label), NO_LABEL) for label in clips.label_N], np.int32)
    numbered = dataclasses.replace(clips, label_N=label_N)
    return numbered.select(np.flatnonzero((label_N != NO_LABEL) & clips.mask_NT.any(axis=1)))


def choose_num_steps(clips: Clips) -> int:
    """Returns the largest number of steps: 14 epochs, but at least 300 and at most 3,000 steps."""
    return int(np.clip(NUM_EPOCHS * len(clips) // BATCH, MIN_STEPS, MAX_STEPS))


def train_network(
    clips: LabelledClips, num_classes: int, *, num_steps: int, seed: int
) -> TrainedNetwork:
    """Trains a network by cross-entropy on shifted and relit clips (AdamW, cosine decay).

    It is evaluated ten times on the videos of `clips.choice`. The parameters with the highest
    accuracy are kept; among equals, those with the lowest cross-entropy.

    Args:
      clips: as `gather_labelled` returns them.
      num_classes: K.
      num_steps: the largest number of steps, at least 1, each of 32 clips.
      seed: the seed of the initial weights, the batches and the dropout.

    Raises:
      ValueError: if num_steps is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: a network needs at least one step")
    model = Conv3D(num_classes)
    stops = {max(1, round(num_steps * k / NUM_STOPS)) for k in range(1, NUM_STOPS + 1)}
    label_V = clips.choice.label_V
    best, kept = (-1.0, 0.0), None
    for step, params in _train(model, clips.train, num_steps, seed):
        if step not in stops:
            continue
        logits_VK = score_videos(model, params, clips.choice)
        accuracy = float(np.mean(logits_VK.argmax(axis=1) == label_V))
        loss_V = optax.softmax_cross_entropy_with_integer_labels(logits_VK, label_V)
        quality = accuracy, -float(loss_V.mean())
        if quality > best:
            best, kept = quality, TrainedNetwork(model, params, step, accuracy)
    return kept


def _train(model: Conv3D, clips: Clips, num_steps: int, seed: int):
    """Yields (step, params) after every step."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, num_steps // 10, num_steps)
    tx = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    key = jax.random.key(seed)
    params = model.init(key, jnp.zeros((1, *clips.clip_format.clip_shape)), train=False)
    update, state = _compile_update(model, tx), (params, tx.init(params))
    batches = train_batches(clips, BATCH, seed, augmentation=_choose_augmentation(clips))
    for step, batch in batches:
        state = update(state, batch["video"], batch["label"], jax.random.fold_in(key, step))
        yield step + 1, state[0]
        if step + 1 == num_steps:
            batches.close()


def _choose_augmentation(clips: Clips) -> Augmentation:
    crop = round(SHIFT * min(clips.clip_format.height, clips.clip_format.width))
    return Augmentation(
        crop=crop, brightness=BRIGHTNESS if any(clips.view.intensity_channels) else 0.0
    )


def _compile_update(model: Conv3D, tx: optax.GradientTransformation):
    """Returns ((params, opt_state), video, label, key) -> (params, opt_state): one step of `tx`."""

    @jax.jit
    def update(state, video_BTHWC, label_B, key):
        params, opt_state = state

        def compute_loss(params):
            x_BTHWC = as_unit_range(video_BTHWC)
            logits_BK = model.apply(params, x_BTHWC, train=True, rngs={"dropout": key})
            target_BK = jax.nn.one_hot(label_B, model.num_classes)
            target_BK = optax.smooth_labels(target_BK, LABEL_SMOOTHING)
            return optax.softmax_cross_entropy(logits_BK, target_BK).mean()

        updates, opt_state = tx.update(jax.grad(compute_loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return update


def score_videos(model: Conv3D, params: dict, clips: Clips) -> np.ndarray:
    """Returns logits float32 [V, K], each the mean over a video's clips with a valid frame."""
    logits_NK = map_clips(lambda batch: _predict(model, params, batch["video"]), clips, BATCH)
    return average_by_video(logits_NK, clips).feature_VF


@functools.partial(jax.jit, static_argnums=0)
def _predict(model: Conv3D, params: dict, video_BTHWC: jax.Array) -> jax.Array:
    return model.apply(params, as_unit_range(video_BTHWC), train=False)
