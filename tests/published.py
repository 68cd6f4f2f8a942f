"""Tiny models of every published family with random weights, as diffusers builds them.

`GOLDEN` names those whose folders, with inputs and outputs, are in tests/golden; `python
tests/write_golden.py` writes them. Needs the extra `parity`, which is imported only where it is
used.
"""

from pathlib import Path

import numpy as np

from benchmarks import releases

GOLDEN_FOLDER = Path(__file__).resolve().parent / "golden"
GOLDEN = ("wan21", "wan22", "ltx", "ltx_noisy", "vidtok", "vidtok_fsq", "kl", "flux2")
GOLDEN += ("tiny", "taef2", "taehv", "ltx2", "hunyuan", "hunyuan15", "cogvideox", "qwen21")
GOLDEN += ("magvit", "dc", "mochi", "cosmos", "vidtok_centred", "hunyuan_refiner")
GOLDEN += ("svd_flat",)
FULL = ("wan21", "tiny", "taef2", "taehv")
"""Golden weights in 32 bits; those of others are in 16, with which all values were computed."""
VIDEOS = {"vidtok_centred": (16, (8, 8)), "hunyuan_refiner": (3, (8, 8))}
VIDEOS |= {"mochi": (9, (8, 8)), "cosmos": (9, (8, 8)), "svd_flat": (3, (8, 8))}
"""Frames and size of golden videos that are not of 9 frames of 16x16."""

_WAN = {"base_dim": 4, "z_dim": 3, "num_res_blocks": 1}
_WAN |= {"latents_mean": [0.1, -0.2, 0.3], "latents_std": [1.0, 2.0, 0.5]}
_WAN22 = _WAN | {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
_LTX = {
    "latent_channels": 5,
    "patch_size": 2,
    "block_out_channels": (4, 6, 6),
    "down_block_types": ("LTXVideoDownBlock3D",) * 3,
    "layers_per_block": (1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, False),
    "downsample_type": ("conv",) * 3,
    "decoder_block_out_channels": (4, 6),
    "decoder_layers_per_block": (1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False,) * 3,
    "upsample_residual": (False, False),
    "upsample_factor": (1, 1),
}
_LTX_UP = {
    "decoder_block_out_channels": (8, 16),
    "upsample_residual": (True, True),
    "upsample_factor": (2, 2),
}
_LTX_MERGED = _LTX | {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 3,
    "spatio_temporal_scaling": (True,) * 3,
    "downsample_type": ("spatial", "temporal", "spatiotemporal"),
}
_VIDTOK = {"ch": 4, "ch_mult": [1, 2, 2], "z_channels": 3, "num_res_blocks": 1}
_SHORT = {"dim_mult": [1, 2, 2], "temperal_downsample": [True, True]}
_KL = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
    "latent_channels": 3,
}

_TINY = {
    "encoder_block_out_channels": (6, 6),
    "decoder_block_out_channels": (6, 6),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "latent_channels": 3,
}

_LTX2 = {
    "latent_channels": 8,
    "patch_size": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 2,
    "decoder_block_out_channels": (8, 16),
    "layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "spatio_temporal_scaling": (True, True),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False,) * 3,
    "downsample_type": ("spatial", "spatiotemporal"),
    "upsample_type": ("spatiotemporal", "spatial"),
    "upsample_residual": (True, True),
    "upsample_factor": (2, 2),
}

_HUNYUAN = {
    "latent_channels": 2,
    "block_out_channels": (2, 4, 4),
    "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
    "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "spatial_compression_ratio": 4,
}

_HUNYUAN15 = {
    "latent_channels": 2,
    "block_out_channels": (8, 8, 8),
    "layers_per_block": 1,
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 2,
}

_MOCHI = {
    "encoder_block_out_channels": (32, 32),
    "decoder_block_out_channels": (32, 32),
    "latent_channels": 3,
    "layers_per_block": (1, 0, 0),
    "temporal_expansions": (2,),
    "spatial_expansions": (2,),
    "add_attention_block": (True, False, False),
    "latents_mean": (0.1, -0.2, 0.3),
    "latents_std": (1.0, 2.0, 0.5),
}

