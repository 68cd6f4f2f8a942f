"""Latents as files: exact, as short as their probability implies, and damage is detected."""

import contextlib
import dataclasses
import functools
import io
import math
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import optax
import pytest
from asking import ask
from scipy.stats import norm
from tiny_causal import make_variables, make_video

import evaluate
from vvae import build, video
from vvae.config import Causal, Config, Data, Evaluate, Model
from vvae.data.dataset import Cache, ClipFormat, Decoding, Sampling, open_dataset
from vvae.distributions import Gaussian
from vvae.inference import coding, streaming
from vvae.models.bottleneck import Codes, FiniteScalars, GaussianLatents
from vvae.models.digest import digest_params
from vvae.models.sequential import SequentialVAE
from vvae.run import create_run
from vvae.tasks.options import Density
from vvae.tasks.quality import density
from vvae.tasks.storage import compress as compressing
from vvae.training.checkpoint import Checkpointer
from vvae.training.state import init_state

STEPS = coding.UniformSteps((2**13, 2**16, 3 * 2**16))
LEVELS = coding.Levels((9, 8, 2, 5))


def make_header(codes, quantiser):
    return coding.Header((17, 40, 48), (30000, 1001), codes.shape[:3], quantiser, bytes(range(32)))


def draw_codes(quantiser, shape_thw=(5, 12, 12), seed=0):
    """Returns the codes of draws from the prior."""
    rng = np.random.default_rng(seed)
    if isinstance(quantiser, coding.UniformSteps):
        return quantiser.quantise(rng.normal(size=(*shape_thw, quantiser.num_channels)))
    levels_Z = np.array(quantiser.levels_Z)
    return (rng.integers(0, levels_Z, (*shape_thw, len(levels_Z))) - levels_Z // 2).astype(np.int32)


def write_file(path, codes, quantiser):
    coding.write_codes(path, make_header(codes, quantiser), codes)
    return path


def read_file(path):
    return np.concatenate(list(coding.read_codes(path)))


# --- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2**8, 2**13, 2**16, 3 * 2**16, 2**20])
def test_frequencies_are_the_mass_of_the_bins(step):
    """Equal to differences of the error function in float64, except for the middle bin.

    The middle bin takes the rest.
    """
    (table,) = coding.UniformSteps((step,)).make_tables()
    edges = (np.arange(table.num_codes + 1) + table.lowest - 0.5) * (step / 2**16)
    mass = np.diff(norm.cdf(edges)) * 2**24
    difference = table.frequencies[:-1] - mass
    middle = -table.lowest
    assert table.frequencies.sum() == 2**24 and table.frequencies.min() == 1
    # Every symbol has a frequency of at least one, and the rest is divided by mass.
    assert np.all(
        np.abs(np.delete(difference - 1 + mass * (len(mass) + 1) / 2**24, middle)) <= 1.001
    )
    assert abs(difference[middle]) <= table.num_codes
    assert edges[-1] >= 5.5 and table.frequencies[-1] == 1
    np.testing.assert_array_equal(table.frequencies[:-1], table.frequencies[-2::-1])


def test_frequencies_are_the_same_integers_everywhere():
    (table,) = coding.UniformSteps((2**16,)).make_tables()
    half = [57, 3846, 100278, 1016658, 4055560]
    assert table.frequencies.tolist() == [*half, 6424417, *half[::-1], 1]


def test_levels_are_equally_probable():
    for levels, table in zip(LEVELS.levels_Z, LEVELS.make_tables(), strict=True):
        assert table.frequencies.sum() == 2**24 and len(table.frequencies) == levels
        assert np.ptp(table.frequencies) <= 1


@pytest.mark.parametrize("step", [0.125, 1.0, 3.0])
def test_bits_of_draws_from_the_prior_are_its_entropy(step):
    """The entropy of the bins; for narrow bins also log2(sqrt(2 pi e) / step), in closed form."""
    quantiser = coding.UniformSteps((int(step * 2**16),))
    codes = draw_codes(quantiser, (20, 100, 100))
    k = np.arange(-60, 61)
    mass = norm.cdf((k + 0.5) * step) - norm.cdf((k - 0.5) * step)
    entropy = -np.sum(mass * np.log2(np.where(mass > 0, mass, 1)))
    bits = coding.count_bits(codes, quantiser) / codes.size
    assert bits == pytest.approx(entropy, rel=0.005)
    if step < 1:
        closed = math.log2(math.sqrt(2 * math.pi * math.e) / step)
        assert bits == pytest.approx(closed, rel=0.005)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantiser", [STEPS, LEVELS], ids=["steps", "levels"])
def test_a_file_is_as_long_as_its_probability_says(tmp_path, quantiser):
    codes = draw_codes(quantiser, (9, 40, 40))
    path = write_file(tmp_path / "a.vvz", codes, quantiser)
    bits = coding.count_bits(codes, quantiser)
    assert bits <= 8 * path.stat().st_size <= 1.02 * bits
    np.testing.assert_array_equal(read_file(path), codes)
    assert read_file(path).dtype == np.int32
    assert coding.read_header(path) == make_header(codes, quantiser)
    if quantiser == LEVELS:
        assert bits == pytest.approx(codes[..., 0].size * math.log2(9 * 8 * 2 * 5), rel=1e-6)


def test_values_outside_of_the_table_come_back(tmp_path):
    codes = draw_codes(STEPS)
    codes[0, 0, 0], codes[2, 3, 4], codes[-1, -1, -1] = 2**31 - 1, -(2**31), (45, -6, 3)
    assert STEPS.make_tables()[0].lowest == -44  # so that 45 is the first that escapes
    path = write_file(tmp_path / "a.vvz", codes, STEPS)
    np.testing.assert_array_equal(read_file(path), codes)
    calm = codes.copy()
    calm[0, 0, 0], calm[2, 3, 4], calm[-1, -1, -1] = 0, 0, 0
    extra = coding.count_bits(codes, STEPS) - coding.count_bits(calm, STEPS)
    # Nine numbers, of which two are in the table (-6 and 3 of the wider bins), at 24 bits or less.
    assert 7 * (24 + 32) - 9 * 5 < extra < 9 * (24 + 32)
    calm_path = write_file(tmp_path / "b.vvz", calm, STEPS)
    grown = 8 * (path.stat().st_size - calm_path.stat().st_size)
    assert grown == pytest.approx(extra, abs=64)


def test_a_file_of_many_blocks_is_read_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "BLOCK_SYMBOLS", 1000)
    codes = draw_codes(STEPS)
    path = write_file(tmp_path / "a.vvz", codes, STEPS)
    assert [len(block) for block in coding.read_codes(path)] == [2, 2, 1]
    np.testing.assert_array_equal(read_file(path), codes)


