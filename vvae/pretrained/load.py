"""Loads and saves published weights: folders as diffusers writes them, and some single files."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vvae.models import contract
from vvae.models.bottleneck import ScaledLatents
from vvae.models.checks import check_choice
from vvae.models.contract import Params
from vvae.models.grid import GridVideoVAE
from vvae.pretrained import (
    cogvideox,
    cosmos,
    dc,
    distilled,
    flux2,
    hunyuan,
    hunyuan15,
    hunyuan_refiner,
    kl,
    ltx,
    ltx2,
    magvit,
    mochi,
    qwen21,
    svd,
    taehv,
    tiny,
    vidtok,
    wan,
)
from vvae.pretrained import folder as folders
from vvae.pretrained.authors_files import is_authors_file, read_file
from vvae.pretrained.family import Family
from vvae.pretrained.layers import LOG_SIGMA
from vvae.pretrained.locate import find_folder

_MODULES = (wan, qwen21, ltx, ltx2, hunyuan, hunyuan15, hunyuan_refiner, cogvideox)
_MODULES += (magvit, mochi, cosmos, vidtok, kl, flux2, dc, svd, tiny, taehv)
_OWN = "log_sigma"  # a parameter that is not published
# Entries of a network's description for what its folder stores as tensors.
_SCALES = ("_latents_mean", "_latents_std")


def load_pretrained(
    path: str | os.PathLike, *, dtype: Any = None, subfolder: str | None = None
) -> tuple[GridVideoVAE, Params]:
    """Reads published weights: a folder with config.json and .safetensors files.

    Args:
      path: the folder, as `save_pretrained` of diffusers writes it, of one of the classes that
        docs/published_models.md lists; or the folder of a pipeline that has one of them as `vae`.
        An index decides which files count. A variant such as fp16 is read where it is the only one.
        The files of TAESD (either one, with the other beside it) and TAEHV, which have no
        config.json, are read by their own paths, .pth or .safetensors.
      dtype: of the activations, "float32" or "bfloat16"; that of the family, float32, by default.
        Parameters, norms and posteriors stay float32.
      subfolder: where in the folder the weights are, such as "vae".

    Returns:
      (model, params), for use with `vvae.encode`, `vvae.decode`, ... The latents' published mean
      and standard deviation are `model.bottleneck.prior_mean` and `.prior_std`;
      `model.bottleneck.normalize(z)` applies them.

    Raises:
      ValueError: for a path that is not such a folder, another class, an unknown setting, a damaged
        or missing file, files or tensors of which it is not clear which are meant, or with the list
        of tensors that are missing, extra or misshapen.
    """
    chosen = None if dtype is None else _check_dtype(dtype)
    if subfolder is None and is_authors_file(Path(path)):
        model, learned = _read_file(Path(path))
    else:
        model, tensors = _find(find_folder(path, subfolder))
        learned = folders.read_params(tensors)
    variables = _complete(model, learned)
    return (model if chosen is None else _set_dtype(model, chosen)), variables


def _complete(model: GridVideoVAE, learned: dict[str, Any]) -> Params:
    """Returns all variables of a model: the published ones, and those that none publishes."""
    shapes = _list_variables(model)

    def fill(shapes: dict[str, Any], learned: dict[str, Any]) -> dict[str, Any]:
        return {
            name: fill(leaf, learned[name])
            if isinstance(leaf, dict)
            else learned.get(name, jnp.float32(LOG_SIGMA))
            for name, leaf in shapes.items()
        }

    def start(path, leaf) -> jax.Array:
        return (jnp.zeros if path[-1].key == "mean" else jnp.ones)(leaf.shape)

    stats = jax.tree.map_with_path(start, shapes["stats"])
    return {"params": fill(shapes["params"], learned), "stats": stats}


def _set_dtype(model: GridVideoVAE, dtype: Any) -> GridVideoVAE:
    if isinstance(model, distilled.DistilledVAE):
        return model.clone(network=_set_dtype(model.network, dtype))
    return model.clone(dtype=dtype)


def _check_dtype(dtype: Any) -> Any:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    check_choice("dtype", name, ("float32", "bfloat16"))
    return jnp.dtype(name).type


def load_network(path: str | os.PathLike) -> GridVideoVAE:
    """Returns the model of published weights without reading its parameters.

    Args:
      path: as for `load_pretrained`.

    Raises:
      ValueError: as `load_pretrained`, except for damage that the header of a file does not show.
    """
    if is_authors_file(Path(path)):
        return _build(read_file(Path(path))[0])[1]
    return _find(find_folder(path))[0]


def _read_file(path: Path) -> tuple[GridVideoVAE, Any]:
    """Returns the model of an authors' file, and its parameters."""
    record, tensors = read_file(path)
    _, model = _build(record)
    return model, folders.adopt_tensors(path, _list_shapes(model), tensors)


def _list_shapes(model: GridVideoVAE) -> dict[str, Any]:
    """Returns the shapes of the parameters that are published."""
    return _drop_own(_list_variables(model)["params"])


