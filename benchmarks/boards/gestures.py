"""EgoGestAR: recognition of gestures in environments that no training saw, and with few labels.

What a fold has given is kept in the folder of the request: a task that was stopped goes on with the
next fold.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator

import jax
import numpy as np
from scipy.special import softmax

from benchmarks import frame_features, gestures
from benchmarks.results import Board, Measurement, Request, count_hits
from vvae.data.dataset import UNSPLIT, Clips, Dataset
from vvae.tasks.pooling import VideoFeatures, average_by_video, extract, make_encoder
from vvae.tasks.random_params import randomize_params
from vvae.tasks.recognition import classical, cnn
from vvae.tasks.recognition.few_labels import estimate_interval, measure_few_labels
from vvae.tasks.recognition.scores import score_recognition

NUM_FOLDS = 8
# Few labels cannot choose how latents are pooled.
FEW_POOLING = "mean_dynamics"
LABELS = 5
# Frames of the view of the VAE, each by a function without anything fitted.
CLASSICAL = ("raw", "hog", "haar", "flow_histogram")
CONTROLS = ("time", "brightness")
NETWORKS = ("alexnet", "vgg16")
KEYPOINTS = ("sift", "orb")
# Rows and columns: about that of the files, and what a CPU can read by VGG16.
FULL_SIZE, NETWORK_SIZE = (120, 160), (96, 128)
CNN = "cnn3d"
HEADLINE = "vae"

BOARD = Board(
    task="gestures",
    protocol="Recognition of 10 gestures in 217 clips, 8 folds by environment; the VAE sees "
    "training folds and unlabelled clips only. C, scaling and one of the same four poolings over "
    "time are chosen for every row by cross-validation inside the training folds (controls have no "
    "time to pool). Frames are vectors of at most 50 numbers in every row: latents, or principal "
    "components of training frames. `raw`, `hog`, `haar` and `flow_histogram` read the 24x32 "
    "pictures of flow that the VAE reads; `alexnet` and `vgg16`, frozen networks of ImageNet, read "
    "RGB of 96x128; `sift` and `orb` are bags of 64 words of gray frames of full size. `cnn3d`: a "
    "supervised 3-D network on the flow, which keeps the best of ten stops by held-out training "
    "environments. View, network and classifier of the VAE were chosen earlier on environments of "
    "these folds, which favours `vae`. `top1_5_labels`: 5 labels a class, 20 draws that are the "
    "same for every row; `vae_gain_5_labels`: the VAE of the same seed (0 for rows without one) "
    "less this row. ± is the standard deviation over training seeds; intervals resample whole "
    "environments.",
    data="EgoGestAR, view rootflow, 24x32, 16 frames",
    headlines=(HEADLINE,),
    columns=("top1", "top5", "mean_class", "top1_5_labels", "vae_gain_5_labels"),
    unit="environments",
    published=(
        {
            "row": "DrawInAir (Garg et al. 2018): fingertip regression and LSTM, split of its own",
            "value": "(0.880)",
            "source": "ECCV Workshops 2018",
        },
        {
            "row": "GestARLite (Jain et al. 2019): hand detector, fingertip regression and LSTM, "
            "split of its own",
            "value": "(0.80)",
            "source": "arXiv:1904.09843",
        },
    ),
)


@dataclasses.dataclass(frozen=True)
class FoldRow:
    """What a row has given in one fold.

    Attributes:
      family: see `benchmarks.results.Measurement`.
      parameters: numbers that training fits by gradients.
      scores: probabilities of the test videos, V lists of K.
      labels: their class numbers, V.
      groups: their environments, V.
      few_hits: number of test videos recognised with few labels, in each draw.
    """

    family: str
    parameters: int
    scores: list[list[float]]
    labels: list[int]
    groups: list[str]
    few_hits: list[float]


@dataclasses.dataclass(frozen=True)
class _Method:
    """A row in one fold: candidates of features, of which the first serves few labels.

    `extractors` are functions from clips.
    """

    name: str
    family: str
    extractors: tuple[Callable[[Clips], VideoFeatures], ...]
    parameters: int = 0


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE a fold; rows that do not depend on a seed are measured in seed 0 only."""
    folds = [measure_fold(request, number) for number in range(NUM_FOLDS)]
    rows = {name: [fold[name] for fold in folds] for name in folds[0]}
    headline_D = _average_draws(rows[HEADLINE])
    return [_summarize(name, found, headline_D) for name, found in rows.items()]


