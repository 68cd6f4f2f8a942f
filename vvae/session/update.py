"""Schedule, optimizer and step of the training."""

import functools

import jax
import optax

from vvae.config import Config, Critic, Objective, Optim
from vvae.models import contract
from vvae.models.bottleneck import ScaledLatents
from vvae.models.critic import PatchCritic
from vvae.objectives import lpips, reconstruction
from vvae.objectives.elbo import beta_schedule, negative_elbo
from vvae.pretrained.distilled import find_encoder, restore_teacher
from vvae.training import optimizer
from vvae.training.adversarial_step import Adversary, adversarial_step
from vvae.training.step import train_step


def make_schedule(optim: Optim, num_steps: int):
    """Returns step -> learning rate."""
    warmup_steps = min(round(optim.warmup * num_steps), num_steps - 1)
    return optimizer.make_schedule(
        optim.learning_rate, warmup_steps, num_steps, optim.final_fraction
    )


def make_optimizer(model, config: Config, schedule) -> optax.GradientTransformation:
    """Returns the optimizer of a model's parameters."""
    has_scale = config.model.likelihood != "bernoulli"
    return optimizer.make_optimizer(
        schedule,
        clip_norm=config.optim.clip_norm,
        weight_decay=config.optim.weight_decay,
        fast={"log_sigma": config.optim.sigma_rate} if has_scale else None,
        frozen=_list_frozen(model, config),
    )


def _list_frozen(model, config: Config) -> tuple[str, ...]:
    return () if config.optim.freeze == "none" else model.encoder_modules()


def make_step(model, tx, config: Config, *, num_steps: int, num_micro_batches: int):
    """Returns (state, batch, axis_name) -> (state, metrics), to be compiled by a runner."""
    settings = {
        "tx": tx,
        "seed": config.train.seed,
        "ema_decay": config.optim.ema_decay,
        "num_micro_batches": num_micro_batches,
    }
    hold = functools.partial(_hold_modules, _list_frozen(model, config))
    if config.critic.weight:
        reconstruct = hold(_make_reconstruct(model, config, num_steps))
        adversary = _make_adversary(model, config.critic)
        return functools.partial(
            adversarial_step, reconstruct_fn=reconstruct, adversary=adversary, **settings
        )
    loss = hold(_make_loss(model, config, num_steps))
    return functools.partial(train_step, loss_fn=loss, **settings)


def _hold_modules(names: tuple[str, ...], loss):
    """Returns a loss without a gradient by the parameters of some modules.

    Their gradients are then zeros that cost nothing, instead of a backward pass that nobody uses.
    """
    if not names:
        return loss

    def compute(variables, *arguments):
        params = dict(variables["params"])
        params |= {name: jax.lax.stop_gradient(params[name]) for name in names}
        return loss({**variables, "params": params}, *arguments)

    return compute


def _make_loss(model, config: Config, num_steps: int):
    """Returns the loss of a model without a critic."""
    objective = config.objective
    if _looks_at_videos(objective):
        reconstruct = _make_reconstruct(model, config, num_steps)
        return lambda *arguments: reconstruct(*arguments)[:2]
    warmup_steps = round(objective.kl_warmup * num_steps)

    def compute_loss(params, batch, key, step):
        beta = beta_schedule(step, objective.beta, warmup_steps)
        return negative_elbo(model, params, batch, key, beta, objective.free_bits)

    return compute_loss


def _looks_at_videos(objective: Objective) -> bool:
    terms = ("l1", "mse", "lpips", "wavelet", "teacher", "features")
    return any(getattr(objective, term) for term in terms) or objective.likelihood != 1.0


def _make_reconstruct(model, config: Config, num_steps: int):
    """Returns the loss with all terms but the critic's, and the decoded video."""
    objective = config.objective
    warmup_steps = round(objective.kl_warmup * num_steps)
    weights = reconstruction.Weights(
        likelihood=objective.likelihood,
        free_bits=objective.free_bits,
        l1=objective.l1,
        mse=objective.mse,
        lpips=objective.lpips,
        wavelet=objective.wavelet,
        teacher=objective.teacher,
        features=objective.features,
    )
    perceive = None
    if objective.lpips:
        network = lpips.load_weights(objective.lpips_net)
        perceive = functools.partial(lpips.frame_lpips, network, objective.lpips_net)
    judges = reconstruction.Judges(
        perceive, functools.partial(_teach, model), functools.partial(_describe, model)
    )

    def reconstruct(params, batch, key, step):
        beta = beta_schedule(step, objective.beta, warmup_steps)
        return reconstruction.reconstruction_loss(model, params, batch, key, beta, weights, judges)

    return reconstruct


def _teach(model, params, batch, key) -> jax.Array:
    """Returns what the published decoder makes of the latents that a small one decodes.

    The same encoder draws the same latents by the same key; the compiler computes them once.
    """
    teacher = jax.lax.stop_gradient(restore_teacher(params))
    video, mask, index = batch["video"], batch["mask"], batch["index"]
    return contract.terms_and_video(model.network, teacher, video, key, mask, index)[1]


def _describe(model, params, video_BTHWC) -> jax.Array:
    """Returns what the published encoder makes of a video, normalised, [B, t, h, w, Z]."""
    network, variables = find_encoder(model, jax.lax.stop_gradient(params))
    z = network.posterior_mean(contract.encode(network, variables, video_BTHWC))
    scaled = isinstance(network.bottleneck, ScaledLatents)
    return network.bottleneck.normalize(z) if scaled else z


def make_critic(settings: Critic) -> tuple[PatchCritic, optax.GradientTransformation]:
    """Returns the critic and its optimizer."""
    critic = PatchCritic(settings.width, settings.depth)
    return critic, optax.adam(settings.learning_rate, b1=0.5, b2=0.9)


def _make_adversary(model, settings: Critic) -> Adversary:
    critic, tx = make_critic(settings)
    return Adversary(
        score=lambda params, video: critic.apply({"params": params}, video),
        to_real=lambda batch: contract.as_unit_range(batch["video"]),
        last_kernel=model.last_kernel,
        tx=tx,
        weight=settings.weight,
        lecam=settings.lecam,
        start=settings.start,
    )
