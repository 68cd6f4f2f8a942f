"""Curves of rate and distortion: what counts as bits, and how curves are compared."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import rate_distortion as rd
from vvae.inference import coding
from vvae.models.ppca import decompose


def test_scan_of_a_jpeg_is_what_follows_its_header():
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=30)
    data = buffer.getvalue()
    scan = data[data.index(b"\xff\xda") :]
    # SOS of three components: marker, length 12, and the end marker.
    assert int.from_bytes(scan[2:4], "big") == 12
    assert rd.count_scan(data) == len(scan) - 2 - 12 - 2
    assert rd.count_scan(data) < len(data) - 300  # two tables of quantisation, four of Huffman


def test_pca_codec_keeps_what_its_step_says():
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(500, 6)) * np.array([40, 20, 10, 5, 2, 1]) + 100
    pca = decompose(blocks.mean(0), np.cov(blocks.T, bias=True))
    codec = rd.PcaCodec(pca, (blocks - pca.mean_D) @ pca.components_DD.T)
    bits, decoded = codec.code(0.5, 6)
    error = np.square(decoded - blocks).mean()
    np.testing.assert_allclose(error, 0.5**2 / 12, rtol=0.1)  # of a uniform quantiser
    # The rate of a normal distribution at high resolution: log2(std sqrt(2 pi e) / step).
    expected = 500 * np.log2(np.sqrt(pca.variance_D * 2 * np.pi * np.e) / 0.5).sum()
    np.testing.assert_allclose(bits, expected, rtol=0.02)
    fewer, rough = codec.code(0.5, 3)
    assert fewer < bits
    left = np.square(rough - blocks).sum(1).mean()
    np.testing.assert_allclose(left, pca.variance_D[3:].sum() + 3 * 0.5**2 / 12, rtol=0.05)
    assert codec.code(1e9, 6)[0] == 0.0


def test_coded_bytes_are_those_of_the_codes_alone():
    pytest.importorskip("constriction")
    random = np.random.default_rng(0)
    quantiser = coding.UniformSteps((2**16,) * 8)
    codes = quantiser.quantise(random.normal(size=(1, 3, 8, 8, 8)))
    size = rd.count_coded_bytes(codes[0], quantiser)
    ideal = coding.count_bits(codes, quantiser) / 8
    assert ideal <= size < ideal + 150  # words and lengths of the coder


def test_points_average_clips_by_video():
    video = np.full((3, 2, 4, 4, 3), 100, np.uint8)
    score = rd.Score(video, np.array([0, 0, 1]))
    decoded = video + np.array([1.0, 1.0, 10.0]).reshape(3, 1, 1, 1, 1)
    point = score(np.array([32.0, 96.0, 320.0]), decoded, "a")
    assert point.by_video == {"rate": [2.0, 10.0], "psnr": [48.131, 28.131]}
    assert point.psnr == pytest.approx((48.131 + 28.131) / 2, abs=1e-3)
    assert point.rate == pytest.approx(448 / (3 * 32), abs=1e-5)
    together = score(448.0, decoded, "a")
    assert (together.rate, together.psnr, together.by_video) == (point.rate, point.psnr, None)


def test_hull_and_gain():
    values = [(0.1, 20), (0.15, 20.1), (0.2, 19), (0.2, 23), (0.2, 22), (0.3, 23.5), (0.4, 25)]
    hull = rd.upper_hull([rd.Point(rate, psnr, "") for rate, psnr in values])
    assert [(p.rate, p.psnr) for p in hull] == [(0.1, 20), (0.2, 23), (0.4, 25)]
    assert rd.gain_at(hull, rd.Point(0.3, 25.0, "")) == pytest.approx(1.0)
    assert rd.gain_at(hull, rd.Point(0.05, 25.0, "")) is None