def measure_fold(request: Request, number: int) -> dict[str, FoldRow]:
    """Measures all rows in one fold, or reads what an earlier start has measured of it."""
    known = request.folder / f"gestures-{request.seed}-fold-{number}.json"
    if known.is_file():
        return {name: FoldRow(**row) for name, row in json.loads(known.read_text()).items()}
    config = gestures.configure(num_steps=request.num_steps)
    dataset = gestures.open_videos(config, request.data_path)
    clips = dataset.splits[UNSPLIT]
    own, extra, test = gestures.find_folds(clips, NUM_FOLDS)[number]
    seen, fitted, held_out = (clips.select(ids) for ids in ([*own, *extra], own, test))
    methods = list(_list_learned(config, dataset, seen, request.seed))
    if request.seed == 0:
        methods += _list_fixed(config, request, clips, own)
    rows = {method.name: _judge(method, fitted, held_out, request.seed) for method in methods}
    rows[CNN] = _judge_cnn(dataset, fitted, held_out, request)
    known.write_text(json.dumps({name: dataclasses.asdict(row) for name, row in rows.items()}))
    return rows


def _list_learned(config, dataset: Dataset, seen: Clips, seed: int) -> Iterator[_Method]:
    model, params = gestures.train(config, dataset, seen, seed)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params["params"]))
    encoders = [make_encoder(model, pooling) for pooling in gestures.POOLINGS]
    for name, variables, family, count in (
        ("vae", params, "vae", size),
        ("random_encoder", randomize_params(model, params, seed + 100), "baseline", 0),
    ):
        yield _Method(name, family, _read_latents(encoders, variables, config), count)


def _list_fixed(config, request: Request, clips: Clips, own: np.ndarray) -> Iterator[_Method]:
    """Lists the rows that depend on no seed; what is fitted is fitted to the clips `own`."""
    frames = {name: _read_classical(name, clips) for name in CLASSICAL}
    frames |= {name: _read_network(name, request) for name in NETWORKS}
    for name in KEYPOINTS:
        described = _describe_keypoints(name, request.data_path)
        frames[name] = frame_features.count_bags(described, own, 0)
    for name, frame_NTF in frames.items():
        poolings = frame_features.fit_poolings(
            frame_NTF[own], gestures.POOLINGS, config.model.latent_dim
        )
        yield _Method(name, "baseline", _read_frames(poolings, frame_NTF, clips))
    for name in CONTROLS:
        feature = classical.FEATURES[name](clips.select(own), 0)
        yield _Method(name, "control", (_read_feature(feature),))


def _read_classical(name: str, clips: Clips) -> np.ndarray:
    """Returns vectors at 16 equal times, [N, 16, F]."""
    feature_NF = classical.FEATURES[name](clips, 0).extract(clips)
    return feature_NF.reshape(len(clips), classical.NUM_TIMES, -1)


def _read_network(name: str, request: Request) -> np.ndarray:
    """Reads all clips by a frozen network, or what an earlier fold has read."""
    known = request.folder / f"gestures-{name}.npy"
    if not known.is_file():
        np.save(known, frame_features.read_imagenet(name, _open("rgb", request.data_path)))
    return np.load(known)


@functools.cache
def _describe_keypoints(name: str, data_path: str) -> list[list[np.ndarray]]:
    return frame_features.describe_keypoints(name, _open("gray", data_path))


@functools.cache
def _open(view: str, data_path: str) -> Clips:
    """Opens the clips of all videos at another view and size, in the same order."""
    config = gestures.configure()
    height, width = FULL_SIZE if view == "gray" else NETWORK_SIZE
    data = dataclasses.replace(config.data, view=view, height=height, width=width)
    return gestures.open_videos(dataclasses.replace(config, data=data), data_path).splits[UNSPLIT]


