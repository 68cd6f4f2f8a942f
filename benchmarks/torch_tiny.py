"""The tiny autoencoders that diffusers lacks, written in PyTorch from their description.

They have the names of the published tensors. Needs the extra `parity`.
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs, outputs, **settings):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def convs(inputs, width):
    return nn.Sequential(
        conv(inputs, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width)
    )


class Clamp(nn.Module):
    def forward(self, x):
        return 3 * torch.tanh(x / 3)


class Block(nn.Module):
    def __init__(self, width, pooled=False):
        super().__init__()
        self.conv = convs(width, width)
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x):
        x = x + self.pool(x) if hasattr(self, "pool") else x
        return F.relu(x + self.conv(x))


class MemoryBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = convs(2 * width, width)


class Frames(nn.Module):
    """Joins `stride` frames to one, or parts one frame."""

    def __init__(self, width, stride, joins):
        super().__init__()
        self.stride, self.joins = stride, joins
        widths = (width * stride, width) if joins else (width, width * stride)
        self.conv = nn.Conv2d(*widths, 1, bias=False)


class Saved(nn.Module):
    """A network with a configuration, saved as a folder."""

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        path = folder / "diffusion_pytorch_model.safetensors"
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
        record = {"_class_name": type(self).__name__, **self.config}
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class TAESD(Saved):
    """One block a resolution, and statistics of whole frames in the coarsest ones."""

    def __init__(self, width=64, latent_channels=4, depths=(1, 1)):
        super().__init__()
        self.config = {
            "encoder_block_out_channels": [width] * len(depths),
            "decoder_block_out_channels": [width] * len(depths),
            "num_encoder_blocks": list(depths),
            "num_decoder_blocks": list(reversed(depths)),
            "latent_channels": latent_channels,
        }
        layers = []
        for level, depth in enumerate(depths):
            is_last = level == len(depths) - 1
            layers.append(conv(width, width, stride=2, bias=False) if level else conv(3, width))
            layers += [Block(width, is_last) for _ in range(depth)]
        self.encoder = nn.ModuleDict(
            {"layers": nn.Sequential(*layers, conv(width, latent_channels))}
        )
        layers = [conv(latent_channels, width), nn.ReLU()]
        for level, depth in enumerate(reversed(depths)):
            layers += [Block(width, level == 0) for _ in range(depth)]
            if level < len(depths) - 1:
                layers += [nn.Upsample(scale_factor=2), conv(width, width, bias=False)]
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*layers, conv(width, 3))})

    @classmethod
    def from_config(cls, config):
        return cls(
            config["encoder_block_out_channels"][0],
            config["latent_channels"],
            config["num_encoder_blocks"],
        )

    def encode(self, x):
        return self.encoder["layers"]((x + 1) / 2)

    def decode(self, z):
        return 2 * self.decoder["layers"](Clamp()(z)) - 1


class TAEHV(Saved):
    """The whole network; it works on frames [N, T, C, H, W] one time step after another."""

    def __init__(
        self,
        latent_channels=16,
        patch_size=1,
        encoder_time_downscale=(True, True, False),
        decoder_time_upscale=(False, True, True),
        encoder_width=64,
        decoder_widths=(256, 128, 64, 64),
    ):
        super().__init__()
        self.config = {name: value for name, value in locals().items() if name[0] not in "_s"}
        width, widths, pixels = encoder_width, decoder_widths, 3 * patch_size**2
        layers = [conv(pixels, width), nn.ReLU()]
        for joins in encoder_time_downscale:
            layers += [Frames(width, 1 + joins, True), conv(width, width, stride=2, bias=False)]
            layers += [MemoryBlock(width) for _ in range(3)]
        self.encoder = nn.Sequential(*layers, conv(width, latent_channels))
        layers = [Clamp(), conv(latent_channels, widths[0]), nn.ReLU()]
        for level, parts in enumerate(decoder_time_upscale):
            layers += [MemoryBlock(widths[level]) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Frames(widths[level], 1 + parts, False)]
            layers.append(conv(widths[level], widths[level + 1], bias=False))
        self.decoder = nn.Sequential(*layers, nn.ReLU(), conv(widths[3], pixels))
        self.step = 2 ** sum(encoder_time_downscale)
        self.patch = patch_size

    def run(self, layers, x):
        for layer in layers:
            x = self.run_layer(layer, x)
        return x

    def run_layer(self, layer, x):
        batch, length = x.shape[:2]
        if isinstance(layer, MemoryBlock):
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
            pairs = torch.cat([x, before], 2).flatten(0, 1)
            return F.relu(x + layer.conv(pairs).unflatten(0, (batch, length)))
        if isinstance(layer, Frames) and layer.joins:
            x = x.unflatten(1, (-1, layer.stride)).flatten(2, 3)
            return layer.conv(x.flatten(0, 1)).unflatten(0, (batch, -1))
        if isinstance(layer, Frames):
            x = layer.conv(x.flatten(0, 1)).unflatten(1, (layer.stride, -1))
            return x.flatten(0, 1).unflatten(0, (batch, -1))
        return layer(x.flatten(0, 1)).unflatten(0, (batch, length))

    def encode(self, x_BCTHW):
        """Encodes 1 + n f_t frames, the last of which is repeated."""
        x = (x_BCTHW.transpose(1, 2) + 1) / 2
        x = torch.cat([x, *[x[:, -1:]] * (-x.shape[1] % self.step)], 1)
        x = F.pixel_unshuffle(x, self.patch)
        return self.run(self.encoder, x).transpose(1, 2)

    def decode(self, z_BCTHW):
        y = self.run(self.decoder, z_BCTHW.transpose(1, 2))[:, self.step - 1 :]
        y = F.pixel_shuffle(y, self.patch).clamp(0, 1)
        return 2 * y.transpose(1, 2) - 1
