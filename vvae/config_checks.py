"""Checks of settings: of a value, and of what settings of different sections allow together."""

import math

from vvae.task_table import list_tasks


def require(condition: bool, name: str, value, rule: str) -> None:
    """Raises ValueError, which says "name=value: rule", unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}={value!r}: {rule}")


def require_positive(section: str, settings, *names: str) -> None:
    """Raises ValueError for the first of these settings of a section that is not above 0."""
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{section}.{name}", value, "must be greater than 0")


def require_at_least_zero(section: str, settings, *names: str) -> None:
    """Raises ValueError for the first of these settings of a section that is negative."""
    for name in names:
        value = getattr(settings, name)
        require(value >= 0, f"{section}.{name}", value, "must not be negative")


def require_finite(section: str, settings, *names: str) -> None:
    """Raises ValueError for the first of these settings of a section that is infinite or NaN."""
    for name in names:
        value = getattr(settings, name)
        require(math.isfinite(value), f"{section}.{name}", value, "must be finite")


def require_fraction(section: str, settings, *names: str) -> None:
    """Raises ValueError for the first of these settings of a section outside [0, 1]."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "must be between 0 and 1")


def check_sections(config) -> None:
    """Raises ValueError for settings of a `Config` that do not go together."""
    if config.model.kind == "sequential":
        _check_size(config)
        has_clip = config.model.clip_latent_dim > 0 or config.evaluate.pooling != "clip"
        rule = "needs model.clip_latent_dim greater than 0"
        require(has_clip, "evaluate.pooling", config.evaluate.pooling, rule)
        _check_grid_only(config)
    if config.data.tile is not None:
        _check_tile(config)
    check_tasks(config, config.evaluate.tasks)
    for length in config.train.clip_lengths:
        rule = f"must be between 1 and data.num_frames={config.data.num_frames}"
        require(1 <= length <= config.data.num_frames, "train.clip_lengths", length, rule)
    num_micro_batches, batch_size = config.train.accumulate, config.train.batch_size
    if num_micro_batches is not None:
        require(
            num_micro_batches > 0 and batch_size % num_micro_batches == 0,
            "train.accumulate",
            num_micro_batches,
            f"must divide train.batch_size={batch_size}",
        )
    _check_likelihood(config)
    _check_teacher(config)


def _check_teacher(config) -> None:
    widths, optim = config.model.decoder_widths, config.optim
    for name in ("teacher", "features"):
        weight = getattr(config.objective, name)
        rule = "needs a small decoder that learns: model.decoder_widths"
        require(weight == 0.0 or bool(widths), f"objective.{name}", weight, rule)
    rule = "must be encoder with model.decoder_widths: the decoder learns to read fixed latents"
    require(not widths or optim.freeze == "encoder", "optim.freeze", optim.freeze, rule)


def _check_size(config) -> None:
    scale = 2 ** len(config.model.widths)
    for name in ("height", "width") if config.data.tile is None else ("tile",):
        value = getattr(config.data, name)
        rule = f"must be a multiple of {scale}, since model.widths halves it "
        rule += f"{len(config.model.widths)} times"
        require(value % scale == 0, f"data.{name}", value, rule)


def _check_grid_only(config) -> None:
    rule = "needs model.kind=causal or published"
    for name in ("l1", "mse", "lpips", "wavelet"):
        value = getattr(config.objective, name)
        require(value == 0.0, f"objective.{name}", value, rule)
    require(config.data.images == 0.0, "data.images", config.data.images, rule)
    require(not config.train.clip_lengths, "train.clip_lengths", config.train.clip_lengths, rule)
    likelihood = config.objective.likelihood
    require(likelihood == 1.0, "objective.likelihood", likelihood, "other than 1 " + rule)
    require(config.critic.weight == 0.0, "critic.weight", config.critic.weight, rule)
    require(config.optim.freeze == "none", "optim.freeze", config.optim.freeze, rule)


def _check_tile(config) -> None:
    tile, size = config.data.tile, (config.data.height, config.data.width)
    fits = tile > 0 and size[0] % tile == 0 and size[1] % tile == 0
    rule = f"must divide data.height and data.width, {size[0]}x{size[1]}"
    require(fits, "data.tile", tile, rule)


def check_tasks(config, tasks) -> None:
    """Raises ValueError for a task that the model or tiles of frames cannot answer."""
    if config.model.kind == "sequential":
        answered, rule = list_tasks("sequential"), "needs model.kind=causal or published"
    else:
        answered = list_tasks("grid")
        rule = f"model.kind={config.model.kind} answers {', '.join(answered)} so far"
    for task in tasks:
        require(task in answered, "evaluate.tasks", task, rule)
    of_tiles = list_tasks("tiles")
    rule = f"needs whole frames, and data.tile={config.data.tile} cuts them; of tiles there are "
    rule += ", ".join(of_tiles)
    if "cluster" in tasks:
        size = config.model.clip_latent_dim
        require(size > 0, "model.clip_latent_dim", size, "must be at least 1 for the task cluster")
    if "anomaly" in tasks:
        block, side = config.evaluate.anomaly_block, min(config.data.height, config.data.width)
        rule = f"must be at most {side}, the smaller side of a frame, for the task anomaly"
        require(block <= side, "evaluate.anomaly_block", block, rule)
    for task in tasks:
        known = config.data.tile is None or task in of_tiles
        require(known, "evaluate.tasks", task, rule)


def _check_likelihood(config) -> None:
    likelihood, view = config.model.likelihood, config.data.view
    if config.model.kind != "sequential":
        rule = f"model.kind={config.model.kind} has a gaussian one"
        require(likelihood == "gaussian", "model.likelihood", likelihood, rule)
    if config.objective.lpips:
        rule = "objective.lpips needs pictures: gray or rgb"
        require(view in ("gray", "rgb"), "data.view", view, rule)
    if likelihood == "bernoulli":
        require(view == "otsu", "data.view", view, "model.likelihood=bernoulli needs otsu")
        rule = "must be False for model.likelihood=bernoulli: its start is a Gaussian one"
        require(not config.model.linear, "model.linear", config.model.linear, rule)
    if likelihood == "discretized_logistic":
        rule = "model.likelihood=discretized_logistic needs 8-bit values: gray or rgb"
        require(view in ("gray", "rgb"), "data.view", view, rule)
