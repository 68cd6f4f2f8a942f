"""The contract that every vvae model fulfils, as pure functions of (model, params, ...).

`model` is a flax.linen module and `params` the dictionary of its variables ({"params": learned,
"stats": standardisation}). The protocol `Model` says what a model implements for the functions
below, `MeasuredModel` what the tasks of a run ask it for besides, and `TrainedModel` what a
training of the commands needs.

The functions compile themselves once for each model and each shape, and work inside the caller's
jit, vmap, grad, pmap and export as well.
"""

import functools
import warnings
from typing import Any, Protocol, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vvae.distributions import Gaussian
from vvae.models.bottleneck import Codes

Params = Any
AnyArray = jax.Array | np.ndarray

# What compiles the functions below. Inside a function that the caller jits they are inlined, so
# that nothing but that function is compiled.
jit_inline = functools.partial(jax.jit, inline=True)


@flax.struct.dataclass
class Terms:
    """The terms that ELBO, IWAE, rates and scores are computed from, for K samples of B clips.

    Attributes:
      log_likelihood: [K, B] log p(x | latents), summed over valid frames, pixels and channels.
      log_prior: [K, B] log-density of the sampled latents under the prior.
      log_posterior: [K, B] log-density of the sampled latents under the posterior.
      kl_by_level: level -> [K, B] KL(posterior || prior), in closed form where there is one.

    Note:
      All values are in nats per clip, not per pixel or per frame.
    """

    log_likelihood: jax.Array
    log_prior: jax.Array
    log_posterior: jax.Array
    kl_by_level: dict[str, jax.Array]


