"""Bundles in ComfyUI: patches for a MODEL and CLIP, and their routes."""
