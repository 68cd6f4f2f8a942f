"""Turns folders of videos into NumPy batches. Nothing in this package imports jax."""

from typing import TYPE_CHECKING

from vvae.lazy import attach

if TYPE_CHECKING:
    from vvae.data.cache import Limits as Limits
    from vvae.data.cache_quota import Cache as Cache
    from vvae.data.clips import Clips as Clips
    from vvae.data.collection.clips import CollectionClips as CollectionClips
    from vvae.data.collection.opening import open_collection as open_collection
    from vvae.data.dataset import Dataset as Dataset
    from vvae.data.dataset import Decoding as Decoding
    from vvae.data.dataset import describe_flaws as describe_flaws
    from vvae.data.dataset import open_dataset as open_dataset
    from vvae.data.dataset import open_unsplit as open_unsplit
    from vvae.data.listing import Video as Video
    from vvae.data.listing import list_videos as list_videos
    from vvae.data.loader import Augmentation as Augmentation
    from vvae.data.loader import Cuts as Cuts
    from vvae.data.loader import eval_batches as eval_batches
    from vvae.data.loader import train_batches as train_batches
    from vvae.data.sampling import ClipFormat as ClipFormat
    from vvae.data.sampling import Sampling as Sampling
    from vvae.data.tiles import cut_tiles as cut_tiles
    from vvae.data.views import View as View
    from vvae.data.views import decode_view as decode_view
    from vvae.data.views import encode_view as encode_view
    from vvae.data.views import get_view as get_view
    from vvae.data.views import view_to_rgb as view_to_rgb

__getattr__, __dir__ = attach(
    __name__,
    {
        "Limits": "vvae.data.cache",
        "Cache": "vvae.data.cache_quota",
        "Clips": "vvae.data.clips",
        "CollectionClips": "vvae.data.collection.clips",
        "open_collection": "vvae.data.collection.opening",
        "Dataset": "vvae.data.dataset",
        "Decoding": "vvae.data.dataset",
        "describe_flaws": "vvae.data.dataset",
        "open_dataset": "vvae.data.dataset",
        "open_unsplit": "vvae.data.dataset",
        "Video": "vvae.data.listing",
        "list_videos": "vvae.data.listing",
        "Augmentation": "vvae.data.loader",
        "Cuts": "vvae.data.loader",
        "eval_batches": "vvae.data.loader",
        "train_batches": "vvae.data.loader",
        "ClipFormat": "vvae.data.sampling",
        "Sampling": "vvae.data.sampling",
        "cut_tiles": "vvae.data.tiles",
        "View": "vvae.data.views",
        "decode_view": "vvae.data.views",
        "encode_view": "vvae.data.views",
        "get_view": "vvae.data.views",
        "view_to_rgb": "vvae.data.views",
    },
)
