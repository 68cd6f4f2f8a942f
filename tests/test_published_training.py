"""Training that starts from published weights: the tiny folders in tests/golden."""

import json
import shutil

import jax
import numpy as np
import published
import pytest

import train
import vvae
from vvae import build, config_files
from vvae import config as settings
from vvae.config import Config, Model
from vvae.pretrained import load as pretrained
from vvae.run import is_run, open_run
from vvae.session.start import adopt_network

pytest.importorskip("safetensors", reason="pip install '.[pretrained]'")

SETTINGS = """--data.height 16 --data.width 16 --data.num_frames 5 --data.workers 0
    --train.num_steps 3 --train.validate_every 3 --train.log_every 1 --train.batch_size 8
    --train.validation_clips 2 --evaluate.num_samples 2 --evaluate.tasks reconstruct density"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(20):
        frames = rng.integers(0, 256, (5, 4, 4, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        np.save(folder / f"{number:02}.npy", frames)
    return folder


def golden(name):
    return published.GOLDEN_FOLDER / name


def start(videos, workdir, *arguments):
    words = ["configs/published.py", *SETTINGS.split(), "--data.path", videos, "--data.cache_dir"]
    words += [workdir.parent / "cache", "--workdir", workdir, *arguments]
    return train.main([str(word) for word in words])


def flatten(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("name", published.GOLDEN)
def test_a_network_is_described_without_its_weights(name):
    model, _ = pretrained.load_pretrained(golden(name))
    text = pretrained.describe_network(model)
    assert pretrained.build_network(text) == model
    assert pretrained.is_published(golden(name))


def test_scales_that_are_tensors_are_in_the_description(tmp_path):
    """LTX publishes the mean and standard deviation of its latents as tensors."""
    model, params = pretrained.load_pretrained(golden("ltx"))
    channels = model.bottleneck.channels
    scaled = model.clone(
        bottleneck=type(model.bottleneck)(channels, (0.5,) * channels, (2.0,) * channels)
    )
    pretrained.save_pretrained(tmp_path / "scaled", scaled, params)
    read, _ = pretrained.load_pretrained(tmp_path / "scaled")
    again = pretrained.build_network(pretrained.describe_network(read))
    assert again.bottleneck == scaled.bottleneck != model.bottleneck


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"_class_name": "Other"}'])
def test_what_describes_no_network(text):
    with pytest.raises(
        ValueError, match=r"cannot be read|no _class_name|cannot read the class 'Other'"
    ):
        pretrained.build_network(text)


@pytest.mark.parametrize("value", [None, 3, [[1.0]], "ab"])
def test_scales_that_are_no_numbers(value):
    record = json.loads(pretrained.describe_network(pretrained.load_pretrained(golden("ltx"))[0]))
    record["_latents_std"] = value
    if value is None:
        del record["_latents_std"]
    with pytest.raises(ValueError, match=r"_latents_std|could not convert"):
        pretrained.build_network(json.dumps(record))


@pytest.mark.parametrize("name", ["wan21", "ltx", "vidtok"])
def test_the_modules_of_the_encoder_are_what_the_latents_depend_on(name):
    """They are exact: the gradient by all other parameters is zero."""
    model, params = pretrained.load_pretrained(golden(name))
    video = np.random.default_rng(0).uniform(-1, 1, (1, 5, 8, 8, 3)).astype(np.float32)

    def add_up(learned):
        posterior = vvae.encode(model, params | {"params": learned}, video)
        return sum(leaf.sum() for leaf in jax.tree.leaves(posterior))

    gradients = jax.jit(jax.grad(add_up))(params["params"])
    touched = {n for n, tree in gradients.items() if any(map(np.any, jax.tree.leaves(tree)))}
    assert touched == set(model.encoder_modules())
    assert model.last_kernel(params["params"]).shape[-1] % model.shape_HWC[-1] == 0


def test_the_decoder_is_trained_on_and_written_back(videos, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert start(videos, workdir, "--init_from", golden("wan21"), "--optim.ema_decay", "0.5") == 0
    assert "parameters of a published network" in capsys.readouterr().out
    before_model, before = pretrained.load_pretrained(golden("wan21"))
    model, after = build.load(workdir, "latest", ema=False)
    assert model == before_model.clone(shape_HWC=(16, 16, 3))
    np.testing.assert_array_equal(after["stats"]["std"], before["stats"]["std"])
    old, new = flatten(before["params"]), flatten(after["params"])
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed and not [n for n in changed if n.startswith(("['encoder']", "['quant_conv']"))]
    for name in changed:
        assert np.abs(old[name] - new[name]).max() < 0.01, name  # not a fresh start
    pretrained.save_pretrained(tmp_path / "written", model, after)
    _, read = pretrained.load_pretrained(tmp_path / "written")
    for name, leaf in flatten(read["params"]).items():
        if name != "['log_sigma']":
            np.testing.assert_array_equal(leaf, new[name])
    answer = json.loads((workdir / "eval" / "reconstruct.json").read_text())
    assert answer["rows"]


def test_a_run_goes_on_without_the_folder_it_began_with(videos, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(golden("ltx"), folder)
    workdir = tmp_path / "run"
    steps = ["--train.num_steps", "1", "--train.validate_every", "1"]
    assert start(videos, workdir, "--init_from", folder, "--optim.freeze", "none", *steps) == 0
    shutil.rmtree(folder)
    assert train.main(["--workdir", str(workdir)]) == 0
    # Other runs can start from it.
    fresh = config_files.load_config_file("configs/published.py")
    adopted = adopt_network(fresh, str(workdir))
    assert adopted.model == open_run(workdir).config.model != fresh.model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"model\.kind=published needs --init_from FOLDER"),
        (("--init_from", "{golden}", "--data.view", "gray"), r"data\.view='gray' has 1 channel"),
        (("--init_from", "{golden}", "--model.kind", "causal"), r"need model\.kind=published, not"),
        (("--init_from", "{nowhere}"), "nowhere is not a run directory"),
        (("--init_from", "Wan-AI/Wan2.1"), r"Hub must be downloaded first: hf download Wan-AI/"),
        (("--init_from", "{golden}/config.json"), "config.json is a file: give the folder"),
        (("--evaluate.tasks", "classify"), r"model\.kind=published answers reconstruct, density"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(videos, tmp_path, arguments, message):
    places = {"golden": golden("wan21"), "nowhere": tmp_path / "nowhere"}
    with pytest.raises(ValueError, match=message):
        start(videos, tmp_path / "run", *(word.format(**places) for word in arguments))
    assert not is_run(tmp_path / "run")


def test_a_network_belongs_to_published_weights():
    with pytest.raises(ValueError, match=r"model\.network='\{\}': needs model\.kind=published"):
        Config(model=Model(network="{}"))
    tasks = settings.Evaluate(tasks=("density",))
    config = Config(model=Model(kind="published", network="{}"), evaluate=tasks)
    assert config_files.from_dict(config_files.to_dict(config)) == config
