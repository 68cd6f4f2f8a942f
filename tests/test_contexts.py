"""Codes under contexts: exact in integers, decoded from the file alone, near the entropy."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from scipy.stats import logistic
from test_coding import write_run

import evaluate
from vvae import build, video
from vvae.inference import coding, contexts
from vvae.inference.context_fit import fit
from vvae.inference.range_coding import ContextSymbols
from vvae.models.bottleneck import GaussianLatents
from vvae.tasks.storage import compress as compressing
from vvae.tasks.storage.context_files import find_contexts, name_contexts

STEPS = (2**14, 2**15, 3 * 2**14, 2**13, 2**15)


def draw_latents(shape=(6, 7, 9, 5), seed=0, share=0.9):
    """Draws latents [t, h, w, Z] of unit variance, each near those of the frame before."""
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=shape[1:])]
    for _ in range(shape[0] - 1):
        noise = rng.normal(size=shape[1:])
        frames.append(share * frames[-1] + math.sqrt(1 - share**2) * noise)
    return np.stack(frames)


def quantise(latents, steps=STEPS):
    return contexts.Quantised(coding.UniformSteps(steps).quantise(latents), steps)


def make_header(codes, model):
    shape = (17, 40, 48), (25, 1), codes.shape[:3]
    return coding.Header(*shape, coding.UniformSteps(STEPS), bytes(32), contexts=model.digest)


@pytest.fixture(scope="module")
def model():
    return fit([quantise(draw_latents(seed=seed)) for seed in range(40)])


# --- order and probabilities ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 7)])
def test_waves_hold_every_position_once_and_need_earlier_ones_alone(size):
    wave_of = np.full(size, -1)
    for wave, (ys, xs) in enumerate(contexts.waves(*size)):
        assert np.all(wave_of[ys, xs] == -1)
        wave_of[ys, xs] = wave
    assert wave_of.min() == 0
    for (y, x), wave in np.ndenumerate(wave_of):
        for dy, dx in contexts.NOW:
            if y + dy >= 0 and 0 <= x + dx < size[1]:
                assert wave_of[y + dy, x + dx] < wave


@pytest.mark.parametrize("level", [0, 9, 16, 27, 40])
def test_frequencies_are_the_mass_of_a_logistic_distribution(level):
    """Equal to differences of the logistic function in float64, but for what positivity costs."""
    frequencies, reach = contexts.tabulate(level), contexts.find_reach(level)
    assert frequencies.shape == (16, 2 * reach + 2)
    np.testing.assert_array_equal(frequencies.sum(1), 2**24)
    assert frequencies.min() >= 1
    scale = 2.0 ** (level / 4 - 4)
    for phase, row in enumerate(frequencies):
        edges = np.arange(-reach, reach + 2) - 0.5 - (phase - 8) / 16
        mass = np.diff(logistic.cdf(edges / scale))
        mass = np.append(mass, 1 - mass.sum()) * (2**24 - len(row))
        error = np.abs(row - 1 - mass)
        assert np.delete(error, reach).max() <= 2 + 1e-5 * mass.max()
        assert error[reach] <= len(row)


def test_frequencies_are_the_same_integers_everywhere():
    half = [780908, 1787894, 3273472]
    assert contexts.tabulate(16)[8, 40:47].tolist() == [*half, 4109051, *half[::-1]]


def test_predictions_are_exact_in_every_order_of_summation(model):
    """Equal to Python's integers for the largest values and weights that can occur."""
    rng = np.random.default_rng(1)
    weights = rng.integers(-contexts.LARGEST_WEIGHT, contexts.LARGEST_WEIGHT, (900, 5))
    largest = dataclasses.replace(model, weights_later=weights[: len(model.weights_later)])
    codes = rng.choice([-(2**30), 2**30, 7], size=(3, 4, 5, 5)).astype(np.int32)
    predicted = []

    def exchange(symbols):
        predicted.append((symbols.positions, symbols.channels, symbols.centres, symbols.phases))
        return codes[2][*symbols.positions, symbols.channels].astype(np.int64)

    values = contexts.bound_values(codes, np.array(STEPS))
    past = contexts.Past(
        values[1].astype(float), values[0].astype(float), np.full((4, 5, 5), 256.0)
    )
    contexts.visit_frame(largest, STEPS, (4, 5), past, exchange)
    bordered = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
    weights = largest.weights_later
    for (ys, xs), channels, centres, phases in predicted:
        for i, (y, x) in enumerate(zip(ys, xs, strict=True)):
            known = [2**16]
            known += [v for dy, dx in contexts.NOW for v in bordered[2, y + 1 + dy, x + 1 + dx]]
            known += [v for dy, dx in contexts.BEFORE for v in bordered[1, y + 1 + dy, x + 1 + dx]]
            known += [*values[0, y, x], *values[2, y, x]]
            known[len(known) - 5 + channels.start :] = [0] * (5 - channels.start)
            for j, z in enumerate(range(channels.start, channels.stop)):
                mu = sum(int(a) * int(b) for a, b in zip(known, weights[:, z], strict=True))
                sixteenths = (32 * mu + (STEPS[z] << 16)) // (STEPS[z] << 17)
                assert 16 * centres[i, j] + phases[i, j] - 8 == sixteenths


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.9, 0.98])
def test_bits_are_near_the_entropy_of_an_autoregression(share):
    """log2(sqrt(2 pi e v) / step) a code, v the variance that the frame before leaves.

    A logistic distribution costs 0.02 bits more than the normal one, and weights fitted to few
    values a little more.
    """
    steps = (2**12,) * 3
    train, test = (
        [quantise(draw_latents((4, 12, 12, 3), seed, share), steps) for seed in seeds]
        for seeds in (range(40), range(100, 110))
    )
    model = fit(train)
    bits = sum(contexts.count_video_bits(model, v) for v in test) / (10 * 4 * 12 * 12 * 3)
    first, later = (
        math.log2(math.sqrt(2 * math.pi * math.e * v) / 2**-4) for v in (1, 1 - share**2)
    )
    entropy = (first + 3 * later) / 4
    assert entropy < bits < entropy + 0.06


