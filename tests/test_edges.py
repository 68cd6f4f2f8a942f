"""Every setting at the edges of its range: refused by its name, or the training can begin with it.

A training step is traced, not compiled.
"""

import dataclasses
import functools
import math
import os
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from compiling import xla_flags

from vvae import build
from vvae.config import (
    Causal,
    Config,
    Critic,
    Data,
    Evaluate,
    Model,
    Optim,
    Train,
)
from vvae.config_files import load_config_file
from vvae.session.preview import count_micro_batches
from vvae.session.start import describe_state
from vvae.session.update import make_optimizer, make_schedule, make_step
from vvae.task_table import ANOMALY_SCORES
from vvae.tasks.anomaly import scorer
from vvae.tasks.anomaly.controls import CONTROLS
from vvae.training.parallel import make_runner

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 3
INF, NAN = math.inf, math.nan
NOT_POSITIVE, NOT_A_FRACTION = (0, -1), (-0.1, 1.1, NAN)
NOT_FINITE = (INF, NAN)

SEQUENTIAL = Config(
    data=Data(height=8, width=8, num_frames=4),
    model=Model(widths=(2, 3), hidden=4, latent_dim=3, clip_latent_dim=2, num_components=2),
    train=Train(batch_size=2, num_steps=NUM_STEPS),
    evaluate=Evaluate(tasks=("density",)),
)
CAUSAL = dataclasses.replace(
    SEQUENTIAL,
    data=Data(height=8, width=8, num_frames=5),
    model=Model(kind="causal"),
    causal=Causal(widths=(2, 2, 4), blocks=(1, 1), spatial_compression=4, channels=2),
)
MIXTURE = dataclasses.replace(
    SEQUENTIAL, model=dataclasses.replace(SEQUENTIAL.model, clip_prior="mixture")
)
CRITIC = dataclasses.replace(CAUSAL, critic=Critic(weight=0.5, width=2, depth=2))
PCA = dataclasses.replace(
    CAUSAL, causal=dataclasses.replace(CAUSAL.causal, stem="pca", widths=(2,), components=3)
)
DISTILLED = dataclasses.replace(
    CAUSAL,
    data=Data(view="rgb", height=8, width=8, num_frames=2),
    model=Model(
        kind="published",
        network=(ROOT / "tests" / "golden" / "taef2" / "config.json").read_text(),
        decoder_widths=(2, 2),
    ),
    optim=Optim(freeze="encoder"),
)


@dataclass(frozen=True)
class Edges:
    """Values of a setting at the edges of its range.

    Attributes:
      allowed: values with which a training step can be traced.
      refused: values that are refused with the name of the setting.
      base: the other settings.
    """

    allowed: tuple = ()
    refused: tuple = ()
    base: Config = SEQUENTIAL


