"""Features on disk, clusters and search: closed forms, planted truths, interruptions."""

import csv
import dataclasses
import json
import shutil
import sys

import imageio.v3 as iio
import jax
import jitted
import numpy as np
import pytest
from asking import ask, draw
from tiny_vae import draw_variables

from vvae import distributions as dist
from vvae.config import Data
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset, open_unsplit
from vvae.models.digest import digest_params
from vvae.models.sequential import SequentialVAE
from vvae.tasks import options
from vvae.tasks.clustering import cluster as clustering
from vvae.tasks.clustering import mixtures, pictures
from vvae.tasks.clustering.mixtures import Grouping
from vvae.tasks.clustering.vectors import Vectors
from vvae.tasks.pooling import encode_clips, extract, make_encoder, pool_ordered
from vvae.tasks.storage import search
from vvae.tasks.storage.features import ARRAYS, FOLDER, store_features

MODEL = SequentialVAE(
    (16, 16, 1),
    widths=(4, 8),
    hidden=16,
    latent_dim=3,
    clip_latent_dim=2,
    clip_prior="mixture",
    num_components=4,
)
PLAIN = dataclasses.replace(MODEL, clip_prior="normal")
FORMAT = ClipFormat("gray", 16, 16, Sampling(num_frames=4))
CLASSES = ("dark", "light", "middle")


def open_folder(root, cache, opening=open_dataset):
    return opening(root, FORMAT, Decoding(Cache(cache, 2**28)))


@pytest.fixture(scope="module")
def root(brightness_folder, tmp_path_factory):
    """Three classes of brightness; videos of 3 to 8 frames; test/dark/copy.npy is one of train."""
    root = tmp_path_factory.mktemp("copied") / "videos"
    shutil.copytree(brightness_folder, root)
    shutil.copy(root / "train" / "dark" / "2.npy", root / "test" / "dark" / "copy.npy")
    return root


@pytest.fixture(scope="module")
def dataset(root, tmp_path_factory):
    return open_folder(root, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def params():
    return draw_variables(MODEL)


# --- features on disk -----------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def store(dataset, params, folder, stop_at=None, pooling="ordered", batch_size=3):
    folder.mkdir(exist_ok=True)

    def on_part(done, total):
        if done == stop_at:
            raise StoppedError

    question = ask(MODEL, params, dataset, folder, batch_size=batch_size, pooling=pooling)
    return store_features(question, part_clips=3, on_part=on_part)


def read_files(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / FOLDER).iterdir())}