def test_scales_follow_the_misses_nearby():
    """Half of each frame is calm and half is not, and which half differs from video to video."""
    rng = np.random.default_rng(0)

    def draw():
        loud = rng.integers(2)
        scale = np.where((np.arange(12) < 6) == loud, 0.1, 1.4)[:, None, None]
        return quantise(scale * rng.normal(size=(4, 12, 10, 5)))

    model = fit([draw() for _ in range(60)])
    test = [draw() for _ in range(10)]
    bits = sum(contexts.count_video_bits(model, video) for video in test)
    static = sum(coding.count_bits(v.codes, coding.UniformSteps(STEPS)) for v in test)
    assert bits < 0.8 * static


def test_videos_of_one_frame_and_no_videos():
    model = fit([quantise(draw_latents((1, 4, 4, 5), seed)) for seed in range(9)])
    longer = quantise(draw_latents((3, 4, 4, 5), 50))
    assert 0 < contexts.count_video_bits(model, longer) < math.inf
    empty = contexts.Quantised(np.zeros((0, 4, 4, 5), np.int32), STEPS)
    assert fit([longer, empty]).digest == fit([longer]).digest
    for nothing in ([], [empty]):
        with pytest.raises(ValueError, match="no latents to fit"):
            fit(nothing)
    with pytest.raises(ValueError, match="latents of 513 channels: contexts are exact for up to"):
        fit([contexts.Quantised(np.zeros((1, 1, 1, 513), np.int32), (2**16,) * 513)])


