"""Gesture recognition, cross-validated by environment: latents, raw frames, PCA, random networks.

    python -m benchmarks.gestures --data.path GESTURES [--seeds 3] [--folds 8] [--view VIEW]

In every fold the VAE, its standardisation and its PCA start see only the training folds and the
videos without one of the ten labels (split `extra`). The probe is that of `evaluate.py classify`.
Its C, its scaling and the pooling of latents are chosen by cross-validation inside the training
folds, for the trained and the random network alike. Prints top-1 and writes
benchmarks/results/gestures_VIEW.json.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

from vvae import runtime

runtime.prepare_jax()

import jax
import numpy as np
from sklearn.model_selection import GroupKFold

from benchmarks.origin import RESULTS, stamp, write_result
from vvae import build
from vvae.config import Config
from vvae.config_files import load_config_file
from vvae.data.dataset import UNSPLIT, Cache, Clips, Dataset, Decoding, open_unsplit
from vvae.measure.pca import fit_frame_pca, project_frames
from vvae.session.preview import count_micro_batches
from vvae.session.start import count_steps, make_state, open_batches
from vvae.session.update import make_optimizer, make_schedule, make_step
from vvae.tasks import probe as probes
from vvae.tasks.pooling import VideoFeatures, average_by_video, extract, make_encoder
from vvae.tasks.random_params import randomize_params
from vvae.training.parallel import make_runner
from vvae.training.state import variables

UNLABELLED = ("unclassified",)
POOLINGS = ("mean_dynamics", "dynamics", "ordered", "steps")

Extractor = Callable[[Clips], VideoFeatures]


def main() -> None:
    """Runs every fold and seed, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data.path", dest="data_path", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--view", help="by default that of configs/actions.py")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    config = configure(options.view, options.steps)
    view = config.data.view
    dataset = open_videos(config, options.data_path)
    started = time.time()
    folds = find_folds(dataset.splits[UNSPLIT], options.folds)
    rows = _score_folds(config, dataset, folds, options.seeds)
    split_rows = _score_stated_split(config, dataset, options)
    content = {
        "task": "gestures",
        "protocol": f"{options.folds} folds by environment, {options.seeds} seeds, top-1",
        "view": view,
        "cross_validation": rows,
        "stated_test_split": split_rows,
        "seconds": round(time.time() - started),
    }
    command = f"python -m benchmarks.gestures --data.path GESTURES --seeds {options.seeds}"
    command += f" --folds {options.folds} --view {view}"
    write_result(RESULTS / f"gestures_{view}.json", stamp(content, command))
    for title in ("cross_validation", "stated_test_split"):
        for name, row in content[title].items():
            print(f"{title:18s} {name:16s} top-1 {row['mean']:.3f} +- {row['std']:.3f}")


def configure(view: str | None = None, num_steps: int | None = None) -> Config:
    """Returns configs/actions.py, with another view or number of steps if given."""
    config = load_config_file("actions")
    data = dataclasses.replace(config.data, view=view or config.data.view)
    steps = num_steps or config.train.num_steps
    return dataclasses.replace(
        config, data=data, train=dataclasses.replace(config.train, num_steps=steps)
    )


def open_videos(config: Config, folder: str) -> Dataset:
    """Opens all videos as one split, with these settings."""
    cache = runtime.cache_folder() / "clips"
    return open_unsplit(
        folder,
        build.clip_format(config),
        Decoding(
            Cache(cache, int(config.data.cache_gb * 1e9)), num_workers=build.count_workers(config)
        ),
    )


def _is_labelled(clips: Clips) -> np.ndarray:
    """Returns whether each clip's video has one of the ten labels, bool [N]."""
    labelled_V = np.array([video.label not in UNLABELLED for video in clips.videos])
    return labelled_V[clips.video_index_N]


