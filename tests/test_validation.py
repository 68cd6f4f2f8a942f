"""What a training measures beside its steps, on one device."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from asking import ask
from tiny_vae import draw_variables

from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.models.sequential import SequentialVAE
from vvae.session.validation import Validation
from vvae.tasks import options
from vvae.tasks.quality import density, reconstruct
from vvae.training.parallel import make_runner
from vvae.training.state import init_state

# A model of no other test: nothing of it is compiled yet.
MODEL = SequentialVAE((16, 16, 1), widths=(4,), hidden=7, latent_dim=3, clip_latent_dim=2)


class Notes:
    """Keeps what a validation reports."""

    def __init__(self):
        self.scores = {}

    def write(self, step, kind, values):
        self.scores[step, kind] = values

    def say(self, text):
        raise AssertionError(text)  # such as a picture that could not be drawn


@pytest.fixture(scope="module")
def dataset(brightness_folder, tmp_path_factory):
    clip_format = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
    cache = tmp_path_factory.mktemp("cache")
    return open_dataset(brightness_folder, clip_format, Decoding(Cache(cache, 2**28)))


def test_a_validation_runs_the_programs_of_density_and_reconstruct(dataset, tmp_path):
    """Each is compiled once for both; the scores are those of all devices together."""
    params = draw_variables(MODEL)
    question = ask(MODEL, params, dataset, tmp_path, batch_size=8, num_samples=2)
    run = dataclasses.replace(question.run, record={"data": {"num_steps": 10}})
    state = init_state(params["params"], params["stats"], optax.sgd(0.1))
    compiled = []

    def listen(name, *_, fun_name="", **__):
        if "backend_compile" in name:
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        runner, notes = make_runner("pmap", jax.devices()[:1]), Notes()
        Validation(MODEL, runner, dataset, run)(1, runner.place_state(state), notes)
        density.answer(question, options.Density())
        reconstruct.answer(question, options.Reconstruct())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    for name in ("measure_batch", "reconstruct_codes"):
        assert len([found for found in compiled if name in found]) == 1, compiled
    assert (tmp_path / "validation" / "step_00000001.png").stat().st_size > 1000

    runner, other = make_runner("pmap"), Notes()
    assert runner.num_devices == 8
    Validation(MODEL, runner, dataset, run)(1, runner.place_state(state), other)
    assert other.scores.keys() == notes.scores.keys() == {(1, "validation")}
    for name, value in notes.scores[1, "validation"].items():
        np.testing.assert_allclose(value, other.scores[1, "validation"][name], rtol=1e-4, atol=1e-4)