def test_the_largest_sums_are_exact():
    """As many known values and misses as 512 channels have, each with the largest weight."""
    num_values = 1 + 15 * contexts.MOST_CHANNELS
    values = num_values * contexts._LARGEST_VALUE * contexts.LARGEST_WEIGHT
    shares = sum(contexts._MISS_SHARES) + len(contexts.BEFORE) + 2
    misses = shares * (contexts.MOST_CHANNELS + 1) * contexts._LARGEST_MISS
    assert max(values, misses * contexts.LARGEST_MISS_WEIGHT) < 2**53


def test_rounding_towards_predictions_costs_fewer_bits_at_equal_error():
    """Beside rounding to the nearest code with coarser steps, interpolated to the same error.

    At less than a bit a code, of latents whose distribution has a peak, as that of a network has.
    """

    def draw_peaked(seed):
        return draw_latents(seed=seed, share=0.5) ** 3 / math.sqrt(15)

    model = fit([quantise(draw_peaked(seed), (2**17,) * 5) for seed in range(40)])

    def measure(steps, choose):
        bits, error = 0.0, 0.0
        for seed in range(100, 106):
            latents = draw_peaked(seed)
            codes, past, stated = [], contexts.Past(), 0.0
            for values in latents:
                if choose:
                    found, cost, past = contexts.choose_codes(model, values, steps, past)
                    stated += cost
                else:
                    found = coding.UniformSteps(steps).quantise(values)
                codes.append(found)
            codes = np.stack(codes)
            sizes = np.array(steps) / 2**16
            miss = codes * sizes - latents
            assert (np.abs(miss) <= 0.66 * sizes).all()
            error += float(np.square(miss / sizes).mean() * sizes.mean() ** 2)
            counted = contexts.count_video_bits(model, contexts.Quantised(codes, steps))
            assert stated == pytest.approx(counted) or not choose
            bits += counted
        return bits, error

    bits, error = measure((2**17,) * 5, choose=True)
    coarser = [measure((round(2**17 * scale),) * 5, choose=False) for scale in (1.0, 1.2, 1.5)]
    known_bits, known_errors = np.array(coarser).T
    assert known_errors[0] < error < known_errors[-1]
    assert bits < 0.98 * np.interp(error, known_errors, known_bits)


# --- files ---------------------------------------------------------------------------------------


def test_codes_come_back_in_blocks_with_the_stated_bits(model, tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "BLOCK_SYMBOLS", 2 * 7 * 9 * 5)
    codes, _ = quantise(draw_latents(seed=77))
    codes[0, 0, 0, 0], codes[2, 3, 4, 1], codes[-1, -1, -1, 4] = 2**31 - 1, -(2**31), 9000
    header, path = make_header(codes, model), tmp_path / "a.vvz"
    coding.write_codes(path, header, codes, model)
    assert coding.read_header(path) == header
    blocks = list(coding.read_codes(path, model))
    assert [len(block) for block in blocks] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), codes)
    bits = contexts.count_video_bits(model, contexts.Quantised(codes, STEPS))
    overhead = 8 * (72 + 5 + 8 + 32 + 3 * 16)
    assert bits <= 8 * path.stat().st_size - overhead <= 1.01 * bits + 3 * 64


def test_every_step_that_is_chosen_fits_in_a_byte():
    """From the smallest to the largest: 12 doublings of 16 steps, and the last one."""
    sizes = np.exp(np.linspace(math.log(2**-8), math.log(2**4), 5000))
    chosen = coding.choose_quantiser(GaussianLatents(5000), np.log(sizes), 1.0).steps_Z
    assert len(set(chosen)) == 12 * 16 + 1
    assert all(coding._lengthen(coding._shorten(step)) == step for step in chosen)
    with pytest.raises(ValueError, match="the step 257 has more than five significant bits"):
        coding._shorten(257)


