"""ComfyUI's editor in a real browser."""
