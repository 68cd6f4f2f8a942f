"""Training CausalVideoVAE by the command line: a critic, a frozen encoder, mixed batches."""

import json

import numpy as np
import programs
import pytest

from vvae import build
from vvae import config as settings
from vvae.models.digest import digest_params
from vvae.run import open_run
from vvae.session.start import describe_state
from vvae.session.update import make_optimizer, make_schedule
from vvae.training.checkpoint import Checkpointer

SETTINGS = {
    "data.view": "gray",
    "data.height": "16",
    "data.width": "16",
    "data.num_frames": "5",
    "data.workers": "0",
    "model.kind": "causal",
    "causal.widths": "6",
    "causal.blocks": "1 1",
    "causal.channels": "4",
    "causal.stem": "pca",
    "causal.components": "12",
    "causal.attention": "false",
    "objective.l1": "1",
    "objective.wavelet": "0.1",
    "train.batch_size": "8",
    "train.num_steps": "4",
    "train.validate_every": "2",
    "train.log_every": "1",
    "evaluate.tasks": "reconstruct",
}


def train(folder, workdir, *extra, **changed):
    """Runs train.py and returns its output."""
    values = SETTINGS | {"data.cache_dir": str(folder / "cache")} | changed
    words = [word for name, value in values.items() for word in (f"--{name}", *value.split())]
    result = programs.run_in_process("train.py", *words, "--workdir", workdir, *extra)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def read_state(workdir):
    run = open_run(workdir)
    model = build.build_model(run.config)
    tx = make_optimizer(model, run.config, make_schedule(run.config.optim, run.num_steps))
    abstract = describe_state(model, tx, run.config)
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        return checkpointer.restore("latest", abstract).state


@pytest.fixture(scope="module")
def folder(tmp_path_factory, brightness_folder):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(folder, brightness_folder):
    """A run with a critic, images among the clips and two clip lengths."""
    workdir = folder / "first"
    changed = {
        "data.path": str(brightness_folder),
        "critic.weight": "0.5",
        "critic.start": "1",
        "critic.width": "4",
        "critic.depth": "2",
        "critic.lecam": "0.01",
        "data.images": "0.3",
        "train.clip_lengths": "1 5",
    }
    return workdir, train(folder, workdir, **changed)


def test_every_weight_is_printed_and_every_term_logged(first):
    workdir, printed = first
    assert (
        "objective: 1 x -log p(x | z) + 1 x KL + 1 x |error| + 0.1 x |Haar error| + 0.5 x critic "
        "(adaptive, from step 1, LeCam 0.01)"
    ) in printed
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    names = {"l1", "wavelet", "critic_loss", "critic_real", "critic_fake", "critic_weight"}
    assert len(rows) == 4 and all(names < row.keys() for row in rows)
    weights = [row["critic_weight"] for row in rows]
    assert weights[0] == 0.0 and min(weights[1:]) > 0.0


def test_reconstruct_tells_of_seams_and_of_the_first_frame(first):
    workdir, _ = first
    answer = json.loads((workdir / "eval" / "reconstruct.json").read_text())
    row = answer["rows"]["vae"]
    assert {"seam_rows", "seam_columns", "first_frame_gap"} < row.keys()
    # A clip of 5 frames has one border between latent frames among its four pairs of frames.
    assert "seam_time" in row and row["seam_rows"]["value"] > 0
    positions = answer["details"]["by_frame_position"]["vae"]["psnr"]
    assert len(positions) == 5 and np.isfinite(positions).all()


def test_fine_tuning_the_decoder_leaves_the_encoder_as_it_was(first, folder, brightness_folder):
    workdir, _ = first
    before = build.load(workdir)[1]
    train(
        folder,
        folder / "decoder",
        "--init_from",
        str(workdir),
        **{"data.path": str(brightness_folder), "optim.freeze": "encoder"},
        **{"optim.weight_decay": "0.1", "data.crop": "1"},
    )
    state = read_state(folder / "decoder")
    assert state.step == 4
    names = ("encoder", "linear_encoder")
    for params in (state.params, state.ema_params):
        kept, moved = ({n: p[n] for n in names} for p in (params, before["params"]))
        assert digest_params(kept) == digest_params(moved)
    assert digest_params(state.stats) == digest_params(before["stats"])
    for name in ("decoder", "linear_decoder"):
        assert digest_params(state.params[name]) != digest_params(before["params"][name])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": settings.Objective(l1=1.0)}, "objective.l1=1.0: needs model.kind=causal"),
        ({"objective": settings.Objective(likelihood=0.0)}, "objective.likelihood=0.0"),
        ({"critic": settings.Critic(weight=1.0)}, "critic.weight=1.0: needs model.kind=causal"),
        ({"optim": settings.Optim(freeze="encoder")}, "optim.freeze='encoder': needs"),
        ({"data": settings.Data(images=0.5)}, "data.images=0.5: needs model.kind=causal"),
        ({"train": settings.Train(clip_lengths=(4,))}, r"train.clip_lengths=\(4,\): needs"),
        (
            {
                "model": settings.Model(kind="causal"),
                "train": settings.Train(clip_lengths=(17,)),
                "evaluate": settings.Evaluate(tasks=()),
            },
            "train.clip_lengths=17: must be between 1 and data.num_frames=16",
        ),
        (
            {
                "model": settings.Model(kind="causal"),
                "objective": settings.Objective(lpips=1.0),
                "data": settings.Data(view="flow"),
                "evaluate": settings.Evaluate(tasks=()),
            },
            "data.view='flow': objective.lpips needs pictures",
        ),
        ({"evaluate": settings.Evaluate(tasks=("latents",))}, "'latents': needs model.kind=causal"),
    ],
)
def test_settings_that_do_not_fit_together(changed, message):
    with pytest.raises(ValueError, match=message):
        settings.Config(**changed)
