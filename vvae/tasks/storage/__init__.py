"""Videos as files of latents."""