# A Literal or a bool needs no entry: each of its values is tried.
EDGES = {
    "name": Edges(("run", "a/b")),
    "data.path": Edges((None, "videos"), ("",)),
    "data.name": Edges(("performers",)),
    "data.view": Edges(
        ("rgb", "difference", "motion", "flow", "rootflow", "rootspeed", "otsu", "gray+flow"),
        ("", "grey", "gray+", "gray+gray"),
    ),
    "data.height": Edges((4, 400), (*NOT_POSITIVE, 6)),
    "data.width": Edges((4, 400), (*NOT_POSITIVE, 6)),
    "data.num_frames": Edges((1, 2, 300), NOT_POSITIVE),
    "data.frame_stride": Edges((1, 10**6), NOT_POSITIVE),
    "data.tile": Edges((None, 4, 8), (*NOT_POSITIVE, 3, 16)),
    "data.crop": Edges((0, 1, 8, 10**6), (-1,)),
    "data.brightness": Edges((0.0, 1.0), NOT_A_FRACTION),
    "data.images": Edges((0.0, 1.0), NOT_A_FRACTION, base=CAUSAL),
    "data.cache_dir": Edges((None, "cache")),
    "data.cache_gb": Edges((1e-9, 1e12, INF), (*NOT_POSITIVE, NAN)),
    "data.subset": Edges((1, 10**9), (0, -1)),
    "data.workers": Edges((None, 0, 1, 1000), (-1,)),
    "data.max_megapixels": Edges((1e-6, 1e12, INF), (*NOT_POSITIVE, NAN)),
    "data.decode_seconds": Edges((1e-3, 1e12, INF), (*NOT_POSITIVE, NAN)),
    "model.network": Edges(("",), ("{}",)),
    "model.decoder_widths": Edges(((), (1, 1), (3,)), ((0, 1), (-1,)), base=DISTILLED),
    "model.widths": Edges(((), (1,), (1, 1, 1)), ((0,), (2, -1), (1, 1, 1, 1))),
    "model.hidden": Edges((1, 1000), NOT_POSITIVE),
    "model.latent_dim": Edges((1, 1000), NOT_POSITIVE),
    "model.clip_latent_dim": Edges((0, 1, 1000), (-1,)),
    "model.num_components": Edges((1, 1000), NOT_POSITIVE, base=MIXTURE),
    "causal.widths": Edges(((1, 1, 1),), ((), (0, 1, 1), (1, 1)), base=CAUSAL),
    "causal.blocks": Edges(((1, 1), (3, 1)), ((0, 0), (1, 0)), base=CAUSAL),
    "causal.temporal_compression": Edges((1, 2, 4), (0, 3, 16, -1), base=CAUSAL),
    "causal.spatial_compression": Edges((4,), (0, 1, 2, 12, 64, -1), base=CAUSAL),
    "causal.components": Edges((1, 16), (*NOT_POSITIVE, 10**6), base=PCA),
    "causal.channels": Edges((1, 1000), NOT_POSITIVE, base=CAUSAL),
    "causal.levels": Edges(((), (2,), (2, 1000)), ((1,), (3, 0), (-1,)), base=CAUSAL),
    "objective.beta": Edges((0.0, 1e6), (-1.0, *NOT_FINITE)),
    "objective.likelihood": Edges((0.0, 0.5, 1e6), (-1.0, *NOT_FINITE), base=CAUSAL),
    "objective.l1": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=CAUSAL),
    "objective.mse": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=CAUSAL),
    # A weight above 0 needs the weights of LPIPS, which tests/test_lpips.py has.
    "objective.lpips": Edges((0.0,), (-1.0, *NOT_FINITE), base=CAUSAL),
    "objective.wavelet": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=CAUSAL),
    "objective.teacher": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=DISTILLED),
    "objective.features": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=DISTILLED),
    "objective.kl_warmup": Edges((0.0, 1e-9, 1.0), NOT_A_FRACTION),
    "objective.free_bits": Edges((0.0, 1e6), (-1.0, *NOT_FINITE)),
    "objective.prior_every": Edges((1, 10**9), NOT_POSITIVE, base=MIXTURE),
    "critic.weight": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=CRITIC),
    "critic.start": Edges((0, 10**9), (-1,), base=CRITIC),
    "critic.lecam": Edges((0.0, 1e6), (-1.0, *NOT_FINITE), base=CRITIC),
    "critic.learning_rate": Edges((1.0,), (0.0, *NOT_FINITE), base=CRITIC),
    "critic.width": Edges((1,), NOT_POSITIVE, base=CRITIC),
    "critic.depth": Edges((1,), NOT_POSITIVE, base=CRITIC),
    "optim.learning_rate": Edges((1e-9, 1.0), (0.0, *NOT_FINITE)),
    "optim.warmup": Edges((0.0, 1.0), NOT_A_FRACTION),
    "optim.final_fraction": Edges((0.0, 1.0), NOT_A_FRACTION),
    "optim.weight_decay": Edges((0.0, 1.0), (-1.0, *NOT_FINITE)),
    "optim.clip_norm": Edges((1e-9, INF), (0.0, NAN)),
    "optim.sigma_rate": Edges((1e-9, 1e3), (0.0, *NOT_FINITE)),
    "optim.ema_decay": Edges((0.0, 0.99999), NOT_A_FRACTION),
    "train.batch_size": Edges((1, 3), NOT_POSITIVE),
    "train.num_steps": Edges((1, 10**9), (None, *NOT_POSITIVE)),
    "train.num_epochs": Edges((None,), (1, 0)),
    "train.clip_lengths": Edges(((), (1,), (5, 1, 3)), ((0,), (6,), (2, -1)), base=CAUSAL),
    "train.accumulate": Edges((None, 1, 2), (*NOT_POSITIVE, 3)),
    "train.seed": Edges((0, 1, 2**32 - 1), (-1, 2**64)),
    "train.log_every": Edges((1, 10**9), NOT_POSITIVE),
    "train.validate_every": Edges((1, 10**9), NOT_POSITIVE),
    "train.validation_clips": Edges((1, 10**9), NOT_POSITIVE),
    "train.skip_nonfinite": Edges((0, 10**9), (-1,)),
    "train.profile": Edges((None, "1:1", "2:3"), ("", "0:1", "2:1", "1")),
    "evaluate.tasks": Edges(((), ("density",)), (("",), ("latents",))),
    "evaluate.finetune_steps": Edges((0, 1), (-1,)),
    "evaluate.num_samples": Edges((1, 10**6), NOT_POSITIVE),
    "evaluate.baselines": Edges(((), ("chance",)), (("",), ("hgo",))),
    "evaluate.false_positive_rate": Edges((1e-9, 0.999), (0.0, 1.0, NAN)),
    "evaluate.anomaly_score": Edges(ANOMALY_SCORES, ("", "fussion")),
    "evaluate.anomaly_block": Edges((1, 10**6), NOT_POSITIVE),
    "evaluate.regret_steps": Edges((0, 1), (-1,)),
    "evaluate.lpips": Edges(((), ("alexnet", "vgg16"))),
}
# Literals whose values need other settings than SEQUENTIAL.
BASES = {"causal": CAUSAL, "critic": CRITIC, "objective.lpips_net": CAUSAL, "optim.freeze": CAUSAL}


