"""Grids and scores with ComfyUI's sampler and vision models."""