@pytest.fixture(scope="module")
def stored(dataset, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return store(dataset, params, folder), folder


def score_matching(*arguments):
    return mixtures.find_agreement(*arguments).mean()


def test_every_row_is_the_latent_of_the_frame_that_the_index_names(stored, dataset, params):
    import pyarrow.parquet as pq

    _, folder = stored
    arrays = np.load(folder / "features/features.npz")
    assert set(arrays) == set(ARRAYS)
    index = pq.read_table(folder / "features/index.parquet").to_pylist()
    assert len(index) == sum(clips.mask_NT.sum() for clips in dataset.splits.values())
    assert len({(row["row"], row["step"]) for row in index}) == len(index)
    by_split = {split: iter(()) for split in dataset.splits}
    first = 0
    for split, clips in dataset.splits.items():
        x = clips.read(np.arange(len(clips)))
        posterior = jitted.encode(MODEL, params, x, clips.mask_NT)
        own = slice(first, first + len(clips))
        for name, expected in (
            ("frame_mean", posterior.frame.mean),
            ("frame_logvar", posterior.frame.logvar),
            ("clip_mean", posterior.clip.mean),
            ("clip_logvar", posterior.clip.logvar),
            ("clip_pooled", pool_ordered(posterior, clips.mask_NT)),
        ):
            np.testing.assert_allclose(arrays[name][own], expected, rtol=1e-4, atol=1e-4)
        rows = [row for row in index if row["split"] == split]
        for row in rows:
            n, t = row["row"] - first, row["step"]
            video = clips.videos[clips.video_index_N[n]]
            assert clips.mask_NT[n, t]
            assert (row["path"], row["label"]) == (video.name, video.label)
            assert (row["clip"], row["frame"]) == (clips.position_N[n], clips.frame_NT[n, t])
            assert row["time"] == clips.time_NT[n, t]
        by_split[split] = rows
        first += len(clips)
    assert all(by_split.values())


def test_vectors_of_videos_are_the_means_that_the_other_tasks_use(stored, dataset, params):
    import pyarrow.parquet as pq

    _, folder = stored
    video_VF = np.load(folder / "features/features.npz")["video_pooled"]
    index = pq.read_table(folder / "features/videos.parquet").to_pylist()
    encoder = make_encoder(MODEL, "ordered")
    expected = [extract(encoder, params, c, 3) for c in dataset.splits.values()]
    np.testing.assert_allclose(
        video_VF, np.concatenate([e.feature_VF for e in expected]), rtol=1e-5, atol=1e-5
    )
    assert [row["path"] for row in index] == [n for e in expected for n in e.name_V.tolist()]
    assert [row["row"] for row in index] == list(range(len(video_VF)))


@pytest.mark.parametrize("stop_at", [3, 9, "last"])
def test_an_interrupted_extraction_gives_the_same_bytes_as_an_uninterrupted_one(
    stored, dataset, params, tmp_path, stop_at
):
    _, whole = stored
    total = sum(len(clips) for clips in dataset.splits.values())
    stop_at = total if stop_at == "last" else stop_at
    folder = tmp_path / "eval"
    with pytest.raises(StoppedError):
        store(dataset, params, folder, stop_at)
    with pytest.raises((ValueError, OSError)):
        np.load(folder / "features/clip_mean.npy")  # nothing incomplete under this name
    # A process that is killed inside the next part leaves rows that the record does not count.
    torn = np.load(folder / "features/unfinished/frame_mean.npy", mmap_mode="r+")
    torn[stop_at:] = np.nan
    torn.flush()
    result = store(dataset, params, folder)
    assert read_files(folder) == read_files(whole)
    assert f"{stop_at} of the clips were there already." in result.notes


def test_an_unfinished_array_that_is_cut_short_starts_anew(stored, dataset, params, tmp_path):
    _, whole = stored
    folder = tmp_path / "eval"
    with pytest.raises(StoppedError):
        store(dataset, params, folder, stop_at=3)
    with open(folder / "features/unfinished/clip_mean.npy", "r+b") as file:
        file.truncate(200)
    (folder / "features/clip_mean.npy").touch()  # where older versions kept the array
    result = store(dataset, params, folder)
    assert not any("were there already" in note for note in result.notes)
    assert read_files(folder) == read_files(whole)


def test_another_question_or_a_damaged_file_starts_anew(stored, dataset, params, tmp_path):
    _, whole = stored
    folder = tmp_path / "eval"
    store(dataset, params, folder, pooling="clip")
    assert np.load(folder / "features/features.npz")["clip_pooled"].shape[1] == 2
    store(dataset, params, folder)
    assert read_files(folder) == read_files(whole)
    again = store(dataset, params, folder)
    total = sum(len(clips) for clips in dataset.splits.values())
    assert f"{total} of the clips were there already." in again.notes
    with open(folder / "features/features.npz", "r+b") as file:
        file.truncate(200)
    result = store(dataset, params, folder)
    assert read_files(folder) == read_files(whole)
    assert not any("were there already" in note for note in result.notes)


def test_other_parameters_are_another_question(params):
    changed = jax.tree.map(lambda a: a, params)
    changed["params"]["mixture_logits"] = changed["params"]["mixture_logits"] + 1e-3
    assert digest_params(params) == digest_params(jax.tree.map(np.asarray, params))
    assert digest_params(params) != digest_params(changed)


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch, dataset, params, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'vvae\[features\]'"):
        store(dataset, params, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- clusters -------------------------------------------------------------------------------------


def make_blobs(num_clusters=3, count=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = 12 * np.eye(5)[:num_clusters]
    label = np.repeat(np.arange(num_clusters), count)
    return 100 + 7 * (centres[label] + rng.normal(size=(len(label), 5))), label


def test_a_permuted_labelling_is_matched_exactly():
    label = np.random.default_rng(0).integers(0, 6, 200)
    permuted = np.array([3, 5, 0, 1, 4, 2])[label]
    matching = mixtures.match_clusters(permuted, label)
    assert score_matching(matching, permuted, label) == 1.0
    wrong = permuted.copy()
    wrong[:20] = (wrong[:20] + 1) % 6
    matching = mixtures.match_clusters(wrong, label)
    assert score_matching(matching, wrong, label) == 0.9


def test_matching_is_one_to_one():
    # All ten clusters are pure, but only one per class counts.
    label = np.repeat([0, 1], 50)
    pure = np.repeat(np.arange(10), 10)
    assert score_matching(mixtures.match_clusters(pure, label), pure, label) == 0.2
    one = np.zeros(100, int)
    assert score_matching(mixtures.match_clusters(one, label), one, label) == 0.5
    assert score_matching({0: 1}, np.array([0, 7]), np.array([1, 1])) == 0.5


@pytest.mark.parametrize("planted", [1, 2, 4])
def test_bic_finds_the_planted_number_of_clusters(planted):
    train, label = make_blobs(planted)
    clusters, bic = mixtures.select_gmm(train, seed=0)
    assert clusters.num_clusters == planted == min(bic, key=bic.get)
    assert clusters.bic == bic[planted]
    new, new_label = make_blobs(planted, seed=1)
    for fit in (clusters, mixtures.fit_kmeans(train, planted, 0)):
        assigned = mixtures.assign(fit, new)
        matching = mixtures.match_clusters(mixtures.assign(fit, train), label)
        assert score_matching(matching, assigned, new_label) == 1.0


def test_bic_is_its_closed_form_for_one_gaussian():
    train = np.random.default_rng(0).normal(size=(50, 2)) @ np.array([[2.0, 1.0], [0.0, 0.3]])
    fit = mixtures.fit_gmm(train, 1, seed=0)
    x = (train - fit.offset_F) / fit.scale
    covariance = np.cov(x.T, bias=True) + mixtures.ADDED_VARIANCE * np.eye(2)
    _, logdet = np.linalg.slogdet(covariance)
    distance = np.einsum("ni,ij,nj->n", x, np.linalg.inv(covariance), x)
    log_likelihood = -0.5 * np.sum(2 * np.log(2 * np.pi) + logdet + distance)
    assert "full" in fit.text
    assert fit.bic == pytest.approx(5 * np.log(50) - 2 * log_likelihood, rel=1e-6)


def test_ratings_are_log_joint_densities_and_squared_distances():
    train, _ = make_blobs(2)
    gmm, kmeans = mixtures.fit_gmm(train, 2, 0), mixtures.fit_kmeans(train, 2, 0)
    x = (train - gmm.offset_F) / gmm.scale
    total = np.logaddexp(*mixtures.rate_members(gmm, train).T)
    np.testing.assert_allclose(total, gmm.fitted.score_samples(x), rtol=1e-9)
    centre = kmeans.fitted.cluster_centers_[1]
    x = (train - kmeans.offset_F) / kmeans.scale
    np.testing.assert_allclose(
        mixtures.rate_members(kmeans, train)[:, 1], -np.square(x - centre).sum(1), rtol=1e-6
    )


def test_more_clusters_than_videos_are_refused():
    with pytest.raises(ValueError, match="5 clusters cannot be fitted to 3 training videos"):
        mixtures.fit_kmeans(np.eye(3), 5, 0)


def test_responsibilities_are_those_of_the_prior(dataset, params):
    clips = dataset.splits["test"]
    responsibility_VK, _ = clustering.measure_responsibilities(MODEL, params, clips, 3)
    mixture = MODEL.apply(params, method="clip_prior_mixture")
    w = jitted.encode(MODEL, params, clips.read(np.arange(len(clips))), clips.mask_NT).clip.mean
    expected_NK = np.asarray(dist.mixture_responsibilities(mixture, w))
    np.testing.assert_allclose(responsibility_VK.sum(axis=1), 1.0, rtol=1e-5)
    assert np.ptp(expected_NK, axis=0).max() > 0.01
    for v in range(len(clips.videos)):
        own = expected_NK[clips.video_index_N == v].mean(axis=0)
        np.testing.assert_allclose(responsibility_VK[v], own, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def clustered(dataset, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    question = ask(MODEL, params, dataset, folder, batch_size=3, pooling="ordered")
    return draw(clustering.answer(question, options.Cluster()), folder), folder


def test_classes_of_brightness_are_found_and_cards_stay_comparable(clustered, dataset):
    result, folder = clustered
    assert next(iter(result.rows)) == "mixture_prior"
    for row in result.rows.values():
        card = {**row["accuracy"].card, "method": None}
        assert card == {**result.rows["mixture_prior"]["accuracy"].card, "method": None}
    assert result.rows["pooled/gmm"]["num_clusters"].value == 4
    assert result.rows["clip_pca_2/gmm_bic"]["nmi"].value > 0.6
    with open(folder / "cluster.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [v.name for v in dataset.splits["test"].videos]
    cluster_V = np.array([int(row["pooled/kmeans"]) for row in rows])
    label_V = np.array([CLASSES.index(row["label"]) for row in rows])
    accuracy = score_matching(mixtures.match_clusters(cluster_V, label_V), cluster_V, label_V)
    assert result.rows["pooled/kmeans"]["accuracy"].value == accuracy
    sizes = np.bincount(cluster_V, minlength=4)
    np.testing.assert_array_equal(result.details["sizes"]["pooled/kmeans"], sizes)
    assert (folder / "cluster_sheet.png").stat().st_size > 1000
    assert "cluster_map.png" not in result.files and not (folder / "cluster_map.png").exists()
    assert f"No maps: {len(rows)} measured videos are too few" in "\n".join(result.notes)


def test_maps_need_enough_videos(dataset, tmp_path):
    clips = dataset.splits["test"]
    vectors = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    assert pictures.has_maps(Vectors(vectors, vectors, ""))
    assert not pictures.has_maps(Vectors(vectors, vectors[:15], ""))
    cluster_V = np.arange(len(clips.videos)) % 3
    grouping = Grouping(cluster_V, cluster_V, np.eye(3)[cluster_V], 3, "")
    shown = pictures.Shown(name="x", grouping=grouping, clips=clips, class_names=CLASSES)
    own = Vectors(vectors, vectors[: len(cluster_V)], "random vectors")
    pictures.draw_maps(tmp_path / "map.png", shown, own, 0)
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_the_sheet_of_few_videos_shows_them_in_full_size(dataset, tmp_path):
    clips = dataset.splits["val"]
    numbers = np.arange(len(clips.videos))
    grouping = Grouping(
        train_V=numbers,
        test_V=numbers,
        rating_VK=np.eye(len(numbers)),
        num_clusters=len(numbers),
        text="",
    )
    shown = pictures.Shown(name="x", grouping=grouping, clips=clips, class_names=CLASSES)
    pictures.draw_sheet(tmp_path / "sheet.png", shown)
    image = iio.imread(tmp_path / "sheet.png")[..., :3]
    # Each of the 16x16 pixels of a frame is below 231 and becomes 6x6 pixels; 3 frames per video.
    assert np.all(image < 240, axis=-1).sum() >= len(numbers) * 3 * 96 * 96


def test_clusters_depend_neither_on_labels_nor_on_the_measured_videos(clustered, dataset, params):
    # With other labels and half of the test videos, the remaining videos keep their clusters.
    _, folder = clustered
    test = dataset.splits["test"].select(np.arange(0, len(dataset.splits["test"]), 2))
    relabelled = dataclasses.replace(
        dataset.splits["train"], label_N=dataset.splits["train"].label_N[::-1].copy()
    )
    changed = dataclasses.replace(
        dataset, splits={"train": relabelled, "test": test, "val": dataset.splits["val"]}
    )
    other = folder / "other"
    other.mkdir()
    question = ask(MODEL, params, changed, other, batch_size=3, pooling="ordered")
    clustering.answer(question, options.Cluster())
    tables = []
    for place in (folder, other):
        with open(place / "cluster.csv", newline="") as file:
            tables.append({row["path"]: row for row in csv.DictReader(file)})
    # Videos of one clip, so that no video loses only some of its clips.
    single = [v.name for v in test.videos if np.load(v.path).shape[0] <= 4]
    assert len(single) == 3
    for name in single:
        assert tables[1][name] == tables[0][name]


def test_without_labels_there_are_sizes_alone(root, dataset, params, tmp_path):
    new = open_folder(root / "test" / "dark", tmp_path / "cache", open_unsplit)
    assert all(video.label is None for video in new.splits["all"].videos)
    unlabelled = dataclasses.replace(
        dataset.splits["train"], label_N=np.full_like(dataset.splits["train"].label_N, -1)
    )
    data = dataclasses.replace(new, splits={"train": unlabelled, **new.splits})
    plain = {**params, "params": {k: v for k, v in params["params"].items() if "mixture" not in k}}
    question = ask(PLAIN, plain, data, tmp_path, batch_size=3, pooling="ordered", split="all")
    result = draw(clustering.answer(question, options.Cluster()), tmp_path)
    assert "mixture_prior" not in result.rows
    assert set(result.rows["pooled/gmm"]) == {"num_clusters", "used_clusters", "largest_share"}
    by_number = result.details["bic"]["pooled"]
    best = min(by_number, key=by_number.get)
    assert result.rows["pooled/gmm_bic"]["num_clusters"].value == best
    assert result.rows["clip_latent/kmeans"]["num_clusters"].value == best
    assert "No measured video has a label: the table tells sizes only." in result.notes


def test_a_collapsed_prior_is_named():
    zeros = np.zeros(5, int)
    grouping = Grouping(
        train_V=zeros, test_V=zeros, rating_VK=np.zeros((5, 4)), num_clusters=4, text="x"
    )
    assert "COLLAPSED" in clustering._describe_prior(grouping)
    spread = dataclasses.replace(grouping, train_V=np.array([0, 1, 1, 2, 2]))
    assert clustering._describe_prior(spread).startswith("3 of 4")


# --- search ---------------------------------------------------------------------------------------


def find(dataset, params, folder, query, count=3, per_video=1):
    data = Data(
        height=16, width=16, num_frames=4, workers=0, cache_dir=str(folder / "cache"), cache_gb=0.2
    )
    question = ask(MODEL, params, dataset, folder, batch_size=3, data=data, pooling="ordered")
    return draw(search.answer(question, options.Search(query, count, per_video)), folder)


def test_a_planted_duplicate_is_found_first_and_the_query_is_not(dataset, params, tmp_path):
    for clip in (0, 1):
        result = find(dataset, params, tmp_path, f"train/dark/2.npy:{clip}", 1000, 1000)
        hits = result.details["hits"]
        assert (hits[0]["name"], hits[0]["clip"]) == ("test/dark/copy.npy", clip)
        assert hits[0]["similarity"] == 1.0 > hits[1]["similarity"]
        assert len(hits) == sum(len(c) for c in dataset.splits.values()) - 1
        assert ("train/dark/2.npy", clip) not in [(h["name"], h["clip"]) for h in hits]
        similarities = [hit["similarity"] for hit in hits]
        assert similarities == sorted(similarities, reverse=True)
    assert (tmp_path / "search.png").stat().st_size > 1000
    assert json.dumps(result.details)


def test_a_file_outside_of_the_data_set_finds_its_copy(root, dataset, params, tmp_path):
    copy = tmp_path / "mine:1.npy"
    np.save(copy, np.load(root / "test/light/2.npy")[:4])

    result = find(dataset, params, tmp_path, str(copy))
    best = result.details["hits"][0]
    assert (best["name"], best["clip"], best["similarity"]) == ("test/light/2.npy", 0, 1.0)
    names = [hit["name"] for hit in result.details["hits"]]
    assert len(names) == len(set(names)) == 3  # one clip of each video
    (table,) = result.tables
    assert [row[1] for row in table.rows] == [result.details["query"]["name"], *names]
    assert result.details["query"]["split"] is None
    inside = find(dataset, params, tmp_path, str(root / "test/light/2.npy"))
    assert inside.details["query"]["split"] == "test"


def test_equal_similarities_come_in_the_order_of_the_clips():
    feature_NF = np.array([[2.0, 0.5], [1.0, 1.0], [2.0, 0.5 + 1e-9]])
    similarity_N = search.measure_similarity(feature_NF[1], feature_NF, np.eye(2))
    assert similarity_N[0] == similarity_N[2] < similarity_N[1] == 1.0
    value, every = np.array([0.5, 1.0, 0.5, 1.0]), np.ones(4, bool)
    assert search.rank(value, "abcd", 1, every) == [1, 3, 0, 2]
    assert search.rank(value, "abcd", 1, np.arange(4) != 1) == [3, 0, 2]
    assert search.rank(value, "abab", 1, every) == [1, 0]
    assert search.rank(value, "abab", 2, every) == [1, 3, 0, 2]


def test_a_video_is_searched_for_as_a_whole(dataset, params, tmp_path):
    result = find(dataset, params, tmp_path, "train/dark/2.npy", count=1000, per_video=1000)
    assert result.details["query"]["num_clips"] == 2
    assert "train/dark/2.npy" not in [hit["name"] for hit in result.details["hits"]]
    encoder = make_encoder(MODEL, "ordered")
    every = [encode_clips(encoder, params, clips, 3) for clips in dataset.splits.values()]
    train = dataset.splits["train"]
    video = [v.name for v in train.videos].index("train/dark/2.npy")
    own = encode_clips(encoder, params, train, 3)[train.video_index_N == video].mean(axis=0)
    train_NF = encode_clips(encoder, params, train, 3)
    similarity_N = search.measure_similarity(own, np.concatenate(every), train_NF)
    best = result.details["hits"][0]["similarity"]
    # Its own two clips come first, or second and first, and are left out.
    assert best in np.sort(similarity_N)[-3:]


def test_similarity_is_the_cosine_of_standardised_vectors():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(40, 3)) * np.array([1.0, 100.0, 0.01]) + 5
    standard = (train - train.mean(0)) / train.std(0)
    cosine = standard @ standard[0] / np.linalg.norm(standard, axis=1) / np.linalg.norm(standard[0])
    np.testing.assert_allclose(
        search.measure_similarity(train[0], train, train), cosine, atol=1.1e-5
    )
    assert search.measure_similarity(train[0], train.mean(0)[None], train).tolist() == [0.0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("train/dark/3", r"no video 'train/dark/3' in .*did you mean train/dark/3\.npy"),
        ("train/dark/2.npy:2", "asks for clip 2, but the video has 2"),
        ("train/dark/2.npy:\u00b2", "no video"),
        ("zzz", "no such file; one of them is train/dark/0.npy"),
    ],
)
def test_queries_that_match_nothing_are_named(dataset, params, tmp_path, query, message):
    with pytest.raises(ValueError, match=message):
        find(dataset, params, tmp_path, query)