def list_settings(cls=Config, prefix=""):
    """Yields the name and the type of every setting."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from list_settings(hint, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hint


def list_choices(hint):
    """Returns the values of a Literal or a bool; nothing for other types."""
    return (False, True) if hint is bool else typing.get_args(hint) * is_literal(hint)


def is_literal(hint):
    return typing.get_origin(hint) is typing.Literal


def change(config, name, value):
    """Returns the settings with another value of one of them."""
    section, _, field = name.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{field: value})
    part = dataclasses.replace(getattr(config, section), **{field: value})
    return dataclasses.replace(config, **{section: part})


def begin(config):
    """Does what a training does before it reads data; traces a step."""
    build.clip_format(config)
    build.find_decoding(config)
    model, runner = build.build_model(config), make_runner("pmap", jax.devices()[:1])
    num_micro_batches = count_micro_batches(config, model, runner)
    train = config.train
    sizes = train.batch_size, config.data.num_frames, num_micro_batches, train.num_steps, train.seed
    key = model, config.objective, config.critic, config.optim, config.model.likelihood
    trace(model, sizes, key, _Unkeyed(config))


@dataclass(frozen=True)
class _Unkeyed:
    """Settings that do not count in the key of a cache."""

    config: Config = dataclasses.field(compare=False)


@functools.cache
def trace(model, sizes, _, unkeyed):
    """Traces a training step, once for all settings that do not change it."""
    config = unkeyed.config
    batch_size, num_frames, num_micro_batches, num_steps, _ = sizes
    tx = make_optimizer(model, config, make_schedule(config.optim, num_steps))
    step = make_step(model, tx, config, num_steps=num_steps, num_micro_batches=num_micro_batches)
    batch = {
        "video": jax.ShapeDtypeStruct((batch_size, num_frames, *model.shape_HWC), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((batch_size, num_frames), jnp.bool_),
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    state = describe_state(model, tx, config)
    after, metrics = jax.eval_shape(step, state, batch)
    assert describe(after) == describe(state) and metrics["loss"].shape == ()


def describe(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def find_base(name):
    return next((base for start, base in BASES.items() if name.startswith(start)), SEQUENTIAL)


def test_every_setting_has_edges():
    settings = dict(list_settings())
    assert set(EDGES) == {name for name, hint in settings.items() if not list_choices(hint)}
    assert all(edges.allowed for edges in EDGES.values())


def list_allowed():
    return [(name, value) for name, edges in EDGES.items() for value in edges.allowed]


def list_refused():
    return [(name, value) for name, edges in EDGES.items() for value in edges.refused]


def list_literals():
    return [(name, value) for name, hint in list_settings() for value in list_choices(hint)]


@pytest.mark.parametrize(("name", "value"), list_allowed(), ids=str)
def test_a_training_can_begin_at_the_edges(name, value):
    begin(change(EDGES[name].base, name, value))


@pytest.mark.parametrize(("name", "value"), list_refused(), ids=str)
def test_a_value_beyond_the_edges_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name.rpartition(".")[2]):
        begin(change(EDGES[name].base, name, value))


@pytest.mark.parametrize(("name", "value"), list_literals(), ids=str)
def test_every_choice_begins_or_is_refused_by_its_name(name, value):
    try:
        begin(change(find_base(name), name, value))
    except ValueError as error:
        assert name.rpartition(".")[2] in str(error)


def test_the_known_scores_are_those_that_are_computed():
    known = (*scorer.FUSIONS, *scorer.MODEL_SCORES, *scorer.RANDOM_SCORES, *CONTROLS)
    assert known == ANOMALY_SCORES
    with pytest.raises(ValueError, match=r"anomaly_score='regret': needs evaluate\.regret_steps"):
        Evaluate(anomaly_score="regret", regret_steps=0)


def test_a_configuration_file_with_a_wrong_choice_or_type_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    for code, text in (
        ("Config(model=Model(prior='learnt'))", "model.prior='learnt': must be one of learned,"),
        ("Config(model=Model(linear='no'))", "model.linear='no': must be bool"),
    ):
        lines = "from vvae.config import Config, Model", "def get_config():", f"    return {code}"
        path.write_text("\n".join(lines))
        with pytest.raises(ValueError, match=rf"mine\.py: {text}"):
            load_config_file(path)


def test_combinations_that_a_task_would_refuse_after_the_training_are_refused_before():
    with pytest.raises(ValueError, match="anomaly_block=9: must be at most 8"):
        change(SEQUENTIAL, "evaluate", Evaluate(tasks=("anomaly",), anomaly_block=9))
    flat = dataclasses.replace(SEQUENTIAL.model, clip_latent_dim=0)
    with pytest.raises(ValueError, match="pooling='clip': needs model"):
        dataclasses.replace(SEQUENTIAL, model=flat, evaluate=Evaluate(pooling="clip"))
    with pytest.raises(ValueError, match="clip_latent_dim=0: must be at least 1 for the task clus"):
        dataclasses.replace(SEQUENTIAL, model=flat, evaluate=Evaluate(tasks=("cluster",)))


SMALLEST = """
    data=Data(height=1, width=1, num_frames=1, frame_stride=3, crop=10**6, brightness=1.0,
        flip=True, cache_gb=inf, max_megapixels=inf, decode_seconds=inf, workers=0),
    model=Model(widths=(), hidden=1, latent_dim=1, clip_latent_dim=0, prior="standard"),
    objective=Objective(beta=0.0, kl_warmup=1.0),
    optim=Optim(warmup=1.0, final_fraction=0.0, ema_decay=0.0, clip_norm=inf),
    train=Train(batch_size=1, num_steps=1, log_every=10**9, validate_every=1, validation_clips=1),
    evaluate=Evaluate(
        tasks=("reconstruct", "density", "classify", "generate", "anomaly"),
        baselines=(), num_samples=1, anomaly_block=1, regret_steps=0),
