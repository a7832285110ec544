"""The training engine: everything a run needs that does not depend on ComfyUI."""
