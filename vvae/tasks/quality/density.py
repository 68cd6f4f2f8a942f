"""How probable does the model find videos, and what do its latents carry?"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.views import View
from vvae.inference import coding
from vvae.measure import collapse
from vvae.measure.examples import name_clips, spread_evenly
from vvae.measure.levels import Level, collect_levels, measure_batch
from vvae.measure.mapping import map_clips
from vvae.metrics.cards import METHOD, Metric, make_metric
from vvae.models.grid import GridVideoVAE
from vvae.objectives.elbo import iwae
from vvae.tasks.options import Density
from vvae.tasks.pooling import encode_clips, make_encoder
from vvae.tasks.question import Question
from vvae.tasks.result import Picture, Result, describe_clips

KL_FILE = "density_kl.png"
KL_CAPTION = (
    "How much each latent number says about a clip (KL, nats), the most first; gray numbers say "
    "nothing"
)
MAX_CHUNK = 10
IWAE_CLIPS = 16
FEW_EFFECTIVE_SAMPLES = 5.0
MAX_MI_INPUTS = 2000
BY_CLIP = "mean over clips"

# Level of latents -> what it has one posterior for.
PLACES = {"frame": "frame", "clip": "clip", "grid": "position"}

LIKELIHOODS = {
    "gaussian": "Gaussian density with one sigma, over 8-bit codes",
    "discretized_logistic": "probability of 8-bit codes, discretised logistic",
    "bernoulli": "probability of binary pixels, Bernoulli",
}


def answer(question: Question, options: Density) -> Result:
    """Measures ELBO, IWAE, bits/dim, KL by level and dimension, active units and information.

    IWAE is measured on up to 16 clips, spread over the split.

    Raises:
      ValueError: if the split is missing.
    """
    del options
    question = question.cut_tiles()
    model, clips = question.model, question.clips
    key = jax.random.key(question.seed)
    measured = map_clips(
        lambda batch: measure_batch(model, key, question.params, batch), clips, question.batch_size
    )
    context = question.describe_data() | {
        "likelihood": LIKELIHOODS[model.likelihood],
        METHOD: "vae",
    }
    levels = collect_levels(model, measured, clips.mask_NT)
    chosen_ids = spread_evenly(np.arange(len(clips)), IWAE_CLIPS)
    chosen = clips.select(chosen_ids)
    bound = _measure_iwae(question, chosen, jax.random.fold_in(key, 1))
    bound["elbo"] = measured["elbo"][chosen_ids].astype(np.float64)
    row = _summarize_bound(measured, levels, clips, context)
    if isinstance(model, GridVideoVAE):
        row |= _measure_rates(question, context)
    num_samples = question.settings.num_samples
    row |= _summarize_iwae(bound, num_samples, context | describe_clips(chosen))
    for name, level in levels.items():
        row |= _summarize_level(name, level, question.seed, context)
    active = {name: level.active_Z for name, level in levels.items()}
    kl = {name: level.kl_Z for name, level in levels.items()}
    collapsed, verdict = collapse.describe_collapse(
        active, measured["squared_error"].sum(), measured["squared_deviation"].sum()
    )
    return Result(
        task="density",
        rows={"vae": row},
        details={
            "collapsed": collapsed,
            "kl_by_dimension": kl,
            "active_units": active,
            "iwae": {"videos": name_clips(chosen), **bound},
        },
        notes=(verdict, *_write_notes(clips.view, model.likelihood, bound)),
        files=(KL_FILE,),
        pictures=(Picture({KL_FILE: KL_CAPTION}, functools.partial(_draw_kl, kl, active)),),
    )


def _summarize_bound(measured, levels, clips: Clips, context) -> dict[str, Metric]:
    def make(name, values_N, definition):
        return make_metric(name, values_N.mean(), "nats/clip", definition, BY_CLIP, **context)

    elbo_N = measured["elbo"].astype(np.float64)
    row = {
        "elbo": make("elbo", elbo_N, "E[log p(x | z, w)] - KL, one sample, beta 1, no free bits"),
        "log_likelihood": make(
            "log_likelihood", measured["log_likelihood"].astype(np.float64), "E[log p(x | z, w)]"
        ),
    }
    # A level of no numbers is in no collected level; codes are in none either, but have a KL.
    empty = measured["posterior"].keys() - levels.keys()
    for level, kl_N in measured["kl"].items():
        if level in empty:
            continue
        definition = f"KL(posterior || prior) of the {level} latent, one sample"
        row[f"kl_{level}"] = make(f"kl_{level}", kl_N.astype(np.float64), definition)
    return row | summarize_bits(elbo_N, clips, context)


def _measure_rates(question: Question, context) -> dict[str, Metric]:
    """Measures the bits per clip of a grid of latents: the KL, and the length of its codes."""
    model, clips = question.model, question.clips
    encoder = make_encoder(model, lambda posterior, mask_BT: posterior)
    grid = encode_clips(encoder, question.params, clips, question.batch_size)
    mask_Nt = np.asarray(model.latent_mask(jnp.asarray(clips.mask_NT)))
    kl_N = np.asarray(coding.kl_bits(model.bottleneck, grid, mask_Nt), np.float64)
    coded_N = coding.coded_bits(model.bottleneck, grid, mask_Nt)
    coded_definition = (
        "-log2 P of the posterior mean, quantised in steps of the clip's posterior deviation "
        f"x {coding.DEFAULT_STEP} (finite scalars: of the codes), under the discretised prior"
    )
    entries = {"kl_bits": (kl_N, "KL(posterior || prior) / ln 2")}
    entries["coded_bits"] = (coded_N, coded_definition)
    return {
        name: make_metric(name, values_N.mean(), "bits/clip", definition, BY_CLIP, **context)
        for name, (values_N, definition) in entries.items()
    }


def summarize_bits(elbo_N: np.ndarray, clips: Clips, context) -> dict[str, Metric]:
    """Converts ELBOs to bits per dimension, where this is meaningful.

    Args:
      elbo_N: float64 [N], nats per clip.
      clips: the N clips.
      context: entries of the metric card; its `likelihood` decides which metric is returned.

    Returns:
      `bits_per_dim` for a likelihood that is a probability of 8-bit values; `density` for one that
      is a probability density over them, which is not a code length and can be negative; neither
      for views of other values and for binary pixels.
    """
    if not clips.view.is_8bit or context["likelihood"] == LIKELIHOODS["bernoulli"]:
        return {}
    num_values = int(clips.mask_NT.sum()) * int(np.prod(clips.clip_format.clip_shape[1:]))
    value = -elbo_N.sum() / (num_values * math.log(2.0))
    is_probability = context["likelihood"] == LIKELIHOODS["discretized_logistic"]
    name = "bits_per_dim" if is_probability else "density"
    definition = "-ELBO / (valid frames x H x W x C x ln 2)"
    aggregation = "sum over clips before the division"
    return {name: make_metric(name, value, "bits/dim", definition, aggregation, **context)}


def _summarize_level(name: str, level: Level, seed: int, context) -> dict[str, Metric]:
    information, num_inputs = collapse.estimate_mutual_information(
        level.mean_NZ, level.variance_NZ, MAX_MI_INPUTS, seed
    )
    over = f"over all valid {PLACES[name]}s of the split"
    active_definition = (
        f"units with Var_x(E z) / (Var_x(E z) + E_x Var z) > {collapse.ACTIVE_SHARE} and KL > "
        f"{collapse.ACTIVE_KL} nat, of {len(level.active_Z)}"
    )
    information_definition = (
        f"E log q(z | x) - log mean_m q(z | x_m) over N={num_inputs} {PLACES[name]}s; at "
        f"most log N = {math.log(num_inputs):.2f}"
    )
    row = {
        f"active_{name}": (int(level.active_Z.sum()), "units", active_definition, over),
        f"mi_{name}": (information, "nats", information_definition, f"mean over N {PLACES[name]}s"),
    }
    if level.has_standard_prior:
        burda = collapse.count_burda_units(level.mean_NZ)
        definition = f"units with Var_x(E z) > {collapse.BURDA_VARIANCE}, of {len(level.active_Z)}"
        row[f"active_burda_{name}"] = (int(burda), "units", definition, over)
    return {
        key: make_metric(key, value, unit, definition, aggregation, **context)
        for key, (value, unit, definition, aggregation) in row.items()
    }


def _measure_iwae(question: Question, clips: Clips, key: jax.Array) -> dict[str, np.ndarray]:
    """Returns the fields of `elbo.Bound` for each clip, float64 [N]."""
    model, num_samples = question.model, question.settings.num_samples
    chunk = max(c for c in range(1, MAX_CHUNK + 1) if num_samples % c == 0)

    @jax.jit
    def measure(params, video_BTHWC, mask_BT, index_B):
        return iwae(model, params, video_BTHWC, key, num_samples, mask_BT, chunk, index_B)

    bound = map_clips(
        lambda batch: measure(question.params, batch["video"], batch["mask"], batch["index"]),
        clips,
        min(question.batch_size, len(clips)),
    )
    return {name: values_N.astype(np.float64) for name, values_N in bound._asdict().items()}


def _summarize_iwae(bound: dict[str, np.ndarray], num_samples: int, context) -> dict[str, Metric]:
    error = math.sqrt(np.square(bound["standard_error"]).sum()) / len(bound["value"])
    entries = {
        "iwae": (
            bound["value"].mean(),
            "nats/clip",
            f"log of the mean of K={num_samples} importance weights",
        ),
        "iwae_standard_error": (error, "nats/clip", "Monte Carlo error of iwae (delta method)"),
        "iwae_gain": (
            (bound["value"] - bound["elbo"]).mean(),
            "nats/clip",
            "iwae - elbo of the same clips",
        ),
        "iwae_effective_samples": (
            bound["effective_samples"].mean(),
            f"of {num_samples}",
            "(sum of weights)^2 / sum of squared weights",
        ),
    }
    context = context | {"num_samples": num_samples}
    return {
        name: make_metric(name, value, unit, definition, BY_CLIP, **context)
        for name, (value, unit, definition) in entries.items()
    }


def _write_notes(view: View, likelihood: str, bound) -> tuple[str, ...]:
    notes = ()
    if not view.is_8bit:
        notes = (f"bits/dim is left out: the view {view.name} is not made of 8-bit intensities.",)
    elif likelihood == "bernoulli":
        notes = ("bits/dim is left out: a Bernoulli likelihood does not cover 8-bit values.",)
    elif likelihood == "gaussian":
        notes = (
            "density is that of a Gaussian over 8-bit values, not the length of a code: compare it "
            "with other densities only.",
        )
    effective = bound["effective_samples"].mean()
    if effective < FEW_EFFECTIVE_SAMPLES:
        notes += (
            f"iwae rests on {effective:.1f} effective samples: it is a lower bound still, but far "
            "below log p(x), and its standard error is too small.",
        )
    return notes


def _draw_kl(kl: Mapping[str, np.ndarray], active: Mapping[str, np.ndarray], folder: Path) -> None:
    titles = {name: f"{name} latent, nats per {PLACES[name]}" for name in kl}
    figures.write_dimension_bars(
        folder / KL_FILE,
        {titles[name]: kl_Z for name, kl_Z in kl.items()},
        {titles[name]: active_Z for name, active_Z in active.items()},
        "KL of each latent dimension (gray: not active)",
    )
