"""How many bits do the latents of videos take? Fits the probabilities that `compress` codes with.

RUN/contexts/DIGEST.npz    the `ContextModel` of the parameters with this digest. It is fitted once:
                           files of `compress` can be read with it alone.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from vvae import processes
from vvae.data.clips import Clips
from vvae.inference import coding
from vvae.inference.context_fit import fit
from vvae.inference.contexts import ContextModel, Quantised, count_video_bits
from vvae.measure.examples import spread_evenly
from vvae.metrics.cards import METHOD, Interval, Metric, make_metric
from vvae.metrics.intervals import CONFIDENCE, find_percentiles, resample_ratio
from vvae.models.bottleneck import FiniteScalars
from vvae.models.grid import GridVideoVAE
from vvae.tasks.options import Code
from vvae.tasks.pooling import encode_clips, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.result import Result
from vvae.tasks.rivals import describe_units, find_units
from vvae.tasks.storage.context_files import find_contexts, save_contexts

FIT_STEP = 2.8
MOST_CLIPS = 2000


def answer(question: Question, options: Code) -> Result:
    """Measures -log2 P of quantised posterior means, under contexts and under the prior.

    Contexts are fitted to up to 2,000 training clips, spread evenly, unless the run has some for
    these parameters.

    Raises:
      ValueError: if a split is missing, or for latents that are finite scalars, which are coded
        under a uniform prior.
    """
    if isinstance(question.model.bottleneck, FiniteScalars):
        raise ValueError(
            "code: the latents are finite scalars, which are coded under a uniform prior; contexts "
            "are for Gaussian latents"
        )
    step = coding.DEFAULT_STEP if options.step is None else options.step
    encode = make_encode(question.model, question.params, question.batch_size)
    workdir, params = question.run.workdir, question.params
    contexts = find_contexts(workdir, params)
    is_new = contexts is None
    if contexts is None:
        contexts = fit_contexts(encode, question.train)
        processes.do_first(save_contexts, workdir, params, contexts)
    clips = question.clips
    bits = {"contexts": [], "prior": []}
    for codes, quantiser in encode(clips, step):
        bits["contexts"].append(count_video_bits(contexts, Quantised(codes, quantiser.steps_Z)))
        bits["prior"].append(coding.count_bits(codes, quantiser))
    rate = {name: _average(np.array(bits_N), clips) for name, bits_N in bits.items()}
    known_V = rate["prior"] > 0
    units = find_units(clips, known_V, question.seed)
    card = question.describe_data() | {"step": f"{step} standard deviations of the posterior"}
    rows = {
        name: _summarize(rate_V[known_V], rate["prior"][known_V], units, card | {METHOD: name})
        for name, rate_V in rate.items()
    }
    saved = rows["contexts"]["saved"].value
    origin = "fitted to the training clips" if is_new else "as they were fitted before"
    return Result(
        task="code",
        rows=rows,
        notes=(
            f"contexts, {origin}, save {saved:.1f} % of the bits; compress uses them.",
            *describe_units(int(known_V.sum()), units),
        ),
    )


# (clips, step) -> the codes of each clip's latent frames with a real frame, and the quantiser.
Encode = Callable[[Clips, float], Iterator[tuple[np.ndarray, coding.UniformSteps]]]


def make_encode(model: GridVideoVAE, params, batch_size: int) -> Encode:
    """Returns what quantises clips."""
    encoder = make_encoder(model, lambda posterior, mask_BT: posterior)

    def encode(clips: Clips, step: float):
        posterior = encode_clips(encoder, params, clips, batch_size)
        mask_Nt = np.asarray(model.latent_mask(jnp.asarray(clips.mask_NT)))
        return coding.quantise_clips(model.bottleneck, posterior, mask_Nt, step)

    return encode


def fit_contexts(encode: Encode, train: Clips) -> ContextModel:
    """Fits contexts to up to 2,000 clips, spread evenly."""
    chosen = train.select(spread_evenly(np.arange(len(train)), MOST_CLIPS))
    return fit([Quantised(codes, q.steps_Z) for codes, q in encode(chosen, FIT_STEP)])


def _average(bits_N: np.ndarray, clips: Clips) -> np.ndarray:
    """Returns the bits per pixel of each video with a valid frame, float64 [V]; 0 for others."""
    height, width, _ = clips.clip_format.clip_shape[1:]
    count = len(clips.videos)
    bits_V = np.bincount(clips.video_index_N, bits_N, minlength=count)
    frames_V = np.bincount(clips.video_index_N, clips.mask_NT.sum(1), minlength=count)
    return bits_V / np.maximum(frames_V * height * width, 1)


def _summarize(rate_V, prior_V, units, card) -> dict[str, Metric]:
    """Returns the rate and the saved share of the bits, with intervals over units of videos."""

    def make(name, above_V, below_V, unit, definition) -> Metric:
        value = float(above_V.sum() / below_V.sum())
        metric = make_metric(name, value, unit, definition, "over videos", **card)
        if len(units) < 2:
            return metric
        ends = find_percentiles(resample_ratio(units, above_V, below_V))
        text = f"{CONFIDENCE:.0%}, resamples of {units.text}"
        return dataclasses.replace(metric, interval=Interval(*ends, text))

    saved = "share of the bits under the discretised prior that is saved"
    rate = "-log2 P of the quantised posterior means, without headers"
    return {
        "saved": make("saved", 100 * (prior_V - rate_V), prior_V, "%", saved),
        "rate": make("rate", rate_V, np.ones(len(rate_V)), "bits/pixel", rate),
    }
