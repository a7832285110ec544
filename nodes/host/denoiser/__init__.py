"""ComfyUI's MODEL as the engine's Denoiser."""
