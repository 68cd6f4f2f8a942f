"""Speed, memory and agreement on one accelerator, beside PyTorch and diffusers."""
