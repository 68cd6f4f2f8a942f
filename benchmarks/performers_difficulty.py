"""How hard the built-in data set is: what distinguishes its actions, and what does not.

    python -m benchmarks.performers_difficulty [--seeds 3] [--epochs 14]

Recognises the actions of unseen performers (gray, 32x32, 16 frames) by logistic regression on the
middle frame, a random frame, PCA of all frames in order, a plain convolutional network and the
encoder of SequentialVAE with random weights, and the true joints; and by a small supervised 3-D
convolutional network. Prints top-1 and writes benchmarks/results/performers_difficulty.json. Takes
a few minutes on 2 cores.
"""

import argparse
import time

from vvae import runtime

runtime.prepare_jax()

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.origin import RESULTS, stamp, write_result
from vvae import build
from vvae.config import Config
from vvae.data.dataset import Clips, Dataset
from vvae.data.loader import pixel_statistics
from vvae.data.performers import trace_joints
from vvae.measure.pca import fit_frame_pca, middle_frames, project_frames
from vvae.models.convolutions import DownConv
from vvae.tasks.pooling import extract, make_encoder
from vvae.tasks.random_params import randomize_params
from vvae.tasks.recognition import cnn

NUM_COMPONENTS = 50
REGULARIZATION = 0.03  # C, the inverse weight of the squared norm
BATCH = 32
TARGETS = {  # what the data set is made for
    "middle_frame_pca": "<= 0.40",
    "random_frame_pca": "<= 0.40",
    "random_conv": "<= 0.65",
    "random_encoder": "<= 0.65",
    "joints": ">= 0.95",
    "conv3d": ">= 0.95",
}


def main() -> None:
    """Measures every reader, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of random frames and random weights")
    parser.add_argument("--epochs", type=int, default=14, help="of the supervised network")
    options = parser.parse_args()
    started = time.time()
    config = Config(name="performers_difficulty")
    dataset = build.open_data(config, build.find_videos(config), None)
    train, test = dataset.splits["train"], dataset.splits["test"]
    seeds = range(options.seeds)
    accuracy = _read_frames(train, test, seeds)
    accuracy["joints"] = [_probe(*(_trace(clips) for clips in (train, test)), train, test)]
    accuracy["random_conv"] = [_read_random_conv(train, test, s) for s in seeds]
    accuracy["random_encoder"] = [_read_random_encoder(config, train, test, s) for s in seeds]
    accuracy["conv3d"] = [_train_conv3d(dataset, options.epochs, seed=0)]
    rows = {name: _summarize(name, values) for name, values in accuracy.items()}
    command = f"python -m benchmarks.performers_difficulty --seeds {options.seeds}"
    command += f" --epochs {options.epochs}"
    content = {
        "data": f"{len(train)} training clips, {len(test)} test clips of unseen performers",
        "top1": rows,
        "seconds": round(time.time() - started),
    }
    write_result(RESULTS / "performers_difficulty.json", stamp(content, command))
    for name, row in rows.items():
        print(f"{name:18s} top-1 {row['mean']:.3f} +- {row['std']:.3f}  {row['target']}")


def _summarize(name: str, values: list[float]) -> dict:
    spread = {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}
    return spread | {"target": TARGETS.get(name, "")}


def _read_frames(train: Clips, test: Clips, seeds) -> dict[str, list[float]]:
    """Returns top-1 from PCA of the middle frame, of a random frame, and of all frames in order."""
    pca = fit_frame_pca(train, NUM_COMPONENTS, seed=0)

    def read(choose) -> float:
        both = (project_frames(pca, choose(clips)) for clips in (train, test))
        return _probe(*(frames.reshape(len(frames), -1) for frames in both), train, test)

    def choose_random(clips: Clips, seed: int) -> np.ndarray:
        time_N = np.random.default_rng(seed).integers(clips.mask_NT.shape[1], size=len(clips))
        return clips.read(range(len(clips)))[np.arange(len(clips)), time_N]

    return {
        "middle_frame_pca": [read(lambda clips: middle_frames(clips, np.arange(len(clips))))],
        "random_frame_pca": [read(lambda clips, s=s: choose_random(clips, s)) for s in seeds],
        "ordered_pca": [read(lambda clips: clips.read(range(len(clips))))],
    }


class FrameConv(nn.Module):
    """Three strided convolutions and a dense layer: frames [N, H, W, C] -> [N, 50]."""

    @nn.compact
    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        for features in (32, 64, 128):
            x_NHWC = nn.relu(DownConv(features=features)(x_NHWC))
        return nn.Dense(NUM_COMPONENTS)(x_NHWC.reshape(len(x_NHWC), -1))


def _read_random_conv(train: Clips, test: Clips, seed: int) -> float:
    """Returns top-1 from an untrained plain convolutional network, its frames in order."""
    mean_HWC, std = pixel_statistics(train)
    model = FrameConv()
    params = model.init(jax.random.key(seed), mean_HWC[None])

    @jax.jit
    def read(video_THWC):
        return model.apply(params, (_scale(video_THWC) - mean_HWC) / std).reshape(-1)

    both = ([read(clips.read([clip])[0]) for clip in range(len(clips))] for clips in (train, test))
    return _probe(*(np.stack(features) for features in both), train, test)


def _read_random_encoder(config: Config, train: Clips, test: Clips, seed: int) -> float:
    """Returns top-1 from the latents of an untrained SequentialVAE, pooled as in `evaluate.py`."""
    model = build.build_model(config)
    mean_HWC, std = pixel_statistics(train)
    stats = {"mean": jnp.asarray(mean_HWC), "std": jnp.float32(std)}
    params = randomize_params(model, {"stats": stats}, seed)
    encoder = make_encoder(model, config.evaluate.pooling)
    both = (extract(encoder, params, clips, BATCH).feature_VF for clips in (train, test))
    return _probe(*both, train, test)


def _trace(clips: Clips) -> np.ndarray:
    """Returns the true joints of each clip, in pixels, in order of time: [N, T * J * 2]."""
    takes = (clips.videos[video].metadata for video in clips.video_index_N)
    joints = [
        trace_joints(clips.videos[video].label, int(take["performer"]), int(take["take"]))[1]
        for video, take in zip(clips.video_index_N, takes)
    ]
    return np.stack(joints).reshape(len(clips), -1)


def _probe(train_NF: np.ndarray, test_NF: np.ndarray, train: Clips, test: Clips) -> float:
    """Returns top-1 on test of multinomial logistic regression on standardised features."""
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=300, tol=1e-3)
    )
    with threadpool_limits(
        1
    ):  # the matrices are small: more threads would only wait for each other
        probe.fit(train_NF, train.label_N)
    return float(probe.score(test_NF, test.label_N))


def _scale(video: jax.Array) -> jax.Array:
    """Scales uint8 to float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1.0


def _train_conv3d(dataset: Dataset, num_epochs: int, seed: int) -> float:
    """Returns top-1 on test of a network trained on the labels, with shifts and brightness."""
    clips = cnn.gather_labelled(dataset, "test", dataset.class_names, seed)
    num_steps = num_epochs * len(clips.train) // cnn.BATCH
    network = cnn.train_network(clips, len(dataset.class_names), num_steps=num_steps, seed=seed)
    test = dataset.splits["test"]
    predicted_V = cnn.score_videos(network.model, network.params, test).argmax(axis=1)
    accuracy = float(np.mean(predicted_V == test.label_V))
    print(f"conv3d seed {seed}: {accuracy:.3f}", flush=True)
    return accuracy


if __name__ == "__main__":
    main()