GOLDEN = """
56565a1a01000100020011000000280000003000000030750000e9030000020000000200000003000000000102030405
060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00000100008000005536255a02000000040000000200
00003a8d5fc17fffffff5b8f7494c565e39a74b0f16ef7ffffff28000000
"""
GOLDEN_CODES = [
    [[[-9, 40], [1, 0], [-1, 1]], [[1, 2], [-1, -3], [-1, 0]]],
    [[[-2, 0], [-1, -1], [-1, -1]], [[0, 2], [0, 3], [-1, 1]]],
]


def test_files_of_an_earlier_version_or_another_machine_are_read_and_written(tmp_path):
    (tmp_path / "old.vvz").write_bytes(bytes.fromhex(GOLDEN))
    assert read_file(tmp_path / "old.vvz").tolist() == GOLDEN_CODES
    codes = np.array(GOLDEN_CODES, np.int32)
    path = write_file(tmp_path / "a.vvz", codes, coding.UniformSteps((2**16, 2**15)))
    assert path.read_bytes() == bytes.fromhex(GOLDEN)


@pytest.mark.parametrize("aspect", [(1, 1), (16, 11)])
@pytest.mark.parametrize("quantiser", [STEPS, LEVELS], ids=["steps", "levels"])
def test_every_damaged_byte_and_every_cut_is_found(tmp_path, quantiser, aspect):
    codes = draw_codes(quantiser, (2, 3, 3))
    codes[0, 0, 0, 0] = 99 if quantiser == STEPS else 0  # one escape
    header = dataclasses.replace(make_header(codes, quantiser), pixel_aspect=aspect)
    coding.write_codes(tmp_path / "a.vvz", header, codes)
    whole = (tmp_path / "a.vvz").read_bytes()
    broken = tmp_path / "broken.vvz"
    for place in range(len(whole)):
        for bits in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= bits
            broken.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"broken\.vvz: "):
                read_file(broken)
        broken.write_bytes(whole[:place])
        with pytest.raises(ValueError, match=r"broken\.vvz: (is cut|is not a file)"):
            read_file(broken)
    broken.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match=r"broken\.vvz: bytes follow"):
        read_file(broken)


