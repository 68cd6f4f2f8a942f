"""Metrics: numbers, with cards that state exactly what was computed."""

from typing import TYPE_CHECKING

from vvae.lazy import attach

if TYPE_CHECKING:
    from vvae.metrics.cards import Metric as Metric
    from vvae.metrics.cards import compare as compare
    from vvae.metrics.cards import describe_difference as describe_difference
    from vvae.metrics.cards import make_metric as make_metric
    from vvae.metrics.classification import mean_class_accuracy as mean_class_accuracy
    from vvae.metrics.classification import top_k_accuracy as top_k_accuracy
    from vvae.metrics.detection import auroc as auroc
    from vvae.metrics.detection import average_precision as average_precision
    from vvae.metrics.detection import find_threshold as find_threshold
    from vvae.metrics.detection import judge_scores as judge_scores
    from vvae.metrics.detection import smooth_by_video as smooth_by_video
    from vvae.metrics.frames import difference_mse as difference_mse
    from vvae.metrics.frames import frame_mse as frame_mse
    from vvae.metrics.frames import frame_psnr as frame_psnr
    from vvae.metrics.frames import frame_ssim as frame_ssim
    from vvae.metrics.frames import video_means as video_means
    from vvae.metrics.intervals import bootstrap_difference as bootstrap_difference
    from vvae.metrics.intervals import bootstrap_units as bootstrap_units
    from vvae.metrics.intervals import estimate_share as estimate_share
    from vvae.metrics.intervals import permute_difference as permute_difference
    from vvae.metrics.table import format_metrics as format_metrics

__getattr__, __dir__ = attach(
    __name__,
    {
        "Metric": "vvae.metrics.cards",
        "compare": "vvae.metrics.cards",
        "describe_difference": "vvae.metrics.cards",
        "make_metric": "vvae.metrics.cards",
        "mean_class_accuracy": "vvae.metrics.classification",
        "top_k_accuracy": "vvae.metrics.classification",
        "auroc": "vvae.metrics.detection",
        "average_precision": "vvae.metrics.detection",
        "find_threshold": "vvae.metrics.detection",
        "judge_scores": "vvae.metrics.detection",
        "smooth_by_video": "vvae.metrics.detection",
        "difference_mse": "vvae.metrics.frames",
        "frame_mse": "vvae.metrics.frames",
        "frame_psnr": "vvae.metrics.frames",
        "frame_ssim": "vvae.metrics.frames",
        "video_means": "vvae.metrics.frames",
        "bootstrap_difference": "vvae.metrics.intervals",
        "bootstrap_units": "vvae.metrics.intervals",
        "estimate_share": "vvae.metrics.intervals",
        "permute_difference": "vvae.metrics.intervals",
        "format_metrics": "vvae.metrics.table",
    },
)
