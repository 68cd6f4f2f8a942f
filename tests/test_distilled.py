"""A small decoder for published latents: what it keeps, what it learns from, where it goes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import GOLDEN_FOLDER, make_video
from tiny_latents import encode as encode_store

import train
import vvae
from vvae import build, config_files
from vvae.config import Config, Evaluate, Model, Objective, Optim
from vvae.inference import streaming
from vvae.latents.decode import decode_store
from vvae.latents.encoder import describe_encoder
from vvae.models import contract
from vvae.objectives import reconstruction
from vvae.pretrained import distilled
from vvae.pretrained.load import build_network, describe_network, load_pretrained, save_pretrained
from vvae.session.update import _describe, _hold_modules, _teach

pytest.importorskip("safetensors", reason="pip install '.[pretrained]'")

WIDTHS = (6, 4, 3)
SETTINGS = """tiny_decoder --data.height 16 --data.width 16 --data.num_frames 2 --data.workers 0
    --train.num_steps 3 --train.validate_every 3 --train.log_every 1 --train.batch_size 8
    --train.validation_clips 2 --objective.lpips 0 --model.decoder_widths 6 4"""


def distil(name, widths=WIDTHS):
    """Returns (model, variables, published model, its variables)."""
    network, published = load_pretrained(GOLDEN_FOLDER / name)
    model = distilled.distil(network, widths)
    fresh = contract.init_variables(model, jax.random.key(1))
    return model, distilled.adopt(fresh, published), network, published


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_encoder_is_the_published_one_and_the_decoder_runs_on_streams():
    """Wan: latents equal to the last bit, one description, and pieces that equal the whole."""
    model, params, network, published = distil("wan21")
    x = make_video(9, size=(12, 16))
    z = vvae.encode(model, params, x).mean
    np.testing.assert_array_equal(z, vvae.encode(network, published, x).mean)
    assert describe_encoder(model, params) == describe_encoder(network, published)
    assert_equal_trees(distilled.restore_teacher(params), published)
    decode = jax.jit(contract.decode, static_argnums=0)
    y, changed = decode(model, params, z), decode(model, params, z.at[:, 2:].add(1.0))
    assert y.shape == x.shape
    np.testing.assert_array_equal(y[:, :5], changed[:, :5])
    assert np.abs(y - changed)[:, 5:].max() > 0
    decode_chunk = jax.jit(streaming.decode_chunk, static_argnums=0)
    cache, first = decode_chunk(model, params, streaming.begin_decode(), z[:, :1])
    _, rest = decode_chunk(model, params, cache, z[:, 1:])
    pieces = np.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(pieces, y, rtol=0, atol=1e-5 * np.std(y))


@pytest.mark.parametrize("name", ["wan21", "taef2"])
def test_it_is_written_and_read_without_its_teacher(name, tmp_path):
    model, params, _, published = distil(name, WIDTHS if name == "wan21" else (6, 4))
    save_pretrained(tmp_path / "small", model, params)
    again, read = load_pretrained(tmp_path / "small")
    assert again == model and build_network(describe_network(model)) == model
    assert "teacher" not in read["stats"]
    assert_equal_trees(read["params"], params["params"])
    assert_equal_trees(read["stats"]["network"], published["stats"])
    half, _ = load_pretrained(tmp_path / "small", dtype="bfloat16")
    assert half.network.dtype == jnp.bfloat16
    small, whole = (sum(a.size for a in jax.tree.leaves(t["params"])) for t in (read, published))
    assert small < whole or name == "taef2"  # the tiny TAEF2 is smaller than any student


def test_the_teacher_decodes_the_same_latents():
    """With the share of noise that TAEF2's latents have, near the reconstruction from means."""
    model, params, network, published = distil("taef2", (6, 4))
    mask, index = np.ones((2, 3), bool), np.arange(2)
    batch = {"video": make_video(3, size=(8, 8)).repeat(2, axis=0), "mask": mask, "index": index}
    taught = _teach(model, params, batch, jax.random.key(0))
    expected = vvae.reconstruct(network, published, batch["video"])
    assert 0 < np.abs(taught - expected).max() < 0.2 * np.std(expected)
    weights = reconstruction.Weights(likelihood=0.0, teacher=2.0)

    def lose(params, teach):
        judges = reconstruction.Judges(teach=teach)
        return reconstruction.reconstruction_loss(
            model, params, batch, jax.random.key(0), 0.0, weights, judges
        )

    loss, metrics, fake = lose(params, lambda *_: expected)
    error = np.abs(np.asarray(fake) - expected)
    np.testing.assert_allclose(metrics["teacher"], error.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, 2.0 * error.sum() / 2, rtol=1e-5)
    assert lose(params, lambda *_: fake)[0] == 0.0