"""
ONE_COMPONENT = """
    data=Data(height=16, width=16, num_frames=4, view="otsu", sampling="whole"),
    model=Model(widths=(1, 1, 1, 1), hidden=1, latent_dim=1, clip_latent_dim=1, prior="static",
        clip_prior="mixture", num_components=1, posterior="filter", linear=False,
        likelihood="bernoulli"),
    objective=Objective(kl_warmup=0.0, free_bits=1e6, prior_every=1),
    optim=Optim(warmup=0.0, final_fraction=1.0),
    train=Train(batch_size=3, num_steps=None, num_epochs=1, accumulate=3, log_every=1,
        validate_every=3, profile="1:1"),
    parallel=Parallel(kind="mesh"),
    evaluate=Evaluate(tasks=("reconstruct", "density", "classify", "generate", "cluster"),
        baselines=("chance", "time"), pooling="clip", num_samples=1, finetune_steps=1),
"""
GRID = """
    data=Data(height=16, width=16, num_frames=4, images=1.0),
    model=Model(kind="causal"),
    causal=Causal(widths=(1, 1, 1), blocks=(1, 1), temporal_compression=1, spatial_compression=4,
        channels=1),
    objective=Objective(likelihood=0.0, l1=1.0, beta=0.0),
    critic=Critic(weight=1.0, start=1, width=1, depth=1),
    optim=Optim(freeze="encoder"),
    train=Train(batch_size=1, num_steps=2, clip_lengths=(1, 4), validate_every=1),
    evaluate=Evaluate(tasks=("reconstruct", "density", "latents"), num_samples=1),
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [SMALLEST, ONE_COMPONENT, GRID], ids=["smallest", "one", "grid"])
def test_a_run_at_the_edges_is_trained_measured_and_reported(code, brightness_folder, tmp_path):
    (tmp_path / "edges.py").write_text(
        "from math import inf\nfrom vvae.config import *\n\n"
        f"def get_config():\n    return Config({code})\n"
    )
    command = [sys.executable, ROOT / "train.py", "edges.py", "--data.path", brightness_folder]
    paths = ["--workdir", "run", "--data.cache_dir", "cache"]
    environment = os.environ | {"XLA_FLAGS": xla_flags(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, command), *paths], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not measured" not in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