def find_folds(clips: Clips, num_folds: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns the (train, extra, test) clip indices of each fold; environments are never split."""
    group_N = np.array([clips.videos[v].group for v in clips.video_index_N])
    labelled = np.nonzero(_is_labelled(clips))[0]
    extra = np.nonzero(~_is_labelled(clips))[0]
    folds = GroupKFold(num_folds).split(labelled, groups=group_N[labelled])
    return [(labelled[train], extra, labelled[test]) for train, test in folds]


def _score_stated_split(config: Config, dataset: Dataset, options) -> dict:
    clips = dataset.splits[UNSPLIT]
    split_N = np.array([clips.videos[v].split for v in clips.video_index_N])
    parts = [np.nonzero(split_N == split)[0] for split in ("train", "extra", "test")]
    return _score_folds(config, dataset, [tuple(parts)], options.seeds)


def _score_folds(config: Config, dataset: Dataset, folds, num_seeds: int) -> dict:
    """Returns top-1 over all test videos of the folds: mean and standard deviation over seeds."""
    accuracy = {}
    for seed in range(num_seeds):
        correct = {}
        for number, parts in enumerate(folds):
            for name, hits in _score_fold(config, dataset, *parts, seed).items():
                correct.setdefault(name, []).append(hits)
            means = {name: np.concatenate(hits).mean() for name, hits in correct.items()}
            text = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            print(f"seed {seed} fold {number + 1}/{len(folds)}: {text}", flush=True)
        for name, hits in correct.items():
            accuracy.setdefault(name, []).append(float(np.concatenate(hits).mean()))
    return {
        name: {"mean": float(np.mean(v)), "std": float(np.std(v)), "seeds": v}
        for name, v in accuracy.items()
    }


def _score_fold(config: Config, dataset: Dataset, own, extra, test, seed: int) -> dict:
    """Returns method -> whether each test video is recognised."""
    clips = dataset.splits[UNSPLIT]
    seen, fitted, held_out = (clips.select(ids) for ids in ([*own, *extra], own, test))
    model, params = train(config, dataset, seen, seed)
    fresh = randomize_params(model, params, seed + 100)
    encoders = [make_encoder(model, pooling) for pooling in POOLINGS]

    def read_latents(variables) -> list[Extractor]:
        batch_size = config.train.batch_size
        return [partial(extract, encoder, variables, batch_size=batch_size) for encoder in encoders]

    methods = {"vae": read_latents(params), "random_encoder": read_latents(fresh)}
    if seed == 0:
        methods |= list_fixed_methods(seen, config.model.latent_dim)
    return {name: _judge(extractors, fitted, held_out) for name, extractors in methods.items()}


def list_fixed_methods(seen: Clips, num_components: int) -> dict[str, list[Extractor]]:
    """Returns features that do not depend on a seed."""
    pca = fit_frame_pca(seen, num_components, 0)

    def read_raw(clips: Clips) -> VideoFeatures:
        return average_by_video(_flatten(clips.read(np.arange(len(clips)))), clips)

    def read_pca(clips: Clips) -> VideoFeatures:
        frames = clips.read(np.arange(len(clips)))
        return average_by_video(_flatten(project_frames(pca, frames)), clips)

    return {"raw_frames": [read_raw], "pca": [read_pca]}


def train(config: Config, dataset: Dataset, clips: Clips, seed: int):
    """Trains on clips without a run directory; returns (model, params)."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    dataset = dataclasses.replace(dataset, splits={"train": clips})
    num_steps = count_steps(config.train, len(dataset.stream))
    runner = make_runner("mesh", jax.devices()[:1])
    model = build.build_model(config)
    tx = make_optimizer(model, config, make_schedule(config.optim, num_steps))
    num_micro_batches = count_micro_batches(config, model, runner)
    step = runner.compile_step(
        make_step(model, tx, config, num_steps=num_steps, num_micro_batches=num_micro_batches)
    )
    state = runner.place_state(make_state(model, tx, dataset, config))
    batches = open_batches(dataset, config, runner, num_steps=num_steps, first_step=0)
    for _ in range(num_steps):
        state, _ = step(state, batches.current)
        batches.advance()
    batches.close()
    return model, jax.device_get(variables(state, ema=True))


def _flatten(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1).astype(np.float32)


def _judge(extractors: list[Extractor], fitted: Clips, held_out: Clips) -> np.ndarray:
    """Returns whether each held-out video is recognised, with the features `judge_best` chooses."""
    candidates = [extractor(fitted) for extractor in extractors]
    scores_VK, names, label_V = judge_best(candidates, [e(held_out) for e in extractors])
    return names[scores_VK.argmax(axis=1)] == label_V


def judge_best(
    fitted: Sequence[VideoFeatures], held_out: Sequence[VideoFeatures]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recognises with the features, among these, that are best by cross-validation inside `fitted`.

    Returns:
      Probabilities of the held-out videos [V, K], the classes [K], and the true ones [V].
    """
    names, label_V = np.unique(fitted[0].label_V, return_inverse=True)
    chosen = [probes.select_settings(f.feature_VF, label_V, f.group_V) for f in fitted]
    best = int(np.argmax([accuracy for _, accuracy in chosen]))
    probe = probes.fit_probe(
        fitted[best].feature_VF, label_V, chosen[best][0], tuple(map(str, names)), "chosen"
    )
    return (
        probes.predict_scores(probe, held_out[best].feature_VF),
        names,
        held_out[best].label_V,
    )


if __name__ == "__main__":
    main()