def test_the_aspect_of_pixels_is_kept(tmp_path):
    codes = draw_codes(STEPS, (2, 3, 3))
    header = dataclasses.replace(make_header(codes, STEPS), pixel_aspect=(16, 11))
    coding.write_codes(tmp_path / "a.vvz", header, codes)
    assert coding.read_header(tmp_path / "a.vvz") == header
    np.testing.assert_array_equal(read_file(tmp_path / "a.vvz"), codes)


def test_foreign_and_missing_files_are_named(tmp_path):
    video.write_video(tmp_path / "a.mp4", make_video(2, channels=3)[0], 5)
    with pytest.raises(ValueError, match=r"a\.mp4: is not a file of coded latents"):
        coding.read_header(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"none\.vvz: cannot be read \(No such file"):
        read_file(tmp_path / "none.vvz")
    path = write_file(tmp_path / "a.vvz", draw_codes(STEPS), STEPS)
    content = bytearray(path.read_bytes())
    content[4] = 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.vvz: is of version 4; this vvae reads up to 3"):
        coding.read_header(path)


def test_what_cannot_be_coded_is_refused(tmp_path):
    for value in (np.nan, np.inf, 1e12):
        with pytest.raises(ValueError, match=f"the latent {value} cannot be quantised"):
            STEPS.quantise(np.array([0.0, 0.0, value]))
    with pytest.raises(ValueError, match="not finite"):
        LEVELS.quantise(np.array([0.0, np.nan, 0.0, 0.0]))
    with pytest.raises(ValueError, match="code 5 is not one of 9 levels"):
        coding.count_bits(np.array([[5, 0, 0, 0]]), LEVELS)
    with pytest.raises(ValueError, match="step 0 is not between"):
        coding.UniformSteps((0,))
    with pytest.raises(ValueError, match=r"step=0\.0 must be positive"):
        coding.choose_quantiser(GaussianLatents(1), np.zeros(1), 0.0)
    codes = draw_codes(STEPS)
    path = tmp_path / "a.vvz"
    with pytest.raises(ValueError, match="4 latent frames were given; the header says 5"):
        coding.write_codes(path, make_header(codes, STEPS), codes[:4])
    with pytest.raises(ValueError, match=r"shape \(12, 12, 3\), not \(12, 12, 2\)"):
        coding.write_codes(path, make_header(codes, STEPS), codes[..., :2])
    assert not list(tmp_path.iterdir())


def test_without_the_range_coder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    codes = draw_codes(STEPS)
    with pytest.raises(ValueError, match=r"pip install 'vvae\[coding\]'"):
        write_file(tmp_path / "a.vvz", codes, STEPS)
    assert coding.count_bits(codes, STEPS) > 0


# --- rates ---------------------------------------------------------------------------------------


def make_posterior(shape, std, seed=0):
    """Returns narrow posteriors whose means are draws from the prior."""
    mean = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Gaussian(jnp.array(mean), jnp.broadcast_to(2 * jnp.log(jnp.array(std)), shape))


def test_the_two_rates_agree_at_the_step_where_closed_forms_say_so():
    """For narrow posteriors -log2(p(m) step) = KL / ln 2 if step is sqrt(2 pi e) deviations."""
    bottleneck = GaussianLatents(2)
    posterior = make_posterior((2, 3, 30, 30, 2), (0.01, 0.05))
    mask_Bt = np.ones((2, 3), bool)
    kl_B = np.asarray(coding.kl_bits(bottleneck, posterior, mask_Bt))
    step = math.sqrt(2 * math.pi * math.e)
    coded_B = coding.coded_bits(bottleneck, posterior, mask_Bt, step)
    np.testing.assert_allclose(coded_B, kl_B, rtol=0.005)
    # Half the step costs one more bit per number.
    finer_B = coding.coded_bits(bottleneck, posterior, mask_Bt, step / 2)
    np.testing.assert_allclose(finer_B - coded_B, 3 * 30 * 30 * 2, rtol=0.005)


