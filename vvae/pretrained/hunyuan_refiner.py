"""The VAE of the refiner of HunyuanImage 2.1.

It is the network of HunyuanVideo 1.5 with every frame as its first one: steps that would join
frames repeat channels instead, so that it compresses 1x16x16 into 32 channels. Its convolutions see
earlier frames, and in the middle every position attends to all positions of all frames. The refiner
gives it images, videos of one frame.

References:
  Tencent Hunyuan, HunyuanImage 2.1, 2025, https://github.com/Tencent-Hunyuan/HunyuanImage-2.1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from vvae.pretrained import hunyuan15
from vvae.pretrained.causal_attention import attend_to_all_frames
from vvae.pretrained.family import Family
from vvae.pretrained.fold_blocks import FoldDown, UnfoldUp
from vvae.pretrained.hunyuan15 import Hunyuan15VAE, Spec15, describe_network, read_network
from vvae.pretrained.layers import Layer

_CLASS = "AutoencoderKLHunyuanImageRefiner"
DEFAULTS = {_CLASS: hunyuan15.DEFAULTS["AutoencoderKLHunyuanVideo15"]}
"""Class -> the settings that its config.json may have, with their default values."""


@dataclass(frozen=True)
class RefinerSpec(Spec15):
    """Makes the layers; see `Spec15`."""

    def make_attention(self, name: str) -> Layer:
        """Makes the attention in the middle."""
        return super().make_attention(name, attend=attend_to_all_frames)

    def make_down(self, step: tuple[int, bool], name: str) -> Layer:
        """Makes the step to the next coarser resolution."""
        return FoldDown(features=step[0], in_time=step[1], alone=True, dtype=self.dtype, name=name)

    def make_up(self, step: tuple[int, bool], name: str) -> Layer:
        """Makes the step to the next finer resolution."""
        return UnfoldUp(features=step[0], in_time=step[1], alone=True, dtype=self.dtype, name=name)


class HunyuanRefinerVAE(Hunyuan15VAE):
    """The model; see `Hunyuan15VAE`, whose steps in time repeat channels here."""

    temporal_compression: ClassVar[int] = 1
    spec_class: ClassVar[type[Spec15]] = RefinerSpec

    @property
    def encoder_lookahead(self) -> None:
        """None: the attention sees all frames."""
        return None

    @property
    def decodes_causally(self) -> bool:
        """False: the attention sees all frames."""
        return False


def build(values: dict[str, Any]) -> HunyuanRefinerVAE:
    """Returns the model for the settings of a config.json, completed from DEFAULTS.

    Raises:
      ValueError: for settings that fit no network.
    """
    return HunyuanRefinerVAE(**read_network(values))


def describe(model: HunyuanRefinerVAE) -> dict[str, Any]:
    """Returns the config.json of a model: the inverse of `build`."""
    return {"_class_name": _CLASS} | describe_network(model)


FAMILY = Family(model=HunyuanRefinerVAE, defaults=DEFAULTS, build=build, describe=describe)