class Model(Protocol):
    """What a flax.linen module implements to be used with the functions of this module.

    The methods `encode`, `decode` and `terms` run inside `apply`; `posterior_mean` and `sample` are
    called on the module itself (`flax.linen.nowrap`). A model is hashable: its fields are numbers,
    texts and tuples.
    """

    @property
    def smallest_video(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a video with which every part of the model can be called."""
        ...

    def encode(self, x_BTHWC: jax.Array, mask_BT: jax.Array, /) -> Any:
        """Infers the posterior, a pytree, of videos in [-1, 1]."""
        ...

    def posterior_mean(self, posterior: Any, /) -> Any:
        """Returns the latents to decode: the posterior's mean."""
        ...

    def decode(self, latents: Any, /) -> jax.Array:
        """Returns the mean video [B, T, H, W, C] in [-1, 1]; it may cover more than was encoded."""
        ...

    def terms(
        self, x_BTHWC: jax.Array, mask_BT: jax.Array, key_B: jax.Array, num_samples: int, /
    ) -> Terms:
        """Samples the posterior and returns the terms of the ELBO; one key a clip."""
        ...

    def sample(
        self, params: Params, key: jax.Array, num_clips: int, num_frames: int, /
    ) -> jax.Array:
        """Draws videos [B, T, H, W, C] from the prior."""
        ...

    def init(self, rngs: Any, *args: Any, method: Any = None) -> Any:
        """Returns fresh variables; that of flax.linen."""
        ...

    def apply(self, variables: Any, *args: Any, method: Any = None) -> Any:
        """Calls a method with variables; that of flax.linen."""
        ...


class MeasuredModel(Model, Protocol):
    """A `Model` that describes its latents, which the tasks of a run read."""

    @property
    def standard_priors(self) -> frozenset[str]:
        """Levels whose prior is N(0, I)."""
        ...

    def kl_by_dim(
        self, x_BTHWC: jax.Array, mask_BT: jax.Array, key_B: jax.Array, /
    ) -> dict[str, jax.Array]:
        """Computes the KL of each latent dimension by level, in nats; 0 where masked."""
        ...

    def level_posteriors(self, posterior: Any, /) -> dict[str, Gaussian]:
        """Returns the Gaussian posterior of each level."""
        ...

    def level_masks(self, mask_BT: jax.Array, /) -> dict[str, Any]:
        """Returns a mask of each level, True for latents that have a real frame."""
        ...

    def count_numbers(self, num_frames: int, /) -> int:
        """Returns how many latent numbers a frame of a clip is decoded from."""
        ...


class TrainedModel(MeasuredModel, Protocol):
    """A `MeasuredModel` that the commands train."""

    @property
    def num_fitted_components(self) -> int:
        """Components of a prior that is fitted to the latents while training, 0 for none."""
        ...

    def estimate_frame_cost(self) -> Any:
        """Returns what a frame costs in training (`frame_cost.FrameCost`); None if unknown."""
        ...

    def count_first_places(self) -> float:
        """Returns at how many places of a frame the first layer computes something."""
        ...

    def start(self, variables: Params, statistics: Any, beta: float, /) -> Params:
        """Returns fresh variables, adapted to the training videos.

        Args:
          variables: from `init_variables`.
          statistics: with the methods of `vvae.measure.statistics.ClipStatistics`.
          beta: the weight of the KL.
        """
        ...


AnyModel = TypeVar("AnyModel")


def init_variables(model: Model, key: jax.Array) -> Params:
    """Returns fresh variables {"params", "stats"}; the key is consumed.

    The standardisation is the identity until it is replaced by that of the training data.
    """
    return _init_variables(as_static(model), key)


@functools.partial(jit_inline, static_argnames="model")
def _init_variables(model: Model, key: jax.Array) -> Params:
    x_BTHWC = jnp.zeros((1, *model.smallest_video))
    mask_BT = jnp.ones(x_BTHWC.shape[:2], bool)
    return model.init(key, x_BTHWC, mask_BT, jax.random.key(0)[None], 1, method="terms")


def as_static(model: AnyModel) -> AnyModel:
    """Returns a model that functions can be compiled for: equal models share the compiled code.

    Raises:
      ValueError: if the model is not hashable, because a field of it is a list, say.
    """
    try:
        hash(model)
    except TypeError as error:
        given = {name: value for name, value in vars(model).items() if _is_list_like(value)}
        raise ValueError(
            f"this {type(model).__name__} cannot be compiled for, because a field is not hashable: "
            f"give tuples instead of {given or 'arrays and other changeable values'}"
        ) from error
    return model


def _is_list_like(value: Any) -> bool:
    return isinstance(value, list | dict | set)


def as_unit_range(x: AnyArray) -> jax.Array:
    """Returns a video as float in [-1, 1]: scales uint8 as x / 127.5 - 1, keeps float."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) / 127.5 - 1.0 if x.dtype == jnp.uint8 else x


def to_codes(x: jax.Array) -> jax.Array:
    """Returns a video in [-1, 1] as 8-bit codes, float in [0, 255], clipped and not rounded."""
    return jnp.clip((x + 1.0) * 127.5, 0.0, 255.0)


def check_video(x: AnyArray) -> None:
    """Checks that x is a video batch, and warns of a float one that is not in [-1, 1].

    Raises:
      ValueError: for another rank or dtype.
    """
    if jnp.ndim(x) != 5:
        raise ValueError(f"a video batch must have shape [B, T, H, W, C], not {jnp.shape(x)}")
    dtype = jnp.result_type(x)
    if dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"a video batch must be uint8 or float in [-1, 1], not {dtype}")
    if dtype != jnp.uint8:
        _warn_of_unsigned(x)


def _warn_of_unsigned(x: AnyArray) -> None:
    """Warns of a float video without negative values, such as one in [0, 1] or [0, 255].

    Values that are not known yet, because they are traced, or that other processes hold are not
    looked at. A constant video, such as a white one, passes.
    """
    if isinstance(x, Tracer) or not getattr(x, "is_fully_addressable", True) or not x.size:
        return
    # An array that a traced function closes over is known, but what is computed from it is not.
    with jax.ensure_compile_time_eval():
        low, high = float(x.min()), float(x.max())
    if 0.0 <= low < high:
        warnings.warn(
            f"the float video has values from {low:.3g} to {high:.3g}, none of them negative: vvae "
            "takes floats in [-1, 1]; give x / 127.5 - 1 for 8-bit values x, 2 x - 1 for values in "
            "[0, 1], or uint8",
            stacklevel=4,
        )


def check_latents(latents: Any) -> None:
    """Raises ValueError if `latents` are a posterior: a tree with Gaussians or Codes."""
    distributions = (Gaussian, Codes)
    leaves = jax.tree.leaves(latents, is_leaf=lambda node: isinstance(node, distributions))
    kinds = [type(leaf).__name__ for leaf in leaves if isinstance(leaf, distributions)]
    if kinds:
        raise ValueError(
            f"decoding takes latents, not a posterior ({type(latents).__name__} of {kinds[0]}): "
            "give model.posterior_mean(posterior)"
        )


def full_mask(x_BTHWC: AnyArray, mask_BT: AnyArray | None) -> jax.Array:
    """Returns mask_BT, by default True everywhere; raises ValueError if its shape is not [B, T]."""
    if mask_BT is None:
        return jnp.ones(x_BTHWC.shape[:2], bool)
    if mask_BT.shape != x_BTHWC.shape[:2]:
        raise ValueError(f"mask_BT has shape {mask_BT.shape}, but the video {x_BTHWC.shape[:2]}")
    return jnp.asarray(mask_BT)


def split_key(key: jax.Array, x_BTHWC: AnyArray, index_B: AnyArray | None) -> jax.Array:
    """Returns one key per clip, which depends on its index alone (0, ..., B-1 by default)."""
    index_B = jnp.arange(x_BTHWC.shape[0]) if index_B is None else index_B
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B)


def encode(model: Model, params: Params, x_BTHWC: AnyArray, mask_BT: AnyArray | None = None) -> Any:
    """Infers the latents of videos.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      mask_BT: bool, True for real frames; all by default.

    Returns:
      The posterior, a pytree of Gaussians: `SequentialPosterior(frame, clip)` for SequentialVAE,
      one Gaussian [B, t, h, w, Z] (`Codes` for finite scalars) for CausalVideoVAE.

    Raises:
      ValueError: if the rank, dtype or frame size does not fit the model.
    """
    check_video(x_BTHWC)
    return _encode(as_static(model), params, x_BTHWC, mask_BT)


@functools.partial(jit_inline, static_argnames="model")
def _encode(model, params, x_BTHWC, mask_BT):
    mask_BT = full_mask(x_BTHWC, mask_BT)
    return model.apply(params, as_unit_range(x_BTHWC), mask_BT, method="encode")


def decode(
    model: Model,
    params: Params,
    latents: Any,
    shape_THW: tuple[int, ...] | None = None,
) -> jax.Array:
    """Computes the mean of p(x | latents).

    Args:
      model: a vvae model.
      params: its variables.
      latents: of the same structure as `model.posterior_mean` returns.
      shape_THW: frames, rows and columns of the encoded video. A grid of latents may cover more
        because the video was padded; the result is cropped to this shape. By default nothing is
        cropped.

    Returns:
      [B, T, H, W, C] in [-1, 1] units, not clipped.

    Raises:
      ValueError: if the latents are a posterior, if their shape does not fit the model, or if they
        cover less than shape_THW.
    """
    check_latents(latents)
    shape_THW = None if shape_THW is None else tuple(map(int, shape_THW))
    return _decode(as_static(model), params, latents, shape_THW)


@functools.partial(jit_inline, static_argnames=("model", "shape_THW"))
def _decode(model, params, latents, shape_THW):
    video = model.apply(params, latents, method="decode")
    return video if shape_THW is None else crop(video, shape_THW)


def crop(video_BTHWC: jax.Array, shape_THW: tuple[int, ...]) -> jax.Array:
    """Returns the first frames, rows and columns; raises ValueError if there are fewer."""
    num_frames, height, width = shape_THW
    if any(wanted > size for wanted, size in zip(shape_THW, video_BTHWC.shape[1:4], strict=True)):
        raise ValueError(
            f"the latents cover {video_BTHWC.shape[1:4]} (frames, rows, columns), not {shape_THW}"
        )
    return video_BTHWC[:, :num_frames, :height, :width]


def reconstruct(
    model: Model, params: Params, x_BTHWC: AnyArray, mask_BT: AnyArray | None = None
) -> jax.Array:
    """Decodes the posterior mean.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      mask_BT: bool, True for real frames; all by default.

    Returns:
      [B, T, H, W, C] in [-1, 1] units, not clipped.
    """
    check_video(x_BTHWC)
    return _reconstruct(as_static(model), params, x_BTHWC, mask_BT)


@functools.partial(jit_inline, static_argnames="model")
def _reconstruct(model, params, x_BTHWC, mask_BT):
    posterior = _encode(model, params, x_BTHWC, mask_BT)
    return _decode(model, params, model.posterior_mean(posterior), x_BTHWC.shape[1:4])


def terms(
    model: Model,
    params: Params,
    x_BTHWC: AnyArray,
    key: jax.Array,
    mask_BT: AnyArray | None = None,
    num_samples: int = 1,
    index_B: AnyArray | None = None,
) -> Terms:
    """Samples the posterior and returns every term of the ELBO.

    Args:
      model: a vvae model.
      params: its variables.
      x_BTHWC: float video in [-1, 1], or uint8.
      key: consumed. The noise of a clip depends on the key and the clip's index alone, so its terms
        are the same in any batch.
      mask_BT: bool, True for real frames; masked frames enter no term. All by default.
      num_samples: K.
      index_B: int index of each clip; 0, ..., B-1 by default.

    Returns:
      Terms with arrays [K, B], in nats per clip.

    Raises:
      ValueError: if the rank, dtype or frame size does not fit the model.
    """
    check_video(x_BTHWC)
    return _terms(as_static(model), params, x_BTHWC, key, mask_BT, num_samples, index_B)


@functools.partial(jit_inline, static_argnames=("model", "num_samples"))
def _terms(model, params, x_BTHWC, key, mask_BT, num_samples, index_B):
    mask_BT = full_mask(x_BTHWC, mask_BT)
    key_B = split_key(key, x_BTHWC, index_B)
    return model.apply(params, as_unit_range(x_BTHWC), mask_BT, key_B, num_samples, method="terms")


def terms_and_video(
    model: Model,
    params: Params,
    x_BTHWC: AnyArray,
    key: jax.Array,
    mask_BT: AnyArray | None = None,
    index_B: AnyArray | None = None,
) -> tuple[Terms, jax.Array]:
    """Returns the `terms` of one sample, and its mean video [B, T, H, W, C].

    For losses that compare decoded videos; only for models with a grid of latents. The video is in
    [-1, 1] units, not clipped.
    """
    check_video(x_BTHWC)
    return _terms_and_video(as_static(model), params, x_BTHWC, key, mask_BT, index_B)


@functools.partial(jit_inline, static_argnames="model")
def _terms_and_video(model, params, x_BTHWC, key, mask_BT, index_B):
    mask_BT = full_mask(x_BTHWC, mask_BT)
    key_B = split_key(key, x_BTHWC, index_B)
    unit_BTHWC = as_unit_range(x_BTHWC)
    return model.apply(params, unit_BTHWC, mask_BT, key_B, 1, method="terms_and_video")


def sample(
    model: Model, params: Params, key: jax.Array, num_clips: int, num_frames: int
) -> jax.Array:
    """Draws latents from the prior and decodes them.

    Args:
      model: a vvae model.
      params: its variables.
      key: consumed.
      num_clips: B.
      num_frames: T; any length, not only that of training.

    Returns:
      Mean videos [B, T, H, W, C] in [-1, 1] units.
    """
    return _sample(as_static(model), params, key, num_clips, num_frames)


@functools.partial(jit_inline, static_argnames=("model", "num_clips", "num_frames"))
def _sample(model, params, key, num_clips, num_frames):
    return model.sample(params, key, num_clips, num_frames)
