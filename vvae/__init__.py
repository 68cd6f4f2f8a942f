"""vvae: video VAEs in JAX.

    import vvae

    vvae.prepare()                                # compilation cache; first line of a program
    run = vvae.load_run("RUN")                    # a run directory of train.py: a TrainedRun
    run.read("a.mp4")                             # (x, mask) as the model saw its training videos
    run.encode("a.mp4"), run.label("a.mp4"), run.score("a.mp4")
    for score in vvae.watch(run, camera): ...     # live, frame after frame

Pure functions of (model, params, ...), for every model; x is uint8 or float in [-1, 1],
[B, T, H, W, C]. They compile themselves, and work under jit, vmap, grad, pmap and jax.export.

    model, params = vvae.load("RUN")              # or load_pretrained("FOLDER")
    encode, decode, reconstruct, sample           # posteriors, latents, videos
    elbo, iwae, terms, surprise                   # nats
    encode_video, decode_video, encode_frames     # files and streams of any length
    begin_encode, encode_chunk, end_encode, begin_decode, decode_chunk
    normalize, denormalize, save_pretrained

Models and their training: SequentialVAE, CausalVideoVAE, Model (what an own one implements), Terms,
init_variables, split_key, train, or start_params, init_train_state, make_train_step,
averaged_params. The folder examples/ has an own model, an own likelihood and own data.

Rooms: vvae.data (folders of videos as clips), vvae.video (one video in or out), vvae.metrics
(numbers with cards), vvae.tiling, vvae.streaming, vvae.sharding, vvae.coding, vvae.Config.

help(vvae.encode) and so on say the rest. Everything is imported when it is first used, so that
`import vvae` costs nothing and loads neither jax nor numpy.
"""

from typing import TYPE_CHECKING

from vvae.lazy import attach

if TYPE_CHECKING:
    from vvae import config as config
    from vvae import data as data
    from vvae import distributions as distributions
    from vvae import figures as figures
    from vvae import latents as latents
    from vvae import metrics as metrics
    from vvae import models as models
    from vvae import objectives as objectives
    from vvae import pretrained as pretrained
    from vvae import training as training
    from vvae import video as video
    from vvae.api.trained_run import TrainedRun as TrainedRun
    from vvae.api.trained_run import load_run as load_run
    from vvae.api.trained_run import watch as watch
    from vvae.api.training import averaged_params as averaged_params
    from vvae.api.training import init_train_state as init_train_state
    from vvae.api.training import make_train_step as make_train_step
    from vvae.api.training import start_params as start_params
    from vvae.api.training import train as train
    from vvae.build import load as load
    from vvae.config import Config as Config
    from vvae.inference import coding as coding
    from vvae.inference import sharding as sharding
    from vvae.inference import streaming as streaming
    from vvae.inference import tiling as tiling
    from vvae.inference.statistics import denormalize as denormalize
    from vvae.inference.statistics import normalize as normalize
    from vvae.inference.streaming import begin_decode as begin_decode
    from vvae.inference.streaming import begin_encode as begin_encode
    from vvae.inference.streaming import decode_chunk as decode_chunk
    from vvae.inference.streaming import decode_video as decode_video
    from vvae.inference.streaming import encode_chunk as encode_chunk
    from vvae.inference.streaming import encode_frames as encode_frames
    from vvae.inference.streaming import encode_video as encode_video
    from vvae.inference.streaming import end_encode as end_encode
    from vvae.models.causal import CausalVideoVAE as CausalVideoVAE
    from vvae.models.contract import Model as Model
    from vvae.models.contract import Terms as Terms
    from vvae.models.contract import decode as decode
    from vvae.models.contract import encode as encode
    from vvae.models.contract import init_variables as init_variables
    from vvae.models.contract import reconstruct as reconstruct
    from vvae.models.contract import sample as sample
    from vvae.models.contract import split_key as split_key
    from vvae.models.contract import terms as terms
    from vvae.models.sequential import SequentialVAE as SequentialVAE
    from vvae.models.sequential import surprise as surprise
    from vvae.objectives.elbo import elbo as elbo
    from vvae.objectives.elbo import iwae as iwae
    from vvae.pretrained.load import load_pretrained as load_pretrained
    from vvae.pretrained.load import save_pretrained as save_pretrained
    from vvae.runtime import prepare as prepare

_ROOMS = {
    "config": "vvae.config",
    "data": "vvae.data",
    "distributions": "vvae.distributions",
    "figures": "vvae.figures",
    "latents": "vvae.latents",
    "metrics": "vvae.metrics",
    "models": "vvae.models",
    "objectives": "vvae.objectives",
    "pretrained": "vvae.pretrained",
    "training": "vvae.training",
    "video": "vvae.video",
    "coding": "vvae.inference.coding",
    "sharding": "vvae.inference.sharding",
    "streaming": "vvae.inference.streaming",
    "tiling": "vvae.inference.tiling",
}
_HOMES = {
    "load": "vvae.build",
    "Config": "vvae.config",
    "denormalize": "vvae.inference.statistics",
    "normalize": "vvae.inference.statistics",
    "begin_decode": "vvae.inference.streaming",
    "begin_encode": "vvae.inference.streaming",
    "decode_chunk": "vvae.inference.streaming",
    "decode_video": "vvae.inference.streaming",
    "encode_chunk": "vvae.inference.streaming",
    "encode_frames": "vvae.inference.streaming",
    "encode_video": "vvae.inference.streaming",
    "end_encode": "vvae.inference.streaming",
    "TrainedRun": "vvae.api.trained_run",
    "load_run": "vvae.api.trained_run",
    "watch": "vvae.api.trained_run",
    "averaged_params": "vvae.api.training",
    "init_train_state": "vvae.api.training",
    "make_train_step": "vvae.api.training",
    "start_params": "vvae.api.training",
    "train": "vvae.api.training",
    "CausalVideoVAE": "vvae.models.causal",
    "Model": "vvae.models.contract",
    "Terms": "vvae.models.contract",
    "decode": "vvae.models.contract",
    "encode": "vvae.models.contract",
    "init_variables": "vvae.models.contract",
    "reconstruct": "vvae.models.contract",
    "sample": "vvae.models.contract",
    "split_key": "vvae.models.contract",
    "terms": "vvae.models.contract",
    "SequentialVAE": "vvae.models.sequential",
    "surprise": "vvae.models.sequential",
    "elbo": "vvae.objectives.elbo",
    "iwae": "vvae.objectives.elbo",
    "load_pretrained": "vvae.pretrained.load",
    "save_pretrained": "vvae.pretrained.load",
    "prepare": "vvae.runtime",
}
# `help(vvae)` prints this text; with names here it would print more than a thousand lines of them.
__all__: list[str] = []
_get, __dir__ = attach(__name__, _HOMES, _ROOMS)


def __getattr__(name: str):
    return _read_version() if name == "__version__" else _get(name)


def _read_version() -> str:
    from importlib import metadata  # takes longer than all the rest of this module

    try:
        return metadata.version("vvae")
    except metadata.PackageNotFoundError:
        return "unknown"  # a checkout that is not installed