def _read_frames(poolings, frame_NTF: np.ndarray, clips: Clips) -> tuple[Callable, ...]:
    """Returns extractors that look up the frames of some of all clips by their videos' names."""
    number = {clips.videos[video].name: n for n, video in enumerate(clips.video_index_N)}

    def read(pool: Callable, chosen: Clips) -> VideoFeatures:
        ids = [number[chosen.videos[video].name] for video in chosen.video_index_N]
        every_NT = np.ones((len(ids), frame_NTF.shape[1]), bool)
        return average_by_video(pool(frame_NTF[ids], every_NT), chosen)

    return tuple(functools.partial(read, pool) for pool in poolings)


def _judge_cnn(dataset: Dataset, fitted: Clips, held_out: Clips, request: Request) -> FoldRow:
    """Trains a 3-D network on the labels of the training folds."""
    names = sorted({video.label for video in fitted.videos})
    own = dataclasses.replace(dataset, splits={"train": fitted})
    clips = cnn.gather_labelled(own, "test", names, request.seed)
    steps = request.num_steps or cnn.choose_num_steps(clips.train)
    network = cnn.train_network(clips, len(names), num_steps=steps, seed=request.seed)
    scores_VK = softmax(cnn.score_videos(network.model, network.params, held_out), axis=1)
    return FoldRow(
        family="baseline",
        parameters=network.num_parameters,
        scores=scores_VK.tolist(),
        labels=[names.index(video.label) for video in held_out.videos],
        groups=[video.group for video in held_out.videos],
        few_hits=[],
    )


def _read_latents(encoders, variables, config) -> tuple[Callable, ...]:
    assert gestures.POOLINGS[0] == FEW_POOLING
    batch_size = config.train.batch_size
    return tuple(
        lambda clips, encoder=encoder: extract(encoder, variables, clips, batch_size)
        for encoder in encoders
    )


def _read_feature(feature: classical.Feature) -> Callable:
    return lambda clips: average_by_video(feature.extract(clips), clips)


def _judge(method: _Method, fitted: Clips, held_out: Clips, seed: int) -> FoldRow:
    both = [[extractor(clips) for extractor in method.extractors] for clips in (fitted, held_out)]
    scores_VK, names, label_V = gestures.judge_best(*both)
    train, test = both[0][0], both[1][0]
    few = measure_few_labels(
        {method.name: (train.feature_VF, test.feature_VF)},
        np.searchsorted(names, train.label_V),
        np.searchsorted(names, test.label_V),
        seed=0,
    )
    drawn = few["rows"][method.name]["top1"][few["labels"].index(LABELS)]
    return FoldRow(
        family=method.family,
        parameters=int(method.parameters),
        scores=scores_VK.tolist(),
        labels=np.searchsorted(names, label_V).tolist(),
        groups=[str(group) for group in test.group_V],
        few_hits=(np.asarray(drawn) * len(label_V)).tolist(),
    )


def _average_draws(found: list[FoldRow]) -> np.ndarray:
    """Top-1 with few labels in each draw, over the test videos of all folds."""
    return np.sum([row.few_hits for row in found], axis=0) / sum(len(row.labels) for row in found)


def _summarize(name: str, found: list[FoldRow], headline_D: np.ndarray) -> Measurement:
    scores_VK = np.concatenate([row.scores for row in found])
    answer = score_recognition(scores_VK, np.concatenate([row.labels for row in found]), {})
    values = {metric: answer[metric].value for metric in ("top1", "top5", "mean_class")}
    own_D = _average_draws(found)
    if len(own_D):
        values[f"top1_{LABELS}_labels"] = float(own_D.mean())
    if len(own_D) and name != HEADLINE:
        gain, low, high = estimate_interval(headline_D - own_D)
        key = f"vae_gain_{LABELS}_labels"
        values |= {key: gain, f"{key}_low": low, f"{key}_high": high}
    return Measurement(
        row=name,
        family=found[0].family,
        metrics=values,
        parameters=found[0].parameters,
        hits=_count_hits(found),
    )


def _count_hits(found: list[FoldRow]) -> dict[str, tuple[float, int]]:
    """Returns environment -> (recognised videos, videos), of all folds."""
    groups = [group for row in found for group in row.groups]
    hits = np.concatenate([np.argmax(row.scores, axis=1) == row.labels for row in found])
    return count_hits(groups, hits)
