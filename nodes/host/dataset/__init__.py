"""Datasets in ComfyUI: the gallery, checks, lists and caption files."""
