"""Files that torch.save writes, read without PyTorch: real weights, and files that lie."""

import io
import itertools
import pickle
import shutil
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED_DATA

import vvae
from vvae import video
from vvae.metrics.frames import frame_psnr, frame_ssim
from vvae.models import contract
from vvae.pretrained import pytorch_files
from vvae.pretrained.load import (
    is_published,
    load_network,
    load_pretrained,
    save_pretrained,
)

WEIGHTS = SHARED_DATA / "weights"
needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_dir(), reason=f"{WEIGHTS} is missing: it holds real published weights"
)


class Named:
    """Pickled as a call of any global name."""

    def __init__(self, module, name, arguments):
        self.name, self.arguments = (module, name), arguments


class Pickler(pickle._Pickler):
    """Writes what torch.save writes: names of PyTorch, and storages by reference."""

    def persistent_id(self, obj):
        if not isinstance(obj, np.ndarray):
            return None
        kind = {"float32": "FloatStorage", "float16": "HalfStorage"}[str(obj.dtype)]
        return ("storage", Named("torch", kind, None), "0", "cpu", obj.size)

    def save_global_name(self, named):
        module, name = named.name
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        if named.arguments is not None:
            self.save(named.arguments)
            self.write(pickle.REDUCE)

    dispatch = pickle._Pickler.dispatch | {Named: save_global_name}


def tensor(values, shape, strides, offset=0):
    arguments = (values, offset, shape, strides, False, OrderedDict())
    return Named("torch._utils", "_rebuild_tensor_v2", arguments)


def write(path, tree, values):
    content = io.BytesIO()
    Pickler(content, protocol=2).dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/data/0", values.tobytes())
    return path


def test_tensors_are_views_of_their_storage(tmp_path):
    values = np.arange(12, dtype=np.float32)
    tree = {"a": tensor(values, (3, 2), (1, 3), offset=2), "b": tensor(values, (), (), offset=5)}
    found = pytorch_files.read_tensors(write(tmp_path / "a.pth", tree, values))
    np.testing.assert_array_equal(found["a"], [[2, 5], [3, 6], [4, 7]])
    assert found["b"] == 5 and found["b"].shape == ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda v: {"a": Named("os", "system", ("touch PATH",))}, "it asks for os.system"),
        (lambda v: {"a": Named("builtins", "eval", ("1",))}, "it asks for builtins.eval"),
        (lambda v: {"a": tensor(v, (3, 5), (5, 1))}, "does not fit its storage"),
        (lambda v: {"a": tensor(v, (3,), (1,), offset=-1)}, "a tensor of the shape"),
        (lambda v: {"a": tensor(v, (3,), (1, 2))}, "a tensor without a storage"),
        (lambda v: {"a": 3}, "holds other things than tensors"),
        (lambda v: [1, 2], "holds a list"),
    ],
)
def test_other_pickles_are_refused(tmp_path, make, text):
    values = np.arange(12, dtype=np.float32)
    path = write(tmp_path / "a.pth", make(values), values)
    with pytest.raises(ValueError, match=text):
        pytorch_files.read_tensors(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.pth is not a file of tensors"):
        pytorch_files.read_tensors(path)
    with pytest.raises(ValueError, match=r"a\.pth is not a file of tensors"):
        load_pretrained(path)


# --- the weights of TAEF2 ------------------------------------------------------------------------


@needs_weights
def test_real_weights_are_read_and_written_back(tmp_path):
    """Either file stands for both, and a folder written from them holds the same numbers."""
    model, params = load_pretrained(WEIGHTS / "taef2_encoder.pth")
    assert model == load_network(WEIGHTS / "taef2_decoder.pth")
    assert is_published(WEIGHTS / "taef2_encoder.pth")
    assert (model.pooled, model.bottleneck.channels) == (True, 32)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(params["params"][name]))
             for name in ("encoder", "decoder")}  # fmt: skip
    assert sizes == {"encoder": 1_338_528, "decoder": 1_338_499}
    save_pretrained(tmp_path / "taef2", model, params)
    again, params_again = load_pretrained(tmp_path / "taef2")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    shutil.copy(WEIGHTS / "taef2_encoder.pth", tmp_path)
    with pytest.raises(ValueError, match=r"of the decoder, taef2_decoder\.pth, is missing"):
        load_pretrained(tmp_path / "taef2_encoder.pth")


@needs_weights
def test_a_real_video_comes_back_in_good_quality():
    """The pictures of random weights, or of a layer in the wrong place, are not alike."""
    model, params = vvae.load_pretrained(WEIGHTS / "taef2_encoder.pth")
    path = SHARED_DATA / "clips" / "natural" / "realshort.mp4"
    x = np.stack([frame for _, frame in itertools.islice(video.iterate_frames(path), 2)])[None]
    y = jax.jit(contract.reconstruct, static_argnums=0)(model, params, x)
    codes = [jnp.asarray(x, jnp.float32), contract.to_codes(y)]
    assert frame_psnr(*codes).min() > 25 and frame_ssim(*codes).min() > 0.8


@needs_weights
def test_latents_of_real_videos_are_read():
    """The normalised Wan 2.1 latents of 61 frames of 320x512."""
    (z,) = pytorch_files.read_tensors(WEIGHTS / "wan21_latents.pth").values()
    assert z.shape == (1, 16, 16, 40, 64)
    assert abs(float(z.astype(np.float32).std()) - 0.942) < 0.001
