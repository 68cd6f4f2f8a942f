"""A published encoder with a small decoder of our own, which learned from the published decoder.

The decoder is that of TAEHV, for any compression in powers of two: it takes a fraction of the time
and of the memory of the decoders of generators. The encoder and thus the latents are those of the
published network, to the last bit, so that models of the latents continue to work.

While it is trained, the published decoder lies in the collection `stats` under `teacher`. It is not
written: `save_pretrained` writes a folder of the class `DistilledVAE`, which only vvae reads.

References:
  Boer Bohan, TAEHV, 2024, https://github.com/madebyollin/taehv.
  Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vvae.models.bottleneck import ScaledLatents
from vvae.models.causal_blocks import Past
from vvae.models.grid import GridVideoVAE
from vvae.pretrained.family import Family
from vvae.pretrained.layers import LOG_SIGMA
from vvae.pretrained.taehv import Decoder, name_last_layer

DEFAULTS = {"DistilledVAE": {"network": "", "decoder_widths": (64, 48, 32, 16)}}
"""Class -> the settings that its config.json may have, with their default values."""


class DistilledVAE(GridVideoVAE):
    """The model.

    Attributes:
      shape_HWC: see `GridVideoVAE`.
      network: the published model, of which the encoder is used.
      widths: channels of the decoder at each resolution, the coarsest first. Each but the last is
        followed by a doubling of height and width; what is then missing to whole frames is moved
        out of the channels.
    """

    network: GridVideoVAE
    widths: tuple[int, ...]

    def setup(self):
        self.decoder = Decoder(
            widths=self.widths,
            in_time=_plan_time(self.network.temporal_compression, self.widths),
            patch=_find_patch(self.network.spatial_compression, self.widths),
            channels=self.shape_HWC[-1],
            dtype=self.network.dtype,
        )
        self.setup_likelihood(LOG_SIGMA)

    @property
    def bottleneck(self) -> Any:
        """That of the published model."""
        return self.network.bottleneck

    @property
    def temporal_compression(self) -> int:
        """f_t."""
        return self.network.temporal_compression

    @property
    def spatial_compression(self) -> int:
        """f_s."""
        return self.network.spatial_compression

    @property
    def encoder_lookahead(self) -> int | None:
        """See `GridVideoVAE`."""
        return self.network.encoder_lookahead

    @nn.nowrap
    def grid_shape(self, shape_THW: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns (t, h, w), the shape of the latents of a video of (T, H, W)."""
        return self.network.grid_shape(shape_THW)

    @nn.nowrap
    def encoder_modules(self) -> tuple[str, ...]:
        """See `GridVideoVAE`."""
        return ("network",)

    @nn.nowrap
    def last_kernel(self, params) -> jax.Array:
        """Returns the kernel of the decoder's last convolution."""
        return params["decoder"][name_last_layer(self.widths)]["kernel"]

    def run_encoder(self, x_BTHWC: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps frames to the outputs of the published encoder."""
        return self.network.run_encoder(x_BTHWC, past)

    def run_decoder(self, z_BthwZ: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        """Maps latents to frames, without those before the first; not clipped."""
        if isinstance(self.bottleneck, ScaledLatents):
            z_BthwZ = self.bottleneck.normalize(z_BthwZ)
        x, after = self.decoder(z_BthwZ, past)
        return (x[:, self.temporal_compression - 1 :] if past is None else x), after


def _plan_time(factor: int, widths: tuple[int, ...]) -> tuple[bool, ...]:
    """Returns at which doublings of height and width time is doubled too: at the last ones."""
    doublings = len(widths) - 1
    in_time = factor.bit_length() - 1
    if factor != 2**in_time or in_time > doublings:
        raise ValueError(
            f"decoder_widths={widths!r}: {doublings} doublings do not undo the {factor}x "
            "compression of time of the published network"
        )
    return tuple(i >= doublings - in_time for i in range(doublings))


def _find_patch(factor: int, widths: tuple[int, ...]) -> int:
    """Returns the side of the squares of pixels that the last layer makes of each position."""
    if not widths or factor % 2 ** (len(widths) - 1):
        raise ValueError(
            f"decoder_widths={widths!r}: must be one more than doublings, of which there are at "
            f"most {factor.bit_length() - 1} for a published network that compresses "
            f"{factor}x{factor}"
        )
    return factor // 2 ** (len(widths) - 1)


def distil(network: GridVideoVAE, widths: tuple[int, ...]) -> DistilledVAE:
    """Returns the model with a small decoder in place of a published one.

    Raises:
      ValueError: for widths that do not fit the compression, or that are not positive.
    """
    if min(widths, default=0) < 1:
        raise ValueError(f"decoder_widths={widths!r}: must be positive")
    _plan_time(network.temporal_compression, widths)
    _find_patch(network.spatial_compression, widths)
    return DistilledVAE(shape_HWC=network.shape_HWC, network=network, widths=widths)


def adopt(fresh: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """Returns fresh variables of a `DistilledVAE` with a published encoder and its teacher.

    Args:
      fresh: from `init_variables`.
      published: the variables of the published model.
    """
    learned, encoder = published["params"], fresh["params"]["network"]
    teacher = {name: tree for name, tree in learned.items() if name not in encoder}
    return {
        "params": fresh["params"] | {"network": {name: learned[name] for name in encoder}},
        "stats": fresh["stats"] | {"network": published["stats"], "teacher": teacher},
    }


def restore_teacher(variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of the published model: the inverse of `adopt`."""
    params, stats = variables["params"], variables["stats"]
    return {"params": params["network"] | stats["teacher"], "stats": stats["network"]}


def find_encoder(model: GridVideoVAE, variables: dict[str, Any]):
    """Returns the model whose encoder makes the latents, and the variables that it needs."""
    if not isinstance(model, DistilledVAE):
        return model, variables
    stats = variables["stats"]["network"]
    return model.network, {"params": variables["params"]["network"], "stats": stats}


def make_family(
    build_network: Callable[[str], GridVideoVAE], describe_network: Callable[[Any], str]
) -> Family:
    """Returns the family, given how a published network is described without its weights."""

    def build(values: dict[str, Any]) -> DistilledVAE:
        return distil(build_network(values["network"]), values["decoder_widths"])

    def describe(model: DistilledVAE) -> dict[str, Any]:
        return {
            "_class_name": "DistilledVAE",
            "network": describe_network(model.network),
            "decoder_widths": model.widths,
        }

    return Family(model=DistilledVAE, defaults=DEFAULTS, build=build, describe=describe)
