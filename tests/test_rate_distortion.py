"""Curves of rate and distortion: what counts as bits, and how curves are compared."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import rate_distortion as rd
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


def test_slices_of_a_stream_are_units_1_and_5():
    units = [b"\x67sets", b"\x68sets", b"\x06sei", b"\x65" + 9 * b"a", b"\x41" + 4 * b"b"]
    stream = b"\x00\x00\x00\x01" + b"\x00\x00\x01".join(units)
    assert rd.count_slices(stream) == 10 + 5


def test_a_coded_clip_comes_back_with_fewer_bytes_at_a_higher_rate_factor():
    ramp = np.add.outer(np.arange(5) * 4, np.add.outer(np.arange(32), np.arange(32)))
    video = np.repeat(ramp[..., None], 3, axis=-1).astype(np.uint8)
    sizes = []
    for crf in (20, 45):
        size, decoded = rd._code_h264(video, crf, "yuv444p")
        assert decoded.shape == video.shape
        assert np.abs(decoded.astype(int) - video).mean() < 12
        sizes.append(size)
    assert 0 < sizes[1] < sizes[0]


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


def test_hull_and_gain():
    values = [(0.1, 20), (0.15, 20.1), (0.2, 19), (0.2, 23), (0.2, 22), (0.3, 23.5), (0.4, 25)]
    hull = rd.upper_hull([rd.Point(rate, psnr, "") for rate, psnr in values])
    assert [(p.rate, p.psnr) for p in hull] == [(0.1, 20), (0.2, 23), (0.4, 25)]
    assert rd.gain_at(hull, rd.Point(0.3, 25.0, "")) == pytest.approx(1.0)
    assert rd.gain_at(hull, rd.Point(0.05, 25.0, "")) is None