def test_other_contexts_and_damage_are_found(model, tmp_path):
    codes, _ = quantise(draw_latents(seed=77))
    path = tmp_path / "a.vvz"
    coding.write_codes(path, make_header(codes, model), codes, model)
    other = dataclasses.replace(model, scales=model.scales + 1)
    for wrong in (other, None):
        with pytest.raises(ValueError, match=r"a\.vvz: is coded with other contexts"):
            list(coding.read_codes(path, wrong))
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.vvz: "):
            list(coding.read_codes(path, model))
    with pytest.raises(ValueError, match="escaped codes, but its symbols mark another count"):
        symbols = ContextSymbols(model, STEPS)
        words, _ = symbols.encode(codes)
        ContextSymbols(model, STEPS).decode(words, np.zeros(3, np.int32), codes.shape)


# --- through evaluate.py -------------------------------------------------------------------------


def call(*arguments):
    """Runs evaluate.py and returns its output."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert evaluate.main([*map(str, arguments)]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Writes videos of pictures that move to the right."""
    folder = tmp_path_factory.mktemp("moving")
    rng = np.random.default_rng(0)
    for i in range(8):
        scene = np.kron(rng.integers(0, 256, (3, 3, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        frames = np.stack([np.roll(scene, t, axis=1) for t in range(9)])
        video.write_video(folder / f"{i}.mp4", frames, 25)
    return folder


def name_videos(workdir, videos):
    """States in a run directory that it was trained on videos; returns the directory."""
    record = json.loads((workdir / "config.json").read_text())
    record["data"]["path"] = str(videos)
    (workdir / "config.json").write_text(json.dumps(record))
    return workdir


def test_a_run_codes_with_contexts_that_are_fitted_once(videos, tmp_path):
    workdir = name_videos(write_run(tmp_path / "run", temporal_compression=2), videos)
    clip, plain, small, back = (tmp_path / n for n in ("in.mp4", "a.vvz", "b.vvz", "back.mp4"))
    clip.write_bytes((videos / "0.mp4").read_bytes())
    printed = call("compress", clip, plain, "--workdir", workdir, "--step", 0.05)
    assert "coded under the prior; contexts make such files smaller" in printed
    assert "save" in call("code", "--workdir", workdir, "--step", 0.05)
    rows = json.loads((workdir / "eval" / "code.json").read_text())["rows"]
    saved = rows["contexts"]["saved"]["value"]
    assert saved == pytest.approx(
        100 * (1 - rows["contexts"]["rate"]["value"] / rows["prior"]["rate"]["value"])
    )
    assert rows["prior"]["saved"]["value"] == 0
    model, params = build.load(workdir)
    digest = find_contexts(workdir, params).digest
    assert "as they were fitted before" in call("code", "--workdir", workdir)
    assert find_contexts(workdir, params).digest == digest
    printed = call("compress", clip, small, "--workdir", workdir, "--step", 0.05)
    assert "coded under the prior" not in printed
    found = find_contexts(workdir, params)
    codes, nearest = (
        np.concatenate(list(coding.read_codes(*file))) for file in ((small, found), (plain,))
    )
    assert np.abs(codes - nearest).max() <= 1
    call("decompress", small, back, "--workdir", workdir, "--lossless")
    _, frames = video.read_frames(back)
    expected = np.concatenate(list(compressing.decode_file(model, params, small, found)))
    np.testing.assert_array_equal(frames, expected)
    # Files without contexts are still read, those with them only with the same.
    call("decompress", plain, back, "--workdir", workdir, "--overwrite")
    name_contexts(workdir, params).unlink()
    with pytest.raises(ValueError, match=r"b\.vvz: is coded with other contexts"):
        call("decompress", small, back, "--workdir", workdir, "--overwrite")


def test_finite_scalars_have_no_contexts(videos, tmp_path):
    workdir = write_run(tmp_path / "run", levels=(9, 8, 2), temporal_compression=2)
    with pytest.raises(ValueError, match="code: the latents are finite scalars"):
        call("code", "--workdir", name_videos(workdir, videos))
