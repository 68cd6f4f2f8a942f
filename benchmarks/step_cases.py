"""Models whose training steps `benchmarks.train_step` measures, each with its twin in PyTorch."""

import abc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import torch

from benchmarks.torch_causal_twin import TorchCausalVideoVAE
from benchmarks.torch_sequential_twin import TorchSequentialVAE
from benchmarks.torch_twin import Twin
from vvae import build
from vvae.config import Config, Data, Model, Objective, Train
from vvae.config_files import load_config_file


@dataclass(frozen=True)
class Case(abc.ABC):
    """A model in both libraries, and the batch of a training step.

    Attributes:
      name: for people, and for the command line.
      config: settings of the model, its loss, the clips and the batch.
      micro_batches: measured micro-batch sizes in clips; divisors of the batch.
    """

    name: str
    config: Config
    micro_batches: tuple[int, ...]

    @property
    def video_shape(self) -> tuple[int, int, int, int, int]:
        """(B, T, H, W, C) of a batch."""
        return self.config.train.batch_size, *build.clip_format(self.config).clip_shape

    @property
    def num_frames(self) -> int:
        """Frames in a batch."""
        return math.prod(self.video_shape[:2])

    def make_model(self):
        """Returns vvae's model."""
        return build.build_model(self.config)

    @abc.abstractmethod
    def in_bfloat16(self) -> "Case":
        """Returns the case with activations in bfloat16."""

    @abc.abstractmethod
    def twin_makers(self) -> dict[str, Callable[[], Twin]]:
        """Returns a function that makes the twin, for each memory layout that may be the fastest.

        The names begin with PyTorch. The twin of the first one is also compiled.
        """

    @abc.abstractmethod
    def count_flops(self, variables) -> tuple[int, int]:
        """Counts the FLOPs of encoding and decoding a clip, from the shapes of vvae's arrays.

        Returns:
          (in kernels over several rows and columns, in total); a multiply-add counts as two.
        """


class SequentialCase(Case):
    """SequentialVAE with the prior "static", which has a twin."""

    def in_bfloat16(self) -> Case:
        """Returns the case with activations in bfloat16."""
        model = replace(self.config.model, dtype="bfloat16")
        return replace(self, config=replace(self.config, model=model))

    def twin_makers(self) -> dict[str, Callable[[], Twin]]:
        """Returns the twins; see `Case`."""

        def make() -> Twin:
            model, shape_HWC = self.config.model, self.video_shape[2:]
            return TorchSequentialVAE(
                shape_HWC, model.widths, model.hidden, model.latent_dim, model.clip_latent_dim
            )

        return {"PyTorch": make}

    def count_flops(self, variables) -> tuple[int, int]:
        """Counts the FLOPs; see `Case`.

        Every kernel is used once per frame, except that image convolutions are used once per
        position of their smaller grid, and the clip encoder's head and the prior once per clip.
        """
        length, *shape_HW = self.video_shape[1:4]
        spatial, dense = 0, 0
        for names, array in _find_kernels(variables["params"]):
            if array.ndim == 4:
                level = int(names[1].rpartition("_")[2])
                height, width = (size >> (level + 1) for size in shape_HW)
                spatial += 2 * array.size * height * width * length
            else:
                once = names[0] == "static_prior" or names[:2] == ["clip_encoder", "head"]
                dense += 2 * array.size * (1 if once else length)
        return spatial, spatial + dense


class CausalCase(Case):
    """CausalVideoVAE with the stem "pca" and without attention, which has a twin."""

    def in_bfloat16(self) -> Case:
        """Returns the case with activations in bfloat16."""
        causal = replace(self.config.causal, dtype="bfloat16")
        return replace(self, config=replace(self.config, causal=causal))

    def twin_makers(self) -> dict[str, Callable[[], Twin]]:
        """Returns the twins; see `Case`."""

        def make(layout: torch.memory_format) -> Twin:
            causal = self.config.causal
            return TorchCausalVideoVAE(
                block_shape=self.make_model().block_shape,
                video_channels=self.video_shape[-1],
                components=causal.components,
                width=causal.widths[0],
                blocks=causal.blocks,
                latent_channels=causal.channels,
                beta=self.config.objective.beta,
                layout=layout,
            )

        return {
            "PyTorch": lambda: make(torch.channels_last_3d),
            "PyTorch, contiguous": lambda: make(torch.contiguous_format),
        }

    def count_flops(self, variables) -> tuple[int, int]:
        """Counts the FLOPs; see `Case`.

        Every kernel is used once per latent, except that of the first latent frame, and the
        components of blocks, which are used twice: for encoding and for decoding.
        """
        t, h, w = self.make_model().grid_shape(self.video_shape[1:4])
        spatial, dense = 0, 2 * 2 * variables["stats"]["basis"]["components"].size * t * h * w
        for names, array in _find_kernels(variables["params"]):
            flops = 2 * array.size * h * w * (1 if names[-2] == "first" else t)
            if array.ndim > 2:  # blocks of the same shape are stacked along an extra axis
                spatial += flops
            else:
                dense += flops
        return spatial, spatial + dense


def _find_kernels(params) -> Iterator[tuple[list[str], jax.Array]]:
    """Yields (names of the modules and "kernel", array)."""
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] == "kernel":
            yield names, array


def make_sequential(
    view: str,
    side: int,
    widths: tuple[int, ...],
    num_clips: int,
    num_frames: int,
    micro_batches: tuple[int, ...],
) -> SequentialCase:
    """Returns a case of square frames; the other settings are the defaults."""
    config = Config(
        name="train_step",
        data=Data(view=view, height=side, width=side, num_frames=num_frames),
        model=Model(widths=widths, prior="static"),
        objective=Objective(kl_warmup=0.0),
        train=Train(batch_size=num_clips),
    )
    channels = build.clip_format(config).clip_shape[-1]
    return SequentialCase(f"sequential-{side}x{side}x{channels}", config, micro_batches)


CASES = (
    make_sequential("rgb", 64, (64, 64, 128), 16, 8, micro_batches=(1, 2, 4, 8, 16)),
    make_sequential("gray", 32, (32, 64, 128), 32, 8, micro_batches=(2, 4, 8, 16, 32)),
    CausalCase("causal-small", load_config_file("compression"), micro_batches=(1, 2, 4, 8)),
)