def _list_variables(model: GridVideoVAE) -> Params:
    return jax.eval_shape(functools.partial(contract.init_variables, model), jax.random.key(0))


def _drop_own(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters without those that are not published."""
    return {
        name: _drop_own(leaf) if isinstance(leaf, dict) else leaf
        for name, leaf in params.items()
        if name != _OWN
    }


def _find(folder: Path) -> tuple[GridVideoVAE, Any]:
    """Returns the model of a folder, and where its parameters are stored."""
    record = folders.read_config(folder)
    try:
        family, model = _build(record)
    except ValueError as error:
        raise ValueError(f"{folder / folders.CONFIG}: {error}") from error
    buffers = family.buffers.find(model) if family.buffers else {}
    tensors = folders.find_params(folder, _list_shapes(model) | buffers, family.rename)
    if family.buffers:
        found = folders.read_params({name: tensors.pop(name) for name in buffers})
        model = _scale(model, *family.buffers.read(model, jax.tree.map(np.asarray, found)))
    return model, tensors


def save_pretrained(
    path: str | os.PathLike, model: GridVideoVAE, params: Params, *, overwrite: bool = False
) -> None:
    """Writes weights as a folder that diffusers and `load_pretrained` read.

    Args:
      path: the folder; created if missing.
      model: from `load_pretrained`, or of one of its families.
      params: its variables. The standardisation must be the identity, and the noise scale is not
        written: published weights have neither.
      overwrite: whether to replace the weights, or the config.json, that the folder holds.

    Raises:
      ValueError: for another model, another standardisation, or files that would be replaced.
    """
    family = _find_family(model)
    stats = params["stats"]
    if np.any(stats["mean"]) or np.any(stats["std"] != 1):
        raise ValueError(
            f"the model standardises videos by {stats}, which published weights cannot store"
        )
    published = _drop_own(params["params"])
    if family.buffers:
        published |= family.buffers.write(model)
    folders.write_folder(Path(path), family.describe(model), published, overwrite=overwrite)


def is_published(path: str | os.PathLike) -> bool:
    """Whether a path holds published weights, also without config.json, rather than a run.

    Raises:
      ValueError: if the path is a file of another kind than `load_pretrained` reads.
    """
    if not os.path.exists(path):
        return False
    if is_authors_file(Path(path)):
        return True
    folder = find_folder(path)
    try:
        return bool(folders.read_config(folder))
    except ValueError:
        return not (folder / folders.CONFIG).exists() and any(folder.glob("*.safetensors"))


def describe_network(model: GridVideoVAE) -> str:
    """Returns a description of a published network without its weights: JSON for `build_network`.

    Raises:
      ValueError: for another model.
    """
    family, latents = _find_family(model), model.bottleneck
    record = family.describe(model)
    if family.buffers:
        record |= dict(zip(_SCALES, (latents.prior_mean, latents.prior_std), strict=True))
    return json.dumps(record)


def build_network(text: str) -> GridVideoVAE:
    """Returns the model that `describe_network` described.

    Raises:
      ValueError: for anything else.
    """
    record = folders.parse_config(text, "the description of a published network")
    family, model = _build(record)
    if not family.buffers:
        return model
    try:
        return _scale(model, *(record[name] for name in _SCALES))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the description of a published network has no {' and '.join(_SCALES)}: {error!r}"
        ) from error


def list_classes() -> tuple[str, ...]:
    """Returns the names of the classes that `load_pretrained` reads."""
    return tuple(name for family in _FAMILIES for name in family.defaults)


def make_network(record: dict[str, Any]) -> GridVideoVAE:
    """Returns the network of a config.json, in which a missing setting has its default value.

    A scale of the latents that a folder stores as tensors is the identity.

    Raises:
      ValueError: for another class, an unknown setting, or settings that fit no network.
    """
    return _build(folders.parse_config(json.dumps(record), "the settings of a network"))[1]


def _build(record: dict[str, Any]) -> tuple[Family, GridVideoVAE]:
    """Returns the family and the model of a config.json."""
    name = record["_class_name"]
    classes = {name: family for family in _FAMILIES for name in family.defaults}
    if name not in classes:
        raise ValueError(f"cannot read the class {name!r}: only {', '.join(classes)}")
    family = classes[name]
    return family, family.build(folders.fill_settings(record, family.defaults[name]))


def _find_family(model: GridVideoVAE) -> Family:
    families = {family.model: family for family in _FAMILIES}
    if type(model) not in families:
        known = ", ".join(family.__name__ for family in families)
        raise ValueError(f"{type(model).__name__} has no published form; only {known}")
    return families[type(model)]


def _scale(model: GridVideoVAE, mean, std) -> GridVideoVAE:
    """Returns the model with this mean and standard deviation of its latents."""
    scales = (tuple(map(float, values)) for values in (mean, std))
    return model.clone(bottleneck=ScaledLatents(model.bottleneck.channels, *scales))


_FAMILIES: tuple[Family, ...] = (
    *(module.FAMILY for module in _MODULES),
    distilled.make_family(build_network, describe_network),
)