def test_masked_latent_frames_cost_nothing():
    bottleneck = GaussianLatents(2)
    posterior = make_posterior((2, 3, 4, 4, 2), (0.1, 0.2))
    mask_Bt = np.array([[True, True, False], [True, True, True]])
    short = jax.tree.map(lambda a: a[:1, :2], posterior)
    for rate in (coding.kl_bits, coding.coded_bits):
        first = rate(bottleneck, posterior, mask_Bt)[0]
        alone = rate(bottleneck, short, np.ones((1, 2), bool))[0]
        assert float(first) == pytest.approx(float(alone), rel=1e-6)


def test_finite_scalars_cost_the_logarithm_of_their_number_in_both_rates():
    bottleneck = FiniteScalars((9, 8, 2, 5))
    rng = np.random.default_rng(0)
    posterior = bottleneck.posterior(jnp.array(3 * rng.normal(size=(2, 3, 5, 5, 4)), jnp.float32))
    mask_Bt = np.ones((2, 3), bool)
    expected = 3 * 25 * math.log2(9 * 8 * 2 * 5)
    for rate in (coding.kl_bits, coding.coded_bits):
        np.testing.assert_allclose(rate(bottleneck, posterior, mask_Bt), expected, rtol=1e-5)


@pytest.mark.parametrize("levels", [(9, 8, 2, 5), (3, 4, 17)])
def test_every_finite_scalar_comes_back_bit_by_bit(levels):
    bottleneck, quantiser = FiniteScalars(levels), coding.Levels(levels)
    outputs = np.linspace(-9, 9, 4001, dtype=np.float32)[:, None] + np.zeros(
        len(levels), np.float32
    )
    posterior = jax.jit(bottleneck.posterior)(outputs)
    assert isinstance(posterior, Codes)
    codes = quantiser.quantise(posterior.values)
    assert [len(np.unique(codes[:, z])) for z in range(len(levels))] == list(levels)
    np.testing.assert_array_equal(
        codes + np.array(levels) // 2, bottleneck.indices(posterior.values)
    )
    np.testing.assert_array_equal(quantiser.dequantise(codes), posterior.values)


def test_quantised_latents_are_within_half_a_step():
    values = np.random.default_rng(0).normal(size=(1000, 3))
    codes = STEPS.quantise(values)
    back = STEPS.dequantise(codes)
    assert back.dtype == np.float32
    assert (np.abs(back - values) <= np.array([0.0625, 0.5, 1.5]) + 1e-6).all()
    np.testing.assert_array_equal(STEPS.quantise(back), codes)


# --- through evaluate.py -------------------------------------------------------------------------


@functools.cache
def make_model(view="rgb", seed=0, **causal):
    """Returns (settings, model, variables) of a small, untrained causal model."""
    settings = {"widths": (4, 4, 4), "blocks": (1, 1), "spatial_compression": 4, "channels": 3}
    config = Config(
        data=Data(height=8, width=8, num_frames=5, view=view),
        model=Model(kind="causal"),
        causal=Causal(**(settings | causal)),
        evaluate=Evaluate(tasks=("density",)),
    )
    model = build.build_model(config)
    return config, model, make_variables(model, seed)


def write_run(workdir, **settings):
    """Writes a run directory of `make_model`."""
    config, model, params = make_model(**settings)
    data = {"path": None, "fingerprint": "", "num_channels": model.shape_HWC[-1], "num_steps": 0}
    create_run(workdir, config, data, [])
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        state = init_state(params["params"], params["stats"], optax.sgd(0.1))
        checkpointer.save(0, state, metrics={"val_elbo": 0.0}, wait=True)
    return workdir


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "gaussian", temporal_compression=2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A real file of 12 frames of 10 x 14, whose sides are not multiples of 4."""
    path = tmp_path_factory.mktemp("videos") / "in.mp4"
    noise = make_video(12, size=(5, 7), channels=3)[0]
    video.write_video(path, np.kron(noise, np.ones((1, 2, 2, 1), np.uint8)), 12.5)
    return path


def call(*arguments):
    """Runs evaluate.py and returns its output."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert evaluate.main([*map(str, arguments)]) == 0
    return printed.getvalue()


def test_pixels_that_are_not_square_come_back_as_such(gaussian_run, clip, tmp_path):
    _, frames = video.read_frames(clip)
    wide, coded, back = tmp_path / "wide.mp4", tmp_path / "a.vvz", tmp_path / "back.mp4"
    video.write_video_pieces(wide, [frames], (10, 14), 12.5, pixel_aspect=Fraction(2))
    call("compress", wide, coded, "--workdir", gaussian_run)
    call("decompress", coded, back, "--workdir", gaussian_run)
    assert video.probe(back) == video.VideoInfo(12, 10, 14, 12.5, Fraction(2))


