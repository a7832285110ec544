"""Datasets in ComfyUI: the gallery, checks and lists."""
