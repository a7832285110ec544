"""ComfyUI's CLIP as the engine's TextEncoder, and the names it resolves."""
