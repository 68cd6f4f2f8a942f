"""Settings of published networks that are not the defaults of their classes."""

STABLE_DIFFUSION = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
# Classes with an encoder and a decoder in 2-D name the blocks of both.
UP_BLOCKS = {"up_block_types": ("UpDecoderBlock2D",) * 4}
STABLE_DIFFUSION_3 = {
    **STABLE_DIFFUSION,
    **UP_BLOCKS,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
LTX_091 = {
    "decoder_block_out_channels": (256, 512, 1024),
    "decoder_layers_per_block": (5, 6, 7, 8),
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "timestep_conditioning": True,
}
DC_AE = {"encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3}