@pytest.mark.parametrize("kind", ["gaussian", "codes", "gray"])
def test_a_video_is_its_own_decoding_from_quantised_latents(kind, gaussian_run, clip, tmp_path):
    if kind == "gaussian":
        workdir = gaussian_run
    elif kind == "codes":
        workdir = write_run(tmp_path / "run", levels=(9, 8, 2), temporal_compression=2)
    else:
        workdir = write_run(tmp_path / "run", view="gray", temporal_compression=1)
    coded, back = tmp_path / "a.vvz", tmp_path / "back.mp4"
    printed = call("compress", clip, coded, "--workdir", workdir)
    for word in ("size (bytes)", "bits_per_pixel", "kl_bits", "coded_bits", "psnr (dB)", "time"):
        assert word in printed
    assert "12 frames of 14x10, 12.5 a second" in call(
        "decompress", coded, back, "--workdir", workdir, "--lossless"
    )
    _, frames = video.read_frames(back)
    assert video.probe(back) == video.VideoInfo(12, 10, 14, 12.5)
    # Independently: the model's latents, quantised with the steps of the file, and decoded.
    model, params = build.load(workdir)
    _, originals = video.read_frames(clip)
    if kind == "gray":
        originals = np.stack(list(compressing._iterate_view(clip, "gray")))
    quantiser = coding.read_header(coded).quantiser
    means = [model.posterior_mean(p) for p in streaming.encode_frames(model, params, originals, 4)]
    latents = [quantiser.dequantise(quantiser.quantise(mean)) for mean in means]
    np.testing.assert_array_equal(read_file(coded), quantiser.quantise(np.concatenate(means, 1))[0])
    pieces = list(streaming.decode_video(model, params, latents, (12, 10, 14)))
    expected = np.concatenate(pieces)
    np.testing.assert_array_equal(frames, np.broadcast_to(expected, frames.shape))
    whole = jitted.decode(model, params, jnp.concatenate(latents, 1), (12, 10, 14))[0]
    codes = np.clip(np.rint((np.asarray(whole) + 1) * 127.5), 0, 255)
    assert np.abs(codes - expected).max() <= 1
    # The printed numbers agree with the files.
    mse = np.square(expected.astype(float) - originals).mean((1, 2, 3))
    result = compressing.compress(model, params, clip, coded, view=("rgb", "gray")[kind == "gray"])
    row = {name: metric.value for name, metric in result.rows["vae"].items()}
    assert row["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / mse)), abs=1e-3)
    assert row["size"] == coded.stat().st_size
    assert row["bits_per_pixel"] == pytest.approx(8 * row["size"] / (12 * 10 * 14))
    head = 8 * (72 + 4 * quantiser.num_channels + 16)
    assert row["coded_bits"] <= 8 * row["size"] - head <= row["coded_bits"] + 96
    posterior = jitted.encode(model, params, originals[None])
    mask_Bt = np.ones((1, len(read_file(coded))), bool)
    kl = coding.kl_bits(model.bottleneck, posterior, mask_Bt)[0]
    assert row["kl_bits"] == pytest.approx(float(kl), rel=1e-4)
    alone = coding.coded_bits(model.bottleneck, posterior, mask_Bt)[0]
    assert row["coded_bits"] == pytest.approx(alone, rel=0.01)


def test_a_larger_step_makes_a_smaller_file(gaussian_run, clip, tmp_path):
    sizes = []
    for step in (0.02, 0.2, 2):
        files = clip, tmp_path / "a.vvz"
        call("compress", *files, "--workdir", gaussian_run, "--step", step, "--overwrite")
        sizes.append((tmp_path / "a.vvz").stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


def test_another_run_and_a_damaged_file_are_refused_and_leave_nothing(gaussian_run, clip, tmp_path):
    coded = tmp_path / "a.vvz"
    call("compress", clip, coded, "--workdir", gaussian_run)
    other = write_run(tmp_path / "other", seed=1, temporal_compression=2)
    with pytest.raises(ValueError, match=r"a\.vvz: was made by a model with other parameters"):
        call("decompress", coded, tmp_path / "back.mp4", "--workdir", other)
    content = bytearray(coded.read_bytes())
    content[-1] ^= 1
    coded.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^:]*a\.vvz: is damaged where"):
        call("decompress", coded, tmp_path / "back.mp4", "--workdir", gaussian_run)
    with pytest.raises(ValueError, match=r"cannot write '\.txt'"):
        call("decompress", coded, tmp_path / "back.txt", "--workdir", gaussian_run)
    assert {path.name for path in tmp_path.iterdir()} == {"a.vvz", "other"}


def test_a_changed_parameter_or_name_changes_the_digest():
    params = {"a": np.zeros((2, 3), np.float32), "b": {"c": np.ones(2)}}
    digest = digest_params(params)
    assert digest == digest_params(jax.tree.map(jnp.asarray, params) | {"b": params["b"]})
    changed = [
        params | {"a": np.zeros((3, 2), np.float32)},
        params | {"a": np.zeros((2, 3), np.int32)},
        {"a": params["a"], "d": params["b"]},
        params | {"b": {"c": np.array([1.0, np.nextafter(1, 2)])}},
    ]
    assert len({digest, *map(digest_params, changed)}) == 5


def test_the_digest_is_that_of_files_written_before():
    params = {
        "params": {
            "a": {
                "kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
                "bias": np.float32(0.5),
            },
            "b": [np.zeros(0), np.arange(3, dtype=np.int32)],
        }
    }
    expected = "8d13d7fd121ab3137b2cc729c054989d14dfdac187667807d5f24d13989cf79c"
    assert digest_params(params).hex() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "a.mp4"], "compress takes two files and nothing else: compress IN.mp4 OUT"),
        (["compress", "a", "b", "c", "--workdir", "r"], "compress takes two files"),
        (["density", "decompress", "a", "--workdir", "r"], "decompress takes two files"),
        (["compress", "a", "b"], "give the run to evaluate: --workdir RUN"),
        (["compress", "a", "b", "--workdir", "r", "--step", "0"], "--step=0.0: must be positive"),
        (
            ["decompress", "a", "b", "--workdir", "r", "--step", "1"],
            "--step is an option of code, compress, not of dec",
        ),
        (["density", "--workdir", "r", "--lossless"], "--lossless is an option of decompress"),
    ],
)
def test_command_lines_that_cannot_be_meant(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate.read_request(arguments)


def test_the_source_is_never_the_target(tmp_path):
    path, link = tmp_path / "a.mp4", tmp_path / "a.vvz"
    path.write_text("content")
    link.symlink_to(path)
    with pytest.raises(ValueError, match=r"a\.vvz is the same file as the input .*a\.mp4"):
        compressing.compress(SequentialVAE((8, 8, 1)), {}, path, link, view="gray")
    with pytest.raises(ValueError, match=r"a\.mp4 is the same file as the input .*a\.vvz"):
        compressing.decompress(SequentialVAE((8, 8, 1)), {}, link, path)
    assert path.read_text() == "content"


def test_a_model_without_a_fixed_prior_is_refused():
    model = SequentialVAE((8, 8, 1))
    with pytest.raises(ValueError, match=r"for CausalVideoVAE .* not for SequentialVAE"):
        compressing.compress(model, {}, "a.mp4", "a.vvz", view="gray")


@pytest.mark.parametrize("levels", [(), (9, 8, 2)], ids=["gaussian", "codes"])
def test_density_has_both_rates_beside_each_other(levels, brightness_folder, tmp_path):
    sampling = Sampling(4, 1, "windows")
    dataset = open_dataset(
        brightness_folder,
        ClipFormat("gray", 8, 8, sampling),
        Decoding(Cache(tmp_path, 10**9), num_workers=1),
    )
    _, model, params = make_model("gray", temporal_compression=2, levels=levels)
    question = ask(model, params, dataset, tmp_path, split="val", num_samples=1)
    row = density.answer(question, Density()).rows["vae"]
    clips = dataset.splits["val"]
    expected_kl = row["kl_grid"].value / math.log(2)
    assert row["kl_bits"].value == pytest.approx(expected_kl, rel=1e-5)
    assert row["kl_bits"].card["unit"] == row["coded_bits"].card["unit"] == "bits/clip"
    assert row["kl_bits"].card["definition"] != row["coded_bits"].card["definition"]
    assert len(clips) > 0 and row["coded_bits"].value > 0
    if levels:
        assert row["coded_bits"].value == pytest.approx(expected_kl, rel=1e-5)
