"""The networks that the benchmarks measure beside vvae's compute the same, in miniature."""

import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra bench: pip install '.[bench]'")

from benchmarks import causal_block, step_cases, torch_causal_twin, torch_twin, train_step
from benchmarks.plain_flax import use_plain_layers
from benchmarks.variables import draw_variables
from vvae.config import Causal, Data, Train
from vvae.models import causal_blocks, contract

MEASURED = step_cases.CASES[-1]
# Different numbers of blocks in encoder and decoder, and frames that are not square.
CAUSAL = step_cases.CausalCase(
    "causal",
    dataclasses.replace(
        MEASURED.config,
        data=Data(view="rgb", height=16, width=24, num_frames=9),
        causal=Causal(
            widths=(4,), blocks=(1, 2), channels=3, stem="pca", components=7, attention=False
        ),
        train=Train(batch_size=2),
    ),
    micro_batches=(1, 2),
)
SEQUENTIAL = step_cases.make_sequential("gray", 16, (4, 6), 2, 3, micro_batches=(1, 2))


def make_inputs(case):
    """Returns variables and a batch of videos."""
    variables = draw_variables(lambda key: contract.init_variables(case.make_model(), key))
    return variables, np.random.default_rng(0).integers(0, 256, case.video_shape, np.uint8)


@pytest.mark.parametrize("case", [SEQUENTIAL, CAUSAL], ids=lambda case: case.name)
def test_twins_are_the_same_networks(case):
    size = train_step.check_twins(case, *make_inputs(case))
    assert 0 < size["spatial_share"] < 1


@functools.cache
def run_causal():
    """Returns variables, videos, and what vvae's causal model computes from them."""
    variables, video = make_inputs(CAUSAL)
    return variables, video, train_step.run_vvae(CAUSAL, variables, train_step.make_batch(video))


@pytest.mark.parametrize(
    ("where", "name", "value", "found"),
    [
        (torch_causal_twin, "EPSILON", 1e-2, "outputs differ"),
        (torch_twin, "standard_kl", lambda mean, logvar: 0.5 * mean.square(), "losses differ"),
        (torch_twin, "as_unit_range", lambda video: video / 128.0 - 1.0, "outputs differ"),
    ],
)
def test_another_network_is_refused(monkeypatch, where, name, value, found):
    variables, video, ours = run_causal()
    monkeypatch.setattr(where, name, value)
    twin = train_step.make_loaded(CAUSAL.twin_makers()["PyTorch"], variables)
    outputs, _ = train_step.run_twin(twin, video)
    with pytest.raises(AssertionError, match=found):
        train_step.assert_same("twin", outputs, ours)


def test_plain_flax_is_the_same_network_without_our_convolutions():
    variables, video, ours = run_causal()
    with (
        use_plain_layers(),
        mock.patch.object(causal_blocks, "conv_3x3", side_effect=AssertionError("ours")),
    ):
        plain = train_step.run_vvae(CAUSAL, variables, train_step.make_batch(video))
    train_step.assert_same("plain Flax", plain, ours)


def test_a_plain_step_is_traced_anew_after_a_step_of_ours():
    variables, video = make_inputs(CAUSAL)

    def trace():
        model, batch = CAUSAL.make_model(), train_step.make_batch(video)
        loss = functools.partial(train_step.negative_elbo, model)
        key = jax.random.key(0)
        return str(jax.make_jaxpr(jax.grad(lambda v: loss(v, batch, key, 1.0)[0]))(variables))

    assert "_kernel_gradient_3x3" in trace()
    with use_plain_layers():
        assert "_kernel_gradient_3x3" not in trace()
    assert "_kernel_gradient_3x3" in trace()


def test_every_row_makes_steps(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    steps = train_step.make_steps(SEQUENTIAL, *make_inputs(SEQUENTIAL), "cpu")
    assert list(steps) == [
        "PyTorch",
        "torch.compile",
        "vvae, 3 frames at a time",
        "vvae, 6 frames at a time, as trained",
        "plain Flax",
    ]
    rounded = train_step.make_bfloat16_steps(SEQUENTIAL, *make_inputs(SEQUENTIAL), "cpu")
    assert list(rounded) == [
        "bfloat16: PyTorch",
        "bfloat16: torch.compile",
        "bfloat16: vvae, as trained",
    ]
    for run in [*steps.values(), *rounded.values()]:
        run()
        run()


@pytest.mark.parametrize("layout", CAUSAL.twin_makers())
def test_steps_of_the_causal_twin_lower_its_loss(layout):
    variables, video, _ = run_causal()
    twin = train_step.make_loaded(CAUSAL.twin_makers()[layout], variables)
    before = train_step.run_twin(twin, video)[0].loss
    run = train_step.make_torch_step(twin, twin.loss, video)
    for _ in range(3):
        run()
    assert train_step.run_twin(twin, video)[0].loss < before


def test_blocks_are_the_same():
    x, params = causal_block.make_inputs(causal_block.Case((1, 3, 6, 5, 24)))
    expected, _ = causal_block.make_vvae(x, params)
    plain, _ = causal_block.make_plain(x, params)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        found, step = causal_block.make_torch(x, params, layout)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        step()


def test_the_measured_settings_are_those_that_are_trained():
    assert MEASURED.video_shape == (8, 17, 64, 64, 3)
    assert MEASURED.make_model().grid_shape((17, 64, 64)) == (5, 8, 8)
    if jax.default_backend() == "cpu":
        assert train_step.find_trained_micro_batch(MEASURED) == 8