@pytest.mark.parametrize("name", ["wan21", "taef2"])
def test_features_are_the_normalised_latents_of_the_decoded_video(name):
    """Their gradient reaches every parameter of the decoder, through the published encoder."""
    model, params, network, published = distil(name, WIDTHS if name == "wan21" else (6, 4))
    mask, index = np.ones((1, 5), bool), np.arange(1)
    batch = {"video": make_video(5, size=(8, 8)), "mask": mask, "index": index}
    judges = reconstruction.Judges(describe=functools.partial(_describe, model))
    weights = reconstruction.Weights(likelihood=0.0, features=2.0)

    def lose(learned):
        variables = params | {"params": learned}
        loss, metrics, fake = reconstruction.reconstruction_loss(
            model, variables, batch, jax.random.key(0), 0.0, weights, judges
        )
        return loss, (metrics, fake)

    differentiate = jax.jit(jax.value_and_grad(lose, has_aux=True))
    (loss, (metrics, fake)), gradient = differentiate(params["params"])
    real, decoded = (
        network.bottleneck.normalize(vvae.encode(network, published, x).mean)
        for x in (batch["video"], fake)
    )
    error = np.abs(decoded - real).mean()
    assert error > 0.01
    np.testing.assert_allclose(metrics["features"], error, rtol=1e-4)
    np.testing.assert_allclose(loss, 2.0 * error * batch["video"].size, rtol=1e-4)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["decoder"]))


def test_modules_that_are_held_have_no_gradient_and_the_others_keep_theirs():
    network, params = load_pretrained(GOLDEN_FOLDER / "taef2")
    x = make_video(1, size=(4, 4))

    def lose(variables):
        return jnp.sum(jnp.square(vvae.reconstruct(network, variables, x)))

    def find_gradient(loss):
        return jax.jit(jax.grad(lambda learned: loss(params | {"params": learned})))(
            params["params"]
        )

    free, held = (find_gradient(loss) for loss in (lose, _hold_modules(("encoder",), lose)))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(free["encoder"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(held["encoder"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), free["decoder"], held["decoder"]
    )


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((6, 4), "1 doublings do not undo the 4x compression of time"),
        ((6, 4, 3, 3), "at most 2 for a published network that compresses 4x4"),
        ((6, 0, 3), "must be positive"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        distil("wan21", widths)


def test_settings_that_do_not_go_together_are_refused():
    tasks = Evaluate(tasks=("density",))
    model = Model(kind="published", network="{}", decoder_widths=(4, 4))
    with pytest.raises(ValueError, match=r"objective\.teacher=1\.0: needs a small decoder"):
        Config(
            model=Model(kind="published", network="{}"),
            objective=Objective(teacher=1.0),
            evaluate=tasks,
        )
    with pytest.raises(ValueError, match=r"objective\.features=1\.0: needs a small decoder"):
        Config(
            model=Model(kind="published", network="{}"),
            objective=Objective(features=1.0),
            evaluate=tasks,
        )
    with pytest.raises(ValueError, match=r"optim\.freeze='none': must be encoder with"):
        Config(model=model, evaluate=tasks)
    assert Config(model=model, optim=Optim(freeze="encoder"), evaluate=tasks).model == model
    with pytest.raises(ValueError, match=r"model\.decoder_widths=\(4,\): needs model\.kind"):
        Model(decoder_widths=(4,))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(10):
        frames = rng.integers(0, 256, (5, 2, 2, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        np.save(folder / f"{number:02}.npy", frames)
    return folder


def start(videos, workdir, *arguments):
    places = ["--data.path", videos, "--data.cache_dir", workdir.parent / "cache"]
    return train.main(
        [str(w) for w in (*SETTINGS.split(), *places, "--workdir", workdir, *arguments)]
    )


def test_a_run_distils_a_decoder_that_decodes_stores_of_the_published_encoder(
    videos, tmp_path, capsys
):
    workdir, weights = tmp_path / "run", GOLDEN_FOLDER / "taef2"
    assert start(videos, workdir, "--init_from", weights) == 0
    assert "1 x |difference from the published decoder|" in capsys.readouterr().out
    network, published = load_pretrained(weights)
    model, params = build.load(workdir, "latest")
    assert isinstance(model, distilled.DistilledVAE) and model.widths == (6, 4)
    assert_equal_trees(distilled.restore_teacher(params), published)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(row["teacher"] > 0 for row in rows if row["kind"] == "train")
    assert json.loads((workdir / "eval" / "reconstruct.json").read_text())["rows"]
    # It goes on, and other runs begin with it.
    assert train.main(["--workdir", str(workdir)]) == 0
    again = tmp_path / "again"
    assert start(videos, again, "--init_from", workdir, "--train.num_steps", "1",
                 "--train.validate_every", "1") == 0  # fmt: skip
    # Written, it reads what the published encoder stored.
    save_pretrained(tmp_path / "small", model, params)
    _, dataset = encode_store(videos, tmp_path / "store", network=(network, published))
    small = load_pretrained(tmp_path / "small")
    written = decode_store(*small, dataset.folder, tmp_path / "out", only=["00.npy"])
    assert [path.name for path in written.paths] == ["00.mp4"]


def test_a_run_without_a_checkpoint_asks_for_its_weights_again(videos, tmp_path, monkeypatch):
    workdir = tmp_path / "run"

    def stop(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("vvae.session.start.take_parameters", stop)
        with pytest.raises(InterruptedError):
            start(videos, workdir, "--init_from", GOLDEN_FOLDER / "taef2")
    with pytest.raises(ValueError, match="no checkpoint yet: give the published weights again"):
        train.main(["--workdir", str(workdir)])


def test_the_configuration_can_be_read():
    config = config_files.load_config_file("tiny_decoder")
    assert config.model.decoder_widths and config.optim.freeze == "encoder"
