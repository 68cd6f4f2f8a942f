"""Fits of the mixture prior while the network trains."""

import functools

import jax
import numpy as np

from vvae import processes
from vvae.data.dataset import Dataset
from vvae.distributions import Gaussian
from vvae.measure.examples import spread_evenly
from vvae.measure.mapping import map_clips
from vvae.models import contract, mixture_prior
from vvae.models.sequential import replace_clip_prior
from vvae.run import Run
from vvae.session.watch import Report
from vvae.training.state import TrainState, variables

# Clips that the mixture prior is fitted to, spread over the training clips.
_MAX_PRIOR_CLIPS = 4096


def plan_fits(num_warmup: int, every: int, num_steps: int) -> frozenset[int]:
    """Returns the steps after which the mixture prior is fitted.

    They are the end of the KL warm-up, the end of the training, and the multiples of `every`
    between them.
    """
    first = max(1, num_warmup)
    return frozenset({first, *range(-(-first // every) * every, num_steps, every), num_steps})


class PriorFits:
    """Fits the mixture prior of the clip latent to the training clips while the network trains.

    A fit depends on the state alone, so that a continued run repeats it.
    """

    def __init__(self, model, runner, dataset: Dataset, run: Run):
        """Chooses the clips: the same in every fit.

        Raises:
          ValueError: if the mixture has more components than there are clips.
        """
        clips = dataset.splits["train"]
        seen = np.flatnonzero(clips.mask_NT.any(axis=1))
        self._clips = clips.select(spread_evenly(seen, _MAX_PRIOR_CLIPS))
        num_components = model.num_fitted_components
        if num_components > len(self._clips):
            raise ValueError(
                f"model.num_components={num_components}: the mixture prior cannot be fitted to "
                f"only {len(self._clips)} training clips"
            )
        self._model, self._runner = model, runner
        self._batch_size, self._seed = run.config.train.batch_size, run.config.train.seed
        objective, num_steps = run.config.objective, run.num_steps
        num_warmup = round(objective.kl_warmup * num_steps)
        steps = plan_fits(num_warmup, objective.prior_every, num_steps)
        self._steps = steps if num_components else frozenset()
        self._encode = jax.jit(self._infer_clip)

    def __call__(self, step: int, state: TrainState, report: Report) -> TrainState:
        """Returns the state after a step, with its prior fitted where that is due.

        The prior is fitted to what the parameters infer, and that of the averaged parameters,
        from there on, to what those infer.
        """
        if step not in self._steps:
            return state
        with report.pause():
            return self._fit(state)

    def _fit(self, state: TrainState) -> TrainState:
        host = self._runner.fetch(state)
        last, average = (self._infer(variables(host, ema)) for ema in (False, True))
        mixture = mixture_prior.fit_mixture(last, self._model.num_components, self._seed)
        averaged = mixture_prior.refine_mixture(mixture, average)
        host = host.replace(
            params=replace_clip_prior(host.params, _as_float32(mixture)),
            ema_params=replace_clip_prior(host.ema_params, _as_float32(averaged)),
        )
        # EM ends where rounding leads it, which may differ between machines.
        return self._runner.place_state(processes.share(host))

    def _infer(self, params) -> Gaussian:
        return map_clips(functools.partial(self._encode, params), self._clips, self._batch_size)

    def _infer_clip(self, params, batch) -> Gaussian:
        return contract.encode(self._model, params, batch["video"], batch["mask"]).clip


def _as_float32(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float32), tree)