_COSMOS = {
    "latent_channels": 3,
    "encoder_block_out_channels": (4, 4, 6, 4),
    "decode_block_out_channels": (6, 4, 6, 4),
    "num_layers": 1,
    "patch_size": 2,
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 4,
    "latents_mean": tuple(0.1 * i for i in range(9)),
    "latents_std": tuple(0.5 + 0.1 * i for i in range(9)),
}

_TAEHV = {"latent_channels": 3, "encoder_width": 3, "decoder_widths": (6, 4, 3, 3)}

SETTINGS = {
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {
            "block_out_channels": (2, 2, 4),
            "down_block_types": ("CogVideoXDownBlock3D",) * 3,
            "up_block_types": ("CogVideoXUpBlock3D",) * 3,
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "latent_channels": 3,
        },
    ),
    "magvit": (
        "AutoencoderKLMagvit",
        {
            "block_out_channels": (2, 4, 4),
            "down_block_types": ("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 2),
            "up_block_types": ("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 2),
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "latent_channels": 2,
        },
    ),
    "mochi": ("AutoencoderKLMochi", _MOCHI),
    "mochi_deep": (
        "AutoencoderKLMochi",
        _MOCHI
        | {
            "encoder_block_out_channels": (32, 32, 64, 64),
            "decoder_block_out_channels": (32, 64, 32, 64),
            "layers_per_block": (1, 0, 1, 2, 1),
            "temporal_expansions": (1, 2, 3),
            "spatial_expansions": (2, 2, 2),
            "add_attention_block": (False, True, False, True, False),
        },
    ),
    "cosmos": ("AutoencoderKLCosmos", _COSMOS),
    "cosmos_blocks": (
        "AutoencoderKLCosmos",
        _COSMOS
        | {
            "patch_size": 4,
            "spatial_compression_ratio": 8,
            "temporal_compression_ratio": 4,
            "latents_mean": None,
            "latents_std": None,
        },
    ),
    "cosmos_pixels": (
        "AutoencoderKLCosmos",
        _COSMOS | {"patch_type": "rearrange", "spatial_compression_ratio": 8},
    ),
    "dc": (
        "AutoencoderDC",
        {
            "latent_channels": 4,
            "attention_head_dim": 8,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (8, 16),
            "decoder_block_out_channels": (8, 16),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "scaling_factor": 0.41407,
        },
    ),
    "dc_deep": (
        "AutoencoderDC",
        {
            "latent_channels": 2,
            "encoder_block_out_channels": (4, 8, 8),
            "decoder_block_out_channels": (4, 8, 8),
            "encoder_layers_per_block": (0, 1, 1),
            "decoder_layers_per_block": (0, 1, 1),
            "encoder_qkv_multiscales": ((),) * 3,
            "decoder_qkv_multiscales": ((),) * 3,
            "decoder_act_fns": ("relu", "silu", "relu"),
            "encoder_out_shortcut": False,
            "decoder_in_shortcut": False,
        },
    ),
    "svd": (
        "AutoencoderKLTemporalDecoder",
        {
            "block_out_channels": (32, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "layers_per_block": 2,
            "latent_channels": 3,
        },
    ),
    # Its norms have 32 groups, so a network of two resolutions is too large for a golden file.
    "svd_flat": (
        "AutoencoderKLTemporalDecoder",
        {
            "block_out_channels": (32,),
            "down_block_types": ("DownEncoderBlock2D",),
            "layers_per_block": 2,
            "latent_channels": 3,
        },
    ),
    "ltx2": ("AutoencoderKLLTX2Video", _LTX2),
    "ltx2_ahead": (
        "AutoencoderKLLTX2Video",
        _LTX2
        | {
            "decoder_causal": False,
            "upsample_residual": (False, True),
            "timestep_conditioning": True,
            "decoder_spatial_padding_mode": "replicate",
        },
    ),
    "hunyuan": ("AutoencoderKLHunyuanVideo", _HUNYUAN),
    "hunyuan_deep": (
        "AutoencoderKLHunyuanVideo",
        _HUNYUAN
        | {
            "block_out_channels": (2, 2, 4, 4),
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
            "spatial_compression_ratio": 8,
            "mid_block_add_attention": False,
        },
    ),
    "hunyuan15": ("AutoencoderKLHunyuanVideo15", _HUNYUAN15),
    "hunyuan15_plain": (
        "AutoencoderKLHunyuanVideo15",
        _HUNYUAN15
        | {
            "block_out_channels": (8, 8, 16),
            "temporal_compression_ratio": 4,
            "downsample_match_channel": False,
            "upsample_match_channel": False,
        },
    ),
    "hunyuan_refiner": (
        "AutoencoderKLHunyuanImageRefiner",
        _HUNYUAN15
        | {"block_out_channels": (8, 8), "spatial_compression_ratio": 2}
        | {"temporal_compression_ratio": 2},
    ),
    "hunyuan_refiner_plain": (
        "AutoencoderKLHunyuanImageRefiner",
        _HUNYUAN15
        | {
            "block_out_channels": (8, 8, 16),
            "downsample_match_channel": False,
            "upsample_match_channel": False,
        },
    ),
    "tiny": ("AutoencoderTiny", _TINY),
    "taef2": ("TAESD", {"width": 6, "latent_channels": 3}),
    "taehv": ("TAEHV", _TAEHV),
    "taehv_patch": (
        "TAEHV",
        _TAEHV
        | {
            "patch_size": 2,
            "encoder_time_downscale": (True, True, True),
            "decoder_time_upscale": (True, True, True),
        },
    ),
    "kl": ("AutoencoderKL", _KL | {"scaling_factor": 0.18215}),
    "kl_plain": (
        "AutoencoderKL",
        _KL
        | {
            "layers_per_block": 2,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
        },
    ),
    "kl_scaled": (
        "AutoencoderKL",
        _KL
        | {
            "block_out_channels": (4, 6, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "scaling_factor": 0.5,
            "latents_mean": (0.1, -0.2, 0.3),
            "latents_std": (1.0, 2.0, 4.0),
        },
    ),
    "flux2": (
        "AutoencoderKLFlux2",
        _KL | {"layers_per_block": 1, "decoder_block_out_channels": (4, 6)},
    ),
    "wan21": ("AutoencoderKLWan", _WAN | _SHORT),
    "wan21_full": ("AutoencoderKLWan", _WAN | {"num_res_blocks": 2}),
    "wan21_odd": (
        "AutoencoderKLWan",
        _WAN | _SHORT | {"base_dim": 6, "dim_mult": [1, 3, 5], "num_res_blocks": 2},
    ),
    "wan21_time2": ("AutoencoderKLWan", _WAN | _SHORT | {"temperal_downsample": [False, True]}),
    "wan22": ("AutoencoderKLWan", _WAN22 | _SHORT),
    "wan22_full": (
        "AutoencoderKLWan",
        _WAN22 | {"decoder_base_dim": 8, "num_res_blocks": 2, "scale_factor_spatial": 16},
    ),
    "qwen": ("AutoencoderKLQwenImage", _WAN | _SHORT),
    "qwen21": (
        "AutoencoderKLQwenImage21",
        _WAN
        | {"dim_mult": [1, 2, 2], "temperal_downsample": [False, True], "decoder_base_dim": 6}
        | {"in_channels": 3, "out_channels": 3},
    ),
    "vidtok": ("AutoencoderVidTok", _VIDTOK),
    "vidtok_fsq": (
        "AutoencoderVidTok",
        _VIDTOK | {"double_z": False, "regularizer": "fsq", "codebook_size": 8**3},
    ),
    "vidtok_centred": ("AutoencoderVidTok", _VIDTOK | {"is_causal": False}),
    "vidtok_centred_fsq": (
        "AutoencoderVidTok",
        _VIDTOK
        | {"is_causal": False, "double_z": False, "regularizer": "fsq", "codebook_size": 8**3}
        | {"ch": 6, "ch_mult": [1, 2], "tempo_ds": [0], "tempo_us": [1]},
    ),
    "vidtok_time2": (
        "AutoencoderVidTok",
        _VIDTOK | {"ch": 6, "ch_mult": [1, 2], "tempo_ds": [0], "tempo_us": [1]},
    ),
    "ltx": ("AutoencoderKLLTXVideo", _LTX),
    "ltx_causal": (
        "AutoencoderKLLTXVideo",
        _LTX | {"decoder_causal": True, "decoder_layers_per_block": (1, 2, 1)},
    ),
    "ltx_merged": ("AutoencoderKLLTXVideo", _LTX_MERGED | _LTX_UP),
    # With timestep conditioning as in 0.9.5, and also adding noise as in 0.9.1.
    "ltx_timestep": ("AutoencoderKLLTXVideo", _LTX | _LTX_UP | {"timestep_conditioning": True}),
    "ltx_noisy": (
        "AutoencoderKLLTXVideo",
        _LTX_MERGED
        | _LTX_UP
        | {"timestep_conditioning": True, "decoder_inject_noise": (False, True, True)},
    ),
}
"""Name -> (class of diffusers, settings)."""

RELEASES = {
    "SD 1 and SDXL": ("AutoencoderKL", releases.STABLE_DIFFUSION | releases.UP_BLOCKS),
    "SD 3 and FLUX.1": (
        "AutoencoderKL",
        releases.STABLE_DIFFUSION_3,
    ),
    "FLUX.2": ("AutoencoderKLFlux2", {}),
    "Wan 2.1": ("AutoencoderKLWan", {}),
    "SVD": (
        "AutoencoderKLTemporalDecoder",
        releases.STABLE_DIFFUSION,
    ),
    "CogVideoX": ("AutoencoderKLCogVideoX", {}),
    "EasyAnimate": ("AutoencoderKLMagvit", {}),
    "Mochi 1": ("AutoencoderKLMochi", {}),
    "Cosmos 1": ("AutoencoderKLCosmos", {}),
    "Cosmos 1 of 8x16x16": ("AutoencoderKLCosmos", {"spatial_compression_ratio": 16}),
    "DC-AE": (
        "AutoencoderDC",
        releases.DC_AE,
    ),
    "TAESD": ("AutoencoderTiny", {}),
    "TAEF2": ("TAESD", {"latent_channels": 32, "depths": (1, 3, 3, 3)}),
    "TAEHV": ("TAEHV", {}),
    "LTX-2": ("AutoencoderKLLTX2Video", {}),
    "HunyuanVideo": ("AutoencoderKLHunyuanVideo", {}),
    "HunyuanVideo 1.5": ("AutoencoderKLHunyuanVideo15", {}),
    "HunyuanImage 2.1, refiner": ("AutoencoderKLHunyuanImageRefiner", {}),
    "Qwen-Image": ("AutoencoderKLQwenImage", {}),
    "Qwen-Image 2.1": ("AutoencoderKLQwenImage21", {}),
    "VidTok": ("AutoencoderVidTok", {}),
    "VidTok that is not causal": ("AutoencoderVidTok", {"is_causal": False}),
    "LTX 0.9.0": ("AutoencoderKLLTXVideo", {}),
    "LTX 0.9.1": ("AutoencoderKLLTXVideo", releases.LTX_091),
    "LTX 0.9.5": (
        "AutoencoderKLLTXVideo",
        releases.LTX_091
        | {
            "block_out_channels": (128, 256, 512, 1024, 2048),
            "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
            "layers_per_block": (4, 6, 6, 2, 2),
            "decoder_layers_per_block": (5, 5, 5, 5),
            "spatio_temporal_scaling": (True,) * 4,
            "decoder_inject_noise": (False,) * 4,
            "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        },
    ),
}
"""Networks as they were published: the defaults of diffusers, and what its
scripts/convert_ltx_to_diffusers.py sets for LTX-Video."""

KEPT = ("per_channel_scale1", "per_channel_scale2", "timestep_scale_multiplier")
TIMESTEP = 0.05
FRAMES_ALONE = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderTiny", "TAESD")
FRAMES_ALONE += ("AutoencoderKLTemporalDecoder", "AutoencoderKLQwenImage21", "AutoencoderDC")
"""Classes whose methods take the frames of all videos as images."""
OWN = ("TAESD", "TAEHV")
"""Classes in benchmarks/torch_tiny.py."""


def find_class(kind: str):
    """Returns a class of diffusers, or of the networks that it lacks."""
    import diffusers

    from benchmarks import torch_tiny

    return getattr(torch_tiny if kind in OWN else diffusers, kind)


def make_model(name: str, seed: int = 0):
    """Returns a model of diffusers of one of SETTINGS, with random parameters.

    Only the parameters in KEPT keep their initial values: the scales of the noise that a decoder
    adds, which are zero, and the scale of the timestep.

    Biases are as large as the values they are added to. Otherwise, with so few channels, some
    position is almost zero before a norm, and the float32 gradients of diffusers itself are off by
    1e-3.
    """
    import torch

    kind, settings = SETTINGS[name]
    model = find_class(kind)(**settings).eval().requires_grad_(False)
    rng = np.random.default_rng(seed)
    for label, parameter in model.named_parameters():
        values = rng.normal(size=parameter.shape)
        if label.rpartition(".")[-1] in KEPT:
            continue
        if parameter.ndim > 1 and parameter[0].numel() > 1:
            values /= np.sqrt(parameter[0].numel())
        elif float(parameter.mean()) == 1.0:  # scales
            values = 1.0 + 0.2 * values
        parameter.copy_(torch.from_numpy(values))
    for name, buffer in model.named_buffers():
        if name in ("latents_mean", "latents_std", "bn.running_mean", "bn.running_var"):
            buffer.copy_(torch.from_numpy(rng.uniform(0.5, 2.0, buffer.shape)))
    return model


def make_video(length: int, size=(16, 16), channels: int = 3, seed: int = 0) -> np.ndarray:
    """Returns float32 noise in [-1, 1], [1, T, H, W, C]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (1, length, *size, channels)).astype(np.float32)


def weigh(shape: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of the sum whose gradient is compared, float32."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def run_reference(model, x_BTHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Runs diffusers and returns its results, channels last, in the precision of x.

    Returns:
      `mean` and `logvar` of the posterior, `y`, the decoded mean, and `slope`, the gradient with
      respect to x of the weighted sum of mean and y. Pixels of y that are (almost) clipped have no
      weight.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x_BTHWC, -1, 1))).requires_grad_()
    outputs = _encode(model, x)
    y = _decode(model, outputs["mean"], x)

    def move(a):
        return np.ascontiguousarray(np.moveaxis(a.detach().numpy(), 1, -1))

    found = {name: move(output) for name, output in outputs.items()} | {"y": move(y)}
    weights = [np.moveaxis(w, -1, 1) for w in weights_of(found["mean"], found["y"])]
    latents, pixels = (torch.from_numpy(np.ascontiguousarray(w)) for w in weights)
    ((latents * outputs["mean"]).sum() + (pixels * y).sum()).backward()
    return found | {"slope": move(x.grad)}


def _decode(model, z_BCthw, x_BCTHW):
    """Returns the decoded video [B, C, T, H, W]."""
    kind = type(model).__name__
    if kind == "AutoencoderKLMochi":
        return _decode_as_its_authors(model, z_BCthw)
    if kind not in FRAMES_ALONE:
        decoded = model.decode(z_BCthw, *_list_timesteps(model, x_BCTHW))
        return getattr(decoded, "sample", decoded)
    z = _join_frames(z_BCthw)
    if kind == "AutoencoderKLQwenImage21":
        # Videos of one frame.
        return _part_frames(model.decode(z[:, :, None]).sample[:, :, 0], x_BCTHW)
    if kind == "AutoencoderKLFlux2":
        z = _pixel_shuffle(z)
    if kind == "AutoencoderKLTemporalDecoder":
        return _part_frames(model.decode(z, x_BCTHW.shape[2]).sample, x_BCTHW)
    decoded = model.decode(z)
    return _part_frames(getattr(decoded, "sample", decoded), x_BCTHW)


def _decode_as_its_authors(model, z_BCthw):
    """Drops surplus frames of a Mochi after every step, and not only at the end as diffusers does.

    See DepthToSpaceTime in the authors' src/genmo/mochi_preview/vae/models.py.
    """

    def drop(block, _, outputs):
        return outputs[0][:, :, block.temporal_expansion - 1 :], outputs[1]

    hooks = [block.register_forward_hook(drop) for block in model.decoder.up_blocks]
    try:
        return model.decoder(z_BCthw)[0]
    finally:
        for hook in hooks:
            hook.remove()


def _pixel_shuffle(z_NCHW):
    """Parts latents of 2x2 positions, as the pipelines of FLUX.2 do."""
    from torch.nn.functional import pixel_shuffle

    return pixel_shuffle(z_NCHW, 2)


def _join_frames(x_BCTHW):
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def _part_frames(x_NCHW, like_BCTHW):
    """Returns images as videos with the batch of others."""
    return x_NCHW.unflatten(0, (like_BCTHW.shape[0], -1)).transpose(1, 2)


def _encode_frames(model, x_BCTHW) -> dict:
    """Returns what an image model makes of each frame."""
    from torch.nn.functional import pixel_unshuffle

    if type(model).__name__ == "AutoencoderKLQwenImage21":
        posterior = model.encode(_join_frames(x_BCTHW)[:, :, None]).latent_dist
        found = {"mean": posterior.mean[:, :, 0], "logvar": posterior.logvar[:, :, 0]}
        return {name: _part_frames(values, x_BCTHW) for name, values in found.items()}
    encoded = model.encode(_join_frames(x_BCTHW))
    if hasattr(encoded, "latent_dist"):
        posterior = encoded.latent_dist
        found = {"mean": posterior.mean, "logvar": posterior.logvar}
    else:
        found = {"mean": getattr(encoded, "latents", getattr(encoded, "latent", encoded))}
    if type(model).__name__ == "AutoencoderKLFlux2":
        found = {name: pixel_unshuffle(values, 2) for name, values in found.items()}
    return {name: _part_frames(values, x_BCTHW) for name, values in found.items()}


def _list_timesteps(model, x_BCTHW) -> list:
    """Returns what `decode` needs beside latents: a timestep per video, if it is conditioned."""
    import torch

    if not dict(model.config).get("timestep_conditioning", False):
        return []
    return [torch.full(x_BCTHW.shape[:1], TIMESTEP, dtype=x_BCTHW.dtype)]


def _encode(model, x_BCTHW) -> dict:
    """Returns `mean` and `logvar`, or the values of finite scalars as `mean`."""
    import torch

    if type(model).__name__ in FRAMES_ALONE:
        return _encode_frames(model, x_BCTHW)
    if type(model).__name__ == "AutoencoderVidTok" and model.is_causal:
        # The model's own forward does this before it calls encode.
        first = x_BCTHW[:, :, :1].repeat((1, 1, model.temporal_compression_ratio - 1, 1, 1))
        x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
    encoded = model.encode(x_BCTHW)
    if type(model).__name__ == "AutoencoderKLCosmos":
        return {"mean": encoded.latent_dist.mode()}
    if isinstance(encoded, tuple) or type(model).__name__ in OWN:
        return {"mean": encoded[0] if isinstance(encoded, tuple) else encoded}
    return {"mean": encoded.latent_dist.mean, "logvar": encoded.latent_dist.logvar}


def weights_of(mean: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of latents and pixels; see `run_reference`."""
    return weigh(mean.shape).astype(mean.dtype), weigh(y.shape) * (np.abs(y) < 0.999).astype(
        y.dtype
    )


def run_ours(model, params, x_BTHWC: np.ndarray, expected: dict) -> dict[str, np.ndarray]:
    """Returns what `run_reference` returns, computed by vvae."""
    import jax
    import jax.numpy as jnp

    from vvae.models import contract

    weights = weights_of(expected["mean"], expected["y"])

    @jax.jit
    def run(params, x):
        def read(x):
            posterior = contract.encode(model, params, x)
            mean = model.posterior_mean(posterior)
            y = contract.decode(model, params, mean, x.shape[1:4])
            total = jnp.sum(weights[0] * mean) + jnp.sum(weights[1] * y)
            found = {"mean": mean, "y": y}
            if "logvar" in expected:
                found["logvar"] = posterior.logvar
            return total, found

        (_, found), gradient = jax.value_and_grad(read, has_aux=True)(x)
        return found | {"slope": gradient}

    return jax.tree.map(np.asarray, run(params, x_BTHWC))


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    """Asserts that all elements agree to the tolerance, in standard deviations of the expected."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and value.std() > 0, name
        error = np.abs(found[name] - value).max() / value.std()
        assert error <= tolerance, f"{name}: {error:.1e} standard deviations"
