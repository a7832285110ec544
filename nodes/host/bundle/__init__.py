"""Bundles in ComfyUI: patches for a MODEL and a CLIP, and a route for the editor."""
